"""All BFD sessions of one cell on few sockets: the carrier of the machines.

Its turn: packets are read in batches; one that equals the last of its session is looked up by its bytes and costs a
dictionary look-up; any other one is decoded, checked and handed to its machine. What the machine orders is carried
out at once: rows rewritten, groups changed, answers sent. Sending and detection times are in wheel.py.

The engine is told what to do by actor.py and tells it of changes of state, never of packets.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from holdfast.actors.bfd.auth import Authenticator
from holdfast.actors.bfd.directory import Directory, interface_index, source_of
from holdfast.actors.bfd.echo import EchoPort
from holdfast.actors.bfd.lane import Lane
from holdfast.actors.bfd.machine import (
    Answer,
    BfdMachine,
    Changed,
    Disabled,
    EchoHeard,
    Enabled,
    PacketHeard,
    PathLost,
    Reconfigured,
    Refreshed,
    Transmit,
    TransmitEcho,
)
from holdfast.actors.bfd.memory import Kept, MemoryStore
from holdfast.actors.bfd.packet import CONTROL_PORT, MAX_U32, MULTIHOP_PORT, PacketError, Reject, State, decode
from holdfast.actors.bfd.profiles import SessionSpec
from holdfast.actors.bfd.wheel import DetectionWheel, Pacer
from holdfast.actors.runtime.machine import MS, US, Action, Deadline, Fact, Instant, S
from holdfast.kernel.source_filter import source_filter
from holdfast.kernel.timers import TimerFd
from holdfast.kernel.udp_batch import Path, RawUdpSender, Rows, UdpReceiver

_BATCHES_A_TURN = 32
"""How many batches are read before deadlines are looked at again."""

_BRISK = 8
"""So many wake-ups in quick succession make a port polled; as many empty looks end it."""

_POLL_LEAST, _POLL_MOST = MS // 4, 10 * MS
"""How long a polled port is left alone."""

_RETRY = S
"""How often a session without a source address looks for one, if nobody told of a change."""

_LINGER_LEAST = 2500 * MS
"""How long a removed session tells its peer AdminDown: a few packets, since one may be lost."""


class Listener(Protocol):
    """Whom the engine tells."""

    def state_changed(self, lane: Lane, changed: Changed) -> None:
        """The session has another state, or was started."""

    def rejected(self, lane: Lane | None, error: PacketError, source: bytes) -> None:
        """A packet was discarded. lane None: it belongs to no session."""


class _Port:
    """A receiver with the sessions that hear by it.

    While packets come often, nobody waits for each: the port is read every few packets (`polled`), as network drivers
    do it. It saves most of the wake-ups, and the kernel the waking.
    """

    __slots__ = ("brisk", "empty", "floor", "known", "lanes", "next_read", "polled", "read_at", "receiver", "strict")

    def __init__(self, receiver: UdpReceiver) -> None:
        self.receiver = receiver
        self.lanes: set[Lane] = set()
        self.known: dict[bytes, BfdMachine] = {}
        self.strict: dict[bytes, Lane] = {}
        """Like `known`, for sessions that ask for a higher TTL than the socket does."""
        self.floor = 0
        """The least TTL that the socket's filter lets in."""
        self.polled = False
        self.next_read = 0
        self.read_at = 0
        self.brisk = 0
        """How many times in a row it became readable soon after the time before."""
        self.empty = 0
        """How many times in a row nothing had come when it was polled."""


