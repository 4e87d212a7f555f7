"""Who runs which check, and what the results amount to: in virtual time."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.actors.checkers.assignment import (
    BARRED,
    Beaten,
    Unable,
    Vote,
    WorkersChanged,
    WorkersMachine,
    chosen,
    count,
)
from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant, seconds

NAMES = ("w1", "w2", "w3")


class World:
    """A machine and a clock; every deadline is kept to the nanosecond unless `stall` is said."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.machine = WorkersMachine(names, seconds(3.0), seconds(10.0), Instant(0))
        self.now = Instant(0)
        self.told: list[tuple[float, WorkersChanged]] = []

    def step(self, fact: Fact) -> list[Action]:
        actions = self.machine.step(fact, self.now)
        self.told += [(self.now / 1e9, each) for each in actions if isinstance(each, WorkersChanged)]
        return actions

    def until(self, at_s: float, beating: tuple[str, ...] = (), every_s: float = 1.0) -> None:
        """Time goes on; these beat."""
        end = seconds(at_s)
        beat = self.now
        while True:
            due = self.machine.deadline
            at = min(each for each in (beat, due if due is not None else end, end) if each is not None)
            self.now = Instant(max(self.now, at))
            if self.now >= end:
                return
            if self.now == beat:
                beat = Instant(beat + seconds(every_s))
                for name in beating:
                    self.step(Beaten(name))
            else:
                self.step(Deadline())


def test_all_are_taken_for_living_at_the_start() -> None:
    world = World()
    assert world.machine.alive == NAMES
    world.until(2.9)
    assert not world.told


def test_who_is_never_heard_is_lost_after_the_limit() -> None:
    world = World()
    world.until(5.0, ("w1", "w3"))
    assert [(at, each.node, each.lives) for at, each in world.told] == [(3.0, "w2", False)]
    assert world.machine.alive == ("w1", "w3")


def test_who_falls_silent_is_lost_after_the_limit_and_told_once() -> None:
    world = World()
    world.until(10.0, NAMES)
    world.until(30.0, ("w1", "w2"))
    assert [(at, each.node, each.silent) for at, each in world.told] == [(12.0, "w3", seconds(3.0))]


def test_who_comes_back_must_be_heard_for_a_while_without_a_gap() -> None:
    world = World(("w1",))
    world.until(10.0, ("w1",))
    world.until(20.0)
    assert world.machine.alive == ()
    world.until(25.0, ("w1",))
    world.until(40.0)  # a gap: what was heard does not count any more
    assert world.machine.alive == ()
    world.until(49.5, ("w1",))
    assert world.machine.alive == ()
    world.until(51.0, ("w1",))
    assert world.machine.alive == ("w1",)


def test_who_comes_late_for_the_first_time_gets_checks_at_once() -> None:
    world = World(("w1",))
    world.until(100.0)
    assert world.machine.alive == ()
    world.until(101.0, ("w1",))
    assert world.machine.alive == ("w1",)


def test_a_process_that_stood_still_hears_before_it_judges() -> None:
    world = World(("w1",))
    world.until(10.0, ("w1",))
    world.now = Instant(seconds(20.0))  # stopped for ten seconds: its own deadline is late
    assert world.step(Deadline()) == []
    world.step(Beaten("w1"))
    world.until(22.0)
    assert world.machine.alive == ("w1",)
    world.until(30.0)
    assert world.machine.alive == ()


def test_who_cannot_take_its_checks_gets_none_for_a_while() -> None:
    world = World(("w1",))
    world.until(5.0, ("w1",))
    world.step(Unable("w1"))
    assert world.machine.alive == ()
    world.until(5.0 + BARRED / 1e9 - 0.5, ("w1",))
    assert world.machine.alive == ()
    world.until(5.0 + BARRED / 1e9 + 1.5, ("w1",))
    assert world.machine.alive == ("w1",)


