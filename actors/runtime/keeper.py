"""The lives of the cells: forked, heard, replaced when they die or hang, ended. `supervisor.py` stands on it.

Nothing here reads a configuration or knows what cells are for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time

import msgspec

from holdfast.actors.runtime import handover, process, scheduling, surroundings
from holdfast.actors.runtime.cell import CellStart
from holdfast.actors.runtime.children import Backoff, Child
from holdfast.actors.runtime.dumps import Dumps
from holdfast.actors.runtime.messages import CellStateChanged, CellStatus, Orders
from holdfast.actors.runtime.options import Options
from holdfast.actors.runtime.placement import CellPlan
from holdfast.actors.runtime.reaping import bury, exit_code_of
from holdfast.actors.runtime.systemd import Systemd
from holdfast.bus.cellbus import CellBus
from holdfast.bus.messages import EventId, Reason, ReasonKind
from holdfast.config.settings import Settings
from holdfast.config.values import ProcessOptions

log = logging.getLogger("holdfast.actors.runtime.supervisor")

FIRST_ROOMS = frozenset({"watch", "vrrp", "bfd", "ipvs"})
"""Their cells are forked first, each as soon as its own rooms are imported: addresses and services wait for them."""
OVERLAPPING_ROOMS = frozenset({"watch", "vrrp"})
"""A cell with no other rooms may begin while the one before it ends: no socket of theirs excludes another."""
APPLY_S = 10.0
FRESH_START_CRASHES = 5
"""A cell that failed by itself so often in a row begins from nothing: perhaps it dies of the restored state."""


class Keeper:
    """Everything happens on the supervisor's loop."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.children: dict[str, Child] = {}
        self.number = 0
        self.settings = Settings()
        self.process = ProcessOptions()
        self._run_dir = process.RunDirectory(options.run_dir)
        self._systemd = Systemd()
        self._dumps = Dumps(options.run_dir)
        self._hurry = surroundings.Hurry()
        self._place = scheduling.ProcessPlace("supervisor")
        self._applied = asyncio.Event()
        self._ready_said = False
        self._house: frozenset[str] = frozenset()
        self._looked_at = 0.0
        self._parting: set[int] = set()
        """Processes that have left their cell to a successor and are not quite gone."""
        self.loop: asyncio.AbstractEventLoop
        self.bus: CellBus

    # --- beginnings --------------------------------------------------------------------------------------------

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
        return child

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
            case "left":
                # It does nothing any more, but the kernel may need a tenth of a second for its end.
                if child.handing_over and OVERLAPPING_ROOMS.issuperset(child.plan.rooms):
                    self._parting.add(child.pid)
                    self._died(child, 0)

    def _say_ready(self) -> None:
        if not self._ready_said and all(child.status is CellStatus.RUNNING for child in self.children.values()):
            self._ready_said = True
            self._systemd.ready(self._summary())

    def _summary(self) -> str:
        running = sum(child.status is CellStatus.RUNNING for child in self.children.values())
        return f"{running} of {len(self.children)} cells run, configuration {self.number}"

    def _reap(self) -> None:
        for pid in list(self._parting):
            if exit_code_of(pid) is not None:
                self._parting.discard(pid)
                bury(pid)
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

    # --- ends --------------------------------------------------------------------------------------------------

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


def _signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
