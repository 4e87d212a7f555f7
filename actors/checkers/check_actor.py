"""The shells of checks: one actor each. `RunningCheck` looks by itself (machine in base.py), `FollowingCheck` listens.

No decisions are made here: facts go into the machine, its orders are carried out in order, what it reports is told.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from holdfast.actors.checkers import base
from holdfast.actors.checkers.base import CheckMachine, Outcome, State, Verdict
from holdfast.actors.checkers.config import Check, FileCheck
from holdfast.actors.checkers.kinds import Checker, Surroundings, checker_of
from holdfast.actors.checkers.messages import (
    CheckNotRun,
    CheckOverdue,
    CheckResult,
    CheckState,
    CheckStateChanged,
    Target,
)
from holdfast.actors.checkers.sockets import Probe
from holdfast.actors.runtime.actor import LoopActor
from holdfast.actors.runtime.machine import US, Action, Deadline, Fact, Instant, S
from holdfast.bus.base import Subscription
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import EventId, Reason, ReasonKind

log = logging.getLogger(__name__)

REFRESH_NS = 5 * S
"""A result that says what the one before said is told again after this time only: news at once, the rest now and then.
Checks with longer intervals (6 s and more are usual) tell each of their results."""


GRAIN_NS = 5_000_000
"""Checks start at multiples of this, so that of many thousand some share a turn of the loop; never too early."""


class Change(msgspec.Struct, frozen=True):
    """What a check does, or for whom, has changed with a reload; what it looks at has not."""

    spec: Check
    targets: tuple[Target, ...]


class NewGlobals(msgspec.Struct, frozen=True):
    """Settings that concern all checks have changed: what was derived from them is not valid any more."""


class Broken(msgspec.Struct, frozen=True):
    """A callback of this actor failed: it ends as if the failure had been in a message."""

    error: Exception


class CheckActor(LoopActor):
    """What both shells have: a name, targets, and a voice."""

    critical = False

    def __init__(
        self,
        *,
        name: str,
        spec: Check,
        targets: tuple[Target, ...],
        around: Surroundings,
        former: CheckResult | None,
        died: Callable[[str], None],
    ) -> None:
        """former: the newest result of a former life. died: told the name when a fault has ended the actor."""
        super().__init__()
        self.name = name
        self.spec: Any = spec
        self.targets = targets
        self.around = around
        self.last: CheckResult | None = former
        self.checker: Checker[Any] = checker_of(spec)(spec, around)
        self._kind = self.checker.kind_of(spec)
        self._subject = f"{around.kind}/{name}"
        self._died = died
        self._since_wall_ns = former.since_wall_ns if former is not None else 0
        self._told_at = Instant(0)
        self._told_state = state_of(None if former is None else former.up, False)

    def on_failure(self, *_: object) -> None:
        """Its run ends with it; the room puts another in its place."""
        self.release()
        self._died(self.name)

    def on_stop(self) -> None:
        """The check is not wanted any more."""
        self.release()

    def release(self) -> None:
        """Gives back what it holds."""
        self.checker.close()
        # An actor and its inbox know each other. Without this cycle the last reference frees both (see actor.py).
        self.around.loop.call_soon(setattr, self.actor_inbox, "actor", None)

    def confirm(self) -> None:
        """Tells the result of a former life again: it still stands. What nobody confirms the bus forgets."""
        if self.last is not None:
            self.last = msgspec.structs.replace(self.last, targets=self.targets, changed=False, first=False)
            self.around.bus.publish(self._subject, "result", self.last)

    def retarget(self, targets: tuple[Target, ...]) -> None:
        """It speaks for others now: the newest result is told again, so that the new ones know at once."""
        if targets == self.targets:
            return
        self.targets = targets
        if self.last is not None:
            since = self._since_wall_ns
            self.last = msgspec.structs.replace(
                self.last, targets=targets, changed=False, first=False, since_wall_ns=since
            )
            self.around.bus.publish(self._subject, "result", self.last)

    def tell_result(self, result: CheckResult, retries: int, causes: tuple[EventId, ...] = ()) -> None:
        """Publishes a result that says something new, and the change of state it brought."""
        if result.changed:
            self._since_wall_ns = time.time_ns()
        last, self.last = self.last, result
        now = self.around.poller.timers.now()
        if not self._is_news(last, result) and now - self._told_at < REFRESH_NS:
            return
        self._told_at = now
        result = msgspec.structs.replace(result, since_wall_ns=self._since_wall_ns)
        cause = self.around.bus.publish(self._subject, "result", result, causes=causes)
        if result.changed:
            self._tell_change(result, retries, cause)
        elif not result.ok and self.spec.log_all_failures:
            log.info("%s: %s", self.name, result.text)

    def _is_news(self, last: CheckResult | None, result: CheckResult) -> bool:
        if last is None or result.changed or result.ok is not last.ok:
            return True
        if not result.ok and (result.up is not False or self.spec.log_all_failures):
            return True
        return (last.up, last.weight, last.weight_add) != (result.up, result.weight, result.weight_add)

    def _tell_change(self, result: CheckResult, retries: int, cause: EventId) -> None:
        kind = self._reason_kind(result.up is True)
        evidence = {**result.detail, "text": result.text, "latency_s": result.latency_us / 1e6}
        if result.up is not True:
            evidence["failures"] = result.attempt
        reason = Reason(kind=kind, node=self.around.bus.node, subject=self._subject, evidence=evidence)
        self._publish_state(result.up, False, reason, (cause,))
        outcome = Outcome(Verdict.OK if result.ok else Verdict.FAILED, result.text, result.detail)
        for target in self.targets:
            if result.up is True:
                log.info("%s", self.checker.success_words(target, outcome))
            else:
                log.info("%s", self.checker.failure_words(target, outcome, retries))
        if result.up is not True:
            log.info("%s: %s", self.name, result.text)

    def _reason_kind(self, up: bool) -> ReasonKind:
        if isinstance(self.spec, FileCheck):
            return ReasonKind.FILE_VALUE
        if self._kind == "BFD_CHECK":
            return ReasonKind.BFD_UP if up else ReasonKind.BFD_DOWN
        return ReasonKind.CHECK_OK if up else ReasonKind.CHECK_FAILED

    def _publish_state(self, up: bool | None, suspended: bool, reason: Reason, causes: tuple[EventId, ...]) -> None:
        state = state_of(up, suspended)
        event = CheckStateChanged(
            check=self.name,
            kind=self._kind,
            targets=self.targets,
            old=self._told_state,
            state=state,
            up=up,
            suspended=suspended,
            reason=reason,
        )
        self._told_state = state
        self.around.bus.publish(self._subject, "state", event, causes=causes)


def state_of(up: bool | None, suspended: bool) -> CheckState:
    """The word for it."""
    if suspended:
        return CheckState.SUSPENDED
    return CheckState.UNKNOWN if up is None else CheckState.UP if up else CheckState.DOWN


class RunningCheck(CheckActor):
    """A check that looks at its server again and again."""

    def __init__(
        self,
        *,
        name: str,
        spec: Check,
        targets: tuple[Target, ...],
        around: Surroundings,
        former: CheckResult | None,
        died: Callable[[str], None],
        suspended: bool = False,
        chance: base.Chance | None = None,
    ) -> None:
        """suspended: it starts standing still (ha_suspend)."""
        super().__init__(name=name, spec=spec, targets=targets, around=around, former=former, died=died)
        state = None
        if former is not None:
            state = State(up=former.up, failures=former.attempt, runs=former.runs)
        schedule = self.checker.schedule_of(spec)
        now = around.poller.timers.now()
        self.machine = CheckMachine(schedule, chance or random, now, state, suspended=suspended)
        self._facts: deque[Fact] = deque()
        self._stepping = False
        self._probe: Probe | None = None
        self._step = 0
        self._released = False

    def on_start(self) -> None:
        """The first run is planned."""
        self.confirm()
        if self.machine.suspended:
            self._tell_suspended(True, False)
        self._set_deadline()

    def on_receive(self, message: Any) -> None:
        """Facts for the machine, and changes by a reload."""
        match message:
            case Fact():
                self.step(message)
            case Change():
                self._change(message)
            case NewGlobals():
                self._renew(self.spec)
            case Broken():
                raise message.error

    def release(self) -> None:
        self._released = True
        self.around.poller.timers.set(self, None, self._due)
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        super().release()

    def step(self, fact: Fact) -> None:
        """One fact for the machine; facts that come up while orders are carried out wait for their turn."""
        self._facts.append(fact)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._facts:
                now = self.around.poller.timers.now()
                for action in self.machine.step(self._facts.popleft(), now):
                    self._carry_out(action)
        except Exception as error:
            self._facts.clear()
            self.actor_ref.tell(Broken(error))
            return
        finally:
            self._stepping = False
        self._set_deadline()

    def _set_deadline(self) -> None:
        at = self.machine.deadline
        if at is not None:
            at = Instant(-(-at // GRAIN_NS) * GRAIN_NS)
        self.around.poller.timers.set(self, at, self._due)

    def _due(self, _now: Instant) -> None:
        if self.machine.running:
            self.step(Deadline())
        else:
            self.around.turnstile.enter(self._start_due)

    def _start_due(self) -> None:
        # It may have waited for its turn: meanwhile the check may have ended, or a command have started the run.
        if not self._released and not self.machine.running:
            self.step(Deadline())

    def _carry_out(self, action: Action) -> None:
        match action:
            case base.StartProbe():
                self._start(action.run, action.step)
            case base.Report():
                self._report(action)
            case base.EndProbe():
                if self._probe is not None:
                    self._probe.cancel()
                    self._probe = None
            case base.ReportNotRun():
                self._report_not_run(action.outcome)
            case base.ReportOverdue():
                self._report_overdue(action)
            case base.ReportSuspended():
                self._report_suspended(action.suspended, action.by_operator)

    def _start(self, run: int, step: int) -> None:
        def done(outcome: Outcome) -> None:
            self._probe = None
            self.step(base.ProbeDone(run, outcome))

        self._step = step
        self._probe = self.checker.probe(step, done)
        self._probe.begin()

    def _report(self, report: base.Report) -> None:
        outcome = report.outcome
        result = CheckResult(
            check=self.name,
            kind=self._kind,
            targets=self.targets,
            ok=outcome.verdict is Verdict.OK,
            up=report.up,
            first=report.first,
            changed=report.changed,
            weight=outcome.weight,
            weight_add=outcome.weight_add,
            latency_us=report.elapsed // US,
            text=outcome.text,
            detail=outcome.detail,
            attempt=report.failures,
            retry=self.spec.retry,
            runs=report.runs,
            next_s=report.pause / S,
        )
        if result.ok and (result.up is not True or (result.changed and not result.first)):
            for target in self.targets:
                for words in self.checker.progress_words(target, self._step):
                    log.info("%s", words)
        self.tell_result(result, report.failures - 1)

    def _report_not_run(self, outcome: Outcome) -> None:
        event = CheckNotRun(
            check=self.name, kind=self._kind, targets=self.targets, text=outcome.text, errno=outcome.errno
        )
        self.around.bus.publish(self._subject, "not-run", event, retain=False)
        log.warning("%s: not run: %s", self.name, outcome.text)

    def _report_overdue(self, report: base.ReportOverdue) -> None:
        silent_s, limit_s = report.silent / S, report.limit / S
        kind = ReasonKind.CHECK_OVERDUE if report.overdue else ReasonKind.CHECK_OK
        reason = Reason(
            kind=kind,
            node=self.around.bus.node,
            subject=self._subject,
            evidence={"silent_s": silent_s, "limit_s": limit_s},
        )
        event = CheckOverdue(
            check=self.name,
            kind=self._kind,
            targets=self.targets,
            overdue=report.overdue,
            silent_s=silent_s,
            limit_s=limit_s,
            reason=reason,
        )
        self.around.bus.publish(self._subject, "overdue", event)
        if report.overdue:
            log.warning("%s: overdue: has not run for %.3f s (limit %.3f s)", self.name, silent_s, limit_s)

    def _report_suspended(self, suspended: bool, by_operator: bool) -> None:
        self._tell_suspended(suspended, by_operator)
        word = "Suspending" if suspended else "Activating"
        for target in self.targets:
            log.info("%s healthchecker for service %s for VS %s", word, target.real_server, target.virtual_server)

    def _tell_suspended(self, suspended: bool, by_operator: bool) -> None:
        if by_operator:
            kind = ReasonKind.OPERATOR_RELEASE if suspended else ReasonKind.OPERATOR_RESUME
        else:
            kind = ReasonKind.ADDRESS_MISSING if suspended else ReasonKind.STARTED
        reason = Reason(kind=kind, node=self.around.bus.node, subject=self._subject, evidence={"suspended": suspended})
        self._publish_state(self.machine.up, suspended, reason, ())

    def _change(self, change: Change) -> None:
        if change.spec != self.spec:
            self._renew(change.spec)
        self.retarget(change.targets)

    def _renew(self, spec: Check) -> None:
        """The same check with other timing: a run under way ends as it began."""
        self.spec = spec
        self.checker.close()
        self.checker = checker_of(spec)(spec, self.around)
        self.step(base.Reschedule(self.checker.schedule_of(spec)))


class FollowingCheck(CheckActor):
    """A check whose verdicts come as events (a file's number, a BFD session)."""

    def __init__(
        self,
        *,
        name: str,
        spec: Check,
        targets: tuple[Target, ...],
        around: Surroundings,
        former: CheckResult | None,
        died: Callable[[str], None],
    ) -> None:
        super().__init__(name=name, spec=spec, targets=targets, around=around, former=former, died=died)
        self._subscription: Subscription | None = None
        self._runs = former.runs if former is not None else 0

    def on_start(self) -> None:
        """What is known already comes at once, what follows as it happens."""
        self.confirm()
        self._subscription = self.checker.follow(self._told)

    def on_receive(self, message: Any) -> None:
        """Changes by a reload; everything else does not concern a check that only listens."""
        match message:
            case Change():
                self.spec = message.spec
                self.retarget(message.targets)
            case Broken():
                raise message.error

    def release(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
        super().release()

    def _told(self, outcome: Outcome, envelope: Envelope) -> None:
        up = outcome.verdict is Verdict.OK
        before = self.last
        first = self._runs == 0
        self._runs += 1
        if before is not None and not first and (before.up, before.weight_add) == (up, outcome.weight_add):
            return
        result = CheckResult(
            check=self.name,
            kind=self._kind,
            targets=self.targets,
            ok=up,
            up=up,
            first=first,
            changed=before is None or before.up is not up,
            weight_add=outcome.weight_add,
            text=outcome.text,
            detail=outcome.detail,
            attempt=0 if up else 1,
            runs=self._runs,
        )
        self.tell_result(result, 0, (envelope.id,))
