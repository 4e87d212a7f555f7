"""The core of `holdfast run`: reads the configuration, forks the cells, puts back those that die or hang.

The supervisor's process does nothing that can take long or fail for what is in a file: the configuration is read in a
forked process (loading.py), the work is done in the cells (cell.py), whose lives keeper.py keeps. What it knows it
tells on its own bus, as the cell `supervisor`: each cell's state, each cell's configuration, what became of the last
reload.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from holdfast.actors.runtime import handover, placement, process, scheduling, surroundings
from holdfast.actors.runtime.catalogue import prepare, warm
from holdfast.actors.runtime.cell import start_of
from holdfast.actors.runtime.children import Child, waves_of
from holdfast.actors.runtime.keeper import APPLY_S, FIRST_ROOMS, Keeper
from holdfast.actors.runtime.loading import LoadedConfig, load_apart
from holdfast.actors.runtime.messages import (
    CellRestarted,
    CellStatus,
    ConfigState,
    Orders,
    Reload,
    Reloaded,
    Restart,
    RestartCell,
    Restarting,
    RestartProgress,
    RestartProgressed,
)
from holdfast.actors.runtime.options import Options
from holdfast.actors.runtime.placement import CellPlan
from holdfast.actors.runtime.slices import SliceTeller
from holdfast.bus.base import Caller
from holdfast.bus.cellbus import CellBus
from holdfast.bus.codec import encode
from holdfast.bus.messages import Command, Failed, Reason, ReasonKind, Reply
from holdfast.bus.store import boot_id
from holdfast.config.values import ProcessOptions

log = logging.getLogger(__name__)

STOP_S = 2.0
USUAL_ROOMS = frozenset({"watch", "vrrp", "notify"})
EXIT_MISTAKES = 5
"""keepalived's code for a configuration with mistakes in it: a reload does not take it."""
LAST_WORDS_MS = 50
HAND_OVER_S = 2.5


def run(options: Options) -> int:
    """Runs the daemon in this process until it is told to stop. Returns the exit code.

    0 after a clean stop; the loader's code when the configuration cannot be used; 1 when the daemon cannot start
    here (a pid file or a run directory in use), with the reason in the log.
    """
    return asyncio.run(Supervisor(options).run())


def probe(options: Options) -> int:
    """Whether a daemon could run with this version and this configuration: all is read and imported, nothing done."""
    loaded = options.load()
    if not loaded.exit_code and loaded.has_errors:
        loaded.exit_code = EXIT_MISTAKES
    if loaded.exit_code:
        sys.stderr.write(f"{loaded.diagnostics}\n")
        return loaded.exit_code
    for plan in placement.plan(loaded.slices, loaded.settings).values():
        for room in plan.rooms:
            start_of(room)
            warm(room)
            prepare(room, plan.slices[room])
    return 0


