"""Where a cell starts the director's room."""

from __future__ import annotations

from holdfast.actors.ipvs.room import Room
from holdfast.actors.runtime.context import CellContext


def start(ctx: CellContext) -> None:
    """The virtual servers of this node live in this cell from now on."""
    Room(ctx)
