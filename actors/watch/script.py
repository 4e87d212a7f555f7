"""One vrrp_script as a pure machine: when it runs, when it is put to an end, and what its results are worth.

Its counterpart is the shell in `actor.py`, which starts and signals processes. Behaviour: keepalived.conf(5),
vrrp_script (interval, timeout, rise, fall, init_fail).
"""

from __future__ import annotations

import enum

import msgspec

from holdfast.actors.runtime.machine import US, Action, Deadline, Duration, Fact, Instant, S, later
from holdfast.actors.watch.config import TrackScript
from holdfast.actors.watch.messages import ScriptResult
from holdfast.bus.messages import Evidence, Reason, ReasonKind

KILL_AFTER = Duration(2 * S)
"""How long a script that ran into its timeout has to heed TERM before it is killed."""


class RunEnded(Fact, frozen=True):
    """The run ended. exit_status or signal is set, or problem when it could not even be started."""

    exit_status: int | None = None
    signal: int | None = None
    problem: str | None = None
    took_ns: int = 0


class Suspend(Fact, frozen=True):
    """No further runs are wanted (stop of the room); one in progress is asked to end."""


class StartRun(Action, frozen=True):
    """Start the script now."""


class EndRun(Action, frozen=True):
    """Signal the process group of the run: TERM, or KILL when `force`."""

    force: bool


class SayResult(Action, frozen=True):
    """Publish this."""

    result: ScriptResult


class SaySkipped(Action, frozen=True):
    """The script still runs although its next run is due: that run is left out. times: in a row."""

    times: int


class Ending(enum.Enum):
    """How far we are in putting an end to a run."""

    NONE = 0
    ASKED = 1
    FORCED = 2


class Verdict(msgspec.Struct, frozen=True):
    """What a reload hands to the machine that replaces this one."""

    counter: int
    rise: int
    fall: int
    last: ScriptResult | None
    runs: int
    judged: bool
    in_a_row: int
    last_good: bool | None


