"""Where the notify room of a cell begins. What it tells of itself: `messages.py`; what it does: `room.py`."""

from __future__ import annotations

from holdfast.actors.notify.room import Room
from holdfast.actors.runtime.context import CellContext
from holdfast.actors.runtime.programs import programs_of

__all__ = ["start"]


def start(ctx: CellContext) -> None:
    """Starts the room on a cell's context."""
    Room(ctx, programs_of(ctx))
