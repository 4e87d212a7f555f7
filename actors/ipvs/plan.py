"""From configuration to the kernel's values, and from what is wanted and what is there to the orders between them.

Pure. A `Book` holds what the kernel's table is believed to be for the services that are ours; services of others are
not in it and no order ever names them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping

from holdfast.actors.ipvs.config import Forwarding, GroupMember, RealServer, SorryServer, VirtualServer
from holdfast.actors.ipvs.quorum import clamp_weight
from holdfast.kernel.ipvs_types import (
    FLAG_ONE_PACKET,
    FLAG_PERSISTENT,
    PROTOCOL_NUMBERS,
    DestinationOrder,
    DestinationSpec,
    Method,
    Order,
    ServiceKey,
    ServiceOrder,
    ServiceSpec,
    TunnelType,
    Verb,
)

_METHODS = {"NAT": Method.NAT, "DR": Method.DR, "TUN": Method.TUN}
_TUNNELS = {"ipip": TunnelType.IPIP, "gue": TunnelType.GUE, "gre": TunnelType.GRE}
_CHECKSUMS = {"nocsum": 0, "csum": 1, "remcsum": 2}

PAUSE_EVERY = 512
"""Destinations that are looked at between two pauses: about a millisecond."""

Destinations = dict[tuple[str, int], DestinationSpec]
"""By (address, port)."""

Table = dict[ServiceKey, tuple[ServiceSpec, Destinations]]
"""Services with their destinations."""


def service_specs(service: VirtualServer) -> list[ServiceSpec]:
    """The kernel services of a virtual server: one, or one for each address and mark of its group."""
    if service.kind != "group":
        return [_spec(service, _own_key(service))]
    return [_spec(service, key) for member in service.members for key in _member_keys(service, member)]


def canonical(address: str) -> str:
    """The address as the kernel's answers are printed, however it is written in the file."""
    return str(ipaddress.IPv6Address(address)) if ":" in address else address


def _own_key(service: VirtualServer) -> ServiceKey:
    if service.kind == "fwmark":
        return ServiceKey(service.family, fwmark=service.fwmark)
    assert service.address is not None
    return ServiceKey(service.family, PROTOCOL_NUMBERS[service.protocol], canonical(service.address), service.port)


def _member_keys(service: VirtualServer, member: GroupMember) -> Iterator[ServiceKey]:
    if member.first is None:
        yield ServiceKey(member.family or service.family or 4, fwmark=member.fwmark)
        return
    first = ipaddress.ip_address(member.first)
    last = ipaddress.ip_address(member.last or member.first)
    protocol = PROTOCOL_NUMBERS[service.protocol]
    make = type(first)
    for value in range(int(first), int(last) + 1):
        yield ServiceKey(first.version, protocol, str(make(value)), member.port)


def _spec(service: VirtualServer, key: ServiceKey) -> ServiceSpec:
    flags = service.flags | (FLAG_ONE_PACKET if service.one_packet else 0)
    if service.persistence_timeout_s is None:
        return ServiceSpec(key, service.scheduler, flags, engine=service.persistence_engine or "")
    granularity = service.persistence_granularity or ""
    # A netmask says nothing for IPv6 and a prefix length nothing for IPv4: a mixed group gets the default there.
    if granularity and ("." in granularity) != (key.family == 4):
        granularity = ""
    return ServiceSpec(
        key,
        service.scheduler,
        flags | FLAG_PERSISTENT,
        service.persistence_timeout_s,
        granularity,
        service.persistence_engine or "",
    )


def destination_spec(server: RealServer | SorryServer, weight: int) -> DestinationSpec:
    """A real server, or the sorry server, as a destination of a service with its own address."""
    upper = server.upper_threshold if isinstance(server, RealServer) else 0
    lower = server.lower_threshold if isinstance(server, RealServer) else 0
    return _destination(canonical(server.address), server.port, server.forwarding, weight, upper, lower)


def _destination(
    address: str, port: int, forwarding: Forwarding, weight: int, upper: int, lower: int
) -> DestinationSpec:
    method = _METHODS[forwarding.method]
    if method != Method.TUN:
        return DestinationSpec(address, port, method, clamp_weight(weight), upper, lower)
    return DestinationSpec(
        address,
        port,
        method,
        clamp_weight(weight),
        upper,
        lower,
        _TUNNELS[forwarding.tunnel_type],
        forwarding.tunnel_port,
        _CHECKSUMS[forwarding.tunnel_checksum],
    )


def in_service(destination: DestinationSpec, key: ServiceKey) -> DestinationSpec:
    """The destination as this service takes it.

    DR and TUN leave the port as it is in the packet: the kernel wants the service's own, which is 0 for a fwmark. Only
    NAT translates.
    """
    if destination.method == Method.NAT or destination.port == key.port:
        return destination
    return DestinationSpec(
        destination.address,
        key.port,
        destination.method,
        destination.weight,
        destination.upper,
        destination.lower,
        destination.tunnel_type,
        destination.tunnel_port,
        destination.tunnel_flags,
    )


def wanted_table(specs: Iterable[ServiceSpec], destinations: Iterable[DestinationSpec]) -> Table:
    """Each service with each destination. A destination that comes later replaces one of the same address and port."""
    every = list(destinations)
    table: Table = {}
    for spec in specs:
        placed = (in_service(destination, spec.key) for destination in every)
        table[spec.key] = (spec, {destination.key: destination for destination in placed})
    return table


