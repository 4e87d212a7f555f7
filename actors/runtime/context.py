"""What a cell hands to each of its rooms: the types alone, so that a room's tests need no cell.

The counterpart is `cell.py`, which makes a CellContext for real; tests make one with `FakeBus` and fake timers.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from holdfast.bus.base import Bus
from holdfast.bus.envelope import Envelope
from holdfast.config.settings import Settings
from holdfast.kernel.instant import Instant

if TYPE_CHECKING:
    from holdfast.kernel.timers import DeadlineHeap

StopHook = Callable[[], Awaitable[None] | None]
TextHook = Callable[[], str]

log = logging.getLogger(__name__)


class Generation(msgspec.Struct, frozen=True):
    """The configuration of one room. slices: all that is in force now, msgpack of the room's own Structs.

    number: grows with each load of the configuration. changed: names that are new or different from what this room
    was given before. removed: names that are no longer there. initial: the first one this cell gets.
    """

    number: int
    slices: dict[str, bytes]
    changed: frozenset[str]
    removed: frozenset[str]
    initial: bool


Apply = Callable[[Generation], None]


class CellContext:
    """The cell as its rooms see it. Everything here is used from the cell's loop only."""

    def __init__(
        self,
        *,
        node: str,
        cell: str,
        run_dir: Path,
        bus: Bus,
        loop: asyncio.AbstractEventLoop,
        timers: DeadlineHeap,
        settings: Settings,
        restored: list[Envelope] | None = None,
    ) -> None:
        self.node = node
        self.cell = cell
        self.run_dir = run_dir
        self.bus = bus
        self.loop = loop
        self.timers = timers
        self.settings = settings
        self.restored: list[Envelope] = restored or []
        self.died_at: Instant | None = None
        """When the former life of this cell ended, on the monotonic clock, as its supervisor saw it; None: unknown."""
        self.house: frozenset[str] = frozenset()
        """The rooms that this daemon has in all of its cells, as its configuration was when this cell began."""
        self.first_work: list[asyncio.Future[None]] = []
        """What a room has begun in its start and others wait for: so long the cell stays ahead of the others."""
        self._stop_hooks: list[StopHook] = []
        self._hand_over_hooks: list[StopHook] = []
        self._dump_hooks: list[TextHook] = []
        self._statistics_hooks: list[TextHook] = []
        self._apply: dict[str, Apply] = {}
        self._current: dict[str, Generation] = {}

    def on_stop(self, hook: StopHook) -> None:
        """`hook` is called at a clean stop, the last registered first; all of them share 2 s."""
        self._stop_hooks.append(hook)

    def on_hand_over(self, hook: StopHook) -> None:
        """`hook` may wait for the best moment before this cell ends for a successor that goes on from its state. No
        stop hooks are called then: nothing is taken back, and nobody is told."""
        self._hand_over_hooks.append(hook)

    async def run_hand_over_hooks(self) -> None:
        """Waits for all of them at once; one that fails is logged."""
        for result in await asyncio.gather(*map(_awaited, self._hand_over_hooks), return_exceptions=True):
            if isinstance(result, Exception):
                log.error("a hand-over hook failed: %r", result)

    def on_dump(self, hook: TextHook) -> None:
        """`hook` adds its text to the dump that USR1 asks for."""
        self._dump_hooks.append(hook)

    def on_statistics(self, hook: TextHook) -> None:
        """`hook` adds its text to the statistics that USR2 asks for."""
        self._statistics_hooks.append(hook)

    def slices(self, room: str, apply: Apply) -> None:
        """`apply` gets the room's configuration: now when it is there, and at each reload that touches the room."""
        self._apply[room] = apply
        current = self._current.get(room)
        if current is not None:
            apply(current)

    def configure(self, room: str, number: int, slices: dict[str, bytes]) -> None:
        """The cell (or a test) gives a room its configuration; what is the same as before calls nobody."""
        before = self._current.get(room)
        old = {} if before is None else before.slices
        changed = frozenset(name for name, data in slices.items() if old.get(name) != data)
        removed = frozenset(old) - frozenset(slices)
        if before is not None and not changed and not removed:
            return
        self._current[room] = Generation(number, dict(slices), frozenset(slices), frozenset(), True)
        apply = self._apply.get(room)
        if apply is not None:
            apply(Generation(number, dict(slices), changed, removed, before is None))

    def slices_of(self, room: str) -> dict[str, bytes]:
        """What the room has now, {} when it has nothing."""
        current = self._current.get(room)
        return {} if current is None else current.slices

    async def run_stop_hooks(self) -> None:
        """Runs the stop hooks in reverse order; one that fails is logged and the others run."""
        while self._stop_hooks:
            hook = self._stop_hooks.pop()
            try:
                waiting = hook()
                if inspect.isawaitable(waiting):
                    await waiting
            except Exception:
                log.exception("a stop hook failed")

    def dump(self) -> str:
        """The texts of all dump hooks, in order of registration."""
        return "".join(_text(hook) for hook in self._dump_hooks)

    def statistics(self) -> str:
        """The texts of all statistics hooks, in order of registration."""
        return "".join(_text(hook) for hook in self._statistics_hooks)


async def _awaited(hook: StopHook) -> None:
    waiting = hook()
    if inspect.isawaitable(waiting):
        await waiting


def _text(hook: TextHook) -> str:
    try:
        text = hook()
    except Exception as error:
        return f"(failed: {error!r})\n"
    return text if text.endswith("\n") or not text else text + "\n"
