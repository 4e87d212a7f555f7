"""What the kernel knows of this process and its machine: memory, and why it may have stood still.

A process that was not scheduled finds out on waking; the counters here tell what was short meanwhile. Each is a total
since boot or start, so the difference between two readings is what happened between them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import msgspec

_PRESSURES: Final = ("cpu", "memory", "io")
_LEAST_S: Final = 0.010
"""Less than this explains no stall."""


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """Counters at one moment, in nanoseconds; None: this machine does not tell.

    waited: runnable but not running (of this thread). pressure_*: some task of the machine waited for it.
    throttled: the control group used up its CPU quota. steal: the hypervisor ran somebody else. suspended: the
    machine slept.
    """

    at: int
    waited: int | None = None
    pressure_cpu: int | None = None
    pressure_memory: int | None = None
    pressure_io: int | None = None
    throttled: int | None = None
    steal: int | None = None
    suspended: int = 0
    frozen: bool = False


_RESOURCES: Final = ("waited", "pressure_cpu", "pressure_memory", "pressure_io", "throttled", "steal", "suspended")
_last: Readings | None = None


def read() -> Readings:
    """The counters now; about 60 us."""
    pressures = {name: _pressure_ns(name) for name in _PRESSURES}
    throttled, frozen = _control_group()
    return Readings(
        at=time.monotonic_ns(),
        waited=_waited_ns(),
        pressure_cpu=pressures["cpu"],
        pressure_memory=pressures["memory"],
        pressure_io=pressures["io"],
        throttled=throttled,
        steal=_steal_ns(),
        suspended=time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns(),
        frozen=frozen,
    )


def stall_evidence(before: Readings | None = None, after: Readings | None = None) -> dict[str, float]:
    """What was short between two readings, in seconds, as evidence of a reason; only what matters.

    Keys: waited_s, pressure_cpu_s, pressure_memory_s, pressure_io_s, throttled_s, steal_s, suspended_s, and span_s, the
    time between the readings. Without `before`: since the last call of this or of `remember`.
    """
    global _last
    after = after or read()
    before = before or _last
    _last = after
    if before is None:
        return {}
    evidence: dict[str, float] = {}
    for name in _RESOURCES:
        old, new = getattr(before, name), getattr(after, name)
        if old is None or new is None:
            continue
        seconds = (new - old) / 1e9
        if seconds >= _LEAST_S:
            evidence[f"{name}_s"] = round(seconds, 3)
    if evidence:
        evidence["span_s"] = round((after.at - before.at) / 1e9, 3)
    return evidence


def remember() -> None:
    """Reads the counters, so that the next `stall_evidence` speaks of the time from now on. Once a second is enough."""
    global _last
    _last = read()


def pss_bytes(pid: int | str = "self") -> int | None:
    """Proportional set size:

    memory of a process with shared pages split among their users. None when it may not be read.
    """
    return _field_bytes(f"/proc/{pid}/smaps_rollup", "Pss:")


def rss_bytes(pid: int | str = "self") -> int | None:
    """Resident memory of a process."""
    return _field_bytes(f"/proc/{pid}/status", "VmRSS:")


def locked_bytes(pid: int | str = "self") -> int | None:
    """Memory of a process that is never swapped."""
    return _field_bytes(f"/proc/{pid}/status", "VmLck:")


def cpu_ns(pid: int | str = "self") -> int | None:
    """CPU time a process has used, user and system."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def _field_bytes(path: str, name: str) -> int | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _waited_ns() -> int | None:
    """Second number of schedstat: time spent runnable on a run queue."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return None


def _pressure_ns(name: str) -> int | None:
    """Total of the `some` line of /proc/pressure (Documentation/accounting/psi.rst), microseconds there."""
    try:
        with open(f"/proc/pressure/{name}", encoding="ascii") as file:
            line = file.readline()
    except OSError:
        return None
    total = line.rpartition("total=")[2].strip()
    return int(total) * 1000 if total.isdigit() else None


def _steal_ns() -> int | None:
    """Eighth number of the first line of /proc/stat, in clock ticks."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            fields = file.readline().split()
    except OSError:
        return None
    return int(fields[8]) * (1_000_000_000 // os.sysconf("SC_CLK_TCK")) if len(fields) > 8 else None


def _control_group() -> tuple[int | None, bool]:
    """(throttled time, whether it is frozen now) of this process's control group, version 2 or 1."""
    throttled: int | None = None
    frozen = False
    try:
        with open("/proc/self/cgroup", encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return None, False
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
                value = _stat_value(f"{root}{path}/cpu.stat", "throttled_usec", 1000)
                throttled = value if value is not None else throttled
                frozen = frozen or _stat_value(f"{root}{path}/cgroup.events", "frozen", 1) == 1
        elif "cpu" in controllers.split(","):
            for root in (f"/sys/fs/cgroup/{controllers}", "/sys/fs/cgroup/cpu"):
                value = _stat_value(f"{root}{path}/cpu.stat", "throttled_time", 1)
                throttled = value if value is not None else throttled
    return throttled, frozen


def _stat_value(path: str, name: str, scale: int) -> int | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(" ")
                if key == name:
                    return int(value) * scale
    except (OSError, ValueError):
        pass
    return None
