"""What one peer is sent and when: stories of the sending machine and of the receiving one, in virtual time."""

from __future__ import annotations

import random

from holdfast.actors.connsync.facts import (
    Changed,
    Compare,
    Compared,
    Delivered,
    LagReached,
    NotCompared,
    PeerGone,
    PeerThere,
    Push,
    ScopeChanged,
    Sent,
    Tell,
    Undelivered,
)
from holdfast.actors.connsync.receiver import Receiver
from holdfast.actors.connsync.sender import IN_FLIGHT_MAX, PUSH_ENTRIES_MAX, Limits, PeerPhase, Sender
from holdfast.actors.connsync.syncproto import RawEntry
from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant, seconds


class Story:
    """A sender with a clock in seconds."""

    def __init__(self, **limits: object) -> None:
        self.now_s = 100.0
        self.sender = Sender("lb2", Limits(**limits))  # type: ignore[arg-type]

    def at(self, offset_s: float, fact: Fact) -> list[Action]:
        """One fact, so long after the start."""
        self.now_s = 100.0 + offset_s
        return self.sender.step(fact, self.instant)

    @property
    def instant(self) -> Instant:
        return Instant(seconds(round(self.now_s, 6)))

    def changed(self, offset_s: float, *keys: int, value: bytes = b"new") -> list[Action]:
        """Connections changed just now."""
        self.now_s = 100.0 + offset_s
        return self.at(offset_s, Changed({b"%d" % key: b"%d:" % key + value for key in keys}, self.instant))

    def joined(self) -> Story:
        """After a peer came that lacks nothing."""
        self.at(0.0, PeerThere(1))
        self.at(0.0, Compared(1, {}, 0))
        assert self.sender.phase is PeerPhase.FOLLOWING
        return self

    def due_s(self) -> float:
        """When it wants to be called, in seconds after the start."""
        assert self.sender.deadline is not None
        return round((self.sender.deadline - seconds(100.0)) / 1e9, 6)


def pushes(actions: list[Action]) -> list[Push]:
    return [each for each in actions if isinstance(each, Push)]


def test_a_newcomer_is_compared_given_what_it_lacks_and_compared_again() -> None:
    story = Story()
    assert story.at(0.0, PeerThere(7)) == [Compare(1), Tell()]
    assert story.sender.phase is PeerPhase.JOINING
    lacking = {b"%d" % number: b"entry" for number in range(5000)}
    actions = story.at(1.0, Compared(1, lacking, 0))
    sent = pushes(actions)
    assert [len(each.entries) for each in sent] == [PUSH_ENTRIES_MAX, PUSH_ENTRIES_MAX, 5000 - 2 * PUSH_ENTRIES_MAX]
    assert story.sender.waiting == 5000
    assert story.at(1.1, Delivered(1)) == []
    assert story.at(1.2, Delivered(2)) == []
    assert story.at(1.3, Delivered(3)) == [Compare(2)]
    assert story.sender.phase is PeerPhase.JOINING
    assert story.at(1.4, Compared(2, {}, 0)) == [Tell()]
    assert story.sender.phase is PeerPhase.FOLLOWING
    assert story.sender.equal
    assert story.due_s() == 31.4


def test_changes_are_gathered_for_a_moment_and_the_newest_counts() -> None:
    story = Story().joined()
    assert story.changed(1.0, 1, 2, value=b"old") == []
    assert story.changed(1.005, 2, 3) == []
    assert story.due_s() == 1.015
    (push,) = story.at(1.015, Deadline())
    assert push == Push(1, 1, (b"1:old", b"2:new", b"3:new"))
    assert story.at(1.1, Delivered(1)) == [LagReached(seconds(0.1))]
    assert story.sender.waiting == 0


def test_a_flood_of_changes_does_not_wait() -> None:
    story = Story().joined()
    (push,) = story.changed(1.0, *range(PUSH_ENTRIES_MAX))
    assert isinstance(push, Push)


def test_only_so_many_pushes_are_in_flight() -> None:
    story = Story().joined()
    actions = story.changed(1.0, *range(10 * PUSH_ENTRIES_MAX))
    assert len(pushes(actions)) == IN_FLIGHT_MAX
    assert len(pushes(story.at(1.1, Delivered(2)))) == 1


