"""Readings of the kernel's connection table, and what has to be known beside it to make sync messages of its lines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from holdfast.actors.connsync.syncproto import RawEntry, raw_entry
from holdfast.actors.connsync.table import Line, Scope, Services, Snapshot, parse, snapshot_of
from holdfast.kernel.connsync import read_table
from holdfast.kernel.ipvs import Ipvs
from holdfast.kernel.ipvs_types import IpvsTable

TURN_ENTRIES = 2000
"""Entries that are made before the loop has its next turn: some 20 ms."""

SERVES_FOR = 4.0

_Result = TypeVar("_Result")


class TableReader:
    """One reading at a time, in a thread of its own. spent_s: how long the last one took."""

    def __init__(
        self, pieces: Callable[[], Iterator[bytes]] = read_table, open_table: Callable[[], IpvsTable] = Ipvs
    ) -> None:
        self.spent_s = 0.0
        self._pieces = pieces
        self._open_table = open_table
        self._table: IpvsTable | None = None
        self._own: tuple[Scope, Snapshot, float] | None = None
        self._own_lock = asyncio.Lock()
        self._services = Services()
        self._services_at: float | None = None
        self._services_lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="connsync")

    def lines(self) -> Iterator[Line]:
        """The connections; for use in the thread."""
        for piece in self._pieces():
            yield from parse(piece)

    async def read(self, make: Callable[[], _Result]) -> _Result:
        """What `make` returns, called in the thread: a large table takes a second and more."""

        def timed() -> _Result:
            started = time.monotonic()
            result = make()
            self.spent_s = time.monotonic() - started
            return result

        return await asyncio.get_running_loop().run_in_executor(self._thread, timed)

    async def own(self, scope: Scope, *, fresh: bool = False) -> Snapshot:
        """Our connections. Not fresh: a reading may serve for as long as four more would take, because a question about
        what was there a moment ago is as good: what has changed since is on its way.
        """
        async with self._own_lock:
            cached = self._own
            serves_s = 0.0 if fresh else SERVES_FOR * self.spent_s
            if cached is not None and cached[0] == scope and time.monotonic() - cached[2] < serves_s:
                return cached[1]
            snapshot = await self.read(lambda: snapshot_of(self.lines(), scope))
            self._own = (scope, snapshot, time.monotonic())
            return snapshot

    async def refresh_services(self, at_least_s: float = 0.0) -> None:
        """Reads the virtual servers and timeouts again, unless that was done less than `at_least_s` ago."""
        async with self._services_lock:
            now = time.monotonic()
            if self._services_at is not None and now - self._services_at < at_least_s:
                return
            if self._table is None:
                self._table = self._open_table()
            found = []
            for record in await self._table.services():
                found.append((record, await self._table.destinations(record.spec.key)))
            self._services = Services(found, self._table.timeouts())
            self._services_at = now

    def entry(self, line: Line) -> RawEntry | None:
        """The connection as an entry of a sync message."""
        raw = self._services.raw(line)
        return None if raw is None else raw_entry(raw)

    def close(self) -> None:
        """Ends the thread, after what it is reading."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._table is not None:
            self._table.close()
