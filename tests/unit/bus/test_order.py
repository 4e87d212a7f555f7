"""Events of several nodes in one stream."""

from __future__ import annotations

import random

from holdfast.bus.codec import Forgotten
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import EventId
from holdfast.bus.order import CausalOrder, in_order

MS = 1_000_000


def event(node: str, seq: int, wall_ms: float, *causes: EventId, cell: str = "c") -> Envelope:
    name = EventId(node, cell, 1, seq)
    return Envelope(f"{node}/a/b/c", name, int(wall_ms * MS), 0, causes, Forgotten())


def names(envelopes: list[Envelope]) -> list[str]:
    return [f"{each.id.node}{each.id.seq}" for each in envelopes]


def test_nothing_leaves_before_its_time() -> None:
    order = CausalOrder(0.3)
    order.push(event("a", 1, 0), 0)
    assert order.due_ns() == 300 * MS
    assert order.pop(299 * MS) == []
    assert names(order.pop(300 * MS)) == ["a1"]
    assert order.due_ns() is None


def test_an_overtaken_event_leaves_first() -> None:
    order = CausalOrder(0.3)
    order.push(event("b", 1, 20), 0)
    order.push(event("a", 1, 10), 100 * MS)
    assert names(order.pop(300 * MS)) == ["a1", "b1"]


def test_clocks_are_corrected() -> None:
    order = CausalOrder(0.3)
    order.offsets = {"b": 3_600_000 * MS}
    order.push(event("a", 1, 20), 0)
    order.push(event("b", 1, 3_600_010), 0)
    assert names(order.pop(300 * MS)) == ["b1", "a1"]


def test_a_cause_comes_first_whatever_the_clocks_say() -> None:
    order = CausalOrder(0.3)
    cause = event("b", 1, 900)
    order.push(event("a", 1, 10, cause.id), 0)
    order.push(cause, 200 * MS)
    assert names(order.pop(300 * MS)) == ["b1", "a1"]


def test_a_sender_keeps_its_order_when_its_clock_is_set_back() -> None:
    order = CausalOrder(0.3)
    order.push(event("a", 1, 1000), 0)
    order.push(event("a", 2, 10), 0)
    assert names(order.pop(300 * MS)) == ["a1", "a2"]


def test_events_that_cause_each_other_are_not_withheld() -> None:
    order = CausalOrder(0.3)
    one, other = EventId("a", "c", 1, 1), EventId("b", "c", 1, 1)
    order.push(event("a", 1, 10, other), 0)
    order.push(event("b", 1, 20, one), 0)
    assert sorted(names(order.pop(300 * MS))) == ["a1", "b1"]


def test_what_is_told_twice_leaves_once() -> None:
    order = CausalOrder(0.3)
    order.push(event("a", 1, 10), 0)
    order.push(event("a", 1, 10), 0)
    assert names(order.pop(300 * MS)) == ["a1"]


def test_any_arrival_gives_causal_order() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        skew = {node: chance.uniform(-400, 400) for node in "abcd"}
        seqs = dict.fromkeys("abcd", 0)
        made: list[Envelope] = []
        for step in range(80):
            node = chance.choice("abcd")
            seqs[node] += 1
            causes = [each.id for each in chance.sample(made, min(len(made), chance.randint(0, 2)))]
            made.append(event(node, seqs[node], step * 5 + skew[node], *causes))
        shuffled = list(made)
        chance.shuffle(shuffled)
        found = in_order(shuffled, {})
        place = {each.id: number for number, each in enumerate(found)}
        assert len(found) == len(made)
        for each in made:
            assert all(place[cause] < place[each.id] for cause in each.causes), seed
        for node in "abcd":
            own = [each.id.seq for each in found if each.id.node == node]
            assert own == sorted(own), seed


def test_live_flow_keeps_causes_before_effects_within_the_hold() -> None:
    for seed in range(30):
        chance = random.Random(seed)
        order = CausalOrder(0.3)
        made = [event("a", 1, 0)]
        for number in range(2, 60):
            made.append(event("ab"[number % 2], number, number * 20 + chance.uniform(-200, 200), made[-1].id))
        arrivals = sorted((index * 20 * MS + chance.randint(0, 250) * MS, index) for index in range(len(made)))
        out: list[Envelope] = []
        for now, index in arrivals:
            out += order.pop(now)
            order.push(made[index], now)
        out += order.flush()
        assert names(out) == names(made), seed
