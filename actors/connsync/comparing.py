"""Comparing our table with a peer's: the question, the answer, and what follows from it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from holdfast.actors.connsync.messages import CompareTables, TablesCompared
from holdfast.actors.connsync.reader import TURN_ENTRIES, TableReader
from holdfast.actors.connsync.table import Line, Scope, Snapshot, difference, snapshot_for


async def question(reader: TableReader, scope: Scope, epoch: int) -> tuple[Snapshot, CompareTables]:
    """Our connections, and the command that asks a peer about them. Raises KernelError."""
    snapshot = await reader.own(scope)
    shared = {line.virtual for line in snapshot.lines.values()} - scope.owned
    command = CompareTables(
        epoch=epoch,
        owned=tuple(sorted(word.decode("ascii") for word in scope.owned)),
        shared=tuple(sorted(word.decode("ascii") for word in shared)),
        digest=snapshot.digest.packed(),
    )
    return snapshot, command


async def answer(reader: TableReader, command: CompareTables, epoch: int) -> TablesCompared:
    """What differs here. Raises KernelError, ValueError."""
    owned = frozenset(word.encode("ascii", "replace") for word in command.owned)
    shared = frozenset(word.encode("ascii", "replace") for word in command.shared)
    if owned or shared:
        snapshot = await reader.read(lambda: snapshot_for(reader.lines(), owned, shared))
    else:
        # Somebody who has nothing to announce: no reason to read a table that may be large.
        snapshot = Snapshot()
    buckets = snapshot.digest.differs(command.digest)
    return TablesCompared(
        epoch=epoch,
        connections=len(snapshot),
        buckets=tuple(sorted(buckets)),
        numbers=snapshot.numbers_in(buckets),
    )


async def lacking(
    reader: TableReader, snapshot: Snapshot, reply: TablesCompared
) -> tuple[dict[bytes, bytes], dict[bytes, bytes], int]:
    """Key -> entry of what the peer lacks, the same of our connections that are closing and are not compared, and how
    many the peer has beyond ours. Raises KernelError, ValueError.
    """
    found = difference(snapshot, reply.buckets, reply.numbers)
    await reader.refresh_services()
    return await _entries(reader, found.lacking), await _entries(reader, snapshot.others), found.extra


async def _entries(reader: TableReader, lines: Iterable[Line]) -> dict[bytes, bytes]:
    entries = {}
    for position, line in enumerate(lines):
        entry = reader.entry(line)
        if entry is not None:
            entries[entry.key] = entry.raw
        if position % TURN_ENTRIES == TURN_ENTRIES - 1:
            await asyncio.sleep(0)
    return entries
