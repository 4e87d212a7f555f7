"""The echo function (RFC 5880 section 6.8.8, RFC 5881 section 4): packets that the neighbour's forwarding plane loops.

Sending. IPv4: a frame to the neighbour whose IP source and destination are both ours, so that its kernel forwards
the packet back (it needs ip_forward). IPv6: a packet to the neighbour's port 3785, which returns it, as FRR does.
What comes back tells the machine `EchoHeard`; the machine decides that too many are missing.

Looping. IPv6, and IPv4 while this host does not forward: what a neighbour with echo allowed sends goes back with a
TTL one lower. IPv4 with ip_forward: the kernel does it, nothing is to be done here.

Both need raw packets, since Linux throws packets away that come from outside with an own address as their source.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from holdfast.actors.bfd.facts import jittered
from holdfast.actors.bfd.lane import Lane
from holdfast.actors.bfd.packet import ECHO_PORT
from holdfast.actors.runtime.machine import Instant, S
from holdfast.kernel.timers import monotonic
from holdfast.kernel.udp_batch import UdpReceiver, attach_filter, checksum

_CONTENT = struct.Struct("!4s8sII12x")
"""Padded to 32 bytes: FRR loops nothing shorter than an echo of its own."""
_MAGIC = b"HfEc"
_OUTGOING = 4
_NEIGHBOR_LIFE = 10 * S
"""How long a neighbour's link address is taken for true."""

# Incoming UDP over IPv4 to the echo port, no fragments and no options: offsets count from the IP header.
_ECHO_FILTER = b"".join(
    struct.pack("@HBBI", *each)
    for each in (
        (0x30, 0, 0, 0xFFFFF004),  # packet type
        (0x15, 7, 0, _OUTGOING),
        (0x30, 0, 0, 0),
        (0x15, 0, 5, 0x45),
        (0x30, 0, 0, 9),
        (0x15, 0, 3, socket.IPPROTO_UDP),
        (0x28, 0, 0, 22),
        (0x15, 0, 1, ECHO_PORT),
        (0x06, 0, 0, 256),
        (0x06, 0, 0, 0),
    )
)


class _Sending:
    """A session that sends echoes."""

    __slots__ = ("at", "interval_us", "link_address", "link_address_at", "sequence")

    def __init__(self) -> None:
        self.interval_us = 0
        self.at = 0
        self.sequence = 0
        self.link_address: tuple[str, bytes] | None = None
        self.link_address_at = 0


