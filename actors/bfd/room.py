"""The BFD room of a cell: which sessions exist. It owns the engine and an actor for each session, hands them their
configuration and decides nothing else. One per cell, made by `actor.start`."""

from __future__ import annotations

import ipaddress
import logging
import random
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec
from pykka import ActorRef

from holdfast.actors.bfd.config import BfdRoom
from holdfast.actors.bfd.describe import describe, dump_text
from holdfast.actors.bfd.engine import Engine
from holdfast.actors.bfd.facts import Cause, Changed
from holdfast.actors.bfd.lane import Lane
from holdfast.actors.bfd.memory import MemoryStore
from holdfast.actors.bfd.messages import (
    BfdDisable,
    BfdDone,
    BfdEnable,
    BfdSessions,
    BfdShow,
    BfdStateChanged,
)
from holdfast.actors.bfd.packet import Diagnostic, PacketError, State
from holdfast.actors.bfd.profiles import BfdSettings, BfdSettingsError, SessionSpec, parse_settings, session_spec
from holdfast.actors.bfd.session_actor import Faltering, Happened, Removed, Respecified, SessionActor, state_event
from holdfast.actors.bfd.telling import Telling
from holdfast.actors.runtime.context import CellContext, Generation
from holdfast.actors.runtime.machine import Instant
from holdfast.bus.base import Caller
from holdfast.bus.envelope import Envelope, pack
from holdfast.bus.messages import Command, EventId, Failed, Reason, Reply
from holdfast.kernel.base import KernelError
from holdfast.kernel.faces import Links
from holdfast.kernel.records import AddressChanged, Change, LinkChanged

log = logging.getLogger("holdfast.bfd")

_TURN_NS = 1_000_000
"""How long new sessions may keep the engine from its packets in one turn of the loop."""

_RETRY_S = 5.0
"""A session that found no sockets (another BFD daemon has the port) is tried again this often."""

_COMPLAIN_EVERY_S = 60.0
"""One line in the log a minute for each reason why packets of a session are discarded."""


