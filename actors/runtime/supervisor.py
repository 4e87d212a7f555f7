"""The core of `holdfast run`: reads the configuration, forks the cells, puts back those that die or hang.

The supervisor's process does nothing that can take long or fail for what is in a file: the configuration is read in a
forked process (loading.py), the work is done in the cells (cell.py). What it knows it tells on its own bus, as the
cell `supervisor`: each cell's state, each cell's configuration, what became of the last reload.
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
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from holdfast.actors.runtime import handover, placement, process, scheduling, surroundings
from holdfast.actors.runtime.catalogue import prepare, warm
from holdfast.actors.runtime.cell import CellStart, Start, start_of
from holdfast.actors.runtime.children import Backoff, Child, waves_of
from holdfast.actors.runtime.dumps import Dumps
from holdfast.actors.runtime.loading import LoadedConfig, Loader, load_apart
from holdfast.actors.runtime.messages import (
    CellRestarted,
    CellStateChanged,
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
from holdfast.actors.runtime.placement import CellPlan
from holdfast.actors.runtime.reaping import bury, exit_code_of
from holdfast.actors.runtime.slices import SliceTeller
from holdfast.actors.runtime.systemd import Systemd
from holdfast.bus.base import Caller
from holdfast.bus.cellbus import CellBus
from holdfast.bus.codec import encode
from holdfast.bus.messages import Command, EventId, Failed, Reason, ReasonKind, Reply
from holdfast.bus.store import boot_id
from holdfast.config.settings import Settings
from holdfast.config.values import ProcessOptions

log = logging.getLogger(__name__)

STOP_S = 2.0
USUAL_ROOMS = frozenset({"watch", "vrrp", "notify"})
FIRST_ROOMS = frozenset({"watch", "vrrp", "bfd", "ipvs"})
"""Their cells are forked first, each as soon as its own rooms are imported: addresses and services wait for them."""
EXIT_MISTAKES = 5
"""keepalived's code for a configuration with mistakes in it: a reload does not take it."""
LAST_WORDS_MS = 50
APPLY_S = 10.0
HAND_OVER_S = 2.5
FRESH_START_CRASHES = 5
"""A cell that failed by itself so often in a row begins from nothing: perhaps it dies of the restored state."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a daemon is run. starters: room -> start function, for tests; rooms without one are imported.

    own_run_dir: False: nobody chose run_dir, so the `instance` and `net_namespace` keywords add to it.
    command: how to start it again for `holdfast restart`; None: it cannot be.
    likely_rooms: a guess at the rooms that the configuration asks for; they are imported while it is read.
    pid_file: None writes none. data_file, statistics_file: where USR1 and USR2 put their dumps.
    """

    run_dir: Path
    load: Loader
    own_run_dir: bool = True
    pid_file: Path | None = None
    data_file: Path = Path("/tmp/keepalived.data")
    statistics_file: Path = Path("/tmp/keepalived.stats")
    starters: Mapping[str, Start] = msgspec.field(default_factory=dict)
    command: handover.Command | None = None
    ignore_sigint: bool = False
    likely_rooms: Callable[[], frozenset[str]] | None = None


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


