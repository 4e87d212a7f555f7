"""What every protocol machine is made of: instants, facts, actions.

A machine is a plain class with slots: facts and `now` go in, actions come out, and one `deadline` says when it wants
to be called next. It reads no clock, no socket and no random source of its own. Its counterpart is the shell
(`actor.py` of its room), which carries facts in and actions out and decides nothing.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from holdfast.kernel.instant import Duration, Instant

__all__ = ["MS", "US", "Action", "Deadline", "Duration", "Fact", "Instant", "Machine", "S", "later", "seconds"]

US = 1_000
MS = 1_000_000
S = 1_000_000_000


def seconds(value: float) -> Duration:
    """`value` seconds as a Duration, rounded to the nanosecond."""
    return Duration(round(value * S))


def later(at: Instant, by: Duration) -> Instant:
    """The instant `by` nanoseconds after `at`."""
    return Instant(at + by)


class Fact(msgspec.Struct, frozen=True):
    """Something that happened, told to a machine."""


class Deadline(Fact, frozen=True):
    """The machine's own deadline may have passed: it looks at `now` itself, a call too early gives `[]`."""


class Action(msgspec.Struct, frozen=True):
    """An order to the shell. Orders are carried out in the order of the list."""


class Machine(Protocol):
    """The face a shell sees of any machine."""

    @property
    def deadline(self) -> Instant | None:
        """When `step(Deadline(), now)` is wanted next; None: never."""

    def step(self, fact: Fact, now: Instant) -> list[Action]:
        """Takes one fact and returns what is to be done, in order."""
