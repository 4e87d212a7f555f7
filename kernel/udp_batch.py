"""Many small UDP packets in few system calls: sending with ready-made headers, receiving in batches.

Sending goes over one raw socket a family (IPPROTO_RAW: the sender brings IP and UDP header), so that each of
thousands of sessions has a source port of its own (RFC 5881 section 4) without a socket of its own, and one
`sendmmsg` serves them all. Receiving is one ordinary UDP socket a port and family with `recvmmsg`.

A packet to be sent lives in a `Row`: its bytes, its destination and the `mmsghdr` that points at both, at an address
that never changes. A `SendGroup` is an array of such headers: what falls due together leaves with one call.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from collections.abc import Iterator
from typing import Final

from holdfast.kernel.base import KernelError

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_sendmmsg = _LIBC.sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_sendmmsg.restype = ctypes.c_int
_recvmmsg = _LIBC.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_recvmmsg.restype = ctypes.c_int

_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_SO_TIMESTAMPNS: Final = 35
_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_IP_PKTINFO: Final = 8
_IP_RECVTTL: Final = 12
_IPV6_RECVPKTINFO: Final = 49
_IPV6_PKTINFO: Final = 50
_IPV6_RECVHOPLIMIT: Final = 51
_IPV6_HOPLIMIT: Final = 52
_IPPROTO_UDP: Final = 17
_INTERNETWORK_CONTROL: Final = 0xC0

# struct mmsghdr (x86-64 and arm64 alike): name, namelen, iov, iovlen, control, controllen, flags; len.
_HEADER: Final = struct.Struct("@PI4xPLPLi4xI4x")
_HEADER_BYTES: Final = 64
assert _HEADER.size == _HEADER_BYTES
_IOVEC: Final = struct.Struct("@PL")
_CONTROL_HEADER: Final = struct.Struct("@Lii")

# The layout of a row: iovec, socket address, control message, packet.
_ROW_BYTES: Final = 256
_NAME_AT, _CONTROL_AT, _PACKET_AT = 16, 48, 96
PACKET_BYTES_MAX: Final = _ROW_BYTES - _PACKET_AT
_ROWS_A_SLAB: Final = 64


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def attach_filter(sock: socket.socket, program: bytes | None) -> None:
    """Puts a classic BPF program on a socket, None: takes it off."""
    if program is None:
        with contextlib.suppress(OSError):
            # ENOENT: there was none.
            sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        return
    memory = ctypes.create_string_buffer(program, len(program))
    argument = struct.pack("@HP", len(program) // 8, ctypes.addressof(memory))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, argument)


def attach_choice(sock: socket.socket, program: bytes) -> None:
    """Puts a classic BPF program on a group of sockets that share a port: it sees the payload and returns the number of
    the socket, in the order in which they were bound, that the packet goes to (SO_ATTACH_REUSEPORT_CBPF, socket(7))."""
    memory = ctypes.create_string_buffer(program, len(program))
    argument = struct.pack("@HP", len(program) // 8, ctypes.addressof(memory))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, argument)


class Path:
    """Source, destination and ports of one session's packets; puts the headers before a payload.

    Addresses are the packed 4 or 16 bytes. interface: ifindex to send by, 0: as the routes say.
    """

    __slots__ = ("_head", "_pseudo", "destination", "destination_port", "family", "hop_limit", "interface", "source")

    def __init__(
        self,
        source: bytes,
        destination: bytes,
        source_port: int,
        destination_port: int,
        *,
        hop_limit: int = 255,
        interface: int = 0,
    ) -> None:
        self.family = socket.AF_INET if len(destination) == 4 else socket.AF_INET6
        self.source = source
        self.destination = destination
        self.destination_port = destination_port
        self.hop_limit = hop_limit
        self.interface = interface
        self._head = struct.pack("!HH", source_port, destination_port)
        self._pseudo = source + destination

    def same_as(self, other: Path) -> bool:
        """True if packets of both would be the same."""
        return (self._pseudo, self._head, self.hop_limit, self.interface) == (
            other._pseudo,
            other._head,
            other.hop_limit,
            other.interface,
        )

    def packet(self, payload: bytes) -> bytes:
        """The IP packet, UDP checksum and all (the kernel fills in the IPv4 checksum, length and identification)."""
        size = 8 + len(payload)
        length = struct.pack("!H", size)
        odd = b"\0" if len(payload) & 1 else b""
        total = self._pseudo + struct.pack("!HH", _IPPROTO_UDP, size) + self._head + length + payload + odd
        udp = self._head + length + struct.pack("!H", checksum(total) or 0xFFFF) + payload
        if self.family == socket.AF_INET:
            # Do not fragment: nothing this small ever has to be.
            head = struct.pack("!BBHHHBBH", 0x45, _INTERNETWORK_CONTROL, 20 + size, 0, 0x4000, self.hop_limit, 17, 0)
        else:
            head = struct.pack("!IHBB", 6 << 28 | _INTERNETWORK_CONTROL << 20, size, _IPPROTO_UDP, self.hop_limit)
        return head + self._pseudo + udp

    @property
    def name(self) -> bytes:
        """The socket address to hand to the kernel."""
        if self.family == socket.AF_INET:
            return struct.pack("@H2x4s8x", socket.AF_INET, self.destination)
        link_local = self.destination[0] == 0xFE and self.destination[1] & 0xC0 == 0x80
        scope = self.interface if link_local else 0
        return struct.pack("@H2xI16sI", socket.AF_INET6, 0, self.destination, scope)

    @property
    def control(self) -> bytes:
        """The control message that pins the interface; empty without one."""
        if not self.interface:
            return b""
        if self.family == socket.AF_INET:
            body = struct.pack("@i8x", self.interface)
            return _CONTROL_HEADER.pack(28, socket.IPPROTO_IP, _IP_PKTINFO) + body + bytes(4)
        body = struct.pack("@16xi", self.interface)
        return _CONTROL_HEADER.pack(36, socket.IPPROTO_IPV6, _IPV6_PKTINFO) + body + bytes(4)


class _Slab:
    """Memory for `_ROWS_A_SLAB` rows; never moves, so the kernel may be given addresses in it."""

    __slots__ = ("_keep", "address", "free", "view")

    def __init__(self) -> None:
        memory = bytearray(_ROW_BYTES * _ROWS_A_SLAB)
        self._keep = (ctypes.c_char * len(memory)).from_buffer(memory)
        self.address = ctypes.addressof(self._keep)
        self.view = memoryview(memory)
        self.free = list(range(_ROWS_A_SLAB - 1, -1, -1))


class Row:
    """One packet ready to go. header: its `mmsghdr`, to be put into a group."""

    __slots__ = ("_at", "_length", "_slab", "header")

    def __init__(self, slab: _Slab, index: int, path: Path) -> None:
        self._slab = slab
        self._at = index * _ROW_BYTES
        self._length = 0
        view, at = slab.view, self._at
        name, control = path.name, path.control
        view[at + _NAME_AT : at + _NAME_AT + len(name)] = name
        view[at + _CONTROL_AT : at + _CONTROL_AT + len(control)] = control
        address = slab.address + at
        pointer = address + _CONTROL_AT if control else 0
        self.header = _HEADER.pack(address + _NAME_AT, len(name), address, 1, pointer, len(control), 0, 0)

    def write(self, packet: bytes) -> None:
        """Replaces the packet, at most PACKET_BYTES_MAX bytes with its headers."""
        at, size = self._at + _PACKET_AT, len(packet)
        self._slab.view[at : at + size] = packet
        if size != self._length:
            self._length = size
            _IOVEC.pack_into(self._slab.view, self._at, self._slab.address + at, size)

    def free(self) -> None:
        """The memory may be used for another; the row must be in no group any more."""
        self._slab.free.append(self._at // _ROW_BYTES)


class Rows:
    """Hands out rows."""

    def __init__(self) -> None:
        self._slabs: list[_Slab] = []

    def take(self, path: Path) -> Row:
        """A row for packets of this path."""
        for slab in reversed(self._slabs):
            if slab.free:
                break
        else:
            slab = _Slab()
            self._slabs.append(slab)
        return Row(slab, slab.free.pop(), path)


class SendGroup:
    """Up to `capacity` packets that leave with one system call."""

    __slots__ = ("_keep", "_view", "address", "count")

    def __init__(self, capacity: int) -> None:
        memory = bytearray(capacity * _HEADER_BYTES)
        self._keep = (ctypes.c_char * len(memory)).from_buffer(memory)
        self.address = ctypes.addressof(self._keep)
        self._view = memoryview(memory)
        self.count = 0

    def put(self, index: int, row: Row) -> None:
        """Makes `row` the packet at `index`; `count` is the caller's to keep."""
        at = index * _HEADER_BYTES
        self._view[at : at + _HEADER_BYTES] = row.header


