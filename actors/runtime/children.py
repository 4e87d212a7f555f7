"""The processes of the supervisor's cells: forking, hearing from and ending them. What to do about it is decided in
`supervisor.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable

import msgspec

from holdfast.actors.runtime.cell import ORDER_BYTES_MAX, CellStart, run_cell
from holdfast.actors.runtime.messages import CellStatus, Orders
from holdfast.actors.runtime.placement import CellPlan
from holdfast.bus.messages import EventId

LAST_ROOMS = (frozenset({"notify"}), frozenset({"journal", "gateway"}))
"""Cells with one of these rooms end after the others: they have the others' last words to carry."""

_orders = msgspec.msgpack.Decoder(Orders)


class Backoff:
    """How long to wait before a cell is put back. Pure: times come in.

    The first death is answered at once. A cell that dies again before it has lived `stable_after_s` waits first_s,
    then twice that, up to last_s.
    """

    def __init__(self, first_s: float, last_s: float, stable_after_s: float) -> None:
        self.first_s = first_s
        self.last_s = last_s
        self.stable_after_s = stable_after_s
        self.failures = 0

    def died(self, lived_s: float) -> float:
        """Seconds to wait after a life of `lived_s`."""
        if lived_s >= self.stable_after_s:
            self.failures = 0
        self.failures += 1
        if self.failures == 1:
            return 0.0
        return float(min(self.last_s, self.first_s * 2 ** (self.failures - 2)))


class Child:
    """One cell as its supervisor sees it: over all its lives."""

    def __init__(self, plan: CellPlan, backoff: Backoff) -> None:
        self.plan = plan
        self.backoff = backoff
        self.status = CellStatus.STARTING
        self.pid = 0
        self.orders: socket.socket | None = None
        self.started_at = 0.0
        self.wanted_at = 0.0
        self.heard_at = 0.0
        self.restarts = 0
        self.died_at_ns: int | None = None
        self.hung = False
        self.crashes = 0
        self.stopping = False
        self.handing_over = False
        self.applied = 0
        self.problem = ""
        self.last_event: EventId | None = None
        self.restart_timer: asyncio.TimerHandle | None = None
        self.exited: asyncio.Future[None] | None = None

    @property
    def name(self) -> str:
        """The cell's name."""
        return self.plan.name

    @property
    def alive(self) -> bool:
        """Whether it has a process."""
        return self.pid > 0

    def fork(self, start: CellStart, loop: asyncio.AbstractEventLoop, heard: Callable[[Child, Orders], None]) -> None:
        """Gives the cell a process. Only the supervisor's process returns from here."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            run_cell(start, theirs, parent)
        theirs.close()
        self.status = CellStatus.STARTING
        self._lives(pid, ours, loop, heard)

    def adopt(self, pid: int, fd: int, loop: asyncio.AbstractEventLoop, heard: Callable[[Child, Orders], None]) -> None:
        """The cell has a process that an older version of this program gave it."""
        self.status = CellStatus.RUNNING
        self._lives(pid, socket.socket(fileno=fd), loop, heard)

    def _lives(
        self,
        pid: int,
        ours: socket.socket,
        loop: asyncio.AbstractEventLoop,
        heard: Callable[[Child, Orders], None],
    ) -> None:
        ours.setblocking(False)
        self.pid = pid
        self.orders = ours
        self.hung = False
        self.started_at = self.heard_at = loop.time()
        self.exited = loop.create_future()
        loop.add_reader(ours.fileno(), self._readable, loop, heard)

    def _readable(self, loop: asyncio.AbstractEventLoop, heard: Callable[[Child, Orders], None]) -> None:
        while self.orders is not None:
            try:
                data = self.orders.recv(ORDER_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                # It is dead or closing; waitpid says which. Until then nothing more comes from here.
                loop.remove_reader(self.orders.fileno())
                return
            self.heard_at = loop.time()
            heard(self, _orders.decode(data))

    def tell(self, order: Orders) -> bool:
        """False when the cell does not read its orders any more."""
        if self.orders is None:
            return False
        try:
            self.orders.send(msgspec.msgpack.encode(order))
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL; it works on a stopped process too."""
        if self.pid > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def reaped(self, loop: asyncio.AbstractEventLoop) -> None:
        """Its process is gone."""
        self.pid = 0
        if self.orders is not None:
            with contextlib.suppress(ValueError, OSError):
                loop.remove_reader(self.orders.fileno())
            self.orders.close()
            self.orders = None
        if self.exited is not None and not self.exited.done():
            self.exited.set_result(None)

    def cancel_restart(self) -> None:
        """It is not to come back."""
        if self.restart_timer is not None:
            self.restart_timer.cancel()
            self.restart_timer = None


def waves_of(cells: list[Child]) -> list[list[Child]]:
    """In which order cells end: those of one list together, one list after the other."""
    waves: list[list[Child]] = []
    last = [[child for child in cells if set(child.plan.rooms) & rooms] for rooms in LAST_ROOMS]
    later = {child.name for wave in last for child in wave}
    for wave in ([child for child in cells if child.name not in later], *last):
        seen = {child.name for before in waves for child in before}
        fresh = [child for child in wave if child.name not in seen]
        if fresh:
            waves.append(fresh)
    return waves
