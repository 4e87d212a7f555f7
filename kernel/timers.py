"""Deadlines to the microsecond: one timerfd for a whole cell.

asyncio's own timers wait in whole milliseconds (epoll rounds up; uvloop rounds either way); a timerfd in the same
loop is good to about 0.1 ms. `DeadlineHeap` holds the deadlines of all machines of a cell; `TimerFd` is the bare
timer for whoever keeps time in another way (a wheel). Their counterpart in memory is `fake.FakeTimers`.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import operator
import os
import time
from collections.abc import Callable
from typing import Final

from holdfast.kernel.base import KernelError
from holdfast.kernel.instant import Instant

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_TFD_NONBLOCK: Final = os.O_NONBLOCK
_TFD_CLOEXEC: Final = os.O_CLOEXEC
_TFD_TIMER_ABSTIME: Final = 1
_NS: Final = 1_000_000_000
_INSTANT: Final = operator.itemgetter(0)
_COMPACT_ABOVE: Final = 256
"""Below this many heap entries stale ones are not worth a sweep."""


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _ITimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


def monotonic() -> Instant:
    """Now, on the clock of every deadline. Stands still while the machine is suspended."""
    return Instant(time.monotonic_ns())


def boottime_ns() -> int:
    """Like `monotonic`, but goes on while the machine is suspended: the difference of the two tells of a suspend."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class TimerFd:
    """A Linux timer as a file descriptor: readable when its instant has come (timerfd_create(2))."""

    __slots__ = ("_address", "_fd", "_spec", "_value", "armed_at")

    def __init__(self) -> None:
        fd = _LIBC.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if fd < 0:
            raise KernelError("timerfd_create", "timer", ctypes.get_errno())
        self._fd: int = fd
        self._spec = _ITimerSpec()
        self._value = self._spec.value
        self._address = ctypes.addressof(self._spec)
        self.armed_at: Instant | None = None

    def fileno(self) -> int:
        """For add_reader."""
        return self._fd

    def arm(self, at: Instant | None) -> None:
        """Fires at this instant, at once if it has passed, never if None."""
        if at is None:
            seconds = nanoseconds = 0
        else:
            # An all-zero value would disarm: an instant at or before the start of the clock becomes its first
            # nanosecond.
            seconds, nanoseconds = divmod(max(at, 1), _NS)
        self._value.seconds = seconds
        self._value.nanoseconds = nanoseconds
        if _LIBC.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.c_void_p(self._address), None) != 0:
            raise KernelError("timerfd_settime", "timer", ctypes.get_errno())
        self.armed_at = at

    def clear(self) -> bool:
        """After it became readable: takes the expiry off. False: it had not fired."""
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return False
        self.armed_at = None
        return True

    def close(self) -> None:
        """Gives the descriptor back; harmless twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Entry:
    """What a key wants. queued_at: the instant of its one valid heap tuple, never later than `at`; -1: it has none."""

    __slots__ = ("at", "call", "queued_at")

    def __init__(self, at: int, call: Callable[[Instant], None]) -> None:
        self.at = at
        self.queued_at = at
        self.call = call


class DeadlineHeap:
    """All deadlines of one cell on its loop; works with asyncio's and uvloop's. Not shared between threads.

    Moving a deadline later costs a dictionary look-up and nothing else: its heap tuple stays where it is and is
    moved when it comes up. That is the ordinary case (every advert and every BFD packet moves one).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer = TimerFd()
        self._entries: dict[object, _Entry] = {}
        self._heap: list[tuple[int, int, object, _Entry]] = []
        self._hooks: list[Callable[[], None]] = []
        self._sequence = 0
        self._firing = False
        self.late_us_log2: list[int] = [0] * 40
        """How many calls came less than 2**index microseconds after their instant: the histogram of small delays."""
        loop.add_reader(self._timer.fileno(), self._readable)

    def __len__(self) -> int:
        return len(self._entries)

    def now(self) -> Instant:
        """The clock these deadlines are on."""
        return Instant(time.monotonic_ns())

    def set(self, key: object, at: Instant | None, call: Callable[[Instant], None]) -> None:
        """`call(now)` once, at `at` or right after. Replaces what `key` had; None removes it."""
        entry = self._entries.get(key)
        if at is None:
            if entry is not None:
                del self._entries[key]
                entry.queued_at = -1
            return
        if entry is None:
            entry = self._entries[key] = _Entry(at, call)
        else:
            entry.call = call
            entry.at = at
            if 0 <= entry.queued_at <= at:
                return
            entry.queued_at = at
        self._push(key, entry)

    def remove(self, key: object) -> None:
        """Forgets what `key` had."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry.queued_at = -1

    def deadline(self, key: object) -> Instant | None:
        """When `key` is due, None if it is not."""
        entry = self._entries.get(key)
        return None if entry is None else Instant(entry.at)

    def next_deadline(self) -> Instant | None:
        """The earliest deadline there is; it may have passed and wait for its call."""
        self._settle()
        return Instant(self._heap[0][0]) if self._heap else None

    def before_firing(self, hook: Callable[[], None]) -> Callable[[], None]:
        """`hook()` before due deadlines are looked at, so that what has arrived is heard first. Returns its removal."""
        self._hooks.append(hook)

        def remove() -> None:
            if hook in self._hooks:
                self._hooks.remove(hook)

        return remove

    def fire(self) -> int:
        """Runs the hooks, then everything that is due, all with the same `now`, earliest first. Returns how many."""
        for hook in tuple(self._hooks):
            self._guarded(hook)
        now = time.monotonic_ns()
        heap = self._heap
        due: list[tuple[int, object, _Entry]] = []
        while heap and heap[0][0] <= now:
            queued_at, _, key, entry = heapq.heappop(heap)
            if entry.queued_at != queued_at:
                continue
            if entry.at > now:
                entry.queued_at = entry.at
                self._sequence += 1
                heapq.heappush(heap, (entry.at, self._sequence, key, entry))
            else:
                # Off the heap but still in `_entries`: whoever runs before it in this turn may yet move or remove it.
                entry.queued_at = -1
                due.append((entry.at, key, entry))
        # One that was moved a little later, and is due all the same, came off the heap by its old instant.
        due.sort(key=_INSTANT)
        self._firing = True
        fired = 0
        instant = Instant(now)
        histogram = self.late_us_log2
        try:
            for at, key, entry in due:
                if self._entries.get(key) is not entry or entry.at != at or entry.queued_at != -1:
                    continue
                del self._entries[key]
                fired += 1
                histogram[((now - at) // 1000).bit_length()] += 1
                try:
                    entry.call(instant)
                except Exception as error:
                    self._report(error, key)
        finally:
            self._firing = False
            self._arm()
        return fired

    def close(self) -> None:
        """Nothing fires any more."""
        if self._timer.fileno() >= 0:
            self._loop.remove_reader(self._timer.fileno())
            self._timer.close()
        self._entries.clear()
        self._heap.clear()
        self._hooks.clear()

    def _push(self, key: object, entry: _Entry) -> None:
        self._sequence += 1
        heap = self._heap
        heapq.heappush(heap, (entry.at, self._sequence, key, entry))
        if len(heap) > _COMPACT_ABOVE and len(heap) > 3 * len(self._entries):
            self._compact()
        if not self._firing:
            armed_at = self._timer.armed_at
            if armed_at is None or entry.at < armed_at:
                self._timer.arm(Instant(entry.at))

    def _compact(self) -> None:
        self._heap = [item for item in self._heap if item[3].queued_at == item[0]]
        heapq.heapify(self._heap)

    def _settle(self) -> None:
        """The top of the heap becomes a deadline that is meant."""
        heap = self._heap
        # What has been moved later goes to its place now: each of a thousand moved deadlines would else wake us once.
        while heap:
            queued_at, _, key, entry = heap[0]
            if entry.queued_at != queued_at:
                heapq.heappop(heap)
            elif entry.at > queued_at:
                entry.queued_at = entry.at
                self._sequence += 1
                heapq.heapreplace(heap, (entry.at, self._sequence, key, entry))
            else:
                break

    def _arm(self) -> None:
        self._settle()
        heap = self._heap
        if self._timer.fileno() < 0:
            return
        if not heap:
            if self._timer.armed_at is not None:
                self._timer.arm(None)
            return
        at = heap[0][0]
        if self._timer.armed_at != at:
            self._timer.arm(Instant(at))

    def _readable(self) -> None:
        if self._timer.clear():
            self.fire()

    def _guarded(self, hook: Callable[[], None]) -> None:
        try:
            hook()
        except Exception as error:
            self._report(error, hook)

    def _report(self, error: Exception, key: object) -> None:
        # One machine's failure must not take the deadlines of the others with it.
        self._loop.call_exception_handler(
            {"message": f"deadline of {key!r} failed: {error!r}", "exception": error, "deadline": key}
        )
