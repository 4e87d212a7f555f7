"""The queue of one target in virtual time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.actors.notify.config import Script
from holdfast.actors.notify.notices import Notice, ScriptCall
from holdfast.actors.notify.queue import (
    EndCall,
    Noticed,
    QueueMachine,
    RunEnded,
    SayDone,
    SayDropped,
    SayFailed,
    StartCall,
)
from holdfast.actors.runtime.machine import Action, Deadline, Instant, seconds
from holdfast.bus.messages import EventId


def at(value: float) -> Instant:
    return Instant(seconds(value))


def event(number: int) -> EventId:
    return EventId("lb1", "protocol", 1, number)


def call(name: str) -> ScriptCall:
    return ScriptCall(Script(argv=(name,)))


def notice(*names: str, word: str = "MASTER", stop: bool = False) -> Notice:
    return Notice(target="instance:VI_1", word=word, calls=tuple(call(name) for name in names), stop=stop)


class Play:
    """A queue with a limit of 60 s and room for three; actions in short words."""

    def __init__(self, room: int = 3) -> None:
        self.machine = QueueMachine(limit=seconds(60), room=room)
        self.number = 0

    def noticed(self, when: float, what: Notice) -> list[str]:
        self.number += 1
        return words(self.machine.step(Noticed(what, event(self.number)), at(when)))

    def ended(self, when: float, exit_status: int | None = 0) -> list[str]:
        return words(self.machine.step(RunEnded(exit_status), at(when)))

    def due(self, when: float) -> list[str]:
        return words(self.machine.step(Deadline(), at(when)))


def words(actions: list[Action]) -> list[str]:
    found = []
    for action in actions:
        match action:
            case StartCall():
                found.append(f"start {action.call.script}")
            case EndCall():
                found.append(f"{'kill' if action.force else 'term'} {action.call.script}")
            case SayFailed():
                found.append(f"failed {action.call.script}{' late' if action.timed_out else ''}")
            case SayDropped():
                found.append(f"dropped {len(action.notices)}{' overtaken' if action.overtaken else ''}")
            case SayDone():
                found.append(f"done {action.event.seq}")
    return found


def test_one_after_the_other_the_specific_one_first() -> None:
    play = Play()
    assert play.noticed(0, notice("backup", "any")) == ["start backup"]
    assert play.noticed(0.1, notice("master", "any")) == []
    assert play.ended(1) == ["start any"]
    assert play.ended(2) == ["done 1", "start master"]
    assert play.ended(3) == ["start any"]
    assert play.ended(4) == ["done 2"]
    assert play.machine.idle and play.machine.deadline is None


def test_a_notice_without_scripts_is_done_in_its_turn() -> None:
    play = Play()
    assert play.noticed(0, notice()) == ["done 1"]
    play.noticed(1, notice("a"))
    assert play.noticed(2, notice()) == []
    assert play.ended(3) == ["done 2", "done 3"]


def test_failures_are_said_and_stop_nothing() -> None:
    play = Play()
    play.noticed(0, notice("a", "b"))
    assert play.ended(1, 7) == ["failed a", "start b"]
    assert play.ended(1, None) == ["failed b", "done 1"]
    assert (play.machine.failed, play.machine.timed_out) == (2, 0)


def test_the_limit_is_term_then_kill_two_seconds_later() -> None:
    play = Play()
    play.noticed(0, notice("a"))
    play.noticed(1, notice("b"))
    assert play.machine.deadline == at(60)
    assert play.due(59.9) == []
    assert play.due(60) == ["term a"]
    assert play.due(61.9) == []
    assert play.due(62) == ["kill a"]
    assert play.machine.deadline is None
    assert play.ended(62.1, None) == ["failed a late", "done 1", "start b"]
    assert play.machine.deadline == at(122.1)
    assert (play.machine.failed, play.machine.timed_out) == (0, 1)


def test_the_oldest_that_waits_is_dropped_when_there_is_no_room() -> None:
    play = Play(room=2)
    play.noticed(0, notice("running"))
    play.noticed(1, notice("oldest"))
    play.noticed(2, notice("older"))
    assert play.noticed(3, notice("newest")) == ["dropped 1"]
    assert play.machine.dropped == 1
    assert play.ended(4) == ["done 1", "start older"]
    assert play.ended(5) == ["done 3", "start newest"]


def test_a_stop_overtakes_what_waits_and_has_one_second() -> None:
    play = Play()
    play.noticed(0, notice("slow"))
    play.noticed(1, notice("waits"))
    assert play.noticed(2, notice("stop", word="STOP", stop=True)) == ["dropped 1 overtaken", "term slow"]
    assert play.machine.deadline == at(2.5)
    assert play.due(2.5) == ["kill slow"]
    assert play.ended(2.6, None) == ["failed slow late", "done 1", "start stop"]
    assert play.machine.deadline == at(3)
    assert play.due(3) == ["kill stop"]
    assert play.ended(3.1, None) == ["failed stop late", "done 3"]


def test_a_stop_with_nothing_in_the_way_starts_at_once() -> None:
    play = Play()
    assert play.noticed(0, notice("stop", "any", word="STOP", stop=True)) == ["start stop"]
    assert play.ended(0.3) == ["start any"]
    assert play.machine.deadline == at(1)  # one second for both


def test_after_the_second_of_a_stop_nothing_begins() -> None:
    play = Play()
    play.noticed(0, notice("stop", "any", word="STOP", stop=True))
    assert play.due(1) == ["kill stop"]
    assert play.ended(1.1, None) == ["failed stop late", "dropped 1 overtaken", "done 1"]


def test_a_script_already_asked_to_end_gets_no_more_time_in_a_stop() -> None:
    play = Play()
    play.noticed(0, notice("slow"))
    assert play.due(60) == ["term slow"]
    play.noticed(60.1, notice("stop", word="STOP", stop=True))
    assert play.machine.deadline == at(60.6)
    assert play.due(60.6) == ["kill slow"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 3), st.just("end")), max_size=80), st.integers(1, 5))
def test_nothing_overtakes_nothing_is_lost_unsaid(script: list[int | str], room: int) -> None:
    """Whatever comes and whenever scripts end: notices are done or dropped exactly once, done ones in order."""
    machine = QueueMachine(limit=seconds(60), room=room)
    said: list[Action] = []
    number, running = 0, 0
    for moment, what in enumerate([*script, *["end"] * 400]):
        if what == "end":
            if running:
                running -= 1
                actions = machine.step(RunEnded(0), at(moment / 1000))
            else:
                continue
        else:
            assert isinstance(what, int)
            number += 1
            actions = machine.step(Noticed(notice(*"abc"[:what], word=str(number)), event(number)), at(moment / 1000))
        running += sum(isinstance(action, StartCall) for action in actions)
        assert running <= 1 and machine.waiting <= room
        said += actions
    done = [action.event.seq for action in said if isinstance(action, SayDone)]
    dropped = [int(each.word) for action in said if isinstance(action, SayDropped) for each in action.notices]
    assert done == sorted(done)
    assert sorted(done + dropped) == list(range(1, number + 1))
    assert machine.idle and machine.dropped == len(dropped)


def test_thousands_wait_in_no_more_than_the_room_there_is() -> None:
    machine = QueueMachine(limit=seconds(60), room=64)
    dropped = 0
    for number in range(1, 10_001):
        actions = machine.step(Noticed(notice("slow"), event(number)), at(number / 1000))
        dropped += sum(isinstance(action, SayDropped) for action in actions)
    assert machine.waiting == 64 and machine.dropped == dropped == 10_000 - 65
