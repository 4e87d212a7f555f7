"""When announcements leave: at once, or with the gaps that the configuration wants between packets of an interface."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from holdfast.actors.runtime.machine import US, Duration, Instant
from holdfast.actors.vrrp.config import GarpGroup, VrrpInstance
from holdfast.kernel.faces import Frames, Kernel

log = logging.getLogger("holdfast.vrrp")


class Owner(Protocol):
    """Whose announcements they are."""

    @property
    def instance(self) -> VrrpInstance:
        """Its configuration."""


class Pacer:
    """Announcements with a gap between packets of an interface (garp_interval, gna_interval, garp_group)."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._gaps: dict[int, Duration] = {4: Duration(0), 6: Duration(0)}
        self._groups: dict[tuple[str, int], tuple[object, Duration]] = {}
        self._queues: dict[object, deque[tuple[Frames, int, Owner]]] = {}

    def configure(self, garp_gap_us: int, gna_gap_us: int, groups: Iterable[GarpGroup]) -> None:
        """The gaps between packets of one interface, for ARP and for neighbour advertisements, and the interfaces that
        share a gap."""
        self._gaps = {4: Duration(garp_gap_us * US), 6: Duration(gna_gap_us * US)}
        self._groups = {}
        for number, group in enumerate(groups):
            gaps = {4: Duration(group.garp_interval_us * US), 6: Duration(group.gna_interval_us * US)}
            for name in group.interfaces:
                for family, gap in gaps.items():
                    self._groups[(name, family)] = ((number, family), gap)

    def send(self, frames: Frames, repeat: int, owner: Owner) -> None:
        """`repeat` rounds: at once without a gap, else one packet each gap."""
        interface, family = owner.instance.interface, owner.instance.family
        key, gap = self._groups.get((interface, family), ((interface, family), self._gaps[family]))
        if gap == 0:
            for _ in range(repeat):
                for error in self._kernel.announcer.send(frames):
                    log.debug("announcement: %s", error)
            return
        queue = self._queues.get(key)
        idle = not queue
        if queue is None:
            queue = self._queues[key] = deque()
        for _ in range(repeat):
            queue.extend((frames, index, owner) for index in range(len(frames)))
        if idle:
            self._next(key, gap, self._kernel.timers.now())

    def _next(self, key: object, gap: Duration, now: Instant) -> None:
        queue = self._queues.get(key)
        if not queue:
            self._queues.pop(key, None)
            return
        frames, index, _ = queue.popleft()
        for error in self._kernel.announcer.send(frames, index, 1):
            log.debug("announcement: %s", error)
        self._kernel.timers.set((self, key), Instant(now + gap), lambda at: self._next(key, gap, at))

    def drop(self, owner: object) -> None:
        """Forgets what is queued for an instance."""
        for key, queue in self._queues.items():
            self._queues[key] = deque(item for item in queue if item[2] is not owner)

    def close(self) -> None:
        """Nothing more is sent."""
        for key in self._queues:
            self._kernel.timers.set((self, key), None, lambda _: None)
        self._queues.clear()
