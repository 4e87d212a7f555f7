"""Where the watch room of a cell begins. What it tells: `messages.py`; what it does: `room.py`."""

from __future__ import annotations

from holdfast.actors.runtime.context import CellContext
from holdfast.actors.runtime.linux import kernel_of
from holdfast.actors.runtime.programs import programs_of
from holdfast.actors.watch.room import Room, Sources
from holdfast.kernel.inotify import Inotify
from holdfast.kernel.procevents import ProcessEvents

__all__ = ["start"]


def start(ctx: CellContext) -> None:
    """Starts the room on a cell's context. Raises KernelError when the kernel denies what it needs."""
    programs = programs_of(ctx)
    files, processes = Inotify(ctx.loop), ProcessEvents(ctx.loop)
    ctx.on_stop(files.close)
    ctx.on_stop(processes.close)
    Room(ctx, Sources(kernel_of(ctx), programs, files, processes))
