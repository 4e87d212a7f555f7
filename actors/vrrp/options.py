"""What a virtual router is told besides its own configuration block."""

from __future__ import annotations

import enum

import msgspec

from holdfast.actors.vrrp.config import Tracks


class LeaseMode(enum.StrEnum):
    """holdfast.toml `vip_lease`: computed from the timers, a fixed number of seconds, or no lifetime at all."""

    AUTO = "auto"
    FIXED = "fixed"
    OFF = "off"


class MissingPolicy(enum.StrEnum):
    """What to do about an address, route or rule that somebody else removed."""

    RESTORE = "restore"
    """Put it back and report it: ours."""
    RESIGN = "resign"
    """Priority 0, BACKUP, retry after the skew time: keepalived's."""


class MachineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The surroundings of one instance.

    node: for reasons. group: its sync group. group_owner: every member of that group is `state MASTER` with priority
    255. group_tracks: the group's track_* block, applied to the member too. extra_interfaces: tracked with weight 0
    because of track groups. startup_delay_us: counted from the start of the daemon, what is left of it.
    weights_neutral: the group has no sync_group_tracking_weight: weights of the member's own trackers do not count.
    lease_s: for LeaseMode.FIXED. quick_start: `state MASTER` below priority 255 waits one interval and the least skew
    at the start, as keepalived 2.4 does; False: the whole master-down time, as 2.2.7 does.
    """

    node: str = ""
    group: str | None = None
    group_owner: bool = False
    startup_delay_us: int = 0
    lease: LeaseMode = LeaseMode.AUTO
    lease_s: int = 0
    quick_start: bool = True
    missing: MissingPolicy = MissingPolicy.RESTORE
    extra_interfaces: tuple[str, ...] = ()
    group_tracks: Tracks = Tracks()
    weights_neutral: bool = False