class Book:
    """What the kernel has of ours, as far as we know. Orders come out of it and go back into it once carried out."""

    __slots__ = ("table",)

    def __init__(self) -> None:
        self.table: Table = {}

    def settle(self, wanted: Mapping[ServiceKey, tuple[ServiceSpec, Destinations]]) -> list[Order]:
        """The orders that make these services what they should be, touching only what differs.

        New destinations come before old ones go, so that a service is never without a server in between.
        """
        each = (self.settle_one(key, spec, destinations) for key, (spec, destinations) in wanted.items())
        return [order for orders in each for order in orders if order is not None]

    def settle_by_and_by(
        self, specs: Iterable[ServiceSpec], destinations: Iterable[DestinationSpec]
    ) -> Iterator[Order | None]:
        """The same for services that all have these destinations. None: a good moment to do something else."""
        every: list[DestinationSpec] = []
        for destination in destinations:
            every.append(destination)
            if not len(every) % PAUSE_EVERY:
                yield None
        for spec in specs:
            placed: Destinations = {}
            for number, destination in enumerate(every, 1):
                item = in_service(destination, spec.key)
                placed[item.key] = item
                if not number % PAUSE_EVERY:
                    yield None
            yield from self.settle_one(spec.key, spec, placed)

    def settle_one(self, key: ServiceKey, spec: ServiceSpec, destinations: Destinations) -> Iterator[Order | None]:
        """One service of `settle`, with pauses."""
        service, there = self.table.get(key, (None, {}))
        if service is None:
            yield ServiceOrder(Verb.ADD, spec)
        elif service != spec:
            yield ServiceOrder(Verb.EDIT, spec)
        # What is carried out meanwhile is entered in this very table.
        there = dict(there)
        for number, item in enumerate(destinations.values(), 1):
            verb = _verb(there.get(item.key), item)
            if verb is not None:
                yield DestinationOrder(verb, key, item)
            if not number % PAUSE_EVERY:
                yield None
        for number, (old_key, old) in enumerate(there.items(), 1):
            if old_key not in destinations:
                yield DestinationOrder(Verb.DELETE, key, old)
            if not number % PAUSE_EVERY:
                yield None

    def remove(self, keys: Iterable[ServiceKey]) -> list[Order]:
        """The orders that remove these services; their destinations go with them."""
        return [ServiceOrder(Verb.DELETE, self.table[key][0]) for key in keys if key in self.table]

    def put(self, keys: Iterable[ServiceKey], destination: DestinationSpec) -> list[Order]:
        """The orders that give these services this destination with this weight."""
        orders: list[Order] = []
        for key in keys:
            there = self.table.get(key)
            if there is None:
                continue
            item = in_service(destination, key)
            verb = _verb(there[1].get(item.key), item)
            if verb is not None:
                orders.append(DestinationOrder(verb, key, item))
        return orders

    def drop(self, keys: Iterable[ServiceKey], destination: DestinationSpec) -> list[Order]:
        """The orders that take this destination out of these services."""
        orders: list[Order] = []
        for key in keys:
            there = self.table.get(key)
            item = in_service(destination, key)
            if there is not None and item.key in there[1]:
                orders.append(DestinationOrder(Verb.DELETE, key, there[1][item.key]))
        return orders

    def observe(self, key: ServiceKey, spec: ServiceSpec | None, destinations: Iterable[DestinationSpec] = ()) -> None:
        """The kernel was read: this is what it has. spec None: no such service."""
        if spec is None:
            self.table.pop(key, None)
        else:
            self.table[key] = (spec, {destination.key: destination for destination in destinations})

    def carried_out(self, order: Order) -> None:
        """The kernel did it (or had it already)."""
        if isinstance(order, ServiceOrder):
            key = order.service.key
            if order.verb is Verb.DELETE:
                self.table.pop(key, None)
            else:
                there = self.table.get(key)
                self.table[key] = (order.service, there[1] if there is not None else {})
            return
        there = self.table.get(order.service)
        if there is None:
            return
        if order.verb is Verb.DELETE:
            there[1].pop(order.destination.key, None)
        else:
            there[1][order.destination.key] = order.destination


def _verb(there: DestinationSpec | None, wanted: DestinationSpec) -> Verb | None:
    if there is None:
        return Verb.ADD
    return None if there == wanted else Verb.EDIT


def differences(
    wanted: Mapping[ServiceKey, tuple[ServiceSpec, Destinations]],
    actual: Mapping[ServiceKey, tuple[ServiceSpec, Destinations]],
) -> list[str]:
    """In words, what the kernel has other than it should, for these services."""
    found = []
    for key, (spec, destinations) in wanted.items():
        there = actual.get(key)
        if there is None:
            found.append(f"{key} is missing")
            continue
        if there[0] != spec:
            found.append(f"{key} is {_describe(there[0])} instead of {_describe(spec)}")
        for item in destinations.values():
            other = there[1].get(item.key)
            name = f"[{item.address}]:{item.port} of {key}"
            if other is None:
                found.append(f"{name} is missing")
            elif other.weight != item.weight:
                found.append(f"{name} has weight {other.weight} instead of {item.weight}")
            elif other != item:
                found.append(f"{name} has other settings")
        found.extend(f"[{old[0]}]:{old[1]} of {key} is not ours" for old in there[1] if old not in destinations)
    return found


def _describe(spec: ServiceSpec) -> str:
    words = [spec.scheduler]
    if spec.timeout_s:
        words.append(f"persistent {spec.timeout_s} s")
    if spec.flags & ~FLAG_PERSISTENT:
        words.append(f"flags {spec.flags & ~FLAG_PERSISTENT:#x}")
    return " ".join(words)
