"""Conversations with the machine of one vrrp_script, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.actors.runtime.machine import Action, Deadline, Instant, seconds
from holdfast.actors.watch.config import Script, TrackScript
from holdfast.actors.watch.messages import ScriptResult
from holdfast.actors.watch.script import (
    EndRun,
    RunEnded,
    SayResult,
    SaySkipped,
    ScriptMachine,
    StartRun,
    Suspend,
    Verdict,
)
from holdfast.bus.messages import ReasonKind


def at(value: float) -> Instant:
    return Instant(seconds(value))


class Play:
    """A script machine and the actions it gave, newest last."""

    def __init__(self, *, reloaded: bool = False, before: Verdict | None = None, **options: object) -> None:
        script = TrackScript(name="chk", command=Script(argv=("/bin/chk",)), **options)  # type: ignore[arg-type]
        self.machine = ScriptMachine(script, node="lb1", now=at(0), reloaded=reloaded, before=before)
        self.said: list[ScriptResult] = []
        self._keep(self.machine.begin(at(0)))
        self.now = 0.0

    def _keep(self, actions: list[Action]) -> list[Action]:
        self.said += [action.result for action in actions if isinstance(action, SayResult)]
        return [action for action in actions if not isinstance(action, SayResult)]

    def due(self, when: float) -> list[Action]:
        self.now = when
        return self._keep(self.machine.step(Deadline(), at(when)))

    def ended(self, when: float, exit_status: int | None = 0, signal: int | None = None) -> list[Action]:
        self.now = when
        return self._keep(self.machine.step(RunEnded(exit_status, signal, None, 5_000_000), at(when)))

    def run(self, *statuses: int) -> list[bool]:
        """Runs the script once for each status, a second apart, and returns the verdicts."""
        verdicts = []
        for status in statuses:
            deadline = self.machine.deadline
            assert deadline is not None
            when = deadline / 1e9
            assert self.due(when) == [StartRun()]
            assert self.ended(when + 0.01, status) == []
            verdicts.append(self.machine.ok)
        return verdicts


def test_first_run_is_at_once_and_then_on_the_grid_of_the_interval() -> None:
    play = Play(interval_us=2_000_000, timeout_us=2_000_000)
    assert play.machine.deadline == at(0)
    assert play.due(0) == [StartRun()]
    play.ended(0.3)
    assert play.machine.deadline == at(2)
    assert play.due(1.999) == []
    assert play.due(2.05) == [StartRun()]
    play.ended(2.1)
    assert play.machine.deadline == at(4)


def test_one_success_is_enough_at_the_start_whatever_rise_says() -> None:
    play = Play(rise=3, fall=2)
    assert play.said == []
    assert play.run(0) == [True]
    assert [result.ok for result in play.said] == [True]
    assert play.said[0].reason.kind is ReasonKind.SCRIPT_OK


def test_one_failure_is_enough_at_the_start_whatever_fall_says() -> None:
    play = Play(rise=3, fall=5)
    assert play.run(1) == [False]
    assert play.said[0].reason.kind is ReasonKind.SCRIPT_FAILED
    assert play.said[0].exit_status == 1


def test_rise_and_fall_count_results_in_a_row_after_the_first_verdict() -> None:
    play = Play(rise=3, fall=2)
    assert play.run(0) == [True]
    assert play.run(1, 0, 1, 1) == [True, True, True, False]
    assert play.run(0, 0, 1, 0, 0, 0) == [False, False, False, False, False, True]


def test_init_fail_begins_failed_and_needs_rise_successes() -> None:
    play = Play(rise=2, fall=1, init_fail=True)
    assert [(result.ok, result.runs) for result in play.said] == [(False, 0)]
    assert play.said[0].reason.evidence["assumed"] is True
    assert play.run(0, 0) == [False, True]


def test_a_script_that_came_with_a_reload_is_successful_until_its_next_run() -> None:
    play = Play(rise=2, fall=2, reloaded=True)
    assert [(result.ok, result.runs) for result in play.said] == [(True, 0)]
    assert play.run(1) == [False]


def test_a_reload_keeps_the_verdict_and_its_distance_to_the_next() -> None:
    before = Play(rise=2, fall=3)
    before.run(0, 1)  # one of three failures
    after = Play(rise=5, fall=3, before=before.machine.verdict)
    assert after.said == [] and after.machine.ok
    assert after.run(1, 1) == [True, False]


def test_a_reload_keeps_a_script_that_never_ran_undecided() -> None:
    after = Play(rise=3, before=Play(rise=2).machine.verdict)
    assert after.said == []
    assert after.run(0) == [True]


def test_a_changed_exit_status_is_told_although_the_verdict_stays() -> None:
    play = Play(fall=3)
    play.run(0, 1, 1, 2)
    assert [(result.ok, result.exit_status) for result in play.said] == [(True, 0), (True, 1), (False, 2)]
    assert play.said[0].since_mono_ns == play.said[1].since_mono_ns < play.said[2].since_mono_ns


def test_death_by_a_signal_is_a_failure() -> None:
    play = Play()
    play.due(0)
    play.ended(0.2, None, 11)
    assert (play.said[0].ok, play.said[0].signal, play.said[0].timed_out) == (False, 11, False)
    assert play.said[0].reason.evidence["signal"] == 11


def test_timeout_asks_with_term_and_forces_with_kill_two_seconds_later() -> None:
    play = Play(interval_us=10_000_000, timeout_us=3_000_000)
    play.due(0)
    assert play.machine.deadline == at(3)
    assert play.due(2.999) == []
    assert play.due(3) == [EndRun(force=False)]
    assert play.machine.deadline == at(5)
    assert play.due(5) == [EndRun(force=True)]
    assert play.machine.deadline == at(10)
    play.ended(5.001, None, 9)
    assert play.said[0].timed_out and play.said[0].reason.kind is ReasonKind.SCRIPT_TIMEOUT
    assert play.said[0].reason.evidence["timeout_s"] == 3.0


def test_a_script_that_says_success_when_asked_to_end_still_timed_out() -> None:
    play = Play(interval_us=10_000_000, timeout_us=1_000_000)
    play.due(0)
    play.due(1)
    play.ended(1.1, 0)
    assert (play.said[0].ok, play.said[0].timed_out, play.said[0].exit_status) == (False, True, None)


def test_a_run_in_progress_lets_the_next_ones_be_skipped() -> None:
    play = Play(interval_us=1_000_000, timeout_us=10_000_000)
    play.due(0)
    assert play.due(1) == [SaySkipped(1)]
    assert play.due(2) == [SaySkipped(2)]
    play.ended(2.5)
    assert play.due(3) == [StartRun()]


def test_with_the_default_timeout_the_run_is_ended_before_the_next_is_thought_of() -> None:
    play = Play()
    play.due(0)
    assert play.due(1) == [EndRun(force=False), SaySkipped(1)]


def test_runs_missed_while_we_stood_still_are_not_made_up_for() -> None:
    play = Play()
    play.run(0)
    assert play.due(7.3) == [StartRun()]
    play.ended(7.4)
    assert play.machine.deadline == at(8)


def test_suspend_ends_the_run_and_says_nothing_more() -> None:
    play = Play()
    play.due(0)
    assert play.machine.step(Suspend(), at(0.1)) == [EndRun(force=False)]
    assert play.ended(0.2, None, 15) == []
    assert play.machine.deadline is None and play.said == []


def test_a_program_that_cannot_be_started_is_a_failure_with_its_problem() -> None:
    play = Play()
    play.due(0)
    play.machine.step(RunEnded(problem="No such file or directory"), at(0.001))
    assert play.machine.last is not None
    assert (play.machine.last.ok, play.machine.last.problem) == (False, "No such file or directory")


@settings(max_examples=300, deadline=None)
@given(
    rise=st.integers(1, 5),
    fall=st.integers(1, 5),
    init_fail=st.booleans(),
    results=st.lists(st.booleans(), max_size=60),
)
def test_the_verdict_changes_exactly_after_rise_or_fall_in_a_row(
    rise: int, fall: int, init_fail: bool, results: list[bool]
) -> None:
    """Against the sentence of keepalived.conf(5): `rise` successes in a row for OK, `fall` failures for KO."""
    play = Play(rise=rise, fall=fall, init_fail=init_fail)
    expected: bool | None = False if init_fail else None
    good = bad = 0
    for result in results:
        good, bad = (good + 1, 0) if result else (0, bad + 1)
        play.run(0 if result else 1)
        if expected is None:
            expected, good, bad = result, 0, 0
        elif not expected and good == rise:
            expected, good = True, 0
        elif expected and bad == fall:
            expected, bad = False, 0
        assert play.machine.ok is expected


@pytest.mark.parametrize("statuses", [(0, 1, 0, 1), (1, 1, 0, 0, 1)])
def test_same_facts_give_same_actions(statuses: tuple[int, ...]) -> None:
    first, second = Play(rise=2), Play(rise=2)
    first.run(*statuses)
    second.run(*statuses)
    assert first.said == second.said
