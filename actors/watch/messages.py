"""What the watch room tells the world: raw results of everything that can be tracked, and the links of this host.

Which of them lower a priority or put an instance in FAULT is decided by who tracks them (actors/vrrp).
"""

from __future__ import annotations

from holdfast.bus.messages import Event, Reason


class ScriptResult(Event, frozen=True, kw_only=True, tag="watch.script"):
    """The verdict on a vrrp_script. Retained on `NODE/script/NAME/state`; sent when `ok` or the way it ended changes.

    Nothing is published before the first run, unless `init_fail` is set (then ok is False and runs 0) or the script
    came with a reload (then ok is True until the next run).
    exit_status: None when killed, timed out or not started. signal: number of the signal that ended it. timed_out: we
    ended it. problem: why it could not be run at all. latency_ms: length of the newest run. runs: since the start.
    disabled: it may not or cannot be run at all: whoever tracks it behaves as if it did not (ok is True).
    in_a_row: results of the same kind in a row. since_mono_ns: when `ok` last changed, sender's monotonic clock.
    """

    script: str
    ok: bool
    exit_status: int | None = None
    signal: int | None = None
    timed_out: bool = False
    problem: str | None = None
    disabled: bool = False
    latency_ms: float = 0.0
    runs: int = 0
    in_a_row: int = 0
    since_mono_ns: int = 0
    reason: Reason


class FileValue(Event, frozen=True, kw_only=True, tag="watch.file"):
    """The number in a track_file. Retained on `NODE/file/NAME/state`; sent when the value changes.

    value: as read, without any weight; 0 when the file is missing, empty or not readable (then readable is False).
    """

    file: str
    path: str
    value: int
    readable: bool = True
    since_mono_ns: int = 0
    reason: Reason


class ProcessQuorum(Event, frozen=True, kw_only=True, tag="watch.process"):
    """Whether enough (and not too many) matching processes run. Retained on `NODE/process/NAME/state`.

    count: matching processes at that instant. quorum_max None: no upper limit.
    """

    process: str
    achieved: bool
    count: int
    quorum: int
    quorum_max: int | None = None
    since_mono_ns: int = 0
    reason: Reason


class LinkState(Event, frozen=True, kw_only=True, tag="watch.link"):
    """A network interface. Retained on `NODE/link/NAME/state`; sent when a field but `since_mono_ns` changes.

    exists: the kernel knows it. raw_up: IFF_UP and IFF_RUNNING. up: the same after the delays of
    interface_up_down_delays. ifindex: 0 when it does not exist.
    """

    interface: str
    exists: bool
    up: bool
    raw_up: bool
    ifindex: int = 0
    mtu: int = 0
    mac: str = ""
    since_mono_ns: int = 0
    reason: Reason


class LinkAddresses(Event, frozen=True, kw_only=True, tag="watch.addresses"):
    """All addresses of an interface. Retained on `NODE/link/NAME/addresses`. addresses: `ADDRESS/PREFIX`, sorted."""

    interface: str
    addresses: tuple[str, ...] = ()
