"""The machine behind every check, in virtual time."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.actors.checkers.base import (
    CheckMachine,
    EndProbe,
    Outcome,
    ProbeDone,
    Report,
    ReportNotRun,
    ReportOverdue,
    ReportSuspended,
    Reschedule,
    Resume,
    RunNow,
    Schedule,
    StartProbe,
    State,
    Suspend,
    Verdict,
    failed,
    not_run,
    passed,
)
from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant, S, seconds

PLAIN = Schedule(
    retry=2,
    delay_loop=seconds(10),
    delay_before_retry=seconds(1),
    warmup=seconds(0),
    cap=seconds(5),
)
OK = passed("fine")
BAD = failed("refused")


class NoChance:
    """Chance that always says the same."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


class Play:
    """A machine, its clock in seconds and what it did."""

    def __init__(self, schedule: Schedule = PLAIN, state: State | None = None, chance: float = 0.0, **words: object):
        self.machine = CheckMachine(schedule, NoChance(chance), Instant(0), state, **words)  # type: ignore[arg-type]
        self.now = 0.0
        self.trace: list[tuple[float, Fact, list[Action]]] = []

    def at(self, second: float, fact: Fact) -> list[Action]:
        self.now = second
        actions = self.machine.step(fact, Instant(round(second * S)))
        self.trace.append((second, fact, actions))
        return actions

    @property
    def due(self) -> float | None:
        deadline = self.machine.deadline
        return None if deadline is None else deadline / S

    def run(self, outcome: Outcome, took: float = 0.0) -> Report:
        """The next run that is due, with this outcome; checks that nothing happens before it."""
        assert self.due is not None
        assert self.at(self.due - 0.000001, Deadline()) == []
        started = self.at(self.due, Deadline())
        start = started[-1]
        assert isinstance(start, StartProbe)
        actions = self.at(self.now + took, ProbeDone(start.run, outcome))
        assert isinstance(actions[0], Report)
        return actions[0]


def test_first_run_a_second_after_the_start_plus_chance_of_the_warmup():
    assert Play().due == 1.0
    warm = msgspec.structs.replace(PLAIN, warmup=seconds(60))
    assert Play(warm, chance=0.5).due == 31.0


def test_first_run_has_no_retries():
    play = Play()
    report = play.run(BAD)
    assert (report.up, report.first, report.changed, report.failures) == (False, True, True, 1)
    assert play.due == 11.0


def test_first_success_is_a_verdict():
    report = Play().run(OK)
    assert (report.up, report.first, report.changed) == (True, True, True)


def test_up_forgives_retries_and_spaces_them():
    play = Play()
    play.run(OK)
    assert play.due == 11.0
    first = play.run(BAD)
    assert (first.up, first.changed, first.failures) == (True, False, 1)
    assert play.due == 12.0
    second = play.run(BAD)
    assert (second.up, second.failures) == (True, 2)
    assert play.due == 13.0
    third = play.run(BAD)
    assert (third.up, third.changed, third.failures) == (False, True, 3)
    assert play.due == 23.0


def test_a_success_takes_the_failures_back():
    play = Play()
    play.run(OK)
    play.run(BAD)
    play.run(BAD)
    assert play.run(OK).failures == 0
    assert play.run(BAD).up is True
    assert play.run(BAD).up is True
    assert play.run(BAD).up is False


def test_down_looks_each_delay_loop_and_one_success_brings_it_up():
    play = Play()
    play.run(BAD)
    for _ in range(3):
        before = play.due
        assert play.run(BAD).changed is False
        assert play.due == pytest.approx((before or 0) + 10)
    report = play.run(OK)
    assert (report.up, report.changed) == (True, True)


def test_http_waits_the_longer_of_both_delays_while_down():
    slow = msgspec.structs.replace(PLAIN, delay_before_retry=seconds(30), pages=True)
    play = Play(slow)
    play.run(BAD)
    assert play.due == 31.0