class Supervisor:
    """One daemon. Everything happens on its loop."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.children: dict[str, Child] = {}
        self.number = 0
        self.settings = Settings()
        self.source = ""
        self._run_dir = process.RunDirectory(options.run_dir)
        self._pid_file = process.PidFile(options.pid_file) if options.pid_file is not None else None
        self._systemd = Systemd()
        self._stop_asked = asyncio.Event()
        self._reload_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[object]] = set()
        self._slices: SliceTeller
        self._applied = asyncio.Event()
        self._ready_said = False
        self._hurry = surroundings.Hurry()
        self._left = handover.left()
        self._handing_over: asyncio.Task[Reply] | None = None
        self._handing: set[str] = set()
        """Cells that still run the version before this one."""
        self._dumps = Dumps(options.run_dir)
        self._house: frozenset[str] = frozenset()
        self._warm: set[str] = set()
        """Rooms that are imported and ready."""
        self._looked_at = 0.0
        self.process = ProcessOptions()
        self._place = scheduling.ProcessPlace("supervisor")
        self.loop: asyncio.AbstractEventLoop
        self.bus: CellBus

    async def run(self) -> int:
        """From the first reading of the configuration to the exit code."""
        self.loop = asyncio.get_running_loop()
        likely = USUAL_ROOMS if self.options.likely_rooms is None else self.options.likely_rooms()
        if len(os.sched_getaffinity(0)) == 1:
            # Nothing can be had at once here, and what both write after a fork is copied: one after the other.
            self._import_rooms(sorted(likely, key=placement.start_order), {})
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
        gc.collect()
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

    def _add(self, plan: CellPlan, wanted_at: float) -> None:
        cells = self.settings.cells
        child = Child(plan, Backoff(cells.backoff_first_s, cells.backoff_last_s, cells.stable_after_s))
        child.wanted_at = wanted_at
        self.children[plan.name] = child
        self._fork(child)

    def _adopt(self, plan: CellPlan, cell: handover.Adopted) -> Child:
        cells = self.settings.cells
        child = Child(plan, Backoff(cells.backoff_first_s, cells.backoff_last_s, cells.stable_after_s))
        self.children[plan.name] = child
        child.restarts = cell.restarts
        child.applied = self.number
        child.adopt(cell.pid, cell.fd, self.loop, self._heard)
        self._handing.add(plan.name)
        return child

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

    def _fork(self, child: Child) -> None:
        child.restart_timer = None
        start = CellStart(
            node=self.settings.node,
            run_dir=self.options.run_dir,
            plan=child.plan,
            number=self.number,
            settings=self.settings,
            starters=dict(self.options.starters),
            beat_s=self.settings.cells.hung_after_s / 5,
            restore=child.crashes < FRESH_START_CRASHES,
            lock_fd=self._run_dir.lock_fd,
            died_at_ns=child.died_at_ns,
            scheduling=scheduling.of_cell(child.plan.rooms, self.process),
            inherited=msgspec.structs.replace(self._place.wanted.own, realtime_priority=None, lock_memory=False),
            hurried=self._hurry.on or child.died_at_ns is not None,
            house=self._house,
            first=not FIRST_ROOMS.isdisjoint(child.plan.rooms),
        )
        child.fork(start, self.loop, self._heard)

    def _heard(self, child: Child, order: Orders) -> None:
        match order.op:
            case "ready":
                child.status = CellStatus.RUNNING
                child.applied = order.number
                start_ms = (self.loop.time() - child.wanted_at) * 1000
                kind = ReasonKind.RESTARTED if child.restarts else ReasonKind.STARTED
                reason = Reason(
                    kind=kind,
                    node=self.bus.node,
                    subject=f"cell/{child.name}",
                    evidence={"start_s": round(start_ms / 1000, 6), "restarts": child.restarts},
                )
                self._tell_state(child, reason, start_ms=start_ms)
                log.info(
                    "cell %s runs as pid %d after %.1f ms (%.1f ms of processor time)",
                    child.name,
                    child.pid,
                    start_ms,
                    order.cpu_ms,
                )
                self._applied.set()
                self._say_ready()
            case "applied":
                child.applied = max(child.applied, order.number)
                child.problem = order.text
                self._applied.set()
            case "done":
                self._dumps.done(order.path)

    def _say_ready(self) -> None:
        if not self._ready_said and all(child.status is CellStatus.RUNNING for child in self.children.values()):
            self._ready_said = True
            self._systemd.ready(self._summary())

    def _summary(self) -> str:
        running = sum(child.status is CellStatus.RUNNING for child in self.children.values())
        return f"{running} of {len(self.children)} cells run, configuration {self.number}"

    def _reap(self) -> None:
        for child in list(self.children.values()):
            if not child.alive:
                continue
            pid, exit_code = child.pid, exit_code_of(child.pid)
            if exit_code is not None:
                # The successor first: the burial may take a moment.
                self._died(child, exit_code)
                bury(pid)

    def _died(self, child: Child, exit_code: int) -> None:
        now = self.loop.time()
        pid, lived_s, hung = child.pid, now - child.started_at, child.hung
        child.reaped(self.loop)
        self._run_dir.remove_sockets(child.name)
        number = -exit_code if exit_code < 0 else None
        if child.stopping:
            child.status = CellStatus.STOPPED
            reason = Reason(kind=ReasonKind.STOPPED, node=self.bus.node, subject=f"cell/{child.name}")
            self._tell_state(child, reason, exit_code=exit_code if number is None else None, number=number, pid=pid)
            self._run_dir.forget_state(child.name)
            return
        child.status = CellStatus.DEAD
        child.died_at_ns = time.monotonic_ns()
        if child.handing_over:
            child.handing_over = False
            child.wanted_at = now
            self._fork(child)
            return
        delay_s = child.backoff.died(lived_s)
        by_itself = number not in (signal.SIGKILL, signal.SIGTERM)
        child.crashes = child.crashes + 1 if by_itself and child.backoff.failures > 1 else int(by_itself)
        if not delay_s:
            # The successor first, the news after it: it is what shortens the outage.
            child.wanted_at = now
            child.restarts += 1
            self._fork(child)
        evidence: dict[str, int | float | str | bool | None] = {
            "pid": pid,
            "lived_s": round(lived_s, 3),
            "exit_code": exit_code if number is None else None,
            "signal": _signal_name(number),
        }
        kind = ReasonKind.STALLED if hung else ReasonKind.KILLED
        reason = Reason(kind=kind, node=self.bus.node, subject=f"cell/{child.name}", evidence=evidence)
        before, child.status = child.status, CellStatus.DEAD
        self._tell_state(child, reason, exit_code=exit_code if number is None else None, number=number, pid=pid)
        child.status = before
        how = _signal_name(number) or f"exit code {exit_code}"
        again = f"again in {delay_s:g} s" if delay_s else "put back at once"
        log.warning("cell %s (pid %d) ended after %.1f s: %s; %s", child.name, pid, lived_s, how, again)
        if delay_s:
            child.restart_timer = self.loop.call_later(delay_s, self._put_back, child)
        self._systemd.status(self._summary())

    def _put_back(self, child: Child) -> None:
        child.wanted_at = self.loop.time()
        child.restarts += 1
        self._fork(child)

    def _look_after_cells(self) -> None:
        """Kills the cells that have not been heard for too long."""
        limit_s = self.settings.cells.hung_after_s
        now = self.loop.time()
        late_s = now - self._looked_at - limit_s / 5
        self._looked_at = now
        self.loop.call_later(limit_s / 5, self._look_after_cells)
        for child in self.children.values():
            if not child.alive or child.stopping:
                continue
            if late_s > limit_s / 5:
                # It is this process that stood still: the signs of life are still in the sockets.
                child.heard_at += late_s
            elif now - child.heard_at > limit_s and not child.hung:
                child.hung = True
                log.error("cell %s (pid %d) has not answered for %.1f s: killed", child.name, child.pid, limit_s)
                child.kill()

    def _tell_state(
        self,
        child: Child,
        reason: Reason,
        *,
        exit_code: int | None = None,
        number: int | None = None,
        start_ms: float | None = None,
        pid: int | None = None,
    ) -> None:
        event = CellStateChanged(
            cell=child.name,
            status=child.status,
            rooms=child.plan.rooms,
            pid=child.pid if pid is None else pid,
            restarts=child.restarts,
            reason=reason,
            exit_code=exit_code,
            signal=number,
            start_ms=start_ms,
        )
        causes: tuple[EventId, ...] = () if child.last_event is None else (child.last_event,)
        child.last_event = self.bus.publish(f"cell/{child.name}", "state", event, causes=causes)

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

    async def _wait_applied(self) -> tuple[str, ...]:
        """Until every running cell has the new configuration. Returns what is to be said of those that have not."""
        until = self.loop.time() + APPLY_S
        while True:
            late = [each for each in self.children.values() if each.alive and each.applied < self.number]
            if not late:
                return tuple(f"cell {each.name}: {each.problem}" for each in self.children.values() if each.problem)
            left_s = until - self.loop.time()
            if left_s <= 0:
                return tuple(f"cell {each.name} has not taken the configuration yet" for each in late)
            self._applied.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._applied.wait(), min(left_s, 1.0))

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

    async def _end_cells(self, cells: list[Child], until: float, *, removed: bool = False, grace_ms: int = 0) -> None:
        """Tells the cells to end, and kills those that have not when the time is over."""
        for child in cells:
            child.stopping = True
            child.cancel_restart()
            if child.alive and not child.tell(Orders("stop", removed=removed, grace_ms=grace_ms)):
                child.kill()
        waiting = [child.exited for child in cells if child.alive and child.exited is not None]
        if waiting:
            await asyncio.wait(waiting, timeout=max(0.0, until - self.loop.time()))
        for child in cells:
            if child.alive:
                log.error("cell %s (pid %d) did not end in time: killed", child.name, child.pid)
                child.kill()
        waiting = [child.exited for child in cells if child.alive and child.exited is not None]
        if waiting:
            await asyncio.wait(waiting, timeout=1.0)


def _rooms_of(plans: Mapping[str, CellPlan]) -> frozenset[str]:
    return frozenset(room for plan in plans.values() for room in plan.rooms)


def _urgency(plan: CellPlan) -> int:
    """In which order cells are forked: those of the fail-over path, the director, then the others."""
    return 0 if "vrrp" in plan.rooms else 1 if not FIRST_ROOMS.isdisjoint(plan.rooms) else 2


def _signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _show(diagnostics: str) -> None:
    for line in diagnostics.splitlines():
        log.warning("%s", line)


def _nothing() -> None:
    """What SIGINT does when it is to be ignored."""
