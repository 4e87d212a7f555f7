"""When a MASTER announces its addresses (keepalived.conf(5), garp_*): deadlines, one list of what is due."""

from __future__ import annotations

from holdfast.actors.runtime.machine import US, Instant
from holdfast.actors.vrrp.config import GarpTiming

NEVER = Instant(1 << 62)


class AnnouncementSchedule:
    """The bursts that are still to come. deadline: the next one, `NEVER` if there is none."""

    __slots__ = ("_lower", "_refresh", "_second", "deadline", "timing")

    def __init__(self, timing: GarpTiming) -> None:
        self.timing = timing
        self.stop()

    def begin(self, now: Instant) -> int:
        """We became MASTER: rounds to announce at once; a second burst and refreshes follow."""
        timing = self.timing
        self._second = Instant(now + timing.master_delay_us * US) if timing.master_delay_us else NEVER
        self._lower = NEVER
        self._start_refresh(now)
        return timing.master_repeat

    def resume(self, now: Instant) -> None:
        """We are MASTER already (restored, reloaded): only the refreshes go on."""
        self._start_refresh(now)

    def lower_priority(self, now: Instant) -> int:
        """A router of lower priority announced the addresses as its own: rounds to answer with, 0 for none."""
        timing = self.timing
        if timing.lower_prio_repeat and timing.lower_prio_delay_us:
            self._lower = Instant(now + timing.lower_prio_delay_us * US)
            self._settle()
        return timing.lower_prio_repeat

    def stop(self) -> None:
        """We are no longer MASTER."""
        self._second = self._lower = self._refresh = self.deadline = NEVER

    def due(self, now: Instant) -> int:
        """Rounds to announce now: the largest of the bursts that fell due together, for they say the same."""
        if now < self.deadline:
            return 0
        timing = self.timing
        rounds = 0
        if self._second <= now:
            self._second = NEVER
            rounds = timing.master_repeat
        if self._lower <= now:
            self._lower = NEVER
            rounds = max(rounds, timing.lower_prio_repeat)
        if self._refresh <= now:
            self._refresh = Instant(now + timing.master_refresh_us * US)
            rounds = max(rounds, timing.master_refresh_repeat)
        self._settle()
        return rounds

    def _start_refresh(self, now: Instant) -> None:
        self._refresh = Instant(now + self.timing.master_refresh_us * US) if self.timing.master_refresh_us else NEVER
        self._settle()

    def _settle(self) -> None:
        self.deadline = min(self._second, self._lower, self._refresh)
