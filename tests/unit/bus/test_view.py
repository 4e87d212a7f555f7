"""A follower ends with exactly the publisher's state and knows what it missed, whatever the road does.

The road is simulated: events are lost, the connection breaks, the publisher is killed and restarted with or without
what it retained, snapshots cross live events on the way.
"""

from __future__ import annotations

import random
from collections import deque

import pytest

from holdfast.bus.codec import Forgotten
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Event, EventId
from holdfast.bus.view import View


class Value(Event, frozen=True, kw_only=True, tag="test.view.value"):
    value: int


class Publisher:
    """The publisher's rules in memory."""

    def __init__(self, epoch: int = 1, before: Publisher | None = None) -> None:
        self.epoch = epoch
        self.seq = 0
        self.retained: dict[str, Envelope] = dict(before.retained) if before else {}
        self.counts: dict[str, int] = {topic: each.count for topic, each in self.retained.items()}

    def publish(self, topic: str, value: int, *, retain: bool = True) -> tuple[Envelope, int, bool]:
        self.seq += 1
        self.counts[topic] = self.counts.get(topic, 0) + 1
        name = EventId("n", "c", self.epoch, self.seq)
        envelope = Envelope(topic, name, 1, 1, (), Value(value=value), self.counts[topic])
        if retain:
            self.retained.pop(topic, None)
            self.retained[topic] = envelope
        return envelope, self.seq, retain

    def forget(self, topic: str) -> tuple[Envelope, int, bool] | None:
        if self.retained.pop(topic, None) is None:
            return None
        self.seq += 1
        envelope = Envelope(
            topic, EventId("n", "c", self.epoch, self.seq), 1, 1, (), Forgotten(), self.counts.pop(topic) + 1
        )
        return envelope, self.seq, False

    def snapshot(self) -> tuple[int, list[Envelope], dict[str, int]]:
        counts = {
            topic: count
            for topic, count in self.counts.items()
            if topic not in self.retained or self.retained[topic].count != count
        }
        return self.seq, list(self.retained.values()), counts


class Reader:
    """Keeps the state that the handler's calls amount to."""

    def __init__(self, prefix: str = "n/a/") -> None:
        self.state: dict[str, int] = {}
        self.calls: list[tuple[str, int | None]] = []
        self.view = View(prefix, self.handle)

    def handle(self, envelope: Envelope) -> None:
        if envelope.gone:
            self.state.pop(envelope.topic, None)
            self.calls.append((envelope.topic, None))
        else:
            assert isinstance(envelope.event, Value)
            self.calls.append((envelope.topic, envelope.event.value))
            if envelope.topic.endswith("/state"):
                self.state[envelope.topic] = envelope.event.value

    def take(self, publisher: Publisher) -> None:
        self.view.snapshot(*publisher.snapshot())


def state(publisher: Publisher) -> dict[str, int]:
    return {
        topic: each.event.value
        for topic, each in publisher.retained.items()
        if isinstance(each.event, Value) and topic.startswith("n/a/")
    }


def test_a_late_joiner_gets_the_state_and_then_what_is_newer() -> None:
    publisher, reader = Publisher(), Reader()
    publisher.publish("n/a/x/state", 1)
    publisher.publish("n/a/x/state", 2)
    early = publisher.publish("n/a/y/state", 3)
    reader.view.live(*early)
    snapshot = publisher.snapshot()
    late = publisher.publish("n/a/x/state", 4)
    reader.view.live(*late)
    assert reader.calls == []
    reader.view.snapshot(*snapshot)
    assert reader.calls == [("n/a/x/state", 2), ("n/a/y/state", 3), ("n/a/x/state", 4)]
    assert reader.view.missed == 0
    assert not reader.view.wants_snapshot


def test_a_gap_is_counted_and_repaired() -> None:
    publisher, reader = Publisher(), Reader()
    reader.take(publisher)
    reader.view.live(*publisher.publish("n/a/x/state", 1))
    publisher.publish("n/a/x/state", 2)
    publisher.publish("n/a/x/state", 3)
    publisher.publish("n/a/y/state", 4)
    reader.view.live(*publisher.publish("n/a/x/state", 5))
    assert reader.view.wants_snapshot
    assert reader.view.missed == 2
    reader.view.fence()
    reader.take(publisher)
    assert reader.state == state(publisher) == {"n/a/x/state": 5, "n/a/y/state": 4}
    assert reader.view.missed == 2  # y came with the snapshot, nothing of it was missed


