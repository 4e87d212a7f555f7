"""Results of checks as they come over the bus, handed to the virtual servers they speak for."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.actors.checkers.messages import CheckResult, Target
from holdfast.actors.ipvs.facts import CheckForgotten, CheckReported
from holdfast.actors.ipvs.intake import Pace
from holdfast.actors.runtime.machine import Fact
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import EventId


class Results:
    """The newest result of each check. tell: gives a fact to a virtual server, by name."""

    def __init__(self, tell: Callable[[str, Fact], None]) -> None:
        self._tell = tell
        self._newest: dict[str, CheckResult] = {}
        self._reporting: dict[str, dict[str, EventId]] = {}
        """Which checks speak for a virtual server (by subject), with the ids of their newest events."""

    def take(self, envelope: Envelope) -> None:
        """One event below `check/`."""
        event = envelope.event
        subject = envelope.subject
        if isinstance(event, CheckResult):
            before = self._newest.get(subject)
            if before is not None and before.targets != event.targets:
                self._forget(subject, before, event.targets)
            self._newest[subject] = event
            for target in event.targets:
                self._reporting.setdefault(target.virtual_server, {})[subject] = envelope.id
                self._report(target, event, envelope.id)
        elif envelope.gone and envelope.aspect == "result":
            before = self._newest.pop(subject, None)
            if before is not None:
                self._forget(subject, before, ())

    async def repeat(self, name: str, pace: Pace) -> None:
        """A virtual server that a reload brought or changed hears what its checks have said before."""
        for subject in list(self._reporting.get(name, ())):
            # Meanwhile it may have said something new, or be gone.
            cause, event = self._reporting.get(name, {}).get(subject), self._newest.get(subject)
            if cause is None or event is None:
                continue
            for target in event.targets:
                if target.virtual_server == name:
                    self._report(target, event, cause)
                    await pace.after(1)

    def _forget(self, subject: str, before: CheckResult, left: tuple[Target, ...]) -> None:
        """A check does not speak for some servers any more."""
        services = {target.virtual_server for target in left}
        for target in before.targets:
            if target not in left:
                self._tell(target.virtual_server, CheckForgotten(server=target.real_server, check=target.check))
            if target.virtual_server not in services:
                reporting = self._reporting.get(target.virtual_server, {})
                reporting.pop(subject, None)
                if not reporting:
                    self._reporting.pop(target.virtual_server, None)

    def _report(self, target: Target, event: CheckResult, cause: EventId) -> None:
        fact = CheckReported(
            server=target.real_server,
            check=target.check,
            runs_as=event.check,
            up=event.up,
            ok=event.ok,
            weight=event.weight,
            weight_add=event.weight_add,
            text=event.text,
            latency_us=event.latency_us,
            attempt=event.attempt,
            cause=cause,
        )
        self._tell(target.virtual_server, fact)
