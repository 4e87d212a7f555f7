"""What the supervisor tells the cells of their configuration: each slice a retained event, then the whole of it.

The counterpart is `cell.py`, which puts a generation in force when all of its slices are there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator

from holdfast.actors.runtime.cell import SETTINGS_ROOM, SETTINGS_SLICE
from holdfast.actors.runtime.messages import ConfigGeneration, ConfigSlice
from holdfast.actors.runtime.placement import CellPlan, digest
from holdfast.bus.base import Bus
from holdfast.bus.codec import encode
from holdfast.config.settings import Settings

PAUSE_BYTES = 1 << 20
"""Of configuration that is looked at between two turns of the loop: some milliseconds."""


class SliceTeller:
    """Knows what each cell was told, so that only what differs is told again."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._told: dict[str, dict[tuple[str, str], str]] = {}

    def tell(self, plan: CellPlan, number: int, settings: Settings) -> int:
        """Publishes what is new or different for one cell, then what it all amounts to. Returns how many changed."""
        steps = self._telling(plan, number, settings)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return int(end.value)

    async def tell_by_and_by(self, plan: CellPlan, number: int, settings: Settings) -> int:
        """The same with turns of the loop in between: a cell may have tens of megabytes of configuration."""
        steps = self._telling(plan, number, settings)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return int(end.value)
            await asyncio.sleep(0)

    def _telling(self, plan: CellPlan, number: int, settings: Settings) -> Generator[None, None, int]:
        before = self._told.get(plan.name, {})
        now: dict[tuple[str, str], str] = {}
        rooms: dict[str, dict[str, str]] = {room: {} for room in plan.rooms}
        rooms[SETTINGS_ROOM] = {}
        changed = 0
        own = {**plan.slices, SETTINGS_ROOM: {SETTINGS_SLICE: encode(settings)}}
        size = 0
        for room, slices in own.items():
            for name, data in slices.items():
                size += 1000 + len(data)
                if size > PAUSE_BYTES:
                    size = 0
                    yield
                mark = digest(data)
                now[room, name] = rooms[room][name] = mark
                if before.get((room, name)) != mark:
                    changed += 1
                    part = ConfigSlice(cell=plan.name, room=room, name=name, number=number, data=data)
                    self._bus.publish(_subject(plan.name, room, name), "data", part)
        for room, name in set(before) - set(now):
            changed += 1
            self._bus.forget(_subject(plan.name, room, name), "data")
        self._told[plan.name] = now
        whole = ConfigGeneration(cell=plan.name, number=number, rooms=rooms)
        self._bus.publish(f"slice/{plan.name}", "generation", whole)
        return changed

    def forget(self, cell: str) -> int:
        """The cell is no more. Returns how many slices it had."""
        told = self._told.pop(cell, {})
        for room, name in told:
            self._bus.forget(_subject(cell, room, name), "data")
        self._bus.forget(f"slice/{cell}", "generation")
        return len(told)


def _subject(cell: str, room: str, name: str) -> str:
    return f"slice/{cell},{room},{name}"
