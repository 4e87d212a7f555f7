"""What the kernel tells, as values: links, addresses, routes, rules, their changes, received packets."""

from __future__ import annotations

import enum

import msgspec

from holdfast.kernel.base import RouteSpec, RuleSpec

IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_POINTOPOINT = 0x10
IFF_RUNNING = 0x40
IFF_NOARP = 0x80
IFF_MULTICAST = 0x1000
INFINITE_LIFETIME = 0xFFFFFFFF


class Link(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An interface. base: ifindex of the interface it stands on (0: none). hardware: ARPHRD_* number, 1 = Ethernet."""

    index: int
    name: str
    flags: int
    mtu: int = 1500
    mac: bytes = b""
    broadcast: bytes = b""
    hardware: int = 1
    kind: str = ""
    base: int = 0
    master: int = 0
    operstate: int = 0
    group: int = 0

    @property
    def up(self) -> bool:
        """IFF_UP and IFF_RUNNING, as keepalived counts it."""
        return self.flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING

    @property
    def noarp(self) -> bool:
        return bool(self.flags & IFF_NOARP)

    @property
    def multicast(self) -> bool:
        return bool(self.flags & IFF_MULTICAST)


class AddressRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An address on an interface. address: the local one; peer: of a point-to-point address, else None.

    valid_lft_s None: for ever. flags: IFA_F_*. protocol: IFA_PROTO (Linux 5.18).
    """

    ifindex: int
    address: str
    prefix: int
    scope: int = 0
    flags: int = 0
    label: str | None = None
    peer: str | None = None
    broadcast: str | None = None
    valid_lft_s: int | None = None
    preferred_lft_s: int | None = None
    protocol: int = 0

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4

    @property
    def secondary(self) -> bool:
        """IPv4: not the first of its subnet (IFA_F_SECONDARY)."""
        return bool(self.flags & 0x01) and ":" not in self.address

    @property
    def tentative(self) -> bool:
        """IPv6: duplicate address detection runs or has failed."""
        return bool(self.flags & 0x48)


class RouteRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A route as the kernel has it, in the words of a RouteSpec. ifindex: of the (first) hop, 0 without."""

    spec: RouteSpec
    ifindex: int = 0

    @property
    def key(self) -> tuple[object, ...]:
        """What tells routes apart: family, table, destination, tos, metric, type."""
        return route_key(self.spec)


class RuleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A policy rule as the kernel has it."""

    spec: RuleSpec


class Change(enum.Enum):
    """What became of an address, route or rule. REFRESHED: only its lifetime is new."""

    ADDED = "added"
    CHANGED = "changed"
    REFRESHED = "refreshed"
    REMOVED = "removed"


class LinkChanged(msgspec.Struct, frozen=True):
    """old None: it appeared; new None: it vanished; both with different names: renamed."""

    old: Link | None
    new: Link | None


class AddressChanged(msgspec.Struct, frozen=True):
    """port:

    netlink port of who asked for it (0: the kernel itself, as when a lifetime ended; -1: found by re-reading).
    """

    change: Change
    address: AddressRecord
    port: int = 0


class RouteChanged(msgspec.Struct, frozen=True):
    """Only routes of the followed protocols are told."""

    change: Change
    route: RouteRecord
    port: int = 0


class RuleChanged(msgspec.Struct, frozen=True):
    """A policy rule came or went."""

    change: Change
    rule: RuleRecord
    port: int = 0


class Received(msgspec.Struct, frozen=True, gc=False):
    """A raw packet as it arrived. packet: IPv4 with its IP header, IPv6 without. payload: what follows the IP header.

    protocol: of the IPv4 header (112, or 51 with AH). total_length: what the IPv4 header claims (IPv6: the real one).
    ifindex: where it arrived (IPv4: of the socket's interface, 0 if it has none).
    """

    packet: bytes
    payload: bytes
    source: str
    destination: str
    ttl: int
    ifindex: int = 0
    protocol: int = 112
    total_length: int = 0


def route_key(spec: RouteSpec) -> tuple[object, ...]:
    """Two routes with the same key replace each other in the kernel."""
    default_metric = 0 if spec.family == 4 else 1024
    metric = spec.metric if spec.metric else default_metric
    return (spec.family, spec.table or 254, spec.destination, spec.tos, metric, spec.type)