class Supervisor(Keeper):
    """One daemon. Everything happens on its loop."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.source = ""
        self._pid_file = process.PidFile(options.pid_file) if options.pid_file is not None else None
        self._stop_asked = asyncio.Event()
        self._reload_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[object]] = set()
        self._slices: SliceTeller
        self._left = handover.left()
        self._handing_over: asyncio.Task[Reply] | None = None
        self._handing: set[str] = set()
        """Cells that still run the version before this one."""
        self._warm: set[str] = set()
        """Rooms that are imported and ready."""

    async def run(self) -> int:
        """From the first reading of the configuration to the exit code."""
        self.loop = asyncio.get_running_loop()
        likely = USUAL_ROOMS if self.options.likely_rooms is None else self.options.likely_rooms()
        if len(os.sched_getaffinity(0)) == 1:
            # Nothing can be had at once here, and what both write after a fork is copied: one after the other.
            self._import_rooms(sorted(likely, key=placement.start_order), {})
        # Once, and before the fork: looking at every object afterwards would copy all the pages shared with the reader.
        gc.collect()
        gc.freeze()
        reading = self.loop.create_task(load_apart(self.options.load, hurried=self._hurry.on))
        await asyncio.sleep(0)
        # While another process reads the configuration, this one imports what it will most likely ask for.
        self._import_rooms(sorted(likely, key=placement.start_order), {})
        loaded = await reading
        _show(loaded.diagnostics)
        if loaded.exit_code:
            return loaded.exit_code
        self.process = loaded.process
        if not self.options.own_run_dir:
            run_dir = surroundings.run_directory(self.options.run_dir, self.process)
            if self._pid_file is not None and self._pid_file.path.parent == self.options.run_dir:
                self._pid_file = process.PidFile(run_dir / self._pid_file.path.name)
            self.options = msgspec.structs.replace(self.options, run_dir=run_dir)
            self._run_dir = process.RunDirectory(run_dir)
        try:
            surroundings.enter(self.process)
            self._run_dir.take(loaded.settings.node, held_fd=None if self._left is None else self._left.lock_fd)
            if self._pid_file is not None:
                self._pid_file.write()
        except process.StartError as error:
            log.error("%s", error)
            return 1
        process.set_name(self.process.process_name or "holdfast")
        self.settings, self.source = loaded.settings, loaded.source
        try:
            options = self.process
            seconds = options.startup_script_timeout_s
            if self._left is None:
                await surroundings.run_script("startup_script", options.startup_script, seconds, options)
            self._start(loaded)
            await self._stop_asked.wait()
            if self._handing_over is not None:
                # A cell that is between two versions has nobody who could take its addresses back.
                await asyncio.wait([self._handing_over], timeout=APPLY_S)
            await self._stop()
            options = self.process
            seconds = options.shutdown_script_timeout_s
            await surroundings.run_script("shutdown_script", options.shutdown_script, seconds, options)
        finally:
            for child in self.children.values():
                child.kill()
            if self._pid_file is not None:
                self._pid_file.remove()
        return 0

    def _start(self, loaded: LoadedConfig) -> None:
        self.number = 1 if self._left is None else self._left.number
        plans = placement.plan(loaded.slices, self.settings)
        self._house = _rooms_of(plans)
        boot_id()
        with contextlib.suppress(ImportError):
            importlib.import_module("uvloop")
        for number, handler in (
            (signal.SIGTERM, self._stop_asked.set),
            (signal.SIGINT, _nothing if self.options.ignore_sigint else self._stop_asked.set),
            (signal.SIGHUP, self._hangup),
            (signal.SIGUSR1, self._dump),
            (signal.SIGUSR2, self._statistics),
            (signal.SIGCHLD, self._reap),
        ):
            self.loop.add_signal_handler(number, handler)
        wanted_at = self.loop.time()
        adopted = {} if self._left is None else {cell.name: cell for cell in self._left.cells}
        for plan in sorted(plans.values(), key=_urgency):
            if plan.name in adopted:
                self._adopt(plan, adopted[plan.name])
            else:
                self._import_rooms(plan.rooms, plan.slices)
                # What is there now is there for good: cells share these pages as long as nobody writes to them.
                gc.freeze()
                self._add(plan, wanted_at)
        self._handing = set(adopted)
        leaving = [self._adopt(CellPlan(name, (), {}), cell) for name, cell in adopted.items() if name not in plans]
        # The first cells are forked before this process has a socket or a thread of its own.
        self.bus = CellBus(self.loop, self.options.run_dir, self.settings.node, "supervisor", keep=False)
        self.bus.serve("supervisor", self._serve)
        self._slices = SliceTeller(self.bus)
        handover.go_on()
        for child in leaving:
            del self.children[child.name]
        for child in self.children.values():
            self._slices.tell(child.plan, self.number, self.settings)
            self._tell_state(child, Reason(kind=ReasonKind.STARTED, node=self.bus.node, subject=f"cell/{child.name}"))
        self._tell_config(True, (), Reason(kind=ReasonKind.STARTED, node=self.bus.node, subject="config/current"))
        self._looked_at = self.loop.time()
        self._hurry.over()
        self._place.put(scheduling.CellScheduling(own=scheduling.of_supervisor(self.process)))
        self._look_after_cells()
        if self._systemd.watchdog_s:
            self._watchdog()
        self._say_ready()
        if adopted:
            self._handing_over = self._spawn(self._hand_over_cells(leaving))

    def _import_rooms(self, rooms: Iterable[str], slices: Mapping[str, Mapping[str, bytes]]) -> None:
        """What cells with these rooms need is imported, and made ready, once and here."""
        for room in rooms:
            if room in self.options.starters:
                continue
            if room not in self._warm:
                self._warm.add(room)
                start_of(room)
                warm(room)
            prepare(room, slices.get(room, {}))

    def _watchdog(self) -> None:
        self._systemd.alive()
        self.loop.call_later(self._systemd.watchdog_s, self._watchdog)

    # --- cells -------------------------------------------------------------------------------------------------

    async def _hand_over_cells(self, leaving: list[Child]) -> None:
        """Each cell of the old version makes room for one of this, the next when that runs."""
        self._reap()
        if leaving:
            self._handing -= {child.name for child in leaving}
            await self._end_cells(leaving, self.loop.time() + STOP_S, removed=True)
        for child in list(self.children.values()):
            gone = child.exited
            if child.name not in self._handing or not child.alive or gone is None:
                continue
            child.handing_over = True
            if not child.tell(Orders("hand-over")):
                child.kill()
            await asyncio.wait([gone], timeout=HAND_OVER_S)
            if not gone.done():
                log.error("cell %s (pid %d) does not hand over: killed", child.name, child.pid)
                child.kill()
                await asyncio.wait([gone], timeout=1.0)
            until = self.loop.time() + APPLY_S
            while child.status is not CellStatus.RUNNING and self.loop.time() < until:
                self._applied.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._applied.wait(), 1.0)
            self._handing.discard(child.name)
        self._handing.clear()
        log.info("all cells are handed over")

    async def _restart(self) -> Reply:
        """Sees whether the new version gets ready; then it is executed in place of this one."""
        command = self.options.command
        if command is None or self._handing:
            return Failed(code="no-restart", message="this daemon cannot be replaced now")
        async with self._reload_lock:
            problem = await handover.probe(command)
        if problem:
            log.error("no restart: %s", problem)
            return Failed(code="not-ready", message=problem)
        self.loop.call_later(LAST_WORDS_MS / 1000, self._become, command)
        return Restarting(pid=os.getpid(), epoch=self.bus.epoch)

    def _become(self, command: handover.Command) -> None:
        cells = tuple(
            handover.Adopted(child.name, child.pid, child.orders.fileno(), child.restarts)
            for child in self.children.values()
            if child.alive and not child.stopping and child.orders is not None
        )
        log.info("another version of this program takes over")
        self._systemd.reloading()
        wanted = self._place.wanted
        self._place.put(scheduling.CellScheduling())  # loading the new code must not be in the way of the cells
        try:
            handover.become(
                command, handover.HandOver(self._run_dir.lock_fd, self.number, cells), self._systemd.environment
            )
        except OSError as error:
            log.error("the new version cannot be executed: %s; this one goes on", error)
            self._place.put(wanted)
            self._systemd.ready(self._summary())

    # --- configuration -----------------------------------------------------------------------------------------

    def _tell_config(self, ok: bool, messages: tuple[str, ...], reason: Reason) -> None:
        event = ConfigState(
            ok=ok,
            number=self.number,
            messages=messages,
            source=self.source,
            wall_ns=time.time_ns(),
            cells=len(self.children),
            reason=reason,
        )
        self.bus.publish("config/current", "state", event)

    def _hangup(self) -> None:
        self._spawn(self.reload())

    async def reload(self) -> Reloaded:
        """Reads the configuration beside the running cells; puts it in force, or refuses it whole."""
        async with self._reload_lock:
            self._systemd.reloading()
            try:
                return await self._reload()
            finally:
                self._systemd.ready(self._summary())

    async def _reload(self) -> Reloaded:
        loaded = await load_apart(self.options.load)
        messages = tuple(loaded.diagnostics.splitlines())
        if not loaded.exit_code and loaded.has_errors:
            loaded.exit_code = EXIT_MISTAKES
        if not loaded.exit_code and loaded.settings.node != self.settings.node:
            loaded.exit_code = 1
            messages = (*messages, "the name of the node cannot change while the daemon runs")
        if loaded.exit_code:
            log.error("the new configuration is refused, configuration %d goes on", self.number)
            _show("\n".join(messages))
            self._tell_config(False, messages, self._reload_reason(loaded))
            return Reloaded(ok=False, number=self.number, messages=messages, exit_code=loaded.exit_code, changed=0)
        _show(loaded.diagnostics)
        self.number += 1
        self.settings, self.source = loaded.settings, loaded.source
        self._reschedule(loaded.process)
        changed = await self._put_in_force(placement.plan(loaded.slices, self.settings))
        messages += await self._wait_applied()
        self._tell_config(True, messages, self._reload_reason(loaded))
        log.info("configuration %d is in force, %d part(s) changed", self.number, changed)
        return Reloaded(ok=True, number=self.number, messages=messages, exit_code=0, changed=changed)

    def _reload_reason(self, loaded: LoadedConfig) -> Reason:
        evidence: dict[str, int | float | str | bool | None] = {"exit_code": loaded.exit_code, "number": self.number}
        return Reason(kind=ReasonKind.RELOAD, node=self.bus.node, subject="config/current", evidence=evidence)

    async def _put_in_force(self, plans: dict[str, CellPlan]) -> int:
        self._house = _rooms_of(plans)
        for plan in plans.values():
            self._import_rooms(plan.rooms, plan.slices)
        changed = 0
        leaving = [child for name, child in self.children.items() if name not in plans]
        for plan in plans.values():
            child = self.children.get(plan.name)
            if child is None:
                self._add(plan, self.loop.time())
                child = self.children[plan.name]
                changed += await self._slices.tell_by_and_by(plan, self.number, self.settings)
                self._tell_state(child, self._started_by_reload(child))
            else:
                child.problem = ""
                child.plan = plan
                changed += await self._slices.tell_by_and_by(plan, self.number, self.settings)
        if leaving:
            await self._end_cells(leaving, self.loop.time() + STOP_S, removed=True)
            for child in leaving:
                del self.children[child.name]
                changed += self._slices.forget(child.name)
                self.bus.forget(f"cell/{child.name}", "state")
        return changed

    def _reschedule(self, options: ProcessOptions) -> None:
        """The scheduling keywords of a new configuration, for this process and the cells that run."""
        self.process = options
        self._place.put(scheduling.CellScheduling(own=scheduling.of_supervisor(options)))
        for child in self.children.values():
            if child.alive and not child.stopping:
                child.tell(Orders("schedule", data=encode(scheduling.of_cell(child.plan.rooms, options))))

    def _started_by_reload(self, child: Child) -> Reason:
        return Reason(kind=ReasonKind.RELOAD, node=self.bus.node, subject=f"cell/{child.name}")

    def _serve(self, command: Command, caller: Caller) -> Reply | asyncio.Task[Reply]:
        match command:
            case Reload():
                return self._spawn(self._reload_reply())
            case RestartCell(cell=name):
                child = self.children.get(name)
                if child is None or not child.alive:
                    return Failed(code="no-such-cell", message=f"no cell {name} runs here")
                pid = child.pid
                child.kill()
                return CellRestarted(cell=name, pid=pid)
            case Restart():
                return self._spawn(self._restart())
            case RestartProgress():
                return RestartProgressed(epoch=self.bus.epoch, waiting=tuple(sorted(self._handing)))
        return Failed(code="unknown-command", message=f"the supervisor does not know {type(command).__name__}")

    async def _reload_reply(self) -> Reply:
        return await self.reload()

    # --- signals and the end -----------------------------------------------------------------------------------

    def _dump(self) -> None:
        self._spawn(self._collect("dump", self.options.data_file))

    def _statistics(self) -> None:
        self._spawn(self._collect("statistics", self.options.statistics_file))

    async def _collect(self, op: str, target: Path) -> None:
        head = f"------< holdfast {op} {time.ctime()} >------\n {self._summary()}\n"
        try:
            await self._dumps.collect(op, head, self.children.values(), target)
        except OSError as error:
            log.error("%s: %s", target, error)

    def _spawn(self, work: object) -> asyncio.Task[Reply]:
        task: asyncio.Task[Reply] = self.loop.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _stop(self) -> None:
        """Every cell ends in its own way within 2 s, whoever carries the others' last words after the others."""
        self._systemd.stopping()
        log.info("stopping")
        until = self.loop.time() + STOP_S
        waves = waves_of(list(self.children.values()))
        for index, wave in enumerate(waves):
            # A later wave keeps at least a fifth of a second of the two.
            await self._end_cells(wave, until - 0.2 * (len(waves) - 1 - index), grace_ms=LAST_WORDS_MS if index else 0)
        for task in list(self._tasks):
            task.cancel()
        self.bus.close(linger_ms=100)
        self._run_dir.release()


def _rooms_of(plans: Mapping[str, CellPlan]) -> frozenset[str]:
    return frozenset(room for plan in plans.values() for room in plan.rooms)


def _urgency(plan: CellPlan) -> int:
    """In which order cells are forked: those of the fail-over path, the director, then the others."""
    return 0 if "vrrp" in plan.rooms else 1 if not FIRST_ROOMS.isdisjoint(plan.rooms) else 2


def _show(diagnostics: str) -> None:
    for line in diagnostics.splitlines():
        log.warning("%s", line)


def _nothing() -> None:
    """What SIGINT does when it is to be ignored."""
