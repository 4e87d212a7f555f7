"""What the director tells the world, and what it accepts.

Subjects: `rs/SERVER@SERVICE` for a real server of a virtual server, `vs/SERVICE` for a virtual server, both in
keepalived's printed forms (`rs/[10.0.0.2]:tcp:80@[10.0.0.1]:tcp:80`, `vs/FWM 3`), `director/CELL` for the whole table.
Order is part of the contract: the change in the kernel, then the server's event, then its service's event; a listener
that runs scripts or writes FIFO lines in the order of arrival does it in keepalived's order.
"""

from __future__ import annotations

import msgspec

from holdfast.bus.messages import Command, Event, Reason, Reply


def server_subject(service: str, server: str) -> str:
    """The subject of a real server's events."""
    return f"rs/{server}@{service}"


def service_subject(service: str) -> str:
    """The subject of a virtual server's events."""
    return f"vs/{service}"


class RealServerChanged(Event, frozen=True, kw_only=True, tag="ipvs.real-server"):
    """A real server came alive, died, or another of its facts changed. Retained on `NODE/rs/SERVER@SERVICE/state`.

    up: no check says it is down. old_up: what it was before; None for the first event of a life.
    announce: scripts, FIFO lines and mails are due for this event (keepalived(8): also for a first failing result that
    changes nothing, not for servers that are simply up at start). final: it is being removed, by reload or stop.
    in_pool: it stands in the kernel's table. weight: what the kernel has; effective_weight: configured weight plus what
    checks give. draining: gets no new connections until those it has are over. failed_checks: names.
    script: the argv due for `announce`, () when none is configured.
    """

    virtual_server: str
    real_server: str
    up: bool
    old_up: bool | None = None
    announce: bool = False
    final: bool = False
    in_pool: bool
    weight: int
    effective_weight: int
    inhibited: bool = False
    draining: bool = False
    suspected: bool = False
    failed_checks: tuple[str, ...] = ()
    script: tuple[str, ...] = ()
    fifo_line: str = ""
    reason: Reason


class VirtualServerChanged(Event, frozen=True, kw_only=True, tag="ipvs.virtual-server"):
    """A virtual server gained or lost its quorum, came or went. Retained on `NODE/vs/SERVICE/state`.

    up: the quorum is there. announce, final, script, fifo_line: as in RealServerChanged. starting: this is the state it
    started with (keepalived's mail says `Starting with quorum up`). weight_sum: of the servers alive.
    panic: more than the panic threshold of the pool failed at once, so the pool is kept.
    """

    virtual_server: str
    up: bool
    old_up: bool | None = None
    announce: bool = False
    final: bool = False
    starting: bool = False
    quorum: int
    hysteresis: int
    weight_sum: int
    alive: int
    servers: int
    sorry_server: str | None = None
    sorry_active: bool = False
    panic: bool = False
    script: tuple[str, ...] = ()
    fifo_line: str = ""
    reason: Reason


class TableRepaired(Event, frozen=True, kw_only=True, tag="ipvs.repaired"):
    """Somebody else changed what is ours in the kernel's table. Not retained; `NODE/director/CELL/repair`.

    differences: in words, at most 20 of them; count: all. repaired: False when only reports are configured.
    """

    count: int
    differences: tuple[str, ...]
    repaired: bool


class DirectorState(Event, frozen=True, kw_only=True, tag="ipvs.director"):
    """What the director needs after its process died. Retained on `NODE/director/CELL/state`.

    timeouts_before: (tcp, tcp_fin, udp) seconds as they were before us. services: names of the kernel services that are
    ours, in keepalived's printed form. draining: `SERVER@SERVICE` that an operator drains. marks: fwmarks
    of groups (nftables_ipvs).
    """

    timeouts_before: tuple[int, int, int] | None = None
    services: tuple[str, ...] = ()
    sync_roles: tuple[str, ...] = ()
    draining: tuple[str, ...] = ()
    marks: dict[str, int] = msgspec.field(default_factory=dict)


class Drain(Command, frozen=True, kw_only=True, tag="ipvs.drain"):
    """Let a real server's connections end: weight 0, no new ones. Subject `rs/SERVER@SERVICE` or `director/CELL`.

    virtual_server empty: in every virtual server that has it. timeout_s: None as configured. undo: take it back in.
    remove: it leaves the pool once drained (or at the time limit) and stays out until `undo`.
    """

    real_server: str
    virtual_server: str = ""
    undo: bool = False
    remove: bool = True
    timeout_s: float | None = None


class GetServices(Command, frozen=True, kw_only=True, tag="ipvs.services"):
    """All virtual servers with the kernel's counters. Subject `director/CELL`. name: only this one when not empty."""

    name: str = ""


class Reconcile(Command, frozen=True, kw_only=True, tag="ipvs.reconcile"):
    """Compare with the kernel now and repair (or report, when so configured). Subject `director/CELL`."""


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """IPVS statistics, 64 bits; rates per second."""

    connections: int = 0
    in_packets: int = 0
    out_packets: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    connections_per_s: int = 0
    in_packets_per_s: int = 0
    out_packets_per_s: int = 0
    in_bytes_per_s: int = 0
    out_bytes_per_s: int = 0


class CheckView(msgspec.Struct, frozen=True, kw_only=True):
    """One check of a server as the director knows it. up None: no result yet."""

    name: str
    kind: str
    up: bool | None
    text: str = ""
    latency_us: int = 0


class ServerView(msgspec.Struct, frozen=True, kw_only=True):
    """One real server, for `holdfast status lvs`."""

    name: str
    address: str
    port: int
    method: str
    up: bool
    in_pool: bool
    weight: int
    effective_weight: int
    draining: bool = False
    inhibited: bool = False
    sorry: bool = False
    active_connections: int = 0
    inactive_connections: int = 0
    persistent_connections: int = 0
    counters: Counters = Counters()
    checks: tuple[CheckView, ...] = ()


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual server, for `holdfast status lvs`."""

    name: str
    scheduler: str
    method: str
    protocol: str
    up: bool
    quorum: int
    hysteresis: int
    weight_sum: int
    persistence_timeout_s: int | None = None
    sorry_active: bool = False
    panic: bool = False
    counters: Counters = Counters()
    servers: tuple[ServerView, ...] = ()


class Services(Reply, frozen=True, kw_only=True, tag="ipvs.services.reply"):
    """Answer to GetServices. conn_table_size and version: of the kernel's IPVS."""

    services: tuple[ServiceView, ...]
    version: str = ""
    connection_table_size: int = 0


class Done(Reply, frozen=True, kw_only=True, tag="ipvs.done"):
    """The command was carried out; message: what follows from it."""

    message: str