def test_pause_counts_from_the_end_of_a_run_or_from_its_start():
    play = Play()
    play.run(OK, took=3.0)
    assert play.due == 14.0
    misc = Play(msgspec.structs.replace(PLAIN, from_start=True))
    misc.run(OK, took=3.0)
    assert misc.due == 11.0
    late = Play(msgspec.structs.replace(PLAIN, from_start=True, cap=seconds(60)))
    late.run(OK, took=15.0)
    assert late.due == 16.0


def test_a_run_that_hangs_is_ended_and_counts_as_failed():
    play = Play()
    play.run(OK)
    play.at(11.0, Deadline())
    assert play.due == 16.0
    end, report = play.at(16.0, Deadline())
    assert end == EndProbe(2)
    assert isinstance(report, Report)
    assert report.outcome.verdict is Verdict.FAILED
    assert "5 s" in report.outcome.text
    assert play.at(17.0, ProbeDone(2, OK)) == []  # too late


def test_could_not_run_is_no_failure_and_is_tried_again_after_delay_loop():
    play = Play()
    play.run(OK)
    start = play.at(11.0, Deadline())[-1]
    assert isinstance(start, StartProbe)
    trouble = not_run("no such device", 19)
    assert play.at(11.0, ProbeDone(start.run, trouble)) == [ReportNotRun(trouble)]
    assert play.machine.up is True
    assert play.due == 21.0


def test_the_first_run_stays_the_first_until_there_is_a_verdict():
    play = Play()
    start = play.at(1.0, Deadline())[-1]
    assert isinstance(start, StartProbe)
    play.at(1.0, ProbeDone(start.run, not_run("no socket")))
    report = play.run(BAD)
    assert report.first is True
    assert report.up is False


def test_smtp_counts_in_rounds_also_at_first_and_while_down():
    play = Play(msgspec.structs.replace(PLAIN, rounds=True))
    assert play.run(BAD).up is None
    assert play.due == 2.0
    assert play.run(BAD).up is None
    assert play.run(BAD).up is False
    assert play.due == 13.0
    play.run(BAD)
    assert play.due == 14.0  # quick again although it is down
    play.run(BAD)
    play.run(BAD)
    assert play.due == 25.0
    assert play.run(OK).up is True


def test_pages_take_turns_and_all_must_pass_before_it_is_up():
    play = Play(msgspec.structs.replace(PLAIN, steps=3, pages=True))
    assert play.run(OK).up is None
    assert play.run(OK).up is None
    report = play.run(OK)
    assert (report.up, report.changed) == (True, True)
    assert play.due == 31.0  # number of pages x delay_loop
    assert [each[2][-1].step for each in play.trace if each[2] and isinstance(each[2][-1], StartProbe)] == [0, 1, 2]


def test_fast_recovery_leaves_the_pauses_out_until_it_is_up():
    play = Play(msgspec.structs.replace(PLAIN, steps=3, pages=True, fast_recovery=True))
    play.run(OK)
    assert play.due == 1.0
    play.at(1.0, Deadline())
    play.at(1.0, ProbeDone(2, OK))
    assert play.due == 1.0
    play.at(1.0, Deadline())
    (report,) = play.at(1.0, ProbeDone(3, OK))
    assert isinstance(report, Report)
    assert report.up is True
    assert play.due == 11.0


def test_while_down_only_the_failed_page_then_all_of_them_from_the_first():
    play = Play(msgspec.structs.replace(PLAIN, steps=2, pages=True, retry=0))
    play.run(OK)
    play.run(OK)
    assert play.machine.up is True
    play.run(OK)
    assert play.run(BAD).up is False  # page 1
    steps = []
    for outcome, up in ((BAD, False), (OK, False), (OK, False), (OK, True)):
        steps.append(play.machine.step_index)
        assert play.run(outcome).up is up
    assert steps == [1, 1, 0, 1]


