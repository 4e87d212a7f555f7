"""Where the BFD room of a cell begins. What it tells: `messages.py`; what it does: `room.py` and `engine.py`."""

from __future__ import annotations

import random

from holdfast.actors.bfd.room import Room
from holdfast.actors.runtime.context import CellContext
from holdfast.actors.runtime.linux import kernel_of

__all__ = ["start"]


def start(ctx: CellContext) -> None:
    """Starts the room on a cell's context. Raises KernelError when the kernel denies what it needs."""
    Room(ctx, kernel_of(ctx).links, random.SystemRandom())