class Room:
    """See the file's first lines. It is the engine's listener."""

    def __init__(self, context: CellContext, links: Links, chance: random.Random) -> None:
        self._context = context
        self._loop = context.loop
        self._actors: dict[str, ActorRef[SessionActor]] = {}
        self._specs: dict[str, SessionSpec] = {}
        self._settings = BfdSettings()
        self._waiting: set[str] = set()
        self._telling = Telling(
            lambda name, happened: self._actors[name].tell(happened),
            self._loop.call_later,
        )
        self._unbegun: deque[SessionSpec] = deque()
        self._complained: dict[tuple[str, str], float] = {}
        self._addresses_came = False
        self._told = {
            envelope.event.session: envelope.event
            for envelope in context.restored
            if isinstance(envelope.event, BfdStateChanged)
        }
        self._memory = MemoryStore(context.run_dir / f"{context.cell}.bfd-memory")
        # What a whole daemon left behind that was killed long ago is not the present.
        self._former = self._memory.former if self._told else {}
        self.engine = Engine(context.loop, self, chance, memory=self._memory)
        links.on_address(self._address)
        links.on_link(self._link)
        context.on_stop(self._stop)
        context.on_dump(lambda: dump_text(self.engine))
        context.bus.serve("bfd", self._command)
        context.slices("bfd", self._apply)

    # ------------------------------------------------------------------ configuration

    def _apply(self, generation: Generation) -> None:
        data = generation.slices.get("room")
        room = msgspec.msgpack.decode(data, type=BfdRoom) if data is not None else BfdRoom()
        try:
            raw = generation.slices.get("settings")
            self._settings = parse_settings({} if raw is None else msgspec.msgpack.decode(raw, type=dict[str, Any]))
        except BfdSettingsError as error:
            for message in error.messages:
                log.error("holdfast.toml: %s", message)
            if generation.initial:
                log.error("No BFD session is started with a mistake in [bfd]")
                return
            log.error("The former settings of [bfd] stay in force")
        wanted = {each.name: session_spec(each, self._settings) for each in room.instances}
        for name in set(self._specs) - set(wanted):
            self._remove(name)
        for name, spec in wanted.items():
            if name not in self._specs:
                self._add(spec)
            elif self._specs[name] != spec:
                self._change(spec)

    def _add(self, spec: SessionSpec) -> None:
        self._specs[spec.name] = spec
        told = self._told.pop(spec.name, None)
        self._actors[spec.name] = SessionActor.start(spec, bus=self._context.bus, told=told)
        if not self._unbegun:
            self._loop.call_soon(self._begin_some)
        self._unbegun.append(spec)

    def _begin_some(self) -> None:
        """A reload that brings thousands of sessions must not make the others miss their turns."""
        end = time.monotonic_ns() + _TURN_NS
        while self._unbegun and time.monotonic_ns() < end:
            name = self._unbegun.popleft().name
            if name in self._specs and name not in self.engine.lanes:
                self._begin(self._specs[name])
        if self._unbegun:
            self._loop.call_soon(self._begin_some)

    def _begin(self, spec: SessionSpec) -> None:
        try:
            self.engine.add(spec, self._former.pop(spec.name, None))
        except KernelError as error:
            log.error("(%s) cannot be started: %s; trying again every %d s", spec.name, error, _RETRY_S)
            if not self._waiting:
                self._loop.call_later(_RETRY_S, self._retry)
            self._waiting.add(spec.name)

    def _retry(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for name in waiting:
            if name in self._specs and name not in self.engine.lanes:
                self._begin(self._specs[name])

    def _change(self, spec: SessionSpec) -> None:
        self._specs[spec.name] = spec
        self._actors[spec.name].tell(Respecified(spec))
        if spec.name in self.engine.lanes:
            self.engine.change(spec)

    def _remove(self, name: str) -> None:
        del self._specs[name]
        self._telling.forget(name)
        if name in self.engine.lanes:
            self.engine.remove(name)
        self._actors.pop(name).tell(Removed())

    async def _stop(self) -> None:
        """Every peer is told, so that it need not wait for its detection time."""
        await self.engine.goodbye()
        self._memory.close()

    # ------------------------------------------------------------------ what the engine tells

    def state_changed(self, lane: Lane, changed: Changed) -> None:
        """Hands the change to the session's actor, with the values of this moment."""
        machine = lane.machine
        self._telling.say(
            lane.spec.name,
            Happened(
                changed=changed,
                at_ns=lane.last_change_at,
                tracker_up=machine.tracker_up,
                local_diagnostic=machine.local_diagnostic,
                remote_diagnostic=machine.remote_diagnostic,
            ),
        )

    def faltering(self, lane: Lane, now: Instant) -> None:
        """Tells whoever tracks the session that it is about to end."""
        machine = lane.machine
        silent = now - (machine.seen or now)
        self._actors[lane.spec.name].tell(Faltering(silent, machine.detection, lane.due_at() - now))

    def rehearse(self, lane: Lane, now: Instant) -> None:
        """Makes the event of the session's end and throws it away: code that has just run is quick."""
        machine, spec = lane.machine, lane.spec
        changed = Changed(State.UP, State.DOWN, Cause.SILENT, machine.detection, machine.detection, machine.remote_mult)
        loss = Happened(changed, now, False, Diagnostic.DETECTION_TIME_EXPIRED, machine.remote_diagnostic)
        event = state_event(spec, self._context.node, None, loss)
        pack(Envelope(spec.name, EventId(self._context.node, self._context.cell, 1, 1), now, now, (), event))

    def rejected(self, lane: Lane | None, error: PacketError, source: bytes) -> None:
        """Logs one line a minute for each session and reason; the counters have them all."""
        name = lane.spec.name if lane is not None else "no session"
        key = (name, error.reject.value)
        now = time.monotonic()
        if now - self._complained.get(key, -_COMPLAIN_EVERY_S) < _COMPLAIN_EVERY_S:
            return
        self._complained[key] = now
        log.warning("(%s) discarded a packet from %s: %s", name, ipaddress.ip_address(source), error)

    # ------------------------------------------------------------------ what the kernel tells

    def _address(self, change: AddressChanged) -> None:
        if change.change is Change.REMOVED:
            self.engine.address_removed(ipaddress.ip_address(change.address.address).packed)
        elif not self._addresses_came:
            # A takeover brings hundreds in one go.
            self._addresses_came = True
            self._loop.call_soon(self._look_for_sources)

    def _look_for_sources(self) -> None:
        self._addresses_came = False
        self.engine.address_added()

    def _link(self, change: LinkChanged) -> None:
        for link in (change.old, change.new):
            if link is not None:
                self.engine.interface_changed(link.name, up=link is change.new and link.up)

    # ------------------------------------------------------------------ commands

    def _command(self, command: Command, caller: Caller) -> Reply:
        match command:
            case BfdShow():
                return self._show(command.session)
            case BfdDisable():
                return self._disable(command, caller)
            case BfdEnable():
                return self._enable(command)
        return Failed(code="unknown-command", message=f"the BFD room knows no {type(command).__name__}")

    def _show(self, name: str) -> Reply:
        if name and name not in self._specs:
            return _unknown(name)
        lanes: Iterable[Lane] = self.engine.lanes.values()
        if name:
            lanes = [self.engine.lanes[name]] if name in self.engine.lanes else []
        reasons = self._reasons()
        sessions = tuple(describe(lane, reasons.get(lane.spec.name)) for lane in lanes)
        return BfdSessions(
            sessions=sessions, rejected={reject.value: count for reject, count in self.engine.rejected.items()}
        )

    def _reasons(self) -> dict[str, Reason]:
        """Why each session is in its state: what its actor told last."""
        told = (envelope.event for envelope in self._context.bus.retained("bfd/"))
        return {event.session: event.reason for event in told if isinstance(event, BfdStateChanged)}

    def _disable(self, command: BfdDisable, caller: Caller) -> Reply:
        name = command.session
        lane = self.engine.lanes.get(name)
        if lane is None:
            return _unknown(name)
        if lane.machine.state is State.ADMIN_DOWN:
            return BfdDone(message=f"{name} is AdminDown already")
        log.info("(%s) disabled by %s on %s: %s", name, caller.cell, caller.node, command.why or "no reason given")
        self.engine.disable(name)
        return BfdDone(message=f"{name} is AdminDown; its neighbour was told and takes it for no failure")

    def _enable(self, command: BfdEnable) -> Reply:
        name = command.session
        lane = self.engine.lanes.get(name)
        if lane is None:
            return _unknown(name)
        if lane.machine.state is not State.ADMIN_DOWN:
            return BfdDone(message=f"{name} is {lane.machine.state.word}")
        self.engine.enable(name)
        return BfdDone(message=f"{name} is enabled")


def _unknown(name: str) -> Failed:
    return Failed(code="no-such-session", message=f"there is no BFD session {name}")