class ScriptMachine:
    """Runs on a fixed grid of `interval`, never two at once, and counts results as keepalived does.

    The counter goes from 0 to rise + fall - 1 and says OK from `rise` on. It starts one below `rise`, so that a single
    success at the start is enough and a single failure too; with init_fail at 0. When the verdict changes it jumps to
    the far end, so that the opposite needs `fall` or `rise` results in a row.

    reloaded: the script came with a reload: it counts as successful until its next run, unless init_fail.
    before: the verdict of the machine of the same name that this one replaces.
    """

    __slots__ = (
        "_counter",
        "_ending",
        "_ending_at",
        "_in_a_row",
        "_judged",
        "_last",
        "_last_good",
        "_next_run",
        "_node",
        "_running",
        "_runs",
        "_script",
        "_skipped",
        "_stopped",
    )

    def __init__(
        self,
        script: TrackScript,
        *,
        node: str,
        now: Instant,
        reloaded: bool = False,
        before: Verdict | None = None,
    ) -> None:
        assert script.rise >= 1 and script.fall >= 1 and script.interval_us >= 1
        self._script = script
        self._node = node
        self._next_run: Instant | None = now
        self._running = False
        self._ending = Ending.NONE
        self._ending_at: Instant | None = None
        self._skipped = 0
        self._stopped = False
        self._runs = 0
        self._in_a_row = 0
        self._last_good: bool | None = None
        self._last: ScriptResult | None = None
        self._judged = script.init_fail or reloaded
        if script.init_fail:
            self._counter = 0
        else:
            self._counter = script.rise if reloaded else script.rise - 1
        if before is not None:
            self._take_over(before)

    def _take_over(self, before: Verdict) -> None:
        """A counter keeps its distance to the change of verdict, within the new rise and fall."""
        rise, fall = self._script.rise, self._script.fall
        top = rise + fall - 1
        if before.counter < before.rise:
            self._counter = 0 if before.counter == 0 else max(0, rise - (before.rise - before.counter))
        elif before.counter == before.rise + before.fall - 1:
            self._counter = top
        else:
            self._counter = min(top, rise + before.counter - before.rise)
        self._judged = before.judged
        self._last = before.last
        self._runs = before.runs
        self._in_a_row = before.in_a_row
        self._last_good = before.last_good

    @property
    def ok(self) -> bool:
        """The present verdict; before the first run it is what is assumed."""
        return self._counter >= self._script.rise

    @property
    def verdict(self) -> Verdict:
        """For the machine that replaces this one at a reload."""
        return Verdict(
            self._counter,
            self._script.rise,
            self._script.fall,
            self._last,
            self._runs,
            self._judged,
            self._in_a_row,
            self._last_good,
        )

    @property
    def last(self) -> ScriptResult | None:
        """What was published last."""
        return self._last

    @property
    def deadline(self) -> Instant | None:
        """The next run, or the next step in ending one that takes too long; whichever is earlier."""
        if self._ending_at is None:
            return self._next_run
        return self._ending_at if self._next_run is None else min(self._ending_at, self._next_run)

    def begin(self, now: Instant) -> list[Action]:
        """What is to be said before the first run: the assumed verdict, where there is one."""
        if self._last is not None or not self._judged:
            return []
        kind = ReasonKind.SCRIPT_OK if self.ok else ReasonKind.SCRIPT_FAILED
        evidence: Evidence = {"assumed": True, "runs": 0}
        return self._say(now, RunEnded(), kind, evidence)

    def step(self, fact: Fact, now: Instant) -> list[Action]:
        """Takes one fact and returns what is to be done, in order."""
        match fact:
            case Deadline():
                return self._due(now)
            case RunEnded():
                return self._ended(fact, now)
            case Suspend():
                self._stopped = True
                self._next_run = None
                if self._running and self._ending is Ending.NONE:
                    return self._end(now)
                return []
            case _:
                raise AssertionError(fact)

    def _due(self, now: Instant) -> list[Action]:
        actions: list[Action] = []
        # A run that is over its time ends before the next is thought of: both are due at once by default.
        if self._ending_at is not None and now >= self._ending_at:
            actions += self._end(now)
        if self._next_run is not None and now >= self._next_run:
            interval = self._script.interval_us * US
            # The grid stays; runs that were missed while we stood still are not made up for.
            self._next_run = Instant(self._next_run + ((now - self._next_run) // interval + 1) * interval)
            if self._running:
                self._skipped += 1
                actions.append(SaySkipped(self._skipped))
            else:
                self._running = True
                self._skipped = 0
                self._ending = Ending.NONE
                self._ending_at = later(now, Duration(self._script.timeout_us * US))
                actions.append(StartRun())
        return actions

    def _end(self, now: Instant) -> list[Action]:
        if self._ending is Ending.NONE:
            self._ending = Ending.ASKED
            self._ending_at = later(now, KILL_AFTER)
            return [EndRun(force=False)]
        self._ending = Ending.FORCED
        self._ending_at = None
        return [EndRun(force=True)]

    def _ended(self, fact: RunEnded, now: Instant) -> list[Action]:
        assert self._running
        timed_out = self._ending is not Ending.NONE
        self._running = False
        self._ending = Ending.NONE
        self._ending_at = None
        if self._stopped:
            return []
        self._runs += 1
        good = fact.exit_status == 0 and not timed_out
        self._in_a_row = self._in_a_row + 1 if good == self._last_good else 1
        self._last_good = good
        first = not self._judged
        before = self.ok
        self._count(good=good)
        previous = self._last
        # A run that timed out has no exit status of its own, whatever it said when it was asked to end.
        exit_status = None if timed_out else fact.exit_status
        unchanged = previous is not None and (exit_status, fact.signal, timed_out, fact.problem) == (
            previous.exit_status,
            previous.signal,
            previous.timed_out,
            previous.problem,
        )
        if not first and before == self.ok and unchanged:
            return []
        evidence: Evidence = {
            "in_a_row": self._in_a_row,
            "rise": self._script.rise,
            "fall": self._script.fall,
            "took_s": round(fact.took_ns / S, 6),
        }
        if good:
            kind = ReasonKind.SCRIPT_OK
        elif timed_out:
            kind = ReasonKind.SCRIPT_TIMEOUT
            evidence["timeout_s"] = self._script.timeout_us / 1e6
        else:
            kind = ReasonKind.SCRIPT_FAILED
        if exit_status is not None:
            evidence["exit_status"] = exit_status
        if fact.signal is not None:
            evidence["signal"] = fact.signal
        if fact.problem is not None:
            evidence["problem"] = fact.problem
        ended = RunEnded(exit_status, fact.signal, fact.problem, fact.took_ns)
        return self._say(now, ended, kind, evidence, timed_out=timed_out)

    def _count(self, *, good: bool) -> None:
        rise, top = self._script.rise, self._script.rise + self._script.fall - 1
        if good:
            self._counter = self._counter + 1 if self._counter < rise - 1 else top
        else:
            self._counter = self._counter - 1 if self._counter > rise else 0
        self._judged = True

    def _say(
        self, now: Instant, ended: RunEnded, kind: ReasonKind, evidence: Evidence, *, timed_out: bool = False
    ) -> list[Action]:
        previous = self._last
        since = previous.since_mono_ns if previous is not None and previous.ok == self.ok else now
        self._last = ScriptResult(
            script=self._script.name,
            ok=self.ok,
            exit_status=ended.exit_status,
            signal=ended.signal,
            timed_out=timed_out,
            problem=ended.problem,
            latency_ms=round(ended.took_ns / 1e6, 3),
            runs=self._runs,
            in_a_row=self._in_a_row,
            since_mono_ns=since,
            reason=Reason(
                kind=kind,
                node=self._node,
                subject=f"script/{self._script.name}",
                evidence=evidence,
            ),
        )
        return [SayResult(self._last)]
