"""The only writer of the kernel's table: intentions of all virtual servers become orders, many in one buffer.

Intentions are turned into orders at the last moment, against what the kernel has by then, so that two changes of one
server in a row cannot contradict each other. Orders go first; what the world is to be told waits until the orders
before it are carried out, and then has a few milliseconds a turn. So a start with thousands of servers completes the
table before it tells about it, and neither holds up the loop.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from holdfast.actors.ipvs.plan import Book
from holdfast.kernel.base import KernelError
from holdfast.kernel.ipvs_types import (
    DestinationOrder,
    DestinationSpec,
    IpvsTable,
    Order,
    ServiceKey,
    ServiceOrder,
    ServiceSpec,
    Verb,
)

log = logging.getLogger(__name__)

CHUNK_ORDERS = 128
"""Orders handed to the kernel in one turn of the loop: a few milliseconds at most."""

TELL_S = 0.004
"""Time of one turn that telling the world may take."""

TELL_LATEST_S = 0.2
"""What was to be told waits at most so long for orders that keep coming."""


class Owner(Protocol):
    """Who a refusal is told to."""

    def refused(self, server: str, destination: DestinationSpec | None, error: KernelError) -> None:
        """The kernel did not take this destination; None: the service itself. server: its name where it is known."""

    def service_lost(self, key: ServiceKey) -> None:
        """Somebody else took a service away."""


class Settled(Protocol):
    """What `settle` asks of the machine of a virtual server."""

    def specs(self) -> list[ServiceSpec]:
        """Its services."""

    def wanted_destinations(self) -> Iterator[DestinationSpec]:
        """What each of them is to have."""


class Intent:
    """One wish of a virtual server; `make` gives its orders when its turn comes, and None for a turn of the loop.

    refused: some order of it was. lost: services that are not in the kernel, so that their destinations cannot be.
    """

    __slots__ = ("lost", "make", "owner", "refused", "server")

    def __init__(self, owner: Owner, server: str, make: Callable[[], Iterable[Order | None]]) -> None:
        self.owner = owner
        self.server = server
        self.make = make
        self.refused = False
        self.lost: set[ServiceKey] = set()


class Writer:
    """Queue and book. table None: there is no IPVS (yet); everything waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, table: IpvsTable | None = None) -> None:
        self.book = Book()
        self.version = 0
        """Grows with each batch: whoever compares the table with the kernel sees that it moved meanwhile."""
        self._loop = loop
        self._table = table
        self._intents: deque[Intent] = deque()
        self._current: tuple[Intent, Iterator[Order | None]] | None = None
        self._told: deque[tuple[int, float, Callable[[], None]]] = deque()
        self._submitted = 0
        self._done = 0
        self._scheduled = False
        self._held = False
        self._idle: list[asyncio.Future[None]] = []

    def open(self, table: IpvsTable) -> None:
        """The kernel's table is there: what waited begins."""
        self._table = table
        self._schedule()

    # -- wishes -----------------------------------------------------------------------------------------------------

    def settle(self, owner: Owner, machine: Settled, old_keys: Iterable[ServiceKey] = ()) -> Intent:
        """The machine's services are to be as it wants them. old_keys: those that the owner had before; they go unless
        it still wants them."""
        old = list(old_keys)

        def make() -> Iterator[Order | None]:
            specs = machine.specs()
            yield from self.book.settle_by_and_by(specs, machine.wanted_destinations())
            kept = {spec.key for spec in specs}
            yield from self.book.remove(key for key in old if key not in kept)

        return self._submit(Intent(owner, "", make))

    def put(self, owner: Owner, server: str, keys: Sequence[ServiceKey], destination: DestinationSpec) -> Intent:
        """These services have this destination with this weight."""
        return self._submit(Intent(owner, server, lambda: self.book.put(keys, destination)))

    def drop(self, owner: Owner, server: str, keys: Sequence[ServiceKey], destination: DestinationSpec) -> Intent:
        """These services do not have this destination."""
        return self._submit(Intent(owner, server, lambda: self.book.drop(keys, destination)))

    def remove(self, owner: Owner, keys: Sequence[ServiceKey]) -> Intent:
        """These services go."""
        return self._submit(Intent(owner, "", lambda: self.book.remove(keys)))

    def then(self, call: Callable[[], None]) -> None:
        """`call` after everything submitted before it was carried out, in order."""
        self._told.append((self._submitted, time.monotonic(), call))
        self._schedule()

    async def idle(self) -> None:
        """Waits until everything is carried out and told."""
        while self._intents or self._current is not None or self._told:
            future: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(future)
            self._schedule()
            await future

    def hold(self) -> None:
        """Tells nothing until `release`: a first table is under way, and it comes first however long it takes."""
        self._held = True

    def release(self) -> None:
        """What was held is told."""
        self._held = False
        self._schedule()

    async def written(self) -> None:
        """Waits until all orders are carried out."""
        while self.busy:
            await asyncio.sleep(0)

    @property
    def busy(self) -> bool:
        """Whether orders wait."""
        return bool(self._intents) or self._current is not None

    def _submit(self, intent: Intent) -> Intent:
        self._submitted += 1
        self._intents.append(intent)
        self._schedule()
        return intent

    # -- turns ------------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._scheduled and self._table is not None:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self._write()
        self._tell()
        if self.busy or (self._told and not self._held):
            self._schedule()
        elif self._idle and not self._told:
            waiting, self._idle = self._idle, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def _write(self) -> None:
        orders: list[Order] = []
        origins: list[Intent] = []
        while len(orders) < CHUNK_ORDERS:
            if self._current is None:
                if not self._intents:
                    break
                intent = self._intents.popleft()
                self._current = (intent, iter(intent.make()))
            intent, stream = self._current
            try:
                order = next(stream)
            except StopIteration:
                self._current = None
                self._done += 1
                continue
            if order is None:
                break
            orders.append(order)
            origins.append(intent)
            # The next intention of this very chunk is measured against what this one will have done.
            self.book.carried_out(order)
        if orders:
            self._apply(orders, origins)

    def _apply(self, orders: list[Order], origins: list[Intent]) -> None:
        assert self._table is not None
        self.version += 1
        for refusal in self._table.apply(orders):
            order, error = self._once_more(refusal.order, refusal.error)
            if error is None:
                continue
            self._tell_refusal(origins[refusal.index], order, error)

    def _tell_refusal(self, intent: Intent, order: Order, error: KernelError) -> None:
        self._unbook(order)
        if isinstance(order, ServiceOrder):
            intent.lost.add(order.service.key)
            intent.owner.refused("", None, error)
        elif error.errno != errno.ESRCH:
            intent.refused = True
            intent.owner.refused(intent.server, order.destination, error)
        elif order.service not in intent.lost:
            # Not the destination is wrong: its service is not there any more.
            intent.lost.add(order.service)
            self.book.observe(order.service, None)
            intent.owner.service_lost(order.service)

    def _once_more(self, order: Order, error: KernelError) -> tuple[Order, KernelError | None]:
        """What was there already, or gone already, is no failure; the rest of it is caught up with."""
        assert self._table is not None
        code = error.errno
        if order.verb is Verb.DELETE:
            # A destination that cannot be deleted because its service is missing is another matter.
            if code == (errno.ESRCH if isinstance(order, ServiceOrder) else errno.ENOENT):
                log.info("%s: was gone already", order)
                return order, None
            return order, error
        if code == errno.EEXIST and order.verb is Verb.ADD:
            other = Verb.EDIT
        elif order.verb is Verb.EDIT and code in (errno.ENOENT, errno.ESRCH):
            other = Verb.ADD
        else:
            return order, error
        log.info("%s: %s, so it is %sed", order, error.text or error, other)
        second: Order
        if isinstance(order, ServiceOrder):
            second = ServiceOrder(other, order.service)
        else:
            second = DestinationOrder(other, order.service, order.destination)
        refused = self._table.apply([second])
        return second, (refused[0].error if refused else None)

    def _unbook(self, order: Order) -> None:
        """The kernel does not have it: the next reconciliation, or the next try, finds out what it has."""
        if order.verb is Verb.DELETE:
            return
        if isinstance(order, ServiceOrder):
            self.book.observe(order.service.key, None)
            return
        there = self.book.table.get(order.service)
        if there is not None:
            there[1].pop(order.destination.key, None)

    def _tell(self) -> None:
        if not self._told or self._held:
            return
        now = time.monotonic()
        if self.busy and now - self._told[0][1] < TELL_LATEST_S:
            return
        until = now + TELL_S
        while self._told and self._told[0][0] <= self._done:
            call = self._told.popleft()[2]
            try:
                call()
            except Exception:
                log.exception("what follows from a change of the table failed")
            if time.monotonic() > until:
                break