class Engine:
    """The sessions of one cell. Everything is called on the cell's loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: Listener,
        chance: random.Random,
        *,
        memory: MemoryStore | None = None,
    ) -> None:
        """chance: jitter, discriminators and source ports; random.SystemRandom() but for tests."""
        self.lanes: dict[str, Lane] = {}
        self.rejected: Counter[Reject] = Counter()
        """Discarded packets that belong to no session."""
        self._loop = loop
        self._listener = listener
        self._chance = chance
        self._memory = memory
        self._timer = TimerFd()
        self._wheel = DetectionWheel()
        self._rows = Rows()
        self._ports: dict[tuple[int, int], _Port] = {}
        self._senders: dict[int, RawUdpSender] = {}
        self._pacers: dict[int, Pacer] = {}
        self._directory = Directory(chance)
        self._leaving: list[tuple[int, Lane]] = []
        self._unrouted: set[Lane] = set()
        self._retry_at = 0
        self._echo: EchoPort | None = None
        self._filters_stale: set[tuple[int, int]] = set()
        self._filters_scheduled = False
        self._closed = False
        self._shortest = 3600 * S
        """No session that was Up had a shorter detection time."""
        loop.add_reader(self._timer.fileno(), self._timer_fired)

    # ------------------------------------------------------------------ sessions come, change and go

    def add(self, spec: SessionSpec, former: Kept | None = None) -> Lane:
        """Begins a session; with `former`, goes on with that of a former process. KernelError without sockets."""
        assert spec.name not in self.lanes
        port = self._port(spec)
        if former is not None and (former.neighbor, former.multihop) != (spec.neighbor, spec.multihop):
            former = None
        directory = self._directory
        discriminator = directory.new_discriminator(None if former is None else former.memory.local_discriminator)
        source_port = directory.new_source_port(None if former is None else former.source_port)
        machine = BfdMachine(spec.config, discriminator)
        lane = Lane(spec, machine, source_port, self._rows)
        lane.memory_slot = None if self._memory is None else self._memory.take()
        self._authenticate(lane, former)
        self.lanes[spec.name] = lane
        self._enlist(lane, port)
        self._supersede(lane)
        now = self._now()
        self._find_route(lane, now)
        if former is None or former.memory.local_discriminator != discriminator:
            actions = machine.start(now)
        else:
            lane.disabled = former.disabled
            actions = machine.restore(former.memory, now)
        self._carry_out(lane, actions, now)
        if spec.disabled or lane.disabled:
            self._step(lane, Disabled(), now)
        self._rearm()
        return lane

    def change(self, spec: SessionSpec) -> Lane:
        """New settings for a session. It lives on if it is still the same (neighbour, hops, source, interface)."""
        lane = self.lanes[spec.name]
        old = lane.spec
        if (old.neighbor, old.multihop, old.source, old.interface) != (
            spec.neighbor,
            spec.multihop,
            spec.source,
            spec.interface,
        ):
            self.remove(spec.name)
            return self.add(spec)
        now = self._now()
        lane.spec = spec
        if (old.auth_type, old.keys) != (spec.auth_type, spec.keys):
            self._forget_known(lane)
            self._authenticate(lane)
        if old.min_ttl != spec.min_ttl:
            self._forget_known(lane)
            self._filters_stale.add((lane.family, lane.port))
        if old.ttl != spec.ttl:
            self._find_route(lane, now)
        self._step(lane, Reconfigured(spec.config), now)
        if spec.disabled != old.disabled:
            lane.disabled = False
            self._step(lane, Disabled() if spec.disabled else Enabled(), now)
        self._rearm()
        return lane

    def remove(self, name: str) -> None:
        """Ends a session: its peer is told AdminDown for a while, and nobody here hears of it again."""
        lane = self.lanes.pop(name)
        now = self._now()
        self._step(lane, Disabled(), now)
        lane.leaving = True
        self._delist(lane)
        self._leaving.append((now + max(lane.machine.detection, _LINGER_LEAST), lane))
        self._rearm()

    def disable(self, name: str) -> None:
        """Takes the session to AdminDown until `enable`."""
        self.lanes[name].disabled = True
        self._step(self.lanes[name], Disabled(), self._now())
        self._rearm()

    def enable(self, name: str) -> None:
        """Ends `disable`."""
        self.lanes[name].disabled = False
        self._step(self.lanes[name], Enabled(), self._now())
        self._rearm()

    def interface_changed(self, name: str, *, up: bool) -> None:
        """A session bound to an interface need not wait for its detection time when that goes down."""
        now = self._now()
        for lane in [each for each in self.lanes.values() if each.spec.interface == name]:
            self._find_route(lane, now)
            if not up:
                self._step(lane, PathLost(), now)
        self._rearm()

    def address_removed(self, address: bytes) -> None:
        """Nobody sends from an address that may be another host's by now."""
        now = self._now()
        for lane in list(self.lanes.values()):
            if lane.path is not None and lane.path.source == address:
                self._find_route(lane, now)
        self._rearm()

    def address_added(self) -> None:
        """Sessions that have no source address look for one."""
        now = self._now()
        for lane in list(self._unrouted):
            self._find_route(lane, now)
        self._rearm()

    async def goodbye(self, seconds: float = 0.5) -> None:
        """Tells every peer AdminDown, twice, and closes. At the end of the process."""
        now = self._now()
        for lane in list(self.lanes.values()):
            self._step(lane, Disabled(), now)
        await asyncio.sleep(min(seconds, 0.2))
        for lane in self.lanes.values():
            if lane.packet is not None:
                self._send_one(lane)
        self.close()

    def close(self) -> None:
        """Lets go of everything at once; peers find out by their detection time."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._timer.fileno())
        self._timer.close()
        for port in self._ports.values():
            if not port.polled:
                self._loop.remove_reader(port.receiver.fileno())
            port.receiver.close()
        for sender in self._senders.values():
            sender.close()
        if self._echo is not None:
            self._echo.close()
        self._ports.clear()
        self._senders.clear()

    # ------------------------------------------------------------------ receiving

    def _readable(self, port: _Port) -> None:
        """Reads until the socket is empty; begins to poll when that happens too often."""
        self._drain(port)
        now = time.monotonic_ns()
        pause = self._poll_pause
        port.brisk = port.brisk + 1 if now - port.read_at < pause else 0
        port.read_at = now
        if port.brisk >= _BRISK and not self._closed:
            self._loop.remove_reader(port.receiver.fileno())
            port.polled = True
            port.empty = 0
            port.next_read = now + pause
        self._rearm()

    def _drain(self, port: _Port) -> None:
        """Reads until the socket is empty; every so many batches deadlines get their turn."""
        batches = 0
        while not self._closed and self._read_batch(port):
            batches += 1
            if batches % _BATCHES_A_TURN == 0:
                self._due()

    def _poll(self, port: _Port, now: int) -> None:
        """Its time has come to be read. When little comes any more, it is waited for again."""
        port.next_read = now + self._poll_pause
        before = port.receiver.received
        self._drain(port)
        port.read_at = now
        if port.receiver.received > before:
            port.empty = 0
            return
        port.empty += 1
        if port.empty >= _BRISK and not self._closed:
            port.polled = False
            port.brisk = 0
            self._loop.add_reader(port.receiver.fileno(), self._readable, port)

    @property
    def _poll_pause(self) -> int:
        """Short beside the shortest detection time. Silence is measured by the kernel's stamps and noticed no later for
        it; but a peer's Down, and its polls, wait for the next look."""
        return min(max(self._shortest // 16, _POLL_LEAST), _POLL_MOST)

    def _read_batch(self, port: _Port) -> bool:
        """Handles one batch. True: there may be more."""
        receiver = port.receiver
        count = receiver.receive()
        if not count:
            return False
        now = time.monotonic_ns()
        packets = receiver.all_of_24_bytes(count)
        if packets is None:
            packets = tuple(receiver.payload(index) for index in range(count))
        machines = list(map(port.known.get, packets))
        if port.polled:
            self._refresh_stamped(machines, receiver.stamps(count), port.read_at, now)
        else:
            self._refresh(machines, now)
        if None in machines:
            for index, machine in enumerate(machines):
                if machine is None:
                    self._hear(port, index, packets[index], Instant(now))
        receiver.recycle(count)
        return count == receiver.batch

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

    @staticmethod
    def _refresh_stamped(machines: list[BfdMachine | None], stamps: list[int], earliest: int, now: int) -> None:
        """`_refresh` for packets that have waited: each was heard when the kernel says, after the last look.

        The kernel's stamps are of the wall clock, which may have been set in between: they are not believed beyond
        the two looks.
        """
        shift = now - time.time_ns()
        for machine, stamp in zip(machines, stamps, strict=True):
            if machine is not None:
                heard_at = min(max(stamp + shift, earliest), now)
                gap = heard_at - machine.seen  # type: ignore[operator]
                if gap > machine.longest_gap:  # noqa: PLR1730
                    machine.longest_gap = gap
                machine.seen = heard_at  # type: ignore[assignment]
                machine.heard += 1

    def _hear(self, port: _Port, index: int, data: bytes, now: Instant) -> None:
        """A packet that is new in some way."""
        lane = port.strict.get(data)
        if lane is not None and port.receiver.arrival(index)[2] >= lane.spec.min_ttl:
            self._count(lane, now)
            lane.machine.seen = now
            return
        source, _ = port.receiver.source(index)
        lane = None
        try:
            packet, section = decode(data)
            destination, ifindex, hop_limit = port.receiver.arrival(index)
            lane = self._directory.find(
                port.receiver.family, port.receiver.port, packet.your_discriminator, source, destination, ifindex
            )
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
            self._listener.rejected(lane, error, source)
            return
        self._count(lane, now)
        self._step(lane, PacketHeard(packet), now)
        if machine.settled and not packet.poll and not packet.final and not lane.seals_each and not lane.leaving:
            self._know(port, lane, data)
        elif lane.known and lane.known != data:
            self._forget_known(lane)

    @staticmethod
    def _count(lane: Lane, now: Instant) -> None:
        machine = lane.machine
        machine.heard += 1
        if machine.state is State.UP and machine.seen is not None:
            machine.longest_gap = max(machine.longest_gap, now - machine.seen)

    def _know(self, port: _Port, lane: Lane, data: bytes) -> None:
        if lane.known == data:
            return
        self._forget_known(lane)
        lane.known = data
        if lane.spec.min_ttl > port.floor:
            port.strict[data] = lane
        else:
            port.known[data] = lane.machine

    def _forget_known(self, lane: Lane) -> None:
        if lane.known:
            port = self._ports[lane.family, lane.port]
            port.known.pop(lane.known, None)
            port.strict.pop(lane.known, None)
            lane.known = b""

    # ------------------------------------------------------------------ time

    def _timer_fired(self) -> None:
        if self._timer.clear():
            self._due()
            self._rearm()

    def _due(self) -> None:
        """Sends what is due, and ends what has been silent for too long, after it had its chance to be heard."""
        now = time.monotonic_ns()
        for pacer in self._pacers.values():
            pacer.fire(now)
        for port in list(self._ports.values()):
            # Half a pause early is better than waking up again for it.
            if port.polled and port.next_read - self._poll_pause // 2 <= now:
                self._poll(port, now)
        self._wheel.look_ahead(now)
        ended = self._wheel.due(now)
        if ended:
            for port in list(self._ports.values()):
                for _ in range(_BATCHES_A_TURN):
                    if not self._read_batch(port):
                        break
            now = time.monotonic_ns()
            for lane in ended:
                self._step(lane, Deadline(), Instant(now))
        if self._echo is not None:
            self._echo.fire(now)
        if self._leaving and self._leaving[0][0] <= now:
            self._bury(now)
        if self._unrouted and self._retry_at <= now:
            self._retry_at = now + _RETRY
            for lane in list(self._unrouted):
                self._find_route(lane, Instant(now))

    def _rearm(self) -> None:
        if self._closed:
            return
        if self._filters_stale and not self._filters_scheduled:
            # On the next turn: thousands of sessions may be added in this one.
            self._filters_scheduled = True
            self._loop.call_soon(self._renew_filters)
        at = self._wheel.next_at()
        for pacer in self._pacers.values():
            other = pacer.next_at()
            if other and (other < at or not at):
                at = other
        for port in self._ports.values():
            if port.polled and (port.next_read < at or not at):
                at = port.next_read
        for other in self._rare():
            if other < at or not at:
                at = other
        if at and at != self._timer.armed_at:
            self._timer.arm(Instant(at))

    def _rare(self) -> Iterable[int]:
        if self._echo is not None and self._echo.next_at:
            yield self._echo.next_at
        if self._leaving:
            yield self._leaving[0][0]
        if self._unrouted:
            yield self._retry_at

    # ------------------------------------------------------------------ carrying out

    def _step(self, lane: Lane, fact: Fact, now: Instant) -> None:
        machine = lane.machine
        was_settled = machine.settled
        self._carry_out(lane, machine.step(fact, now), now)
        if was_settled and not machine.settled:
            self._forget_known(lane)

    def _carry_out(self, lane: Lane, actions: list[Action], now: Instant) -> None:
        remember = False
        for action in actions:
            match action:
                case Transmit():
                    self._transmit(lane, action, now)
                case Answer():
                    self._answer(lane, action)
                case Changed():
                    remember = True
                    self._changed(lane, action, now)
                case Refreshed():
                    remember = True
                case TransmitEcho():
                    self._echo_port().pace(lane, action.interval_us, now)
        lane.refresh_limit()
        if 0 < lane.limit < self._shortest and lane.machine.state is State.UP:
            self._shortest = lane.limit
        self._wheel.watch(lane)
        if remember:
            lane.remember()

    def _changed(self, lane: Lane, changed: Changed, now: Instant) -> None:
        lane.last_change = changed
        lane.last_change_at = now
        if changed.new is State.UP and changed.old is not State.UP:
            lane.ups += 1
            lane.machine.longest_gap = 0
        elif changed.old is State.UP and changed.new is not State.UP:
            lane.downs += 1
        if not lane.leaving:
            self._listener.state_changed(lane, changed)

    def _transmit(self, lane: Lane, order: Transmit, now: Instant) -> None:
        if order.packet is None:
            self._pacers[lane.family].leave(lane)
            lane.packet = None
            return
        lane.load(order.packet)
        if lane.path is None:
            return
        if order.at_once:
            self._send_one(lane)
        pacer = self._pacers[lane.family]
        group = lane.group
        mult_is_one = lane.machine.config.detect_mult == 1
        if group is not None and (group.interval_us, group.detect_mult_is_one) == (order.interval_us, mult_is_one):
            return
        pacer.leave(lane)
        group = pacer.join(lane, order.interval_us, now)
        if not order.at_once and group.at - now > order.interval_us * US:
            # Its group has its turn so late that the peer would hear nothing for more than an interval.
            self._send_one(lane)

    def _answer(self, lane: Lane, answer: Answer) -> None:
        """Sends one packet out of turn, from the row of the periodic one, which is put back."""
        if lane.path is None:
            return
        periodic = lane.packet
        lane.load(answer.packet)
        self._send_one(lane)
        lane.packet = periodic
        if periodic is not None:
            lane.load(periodic)

    def _send_one(self, lane: Lane) -> None:
        if lane.path is None:
            return
        if lane.seals_each:
            lane.reseal()
        number = self._senders[lane.family].send_one(lane.row)
        lane.sent += 1
        if number:
            lane.send_errors += 1
            lane.last_send_errno = number

    # ------------------------------------------------------------------ echo

    def _echo_port(self) -> EchoPort:
        if self._echo is None:
            self._echo = EchoPort(self._loop, self._echo_came_back, self._directory.by_discriminator)
        return self._echo

    def _echo_came_back(self, lane: Lane, now: Instant) -> None:
        self._step(lane, EchoHeard(), now)
        self._rearm()

    # ------------------------------------------------------------------ tables

    @staticmethod
    def _now() -> Instant:
        return Instant(time.monotonic_ns())

    def _port(self, spec: SessionSpec) -> _Port:
        """The receiver for such sessions, made when the first one comes."""
        family = socket.AF_INET if len(spec.neighbor) == 4 else socket.AF_INET6
        key = (family, MULTIHOP_PORT if spec.multihop else CONTROL_PORT)
        port = self._ports.get(key)
        if port is None:
            if family not in self._senders:
                sender = RawUdpSender(family)
                self._senders[family] = sender
                self._pacers[family] = Pacer(sender.send, self._chance)
            port = self._ports[key] = _Port(UdpReceiver(*key))
            self._loop.add_reader(port.receiver.fileno(), self._readable, port)
        return port

    def _enlist(self, lane: Lane, port: _Port) -> None:
        port.lanes.add(lane)
        self._directory.enlist(lane)
        self._filters_stale.add((lane.family, lane.port))
        if lane.spec.config.echo_rx_us and self._echo is None:
            self._echo_port()
        if self._echo is not None and lane.spec.config.echo_rx_us:
            self._echo.loop_for(lane)

    def _delist(self, lane: Lane) -> None:
        self._forget_known(lane)
        self._directory.dismiss(lane)

    def _bury(self, now: int) -> None:
        staying = []
        for at, lane in self._leaving:
            if at > now:
                staying.append((at, lane))
            else:
                self._forget(lane)
        self._leaving = staying

    def _forget(self, lane: Lane) -> None:
        self._pacers[lane.family].leave(lane)
        lane.packet = None
        lane.route(None)
        self._directory.forget(lane)
        if lane.memory_slot is not None:
            lane.memory_slot.release()
        key = (lane.family, lane.port)
        port = self._ports[key]
        port.lanes.discard(lane)
        if self._echo is not None:
            self._echo.forget(lane)
        if port.lanes:
            self._filters_stale.add(key)
            return
        if not port.polled:
            self._loop.remove_reader(port.receiver.fileno())
        port.receiver.close()
        del self._ports[key]

    def _supersede(self, lane: Lane) -> None:
        """A new session with the neighbour of a leaving one: the farewells of the old must not end the new."""
        spec = lane.spec
        for entry in [
            each
            for each in self._leaving
            if (each[1].spec.neighbor, each[1].spec.multihop) == (spec.neighbor, spec.multihop)
        ]:
            self._leaving.remove(entry)
            self._forget(entry[1])

    def _renew_filters(self) -> None:
        """The kernel lets in only neighbours with the TTL that the least demanding session asks for."""
        self._filters_scheduled = False
        for key in self._filters_stale:
            port = self._ports.get(key)
            if port is None or not port.lanes:
                continue
            floor = min(lane.spec.min_ttl for lane in port.lanes)
            if floor != port.floor:
                port.floor = floor
                for lane in port.lanes:
                    self._forget_known(lane)
            open_to_all = any(not lane.spec.check_source for lane in port.lanes)
            neighbors = None if open_to_all else {lane.spec.neighbor for lane in port.lanes}
            family = 4 if key[0] == socket.AF_INET else 6
            port.receiver.attach_filter(source_filter(family, neighbors, floor))
            port.receiver.tell_arrival(
                any(
                    lane.spec.interface or lane.spec.min_ttl > floor or self._directory.ambiguous(lane)
                    for lane in port.lanes
                )
            )
        self._filters_stale.clear()

    def _authenticate(self, lane: Lane, former: Kept | None = None) -> None:
        spec = lane.spec
        if spec.auth_type is None:
            lane.authenticator = None
            lane.seals_each = False
            return
        sequence, received = self._chance.randrange(MAX_U32 + 1), None
        if lane.authenticator is not None:
            sequence, received = lane.authenticator.sequence, lane.authenticator.received_sequence
        elif former is not None and spec.auth_type.digest_bytes:
            sequence, received = former.sequence, former.received_sequence
        lane.authenticator = Authenticator(spec.auth_type, spec.keys, sequence)
        lane.authenticator.received_sequence = received
        lane.seals_each = spec.auth_type.meticulous

    # ------------------------------------------------------------------ source addresses

    def _find_route(self, lane: Lane, now: Instant) -> None:
        """Finds out from where and by which interface the session sends; without an answer it is silent."""
        spec = lane.spec
        ifindex = interface_index(spec)
        source = source_of(lane, ifindex)
        old = lane.path
        lane.ifindex = ifindex
        if source is None:
            self._unrouted.add(lane)
            if self._retry_at <= now:
                self._retry_at = now + _RETRY
            new = None
        else:
            self._unrouted.discard(lane)
            new = Path(source, spec.neighbor, lane.source_port, lane.port, hop_limit=spec.ttl, interface=ifindex)
        if old is not None and new is not None and old.same_as(new):
            return
        if old is None and new is None:
            return
        packet = lane.packet
        self._pacers[lane.family].leave(lane)
        lane.route(new)
        if packet is not None and new is not None:
            interval_us = lane.machine.transmit_interval_us
            self._transmit(lane, Transmit(packet, interval_us, old is None), now)
