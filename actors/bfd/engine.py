"""All BFD sessions of one cell on few sockets: the carrier of the machines.

hearing.py brings the packets that are new in some way; each goes to its machine, and what the machine orders is carried
out at once: rows rewritten, groups changed, answers sent. Periodic sending and detection times are in wheel.py.

The engine is told what to do by room.py and tells it of changes of state, never of packets.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import Counter
from collections.abc import Iterable

from holdfast.actors.bfd.auth import Authenticator
from holdfast.actors.bfd.directory import Directory, interface_index, source_of
from holdfast.actors.bfd.echo import EchoPort
from holdfast.actors.bfd.facts import (
    Answer,
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
from holdfast.actors.bfd.hearing import Hearing
from holdfast.actors.bfd.lane import Lane
from holdfast.actors.bfd.listener import Listener
from holdfast.actors.bfd.machine import BfdMachine
from holdfast.actors.bfd.memory import Kept, MemoryStore
from holdfast.actors.bfd.packet import MAX_U32, ControlPacket, Reject, State
from holdfast.actors.bfd.profiles import SessionSpec
from holdfast.actors.bfd.vigil import Vigil
from holdfast.actors.bfd.wheel import DetectionWheel, Pacer
from holdfast.actors.runtime.machine import MS, US, Action, Deadline, Fact, Instant, S
from holdfast.kernel.timers import TimerFd
from holdfast.kernel.udp_batch import Path, RawUdpSender, Rows

_RETRY = S
"""How often a session without a source address looks for one, if nobody told of a change."""

_LINGER_LEAST = 2500 * MS
"""How long a removed session tells its peer AdminDown: a few packets, since one may be lost."""


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
        self._loop = loop
        self._listener = listener
        self._chance = chance
        self._memory = memory
        self._timer = TimerFd()
        self._rows = Rows()
        self._senders: dict[int, RawUdpSender] = {}
        self._pacers: dict[int, Pacer] = {}
        self._directory = Directory(chance)
        self._hearing = Hearing(
            loop, self._directory, heard=self._heard, rejected=listener.rejected, turn_over=self._rearm
        )
        self._vigil = Vigil(listener.faltering, listener.rehearse, self._hearing.drain)
        self._wheel = DetectionWheel(self._vigil.faltering)
        self._leaving: list[tuple[int, Lane]] = []
        self._unfinished: list[tuple[Lane, Transmit | None, bool, Instant]] = []
        self._unrouted: set[Lane] = set()
        self._retry_at = 0
        self._echo: EchoPort | None = None
        self._closed = False
        loop.add_reader(self._timer.fileno(), self._timer_fired)

    @property
    def rejected(self) -> Counter[Reject]:
        """Discarded packets that belong to no session."""
        return self._hearing.rejected

    # ------------------------------------------------------------------ sessions come, change and go

    def add(self, spec: SessionSpec, former: Kept | None = None) -> Lane:
        """Begins a session; with `former`, goes on with that of a former process. KernelError without sockets."""
        assert spec.name not in self.lanes
        self._hearing.open_for(spec)
        self._open_sender(len(spec.neighbor))
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
        self._enlist(lane)
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
            self._hearing.forget_known(lane)
            self._authenticate(lane)
        if old.min_ttl != spec.min_ttl:
            self._hearing.forget_known(lane)
            self._hearing.renew(lane)
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
        self._finish()
        self._loop.remove_reader(self._timer.fileno())
        self._timer.close()
        self._hearing.close()
        for sender in self._senders.values():
            sender.close()
        if self._echo is not None:
            self._echo.close()
        self._senders.clear()

    # ------------------------------------------------------------------ time

    def _timer_fired(self) -> None:
        if self._timer.clear():
            self._due()
            self._rearm()

    def _due(self) -> None:
        """Sends what is due, and ends what has been silent for too long, after it had its chance to be heard."""
        now = self._vigil.wait(time.monotonic_ns())
        for pacer in self._pacers.values():
            pacer.fire(now)
        self._hearing.poll(now)
        self._wheel.look_ahead(now)
        ended = self._wheel.due(now)
        if ended:
            self._hearing.drain()
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
        at = self._wheel.next_at()
        for pacer in self._pacers.values():
            other = pacer.next_at()
            if other and (other < at or not at):
                at = other
        for other in self._rare():
            if other < at or not at:
                at = other
        if at and at != self._timer.armed_at:
            self._timer.arm(Instant(at))

    def _rare(self) -> Iterable[int]:
        if self._hearing.next_at:
            yield self._hearing.next_at
        if self._echo is not None and self._echo.next_at:
            yield self._echo.next_at
        if self._leaving:
            yield self._leaving[0][0]
        if self._unrouted:
            yield self._retry_at
        if self._vigil.next_at:
            yield self._vigil.next_at

    # ------------------------------------------------------------------ carrying out

    def _heard(self, lane: Lane, packet: ControlPacket, now: Instant) -> None:
        self._step(lane, PacketHeard(packet), now)

    def _step(self, lane: Lane, fact: Fact, now: Instant) -> None:
        machine = lane.machine
        was_settled = machine.settled
        self._carry_out(lane, machine.step(fact, now), now)
        if was_settled and not machine.settled:
            self._hearing.forget_known(lane)

    def _carry_out(self, lane: Lane, actions: list[Action], now: Instant) -> None:
        if self._unfinished:
            self._finish()
        remember = lost = False
        transmit: Transmit | None = None
        for action in actions:
            match action:
                case Transmit():
                    transmit = action
                    self._load(lane, action)
                case Answer():
                    self._answer(lane, action)
                case Changed():
                    remember = True
                    lost = action.old is State.UP
                    self._changed(lane, action, now)
                case Refreshed():
                    remember = True
                case TransmitEcho():
                    self._echo_port().pace(lane, action.interval_us, now)
        lane.refresh_limit()
        if 0 < lane.limit < self._hearing.shortest and lane.machine.state is State.UP:
            self._hearing.shortest = lane.limit
        self._wheel.watch(lane)
        self._unfinished.append((lane, transmit, remember, now))
        if lost:
            # Whoever is to hear of it hears of it first.
            self._loop.call_soon(self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        """What nobody waits for after a step: the place among those that send equally often, and the memory."""
        unfinished, self._unfinished = self._unfinished, []
        for lane, transmit, remember, now in unfinished:
            if transmit is not None:
                self._pace(lane, transmit, now)
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

    def _load(self, lane: Lane, order: Transmit) -> None:
        """The new packet is ready, and sent if it is not to wait for its turn."""
        if order.packet is None:
            self._pacers[lane.family].leave(lane)
            lane.packet = None
            return
        lane.load(order.packet)
        if order.at_once:
            self._send_one(lane)

    def _pace(self, lane: Lane, order: Transmit, now: Instant) -> None:
        """The lane sends as often as ordered."""
        if order.packet is None or lane.path is None:
            return
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

    def _open_sender(self, address_bytes: int) -> None:
        family = socket.AF_INET if address_bytes == 4 else socket.AF_INET6
        if family not in self._senders:
            sender = self._senders[family] = RawUdpSender(family)
            self._pacers[family] = Pacer(sender.send, self._chance)

    def _enlist(self, lane: Lane) -> None:
        self._directory.enlist(lane)
        self._hearing.enlist(lane)
        if lane.spec.config.echo_rx_us and self._echo is None:
            self._echo_port()
        if self._echo is not None and lane.spec.config.echo_rx_us:
            self._echo.loop_for(lane)

    def _delist(self, lane: Lane) -> None:
        self._hearing.forget_known(lane)
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
        self._finish()
        self._pacers[lane.family].leave(lane)
        lane.packet = None
        lane.route(None)
        self._directory.forget(lane)
        if lane.memory_slot is not None:
            lane.memory_slot.release()
        self._hearing.forget(lane)
        if self._echo is not None:
            self._echo.forget(lane)

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
        self._finish()
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
            order = Transmit(packet, interval_us, old is None)
            self._load(lane, order)
            self._pace(lane, order, now)