class EchoPort:
    """Echoes of all sessions. Everything is called on the cell's loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        came_back: Callable[[Lane, Instant], None],
        lane_of: Callable[[int], Lane | None],
    ) -> None:
        """came_back: one of our echoes returned. lane_of: the session with a local discriminator."""
        self.next_at = 0
        """When `fire` is wanted, 0: never."""
        self.looped = 0
        self._loop = loop
        self._came_back = came_back
        self._lane_of = lane_of
        self._tag = os.urandom(8)
        self._chance = random.SystemRandom()
        self._sending: dict[Lane, _Sending] = {}
        self._looping: dict[bytes, Lane] = {}
        self._heap: list[tuple[int, int, Lane]] = []
        self._count = 0
        self._link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        self._link.setblocking(False)
        attach_filter(self._link, _ECHO_FILTER)
        loop.add_reader(self._link.fileno(), self._frames)
        # Bound although frames are read elsewhere: without it the kernel would answer "port unreachable".
        self._ports = [UdpReceiver(socket.AF_INET, ECHO_PORT, batch=32)]
        with contextlib.suppress(OSError):
            self._ports.append(UdpReceiver(socket.AF_INET6, ECHO_PORT, batch=32))
        for port in self._ports:
            level, option = _HOP_LIMIT[port.family]
            port.socket.setsockopt(level, option, 255)
            loop.add_reader(port.fileno(), self._packets, port)

    def pace(self, lane: Lane, interval_us: int, now: Instant) -> None:
        """The session sends echoes this often from now on; 0: none."""
        if interval_us == 0:
            self._sending.pop(lane, None)
            return
        sending = self._sending.setdefault(lane, _Sending())
        sending.interval_us = interval_us
        self._schedule(lane, sending, now)

    def loop_for(self, lane: Lane) -> None:
        """Echoes of this session's neighbour are returned."""
        self._looping[lane.spec.neighbor] = lane

    def forget(self, lane: Lane) -> None:
        """The session is gone."""
        self._sending.pop(lane, None)
        if self._looping.get(lane.spec.neighbor) is lane:
            del self._looping[lane.spec.neighbor]

    def fire(self, now: int) -> None:
        """Sends what is due."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, lane = heapq.heappop(heap)
            sending = self._sending.get(lane)
            if sending is not None and sending.at == at:
                self._send(lane, sending, now)
                self._schedule(lane, sending, now)
        self.next_at = heap[0][0] if heap else 0

    def close(self) -> None:
        """No echo is sent or returned any more."""
        self._loop.remove_reader(self._link.fileno())
        self._link.close()
        for port in self._ports:
            self._loop.remove_reader(port.fileno())
            port.close()

    # ------------------------------------------------------------------ sending

    def _schedule(self, lane: Lane, sending: _Sending, now: int) -> None:
        sending.at = now + jittered(sending.interval_us, 2, self._chance.random())
        self._count += 1
        heapq.heappush(self._heap, (sending.at, self._count, lane))
        self.next_at = self._heap[0][0]

    def _send(self, lane: Lane, sending: _Sending, now: int) -> None:
        path = lane.path
        if path is None:
            return
        sending.sequence = (sending.sequence + 1) & 0xFFFFFFFF
        content = _CONTENT.pack(_MAGIC, self._tag, lane.machine.local_discriminator, sending.sequence)
        with contextlib.suppress(OSError):
            # A lost echo is what this function is there to find.
            if lane.family == socket.AF_INET6:
                address = socket.inet_ntop(socket.AF_INET6, lane.spec.neighbor)
                self._port_of(socket.AF_INET6).socket.sendto(content, (address, ECHO_PORT, 0, path.interface))
                return
            if sending.link_address is None or now - sending.link_address_at > _NEIGHBOR_LIFE:
                sending.link_address = link_address_of(socket.inet_ntop(socket.AF_INET, lane.spec.neighbor))
                sending.link_address_at = now
            if sending.link_address is not None:
                interface, address_bytes = sending.link_address
                frame = ipv4_echo(path.source, path.source, lane.source_port, content, 255)
                self._link.sendto(frame, (interface, 0x0800, 0, 0, address_bytes))

    def _port_of(self, family: int) -> UdpReceiver:
        return next(port for port in self._ports if port.family == family)

    # ------------------------------------------------------------------ what arrives

    def _frames(self) -> None:
        """IPv4 on any interface."""
        for _ in range(256):
            try:
                data, sender = self._link.recvfrom(256)
            except BlockingIOError:
                return
            source, destination, ttl = data[12:16], data[16:20], data[8]
            content = data[28:]
            if self._is_ours(content):
                continue
            lane = self._looping.get(source)
            if lane is None or ttl != 255 or source != destination or _forwards(sender[0]):
                continue
            self.looped += 1
            frame = ipv4_echo(source, destination, int.from_bytes(data[20:22], "big"), content, ttl - 1)
            with contextlib.suppress(OSError):
                self._link.sendto(frame, (sender[0], 0x0800, 0, 0, sender[4]))

    def _packets(self, port: UdpReceiver) -> None:
        """IPv6, and IPv4 that was sent to us (frames have been seen by `_frames`, so it is only taken off)."""
        count = port.receive()
        for index in range(count):
            if port.family == socket.AF_INET:
                break
            content = port.payload(index)
            if self._is_ours(content):
                continue
            source, source_port = port.source(index)
            _, ifindex, hop_limit = port.arrival(index)
            if source in self._looping and hop_limit == 255:
                self.looped += 1
                self._return(port, content, source, source_port, ifindex)
        port.recycle(count)

    @staticmethod
    def _return(port: UdpReceiver, content: bytes, source: bytes, source_port: int, ifindex: int) -> None:
        hop_limit = [(socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, struct.pack("@i", 254))]
        scope = ifindex if source[0] == 0xFE and source[1] & 0xC0 == 0x80 else 0
        address = (socket.inet_ntop(socket.AF_INET6, source), source_port, 0, scope)
        with contextlib.suppress(OSError):
            port.socket.sendmsg([content], hop_limit, 0, address)

    def _is_ours(self, content: bytes) -> bool:
        """True if it is one of our echoes; its session is told."""
        if len(content) < _CONTENT.size:
            return False
        magic, tag, discriminator, _ = _CONTENT.unpack_from(content)
        if magic != _MAGIC or tag != self._tag:
            return False
        lane = self._lane_of(discriminator)
        if lane is not None and lane in self._sending:
            self._came_back(lane, monotonic())
        return True


_HOP_LIMIT: dict[int, tuple[int, int]] = {
    int(socket.AF_INET): (socket.IPPROTO_IP, socket.IP_TTL),
    int(socket.AF_INET6): (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
}


def ipv4_echo(source: bytes, destination: bytes, source_port: int, content: bytes, ttl: int) -> bytes:
    """A whole IP packet to the echo port, checksums and all."""
    size = 8 + len(content)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0xC0, 20 + size, 0, 0x4000, ttl, 17, 0, source, destination)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    udp = struct.pack("!HHHH", source_port, ECHO_PORT, size, 0) + content
    pseudo = source + destination + struct.pack("!HH", 17, size)
    total = checksum(pseudo + udp + (b"\0" if size & 1 else b"")) or 0xFFFF
    return head + udp[:6] + struct.pack("!H", total) + udp[8:]


def link_address_of(neighbor: str, table: Path = Path("/proc/net/arp")) -> tuple[str, bytes] | None:
    """(interface, link address) of an IPv4 neighbour, None: the kernel does not know it."""
    for line in table.read_text().splitlines()[1:]:
        address, _, flags, link_address, _, interface = line.split()
        if address == neighbor and int(flags, 16) & 0x2:
            return interface, bytes.fromhex(link_address.replace(":", ""))
    return None


def _forwards(interface: str) -> bool:
    """True if the kernel forwards IPv4 that comes by this interface."""
    try:
        return Path(f"/proc/sys/net/ipv4/conf/{interface}/forwarding").read_text().strip() == "1"
    except OSError:
        return False