def test_a_single_page_that_failed_has_to_pass_twice():
    """Observed with keepalived 2.2.7: the failed page is tried until it is good, then all pages, of which it is one."""
    play = Play(msgspec.structs.replace(PLAIN, pages=True))
    play.run(BAD)
    assert play.run(OK).up is False
    assert play.run(OK).up is True


def test_a_later_page_of_the_first_round_has_its_retries():
    play = Play(msgspec.structs.replace(PLAIN, steps=2, pages=True, retry=1))
    play.run(OK)
    assert play.run(BAD).up is None
    assert play.due == 12.0
    assert play.run(BAD).up is False


def test_with_alpha_a_later_page_of_the_first_round_has_none():
    """Observed with keepalived 2.2.7: what does not count as up is not repeated faster."""
    play = Play(msgspec.structs.replace(PLAIN, steps=2, pages=True, retry=1, alpha=True))
    play.run(OK)
    assert play.run(BAD).up is False
    assert play.due == 21.0


def test_recovery_of_three_pages_beside_keepalived():
    """The times of keepalived 2.2.7: /b fails from 12.2 s, is good again at 18.0 s; /a /b /c follow, up with /c."""
    play = Play(
        msgspec.structs.replace(
            PLAIN, steps=3, pages=True, delay_loop=seconds(1), delay_before_retry=seconds(0.4), retry=2
        )
    )
    for _ in range(3):
        play.run(OK)
    play.run(OK)
    story = []
    for outcome in [BAD] * 7 + [OK] * 4:
        page, due = play.machine.step_index, play.due
        assert due is not None
        story.append((round(due, 1), "abc"[page], play.run(outcome).up))
    assert story == [
        (5.0, "b", True),
        (5.4, "b", True),
        (5.8, "b", False),
        (6.8, "b", False),
        (7.8, "b", False),
        (8.8, "b", False),
        (9.8, "b", False),
        (10.8, "b", False),
        (11.8, "a", False),
        (12.8, "b", False),
        (13.8, "c", True),
    ]


def test_overdue_after_twice_the_interval_and_over_with_the_next_result():
    play = Play()
    play.run(OK)  # at 1 s; due at 11 s
    late = play.at(21.5, Deadline())
    assert late[0] == ReportOverdue(True, seconds(20.5), seconds(20))
    start = late[1]
    assert isinstance(start, StartProbe)
    report, over = play.at(21.6, ProbeDone(start.run, OK))
    assert isinstance(report, Report)
    assert over == ReportOverdue(False, seconds(20.6), seconds(20))
    assert play.machine.overdue is False


def test_late_but_within_twice_the_interval_is_not_overdue():
    play = Play()
    play.run(OK)
    assert [type(each) for each in play.at(20.9, Deadline())] == [StartProbe]


def test_a_check_that_cannot_run_becomes_overdue():
    play = Play()
    play.run(OK)
    seen: list[Action] = []
    while play.now < 60:
        assert play.due is not None
        actions = play.at(play.due, Deadline())
        seen += actions
        start = actions[-1]
        assert isinstance(start, StartProbe)
        play.at(play.now, ProbeDone(start.run, not_run("address not here")))
    overdue = [each for each in seen if isinstance(each, ReportOverdue)]
    assert [each.overdue for each in overdue] == [True]


def test_a_short_interval_is_not_overdue_for_less_than_a_second():
    play = Play(msgspec.structs.replace(PLAIN, delay_loop=seconds(0.05)))
    play.run(OK)
    assert [type(each) for each in play.at(1.9, Deadline())] == [StartProbe]


def test_suspended_stands_still_and_keeps_its_verdict():
    play = Play()
    play.run(BAD)
    assert play.at(5.0, Suspend()) == [ReportSuspended(True)]
    assert play.at(5.0, Suspend()) == []
    assert play.due is None
    assert play.at(500.0, Deadline()) == []
    assert play.machine.up is False
    assert play.at(1000.0, Resume()) == [ReportSuspended(False)]
    assert play.due == 1000.0
    assert [type(each) for each in play.at(1000.0, Deadline())] == [StartProbe]


