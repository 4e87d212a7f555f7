"""The journal: every event of the node, and of the other nodes as far as the gateway brings them, in a file (file.py).

Events are gathered for a moment and written in one transaction by a thread of its own, so that a slow disk delays
nothing in this cell. When the file cannot be written (a full disk) the journal stops with an alarm, tries again now
and then, and counts what it could not keep; nothing else hears of it.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from holdfast.actors.journal.catchup import Catchup
from holdfast.actors.journal.file import POINTER, Journal, JournalWriter, Row, journal_path, open_writer
from holdfast.actors.journal.messages import JournalPage, JournalState, ReadJournal
from holdfast.actors.runtime.actor import LoopActor
from holdfast.actors.runtime.cell import CellContext
from holdfast.actors.runtime.rights import Belongings
from holdfast.bus.base import Caller
from holdfast.bus.envelope import Envelope, pack
from holdfast.bus.messages import Command, Failed, Reply
from holdfast.config.settings import Settings

log = logging.getLogger(__name__)

FLUSH_S = 0.2
BATCH_EVENTS_MAX = 1000
WAITING_EVENTS_MAX = 20_000
"""Events that wait for the disk; what comes on top is lost and counted."""
PAGE_EVENTS_MAX = 1000
PRUNE_EVERY_S = 60.0
RETRY_S = 30.0
NOT_KEPT = ("slice/",)
"""Slices of the configuration hold passwords, and are in the configuration file anyway."""


def start(ctx: CellContext) -> None:
    """Begins to keep the events of this node."""
    JournalActor.start(ctx)


def belongings(settings: Settings, run_dir: Path) -> Belongings:
    """What the journal writes."""
    path = journal_path(settings.journal, run_dir)
    beside = tuple(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    return Belongings(folders=(path.parent,), files=(path, run_dir / POINTER), given=beside)


class JournalActor(LoopActor):
    """The one writer of the journal. It fails alone: an error here ends neither its cell nor anybody's event."""

    critical = False

    def __init__(self, ctx: CellContext, *, flush_s: float = FLUSH_S, retry_s: float = RETRY_S) -> None:
        super().__init__()
        self.ctx = ctx
        self.path = journal_path(ctx.settings.journal, ctx.run_dir)
        self.lost = 0
        self._flush_s = flush_s
        self._retry_s = retry_s
        self._waiting: list[Row] = []
        self._writer: JournalWriter | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._busy: asyncio.Task[None] | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        self._error = ""
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    def on_start(self) -> None:
        """Follows every topic; the first batch opens the file."""
        ctx = self.ctx
        try:
            (ctx.run_dir / POINTER).write_text(f"{self.path}\n", encoding="utf-8")
        except OSError as error:
            log.error("%s: %s", ctx.run_dir / POINTER, error)
        self._subscription = ctx.bus.subscribe("", self._event, node="*")
        self._catchup = Catchup(ctx.loop, ctx.bus, self._late)
        self._returns = ctx.bus.subscribe("node/", self._peer)
        ctx.bus.serve("journal", self._serve)
        ctx.on_stop(self._close)
        ctx.on_statistics(lambda: f"journal: {self.path}, {self.lost} events lost\n")
        self._prune_timer = ctx.loop.call_later(PRUNE_EVERY_S, self._prune_later)
        self._spawn(self._flush())

    def _event(self, envelope: Envelope) -> None:
        rest = envelope.topic.partition("/")[2]
        if rest.startswith(NOT_KEPT) or not envelope.count:
            return
        if envelope.id.node != self.ctx.node:
            self._catchup.heard(envelope)
        if len(self._waiting) >= WAITING_EVENTS_MAX:
            self.lost += 1
            return
        self._wait(Row(envelope.topic, envelope.id, envelope.wall_ns, pack(envelope)))

    def _wait(self, row: Row) -> None:
        self._waiting.append(row)
        if self._flush_timer is None and self._busy is None:
            self._flush_timer = self.ctx.loop.call_later(self._flush_s, self._flush_now)

    # --- what was missed of other nodes --------------------------------------------------------------------------

    def _peer(self, envelope: Envelope) -> None:
        work = self._catchup.peer(envelope)
        if work is not None:
            task = self.ctx.loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _late(self, rows: list[Row]) -> None:
        """Events of another node that were missed when they happened; those that are there already stay."""
        for row in rows[: max(0, WAITING_EVENTS_MAX - len(self._waiting))]:
            self._wait(row)

    def _read(self, what: Callable[[Journal], Any]) -> Any:
        """Called in the journal's thread; None when there is nothing to read."""
        try:
            with Journal(self.path) as journal:
                return what(journal)
        except (OSError, sqlite3.Error) as error:
            log.debug("reading %s: %s", self.path, error)
            return None

    def _serve(self, command: Command, caller: Caller) -> Reply | Awaitable[Reply]:
        if isinstance(command, ReadJournal):
            return self._page(command)
        return Failed(code="unknown-command", message=f"the journal does not know {type(command).__name__}")

    async def _page(self, command: ReadJournal) -> Reply:
        limit = max(1, min(command.limit, PAGE_EVENTS_MAX))
        found = await self._in_thread(
            self._read, lambda journal: journal.page(command.node, command.since_wall_ns, command.after, limit)
        )
        if found is None:
            return Failed(code="no-journal", message=self._error or "there is no journal to read yet")
        return JournalPage(events=tuple(found[0]), next=found[1])

    # --- writing -------------------------------------------------------------------------------------------------

    def _flush_now(self) -> None:
        self._flush_timer = None
        self._spawn(self._flush())

    def _spawn(self, work: Any) -> None:
        if self._busy is None and not self._closed:
            self._busy = self.ctx.loop.create_task(work)
            self._busy.add_done_callback(self._done)
        else:
            work.close()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._busy = None
        if not task.cancelled() and task.exception() is not None:
            log.error("the journal failed", exc_info=task.exception())
        if self._waiting and not self._closed and self._flush_timer is None:
            wait_s = self._retry_s if self._error else self._flush_s
            self._flush_timer = self.ctx.loop.call_later(wait_s, self._flush_now)

    async def _in_thread(self, call: Any, *arguments: Any) -> Any:
        return await self.ctx.loop.run_in_executor(self._thread, call, *arguments)

    async def _flush(self) -> None:
        """Writes what waits, and says so when whether it can be written has changed."""
        try:
            opened, remark = self._writer is None, ""
            if self._writer is None:
                self._writer, remark = await self._in_thread(open_writer, self.path)
                if remark:
                    log.error("%s", remark)
                self._catchup.opened(await self._in_thread(self._writer.newest))
            while self._waiting:
                batch = self._waiting[:BATCH_EVENTS_MAX]
                await self._in_thread(self._writer.append, batch)
                del self._waiting[: len(batch)]
            if self._error:
                self._error = ""
                log.info("the journal %s is written again, %d events were lost", self.path, self.lost)
            if opened:
                await self._say(True, remark)
        except (sqlite3.Error, OSError) as error:
            await self._failed(error)

    async def _failed(self, error: Exception) -> None:
        first = not self._error
        self._error = str(error)
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                await self._in_thread(writer.close)
            except sqlite3.Error as second:
                log.debug("closing %s: %s", self.path, second)
        if first:
            log.error("the journal %s stops: %s", self.path, error)
            event = JournalState(writing=False, path=str(self.path), error=self._error, lost=self.lost)
            self.ctx.bus.publish("journal/current", "state", event)

    async def _say(self, writing: bool, remark: str) -> None:
        assert self._writer is not None
        figures = await self._in_thread(self._writer.figures)
        event = JournalState(
            writing=writing,
            path=str(self.path),
            error=remark,
            lost=self.lost,
            events=figures.events,
            size_bytes=figures.size_bytes,
            first_wall_ns=figures.first_wall_ns,
        )
        self.ctx.bus.publish("journal/current", "state", event)

    def _prune_later(self) -> None:
        self._prune_timer = self.ctx.loop.call_later(PRUNE_EVERY_S, self._prune_later)
        self._spawn(self._prune())

    async def _prune(self) -> None:
        if self._writer is None:
            return
        try:
            # The settings are asked for each time: a reload may have changed the limits.
            removed = await self._in_thread(self._writer.prune, self.ctx.settings.journal)
            if removed:
                await self._say(True, "")
        except (sqlite3.Error, OSError) as error:
            await self._failed(error)

    async def _close(self) -> None:
        """Writes the rest; the last words of the other cells are in it."""
        self._subscription.close()
        self._returns.close()
        for task in self._tasks:
            task.cancel()
        for timer in (self._flush_timer, self._prune_timer):
            if timer is not None:
                timer.cancel()
        if self._busy is not None:
            await asyncio.wait([self._busy])
        self._closed = True
        if self._waiting and not self._error:
            await self._flush()
        if self._writer is not None:
            await self._in_thread(self._writer.close)
        self._thread.shutdown(wait=False)
