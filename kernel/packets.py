"""Raw VRRP sockets: one for each interface and family, many packets a system call.

IPv4 packets are sent with the header their maker wrote (IP_HDRINCL) and arrive with theirs. For IPv6 the kernel writes
the header and the checksum (IPV6_CHECKSUM, RFC 3542 section 3.1); source, hop limit and destination travel as ancillary
data. The counterpart in memory is `fake.FakeAdvertSocket`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, cast

from holdfast.kernel import bpf
from holdfast.kernel.base import KernelError
from holdfast.kernel.faces import Destination, Known, Prepared
from holdfast.kernel.mmsg import (
    MSG_PROBE,
    MessageRing,
    PreparedMessage,
    control_message,
    control_messages,
    send_prepared,
)
from holdfast.kernel.records import Received

VRRP: Final = 112
_IP_HDRINCL: Final = 3
_IP_MULTICAST_ALL: Final = 49
_IPV6_CHECKSUM: Final = 7
_IPV6_MULTICAST_ALL: Final = 29
_IPV6_RECVPKTINFO: Final = 49
_IPV6_PKTINFO: Final = 50
_IPV6_RECVHOPLIMIT: Final = 51
_IPV6_HOPLIMIT: Final = 52
_IPV6_UNICAST_HOPS: Final = 16
_IPV6_TCLASS: Final = 67
_SO_SNDBUFFORCE: Final = 32
_SO_TIMESTAMPNS: Final = 35
_SO_RCVBUFFORCE: Final = 33
_SOCKADDR_IN6: Final = struct.Struct("=HHI16sI")
_MREQN: Final = struct.Struct("=4s4si")
_CHECKSUM_OFFSET: Final = 6
_INTERNETWORK_CONTROL: Final = 0xC0
_PACKET_BYTES: Final = 4352
"""The largest advert: 8 bytes and 255 IPv6 addresses of 16, with an IPv4 header and options to spare."""
_SLOTS: Final = 64
_SEND_BUFFER_BYTES: Final = 4 * 1024 * 1024
_NAMES_KEPT: Final = 4096
_STAMP: Final = struct.Struct("@8xiiqq")
"""The first control message of a packet: length, level, type, seconds and nanoseconds (struct timespec)."""
_WAITED_MOST_NS: Final = 5_000_000


class PackedDestination:
    """Where a message goes: socket address and ancillary data as bytes."""

    __slots__ = ("address", "control", "name")

    def __init__(self, address: str, name: bytes, control: bytes) -> None:
        self.address = address
        self.name = name
        self.control = control

    def __repr__(self) -> str:
        return f"PackedDestination({self.address!r})"


class _Rings:
    """Buffers for receiving and sending, shared by all sockets of this process:

    each call is done before the next one.
    """

    receive: MessageRing | None = None
    send: MessageRing | None = None
    names: dict[bytes, str] = {}  # noqa: RUF012 - it is meant to be shared

    @classmethod
    def for_receiving(cls) -> MessageRing:
        if cls.receive is None:
            cls.receive = MessageRing(_SLOTS, _PACKET_BYTES, name_bytes=28, control_bytes=128)
        return cls.receive

    @classmethod
    def for_sending(cls) -> MessageRing:
        if cls.send is None:
            cls.send = MessageRing(_SLOTS, _PACKET_BYTES, name_bytes=28, control_bytes=96)
        return cls.send

    @classmethod
    def text(cls, packed: bytes) -> str:
        """The address in text form; the few peers we hear are looked up."""
        name = cls.names.get(packed)
        if name is None:
            if len(cls.names) >= _NAMES_KEPT:
                cls.names.clear()
            family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
            name = cls.names[packed] = socket.inet_ntop(family, packed)
        return name


class VrrpSocket:
    """Raw VRRP on one interface (or, unicast only, on any) for one family. Not shared between threads."""

    def __init__(
        self,
        interface: str | None,
        family: int,
        *,
        groups: Iterable[str] = (),
        receive_buffer_bytes: int | None = None,
        priority: int | None = 6,
        loop: asyncio.AbstractEventLoop | None = None,
        protocol: int = VRRP,
    ) -> None:
        """groups: multicast groups to join. priority: SO_PRIORITY (6: TC_PRIO_INTERACTIVE). Raises KernelError."""
        self.interface = interface
        self.family = family
        self._subject = f"vrrp-socket/{interface or 'any'}/ipv{family}"
        self._loop = loop
        self._watched = False
        self._stamp = memoryview(b"")
        self.ifindex = 0
        try:
            if interface is not None:
                self.ifindex = socket.if_nametoindex(interface)
            kind = socket.AF_INET if family == 4 else socket.AF_INET6
            self._socket = socket.socket(kind, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
        except OSError as error:
            raise KernelError("open", self._subject, error.errno or errno.ENODEV) from error
        try:
            self._configure(receive_buffer_bytes, priority)
            for group in groups:
                self.join(group)
        except OSError as error:
            self._socket.close()
            raise KernelError("set up", self._subject, error.errno or 0) from error
        except KernelError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """-1 when closed."""
        return self._socket.fileno()

    def destination(
        self, address: str, *, source: str | None = None, hop_limit: int | None = None
    ) -> PackedDestination:
        """Packs where messages go. source, hop_limit: IPv6 only; with IPv4 both stand in the sender's own header."""
        if self.family == 4:
            packed = socket.inet_pton(socket.AF_INET, address)
            return PackedDestination(address, struct.pack("=HH4s8x", socket.AF_INET, 0, packed), b"")
        text = address.partition("%")[0]
        packed = socket.inet_pton(socket.AF_INET6, text)
        local_unicast = packed[0] == 0xFE and packed[1] & 0xC0 == 0x80
        local_group = packed[0] == 0xFF and packed[1] & 0x0F in {1, 2}
        name = _SOCKADDR_IN6.pack(socket.AF_INET6, 0, 0, packed, self.ifindex if local_unicast or local_group else 0)
        control = b""
        if source is not None:
            origin = socket.inet_pton(socket.AF_INET6, source.partition("%")[0])
            info = origin + struct.pack("=I", self.ifindex)
            control += control_message(socket.IPPROTO_IPV6, _IPV6_PKTINFO, info)
        if hop_limit is not None:
            control += control_message(socket.IPPROTO_IPV6, _IPV6_HOPLIMIT, struct.pack("=i", hop_limit))
        return PackedDestination(address, name, control)

    def send_many(self, messages: Sequence[tuple[bytes | bytearray, Destination]]) -> list[KernelError]:
        """One system call for up to 64. Returns an error for each that the kernel refused."""
        ring = _Rings.for_sending()
        descriptor = self._socket.fileno()
        errors: list[KernelError] = []
        for start in range(0, len(messages), _SLOTS):
            part = cast("Sequence[tuple[bytes, PackedDestination]]", messages[start : start + _SLOTS])
            for slot, (data, destination) in enumerate(part):
                ring.load(slot, data, destination.name, destination.control)
            if descriptor < 0:
                errors += [KernelError("send", f"{self._subject}/{to.address}", errno.EBADF) for _, to in part]
                continue
            for slot, number in ring.send(descriptor, 0, len(part)):
                errors.append(KernelError("send", f"{self._subject}/{part[slot][1].address}", number))
        return errors

    def prepare(self, data: bytes, destination: Destination) -> PreparedMessage:
        """A message that will be sent many times."""
        assert isinstance(destination, PackedDestination), destination
        return PreparedMessage(data, destination.name, destination.control, destination.address)

    def send_prepared(self, messages: Sequence[Prepared]) -> list[KernelError]:
        """As `send_many`, at a fraction of its cost."""
        prepared = cast("Sequence[PreparedMessage]", messages)
        descriptor = self._socket.fileno()
        if descriptor < 0:
            return [KernelError("send", f"{self._subject}/{each.label}", errno.EBADF) for each in prepared]
        return [
            KernelError("send", f"{self._subject}/{prepared[index].label}", number)
            for index, number in send_prepared(descriptor, prepared)
        ]

    def probe(self, messages: Sequence[Prepared]) -> None:
        """As `send_prepared` up to the last step: nothing is sent. What it goes through is warm afterwards."""
        send_prepared(self._socket.fileno(), cast("Sequence[PreparedMessage]", messages), MSG_PROBE)

    def waited_ns(self) -> int:
        """How long the packet that was received last had waited for that, by the kernel's stamp of its arrival.

        0 when that cannot be said: the wall clock was set meanwhile, or the packet waited longer than 5 ms, which means
        that this process did not run, and is dealt with elsewhere.
        """
        if not self._stamp:
            return 0
        level, kind, seconds, nanoseconds = _STAMP.unpack_from(self._stamp)
        if level != socket.SOL_SOCKET or kind != _SO_TIMESTAMPNS:
            return 0
        waited = time.time_ns() - seconds * 1_000_000_000 - nanoseconds
        return waited if 0 <= waited <= _WAITED_MOST_NS else 0

    def receive_known(self, limit: int, known: Mapping[bytes, Known]) -> list[Received | Known]:
        """As `receive`, but of a packet whose `said` is in `known` only that, which costs little (IPv4)."""
        if self._socket.fileno() < 0:
            return []
        if self.family != 4:
            return list(self.receive(limit))
        ring = _Rings.for_receiving()
        found: list[Received | Known] = []
        while len(found) < limit:
            count = ring.receive(self._socket.fileno())
            for slot in range(count):
                packet = ring.payload(slot).tobytes()
                usual = known.get(packet[:4] + packet[6:10] + packet[12:])
                if usual is not None:
                    found.append(usual)
                    continue
                received = self._received4(ring, slot)
                if received is not None:
                    found.append(received)
            if count:
                self._stamp = ring.control(count - 1)
            if count < ring.slots:
                break
        return found

    def receive(self, limit: int = 256) -> list[Received]:
        """What has arrived, until empty or `limit`. KernelError when the interface is gone (ENETDOWN, ENODEV)."""
        if self._socket.fileno() < 0:
            return []
        ring = _Rings.for_receiving()
        found: list[Received] = []
        four = self.family == 4
        while len(found) < limit:
            count = ring.receive(self._socket.fileno())
            for slot in range(count):
                received = self._received4(ring, slot) if four else self._received6(ring, slot)
                if received is not None:
                    found.append(received)
            if count:
                self._stamp = ring.control(count - 1)
            if count < ring.slots:
                break
        return found

    def join(self, group: str) -> None:
        """Adverts to the group are received from now on. KernelError; harmless twice."""
        self._membership(group, joining=True)

    def leave(self, group: str) -> None:
        """Ends `join`."""
        self._membership(group, joining=False)

    def accept_vrids(self, vrids: Iterable[int] | None) -> None:
        """A kernel filter: adverts of other virtual routers do not wake us. None: all are received."""
        bpf.attach(self._socket, None if vrids is None else bpf.only_vrids(vrids, self.family))

    def on_readable(self, call: Callable[[], None] | None) -> None:
        """`call()` on the loop whenever something has arrived; None ends that."""
        if self._loop is None or self._socket.fileno() < 0:
            return
        if self._watched:
            self._loop.remove_reader(self._socket.fileno())
            self._watched = False
        if call is not None:
            self._loop.add_reader(self._socket.fileno(), call)
            self._watched = True

    def close(self) -> None:
        """Harmless twice."""
        self.on_readable(None)
        self._socket.close()

    def _configure(self, receive_buffer_bytes: int | None, priority: int | None) -> None:
        sock = self._socket
        if self.interface is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.interface.encode() + b"\0")
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        _buffer(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        if receive_buffer_bytes is not None:
            _buffer(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_buffer_bytes)
        if self.family == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_HDRINCL, 1)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _INTERNETWORK_CONTROL)
            sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
            if self.ifindex:
                sock.setsockopt(
                    socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _MREQN.pack(bytes(4), bytes(4), self.ifindex)
                )
        else:
            for option, value in (
                (_IPV6_CHECKSUM, _CHECKSUM_OFFSET),
                (_IPV6_TCLASS, _INTERNETWORK_CONTROL),
                (socket.IPV6_MULTICAST_LOOP, 0),
                (socket.IPV6_MULTICAST_HOPS, 255),
                (_IPV6_UNICAST_HOPS, 255),
                (_IPV6_RECVPKTINFO, 1),
                (_IPV6_RECVHOPLIMIT, 1),
            ):
                sock.setsockopt(socket.IPPROTO_IPV6, option, value)
            try:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
            except OSError as error:
                if error.errno != errno.ENOPROTOOPT:  # before Linux 4.20
                    raise
            if self.ifindex:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self.ifindex)
        if priority is not None:
            # After IP_TOS, which sets a priority of its own.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)

    def _membership(self, group: str, *, joining: bool) -> None:
        try:
            if self.family == 4:
                request = _MREQN.pack(socket.inet_pton(socket.AF_INET, group), bytes(4), self.ifindex)
                option = socket.IP_ADD_MEMBERSHIP if joining else socket.IP_DROP_MEMBERSHIP
                self._socket.setsockopt(socket.IPPROTO_IP, option, request)
            else:
                request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=i", self.ifindex)
                option = socket.IPV6_JOIN_GROUP if joining else socket.IPV6_LEAVE_GROUP
                self._socket.setsockopt(socket.IPPROTO_IPV6, option, request)
        except OSError as error:
            if joining and error.errno == errno.EADDRINUSE:
                return
            raise KernelError("join" if joining else "leave", f"{self._subject}/{group}", error.errno or 0) from error

    def _received4(self, ring: MessageRing, slot: int) -> Received | None:
        packet = bytes(ring.payload(slot))
        header = (packet[0] & 0x0F) * 4 if packet else 0
        if header < 20 or len(packet) < header:
            return None
        return Received(
            packet,
            packet[header:],
            _Rings.text(packet[12:16]),
            _Rings.text(packet[16:20]),
            packet[8],
            self.ifindex,
            packet[9],
            packet[2] << 8 | packet[3],
        )

    def _received6(self, ring: MessageRing, slot: int) -> Received:
        packet = bytes(ring.payload(slot))
        control = control_messages(ring.control(slot))
        info = control.get((socket.IPPROTO_IPV6, _IPV6_PKTINFO))
        hops = control.get((socket.IPPROTO_IPV6, _IPV6_HOPLIMIT))
        return Received(
            packet,
            packet,
            _Rings.text(bytes(ring.name(slot)[8:24])),
            _Rings.text(bytes(info[:16])) if info is not None else "::",
            struct.unpack_from("=i", hops)[0] if hops is not None else 0,
            struct.unpack_from("=I", info, 16)[0] if info is not None else self.ifindex,
            VRRP,
            len(packet),
        )


def _buffer(sock: socket.socket, forced: int, plain: int, size: int) -> None:
    """Sets a socket buffer, past the system's limit if we may."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, plain, size)
