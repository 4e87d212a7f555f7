"""The timers of VRRP as numbers (RFC 9568 section 6.1, RFC 3768 section 6.1), and the lease that follows from them."""

from __future__ import annotations

from holdfast.actors.runtime.machine import MS, Duration, S
from holdfast.actors.vrrp.options import LeaseMode, MachineOptions

STRONGEST_BACKUP = 254
_BEST_SILENCE_ADVERTS = 3
_KERNEL_LATENESS = 100 * MS
"""The kernel removes an address up to 0.1 s after its lifetime (measured: 1.06, 2.08, 3.10 s for 1, 2, 3)."""
_SHORTEST_LEASE_S = 2
"""Refreshed once a second, so 1 s would leave no room for a late refresh."""


def skew_time(version: int, priority: int, interval: Duration) -> Duration:
    """How much longer than others a router of this priority waits.

    v3: (256 - priority) / 256 of the master's interval. v2: of one second, whatever the interval (RFC 3768 6.1).
    """
    return Duration((256 - priority) * (S if version == 2 else interval) // 256)


def master_down_interval(version: int, priority: int, interval: Duration, adverts: int = 3) -> Duration:
    """Silence after which a backup takes over. interval: the master's, as learnt. adverts: down_timer_adverts."""
    return Duration(adverts * interval + skew_time(version, priority, interval))


def first_wait(version: int, interval: Duration) -> Duration:
    """The first wait of `state MASTER` below priority 255: one interval and the least skew there is."""
    return Duration(interval + skew_time(version, 255, interval))


def takeover_limit(version: int, best_backup: int, interval: Duration, adverts: int = 3) -> Duration:
    """Our own silence after which the best backup is MASTER. adverts above 3 count as 3: the others may have less."""
    return master_down_interval(version, best_backup, interval, min(adverts, _BEST_SILENCE_ADVERTS))


def lease_seconds(options: MachineOptions, limit: Duration) -> int | None:
    """Lifetime of a virtual address in whole seconds, so that it is gone before the best backup takes over at `limit`.

    None: no lifetime. Adverts so fast that whole seconds are too coarse get the shortest: it bounds the damage of a
    dead owner; a frozen one notices by itself when it wakes.
    """
    if options.lease is LeaseMode.OFF:
        return None
    if options.lease is LeaseMode.FIXED:
        return options.lease_s
    return max(_SHORTEST_LEASE_S, (limit - _KERNEL_LATENESS) // S)
