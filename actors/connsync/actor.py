"""Where a cell starts connection sync. What it does: `room.py`; what it tells and is told: `messages.py`."""

from __future__ import annotations

from holdfast.actors.connsync.room import ConnSyncActor
from holdfast.actors.runtime.context import CellContext


def start(ctx: CellContext) -> None:
    """Connections of this node are known to its peers from now on, and theirs here."""
    ConnSyncActor.start(ctx)
