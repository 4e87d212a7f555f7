"""How packets come in: few sockets, read in batches, most packets known by their bytes.

A packet that equals the last one of its session costs a look-up and sets an instant. Any other one is decoded, its
session is found, and it is checked in the order of RFC 5880 section 6.8.6; what passes is the engine's.

A port has two sockets, and the kernel chooses by the packet: what says Up and nothing else may wait for its batch; what
says anything else, or asks or answers (P, F), wakes the process.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable

from holdfast.actors.bfd.directory import Directory
from holdfast.actors.bfd.lane import Lane
from holdfast.actors.bfd.machine import BfdMachine
from holdfast.actors.bfd.packet import (
    CONTROL_PORT,
    MULTIHOP_PORT,
    ControlPacket,
    PacketError,
    Reject,
    State,
    decode,
)
from holdfast.actors.bfd.profiles import SessionSpec
from holdfast.actors.runtime.machine import MS, Instant, S
from holdfast.kernel.source_filter import byte_choice, source_filter
from holdfast.kernel.udp_batch import UdpReceiver, receivers

_BATCHES_A_TURN = 32
"""How many batches are read before deadlines are looked at again."""

_WINDOW = 16
"""In pauses: how long a port is watched before it is decided whether to poll it."""

_POLL_LEAST, _POLL_MOST = MS // 4, 25 * MS
"""How long a polled port is left alone."""

_MAY_WAIT = byte_choice(1, 0xF0, 0xC0)
"""State Up, P and F clear (section 4.1, the second byte)."""

_BURST = MS // 4
"""Packets that came within a quarter of a millisecond came together."""

Heard = Callable[[Lane, ControlPacket, Instant], None]
Rejected = Callable[[Lane | None, PacketError, bytes], None]


class _Port:
    """A port's two receivers with the sessions that hear by them.

    While ordinary packets come often, nobody waits for each: their receiver is read every few packets (`polled`), as
    network drivers do it. It saves most of the wake-ups, and the kernel the waking.
    """

    __slots__ = (
        "floor",
        "key",
        "known",
        "lanes",
        "next_read",
        "polled",
        "read_at",
        "receiver",
        "strict",
        "urgent",
        "wakes",
        "window_packets",
        "window_until",
    )

    def __init__(self, receiver: UdpReceiver, urgent: UdpReceiver) -> None:
        """receiver: what may wait. urgent: the rest."""
        self.receiver = receiver
        self.urgent = urgent
        self.key = (receiver.family, receiver.port)
        self.lanes: set[Lane] = set()
        self.known: dict[bytes, BfdMachine] = {}
        self.strict: dict[bytes, Lane] = {}
        """Like `known`, for sessions that ask for a higher TTL than the socket does."""
        self.floor = 0
        """The least TTL that the socket's filter lets in."""
        self.polled = False
        self.next_read = 0
        self.read_at = 0
        self.window_until = 0
        self.wakes = 0
        """How often it was readable in this window."""
        self.window_packets = 0
        """What the receiver had counted when the window began."""

    def open_window(self, now: int, pause: int) -> None:
        """Counts anew."""
        self.window_until = now + _WINDOW * pause
        self.wakes = 0
        self.window_packets = self.receiver.received


