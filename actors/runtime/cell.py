"""A cell: one process, one asyncio loop, several rooms. Forked by the supervisor, which has imported everything.

`run_cell` is the life of the process; `CellContext` (context.py) is what a room gets of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from holdfast.actors.runtime import process, rights
from holdfast.actors.runtime.actor import LoopActor, Mailroom
from holdfast.actors.runtime.context import CellContext, Generation
from holdfast.actors.runtime.messages import ConfigGeneration, ConfigSlice, Orders
from holdfast.actors.runtime.placement import CellPlan, Slices, digest, start_order
from holdfast.actors.runtime.scheduling import CellScheduling, ProcessPlace
from holdfast.actors.runtime.surroundings import FIRST_NICE, HURRIED_NICE
from holdfast.bus import rundir
from holdfast.bus.cellbus import CellBus
from holdfast.bus.codec import encode
from holdfast.bus.envelope import Envelope
from holdfast.bus.store import read_left
from holdfast.bus.topics import quote
from holdfast.config.settings import Settings
from holdfast.kernel.instant import Instant
from holdfast.kernel.privileges import enter_network_namespace
from holdfast.kernel.scheduling import Scheduling
from holdfast.kernel.timers import DeadlineHeap

__all__ = ["CellContext", "Generation", "Start", "run_cell"]

log = logging.getLogger(__name__)

Start = Callable[[CellContext], None]

EXIT_BROKEN = 70
"""An actor or a room failed: the supervisor puts the cell back (sysexits: software error)."""
STOP_S = 1.9
HAND_OVER_S = 1.5
SETTINGS_ROOM = "holdfast"
SETTINGS_SLICE = "settings"
_GC_THRESHOLD = 50_000
ORDER_BYTES_MAX = 64 * 1024

_orders = msgspec.msgpack.Decoder(Orders)


class CellStart(msgspec.Struct):
    """What a cell needs to know at birth; it comes through the fork, not over a socket."""

    node: str
    run_dir: Path
    plan: CellPlan
    number: int
    settings: Settings
    starters: dict[str, Start]
    beat_s: float
    restore: bool
    lock_fd: int
    died_at_ns: int | None = None
    scheduling: CellScheduling = CellScheduling()
    inherited: Scheduling = Scheduling()
    """What the fork brought along of the supervisor's own scheduling."""
    hurried: bool = False
    """It goes on from a former life, and others wait: ahead of ordinary processes until it is ready."""
    house: frozenset[str] = frozenset()
    first: bool = False
    """Addresses or services wait for it: ahead of the other cells until it is ready."""


