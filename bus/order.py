"""Events of several nodes as one stream: causes before their effects, otherwise by corrected clock. Pure.

Clocks of hosts differ and messages overtake each other. So events wait for `hold_s`, and leave in the order of their
wall clocks after correction by what is known of each node's clock; an event whose cause is among those that wait
leaves after it, whatever the clocks say, and one
whose cause may still be on its way waits its whole time. Events of one publisher never change places.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

import msgspec

from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import EventId

HOLD_S = 0.3
RELEASED_MAX = 8192
"""Events remembered after they left: a cause among them is not waited for."""


class _Waiting(msgspec.Struct):
    envelope: Envelope
    at_ns: int
    came_ns: int


class CausalOrder:
    """A buffer that puts events in order. hold_s: how long one waits for others that belong before it."""

    def __init__(self, hold_s: float = HOLD_S) -> None:
        self.offsets: dict[str, int] = {}
        """Node -> its wall clock less ours, in ns."""
        self._hold_ns = int(hold_s * 1e9)
        self._waiting: dict[EventId, _Waiting] = {}
        self._last: dict[tuple[str, str], int] = {}
        self._released: dict[EventId, None] = {}

    def corrected(self, envelope: Envelope) -> int:
        """The event's wall clock on our clock, ns."""
        return envelope.wall_ns - self.offsets.get(envelope.id.node, 0)

    def push(self, envelope: Envelope, now_ns: int) -> None:
        """One event came. now_ns: any clock that only grows, the same for `pop`."""
        at = self.corrected(envelope)
        stream = (envelope.id.node, envelope.id.cell)
        # The sender's own order counts more than a wall clock that was set back.
        at = max(at, self._last.get(stream, at))
        self._last[stream] = at
        self._waiting.setdefault(envelope.id, _Waiting(envelope, at, now_ns))

    def due_ns(self) -> int | None:
        """When `pop` will have something; None: nothing waits."""
        first = min((each.came_ns for each in self._waiting.values()), default=None)
        return None if first is None else first + self._hold_ns

    def pop(self, now_ns: int) -> list[Envelope]:
        """What has waited long enough, and what belongs before it."""
        ripe = [each for each in self._waiting.values() if now_ns - each.came_ns >= self._hold_ns]
        if not ripe:
            return []
        wanted = {each.envelope.id for each in ripe}
        # A cause belongs before its effect even when its node's clock is ahead by more than we know.
        todo = list(wanted)
        while todo:
            for cause in self._waiting[todo.pop()].envelope.causes:
                if cause in self._waiting and cause not in wanted:
                    wanted.add(cause)
                    todo.append(cause)
        self._add_earlier(wanted, max(each.at_ns for each in ripe))
        return self._release({name: self._waiting.pop(name) for name in wanted})

    def _add_earlier(self, wanted: set[EventId], until_ns: int) -> None:
        """What came later and happened earlier leaves with them, unless a cause of it may still be on its way."""
        earlier = {name: each for name, each in self._waiting.items() if each.at_ns <= until_ns}
        blocked: set[tuple[str, str]] = set()
        for envelope in _sorted(earlier):
            name = envelope.id
            if name in wanted:
                continue
            stream = (name.node, name.cell)
            if stream in blocked or not all(cause in wanted or cause in self._released for cause in envelope.causes):
                blocked.add(stream)
            else:
                wanted.add(name)

    def _release(self, chosen: dict[EventId, _Waiting]) -> list[Envelope]:
        found = _sorted(chosen)
        for each in found:
            self._released[each.id] = None
        while len(self._released) > RELEASED_MAX:
            self._released.pop(next(iter(self._released)))
        return found

    def flush(self) -> list[Envelope]:
        """Everything that waits, in order."""
        chosen, self._waiting = self._waiting, {}
        return self._release(chosen)


def in_order(envelopes: Iterable[Envelope], offsets: Mapping[str, int]) -> list[Envelope]:
    """Past events of several nodes in one order. offsets: node -> its clock less ours, ns."""
    order = CausalOrder(0)
    order.offsets = dict(offsets)
    for envelope in sorted(envelopes, key=lambda each: (each.id.epoch, each.id.seq)):
        order.push(envelope, 0)
    return order.flush()


def _sorted(chosen: dict[EventId, _Waiting]) -> list[Envelope]:
    """By clock, but nothing before its causes nor before an earlier event of its publisher (Kahn's algorithm)."""
    after: dict[EventId, set[EventId]] = {name: set() for name in chosen}
    before: dict[EventId, list[EventId]] = {name: [] for name in chosen}

    def put(first: EventId, second: EventId) -> None:
        if first != second and first not in after[second]:
            after[second].add(first)
            before[first].append(second)

    newest: dict[tuple[str, str], EventId] = {}
    for name in sorted(chosen, key=lambda each: (each.epoch, each.seq)):
        stream = (name.node, name.cell)
        if stream in newest:
            put(newest[stream], name)
        newest[stream] = name
        for cause in chosen[name].envelope.causes:
            if cause in chosen and not (cause.node == name.node and cause.cell == name.cell and cause > name):
                put(cause, name)
    heap = [(each.at_ns, name) for name, each in chosen.items() if not after[name]]
    heapq.heapify(heap)
    found = []
    while heap:
        _, name = heapq.heappop(heap)
        found.append(chosen[name].envelope)
        for each in before[name]:
            after[each].discard(name)
            if not after[each]:
                heapq.heappush(heap, (chosen[each].at_ns, each))
    if len(found) < len(chosen):  # events that name each other as causes: by clock alone, nothing is withheld
        seen = {each.id for each in found}
        rest = [each for name, each in chosen.items() if name not in seen]
        found += [each.envelope for each in sorted(rest, key=lambda each: (each.at_ns, each.envelope.id))]
    return found
