"""IPVS in memory: the same face as `ipvs.Ipvs`, the kernel's refusals included. For tests and rehearsals."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

import msgspec

from holdfast.kernel.base import KernelError
from holdfast.kernel.ipvs_types import (
    DaemonSpec,
    DestinationOrder,
    DestinationRecord,
    DestinationSpec,
    Info,
    Method,
    Order,
    Refusal,
    ServiceKey,
    ServiceOrder,
    ServiceRecord,
    ServiceSpec,
    Timeouts,
    Verb,
)

SCHEDULERS = frozenset(["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh", "twos"])


class FakeIpvs:
    """A table of services (an IpvsTable).

    table: service key -> (service, {(address, port): destination}). applied: every order in order, refused ones too.
    refuse: asked before each order, an errno refuses it. connections: what destinations count as active, by (address,
    port).
    """

    def __init__(self) -> None:
        self.table: dict[ServiceKey, tuple[ServiceSpec, dict[tuple[str, int], DestinationSpec]]] = {}
        self.applied: list[Order] = []
        self.refuse: Callable[[Order], int | None] = lambda order: None
        self.connections: dict[tuple[str, int], int] = {}
        self.running: dict[str, DaemonSpec] = {}
        self.flushes = 0
        self.closed = False
        self._timeouts = Timeouts(900, 120, 300)

    def apply(self, orders: Sequence[Order]) -> list[Refusal]:
        """Carries the orders out; see IpvsTable.apply."""
        refusals = []
        for index, order in enumerate(orders):
            self.applied.append(order)
            code = self.refuse(order) or self._carry_out(order)
            if code:
                refusals.append(Refusal(index, order, KernelError("IPVS", str(order), code)))
        return refusals

    def _carry_out(self, order: Order) -> int:
        if isinstance(order, DestinationOrder):
            return self._destination(order)
        return self._service(order)

    def _service(self, order: ServiceOrder) -> int:
        key = order.service.key
        there = self.table.get(key)
        if order.verb is Verb.DELETE:
            return 0 if self.table.pop(key, None) is not None else errno.ESRCH
        if order.service.scheduler not in SCHEDULERS:
            return errno.ENOENT
        if key.family == 6 and not 1 <= int(order.service.granularity) <= 128:
            return errno.EINVAL
        if order.verb is Verb.ADD:
            if there is not None:
                return errno.EEXIST
            self.table[key] = (order.service, {})
            return 0
        if there is None:
            return errno.ESRCH
        self.table[key] = (order.service, there[1])
        return 0

    def _destination(self, order: DestinationOrder) -> int:
        there = self.table.get(order.service)
        if there is None:
            return errno.ESRCH
        destinations, wanted = there[1], order.destination
        if order.verb is Verb.DELETE:
            return 0 if destinations.pop(wanted.key, None) is not None else errno.ENOENT
        if wanted.family != order.service.family and wanted.method != Method.TUN:
            return errno.EINVAL
        if not 0 <= wanted.weight <= 0x7FFFFFFF or wanted.lower > wanted.upper:
            return errno.ERANGE
        if order.verb is Verb.ADD and wanted.key in destinations:
            return errno.EEXIST
        if order.verb is Verb.EDIT and wanted.key not in destinations:
            return errno.ENOENT
        destinations[wanted.key] = wanted
        return 0

    async def services(self, *, statistics: bool = False) -> list[ServiceRecord]:
        """Every service of the table."""
        return [ServiceRecord(service) for service, _ in self.table.values()]

    async def destinations(self, service: ServiceKey, *, statistics: bool = False) -> list[DestinationRecord]:
        """The destinations of a service."""
        there = self.table.get(service)
        if there is None:
            return []
        return [DestinationRecord(spec, self.connections.get(spec.key, 0)) for spec in there[1].values()]

    def timeouts(self) -> Timeouts:
        """The connection timeouts."""
        return self._timeouts

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Changes those that are not 0."""
        changes = {name: value for name, value in msgspec.structs.asdict(timeouts).items() if value}
        self._timeouts = msgspec.structs.replace(self._timeouts, **changes)

    def daemons(self) -> list[DaemonSpec]:
        """The sync daemons that run."""
        return list(self.running.values())

    def start_daemon(self, daemon: DaemonSpec) -> None:
        """Starts a sync daemon."""
        if daemon.role in self.running:
            raise KernelError("IPVS", f"{daemon.role} sync daemon", errno.EEXIST)
        self.running[daemon.role] = daemon

    def stop_daemon(self, role: str, sync_id: int = 0) -> None:
        """Stops a sync daemon."""
        if self.running.pop(role, None) is None:
            raise KernelError("IPVS", f"{role} sync daemon", errno.ESRCH)

    def flush(self) -> None:
        """Removes every service."""
        self.flushes += 1
        self.table.clear()

    def info(self) -> Info:
        """A version as of Linux 6."""
        return Info("1.2.1", 4096)

    def close(self) -> None:
        """Remembers that it was called."""
        self.closed = True
