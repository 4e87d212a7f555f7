"""The scripts of one target, strictly in order, each with a time limit. A pure machine; `script_actor.py` is its shell.

Where keepalived starts all of them at once, here a script that becomes MASTER never overtakes the one that becomes
BACKUP before it. What waits is bounded: a script that hangs costs old notices, not memory.
"""

from __future__ import annotations

from collections import deque

import msgspec

from holdfast.actors.notify.notices import Notice, ScriptCall
from holdfast.actors.runtime.machine import Action, Deadline, Duration, Fact, Instant, S, later
from holdfast.bus.messages import EventId

KILL_AFTER = Duration(2 * S)
"""Between TERM and KILL for a script that ran into its limit."""

STOP_LIMIT = Duration(1 * S)
"""What the scripts of a stop have, together, until they are killed (keepalived's own limit)."""


class Noticed(Fact, frozen=True):
    """A notice to be carried out. event: which one it is of."""

    notice: Notice
    event: EventId


class RunEnded(Fact, frozen=True):
    """The script that was started last has ended."""

    exit_status: int | None = None
    signal: int | None = None
    problem: str | None = None
    took_ns: int = 0


class StartCall(Action, frozen=True):
    """Start this script now."""

    call: ScriptCall
    notice: Notice


class EndCall(Action, frozen=True):
    """Signal the process group of the script: TERM, or KILL when `force`."""

    call: ScriptCall
    force: bool


class SayFailed(Action, frozen=True):
    """The script ended badly; or well, but too late."""

    call: ScriptCall
    ended: RunEnded
    timed_out: bool


class SayDropped(Action, frozen=True):
    """These are not carried out any more. overtaken: by a stop; else the queue was full."""

    notices: tuple[Notice, ...]
    overtaken: bool


class SayDone(Action, frozen=True):
    """All scripts up to this event have ended (or have been dropped)."""

    event: EventId


class _Entry(msgspec.Struct):
    notice: Notice
    event: EventId
    left: deque[ScriptCall]


class QueueMachine:
    """One target's queue. limit: for one script. room: how many notices may wait."""

    __slots__ = (
        "_asked",
        "_call",
        "_current",
        "_dropping",
        "_limit",
        "_room",
        "_stop_at",
        "_waiting",
        "deadline",
        "dropped",
        "failed",
        "timed_out",
    )

    def __init__(self, *, limit: Duration, room: int) -> None:
        assert room >= 1
        self._limit = limit
        self._room = room
        self._waiting: deque[_Entry] = deque()
        self._current: _Entry | None = None
        self._call: ScriptCall | None = None
        self._asked = False
        self._stop_at: Instant | None = None
        self.deadline: Instant | None = None
        self.dropped = 0
        self.timed_out = 0
        self.failed = 0

    @property
    def waiting(self) -> int:
        """Notices that are not begun."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return self._current is None

    def step(self, fact: Fact, now: Instant) -> list[Action]:
        """Takes one fact and returns what is to be done, in order."""
        match fact:
            case Noticed():
                return self._noticed(fact, now)
            case RunEnded():
                return self._ended(fact, now)
            case Deadline():
                return self._due(now)
            case _:
                raise AssertionError(fact)

    def _noticed(self, fact: Noticed, now: Instant) -> list[Action]:
        entry = _Entry(fact.notice, fact.event, deque(fact.notice.calls))
        actions: list[Action] = []
        if fact.notice.stop:
            actions += self._stop(now)
        elif len(self._waiting) >= self._room:
            # The newest say where things stand; the oldest waiting one is the least missed.
            actions += self._drop([self._waiting.popleft()], overtaken=False)
        self._waiting.append(entry)
        return actions + self._next(now)

    def _stop(self, now: Instant) -> list[Action]:
        """One second is left: what waits is overtaken, and what runs may run until then."""
        if self._stop_at is None:
            self._stop_at = later(now, STOP_LIMIT)
        waiting, self._waiting = list(self._waiting), deque()
        actions: list[Action] = self._drop(waiting, overtaken=True) if waiting else []
        if self._call is not None and not self._asked:
            # It makes room for the script of the stop; half of the time is for its own goodbye.
            self._asked = True
            self.deadline = later(now, Duration(STOP_LIMIT // 2))
            actions.append(EndCall(self._call, force=False))
            self.timed_out += 1
        elif self.deadline is not None:
            self.deadline = min(self.deadline, later(now, Duration(STOP_LIMIT // 2)))
        return actions

    def _drop(self, entries: list[_Entry], *, overtaken: bool) -> list[Action]:
        self.dropped += len(entries)
        return [SayDropped(tuple(entry.notice for entry in entries), overtaken)]

    def _next(self, now: Instant) -> list[Action]:
        """Starts the next script unless one runs; notices without scripts are done at once."""
        actions: list[Action] = []
        while self._call is None:
            if self._current is None:
                if not self._waiting:
                    return actions
                self._current = self._waiting.popleft()
            entry = self._current
            if entry.left and self._stop_at is not None and now >= self._stop_at:
                # The second is over: what has not begun will not.
                entry.left.clear()
                actions += self._drop([entry], overtaken=True)
            if entry.left:
                self._call = entry.left.popleft()
                self._asked = False
                at = later(now, self._limit)
                self.deadline = at if self._stop_at is None else min(at, self._stop_at)
                actions.append(StartCall(self._call, entry.notice))
            else:
                self._current = None
                actions.append(SayDone(entry.event))
        return actions

    def _ended(self, fact: RunEnded, now: Instant) -> list[Action]:
        assert self._call is not None
        call, timed_out = self._call, self._asked
        self._call = None
        self._asked = False
        self.deadline = None
        actions: list[Action] = []
        if timed_out or fact.exit_status != 0:
            self.failed += not timed_out
            actions.append(SayFailed(call, fact, timed_out))
        return actions + self._next(now)

    def _due(self, now: Instant) -> list[Action]:
        if self.deadline is None or now < self.deadline:
            return []
        assert self._call is not None
        if not self._asked and self._stop_at is None:
            self._asked = True
            self.timed_out += 1
            self.deadline = later(now, KILL_AFTER)
            return [EndCall(self._call, force=False)]
        # No second grace in a stop: the daemon itself is about to go.
        self.timed_out += not self._asked
        self._asked = True
        self.deadline = None
        return [EndCall(self._call, force=True)]
