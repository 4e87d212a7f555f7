"""The shell of all vrrp_track_processes: one list of processes for all of them, a machine for each (`process.py`)."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from holdfast.actors.runtime.actor import LoopActor
from holdfast.actors.runtime.machine import Duration, Instant, S, later
from holdfast.actors.watch.config import TrackProcess
from holdfast.actors.watch.messages import ProcessQuorum
from holdfast.actors.watch.process import Process, ProcessMachine, ProcessTable
from holdfast.bus.base import Bus
from holdfast.kernel.base import KernelError
from holdfast.kernel.faces import Timers

log = logging.getLogger("holdfast.watch")

LOOK_AGAIN = Duration(1 * S)
"""How often the processes are counted where the kernel does not tell of them."""


class ProcessNotices(Protocol):
    """The kernel's process events (kernel/procevents.py). All calls are made on the loop."""

    def follow(
        self,
        *,
        forked: Callable[[int, int], None],
        changed: Callable[[int], None],
        ended: Callable[[int], None],
        lost: Callable[[], None],
    ) -> Callable[[], None]:
        """forked(parent, child), changed(pid) after exec or a new name, ended(pid), lost() after an overrun.

        Returns what ends it. Raises KernelError when the kernel does not tell.
        """


class ProcessList(Protocol):
    """What runs now; tests have their own."""

    def all(self, *, with_command: bool) -> list[tuple[int, Process]]:
        """Every process."""

    def one(self, pid: int, *, with_command: bool) -> Process | None:
        """None when it has gone."""


class ConfigureProcesses(msgspec.Struct, frozen=True):
    """All of them as they are configured now."""

    tracks: tuple[TrackProcess, ...]


class _Counted(msgspec.Struct, frozen=True):
    """A whole list, read in a thread. number: of the request."""

    number: int
    processes: list[tuple[int, Process]]


class ProcessesActor(LoopActor):
    """See the file's first lines. restored: what the former life of this cell published last, after a crash."""

    def __init__(
        self,
        *,
        bus: Bus,
        timers: Timers,
        loop: asyncio.AbstractEventLoop,
        notices: ProcessNotices,
        processes: ProcessList | None = None,
        restored: Iterable[ProcessQuorum] = (),
    ) -> None:
        super().__init__()
        self._bus = bus
        self._timers = timers
        self._loop = loop
        self._notices = notices
        self._processes: ProcessList = processes or ProcFileSystem()
        self._restored = {event.process: event for event in restored}
        self._table = ProcessTable(())
        self._machines: dict[str, ProcessMachine] = {}
        self._unfollow: Callable[[], None] | None = None
        self._polling = False
        self._request = 0
        self._waiting: list[Callable[[], None]] | None = None

    def on_receive(self, message: object) -> object:
        """Takes `ConfigureProcesses`."""
        match message:
            case ConfigureProcesses(tracks=tracks):
                self._configure(tracks)
            case _Counted():
                self._counted(message)
            case _:
                raise AssertionError(message)
        return None

    def on_stop(self) -> None:
        """The cell ends."""
        self._stop_following()
        for name in self._machines:
            self._timers.set((self, name), None, self._again)

    def _configure(self, tracks: tuple[TrackProcess, ...]) -> None:
        wanted = {track.name: track for track in tracks}
        for name in set(self._machines) - set(wanted):
            del self._machines[name]
            self._timers.set((self, name), None, self._again)
            self._bus.forget(f"process/{name}", "state")
        old, self._machines = self._machines, {}
        for name, track in wanted.items():
            before = old[name].last if name in old else self._restored.get(name)
            self._machines[name] = ProcessMachine(track, node=self._bus.node, before=before)
        self._table = ProcessTable(tracks)
        if not tracks:
            self._stop_following()
            return
        if self._unfollow is None and not self._polling:
            self._follow()
        self._recount()

    def _follow(self) -> None:
        try:
            self._unfollow = self._notices.follow(
                forked=self._forked, changed=self._changed, ended=self._ended, lost=self._recount
            )
        except KernelError as error:
            log.warning("the kernel does not tell of processes: %s - counting them every second instead", error)
            self._polling = True

    def _stop_following(self) -> None:
        self._request += 1
        self._waiting = None
        self._polling = False
        self._timers.set(self, None, self._again)
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None

    def _again(self, _now: Instant) -> None:
        self._recount()

    def _recount(self) -> None:
        """Reads all of /proc in a thread: with thousands of processes that takes tens of milliseconds. What the kernel
        tells meanwhile waits and is taken in afterwards."""
        self._request += 1
        number, with_command = self._request, self._table.needs_command
        self._waiting = []
        processes, reference = self._processes, self.actor_ref

        def read() -> None:
            found = processes.all(with_command=with_command)
            if reference.is_alive():
                reference.tell(_Counted(number, found))

        self._loop.run_in_executor(None, read)

    def _counted(self, list_: _Counted) -> None:
        if list_.number != self._request:
            return
        self._table.replace_all(list_.processes)
        waiting, self._waiting = self._waiting or [], None
        now = self._timers.now()
        for name, machine in self._machines.items():
            event = machine.counted(self._table.count(name), now, at_once=not self._polling)
            restored = self._restored.pop(name, None)
            self._say(name, machine, event or restored)
        for call in waiting:
            call()
        if self._polling:
            self._timers.set(self, later(now, LOOK_AGAIN), self._again)

    def _forked(self, parent: int, child: int) -> None:
        if self._waiting is not None:
            self._waiting.append(lambda: self._forked(parent, child))
            return
        self._apply(self._table.forked(parent, child))

    def _changed(self, pid: int) -> None:
        if self._waiting is not None:
            self._waiting.append(lambda: self._changed(pid))
            return
        process = self._processes.one(pid, with_command=self._table.needs_command)
        self._apply(self._table.gone(pid) if process is None else self._table.seen(pid, process))

    def _ended(self, pid: int) -> None:
        if self._waiting is not None:
            self._waiting.append(lambda: self._ended(pid))
            return
        self._apply(self._table.gone(pid))

    def _apply(self, changes: list[tuple[str, int]]) -> None:
        now = self._timers.now()
        for name, step in changes:
            machine = self._machines[name]
            self._say(name, machine, machine.counted(machine.count + step, now))

    def _say(self, name: str, machine: ProcessMachine, event: ProcessQuorum | None) -> None:
        if event is not None:
            log.info("Quorum %s for tracked process %s", "gained" if event.achieved else "lost", name)
            self._bus.publish(f"process/{name}", "state", event)

        def due(now: Instant) -> None:
            self._say(name, machine, machine.due(now))

        self._timers.set((self, name), machine.deadline, due)


class ProcFileSystem:
    """/proc as a list of processes (proc(5)). Kernel threads have a name and no command line."""

    def all(self, *, with_command: bool) -> list[tuple[int, Process]]:
        """Every process."""
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                process = self.one(int(name), with_command=with_command)
                if process is not None:
                    found.append((int(name), process))
        return found

    def one(self, pid: int, *, with_command: bool) -> Process | None:
        """None when it has gone, or is a zombie."""
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                # The name stands in parentheses and may itself hold any character.
                head, _, tail = file.read(512).rpartition(b") ")
            if tail[:1] in (b"Z", b"X", b""):
                return None
            comm = os.fsdecode(head.partition(b"(")[2])
            argv: tuple[str, ...] = ()
            if with_command:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read(65536).rstrip(b"\0")
                argv = tuple(os.fsdecode(word) for word in words.split(b"\0")) if words else ()
        except OSError:
            return None
        return Process(comm, argv)
