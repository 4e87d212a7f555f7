"""The actor of one session: tells the bus and the log what became of it. It never hears of single packets."""

from __future__ import annotations

import logging

import msgspec

from holdfast.actors.bfd.facts import Cause, Changed
from holdfast.actors.bfd.messages import BfdFaltering, BfdState, BfdStateChanged
from holdfast.actors.bfd.packet import State, diagnostic_word
from holdfast.actors.bfd.profiles import SessionSpec
from holdfast.actors.runtime.actor import LoopActor
from holdfast.actors.runtime.machine import MS, US, S
from holdfast.bus.base import Bus
from holdfast.bus.messages import Evidence, Reason, ReasonKind

log = logging.getLogger("holdfast.bfd")

_WORDS = {
    State.ADMIN_DOWN: BfdState.ADMIN_DOWN,
    State.DOWN: BfdState.DOWN,
    State.INIT: BfdState.INIT,
    State.UP: BfdState.UP,
}


def state_word(state: State) -> BfdState:
    """The state as it is told."""
    return _WORDS[state]


class Respecified(msgspec.Struct, frozen=True):
    """New settings."""

    spec: SessionSpec


class Happened(msgspec.Struct, frozen=True):
    """A change of state, with the machine's values of that moment."""

    changed: Changed
    at_ns: int
    tracker_up: bool
    local_diagnostic: int
    remote_diagnostic: int


class Faltering(msgspec.Struct, frozen=True):
    """The session is about to end."""

    silent_ns: int
    detection_ns: int
    left_ns: int


class Removed(msgspec.Struct, frozen=True):
    """The configuration has it no more."""


class SessionActor(LoopActor):
    """See the file's first lines.

    told: the state that the former life of this cell told last; None: nothing is known.
    """

    def __init__(self, spec: SessionSpec, *, bus: Bus, told: BfdStateChanged | None = None) -> None:
        super().__init__()
        self._spec = spec
        self._bus = bus
        self._subject = f"bfd/{spec.name}"
        self._told = told

    def on_receive(self, message: object) -> object:
        """Takes the messages above."""
        match message:
            case Happened():
                self._happened(message)
            case Respecified():
                self._spec = message.spec
            case Removed():
                self._removed()
            case Faltering():
                self._faltering(message)
        return None

    def _happened(self, what: Happened) -> None:
        told, changed = self._told, what.changed
        state = state_word(changed.new)
        # Init is passed over: with a peer that is stuck it comes and goes every few seconds and means nothing yet.
        if changed.new is State.INIT:
            return
        if told is not None and told.state is state:
            if changed.cause is Cause.RESTORED:
                # Said again by this life of the cell, in the words of the former.
                self._publish(told)
                return
            if changed.cause is not Cause.STARTED:
                return
        self._publish(state_event(self._spec, self._bus.node, told, what))
        if changed.new is State.UP:
            log.info("(%s) Entering Up state", self._spec.name)
        elif told is not None and told.state is BfdState.UP:
            self._log_loss(what)

    def _faltering(self, what: Faltering) -> None:
        event = BfdFaltering(
            session=self._spec.name,
            silent_us=what.silent_ns // US,
            detection_us=what.detection_ns // US,
            left_us=what.left_ns // US,
        )
        self._bus.publish(self._subject, "faltering", event, retain=False)

    def _publish(self, event: BfdStateChanged) -> None:
        self._told = event
        self._bus.publish(self._subject, "state", event)

    def _log_loss(self, what: Happened) -> None:
        changed = what.changed
        if changed.cause is Cause.SILENT and changed.silent is not None:
            overdue_us = (changed.silent - changed.detection) // US
            log.warning("(%s) Expired after %d ms (%d usec overdue)", self._spec.name, changed.silent // MS, overdue_us)
        log.warning(
            "(%s) Entering %s state (Local diagnostic - %s, Remote diagnostic - %s)",
            self._spec.name,
            changed.new.word,
            diagnostic_word(what.local_diagnostic),
            diagnostic_word(what.remote_diagnostic),
        )

    def _removed(self) -> None:
        told = self._told
        if told is not None:
            reason = Reason(kind=ReasonKind.RELOAD, node=self._bus.node, subject=self._subject)
            gone = msgspec.structs.replace(told, old=told.state, state=BfdState.DELETED, reason=reason)
            self._bus.publish(self._subject, "state", gone)
        self._bus.forget(self._subject, "state")
        self.stop()


def _kind_of(changed: Changed) -> ReasonKind:
    match changed.cause:
        case Cause.STARTED | Cause.ENABLED:
            return ReasonKind.STARTED
        case Cause.RESTORED:
            return ReasonKind.RESTARTED
        case Cause.DISABLED:
            return ReasonKind.STOPPED
        case _:
            return ReasonKind.BFD_UP if changed.new is State.UP else ReasonKind.BFD_DOWN


def state_event(spec: SessionSpec, node: str, told: BfdStateChanged | None, what: Happened) -> BfdStateChanged:
    """What is told of a change. told: what was told before it."""
    return BfdStateChanged(
        session=spec.name,
        old=BfdState.DOWN if told is None else told.state,
        state=state_word(what.changed.new),
        tracker_up=what.tracker_up,
        reason=_reason(spec, node, what),
        since_mono_ns=what.at_ns,
        neighbor=spec.neighbor_text,
        local_diagnostic=diagnostic_word(what.local_diagnostic),
        remote_diagnostic=diagnostic_word(what.remote_diagnostic),
        detection_us=what.changed.detection // US,
        vrrp=spec.vrrp,
        checker=spec.checker,
    )


def _reason(spec: SessionSpec, node: str, what: Happened) -> Reason:
    changed = what.changed
    evidence: Evidence = {"cause": changed.cause.value, "neighbor": spec.neighbor_text}
    if changed.old is State.UP and changed.silent is not None:
        evidence["last_packet_s"] = changed.silent / S
        evidence["detection_s"] = changed.detection / S
        evidence["interval_s"] = changed.interval / S
        evidence["missed"] = changed.missed
    if what.local_diagnostic:
        evidence["local_diagnostic"] = diagnostic_word(what.local_diagnostic)
    if what.remote_diagnostic:
        evidence["remote_diagnostic"] = diagnostic_word(what.remote_diagnostic)
    return Reason(kind=_kind_of(changed), node=node, subject=f"bfd/{spec.name}", evidence=evidence)
