"""Putting back what somebody else removed: at once, but not without end (a fight is named and slowed down)."""

from __future__ import annotations

from collections import deque

from holdfast.actors.runtime.machine import MS, Duration, Instant, S
from holdfast.actors.vrrp.announcements import NEVER
from holdfast.actors.vrrp.facts import Holding

FIGHT_LOSSES = 5
FIGHT_WINDOW = Duration(10 * S)
FIGHT_PAUSE = Duration(100 * MS)
"""`ip addr flush` looks up to ten times whether something is left: it must not cost a second without an owner."""
LONG_FIGHT_LOSSES = 15
LONG_FIGHT_PAUSE = Duration(1 * S)
RETRY_FIRST = Duration(1 * S)
RETRY_MOST = Duration(30 * S)


class Loss:
    """What is known about one loss. now: put it back at once. fight: it keeps being removed."""

    __slots__ = ("at_once", "fight", "losses")

    def __init__(self, at_once: bool, fight: bool, losses: int) -> None:
        self.at_once = at_once
        self.fight = fight
        self.losses = losses


class Restorer:
    """Which holdings are missing, and when they are put back. deadline: the next time, `NEVER` if nothing is."""

    __slots__ = ("_recent", "_retry", "_waiting", "deadline")

    def __init__(self) -> None:
        self._recent: dict[str, deque[Instant]] = {}
        self._waiting: dict[Holding, set[str]] = {}
        self._retry = RETRY_FIRST
        self.deadline = NEVER

    def lost(self, kind: Holding, subject: str, now: Instant) -> Loss:
        """Somebody removed `subject`. In ten seconds it is put back five times at once, ten times after a tenth of a
        second, then once a second."""
        recent = self._recent.setdefault(subject, deque(maxlen=LONG_FIGHT_LOSSES))
        while recent and now - recent[0] > FIGHT_WINDOW:
            recent.popleft()
        before = len(recent)
        fight = before >= FIGHT_LOSSES
        recent.append(now)
        if fight:
            pause = FIGHT_PAUSE if before < LONG_FIGHT_LOSSES else LONG_FIGHT_PAUSE
            self._wait(kind, subject, Instant(now + pause))
        return Loss(not fight, fight, len(recent))

    def failed(self, kind: Holding, subject: str, now: Instant) -> Duration:
        """The kernel refused it: tried again after 1, 2, 4 ... 30 s. Returns that pause."""
        pause = self._retry
        self._retry = min(RETRY_MOST, Duration(pause * 2))
        self._wait(kind, subject, Instant(now + pause))
        return pause

    def due(self, now: Instant) -> dict[Holding, tuple[str, ...]]:
        """What to put back now."""
        if now < self.deadline:
            return {}
        ready = {kind: tuple(sorted(subjects)) for kind, subjects in self._waiting.items() if subjects}
        self._waiting = {}
        self.deadline = NEVER
        return ready

    def stop(self) -> None:
        """We hold nothing any more."""
        self._recent = {}
        self._waiting = {}
        self._retry = RETRY_FIRST
        self.deadline = NEVER

    def _wait(self, kind: Holding, subject: str, at: Instant) -> None:
        self._waiting.setdefault(kind, set()).add(subject)
        self.deadline = min(self.deadline, at)