def test_an_unanswered_push_is_sent_again_with_what_is_newest() -> None:
    story = Story().joined()
    story.changed(1.0, 1, 2, value=b"old")
    story.at(1.015, Deadline())
    story.changed(1.1, 2)
    story.at(1.115, Deadline())
    assert story.at(2.0, Undelivered(1)) == []
    # Not at once: somebody who cannot take it now will not be able to in a millisecond.
    assert story.due_s() == 2.1
    (push,) = pushes(story.at(2.1, Deadline()))
    assert push == Push(3, 2, (b"1:old",))
    assert story.sender.repeated == 1


def test_a_push_that_the_peer_misses_is_sent_again_at_once() -> None:
    story = Story().joined()
    story.changed(1.0, 1)
    story.at(1.015, Deadline())
    story.changed(1.1, 2)
    story.at(1.115, Deadline())
    actions = story.at(1.2, Delivered(2, (1,)))
    assert pushes(actions) == [Push(3, 3, (b"1:new",))]


def test_pauses_grow_and_end_with_the_first_answer() -> None:
    story = Story().joined()
    story.changed(1.0, 1)
    now_s, seq, pauses = 1.015, 1, []
    for _ in range(9):
        story.at(now_s, Deadline())
        story.at(now_s, Undelivered(seq))
        pauses.append(round(story.due_s() - now_s, 3))
        now_s, seq = story.due_s(), seq + 1
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert max(pauses) <= 5.0


def test_no_answer_at_all_counts_as_lost() -> None:
    story = Story().joined()
    story.changed(1.0, 1)
    story.at(1.015, Deadline())
    story.at(6.015, Deadline())
    (push,) = pushes(story.at(6.115, Deadline()))
    assert push.entries == (b"1:new",)


def test_a_peer_that_is_away_is_sent_nothing_and_starts_anew() -> None:
    story = Story().joined()
    story.changed(1.0, 1)
    assert story.at(1.001, PeerGone()) == [Tell()]
    assert story.sender.deadline is None
    assert story.changed(2.0, 2) == []
    assert story.sender.waiting == 0
    assert story.at(3.0, PeerThere(1)) == [Compare(2), Tell()]


def test_another_life_of_the_peer_is_compared_anew() -> None:
    story = Story().joined()
    assert story.at(1.0, PeerThere(1)) == []
    assert story.at(2.0, PeerThere(2)) == [Compare(2), Tell()]
    # The answer to a question of the former life says nothing.
    assert story.at(2.1, Compared(1, {}, 0)) == []
    assert story.sender.phase is PeerPhase.JOINING


def test_what_changes_during_a_comparison_is_no_difference() -> None:
    story = Story()
    story.at(0.0, PeerThere(1))
    story.changed(0.1, 1)
    actions = story.at(0.2, Compared(1, {b"1": b"1:older", b"2": b"2"}, 0))
    assert story.sender.lacking == 1
    assert [push.entries for push in pushes(actions)] == [(b"1:new",), (b"2",)]


def test_lag_is_told_when_it_passes_the_limit_and_when_it_is_over() -> None:
    story = Story(lag_alarm=seconds(2.0)).joined()
    story.changed(1.0, 1)
    story.at(1.015, Deadline())
    assert story.due_s() <= 3.001
    assert story.at(3.001, Deadline()) == [Tell()]
    assert story.sender.late
    assert story.at(4.0, Delivered(1)) == [LagReached(seconds(3.0)), Tell()]
    assert not story.sender.late


def test_bandwidth_is_limited() -> None:
    story = Story(bytes_per_s=10_000.0).joined()
    sent_bytes, now_s = 0, 1.0
    pending = list(pushes(story.changed(1.0, *range(40 * PUSH_ENTRIES_MAX))))
    while pending:
        push = pending.pop(0)
        sent_bytes += 5_000
        pending += pushes(story.at(now_s, Sent(push.seq, 5_000)))
        pending += pushes(story.at(now_s, Delivered(push.seq)))
        while not pending and story.sender.waiting:
            now_s = max(now_s + 0.001, story.due_s())
            pending += pushes(story.at(now_s, Deadline()))
    assert sent_bytes == 40 * 5_000
    assert 18.0 < now_s - 1.0 < 21.0


def test_memory_is_limited_and_the_comparison_finds_the_rest() -> None:
    story = Story(waiting_max=10_000).joined()
    story.changed(1.0, *range(9_000))
    actions = story.changed(1.1, *range(20_000, 25_000))
    assert story.sender.waiting <= 10_000
    assert story.sender.overflows == 1
    assert Compare(2) in actions


