"""Which processes a vrrp_track_process counts, and when their number makes or breaks its quorum. Pure.

`actor.py` feeds it from kernel/procevents.py. Behaviour: keepalived.conf(5), vrrp_track_process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from holdfast.actors.runtime.machine import US, Duration, Instant, later
from holdfast.actors.watch.config import TrackProcess
from holdfast.actors.watch.messages import ProcessQuorum
from holdfast.bus.messages import Evidence, Reason, ReasonKind

COMM_LENGTH = 15
"""The kernel keeps this much of a process name (TASK_COMM_LEN less the NUL, linux/sched.h)."""


class Process(msgspec.Struct, frozen=True):
    """One running process. comm: the kernel's name for it. argv: its command line, empty for a kernel thread."""

    comm: str
    argv: tuple[str, ...] = ()


def compares_command(track: TrackProcess) -> bool:
    """Whether the command line counts rather than the kernel's name of the process."""
    return track.full_command or track.parameters is not None


def matches(track: TrackProcess, process: Process) -> bool:
    """Whether `process` is one of those that `track` counts.

    Without parameters and full_command the name has to equal the kernel's, cut to 15 characters. Otherwise the command
    and the parameters have to: all of them (exact), the first ones (partial), or all with the last one at least
    beginning as configured (initial).
    """
    if not compares_command(track):
        return process.comm == track.path[:COMM_LENGTH]
    if not process.argv or process.argv[0] != track.path:
        return False
    if track.parameters is None:
        return True
    wanted, given = track.parameters, process.argv[1:]
    match track.param_match:
        case "partial":
            return given[: len(wanted)] == wanted
        case "initial":
            if not wanted:
                return True
            return len(given) == len(wanted) and given[:-1] == wanted[:-1] and given[-1].startswith(wanted[-1])
        case _:
            return given == wanted


class ProcessTable:
    """Every process that some tracker counts, by pid.

    `seen` and `gone` return the names of the trackers whose number changed, with the direction (+1, -1).
    """

    __slots__ = ("_by_pid", "_tracks")

    def __init__(self, tracks: Sequence[TrackProcess]) -> None:
        self._tracks = tuple(tracks)
        self._by_pid: dict[int, frozenset[str]] = {}

    @property
    def needs_command(self) -> bool:
        """Whether any tracker looks at command lines: else nobody needs to read them."""
        return any(compares_command(track) for track in self._tracks)

    def replace_all(self, processes: Iterable[tuple[int, Process]]) -> None:
        """The whole list anew: at the start, and after events were lost."""
        self._by_pid = {}
        for pid, process in processes:
            self.seen(pid, process)

    def seen(self, pid: int, process: Process) -> list[tuple[str, int]]:
        """A process came, or became another one (exec, a new name)."""
        after = frozenset(track.name for track in self._tracks if matches(track, process))
        before = self._by_pid.get(pid, frozenset())
        if after == before:
            return []
        if after:
            self._by_pid[pid] = after
        else:
            del self._by_pid[pid]
        return [(name, -1) for name in sorted(before - after)] + [(name, 1) for name in sorted(after - before)]

    def forked(self, parent: int, child: int) -> list[tuple[str, int]]:
        """A child counts as its parent does until it becomes something else."""
        names = self._by_pid.get(parent)
        if not names or child in self._by_pid:
            return []
        self._by_pid[child] = names
        return [(name, 1) for name in sorted(names)]

    def gone(self, pid: int) -> list[tuple[str, int]]:
        """The process ended."""
        return [(name, -1) for name in sorted(self._by_pid.pop(pid, frozenset()))]

    def count(self, name: str) -> int:
        """How many processes the tracker `name` counts now."""
        return sum(name in names for names in self._by_pid.values())


class ProcessMachine:
    """The quorum of one tracker. A change has to last its delay: fork_delay when the number grew into or out of the
    allowed range, terminate_delay when it shrank. The first count holds at once."""

    __slots__ = ("_node", "_track", "count", "deadline", "last")

    def __init__(self, track: TrackProcess, *, node: str, before: ProcessQuorum | None = None) -> None:
        self._track = track
        self._node = node
        self.count = 0
        self.deadline: Instant | None = None
        self.last = before

    def _wanted(self) -> bool:
        highest = self._track.quorum_max
        # A process that must not run (quorum_max 0) has no lower limit.
        lowest = 0 if highest == 0 else self._track.quorum
        return self.count >= lowest and (highest is None or self.count <= highest)

    def counted(self, count: int, now: Instant, *, at_once: bool = False) -> ProcessQuorum | None:
        """The number of processes is now `count`. Returns what is to be published, or None.

        at_once: after a whole new count no delay applies.
        """
        grew = count > self.count
        self.count = count
        achieved = self._wanted()
        if self.last is None or at_once:
            self.deadline = None
            if self.last is not None and self.last.achieved == achieved and self._same_terms(self.last):
                return None
            return self._say(achieved, now)
        if achieved == self.last.achieved:
            self.deadline = None
            return None
        delay_us = self._track.fork_delay_us if grew else self._track.terminate_delay_us
        if delay_us == 0:
            self.deadline = None
            return self._say(achieved, now)
        if self.deadline is None:
            self.deadline = later(now, Duration(delay_us * US))
        return None

    def due(self, now: Instant) -> ProcessQuorum | None:
        """The deadline may have passed. Returns what is to be published, or None."""
        if self.deadline is None or now < self.deadline:
            return None
        self.deadline = None
        return self._say(self._wanted(), now)

    def _same_terms(self, last: ProcessQuorum) -> bool:
        return (last.quorum, last.quorum_max) == (self._track.quorum, self._track.quorum_max)

    def _say(self, achieved: bool, now: Instant) -> ProcessQuorum:
        evidence: Evidence = {"achieved": achieved, "count": self.count, "quorum": self._track.quorum}
        if self._track.quorum_max is not None:
            evidence["quorum_max"] = self._track.quorum_max
        last = self.last
        self.last = ProcessQuorum(
            process=self._track.name,
            achieved=achieved,
            count=self.count,
            quorum=self._track.quorum,
            quorum_max=self._track.quorum_max,
            since_mono_ns=last.since_mono_ns if last is not None and last.achieved == achieved else now,
            reason=Reason(
                kind=ReasonKind.PROCESS_QUORUM,
                node=self._node,
                subject=f"process/{self._track.name}",
                evidence=evidence,
            ),
        )
        return self.last