class RawUdpSender:
    """The raw socket that all packets of a family leave by. Needs CAP_NET_RAW."""

    def __init__(self, family: int, *, send_buffer_bytes: int = 4 << 20) -> None:
        try:
            self._socket = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        except OSError as error:
            raise KernelError("socket", "raw UDP", error.errno or 0) from error
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):
            # Without CAP_NET_ADMIN the default size has to do.
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, send_buffer_bytes)
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
        self._fd = self._socket.fileno()
        self._single = SendGroup(1)

    def send(self, group: SendGroup) -> list[tuple[int, int]]:
        """Sends the whole group. Returns (index, errno) of those that the kernel would not take."""
        count, address, fd = group.count, group.address, self._fd
        sent = _sendmmsg(fd, address, count, 0)
        if sent == count:
            return []
        failed: list[tuple[int, int]] = []
        done = 0
        while True:
            if sent > 0:
                done += sent
            else:
                number = ctypes.get_errno()
                if number == errno.EINTR:
                    pass
                elif number in (errno.EAGAIN, errno.ENOBUFS):
                    # The queue is full: what remains would not fit either.
                    failed.extend((index, number) for index in range(done, count))
                    return failed
                else:
                    failed.append((done, number))
                    done += 1
            if done >= count:
                return failed
            sent = _sendmmsg(fd, address + done * _HEADER_BYTES, count - done, 0)

    def send_one(self, row: Row) -> int:
        """Sends one packet now. Returns 0 or the errno."""
        single = self._single
        single.put(0, row)
        return 0 if _sendmmsg(self._fd, single.address, 1, 0) == 1 else ctypes.get_errno()

    def close(self) -> None:
        """Nothing is sent any more."""
        self._socket.close()


