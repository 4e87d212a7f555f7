"""What one peer is to know of our connections: the rules of the sending side, as a pure machine.

Each change waits in `_fresh` (the newest of a connection replaces an older one, so memory is bounded by the number of
connections), goes out in numbered pushes of limited size, and is forgotten when the peer has answered. A push that is
lost goes back among the waiting unless something newer is known. What a comparison of the tables finds lacking waits in
`_backlog` and goes out behind the fresh: that is how a newcomer gets everything, and how any loss is repaired.
"""

from __future__ import annotations

import enum
from itertools import islice

import msgspec

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
from holdfast.actors.runtime.machine import MS, Action, Deadline, Duration, Fact, Instant, S, seconds

PUSH_ENTRIES_MAX = 2048
IN_FLIGHT_MAX = 4
GATHER = 15 * MS
"""A change waits this long for others: a peer takes some 200 requests a second from one node."""
ANSWER_WITHIN = 5 * S
RETRY_FIRST = 100 * MS
RETRY_LAST = 5 * S
COMPARE_WITHIN = 300 * S
ROUNDS_MAX = 5
"""Comparisons right after a newcomer got what it lacked; a kernel that refuses something is not asked for ever."""


class PeerPhase(enum.StrEnum):
    """How a peer stands. JOINING: it is getting what it lacks; FOLLOWING: it had everything at the last comparison."""

    AWAY = "away"
    JOINING = "joining"
    FOLLOWING = "following"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What holdfast.toml says. bytes_per_s 0: no limit. waiting_max: connections that may wait for one peer."""

    bytes_per_s: float = 0.0
    compare_every: Duration = seconds(30.0)
    lag_alarm: Duration = seconds(2.0)
    waiting_max: int = 1_000_000


class _Flight(msgspec.Struct):
    entries: dict[bytes, bytes]
    since: Instant | None
    until: Instant


class Sender:
    """One peer. Not shared between threads.

    lag: how far behind it was at its last answer. lacking, extra: as of the last comparison, -1: none yet.
    """

    def __init__(self, peer: str, limits: Limits) -> None:
        self.peer = peer
        self.limits = limits
        self.phase = PeerPhase.AWAY
        self.epoch = 0
        self.lag = Duration(0)
        self.late = False
        self.lacking = -1
        self.extra = -1
        self.sent = 0
        self.sent_bytes = 0
        self.repeated = 0
        self.overflows = 0
        self.deadline: Instant | None = None
        self._fresh: dict[bytes, bytes] = {}
        self._fresh_since: Instant | None = None
        self._backlog: dict[bytes, bytes] = {}
        self._flights: dict[int, _Flight] = {}
        self._seq = 0
        self._send_at: Instant | None = None
        self._paused_until = Instant(0)
        self._failures = 0
        self._credit = 0.0
        self._credit_at = Instant(0)
        self._compare_at: Instant | None = None
        self._comparing_until: Instant | None = None
        self._touched: set[bytes] = set()
        self._rounds = 0
        self._comparison = 0

    @property
    def waiting(self) -> int:
        """Connections that the peer has not confirmed."""
        flying = sum(len(flight.entries) for flight in self._flights.values())
        return len(self._fresh) + len(self._backlog) + flying

    @property
    def equal(self) -> bool:
        """Whether the tables were the same at the last comparison."""
        return self.lacking == 0 and self.extra == 0

    def behind(self, now: Instant) -> Duration:
        """How old the oldest change is that the peer has not confirmed."""
        known = [flight.since for flight in self._flights.values() if flight.since is not None]
        if self._fresh_since is not None:
            known.append(self._fresh_since)
        return Duration(max(0, now - min(known))) if known else Duration(0)

    def step(self, fact: Fact, now: Instant) -> list[Action]:
        """Takes one fact; returns what is to be done, in order."""
        actions: list[Action] = []
        match fact:
            case PeerThere():
                self._there(fact.epoch, now, actions)
            case PeerGone():
                self._gone(actions)
            case Changed():
                self._changed(fact, now)
            case Sent():
                self._pay(fact.size, now)
            case Delivered():
                self._delivered(fact, now, actions)
            case Undelivered():
                self._undelivered(fact.seq, now)
            case ScopeChanged():
                self._scope_changed(now, actions)
            case Compared():
                self._compared(fact, now, actions)
            case NotCompared():
                if fact.number == self._comparison:
                    self._compared_nothing(now)
            case Deadline():
                self._due(now)
        if self.phase is not PeerPhase.AWAY:
            self._send(now, actions)
            self._compare_if_due(now, actions)
            self._look_at_lag(now, actions)
        self._set_deadline(now)
        return actions

    # --- presence ------------------------------------------------------------------------------------------------

    def _there(self, epoch: int, now: Instant, actions: list[Action]) -> None:
        if self.phase is not PeerPhase.AWAY and epoch == self.epoch:
            return
        self.epoch = epoch
        self._forget()
        self.phase = PeerPhase.JOINING
        self._credit, self._credit_at = self._burst(), now
        self._ask_to_compare(now, actions)
        actions.append(Tell())

    def _gone(self, actions: list[Action]) -> None:
        if self.phase is PeerPhase.AWAY:
            return
        self.phase = PeerPhase.AWAY
        self._forget()
        actions.append(Tell())

    def _forget(self) -> None:
        """What waits for a peer that is away would be old when it is back: the comparison finds what is right then."""
        self._fresh.clear()
        self._backlog.clear()
        self._flights.clear()
        self._touched.clear()
        self._fresh_since = self._send_at = self._compare_at = self._comparing_until = None
        self._failures, self._paused_until, self._rounds = 0, Instant(0), 0
        self.lag, self.late, self.lacking, self.extra = Duration(0), False, -1, -1

    # --- changes and pushes --------------------------------------------------------------------------------------

    def _changed(self, fact: Changed, now: Instant) -> None:
        if self.phase is PeerPhase.AWAY or not fact.entries:
            return
        if self._comparing_until is not None:
            self._touched.update(fact.entries)
        for key in fact.entries.keys() & self._backlog.keys():
            del self._backlog[key]
        if self.waiting + len(fact.entries) > self.limits.waiting_max:
            # The newest are as good as any: whatever is left out here, the next comparison finds.
            self.overflows += 1
            self._compare_at = now
            return
        self._fresh.update(fact.entries)
        if self._fresh_since is None:
            self._fresh_since = fact.since
        if self._send_at is None:
            self._send_at = Instant(now + GATHER)

    def _send(self, now: Instant, actions: list[Action]) -> None:
        while len(self._flights) < IN_FLIGHT_MAX and now >= self._paused_until and self._affords(now):
            full = len(self._fresh) >= PUSH_ENTRIES_MAX
            if self._fresh and (full or (self._send_at is not None and now >= self._send_at)):
                source, since = self._fresh, self._fresh_since
            elif self._backlog:
                source, since = self._backlog, None
            else:
                break
            keys = list(islice(source, PUSH_ENTRIES_MAX))
            entries = {key: source.pop(key) for key in keys}
            if source is self._fresh and not source:
                self._fresh_since = self._send_at = None
            self._seq += 1
            self._flights[self._seq] = _Flight(entries, since, Instant(now + ANSWER_WITHIN))
            self.sent += len(entries)
            actions.append(Push(self._seq, min(self._flights), tuple(entries.values())))
            if self.limits.bytes_per_s:
                # The true size comes with `Sent`, on this same turn; until then the next push has to wait.
                break

    def _delivered(self, fact: Delivered, now: Instant, actions: list[Action]) -> None:
        flight = self._flights.pop(fact.seq, None)
        self._failures, self._paused_until = 0, Instant(0)
        if flight is not None and flight.since is not None:
            self.lag = Duration(now - flight.since)
            actions.append(LagReached(self.lag))
        for seq in fact.missing:
            if seq < fact.seq:
                self._return(seq, now)
        drained = not self._backlog and not self._flights
        if self.phase is PeerPhase.JOINING and drained and self._comparing_until is None and self._rounds < ROUNDS_MAX:
            # It has been given everything; whether it has everything is another question.
            self._rounds += 1
            self._ask_to_compare(now, actions)

    def _undelivered(self, seq: int, now: Instant) -> None:
        if seq not in self._flights:
            return
        self._return(seq, now)
        pause = min(RETRY_FIRST << min(self._failures, 10), RETRY_LAST)
        self._failures += 1
        self._paused_until = Instant(now + pause)

    def _return(self, seq: int, now: Instant) -> None:
        """A push is lost: its entries wait again, except those of which something newer is on its way."""
        flight = self._flights.pop(seq, None)
        if flight is None:
            return
        newer = [later.entries for number, later in self._flights.items() if number > seq]
        lost = {
            key: raw
            for key, raw in flight.entries.items()
            if key not in self._fresh and not any(key in entries for entries in newer)
        }
        self.repeated += len(lost)
        if flight.since is None:
            self._backlog = {**lost, **self._backlog}
            return
        self._fresh = {**lost, **self._fresh}
        known = self._fresh_since
        self._fresh_since = flight.since if known is None or flight.since < known else known
        self._send_at = now

    # --- bandwidth -----------------------------------------------------------------------------------------------

    def _burst(self) -> float:
        return self.limits.bytes_per_s / 4

    def _affords(self, now: Instant) -> bool:
        if not self.limits.bytes_per_s:
            return True
        grown = (now - self._credit_at) / S * self.limits.bytes_per_s
        self._credit = min(self._burst(), self._credit + grown)
        self._credit_at = now
        return self._credit >= 0.0

    def _pay(self, size: int, now: Instant) -> None:
        self.sent_bytes += size
        self._affords(now)
        self._credit -= size

    # --- comparing -----------------------------------------------------------------------------------------------

    def _ask_to_compare(self, now: Instant, actions: list[Action]) -> None:
        self._touched.clear()
        self._touched.update(self._fresh)
        for flight in self._flights.values():
            self._touched.update(flight.entries)
        self._compare_at = None
        self._comparing_until = Instant(now + COMPARE_WITHIN)
        self._comparison += 1
        actions.append(Compare(self._comparison))

    def _scope_changed(self, now: Instant, actions: list[Action]) -> None:
        """What waits may be no longer ours to tell; what is right the comparison finds."""
        if self.phase is PeerPhase.AWAY:
            return
        self._fresh.clear()
        self._backlog.clear()
        self._fresh_since = self._send_at = None
        self.phase, self._rounds = PeerPhase.JOINING, 0
        self._ask_to_compare(now, actions)

    def _compared(self, fact: Compared, now: Instant, actions: list[Action]) -> None:
        if self._comparing_until is None or fact.number != self._comparison:
            return
        self._comparing_until = None
        self._compare_at = Instant(now + self.limits.compare_every)
        # What changed while the tables were read is on its way already, and no difference.
        lacking = {key: raw for key, raw in fact.lacking.items() if key not in self._touched}
        self._touched.clear()
        before = (self.lacking, self.extra, self.phase)
        self.lacking, self.extra = len(lacking), fact.extra
        room = max(0, self.limits.waiting_max - self.waiting)
        self._backlog.update(islice(lacking.items(), room))
        if not lacking:
            self._rounds = 0
            self.phase = PeerPhase.FOLLOWING
        if (self.lacking, self.extra, self.phase) != before:
            actions.append(Tell())

    def _compared_nothing(self, now: Instant) -> None:
        if self._comparing_until is not None:
            self._comparing_until = None
            self._compare_at = Instant(now + min(self.limits.compare_every, RETRY_LAST))

    def _due(self, now: Instant) -> None:
        for seq in [seq for seq, flight in self._flights.items() if now >= flight.until]:
            self._undelivered(seq, now)
        if self._comparing_until is not None and now >= self._comparing_until:
            self._compared_nothing(now)

    def _compare_if_due(self, now: Instant, actions: list[Action]) -> None:
        if self._compare_at is not None and now >= self._compare_at and self._comparing_until is None:
            self._ask_to_compare(now, actions)

    # --- lag and deadline ----------------------------------------------------------------------------------------

    def _look_at_lag(self, now: Instant, actions: list[Action]) -> None:
        late = self.behind(now) > self.limits.lag_alarm
        if late != self.late:
            self.late = late
            if late:
                self.lag = self.behind(now)
            actions.append(Tell())

    def _set_deadline(self, now: Instant) -> None:
        if self.phase is PeerPhase.AWAY:
            self.deadline = None
            return
        wanted = [int(flight.until) for flight in self._flights.values()]
        room = len(self._flights) < IN_FLIGHT_MAX
        if room and (self._backlog or self._fresh):
            ready = int(now if self._backlog or self._send_at is None else self._send_at)
            wanted.append(max(ready, self._paused_until, self._affordable_at(now)))
        if self._compare_at is not None:
            wanted.append(self._compare_at)
        if self._comparing_until is not None:
            wanted.append(self._comparing_until)
        if not self.late and (self._fresh_since is not None or self._flights):
            wanted.append(now - self.behind(now) + self.limits.lag_alarm + MS)
        self.deadline = Instant(min(wanted)) if wanted else None

    def _affordable_at(self, now: Instant) -> int:
        if not self.limits.bytes_per_s or self._credit >= 0:
            return int(now)
        return now + round(-self._credit / self.limits.bytes_per_s * S) + MS
