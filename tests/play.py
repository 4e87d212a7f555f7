"""Talking to a machine in virtual time: `Play` hands facts in at instants and keeps what was said.

Every line is printed too, so pytest shows the whole conversation when a test fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant, Machine, S

M = TypeVar("M", bound=Machine)


def instant(seconds: float) -> Instant:
    """`seconds` after the start of the play."""
    return Instant(round(seconds * S))


class Play(Generic[M]):
    """One machine, spoken to. tell: how an action is written in the trace and in what `at` returns; None: left out."""

    def __init__(self, machine: M, tell: Callable[[Action], str | None] = repr) -> None:
        self.machine = machine
        self.now = Instant(0)
        self.last: list[Action] = []
        self.trace: list[str] = []
        self._tell = tell

    def at(self, seconds: float, fact: Fact) -> list[str]:
        """Hands `fact` in at that instant; time only moves forward. Deadlines before it are the test's business."""
        now = instant(seconds)
        assert now >= self.now, "a play goes forward"
        return self._step(fact, now)

    def say(self, fact: Fact) -> list[str]:
        """Hands `fact` in at the present instant."""
        return self._step(fact, self.now)

    def until(self, seconds: float) -> list[tuple[float, list[str]]]:
        """Lets time pass: each deadline is kept to the nanosecond. Returns when what was ordered."""
        end = instant(seconds)
        happened: list[tuple[float, list[str]]] = []
        steps = 0
        while (due := self.machine.deadline) is not None and due <= end:
            steps += 1
            assert steps < 1_000_000, "the machine does not move its deadline"
            told = self._step(Deadline(), max(due, self.now))
            if told:
                happened.append((round(self.now / S, 6), told))
        self.now = max(self.now, end)
        return happened

    @property
    def due(self) -> float | None:
        """The machine's deadline in seconds."""
        return None if self.machine.deadline is None else self.machine.deadline / S

    def _step(self, fact: Fact, now: Instant) -> list[str]:
        self.now = now
        self.last = list(self.machine.step(fact, now))
        self._note(f"{now / S:12.6f} >> {fact}")
        told = []
        for action in self.last:
            line = self._tell(action)
            self._note(f"{'':12} << {action}")
            if line is not None:
                told.append(line)
        return told

    def _note(self, line: str) -> None:
        self.trace.append(line)
        print(line)
