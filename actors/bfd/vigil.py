"""The last two milliseconds before a session ends: everybody who will have to act is woken, and the engine waits awake.

What runs once a month runs cold: it took half a millisecond from the end of a detection time to the event on the bus,
and another half from there to the advert of a virtual router. So whoever tracks the session hears that it falters, and
has the time to go through the motions; and the engine does not sleep until the very end.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from holdfast.actors.bfd.lane import Lane
from holdfast.actors.bfd.machine import BfdMachine
from holdfast.actors.runtime.machine import MS, US, Deadline, Instant

_AWAKE = 500 * US
_REHEARSED = 150 * US
"""How long before the end the engine does nothing but go through the motions, and from when on nothing but wait."""

_EVERY = 100 * MS
"""Not for each of many that end together: the first of them warms the path of all."""


class Vigil:
    """Waits for the end of one session at a time."""

    def __init__(
        self,
        tell: Callable[[Lane, Instant], None],
        rehearse: Callable[[Lane, Instant], None],
        drain: Callable[[], None],
    ) -> None:
        """tell: that a session falters. rehearse: what is to be told at its end. drain: hears what has arrived."""
        self._tell = tell
        self._rehearse = rehearse
        self._drain = drain
        self._lane: Lane | None = None
        self._end = 0
        self._rests_until = 0

    def faltering(self, lane: Lane, end: int) -> None:
        """The lane's detection time ends at `end` unless its neighbour is heard."""
        lane.falterings += 1
        now = time.monotonic_ns()
        if now < self._rests_until:
            return
        self._rests_until = now + _EVERY
        self._tell(lane, Instant(now))
        self._lane, self._end = lane, end

    @property
    def next_at(self) -> int:
        """When `wait` is wanted; 0: not."""
        return 0 if self._lane is None else self._end - _AWAKE

    def wait(self, now: int) -> int:
        """Waits, busily, until the end is there or the neighbour is heard. Returns the present."""
        lane = self._lane
        if lane is None or now < self._end - _AWAKE:
            return now
        self._lane = None
        while now < self._end - _REHEARSED:
            _rehearse(lane, now)
            self._rehearse(lane, Instant(now))
            now = time.monotonic_ns()
        self._drain()
        while now < self._end == lane.due_at():
            now = time.monotonic_ns()
        return now


def _rehearse(lane: Lane, now: int) -> None:
    """What is to be done at the end, with a machine that is thrown away. Nothing is sealed: that uses numbers up."""
    machine = BfdMachine(lane.machine.config, 1)
    machine.restore(lane.machine.memory, Instant(now))
    machine.step(Deadline(), Instant(now + machine.detection))
    if lane.packet is not None and lane.path is not None:
        lane.path.packet(lane.packet.encode())
