"""A process finds out that it did not run: compares the clock with when it was due, monotonic with boot time."""

from __future__ import annotations

import time
from collections.abc import Callable

from holdfast.actors.runtime.machine import MS, Duration, Instant
from holdfast.kernel.faces import Timers

TICK = Duration(100 * MS)
LEAST = Duration(150 * MS)
"""A pause of this process shorter than this is no stall, only a delay (it stands in the cell's histogram)."""


class StallWatch:
    """Whoever wakes this process calls `check` before anything else."""

    def __init__(self, timers: Timers, suspended_ns: Callable[[], int] | None = None) -> None:
        """suspended_ns: how long the machine has been suspended since it booted; virtual time brings its own."""
        self._timers = timers
        self._suspended_ns = suspended_ns or _suspended_ns
        self._suspended_before = 0
        self._call: Callable[[Duration, Duration], None] | None = None
        self._tick_at: Instant | None = None

    def watch(self, call: Callable[[Duration, Duration], None]) -> None:
        """`call(duration, unseen)` when this process finds that it did not run; unseen: while the machine slept."""
        self._call = call
        self._suspended_before = self._suspended_ns()
        self._tick(self._timers.now())

    def check(self) -> None:
        """Cheap."""
        due = self._tick_at
        if due is None:
            return
        now = self._timers.now()
        suspended = self._suspended_ns()
        unseen = suspended - self._suspended_before
        if now - due < LEAST and unseen < LEAST:
            return
        self._suspended_before = suspended
        self._tick(now)
        if self._call is not None:
            self._call(Duration(max(0, now - due) + TICK + unseen), Duration(unseen))

    def close(self) -> None:
        """Watches no more."""
        self._timers.set(self, None, self._tick)

    def _tick(self, now: Instant) -> None:
        self._tick_at = Instant(now + TICK)
        self._timers.set(self, self._tick_at, self._tick)


def _suspended_ns() -> int:
    """The monotonic clock stands still during a suspend, the boot clock does not."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
