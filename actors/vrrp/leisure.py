"""Work that has time: a little of it every few milliseconds, so that nothing that is due waits for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from holdfast.actors.runtime.machine import MS, Duration, Instant
from holdfast.kernel.faces import Timers

PAUSE = Duration(5 * MS)
TURN = Duration(MS)


class Leisure:
    """Calls in the order in which they were added."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._calls: deque[Callable[[], None]] = deque()

    def add(self, call: Callable[[], None]) -> None:
        """Queues a call."""
        if not self._calls:
            self._pause()
        self._calls.append(call)

    def close(self) -> None:
        """What was not done is not done."""
        self._calls.clear()
        self._timers.set(self, None, self._use)

    def _pause(self) -> None:
        self._timers.set(self, Instant(self._timers.now() + PAUSE), self._use)

    def _use(self, now: Instant) -> None:
        until = now + TURN
        while self._calls:
            self._calls.popleft()()
            if self._timers.now() >= until:
                break
        if self._calls:
            self._pause()