_ARRIVAL: Final = {
    int(socket.AF_INET): ((socket.IPPROTO_IP, _IP_PKTINFO), (socket.IPPROTO_IP, _IP_RECVTTL)),
    int(socket.AF_INET6): (
        (socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO),
        (socket.IPPROTO_IPV6, _IPV6_RECVHOPLIMIT),
    ),
}
_DATA_BYTES: Final = 128
_NAME_BYTES: Final = 32
_CONTROL_BYTES: Final = 128
_STAMP_STRIDE: Final = _CONTROL_BYTES // 8
_STAMP_AT: Final = 2
"""Behind the header of the first control message, in words of eight bytes."""


class UdpReceiver:
    """Receives on one port of one family, `batch` packets a call.

    A payload is cut at 128 bytes. After `receive` returned n, packets 0 to n-1 can be asked for until the next call.
    """

    def __init__(
        self, family: int, port: int, *, batch: int = 128, receive_buffer_bytes: int = 8 << 20, shared: bool = False
    ) -> None:
        """shared: with other receivers of this process (`receivers`). KernelError when the port cannot be had."""
        self.family = family
        self.port = port
        self.batch = batch
        self.received = 0
        """Packets so far."""
        self._v6 = family == socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer_bytes)
            if self._v6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # The first control message of each packet, which `stamps` relies on.
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("::" if self._v6 else "0.0.0.0", port))
        except OSError as error:
            sock.close()
            raise KernelError("bind", f"UDP port {port}", error.errno or 0) from error
        self.socket = sock
        self._fd = sock.fileno()
        self._data = bytearray(batch * _DATA_BYTES)
        self._names = bytearray(batch * _NAME_BYTES)
        self._controls = bytearray(batch * _CONTROL_BYTES)
        self._iovecs = bytearray(batch * _IOVEC.size)
        self._headers = bytearray(batch * _HEADER_BYTES)
        self._keep = [
            (ctypes.c_char * len(memory)).from_buffer(memory)
            for memory in (self._data, self._names, self._controls, self._iovecs, self._headers)
        ]
        data, names, controls, iovecs, self._address = (ctypes.addressof(each) for each in self._keep)
        for index in range(batch):
            _IOVEC.pack_into(self._iovecs, index * _IOVEC.size, data + index * _DATA_BYTES, _DATA_BYTES)
            _HEADER.pack_into(
                self._headers,
                index * _HEADER_BYTES,
                names + index * _NAME_BYTES,
                28 if self._v6 else 16,
                iovecs + index * _IOVEC.size,
                1,
                controls + index * _CONTROL_BYTES,
                _CONTROL_BYTES,
                0,
                0,
            )
        self._template = bytes(self._headers)
        self.tell_arrival(True)
        self._header_view = memoryview(self._headers)
        self._lengths = memoryview(self._headers).cast("I")
        self._stamps = memoryview(self._controls).cast("q")
        self._fields = [struct.Struct("24s104x" * count) for count in range(batch + 1)]

    def fileno(self) -> int:
        """For add_reader."""
        return self._fd

    def receive(self) -> int:
        """How many packets have come, at most `batch`; 0: none."""
        count: int = _recvmmsg(self._fd, self._address, self.batch, socket.MSG_DONTWAIT, None)
        if count <= 0:
            return 0
        self.received += count
        return count

    def recycle(self, count: int) -> None:
        """After the packets of a call were looked at: the kernel wrote lengths into the headers."""
        size = count * _HEADER_BYTES
        self._header_view[:size] = self._template[:size]

    def all_of_24_bytes(self, count: int) -> tuple[bytes, ...] | None:
        """The payloads if each is a bare control packet, the ordinary case; else None."""
        if self._lengths[14 : 16 * count : 16].tolist().count(24) != count:
            return None
        fields: tuple[bytes, ...] = self._fields[count].unpack_from(self._data)
        return fields

    def stamp(self, index: int) -> int:
        """When a packet of the last call arrived, on the wall clock in nanoseconds."""
        at = index * _STAMP_STRIDE + _STAMP_AT
        return self._stamps[at] * 1_000_000_000 + self._stamps[at + 1]

    def payload(self, index: int) -> bytes:
        """One payload."""
        at = index * _DATA_BYTES
        return bytes(self._data[at : at + self._lengths[14 + 16 * index]])

    def source(self, index: int) -> tuple[bytes, int]:
        """The sender's packed address and port."""
        at = index * _NAME_BYTES
        port = int.from_bytes(self._names[at + 2 : at + 4], "big")
        if self._v6:
            return bytes(self._names[at + 8 : at + 24]), port
        return bytes(self._names[at + 4 : at + 8]), port

    def tell_arrival(self, wanted: bool) -> None:
        """Whether the kernel is to say where and with which hop limit packets arrive; it costs a little for each."""
        for level, option in _ARRIVAL[self.family]:
            self.socket.setsockopt(level, option, int(wanted))

    def arrival(self, index: int) -> tuple[bytes, int, int]:
        """(packed destination, ifindex, TTL or hop limit) of one packet; empty and 0: not told."""
        destination, interface, hop_limit = b"", 0, 0
        for level, kind, at in self._control_messages(index):
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                interface, destination = struct.unpack_from("@i4x4s", self._controls, at)
            elif level == socket.IPPROTO_IP and kind == socket.IP_TTL:
                hop_limit = struct.unpack_from("@i", self._controls, at)[0]
            elif level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
                destination, interface = struct.unpack_from("@16si", self._controls, at)
            elif level == socket.IPPROTO_IPV6 and kind == _IPV6_HOPLIMIT:
                hop_limit = struct.unpack_from("@i", self._controls, at)[0]
        return destination, interface, hop_limit

    def _control_messages(self, index: int) -> Iterator[tuple[int, int, int]]:
        used = struct.unpack_from("@L", self._headers, index * _HEADER_BYTES + 40)[0]
        at = index * _CONTROL_BYTES
        end = at + min(used, _CONTROL_BYTES)
        while at + _CONTROL_HEADER.size <= end:
            size, level, kind = _CONTROL_HEADER.unpack_from(self._controls, at)
            if size < _CONTROL_HEADER.size:
                return
            yield level, kind, at + _CONTROL_HEADER.size
            at += size + 7 & ~7

    def attach_filter(self, program: bytes | None) -> None:
        """A classic BPF program (see source_filter.py), None: none."""
        attach_filter(self.socket, program)

    def close(self) -> None:
        """Gives the port back."""
        self.socket.close()


def receivers(family: int, port: int, choice: bytes) -> tuple[UdpReceiver, UdpReceiver]:
    """Two receivers on one port; `choice` returns 0 for packets that go to the first, 1 for those of the second.

    KernelError when somebody else has the port.
    """
    # Sockets that share a port would share it with another program that does the same: one that does not share asks.
    UdpReceiver(family, port, batch=1).close()
    pair = UdpReceiver(family, port, shared=True), UdpReceiver(family, port, shared=True)
    try:
        attach_choice(pair[0].socket, choice)
    except OSError as error:
        for receiver in pair:
            receiver.close()
        raise KernelError("SO_ATTACH_REUSEPORT_CBPF", f"UDP port {port}", error.errno or 0) from error
    return pair
