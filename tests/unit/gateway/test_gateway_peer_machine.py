"""Whether another node can be reached, and how far its clock is."""

from __future__ import annotations

import random

from holdfast.actors.gateway.clock import ClockEstimate
from holdfast.actors.gateway.machine import ASK_EVERY, SILENT, Answered, Ask, Asked, PeerMachine, Tell, pace
from holdfast.actors.gateway.messages import PeerStatus
from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant, seconds

CONNECTING, REACHABLE, UNREACHABLE = PeerStatus.CONNECTING, PeerStatus.REACHABLE, PeerStatus.UNREACHABLE


class Play:
    """The machine in virtual time; deadlines are kept, answers come while `answers` says so."""

    def __init__(self) -> None:
        self.now = Instant(seconds(1000))
        self.start = self.now
        self.machine = PeerMachine(self.now)
        self.told: list[tuple[float, Tell]] = []
        self.asked = 0

    def step(self, fact: Fact) -> list[Action]:
        actions = self.machine.step(fact, self.now)
        for action in actions:
            if isinstance(action, Tell):
                self.told.append(((self.now - self.start) / 1e9, action))
            self.asked += isinstance(action, Ask)
        return actions

    def run(self, until_s: float, *, answers: bool, delay_s: float = 0.001) -> None:
        end = self.start + seconds(until_s)
        while self.machine.deadline <= end:
            self.now = max(self.now, self.machine.deadline)
            if any(isinstance(action, Ask) for action in self.step(Deadline())) and answers:
                self.now = Instant(self.now + seconds(delay_s))
                self.step(Answered())
        self.now = Instant(max(self.now, end))


def test_an_answer_makes_a_node_reachable() -> None:
    play = Play()
    play.run(0.1, answers=True)
    assert [(tell.old, tell.state) for _, tell in play.told] == [(CONNECTING, REACHABLE)]


def test_it_is_asked_every_half_second() -> None:
    play = Play()
    play.run(10, answers=True)
    assert play.asked in (20, 21)


def test_a_cut_is_told_within_two_seconds_and_once() -> None:
    for offset in range(10):
        play = Play()
        play.run(5 + offset / 20, answers=True)
        play.told.clear()
        play.run(60, answers=False)
        (at, tell) = play.told[0]
        assert at - (5 + offset / 20) <= 2.0
        assert (tell.old, tell.state) == (REACHABLE, UNREACHABLE)
        assert tell.evidence is not None and tell.evidence["silent_s"] >= 1.5  # type: ignore[operator]
        assert len(play.told) == 1


def test_a_node_that_never_answers_is_told_too() -> None:
    play = Play()
    play.run(10, answers=False)
    assert [(tell.old, tell.state) for _, tell in play.told] == [(CONNECTING, UNREACHABLE)]


def test_it_returns() -> None:
    play = Play()
    play.run(5, answers=True)
    play.run(20, answers=False)
    play.run(22, answers=True)
    assert [tell.state for _, tell in play.told] == [REACHABLE, UNREACHABLE, REACHABLE]


def test_answers_that_are_late_but_come_are_no_absence() -> None:
    play = Play()
    play.run(60, answers=True, delay_s=0.9)
    assert [tell.state for _, tell in play.told] == [REACHABLE]


def test_our_own_pause_is_not_the_others_silence() -> None:
    play = Play()
    play.run(5, answers=True)
    play.told.clear()
    play.now = Instant(play.now + seconds(30))
    play.step(Deadline())
    assert play.told == []
    play.step(Answered())
    play.run(40, answers=True)
    assert play.told == []


def test_a_pause_hides_a_real_absence_only_for_the_usual_limit() -> None:
    play = Play()
    play.run(5, answers=True)
    play.now = Instant(play.now + seconds(30))
    before = play.now
    play.step(Deadline())
    play.run(60, answers=False)
    at, tell = play.told[-1]
    assert tell.state is UNREACHABLE
    assert at - (before - play.start) / 1e9 <= (SILENT + ASK_EVERY) / 1e9


def test_whether_it_hears_us() -> None:
    play = Play()
    play.step(Asked())
    assert play.machine.hears_us
    assert play.told[-1][1].hears_us
    play.run(1.9, answers=True)
    assert play.machine.hears_us
    play.run(5, answers=True)
    assert not play.machine.hears_us
    assert play.told[-1][1].hears_us is False


def test_a_call_too_early_does_nothing() -> None:
    play = Play()
    play.run(5, answers=True)
    assert play.machine.step(Deadline(), Instant(play.machine.deadline - 1)) == []


def test_a_clock_estimate_is_never_wrong_by_more_than_it_says() -> None:
    chance = random.Random(7)
    for _ in range(200):
        offset = chance.randint(-(10**12), 10**12)
        clock = ClockEstimate()
        wall = 10**18
        for _ in range(chance.randint(1, 50)):
            there, back = chance.randint(10_000, 50_000_000), chance.randint(10_000, 50_000_000)
            clock.add(wall, there + back, wall + there + offset)
            wall += 500_000_000
        assert clock.best is not None
        assert abs(clock.best.offset_ns - offset) <= clock.best.error_ns + 1


def test_a_clock_that_is_set_is_followed_at_once() -> None:
    clock = ClockEstimate()
    for number in range(10):
        clock.add(number * 10**9, 1_000_000, number * 10**9 + 500_000)
    assert clock.best is not None and clock.best.offset_ns == 0
    clock.add(10 * 10**9, 2_000_000, 10 * 10**9 + 1_000_000 + 3600 * 10**9)
    assert clock.best.offset_ns == 3600 * 10**9


def test_nothing_is_known_before_the_first_answer() -> None:
    clock = ClockEstimate()
    assert clock.best is None
    clock.add(0, 10, 5)
    clock.forget()
    assert clock.best is None


def test_many_are_asked_a_little_less_often_and_still_twice_before_they_are_missed() -> None:
    assert pace(1) < pace(10) < pace(30) == pace(50)
    assert pace(1) - ASK_EVERY < ASK_EVERY / 20
    assert 2 * pace(50) < SILENT
