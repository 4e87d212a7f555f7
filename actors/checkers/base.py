"""How a check is run again and again: the pure machine behind each checker, and what one run tells it.

The counterpart is actor.py, which carries `StartProbe` to the file of the check's kind (tcp.py, http.py, ...) and
brings the `Outcome` back. Behaviour: keepalived.conf(5), "real_server" and its checkers.
"""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec

from holdfast.actors.runtime.machine import Action, Deadline, Duration, Fact, Instant, S, later
from holdfast.bus.messages import Evidence

BOOTSTRAP: Duration = Duration(1 * S)
"""No check runs in the first second, as with keepalived: everything else starts up first."""

RESTORED_WITHIN: Duration = Duration(5 * S)
"""After a crash the checks come round within this time (or their interval, if that is shorter)."""

OVERDUE_FLOOR: Duration = Duration(1 * S)
"""Being late by less than this is no news, however short the interval."""


class Chance(Protocol):
    """Where chance comes from: a `random.Random`."""

    def random(self) -> float:
        """0 <= x < 1."""


class Verdict(enum.Enum):
    """What one run says. NOT_RUN: we could not carry it out, which says nothing of the server."""

    OK = "ok"
    FAILED = "failed"
    NOT_RUN = "not-run"


class Outcome(msgspec.Struct, frozen=True):
    """The end of one run: verdict, the reason in words, numbers; weight: what misc_dynamic asks for."""

    verdict: Verdict
    text: str = ""
    detail: Evidence = msgspec.field(default_factory=dict)
    weight: int | None = None
    weight_add: int = 0
    errno: int = 0


def passed(text: str, **detail: int | float | str | bool | None) -> Outcome:
    """The server did what it should."""
    return Outcome(Verdict.OK, text, detail)


def failed(text: str, **detail: int | float | str | bool | None) -> Outcome:
    """The server did not do what it should."""
    return Outcome(Verdict.FAILED, text, detail)