def test_a_reload_keeps_who_stays_as_he_was() -> None:
    world = World(("w1", "w2"))
    world.until(10.0, ("w1",))
    world.machine.configure(("w2", "w1", "w4"), seconds(3.0), seconds(10.0), world.now)
    assert world.machine.alive == ("w1", "w4")


def test_strangers_do_not_count() -> None:
    world = World(("w1",))
    assert world.step(Beaten("w9")) == []
    assert world.machine.alive == ("w1",)


CHECKS = [f"tcp-10.0.{number // 250}.{number % 250}:80-abc" for number in range(3000)]


def test_checks_are_spread_evenly() -> None:
    found = Counter(chosen(check, NAMES, 1)[0] for check in CHECKS)
    assert set(found) == set(NAMES)
    assert min(found.values()) > 900


def test_the_order_of_the_names_does_not_matter() -> None:
    for check in CHECKS[:200]:
        assert chosen(check, NAMES, 2) == chosen(check, tuple(reversed(NAMES)), 2)


def test_who_goes_moves_only_what_he_had() -> None:
    for check in CHECKS:
        before = chosen(check, NAMES, 1)
        after = chosen(check, ("w1", "w3"), 1)
        assert before in (("w2",), after)


def test_nobody_is_home_and_few_are_all() -> None:
    assert chosen("x", (), 3) == ()
    assert set(chosen("x", ("w1", "w2"), 3)) == {"w1", "w2"}


def votes(*words: bool | None) -> dict[str, Vote]:
    return {f"w{number}": Vote(up, up is True) for number, up in enumerate(words, 1)}


@pytest.mark.parametrize(
    ("given_votes", "of", "agree", "before", "after"),
    [
        (votes(True), 1, 0, None, True),
        (votes(False), 1, 0, True, False),
        (votes(), 1, 0, True, True),
        (votes(None), 1, 0, True, True),
        (votes(False, True, True), 3, 0, True, True),
        (votes(False, False, True), 3, 0, True, False),
        (votes(False, False), 3, 0, True, False),
        (votes(False), 3, 0, True, True),  # two are still silent
        (votes(False, None, None), 3, 0, None, None),
        (votes(False, True), 2, 0, True, True),  # one against one: it stays
        (votes(False, True), 2, 0, False, False),
        (votes(False, False), 2, 0, True, False),
        (votes(False, False, True), 3, 3, True, True),  # all have to agree
        (votes(False, False, False), 3, 3, True, False),
        (votes(False, True, True), 3, 1, True, True),  # one would do, but more say the other
        (votes(False, False), 2, 3, True, False),  # fewer nodes than asked for: all of them
        (votes(), 0, 0, False, False),
    ],
)
def test_what_counts(
    given_votes: dict[str, Vote], of: int, agree: int, before: bool | None, after: bool | None
) -> None:
    assert count(given_votes, of, agree, before).up is after


@given(st.lists(st.sampled_from([True, False, None]), max_size=7), st.integers(0, 7), st.sampled_from([True, False]))
def test_a_change_has_enough_voices(words: list[bool | None], agree: int, before: bool) -> None:
    found = count(votes(*words), len(words), agree, before)
    if found.up is not before:
        assert words.count(found.up) >= found.needed
        assert words.count(found.up) > words.count(before)


@pytest.mark.parametrize("chance", range(20))
def test_a_minority_that_lies_changes_nothing(chance: int) -> None:
    """Five look; two say anything, whenever: what counts is what the three see."""
    luck = random.Random(chance)
    up: bool | None = True
    seen = votes(True, True, True, True, True)
    truth = True
    for _ in range(200):
        if luck.random() < 0.05:
            truth = not truth
            for name in ("w1", "w2", "w3"):
                seen[name] = Vote(truth, truth)
        liar = luck.choice(("w4", "w5"))
        said = luck.choice((True, False, None))
        seen[liar] = Vote(said, said is True)
        up = count(seen, 5, 0, up).up
        assert up is truth
