"""What a cell's end of the bus counts, and what it says about wrong messages."""

from __future__ import annotations

import logging
import time

import msgspec

from holdfast.bus.codec import BadFrame
from holdfast.bus.messages import Event

log = logging.getLogger(__name__)

LOG_EVERY_S = 60.0
SENDERS_MAX = 256
"""More senders of wrong messages than this share one line of the log."""


class BusCounters(Event, frozen=True, kw_only=True, tag="cell.bus"):
    """What a cell's end of the bus has counted since it started. Retained on `NODE/cell/NAME/bus`.

    dropped: events that slow subscribers of this cell did not get, as they report it; slow: the same by subscriber.
    missed: events of others that this cell did not get.
    bad: wrong messages by reason. handler_errors: exceptions in this cell's own handlers.
    """

    cell: str
    published: int = 0
    received: int = 0
    dropped: int = 0
    missed: int = 0
    requests: int = 0
    snapshots: int = 0
    handler_errors: int = 0
    bad: dict[str, int] = msgspec.field(default_factory=dict)
    slow: dict[str, int] = msgspec.field(default_factory=dict)


class Counters:
    """The counting itself. One for each end of the bus."""

    def __init__(self, cell: str) -> None:
        self.cell = cell
        self.published = 0
        self.received = 0
        self.dropped = 0
        self.missed = 0
        self.requests = 0
        self.snapshots = 0
        self.handler_errors = 0
        self.bad: dict[str, int] = {}
        self.slow: dict[str, int] = {}
        self._unsaid: dict[tuple[str, str], int] = {}
        self._said_at: dict[tuple[str, str], float] = {}

    def count_bad(self, error: BadFrame, sender: str) -> None:
        """A wrong message came from `sender`: counted, and logged once a minute for each sender and reason."""
        self.bad[error.reason] = self.bad.get(error.reason, 0) + 1
        key = (sender, error.reason)
        if key not in self._said_at and len(self._said_at) >= SENDERS_MAX:
            key = ("many senders", error.reason)
        self._unsaid[key] = self._unsaid.get(key, 0) + 1
        now = time.monotonic()
        if now - self._said_at.get(key, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._said_at[key] = now
            log.warning("%d wrong message(s) from %s dropped: %s", self._unsaid.pop(key), key[0], str(error)[:200])

    def count_dropped(self, subscriber: str, events: int) -> None:
        """A subscriber reports how many of our events it did not get."""
        if events <= 0:
            return
        if subscriber not in self.slow and len(self.slow) >= SENDERS_MAX:
            subscriber = "others"
        self.dropped += events
        self.slow[subscriber] = self.slow.get(subscriber, 0) + events

    def report(self) -> BusCounters:
        """The figures as an event."""
        return BusCounters(
            cell=self.cell,
            published=self.published,
            received=self.received,
            dropped=self.dropped,
            missed=self.missed,
            requests=self.requests,
            snapshots=self.snapshots,
            handler_errors=self.handler_errors,
            bad=dict(self.bad),
            slow=dict(self.slow),
        )

    @property
    def troubles(self) -> tuple[int, int, int, int]:
        """The figures an operator wants to hear of soon when they change."""
        return self.dropped, self.missed, self.handler_errors, sum(self.bad.values())