def test_suspending_ends_a_run_under_way():
    play = Play()
    play.at(1.0, Deadline())
    assert play.at(1.5, Suspend()) == [EndProbe(1), ReportSuspended(True)]
    assert play.at(1.6, ProbeDone(1, BAD)) == []
    assert play.machine.runs == 0


def test_starts_suspended():
    play = Play(suspended=True)
    assert play.due is None
    play.at(3.0, Resume())
    assert play.due == 3.0


def test_resumed_checks_are_spread_over_a_second():
    play = Play(suspended=True, chance=0.5)
    play.at(3.0, Resume())
    assert play.due == 3.5


def test_state_of_a_former_life_goes_on():
    down = Play(state=State(up=False, failures=4, runs=9), chance=0.5)
    assert down.due == 2.5  # within five seconds
    report = down.run(BAD)
    assert (report.first, report.changed, report.failures) == (False, False, 5)
    up = Play(state=State(up=True, failures=2, runs=9))
    assert up.run(BAD).up is False  # two were forgiven before


def test_run_now():
    play = Play()
    play.run(OK)
    (start,) = play.at(4.0, RunNow())
    assert isinstance(start, StartProbe)
    assert play.at(4.1, RunNow()) == []
    play.at(4.2, ProbeDone(start.run, OK))
    assert play.due == 14.2


def test_reload_with_a_shorter_interval_counts_at_once():
    play = Play()
    play.run(OK)
    play.at(2.0, Reschedule(msgspec.structs.replace(PLAIN, delay_loop=seconds(3))))
    assert play.due == 5.0
    play.at(2.0, Reschedule(PLAIN))
    assert play.due == 5.0


@given(
    st.integers(0, 4),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.lists(st.sampled_from([OK, BAD, not_run("no"), None, "suspend"]), max_size=60),
    st.integers(),
)
def test_any_story_keeps_the_rules(
    retry: int, steps: int, fast: bool, rounds: bool, from_start: bool, story: list[object], seed: int
):
    schedule = Schedule(
        retry=retry,
        delay_loop=seconds(10),
        delay_before_retry=seconds(1),
        warmup=seconds(5),
        cap=seconds(5),
        steps=steps,
        pages=steps > 1,
        fast_recovery=fast,
        rounds=rounds,
        from_start=from_start,
    )
    machine = CheckMachine(schedule, random.Random(seed), Instant(0))
    failures = 0
    for event in story:
        deadline = machine.deadline
        assert deadline is not None
        now = deadline
        actions = machine.step(Deadline(), now)
        start = actions[-1]
        assert isinstance(start, StartProbe)
        assert 0 <= start.step < steps
        before = machine.up
        if event == "suspend":
            machine.step(Suspend(), now)
            assert machine.deadline is None
            assert machine.up is before
            machine.step(Resume(), now)
            continue
        if event is None:
            now = Instant(now + schedule.cap)
            actions = machine.step(Deadline(), now)
        else:
            assert isinstance(event, Outcome)
            actions = machine.step(ProbeDone(start.run, event), now)
        reports = [each for each in actions if isinstance(each, Report)]
        if isinstance(event, Outcome) and event.verdict is Verdict.NOT_RUN:
            assert reports == []
            assert machine.up is before
            continue
        (report,) = reports
        good = report.outcome.verdict is Verdict.OK
        failures = 0 if good else failures + 1
        assert report.failures == failures
        assert report.changed is (machine.up is not before)
        if good:
            assert not (before is True and machine.up is False)
        elif before is True:
            assert machine.up is (failures <= retry) or rounds
        assert machine.deadline is not None
        assert machine.deadline >= now
