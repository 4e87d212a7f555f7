"""What somebody else changed in the kernel's table, noticed and repaired. Only services that are ours are looked at."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

import pykka

from holdfast.actors.ipvs.messages import TableRepaired
from holdfast.actors.ipvs.plan import PAUSE_EVERY, Table, differences, wanted_table
from holdfast.actors.ipvs.service import ServiceMachine
from holdfast.actors.ipvs.service_actor import ServiceActor
from holdfast.actors.ipvs.views import Found
from holdfast.actors.ipvs.writer import Writer
from holdfast.actors.runtime.context import CellContext
from holdfast.kernel.base import KernelError
from holdfast.kernel.ipvs_types import IpvsTable, ServiceKey

log = logging.getLogger("holdfast.ipvs")

SHOWN = 20
"""Differences that are named; the others are counted."""

SHARE_OF_TIME = 0.02
"""Reading a large table takes its time: the pause between two readings grows with it."""


class Whole(Protocol):
    """The room as far as the reconciliation needs it."""

    ctx: CellContext
    writer: Writer
    table: IpvsTable | None
    machines: dict[str, ServiceMachine]
    actors: dict[str, pykka.ActorRef[ServiceActor]]


class _Nobody:
    """An owner who only logs: of what is done to services from outside their actors."""

    def refused(self, server: str, destination: object, error: KernelError) -> None:
        log.error("%s", error)

    def service_lost(self, key: ServiceKey) -> None:
        log.error("%s is gone again", key)


NOBODY = _Nobody()


async def read_services(table: IpvsTable, wanted: Callable[[ServiceKey], bool], *, statistics: bool = False) -> Found:
    """The services among `wanted` that the kernel has, with their destinations."""
    found: Found = {}
    for record in await table.services(statistics=statistics):
        if wanted(record.spec.key):
            found[record.spec.key] = (record, await table.destinations(record.spec.key, statistics=statistics))
    return found


class Reconciler:
    """Compares by and by. mode: repair, report or off."""

    def __init__(self, whole: Whole, mode: str, every_s: float) -> None:
        self._whole = whole
        self._mode = mode
        self._every_s = every_s
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._reported: tuple[str, ...] = ()

    def start(self) -> None:
        """From now on, every `every_s` seconds."""
        if self._mode != "off" and self._timer is None and self._task is None:
            self._plan(self._every_s)

    def stop(self) -> None:
        """Not any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()

    def _plan(self, pause_s: float) -> None:
        self._timer = self._whole.ctx.loop.call_later(pause_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._task = self._whole.ctx.loop.create_task(self._round())

    async def _round(self) -> None:
        started = time.monotonic()
        try:
            await self.compare()
        except KernelError as error:
            log.error("the table cannot be compared: %s", error)
        self._task = None
        spent_s = time.monotonic() - started
        self._plan(max(self._every_s, spent_s / SHARE_OF_TIME))

    async def compare(self) -> int:
        """One comparison. Returns how many differences there were; repairs or reports them."""
        whole = self._whole
        assert whole.table is not None
        if whole.writer.busy:
            return 0
        version = whole.writer.version
        owners = {key: name for name, machine in whole.machines.items() for key in machine.kernel_keys()}
        found = await read_services(whole.table, owners.__contains__)
        if whole.writer.busy or whole.writer.version != version:
            # It moved while we were reading, by our own hand: the next round says more.
            return 0
        actual: Table = {
            key: (record.spec, {each.spec.key: each.spec for each in records})
            for key, (record, records) in found.items()
        }
        different: list[str] = []
        touched: set[str] = set()
        for name, machine in list(whole.machines.items()):
            wanted = await self._wanted(machine)
            if machine.busy or whole.writer.busy or whole.writer.version != version or name not in whole.machines:
                return 0
            if any(wanted[key] != actual.get(key) for key in wanted) and (here := differences(wanted, actual)):
                touched.add(name)
                different.extend(here)
        if not different:
            self._reported = ()
            return 0
        repairs = self._mode == "repair"
        shown = tuple(different[:SHOWN])
        if repairs or shown != self._reported:
            self._reported = shown
            for line in shown:
                log.warning("in the kernel, %s%s", line, ": repaired" if repairs else "")
            event = TableRepaired(count=len(different), differences=shown, repaired=repairs)
            whole.ctx.bus.publish(f"director/{whole.ctx.cell}", "repair", event, retain=False)
        if repairs:
            for name in touched:
                self._repair(name, actual)
        return len(different)

    async def _wanted(self, machine: ServiceMachine) -> Table:
        """What the machine wants, with turns of the loop in between: a service may have ten thousand servers."""
        destinations = []
        for destination in machine.wanted_destinations():
            destinations.append(destination)
            if not len(destinations) % PAUSE_EVERY:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        return wanted_table(machine.specs(), destinations)

    def _repair(self, name: str, actual: Table) -> None:
        whole = self._whole
        machine = whole.machines[name]
        for key in machine.kernel_keys():
            there = actual.get(key)
            if there is None:
                whole.writer.book.observe(key, None)
            else:
                whole.writer.book.observe(key, there[0], there[1].values())
        whole.writer.settle(NOBODY, machine)
