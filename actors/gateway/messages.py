"""What the gateway tells the world: the other nodes, who was refused, who owns each virtual address."""

from __future__ import annotations

import enum

import msgspec

from holdfast.bus.messages import Command, Event, Reason, Reply


class PeerStatus(enum.StrEnum):
    """How another node stands with us."""

    CONNECTING = "connecting"
    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"


class PeerState(Event, frozen=True, kw_only=True, tag="gateway.peer"):
    """Another node of the cluster, as this one reaches it. Retained on `NODE/node/PEER/state`.

    Sent when `state` changes, when it asks us for the first time or no more (hears_us), and now and then with newer
    figures. clock_offset_s: its wall clock less ours; clock_error_s: how far that may be wrong; round_trip_s: the
    shortest lately. missed: events of it that never came. reason: None when it was reached.
    """

    peer: str
    role: str
    endpoint: str
    old: PeerStatus
    state: PeerStatus
    hears_us: bool = False
    clock_offset_s: float | None = None
    clock_error_s: float | None = None
    round_trip_s: float | None = None
    missed: int = 0
    reason: Reason | None = None


class Refusal(enum.StrEnum):
    """Why somebody was not let in, or not listened to."""

    KEY = "unknown-key"
    PLAIN = "not-encrypted"
    HANDSHAKE = "handshake"
    ROLE = "role"
    FLOOD = "too-many-requests"
    FOREIGN = "not-its-own-event"


class Refused(Event, frozen=True, kw_only=True, tag="gateway.refused"):
    """Somebody was refused. Not retained; `NODE/gateway/current/refused`, once a minute for an address and a why.

    address: where it came from. peer: who it is when its key is known. count: how often since this was last told.
    """

    address: str
    refusal: Refusal
    count: int
    peer: str = ""
    text: str = ""


class GatewayState(Event, frozen=True, kw_only=True, tag="gateway.state"):
    """The gateway itself. Retained on `NODE/gateway/current/state`; sent when something but a counter changes, and
    now and then.

    events, commands: the endpoints it listens at. key: its public key. error: why it does not listen. refused: by
    reason, since the start. connections: peers and clients connected, of both sockets.
    """

    events: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    key: str = ""
    error: str = ""
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    connections: int = 0


class DescribeGateway(Command, frozen=True, kw_only=True, tag="gateway.describe"):
    """Asks the gateway for its figures of this moment. Subject `gateway`."""


class GatewayDescription(Reply, frozen=True, kw_only=True, tag="gateway.description"):
    """The answer to `DescribeGateway`."""

    gateway: GatewayState
    peers: tuple[PeerState, ...] = ()


class OwnersStatus(enum.StrEnum):
    """What the nodes together say about a virtual address. `unknown`: its owner cannot be reached."""

    ONE = "one-owner"
    TWO = "two-owners"
    NONE = "no-owner"
    UNKNOWN = "unknown"


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """One node that has the address in its configuration. hears: nodes whose adverts it hears, as far as is known."""

    node: str
    instance: str
    state: str
    priority: int
    vrid: int
    interface: str
    reachable: bool = True
    hears: tuple[str, ...] = ()


class AddressOwners(Event, frozen=True, kw_only=True, tag="gateway.owners"):
    """Who owns a virtual address, as this node sees the cluster. Retained on `NODE/virtual-address/ADDRESS/owners`.

    alarm: two nodes own it, or none. differences: what differs between those that should agree, for people. outside:
    the address of a master that is heard and is no node of the cluster (then the state is `unknown`). reason: what
    stands behind an alarm, as far as it is known; None without one.
    """

    address: str
    old: OwnersStatus
    state: OwnersStatus
    alarm: bool
    holders: tuple[Holder, ...]
    differences: tuple[str, ...] = ()
    outside: str = ""
    reason: Reason | None = None
