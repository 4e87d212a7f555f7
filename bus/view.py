"""What one follower knows of one publisher, and how it comes to know exactly that. Pure: no socket, no clock.

The rules, for one stream (a publisher in one epoch) and one prefix:

- Joining: events are held back until the snapshot is there. It says how far the publisher was (`seq`): what is not
  newer is dropped, the rest follows.
- Live: each event carries its number under its topic. A number that does not follow shows what was missed, and a
  snapshot is wanted.
- Reading again: events go on until the fence, which the publisher sent at the moment of the snapshot; from there they
  are held back. What then differs from the snapshot was really missed, not merely on its way.
- Another epoch: joining again, but only what differs from before is told, and what is gone is told as `Forgotten`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from holdfast.bus.codec import Forgotten
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import EventId
from holdfast.bus.wire import matches

HELD_EVENTS_MAX = 8192
"""Events held back while a snapshot is on its way; older ones give way, and are counted as missed if they were."""


class _Known(msgspec.Struct):
    """The last of one topic. id: None when only the number is known; retain: it stands until it is forgotten."""

    id: EventId | None
    count: int
    retain: bool


class _Held(msgspec.Struct):
    seq: int
    retain: bool
    envelope: Envelope


class View:
    """One subscription's knowledge of one publisher. deliver: called with each event that is new to it."""

    def __init__(self, prefix: str, deliver: Callable[[Envelope], None]) -> None:
        self.prefix = prefix
        self.missed = 0
        self.joined = False
        self.wants_snapshot = True
        self._deliver = deliver
        self._known: dict[str, _Known] = {}
        self._holding = True
        self._held: deque[_Held] = deque(maxlen=HELD_EVENTS_MAX)
        self._floor = 0
        self._had_epoch = False

    def matches(self, topic: str) -> bool:
        """Whether an event under this topic is for this view."""
        return matches(self.prefix, topic)

    @property
    def total(self) -> int:
        """Events under the prefix so far, as the publisher counts them."""
        return sum(known.count for known in self._known.values())

    def join(self) -> None:
        """The publisher is new, or began a new epoch: nothing is told before its snapshot is there."""
        self.joined = False
        self.wants_snapshot = True
        self._holding = True
        self._held.clear()
        self._floor = 0

    def fence(self) -> None:
        """The snapshot that was asked for was taken at this point of the stream."""
        self._holding = True

    def live(self, envelope: Envelope, seq: int, retain: bool) -> None:
        """An event came. seq: its number in the publisher's stream."""
        if self._holding:
            self._held.append(_Held(seq, retain, envelope))
        elif seq > self._floor:
            self._take(envelope, retain)

    def _take(self, envelope: Envelope, retain: bool) -> None:
        topic, count = envelope.topic, envelope.count
        known = self._known.get(topic)
        if count:
            gap = count - (known.count if known is not None else 0) - 1
            if gap:
                self.missed += max(gap, 0)
                self.wants_snapshot = True
        if envelope.gone:
            self._known.pop(topic, None)
        elif known is None:
            self._known[topic] = _Known(envelope.id, count, retain)
        else:
            known.count = count
            if retain:
                known.id = envelope.id
                known.retain = True
        self._deliver(envelope)

    def snapshot(self, seq: int, entries: Iterable[Envelope], counts: dict[str, int]) -> None:
        """The publisher's state at `seq` of its stream; the fence has passed.

        entries: what it retains, of any prefix. counts: topics with more events than their retained one says.
        """
        held, self._held = self._held, deque(maxlen=HELD_EVENTS_MAX)
        self._holding = False
        if self.joined:
            for each in held:
                if each.seq <= seq:
                    self._take(each.envelope, each.retain)
        mine = {each.topic: each for each in entries if self.matches(each.topic)}
        self._drop_vanished(mine, counts)
        for topic, envelope in mine.items():
            self._compare(envelope, counts.get(topic, envelope.count))
        for topic, count in counts.items():
            if topic not in mine and self.matches(topic):
                self._compare_count(topic, count)
        self._floor = seq
        self._had_epoch = True
        self.joined = True
        self.wants_snapshot = False
        for each in held:
            if each.seq > seq:
                self._take(each.envelope, each.retain)

    def _drop_vanished(self, mine: dict[str, Envelope], counts: dict[str, int]) -> None:
        for topic, known in list(self._known.items()):
            if topic in mine:
                continue
            if known.retain:
                assert known.id is not None
                self._deliver(_forgotten(topic, known.id))
            if known.retain or topic not in counts:
                del self._known[topic]

    def _compare(self, envelope: Envelope, count: int) -> None:
        topic = envelope.topic
        known = self._known.get(topic)
        if known is not None and known.id == envelope.id:
            self.missed += max(count - known.count, 0)
            known.count = count
            known.retain = True
            return
        if self._had_epoch:
            self.missed += max(count - (known.count if known is not None else 0) - 1, 0)
        self._known[topic] = _Known(envelope.id, count, True)
        self._deliver(envelope)

    def _compare_count(self, topic: str, count: int) -> None:
        known = self._known.get(topic)
        before = known.count if known is not None else 0
        if self._had_epoch:
            self.missed += max(count - before, 0)
        self._known[topic] = _Known(known.id if known is not None else None, count, False)

    def forget_all(self) -> None:
        """The publisher is gone for good, and its things with it."""
        self._drop_vanished({}, {})
        self._known.clear()
        self._had_epoch = False
        self.join()


def _forgotten(topic: str, name: EventId) -> Envelope:
    """Made here, because what would have said it was missed or never sent: it bears the id of what is forgotten."""
    return Envelope(topic, name, 0, 0, (name,), Forgotten())
