"""Connections that a reading of the table finds before the kernel has told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from holdfast.actors.connsync.reader import TURN_ENTRIES, TableReader
from holdfast.actors.connsync.table import Scope


class TableNews:
    """Compares each reading with the one before. scope(): for what we speak at this moment.

    The kernel holds a message back until the next connection comes, or for two seconds: readings are faster.
    connections: ours at the last reading.
    """

    def __init__(self, reader: TableReader, scope: Callable[[], Scope]) -> None:
        self.connections = 0
        self._reader = reader
        self._scope = scope
        self._known: frozenset[int] | None = None
        self._told: set[bytes] = set()
        self._told_before: set[bytes] = set()

    def told(self, keys: Iterable[bytes]) -> None:
        """The kernel told of these itself."""
        self._told.update(keys)

    def forget(self) -> None:
        """The next reading is the first one: what it finds is not new."""
        self._known = None
        self._told.clear()

    async def read(self) -> dict[bytes, bytes]:
        """One reading; key -> entry of what is new in it."""
        scope = self._scope()
        earlier, self._told_before, self._told = self._told_before, self._told, set()
        # The first reading tells nothing new: the one that a comparison has just made will do.
        snapshot = await self._reader.own(scope, fresh=self._known is not None)
        self.connections = len(snapshot)
        before, now = self._known, frozenset(snapshot.lines)
        if scope != self._scope():
            return {}
        self._known = now
        new = () if before is None else now - before
        if not new:
            return {}
        await self._reader.refresh_services(at_least_s=10.0)
        found = {}
        for position, number in enumerate(new):
            entry = self._reader.entry(snapshot.lines[number])
            if entry is not None and not any(entry.key in each for each in (earlier, self._told_before, self._told)):
                found[entry.key] = entry.raw
            if position % TURN_ENTRIES == TURN_ENTRIES - 1:
                await asyncio.sleep(0)
        return found if scope == self._scope() else {}