def test_events_on_their_way_are_not_missed_when_the_state_is_read_again() -> None:
    publisher, reader = Publisher(), Reader()
    reader.take(publisher)
    on_their_way = [publisher.publish("n/a/x/heard", number, retain=False) for number in range(3)]
    snapshot = publisher.snapshot()
    for each in on_their_way:
        reader.view.live(*each)
    reader.view.fence()
    behind = publisher.publish("n/a/x/heard", 3, retain=False)
    reader.view.live(*behind)
    reader.view.snapshot(*snapshot)
    assert [value for _, value in reader.calls] == [0, 1, 2, 3]
    assert reader.view.missed == 0


def test_lost_events_that_are_not_retained_are_counted_by_the_snapshot() -> None:
    publisher, reader = Publisher(), Reader()
    reader.take(publisher)
    for number in range(4):
        publisher.publish("n/a/x/heard", number, retain=False)
    assert reader.view.total != sum(publisher.counts.values())
    reader.view.fence()
    reader.take(publisher)
    assert reader.view.missed == 4
    assert reader.calls == []
    assert reader.view.total == sum(publisher.counts.values())


def test_a_restarted_publisher_tells_only_what_differs() -> None:
    publisher, reader = Publisher(), Reader()
    for topic in ("x", "y", "z"):
        publisher.publish(f"n/a/{topic}/state", 1)
    reader.take(publisher)
    reader.calls.clear()
    successor = Publisher(2, publisher)
    successor.publish("n/a/x/state", 2)
    successor.forget("n/a/z/state")
    reader.view.join()
    reader.take(successor)
    assert reader.calls == [("n/a/z/state", None), ("n/a/x/state", 2)]
    assert reader.view.missed == 0


def test_a_publisher_that_begins_from_nothing_takes_its_state_back() -> None:
    publisher, reader = Publisher(), Reader()
    publisher.publish("n/a/x/state", 1)
    reader.take(publisher)
    reader.view.join()
    reader.take(Publisher(2))
    assert reader.state == {}
    assert reader.calls[-1] == ("n/a/x/state", None)


def test_a_removed_publisher_is_forgotten_with_its_things() -> None:
    publisher, reader = Publisher(), Reader()
    publisher.publish("n/a/x/state", 1)
    reader.take(publisher)
    reader.view.forget_all()
    assert reader.state == {}
    reader.take(publisher)
    assert reader.state == {"n/a/x/state": 1}


def test_every_node_and_one_node() -> None:
    every, one = View("*/a/", lambda envelope: None), View("n/a/", lambda envelope: None)
    assert every.matches("m/a/x/state")
    assert not every.matches("m/b/x/state")
    assert one.matches("n/a/x/state")
    assert not one.matches("m/a/x/state")


@pytest.mark.parametrize("seed", range(300))
def test_whatever_happens_the_reader_ends_with_the_publishers_state(seed: int) -> None:
    chance = random.Random(seed)
    publisher, reader = Publisher(), Reader()
    pipe: deque[tuple[Envelope, int, bool] | str] = deque()
    snapshot: tuple[int, list[Envelope], dict[str, int]] | None = None
    fenced = False
    reading = False
    published = 0
    for step in range(chance.randrange(20, 200)):
        match chance.randrange(12):
            case 0 | 1 | 2 | 3:
                aspect = chance.choice(["state", "heard"])
                topic = f"n/{chance.choice('aab')}/{chance.choice('xyz')}/{aspect}"
                pipe.append(publisher.publish(topic, step, retain=aspect == "state"))
                published += 1
            case 4:
                gone = publisher.forget(f"n/a/{chance.choice('xyz')}/state")
                if gone is not None:
                    pipe.append(gone)
            case 5 if pipe and chance.random() < 0.7:
                if pipe[-1] != "fence":
                    pipe.pop()  # no room: the newest is dropped
            case 6 | 7 | 8 if pipe:
                item = pipe.popleft()
                if isinstance(item, str):
                    fenced = True
                    reader.view.fence()
                elif reader.view.matches(item[0].topic):
                    reader.view.live(*item)
            case 9 if reader.view.wants_snapshot and not reading:
                reading, fenced, snapshot = True, False, publisher.snapshot()
                pipe.append("fence")
            case 10 if reading and fenced and snapshot is not None:
                reader.view.snapshot(*snapshot)
                reading, snapshot = False, None
            case 11 if chance.random() < 0.2:
                publisher = Publisher(publisher.epoch + 1, publisher if chance.random() < 0.7 else None)
                pipe.clear()
                reading, fenced, snapshot = False, False, None
                reader.view.join()
    for item in pipe:
        if isinstance(item, str):
            reader.view.fence()
        elif reader.view.matches(item[0].topic):
            reader.view.live(*item)
    # The beat at the end: a comparison, and a last reading.
    reader.view.fence()
    reader.take(publisher)
    assert reader.state == state(publisher)
    assert 0 <= reader.view.missed <= published
    assert reader.view.total == sum(count for topic, count in publisher.counts.items() if topic.startswith("n/a/"))
