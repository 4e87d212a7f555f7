"""The kernel's side of connection sync: a dummy interface with both sync daemons, and what goes in and out there.

The kernel's master daemon sends what happens to its connections as multicast out of the interface; a packet socket
sees it, although the device drops it. The backup daemon takes in what a UDP socket sends to the same group on the same
interface. So neither daemon ever talks to another host, and their messages can travel in any way. Like all that has
no IPv4 address, everything here works for IPv6 connections too: the multicast is only a pipe within this host.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from holdfast.kernel.base import KernelError
from holdfast.kernel.bpf import attach, instruction
from holdfast.kernel.ipvs import Ipvs
from holdfast.kernel.ipvs_types import DaemonSpec
from holdfast.kernel.sysctl import Changes

GROUP, PORT = "224.0.0.81", 8848
SYNC_ID = 81
TABLE = "/proc/thread-self/net/ip_vs_conn_sync"
READ_BYTES = 256 * 1024

MASTER_MESSAGE_BYTES = 80
"""Room for one or two connections: the kernel holds a message back until it is full, or for two seconds."""
MTU = 9600
INJECT_BYTES_MAX = 9300
BUFFER_BYTES = 8 << 20
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_PACKET_STATISTICS, _SOL_PACKET = 6, 263
_ETH_P_ALL = 3
_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWADDR = 16, 17, 20
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE, _NLM_F_EXCL = 1, 4, 0x400, 0x200
_IFF_UP = 1
_LD_HALF_ABS, _JEQ, _RET = 0x28, 0x15, 0x06


class SyncPipe:
    """Both ends of the pipe. Made in the network namespace of the table; not shared between threads.

    close() takes everything back: daemons, settings, interface.
    """

    def __init__(self, interface: str, address: str, refresh_s: int) -> None:
        """Raises KernelError: EBUSY when the kernel's sync daemons work for somebody else (lvs_sync_daemon)."""
        self.interface = interface
        self.address = address
        self.lost = 0
        """Messages of the kernel that came while our buffer was full."""
        self._ipvs = Ipvs()
        self._settings = Changes()
        self._made = False
        self._sockets: list[socket.socket] = []
        self._started: list[str] = []
        try:
            self._open(refresh_s)
        except BaseException:
            self.close()
            raise

    def _open(self, refresh_s: int) -> None:
        running = {each.role: each for each in self._ipvs.daemons()}
        for daemon in running.values():
            if daemon.interface != self.interface or daemon.sync_id != SYNC_ID:
                text = f"a sync daemon runs on {daemon.interface} already (lvs_sync_daemon?)"
                raise KernelError("connection sync", self.interface, errno.EBUSY, text)
        make_interface(self.interface, self.address)
        self._made = True
        put = self._settings.put
        # Told at once and at each change of state, and again every so often while it lives, by no count of packets.
        put("net/ipv4/vs/sync_threshold", "0\t0")
        put("net/ipv4/vs/sync_refresh_period", refresh_s)
        put("net/ipv4/vs/sync_sock_size", BUFFER_BYTES)
        self._inject = self._udp_socket()
        self._tap = self._packet_socket(self._inject.getsockname()[1])
        for role, size in (("backup", INJECT_BYTES_MAX), ("master", MASTER_MESSAGE_BYTES)):
            if role not in running:
                self._ipvs.start_daemon(DaemonSpec(role, self.interface, SYNC_ID, size))
            self._started.append(role)

    def _udp_socket(self) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._sockets.append(made)
        made.bind((self.address, 0))
        index = socket.if_nametoindex(self.interface)
        request = struct.pack("=4s4si", socket.inet_aton(GROUP), socket.inet_aton(self.address), index)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
        _buffer(made, socket.SO_SNDBUF, _SO_SNDBUFFORCE)
        made.connect((GROUP, PORT))
        return made

    def _packet_socket(self, our_port: int) -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0)
        self._sockets.append(made)
        # What we put in ourselves goes out of the same device: it is not to come back to us.
        attach(made, not_from_port(our_port))
        _buffer(made, socket.SO_RCVBUF, _SO_RCVBUFFORCE)
        made.setblocking(False)
        made.bind((self.interface, _ETH_P_ALL))
        return made

    def fileno(self) -> int:
        """Readable when the kernel has told something."""
        return self._tap.fileno()

    def read(self, most: int = 4096) -> Iterator[bytes]:
        """The sync messages that wait, at most so many."""
        tap = self._tap
        for _ in range(most):
            try:
                packet = tap.recv(65535)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENETDOWN:
                    return
                raise KernelError("read", self.interface, error.errno or 0) from error
            payload = udp_payload(packet)
            if payload is not None:
                yield payload

    def count_lost(self) -> int:
        """Messages of the kernel that we never saw, since the start."""
        with contextlib.suppress(OSError):
            _, dropped = struct.unpack("=II", self._tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            self.lost += dropped
        return self.lost

    def write(self, messages: Iterable[bytes]) -> int:
        """Gives sync messages to the backup daemon; returns how many it was given. Raises KernelError."""
        count = 0
        for message in messages:
            try:
                self._inject.send(message)
            except OSError as error:
                raise KernelError("write", self.interface, error.errno or 0) from error
            count += 1
        return count

    def close(self) -> None:
        """Takes everything back, in the other order."""
        for role in reversed(self._started):
            with contextlib.suppress(KernelError):
                self._ipvs.stop_daemon(role, SYNC_ID)
        self._started.clear()
        for each in self._sockets:
            each.close()
        self._sockets.clear()
        self._settings.restore()
        if self._made:
            with contextlib.suppress(KernelError):
                remove_interface(self.interface)
            self._made = False
        self._ipvs.close()


def udp_payload(packet: bytes) -> bytes | None:
    """What an IPv4 packet to the sync port carries; None when it is something else."""
    if len(packet) < 28 or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_UDP:
        return None
    start = (packet[0] & 15) * 4
    if len(packet) < start + 8 or packet[start + 2] << 8 | packet[start + 3] != PORT:
        return None
    length = packet[start + 4] << 8 | packet[start + 5]
    return packet[start + 8 : start + length]


def not_from_port(port: int) -> bytes:
    """A filter for packets that begin with their IPv4 header (of 20 bytes): all but those from this UDP port."""
    return b"".join(
        (
            instruction(_LD_HALF_ABS, 0, 0, 20),
            instruction(_JEQ, 0, 1, port),
            instruction(_RET, 0, 0, 0),
            instruction(_RET, 0, 0, 0x40000),
        )
    )


def read_table(path: str = TABLE) -> Iterator[bytes]:
    """The kernel's connections, in pieces of whole lines. The file is that of the calling thread's namespace.

    The kernel walks through its table anew for each 4 kB, so a large table takes time that grows with its square.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError("open", path, error.errno or 0) from error
    left = b""
    try:
        while True:
            data = os.read(descriptor, READ_BYTES)
            if not data:
                break
            whole, mark, rest = data.rpartition(b"\n")
            yield left + whole + mark
            left = rest
    except OSError as error:
        raise KernelError("read", path, error.errno or 0) from error
    finally:
        os.close(descriptor)
    if left:
        yield left


def _buffer(made: socket.socket, plain: int, force: int) -> None:
    try:
        made.setsockopt(socket.SOL_SOCKET, force, BUFFER_BYTES)
    except PermissionError:
        made.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)


# --- the interface ---------------------------------------------------------------------------------------------------


def make_interface(name: str, address: str) -> None:
    """A dummy interface that is up and has the address; one that is there already is taken. Raises KernelError."""
    kind = _attribute(1, b"dummy\0")
    info = _attribute(18, kind)
    named = _attribute(3, name.encode() + b"\0") + _attribute(4, struct.pack("=I", MTU))
    with contextlib.closing(_route_socket()) as link:
        try:
            flags = _NLM_F_CREATE | _NLM_F_EXCL
            _request(link, _RTM_NEWLINK, flags, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + named + info, name)
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
        index = socket.if_nametoindex(name)
        up = struct.pack("=BxHiII", 0, 0, index, _IFF_UP, _IFF_UP)
        _request(link, _RTM_NEWLINK, 0, up + _attribute(4, struct.pack("=I", MTU)), name)
        number = socket.inet_aton(address)
        body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 253, index) + _attribute(1, number) + _attribute(2, number)
        try:
            _request(link, _RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_EXCL, body, f"{address} on {name}")
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise


def remove_interface(name: str) -> None:
    """Takes it away. Raises KernelError."""
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return
    with contextlib.closing(_route_socket()) as link:
        _request(link, _RTM_DELLINK, 0, struct.pack("=BxHiII", 0, 0, index, 0, 0), name)


def _route_socket() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    made.bind((0, 0))
    made.settimeout(5.0)
    return made


def _request(link: socket.socket, kind: int, flags: int, body: bytes, subject: str) -> None:
    flags |= _NLM_F_REQUEST | _NLM_F_ACK
    link.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
    answer = link.recv(65536)
    code = -struct.unpack_from("=i", answer, 16)[0]
    if code:
        raise KernelError("interface", subject, code)


def _attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + b"\0" * (-length % 4)
