"""Which node runs which check, and what the nodes' results amount to. Pure.

A director names nodes that run its checks (`[placement] checkers = "@w1 @w2"`). Each of them beats once a second; one
that has not been heard for `lost_after` gets nothing more until it was heard for `return_after`. Each check goes to
as many of the living as are to look at it (rendezvous hashing by the check's name: directors with the same checks and
the same workers choose the same ones, and a worker that goes moves only what it had). When none is left, the checks
run at home.

At the start every worker is taken for living for `lost_after`: its first beat is on its way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from holdfast.actors.runtime.machine import Action, Deadline, Duration, Fact, Instant, later, seconds


class Beaten(Fact, frozen=True):
    """A worker was heard."""

    node: str


class Unable(Fact, frozen=True):
    """A worker is heard and does not take what it is given."""

    node: str


BARRED = seconds(60.0)
"""How long a worker that cannot take its checks gets none."""


class WorkersChanged(Action, frozen=True):
    """A worker was lost, or may have checks again. silent: how long it was not heard. alive: all that live now."""

    node: str
    lives: bool
    silent: Duration
    alive: tuple[str, ...]


class _Worker(msgspec.Struct):
    heard_at: Instant
    lives: bool
    heard: bool = False
    since: Instant | None = None
    """Since when it has been heard without a gap; None: it is not."""
    barred_until: Instant | None = None


class WorkersMachine:
    """Who of the named nodes can have checks."""

    __slots__ = ("_looked_at", "_workers", "lost_after", "return_after")

    def __init__(self, names: Iterable[str], lost_after: Duration, return_after: Duration, now: Instant) -> None:
        self.lost_after = lost_after
        self.return_after = return_after
        self._workers = {name: _Worker(now, lives=True) for name in names}
        self._looked_at = now

    @property
    def alive(self) -> tuple[str, ...]:
        """Those that can, in the order of the configuration."""
        return tuple(name for name, worker in self._workers.items() if worker.lives)

    @property
    def deadline(self) -> Instant | None:
        """When somebody is lost unless he is heard."""
        limits = [later(worker.heard_at, self.lost_after) for worker in self._workers.values() if self._heard(worker)]
        return min(limits, default=None)

    @staticmethod
    def _heard(worker: _Worker) -> bool:
        return worker.lives or worker.since is not None

    def configure(self, names: Iterable[str], lost_after: Duration, return_after: Duration, now: Instant) -> None:
        """A reload: who stays is as he was."""
        self.lost_after, self.return_after = lost_after, return_after
        before = self._workers
        self._workers = {name: before.get(name) or _Worker(now, lives=True) for name in names}

    def step(self, fact: Fact, now: Instant) -> list[Action]:
        """Takes one fact."""
        match fact:
            case Beaten(node=name):
                worker = self._workers.get(name)
                return [] if worker is None else self._beaten(name, worker, now)
            case Unable(node=name):
                worker = self._workers.get(name)
                if worker is None or not worker.lives:
                    return []
                worker.lives, worker.barred_until = False, later(now, BARRED)
                return [WorkersChanged(name, False, Duration(now - worker.heard_at), self.alive)]
            case Deadline():
                return self._deadline(now)
        raise AssertionError(fact)

    def _beaten(self, name: str, worker: _Worker, now: Instant) -> list[Action]:
        silent = Duration(now - worker.heard_at)
        never, worker.heard = not worker.heard, True
        worker.heard_at = now
        if worker.since is None:
            worker.since = now
        # One that was not there yet when we began need not prove that it stays.
        if worker.lives or not (never or now - worker.since >= self.return_after):
            return []
        if worker.barred_until is not None and now < worker.barred_until:
            return []
        worker.barred_until = None
        worker.lives = True
        return [WorkersChanged(name, True, silent, self.alive)]

    def _deadline(self, now: Instant) -> list[Action]:
        due = self.deadline
        if due is None or now < due:
            return []
        late = now - due
        if late > self.lost_after // 4:
            # It is this process that stood still: the beats that waited are heard before anybody is judged.
            for worker in self._workers.values():
                worker.heard_at = min(now, later(worker.heard_at, Duration(late + self.lost_after // 4)))
            return []
        actions: list[Action] = []
        for name, worker in self._workers.items():
            silent = Duration(now - worker.heard_at)
            if not self._heard(worker) or silent < self.lost_after:
                continue
            worker.since = None
            if worker.lives:
                worker.lives = False
                actions.append(WorkersChanged(name, False, silent, self.alive))
        return actions


def chosen(check: str, alive: Iterable[str], points: int) -> tuple[str, ...]:
    """The nodes that look at a check: `points` of the living, or all when there are fewer. () is home."""

    def weight(node: str) -> bytes:
        return hashlib.blake2b(f"{node}\0{check}".encode(), digest_size=8).digest()

    return tuple(sorted(alive, key=weight, reverse=True)[:points])


class Vote(msgspec.Struct, frozen=True):
    """What one node says of a server. up: None: it has no verdict yet."""

    up: bool | None
    ok: bool
    text: str = ""
    latency_us: int = 0
    attempt: int = 0


class Count(msgspec.Struct, frozen=True):
    """The result of a vote. agree: how many say what counts now (of `of`); needed: how many must, for a change."""

    up: bool | None
    agree: int
    of: int
    needed: int


def count(votes: Mapping[str, Vote], of: int, agree: int, before: bool | None) -> Count:
    """What counts. of: how many nodes look at the server. agree: how many must say the same; 0: more than half.

    Without enough of one mind it stays as it was. Fewer nodes than `agree`: all of them must.
    """
    needed = min(agree, of) if agree else of // 2 + 1
    ups = sum(vote.up is True for vote in votes.values())
    downs = sum(vote.up is False for vote in votes.values())
    up = before
    if of and ups >= needed and ups > downs:
        up = True
    elif of and downs >= needed and downs > ups:
        up = False
    return Count(up, 0 if up is None else ups if up else downs, of, needed)