def not_run(text: str, errno: int = 0) -> Outcome:
    """The check could not be carried out."""
    return Outcome(Verdict.NOT_RUN, text, errno=errno)


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """When a check runs.

    cap: longest time for one run, after which it is ended and counts as failed. pages: it looks at `steps` pages in
    turn (HTTP), which all have to pass before the check comes up; while down only the failed one is tried, no sooner
    than after both delays, and when that is good again all of them. fast_recovery: no pause between them then.
    alpha: counts as down until it is up, so a later page of the first round has no retries (pages only).
    rounds: failures are forgiven in each round anew, in the first one too and also while down (SMTP_CHECK).
    from_start: pauses count from the start of a run instead of its end (MISC_CHECK).
    """

    retry: int
    delay_loop: Duration
    delay_before_retry: Duration
    warmup: Duration
    cap: Duration
    steps: int = 1
    fast_recovery: bool = False
    pages: bool = False
    alpha: bool = False
    rounds: bool = False
    from_start: bool = False


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a check must know to go on after a reload or a crash. up None: no verdict yet."""

    up: bool | None = None
    failures: int = 0
    runs: int = 0
    step: int = 0


class ProbeDone(Fact, frozen=True):
    """The run ended. run: as in its StartProbe; the end of any other run is ignored."""

    run: int
    outcome: Outcome


class Suspend(Fact, frozen=True):
    """Do not run until told otherwise; the verdict stays. by_operator: not by ha_suspend."""

    by_operator: bool = False


class Resume(Fact, frozen=True):
    """End of `Suspend`."""

    by_operator: bool = False


class RunNow(Fact, frozen=True):
    """Somebody wants a result now. Does nothing while a run is under way."""


class Reschedule(Fact, frozen=True):
    """The same check with other timing (reload)."""

    schedule: Schedule


class StartProbe(Action, frozen=True):
    """Look at the server. step: which page."""

    run: int
    step: int


class EndProbe(Action, frozen=True):
    """Drop the run: it took too long, or is not wanted any more."""

    run: int


class Report(Action, frozen=True):
    """A run had a verdict. up: after the retries (None: not all pages have been seen yet). changed: `up` is new.
    failures: in a row. pause: until the next run. elapsed: what this run took. final: retries are used up."""

    outcome: Outcome
    up: bool | None
    first: bool
    changed: bool
    failures: int
    runs: int
    elapsed: Duration
    pause: Duration


class ReportNotRun(Action, frozen=True):
    """A run could not be carried out."""

    outcome: Outcome


class ReportOverdue(Action, frozen=True):
    """The check has not run for `silent`, more than `limit` (overdue), or has run again."""

    overdue: bool
    silent: Duration
    limit: Duration


class ReportSuspended(Action, frozen=True):
    """The check stands still, or goes on."""

    suspended: bool
    by_operator: bool = False


class CheckMachine:
    """One check over time. Not shared between threads.

    The first run comes a second after the start plus a random part of the warm-up; it has no retries. While up, a
    failure is repeated after `delay_before_retry`, and `retry` of them are forgiven; while down it is looked at each
    `delay_loop`, and one success brings it up.
    """

    __slots__ = (
        "_chance",
        "_ends_at",
        "_failed_step",
        "_interval",
        "_last_run",
        "_next_at",
        "_passed",
        "_round",
        "_running",
        "_started_at",
        "failures",
        "overdue",
        "run",
        "runs",
        "schedule",
        "step_index",
        "suspended",
        "up",
    )

    def __init__(
        self,
        schedule: Schedule,
        chance: Chance,
        now: Instant,
        state: State | None = None,
        *,
        suspended: bool = False,
        first_at: Instant | None = None,
    ) -> None:
        """state: of a former life, if any. first_at: when it runs first, instead of by chance."""
        self.schedule = schedule
        self._chance = chance
        former = state or State()
        self.up = former.up
        self.failures = former.failures
        self.runs = former.runs
        self.step_index = former.step if former.step < schedule.steps else 0
        self.run = 0
        self.overdue = False
        self.suspended = suspended
        self._running = False
        self._passed = 0
        self._failed_step: int | None = self.step_index if self.up is False else None
        self._round = 0
        self._started_at = now
        self._ends_at = now
        self._interval = schedule.delay_loop
        if first_at is None:
            span = schedule.warmup if state is None else min(schedule.delay_loop, RESTORED_WITHIN)
            base = BOOTSTRAP if state is None else 0
            first_at = Instant(now + base + int(span * chance.random()))
        self._next_at = first_at
        self._last_run = first_at  # being late counts from when it should have run

    @property
    def deadline(self) -> Instant | None:
        """When `step(Deadline(), now)` is wanted next."""
        if self._running:
            return self._ends_at
        return None if self.suspended else self._next_at

    @property
    def running(self) -> bool:
        """A run is under way."""
        return self._running

    def state(self) -> State:
        """What a successor has to know."""
        return State(up=self.up, failures=self.failures, runs=self.runs, step=self.step_index)

    def step(self, fact: Fact, now: Instant) -> list[Action]:
        """Takes one fact and returns what is to be done, in order."""
        match fact:
            case ProbeDone():
                return self._done(fact, now)
            case Deadline():
                return self._deadline(now)
            case Suspend():
                return self._suspend(by_operator=fact.by_operator)
            case Resume():
                return self._resume(now, by_operator=fact.by_operator)
            case RunNow():
                return [] if self._running else self._start(now)
            case Reschedule():
                return self._reschedule(fact.schedule, now)
            case _:
                raise AssertionError(f"unknown fact {fact!r}")

    def _deadline(self, now: Instant) -> list[Action]:
        if self._running:
            if now < self._ends_at:
                return []
            text = f"not done within {self.schedule.cap / S:g} s, ended"
            return [EndProbe(self.run), *self._verdict(failed(text, limit_s=self.schedule.cap / S), now)]
        if self.suspended or now < self._next_at:
            return []
        late = self._look_at_the_clock(now)
        return late + self._start(now)

    def _look_at_the_clock(self, now: Instant) -> list[Action]:
        """Overdue is what has not run within twice its interval, whatever the cause: a loop that stood still, runs that
        could not be carried out."""
        limit = Duration(max(2 * self._interval, OVERDUE_FLOOR))
        silent = Duration(now - self._last_run)
        # The first run is planned for _last_run itself, a whole interval later than it would be in the middle.
        reached = silent > limit if self.runs else silent > max(self._interval, OVERDUE_FLOOR)
        if self.overdue or not reached:
            return []
        self.overdue = True
        return [ReportOverdue(True, silent, limit)]

    def _start(self, now: Instant) -> list[Action]:
        self.run += 1
        self._running = True
        self._started_at = now
        self._ends_at = later(now, self.schedule.cap)
        return [StartProbe(self.run, self.step_index)]

    def _done(self, fact: ProbeDone, now: Instant) -> list[Action]:
        if not self._running or fact.run != self.run:
            return []
        if fact.outcome.verdict is Verdict.NOT_RUN:
            self._running = False
            self._plan(self.schedule.delay_loop, now)
            return [ReportNotRun(fact.outcome)]
        return self._verdict(fact.outcome, now)

    def _verdict(self, outcome: Outcome, now: Instant) -> list[Action]:
        self._running = False
        first = self.runs == 0
        self.runs += 1
        before = self.up
        if outcome.verdict is Verdict.OK:
            pause = self._success()
        else:
            pause = self._failure(first)
        silent = Duration(now - self._last_run)
        self._last_run = now
        self._plan(pause, now)
        report = Report(
            outcome,
            self.up,
            first,
            self.up is not before,
            self.failures,
            self.runs,
            Duration(now - self._started_at),
            Duration(max(0, self._next_at - now)),
        )
        if not self.overdue:
            return [report]
        self.overdue = False
        return [report, ReportOverdue(False, silent, Duration(2 * self._interval))]

    def _success(self) -> Duration:
        schedule = self.schedule
        self.failures = 0
        self._round = 0
        pause = schedule.delay_loop
        if self._failed_step is not None and schedule.pages:
            # The page that had failed is good again: now all of them from the first (also if it is the only one) before
            # it counts.
            self._failed_step = None
            self.step_index = 0
            self._passed = 0
            return Duration(0) if schedule.fast_recovery else pause
        self._failed_step = None
        self._passed += 1
        self.step_index = (self.step_index + 1) % schedule.steps
        if self.up is not True:
            if self._passed >= schedule.steps:
                self.up = True
            elif schedule.fast_recovery:
                pause = Duration(0)
        return pause

    def _failure(self, first: bool) -> Duration:
        schedule = self.schedule
        self.failures += 1
        self._passed = 0
        if schedule.rounds:
            if self._round < schedule.retry:
                self._round += 1
                return schedule.delay_before_retry
            self._round = 0
        elif not first and self.failures <= schedule.retry and self._counts_as_up():
            return schedule.delay_before_retry
        self.up = False
        self._failed_step = self.step_index
        if schedule.pages:
            return max(schedule.delay_before_retry, schedule.delay_loop)
        return schedule.delay_loop

    def _counts_as_up(self) -> bool:
        return self.up is True or (self.up is None and not self.schedule.alpha)

    def _plan(self, pause: Duration, now: Instant) -> None:
        self._interval = max(pause, self.schedule.delay_loop)
        base = self._started_at if self.schedule.from_start else now
        self._next_at = Instant(max(now, base + pause))

    def _suspend(self, *, by_operator: bool) -> list[Action]:
        if self.suspended:
            return []
        self.suspended = True
        self.overdue = False
        actions: list[Action] = [EndProbe(self.run)] if self._running else []
        self._running = False
        return [*actions, ReportSuspended(True, by_operator)]

    def _resume(self, now: Instant, *, by_operator: bool) -> list[Action]:
        """keepalived looks each delay_loop whether it may go on; we go on within a second, spread."""
        if not self.suspended:
            return []
        self.suspended = False
        self._next_at = Instant(now + int(min(self.schedule.delay_loop, S) * self._chance.random()))
        self._last_run = now
        return [ReportSuspended(False, by_operator)]

    def _reschedule(self, schedule: Schedule, now: Instant) -> list[Action]:
        """A shorter interval counts from now on; a run under way ends under the limits it began with."""
        self.schedule = schedule
        self._interval = schedule.delay_loop
        if self.step_index >= schedule.steps:
            self.step_index = 0
        soonest = later(now, schedule.delay_loop if self.runs else Duration(BOOTSTRAP + schedule.warmup))
        self._next_at = min(self._next_at, soonest)
        return []
