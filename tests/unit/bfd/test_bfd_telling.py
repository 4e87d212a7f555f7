"""The order and the pace in which changes of many sessions are told, without a clock."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.actors.bfd.facts import Cause, Changed
from holdfast.actors.bfd.packet import State
from holdfast.actors.bfd.session_actor import Happened
from holdfast.actors.bfd.telling import AT_ONCE, EVERY_S, GREET_EVERY, Telling


def happened(old: State, new: State) -> Happened:
    return Happened(Changed(old, new, Cause.HANDSHAKE), 0, new is State.UP, 0, 0)


CAME_UP = happened(State.INIT, State.UP)
LOST = happened(State.UP, State.DOWN)


class Hall:
    """Who is told what, turn by turn."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Happened]] = []
        self.waiting: list[Callable[[], None]] = []
        self.telling = Telling(lambda name, what: self.told.append((name, what)), self._later)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        assert seconds == EVERY_S
        self.waiting.append(call)

    def turn(self) -> int:
        """One pause passes; how many were told after it."""
        before = len(self.told)
        calls, self.waiting = self.waiting, []
        assert len(calls) <= 1
        for call in calls:
            call()
        return len(self.told) - before


def test_a_change_is_told_at_once_and_the_clock_stops() -> None:
    hall = Hall()
    hall.telling.say("a", CAME_UP)
    assert hall.told == [("a", CAME_UP)]
    for _ in range(GREET_EVERY + 1):
        hall.turn()
    assert hall.waiting == []


def test_thousands_that_come_up_are_told_slowly_and_a_loss_among_them_at_once() -> None:
    hall = Hall()
    for number in range(1000):
        hall.telling.say(f"b{number}", CAME_UP)
    assert len(hall.told) == AT_ONCE
    told = [hall.turn() for _ in range(GREET_EVERY)]
    assert told == [0] * (GREET_EVERY - 1) + [AT_ONCE]
    hall.turn()
    hall.telling.say("b999", LOST)
    assert hall.told[-1] == ("b999", LOST)
    while hall.waiting:
        hall.turn()
    assert [name for name, _ in hall.told if name == "b999"] == ["b999"], "what was overtaken is not told"
    assert {name for name, _ in hall.told} == {f"b{number}" for number in range(1000)}


def test_losses_are_told_each_turn_before_all_others() -> None:
    hall = Hall()
    for number in range(50):
        hall.telling.say(f"up{number}", CAME_UP)
        hall.telling.say(f"lost{number}", LOST)
    before = len(hall.told)
    losses = [what is LOST for _, what in hall.told[before:]]
    while hall.waiting:
        hall.turn()
        losses = [what is LOST for _, what in hall.told[before:]]
    assert losses[: losses.count(True)] == [True] * losses.count(True)
    assert len(hall.told) == 100


def test_a_session_that_is_gone_is_not_spoken_of() -> None:
    hall = Hall()
    for number in range(AT_ONCE + 1):
        hall.telling.say(f"b{number}", LOST)
    hall.telling.forget(f"b{AT_ONCE}")
    while hall.waiting:
        hall.turn()
    assert len(hall.told) == AT_ONCE