def test_a_comparison_that_fails_is_tried_again_soon() -> None:
    story = Story()
    story.at(0.0, PeerThere(1))
    story.at(1.0, NotCompared(1))
    assert story.at(6.0, Deadline()) == [Compare(2)]


def test_a_peer_that_never_takes_something_is_not_asked_all_the_time() -> None:
    story = Story()
    story.at(0.0, PeerThere(1))
    number, seq, asked = 1, 0, 0
    for _ in range(50):
        actions = story.at(1.0, Compared(number, {b"1": b"1"}, 0))
        seq += len(pushes(actions))
        found = [each for each in story.at(1.0, Delivered(seq)) if isinstance(each, Compare)]
        if not found:
            break
        asked += 1
        number = found[0].number
    assert asked == 5
    assert story.due_s() == 31.0


def test_another_scope_forgets_what_waits_and_compares() -> None:
    story = Story().joined()
    story.changed(1.0, 1)
    assert story.at(1.001, ScopeChanged()) == [Compare(2)]
    assert story.sender.waiting == 0


def test_everything_arrives_over_a_network_that_loses_a_third() -> None:
    """A seeded world: pushes and answers get lost; in the end the peer has the newest of every connection."""
    chance = random.Random(11)
    story = Story(compare_every=seconds(5.0)).joined()
    receiver, there, here = Receiver("lb1"), dict[bytes, bytes](), dict[bytes, bytes]()
    waiting: list[Action] = []
    now_s, version = 0.0, 0
    while now_s < 200.0:
        now_s += 0.01
        if now_s < 60.0 and chance.random() < 0.3:
            version += 1
            key = b"%d" % chance.randrange(200)
            here[key] = b"%s:%d" % (key, version)
            waiting += story.at(now_s, Changed({key: here[key]}, story.instant))
        waiting += story.at(now_s, Deadline())
        for action in waiting[:]:
            waiting.remove(action)
            if isinstance(action, Compare):
                lacking = {key: raw for key, raw in here.items() if there.get(key) != raw}
                waiting += story.at(now_s, Compared(action.number, lacking, 0))
            if not isinstance(action, Push) or chance.random() < 0.33:
                continue
            entries = [RawEntry(raw.partition(b":")[0], raw, b"vip") for raw in action.entries]
            taken = receiver.take(1, action.seq, action.settled, entries, frozenset())
            assert taken is not None
            for raw in taken.entries:
                there[raw.partition(b":")[0]] = raw
            if chance.random() < 0.9:
                waiting += story.at(now_s, Delivered(action.seq, taken.missing))
    assert there == here
    assert story.sender.equal
    assert receiver.lost > 0
    assert story.sender.repeated > 0


# --- the receiving side ----------------------------------------------------------------------------------------------


def entry(key: bytes, virtual: bytes = b"vip") -> RawEntry:
    return RawEntry(key, b"raw" + key, virtual)


def test_gaps_are_named_once() -> None:
    receiver = Receiver("lb1")
    first = receiver.take(1, 1, 1, [entry(b"1")], frozenset())
    assert first is not None
    assert first.missing == ()
    second = receiver.take(1, 4, 1, [entry(b"4")], frozenset())
    assert second is not None
    assert second.missing == (2, 3)
    third = receiver.take(1, 5, 4, [entry(b"5")], frozenset())
    assert third is not None
    assert third.missing == ()
    assert receiver.lost == 2


def test_a_newcomer_misses_nothing_that_was_before_it() -> None:
    receiver = Receiver("lb1")
    taken = receiver.take(1, 900, 899, [], frozenset())
    assert taken is not None
    assert taken.missing == (899,)
    assert Receiver("lb1").take(1, 900, 900, [], frozenset()).missing == ()  # type: ignore[union-attr]


def test_a_former_life_is_not_heard_and_a_new_one_starts_anew() -> None:
    receiver = Receiver("lb1")
    assert receiver.take(2, 10, 10, [], frozenset()) is not None
    assert receiver.take(1, 11, 11, [], frozenset()) is None
    taken = receiver.take(3, 1, 1, [], frozenset())
    assert taken is not None
    assert taken.missing == ()


def test_connections_of_our_own_addresses_are_not_taken() -> None:
    receiver = Receiver("lb1")
    taken = receiver.take(1, 1, 1, [entry(b"1"), entry(b"2", b"mine")], frozenset({b"mine"}))
    assert taken is not None
    assert taken.entries == [b"raw1"]
    assert (receiver.taken, receiver.refused) == (1, 1)
