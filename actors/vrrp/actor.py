"""The door of the VRRP room: what a cell calls. One instance's shell is `instance.py`, that of all is `room.py`."""

from __future__ import annotations

from holdfast.actors.runtime.context import CellContext
from holdfast.actors.vrrp.room import Room


def start(ctx: CellContext) -> None:
    """Begins the VRRP room of a cell."""
    Room(ctx)
