"""The watch room's configuration: what trackers look at (keepalived.conf(5): vrrp_script, track_file,
vrrp_track_process, interface_up_down_delays). One `WatchRoom` is the whole slice of this room.

The weights here are the things' own; entries of track_* blocks carry the weight that counts (`vrrp.config.Tracked`).
"""

from __future__ import annotations

import msgspec

from holdfast.actors.vrrp.config import LinkDelay
from holdfast.config.values import Script, ScriptOptions

__all__ = ["LinkDelay", "Script", "ScriptOptions", "TrackFile", "TrackProcess", "TrackScript", "WatchRoom"]


class TrackScript(msgspec.Struct, frozen=True, kw_only=True):
    """One vrrp_script. rise, fall: results in a row that change it; at the start one success will do unless init_fail.

    timeout_us: after it TERM to the process group, 2 s later KILL; equals the interval unless given.
    """

    name: str
    command: Script
    interval_us: int = 1_000_000
    timeout_us: int = 1_000_000
    rise: int = 1
    fall: int = 1
    weight: int = 0
    reverse: bool = False
    init_fail: bool = False


class TrackFile(msgspec.Struct, frozen=True, kw_only=True):
    """One track_file. init_value: what it is created with at the first start (never on reload); None: not created.
    init_overwrite: also when it exists."""

    name: str
    path: str
    weight: int = 1
    reverse: bool = False
    init_value: int | None = None
    init_overwrite: bool = False


class TrackProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One vrrp_track_process: how many processes of a name must run.

    path: as written. parameters: None: not compared. param_match: exact, initial or partial. quorum_max None: no limit,
    0: it must not run. Delays: a change must last that long; fork for more processes, terminate for fewer.
    """

    name: str
    path: str
    parameters: tuple[str, ...] | None = None
    param_match: str = "exact"
    full_command: bool = False
    weight: int = 0
    reverse: bool = False
    quorum: int = 1
    quorum_max: int | None = None
    fork_delay_us: int = 0
    terminate_delay_us: int = 0


class WatchRoom(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the watch room is told. scripts: only those that some instance or group tracks."""

    scripts: tuple[TrackScript, ...] = ()
    files: tuple[TrackFile, ...] = ()
    processes: tuple[TrackProcess, ...] = ()
    link_delays: tuple[LinkDelay, ...] = ()
    script_options: ScriptOptions = ScriptOptions()
    process_monitor_rcv_bytes: int | None = None