def start_of(room: str) -> Start:
    """`holdfast.actors.<room>.actor:start`. Raises ImportError."""
    module = importlib.import_module(f"holdfast.actors.{room}.actor")
    start: Start = module.start
    return start


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed, asyncio's otherwise."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def run_cell(start: CellStart, orders: socket.socket, parent: int) -> NoReturn:
    """The whole life of a forked cell; ends the process."""
    code = EXIT_BROKEN
    try:
        process.die_with_parent(parent)
        process.reset_signals()
        process.close_all_but({orders.fileno(), start.lock_fd, *process.log_descriptors()})
        process.set_name(start.scheduling.name or f"hf-{start.plan.name}")
        place = ProcessPlace(f"cell {start.plan.name}")
        place.wanted = CellScheduling(own=start.inherited)
        own = start.scheduling.own
        if start.hurried:
            own = msgspec.structs.replace(own, nice=HURRIED_NICE)
        elif start.first and own.nice is None and os.getpriority(os.PRIO_PROCESS, 0) == 0:
            # Where that is not allowed it starts like any other.
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, FIRST_NICE)
                own = msgspec.structs.replace(own, nice=FIRST_NICE)
        place.put(msgspec.structs.replace(start.scheduling, own=own))
        if start.scheduling.namespace is not None:
            enter_network_namespace(start.scheduling.namespace)
        account = rights.reduce(start.plan.rooms, start.settings, start.run_dir)
        code = _Cell(start, orders, place).run(lambda: rights.step_down(account, parent))
    except BaseException:
        log.critical("cell %s failed:\n%s", start.plan.name, traceback.format_exc())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class _Cell:
    """The process's parts and how they begin and end."""

    def __init__(self, start: CellStart, orders: socket.socket, place: ProcessPlace) -> None:
        self.start = start
        self.place = place
        self.beat_at = 0.0
        self.name = start.plan.name
        self.orders = orders
        self.exit_code = 0
        self.stopping = False
        self.number = start.number
        self.rooms: set[str] = set()
        self.pending: Slices = {}
        self._digests: dict[tuple[str, str], tuple[bytes, str]] = {}
        """Of slices, with the data that they are of: so that a reload looks only at what is new."""
        self.own_slices = {SETTINGS_ROOM: {SETTINGS_SLICE: encode(start.settings)}}
        asyncio.set_event_loop(None)
        self.loop = new_loop()
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(self._loop_failed)
        self.mailroom = Mailroom(self.loop, self._actor_failed)
        self.bus: CellBus
        self.context: CellContext

    def run(self, bound: Callable[[], None]) -> int:
        """From the sockets to the exit code. bound: called when the cell has its sockets and no room yet."""
        self.mailroom.open()
        start = self.start
        path = rundir.state_path(start.run_dir, self.name)
        left = read_left(path, start.node, self.name) if start.restore else None
        self.bus = CellBus(self.loop, start.run_dir, start.node, self.name, left=left)
        bound()
        self.context = CellContext(
            node=start.node,
            cell=self.name,
            run_dir=start.run_dir,
            bus=self.bus,
            loop=self.loop,
            timers=DeadlineHeap(self.loop),
            settings=start.settings,
            restored=self.bus.restored,
        )
        self.context.house = start.house
        if start.died_at_ns is not None:
            self.context.died_at = Instant(start.died_at_ns)
        self.orders.setblocking(False)
        self.loop.add_reader(self.orders.fileno(), self._ordered)
        # Inside the loop, so that rooms find it running.
        self.loop.call_soon(self._begin)
        self.loop.run_forever()
        return self.exit_code

    def _begin(self) -> None:
        try:
            for room in self.start.plan.rooms:
                self._start_room(room, self.start.plan.slices.get(room, {}))
        except Exception:
            log.exception("cell %s could not start", self.name)
            self._end(EXIT_BROKEN)
            return
        # One look for all that was made so far; from here on the collector does not walk it again, and does not
        # write to the pages shared with the supervisor.
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD, 20, 50)
        self._tell(Orders("ready", number=self.number, cpu_ms=time.process_time() * 1000))
        if self.context.first_work:
            asyncio.gather(*self.context.first_work, return_exceptions=True).add_done_callback(self._settled_in)
        else:
            self.place.put(self.start.scheduling)
        self._beat()
        self.bus.subscribe(f"slice/{quote(self.name)}", self._config_event)
        if self.bus.restored:
            self.loop.call_later(self.start.settings.cells.settle_after_s, self._settle)

    def _settled_in(self, _done: object) -> None:
        self.context.first_work.clear()
        self.place.put(self.start.scheduling)

    def _start_room(self, room: str, slices: dict[str, bytes]) -> None:
        self.context.configure(room, self.number, slices)
        starter = self.start.starters.get(room) or start_of(room)
        starter(self.context)
        self.rooms.add(room)

    def _settle(self) -> None:
        count = self.bus.settle()
        if count:
            log.info("cell %s: %d event(s) of its former life were not confirmed and are forgotten", self.name, count)

    def _beat(self) -> None:
        self._tell(Orders("beat"))
        now = self.loop.time()
        if self.beat_at:
            self.place.called_late(int((now - self.beat_at) * 1e6))
        self.beat_at = now + self.start.beat_s
        self.loop.call_later(self.start.beat_s, self._beat)

    def _tell(self, order: Orders) -> None:
        try:
            self.orders.send(msgspec.msgpack.encode(order))
        except BlockingIOError:
            pass  # the supervisor does not read: a beat more or less changes nothing
        except OSError:
            self._orphaned()

    def _ordered(self) -> None:
        while True:
            try:
                data = self.orders.recv(ORDER_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._orphaned()
                return
            order = _orders.decode(data)
            match order.op:
                case "stop":
                    self._stop(order)
                case "hand-over":
                    self.loop.create_task(self._hand_over())
                case "dump":
                    self._write(order.path, self.context.dump())
                case "statistics":
                    self._write(order.path, self.context.statistics())
                case "schedule":
                    self.place.put(msgspec.msgpack.decode(order.data, type=CellScheduling))

    def _write(self, path: str, text: str) -> None:
        """A part of a dump; the supervisor puts the parts together when all are `done`."""
        try:
            Path(path).write_text(text, encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            log.error("%s: %s", path, error)
        self._tell(Orders("done", path=path))

    def _orphaned(self) -> None:
        """The supervisor is dead. So is this cell, at once and without touching anything: a successor goes on."""
        os._exit(EXIT_BROKEN)

    def _config_event(self, envelope: Envelope) -> None:
        event = envelope.event
        if isinstance(event, ConfigSlice) and event.cell == self.name:
            self.pending.setdefault(event.room, {})[event.name] = event.data
            self._digest_of(event.room, event.name, event.data)
        elif isinstance(event, ConfigGeneration) and event.cell == self.name:
            if event.number > self.number:
                self._apply(event)
            else:
                self.pending.clear()  # what this cell was born with

    def _digest_of(self, room: str, name: str, data: bytes) -> str:
        known = self._digests.get((room, name))
        if known is None or known[0] is not data:
            known = self._digests[room, name] = (data, digest(data))
        return known[1]

    def _apply(self, generation: ConfigGeneration) -> None:
        """A whole configuration is told: check that all of it is here, then give each room what is its own."""
        current = {room: self.context.slices_of(room) for room in self.rooms | set(generation.rooms)} | self.own_slices
        wanted: Slices = {}
        for room, digests in generation.rooms.items():
            wanted[room] = {}
            for name, expected in digests.items():
                data = self.pending.get(room, {}).get(name, current[room].get(name))
                if data is None or self._digest_of(room, name, data) != expected:
                    log.error("cell %s: slice %s of %s did not arrive", self.name, name, room)
                    self._tell(Orders("applied", number=generation.number, text=f"slice {room}/{name} is missing"))
                    return
                wanted[room][name] = data
        self.pending.clear()
        self._digests = {key: known for key, known in self._digests.items() if key[1] in wanted.get(key[0], {})}
        self.number = generation.number
        problems = []
        if SETTINGS_ROOM in wanted:
            self.own_slices = {SETTINGS_ROOM: wanted.pop(SETTINGS_ROOM)}
            data = self.own_slices[SETTINGS_ROOM][SETTINGS_SLICE]
            self.context.settings = msgspec.msgpack.decode(data, type=Settings)
        for room in sorted(self.rooms | set(wanted), key=start_order):
            try:
                if room in self.rooms:
                    self.context.configure(room, generation.number, wanted.get(room, {}))
                else:
                    self._start_room(room, wanted[room])
            except Exception as error:
                log.exception("cell %s: room %s did not take the new configuration", self.name, room)
                problems.append(f"{room}: {error!r}")
        self._tell(Orders("applied", number=generation.number, text="; ".join(problems)[:2000]))

    def _stop(self, order: Orders) -> None:
        if not self.stopping:
            self.stopping = True
            self.loop.create_task(self._stop_cleanly(order))

    async def _stop_cleanly(self, order: Orders) -> None:
        if order.grace_ms:
            await asyncio.sleep(order.grace_ms / 1000)
        try:
            await asyncio.wait_for(self.context.run_stop_hooks(), STOP_S)
        except TimeoutError:
            log.error("cell %s: the clean stop took too long and was cut off", self.name)
        # One more turn: what the last hooks told actors and followers of this cell is heard.
        await asyncio.sleep(0)
        self.mailroom.close()
        self.bus.close(removed=order.removed)
        self._end(0)

    async def _hand_over(self) -> None:
        """Ends at the best moment for its successor: all it needs is in the log, and every millisecond counts."""
        if self.stopping:
            return
        self.stopping = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.context.run_hand_over_hooks(), HAND_OVER_S)
        self._tell(Orders("left"))
        os._exit(0)

    def _end(self, code: int) -> None:
        self.exit_code = code
        self.loop.stop()

    def _actor_failed(self, actor: LoopActor, error: BaseException) -> None:
        if actor.critical and not self.stopping:
            log.critical("cell %s ends because %s failed (%r); it will be put back", self.name, actor, error)
            self._end(EXIT_BROKEN)

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        log.error("cell %s: %s", self.name, context.get("message"), exc_info=error if error else None)  # type: ignore[arg-type]
        # A broken invariant (an assert in a machine) must not leave half a state behind: begin again from what is
        # retained and from the kernel.
        if isinstance(error, AssertionError) and not self.stopping:
            self._end(EXIT_BROKEN)