class Hearing:
    """The receiving half of the engine."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        directory: Directory,
        *,
        heard: Heard,
        rejected: Rejected,
        turn_over: Callable[[], None],
    ) -> None:
        """heard: gets each packet that is new and right. rejected: each that was discarded; lane None: it is of no
        session. turn_over: after each turn of reading."""
        self.rejected: Counter[Reject] = Counter()
        """Discarded packets that belong to no session."""
        self.shortest = 3600 * S
        """No session that was Up had a shorter detection time."""
        self._loop = loop
        self._directory = directory
        self._heard = heard
        self._rejected = rejected
        self._turn_over = turn_over
        self._ports: dict[tuple[int, int], _Port] = {}
        self._stale: set[tuple[int, int]] = set()
        self._scheduled = False

    # ------------------------------------------------------------------ sessions come and go

    def open_for(self, spec: SessionSpec) -> None:
        """Makes the socket for such sessions when the first one comes. KernelError when the port cannot be had."""
        family = socket.AF_INET if len(spec.neighbor) == 4 else socket.AF_INET6
        key = (int(family), MULTIHOP_PORT if spec.multihop else CONTROL_PORT)
        if key not in self._ports:
            port = self._ports[key] = _Port(*receivers(*key, _MAY_WAIT))
            self._loop.add_reader(port.receiver.fileno(), self._readable, port)
            self._loop.add_reader(port.urgent.fileno(), self._urgent, port)

    def enlist(self, lane: Lane) -> None:
        """Packets may come for it."""
        self._ports[lane.family, lane.port].lanes.add(lane)
        self.renew(lane)

    def forget(self, lane: Lane) -> None:
        """It is gone; with the last one the socket is."""
        self.forget_known(lane)
        port = self._ports[lane.family, lane.port]
        port.lanes.discard(lane)
        if port.lanes:
            self.renew(lane)
        else:
            del self._ports[port.key]
            self._close(port)

    def renew(self, lane: Lane) -> None:
        """Something changed that the socket's filter depends on. Done on the next turn: thousands may come in this."""
        self._stale.add((lane.family, lane.port))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._renew_filters)

    def close(self) -> None:
        """Nothing is heard any more."""
        for port in self._ports.values():
            self._close(port)
        self._ports.clear()

    def _close(self, port: _Port) -> None:
        if not port.polled:
            self._loop.remove_reader(port.receiver.fileno())
        self._loop.remove_reader(port.urgent.fileno())
        port.receiver.close()
        port.urgent.close()

    def _renew_filters(self) -> None:
        """The kernel lets in only neighbours with the TTL that the least demanding session asks for."""
        self._scheduled = False
        for key in self._stale:
            port = self._ports.get(key)
            if port is None or not port.lanes:
                continue
            floor = min(lane.spec.min_ttl for lane in port.lanes)
            if floor != port.floor:
                port.floor = floor
                for lane in port.lanes:
                    self.forget_known(lane)
            open_to_all = any(not lane.spec.check_source for lane in port.lanes)
            neighbors = None if open_to_all else {lane.spec.neighbor for lane in port.lanes}
            family = 4 if key[0] == socket.AF_INET else 6
            arrival = any(
                lane.spec.interface or lane.spec.min_ttl > floor or self._directory.ambiguous(lane)
                for lane in port.lanes
            )
            for receiver in (port.receiver, port.urgent):
                receiver.attach_filter(source_filter(family, neighbors, floor))
                receiver.tell_arrival(arrival)
        self._stale.clear()

    # ------------------------------------------------------------------ reading

    def drain(self) -> None:
        """Whatever has arrived is heard now."""
        for port in list(self._ports.values()):
            self._drain(port)

    def poll(self, now: int) -> None:
        """Reads the polled ports whose time has come; half a pause early is better than waking up again for it."""
        early = self._poll_pause // 2
        for port in list(self._ports.values()):
            if port.polled and port.next_read - early <= now:
                self._poll(port, now)

    @property
    def next_at(self) -> int:
        """When `poll` is wanted, 0: not."""
        return min((port.next_read for port in self._ports.values() if port.polled), default=0)

    def _readable(self, port: _Port) -> None:
        """Reads until the socket is empty; begins to poll when that happens more often than polling would."""
        self._drain(port)
        now = time.monotonic_ns()
        port.wakes += 1
        if now >= port.window_until:
            pause = self._poll_pause
            if port.wakes > _WINDOW and now < port.window_until + _WINDOW * pause and port.key in self._ports:
                self._loop.remove_reader(port.receiver.fileno())
                port.polled = True
                port.next_read = now + pause
            port.open_window(now, pause)
        self._turn_over()

    def _urgent(self, port: _Port) -> None:
        """Something else than an ordinary packet came."""
        self._drain(port)
        self._turn_over()

    def _drain(self, port: _Port) -> None:
        """Reads until the sockets are empty, or for as long as a turn may last: then sending has its turn.

        What may wait comes first: an ordinary packet that was sent before a Down must not be heard after it.
        """
        for _ in range(_BATCHES_A_TURN):
            if not self._read_batch(port, port.receiver):
                break
        for _ in range(_BATCHES_A_TURN):
            if not self._read_batch(port, port.urgent):
                break

    def _poll(self, port: _Port, now: int) -> None:
        """Its time has come to be read. When less than two packets a look come, it is waited for again."""
        pause = self._poll_pause
        port.next_read = now + pause
        self._drain(port)
        if now >= port.window_until:
            if port.receiver.received - port.window_packets < 2 * _WINDOW and port.key in self._ports:
                port.polled = False
                self._loop.add_reader(port.receiver.fileno(), self._readable, port)
            port.open_window(now, pause)

    @property
    def _poll_pause(self) -> int:
        """Short beside the shortest detection time. Silence is measured by the kernel's stamps and noticed no later for
        it."""
        return min(max(self.shortest // 6, _POLL_LEAST), _POLL_MOST)

    def _read_batch(self, port: _Port, receiver: UdpReceiver) -> bool:
        """Handles one batch. True: there may be more."""
        count = receiver.receive()
        if not count:
            return False
        now = time.monotonic_ns()
        packets = receiver.all_of_24_bytes(count)
        if packets is None:
            packets = tuple(receiver.payload(index) for index in range(count))
        machines = list(map(port.known.get, packets))
        if port.polled and receiver is port.receiver:
            self._refresh_stamped(machines, port, now)
        else:
            self._refresh(machines, now)
        if None in machines:
            for index, machine in enumerate(machines):
                if machine is None:
                    self._hear(port, receiver, index, packets[index], Instant(now))
        receiver.recycle(count)
        if count == receiver.batch:
            return True
        if receiver is port.receiver:
            port.read_at = now
        return False

    @staticmethod
    def _refresh(machines: list[BfdMachine | None], now: int) -> None:
        """These were heard just now. The hot loop: an attribute is cheap, a call is not."""
        for machine in machines:
            if machine is not None:
                gap = now - machine.seen  # type: ignore[operator]  # it was heard before, or it were not known
                if gap > machine.longest_gap:  # noqa: PLR1730
                    machine.longest_gap = gap
                machine.seen = now  # type: ignore[assignment]
                machine.heard += 1

    def _refresh_stamped(self, machines: list[BfdMachine | None], port: _Port, now: int) -> None:
        """`_refresh` for packets that have waited: each was heard when the kernel says, after the last look.

        Those that came as a burst share the stamp of its last one. The kernel's stamps are of the wall clock, which may
        have been set in between: they are not believed beyond the two looks.
        """
        stamp = port.receiver.stamp
        shift, earliest = time.monotonic_ns() - time.time_ns(), port.read_at
        pieces = [(0, len(machines), stamp(0), stamp(len(machines) - 1))]
        while pieces:
            first, end, begun, ended = pieces.pop()
            if end - first == 1 or 0 <= ended - begun <= _BURST:
                self._refresh(machines[first:end], min(max(ended + shift, earliest), now))
            else:
                middle = (first + end) // 2
                pieces.append((middle, end, stamp(middle), ended))
                pieces.append((first, middle, begun, stamp(middle - 1)))

    def _hear(self, port: _Port, receiver: UdpReceiver, index: int, data: bytes, now: Instant) -> None:
        """A packet that is new in some way."""
        lane = port.strict.get(data)
        if lane is not None and receiver.arrival(index)[2] >= lane.spec.min_ttl:
            self._count(lane, now)
            lane.machine.seen = now
            return
        source, _ = receiver.source(index)
        lane = None
        try:
            packet, section = decode(data)
            destination, ifindex, hop_limit = receiver.arrival(index)
            lane = self._directory.find(*port.key, packet.your_discriminator, source, destination, ifindex)
            if lane is None:
                raise PacketError(Reject.NO_SESSION, f"your discriminator {packet.your_discriminator}")
            spec = lane.spec
            if hop_limit and hop_limit < spec.min_ttl:
                raise PacketError(Reject.HOP_LIMIT, f"TTL {hop_limit}, at least {spec.min_ttl}")
            if (spec.check_source and source != spec.neighbor) or (spec.interface and ifindex != lane.ifindex):
                raise PacketError(Reject.SOURCE, "not from the neighbour")
            if packet.authenticated != spec.config.authenticated:
                kind = Reject.AUTH_UNEXPECTED if packet.authenticated else Reject.AUTH_MISSING
                raise PacketError(kind)
            machine = lane.machine
            if lane.authenticator is not None:
                recent = machine.seen is not None and now - machine.seen <= 2 * machine.detection
                lane.authenticator.check(data, packet, section, recent=recent)
                if lane.memory_slot is not None:
                    lane.memory_slot.keep_sequences(lane.authenticator)
        except PacketError as error:
            counts = self.rejected if lane is None else lane.rejected
            counts[error.reject] = counts.get(error.reject, 0) + 1
            self._rejected(lane, error, source)
            return
        self._count(lane, now)
        self._heard(lane, packet, now)
        if machine.settled and not packet.poll and not packet.final and not lane.seals_each and not lane.leaving:
            self._know(port, lane, data)
        elif lane.known and lane.known != data:
            self.forget_known(lane)

    @staticmethod
    def _count(lane: Lane, now: Instant) -> None:
        machine = lane.machine
        machine.heard += 1
        if machine.state is State.UP and machine.seen is not None:
            machine.longest_gap = max(machine.longest_gap, now - machine.seen)

    def _know(self, port: _Port, lane: Lane, data: bytes) -> None:
        if lane.known == data:
            return
        self.forget_known(lane)
        lane.known = data
        if lane.spec.min_ttl > port.floor:
            port.strict[data] = lane
        else:
            port.known[data] = lane.machine

    def forget_known(self, lane: Lane) -> None:
        """The next packet of this session goes the long way, whatever it is."""
        if lane.known:
            port = self._ports[lane.family, lane.port]
            port.known.pop(lane.known, None)
            port.strict.pop(lane.known, None)
            lane.known = b""
