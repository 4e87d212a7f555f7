"""Gratuitous ARP and unsolicited neighbour advertisements: frames built beforehand, sent by the thousand.

One packet socket serves all interfaces: the socket address of each frame names its interface. What a takeover sends is
laid out as a `FrameBatch` when configuration or links change; at the moment itself there is one system call.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Final

from holdfast.kernel.base import KernelError
from holdfast.kernel.faces import Frames
from holdfast.kernel.mmsg import MessageRing

_BROADCAST: Final = b"\xff" * 6
_ETH_P_ARP: Final = 0x0806
_ETH_P_IPV6: Final = 0x86DD
_ALL_NODES: Final = socket.inet_pton(socket.AF_INET6, "ff02::1")
_ALL_NODES_MAC: Final = b"\x33\x33\x00\x00\x00\x01"
_SOCKADDR_LL: Final = struct.Struct("=H2siHBB8s")
_SO_SNDBUFFORCE: Final = 32
_PACKET_QDISC_BYPASS: Final = 20
_SOL_PACKET: Final = 263
_SEND_BUFFER_BYTES: Final = 8 * 1024 * 1024
_FRAME_BYTES: Final = 256
_SMALL: Final = 16
"""Frames up to which a batch is not laid out beforehand: doing it costs 1 us a frame, keeping it 200 bytes."""
_ROUTER: Final = 0x80000000
_OVERRIDE: Final = 0x20000000


def arp_frame(mac: bytes, address: str) -> bytes:
    """A gratuitous ARP request: sender and target are the address, the target hardware address is all ones.

    RFC 5227 section 3 calls for a request; all ones instead of zero is what keepalived sends, and switches and hosts in
    the field know it.
    """
    packed = socket.inet_pton(socket.AF_INET, address)
    ethernet = _BROADCAST + mac + struct.pack("!H", _ETH_P_ARP)
    return ethernet + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + packed + _BROADCAST + packed


def advertisement_frame(mac: bytes, address: str, *, router: bool) -> bytes:
    """An unsolicited neighbour advertisement to all nodes (RFC 4861 section 4.4): override set, hop limit 255.

    router: the R flag, set when the interface forwards.
    """
    packed = socket.inet_pton(socket.AF_INET6, address)
    flags = _OVERRIDE | (_ROUTER if router else 0)
    # Type 136, code 0, checksum, flags, target, option 2 (target link-layer address) of one unit of eight bytes.
    message = struct.pack("!BBHI", 136, 0, 0, flags) + packed + struct.pack("!BB", 2, 1) + mac
    pseudo = packed + _ALL_NODES + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6)
    total = sum(struct.unpack(f"!{(len(pseudo) + len(message)) // 2}H", pseudo + message))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    message = message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]
    header = struct.pack("!IHBB", 0x60000000, len(message), socket.IPPROTO_ICMPV6, 255) + packed + _ALL_NODES
    return _ALL_NODES_MAC + mac + struct.pack("!H", _ETH_P_IPV6) + header + message


class FrameBatch:
    """Frames in order with their interfaces, ready to be sent. Made by `Announcer.prepare`.

    A large one is laid out for the kernel once. A small one, of which a host with a thousand instances has
    thousands, is kept as bytes and laid out in memory shared by all when it is sent.
    """

    __slots__ = ("count", "frames", "ring")

    def __init__(self, frames: Sequence[tuple[int, bytes]]) -> None:
        self.count = len(frames)
        self.frames = tuple(frames)
        self.ring: MessageRing | None = None
        if self.count > _SMALL:
            size = max(len(frame) for _, frame in frames)
            self.ring = MessageRing(self.count, size, name_bytes=_SOCKADDR_LL.size)
            _lay_out(self.ring, frames)

    def __len__(self) -> int:
        return self.count


def _lay_out(ring: MessageRing, frames: Sequence[tuple[int, bytes]]) -> None:
    for slot, (ifindex, frame) in enumerate(frames):
        # The kernel reads the protocol of a raw frame from here, the destination from the frame itself.
        name = _SOCKADDR_LL.pack(socket.AF_PACKET, frame[12:14], ifindex, 0, 0, 6, frame[:6] + b"\0\0")
        ring.load(slot, frame, name)


class Announcer:
    """Sends frames on any interface of one network namespace: that of the thread that made it."""

    def __init__(self, *, bypass_queue: bool = False) -> None:
        """bypass_queue: past the traffic-control queue (PACKET_QDISC_BYPASS). Raises KernelError."""
        try:
            # Protocol 0: this socket receives nothing.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        except OSError as error:
            raise KernelError("open", "announcer", error.errno or 0) from error
        self._socket.setblocking(False)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER_BYTES)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._shared = MessageRing(_SMALL, _FRAME_BYTES, name_bytes=_SOCKADDR_LL.size)
        if bypass_queue:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)

    def prepare(self, frames: Sequence[tuple[int, bytes]]) -> FrameBatch:
        """frames: (ifindex, whole Ethernet frame)."""
        return FrameBatch(frames)

    def send(self, frames: Frames, first: int = 0, count: int | None = None) -> list[KernelError]:
        """Sends them (or `count` from `first` on). Returns an error for each that was refused."""
        assert isinstance(frames, FrameBatch), frames
        count = frames.count - first if count is None else min(count, frames.count - first)
        if count <= 0:
            return []
        descriptor = self._socket.fileno()
        if frames.ring is not None:
            failed = frames.ring.send(descriptor, first, count)
        else:
            _lay_out(self._shared, frames.frames[first : first + count])
            failed = [(first + slot, number) for slot, number in self._shared.send(descriptor, 0, count)]
        return [KernelError("announce", f"link/#{frames.frames[slot][0]}", number) for slot, number in failed]

    def close(self) -> None:
        """Harmless twice."""
        self._socket.close()
