"""The IPVS room's configuration: virtual servers with every default and precedence applied (keepalived.conf(5)).

A slice "globals" (`IpvsGlobals`) and one slice for each virtual server (`VirtualServer`), keyed by its name.
Names are keepalived's: `[IP]:tcp:PORT`, `FWM N`, `[GROUP]:N` for services, `[IP]:tcp:PORT` for real servers.
"""

from __future__ import annotations

import msgspec

from holdfast.config.values import Script

__all__ = [
    "CheckRef",
    "Forwarding",
    "GroupMember",
    "IpvsGlobals",
    "LvsTimeouts",
    "RealServer",
    "Script",
    "SorryServer",
    "SyncDaemon",
    "VirtualServer",
]


class Forwarding(msgspec.Struct, frozen=True, kw_only=True):
    """lvs_method: NAT, DR or TUN; a tunnel's type is ipip, gue or gre and its checksum nocsum, csum or remcsum."""

    method: str = "NAT"
    tunnel_type: str = "ipip"
    tunnel_port: int = 0
    tunnel_checksum: str = "nocsum"


class GroupMember(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a virtual_server_group: addresses first..last (inclusive, in address order) on one port, or a fwmark.

    Each address becomes one kernel service. last None: the one address. family 0: not given (fwmark).
    """

    family: int = 0
    first: str | None = None
    last: str | None = None
    port: int = 0
    fwmark: int = 0


class CheckRef(msgspec.Struct, frozen=True, kw_only=True):
    """A check of a real server, as the director needs it. name as in `check/NAME`; weighted: it gives weight."""

    name: str
    kind: str
    alpha: bool = False
    weighted: bool = False


class RealServer(msgspec.Struct, frozen=True, kw_only=True):
    """A real server. weight: 0..2147483647, configured. Thresholds 0: none. notify_*: run by the notify room."""

    name: str
    address: str
    port: int
    family: int
    weight: int = 1
    forwarding: Forwarding = Forwarding()
    upper_threshold: int = 0
    lower_threshold: int = 0
    inhibit_on_failure: bool = False
    checks: tuple[CheckRef, ...] = ()
    notify_up: Script | None = None
    notify_down: Script | None = None
    smtp_alert: bool = True
    virtualhost: str | None = None
    snmp_name: str | None = None


class SorryServer(msgspec.Struct, frozen=True, kw_only=True):
    """Who serves while the quorum is lost."""

    name: str
    address: str
    port: int
    family: int
    forwarding: Forwarding = Forwarding()
    inhibit: bool = False


class VirtualServer(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual server. kind: address, fwmark or group.

    address and port, or fwmark, or group and members, say where it listens. protocol: tcp, udp, sctp or none.
    flags: scheduler flags 1..3 as bits 8, 0x10, 0x20. persistence_timeout_s None: not persistent; granularity: netmask
    (IPv4) or prefix length (IPv6).
    """

    name: str
    kind: str
    family: int
    protocol: str
    address: str | None = None
    port: int = 0
    fwmark: int = 0
    group: str | None = None
    group_number: int = 0
    members: tuple[GroupMember, ...] = ()
    scheduler: str = "wlc"
    flags: int = 0
    one_packet: bool = False
    hashed: bool = False
    persistence_timeout_s: int | None = None
    persistence_granularity: str | None = None
    persistence_engine: str | None = None
    forwarding: Forwarding = Forwarding()
    quorum: int = 1
    hysteresis: int = 0
    alpha: bool = False
    omega: bool = False
    inhibit_on_failure: bool = False
    ha_suspend: bool = False
    smtp_alert: bool = False
    quorum_up: Script | None = None
    quorum_down: Script | None = None
    virtualhost: str | None = None
    snmp_name: str | None = None
    sorry_server: SorryServer | None = None
    real_servers: tuple[RealServer, ...] = ()


class LvsTimeouts(msgspec.Struct, frozen=True, kw_only=True):
    """lvs_timeouts in seconds; 0 = leave the kernel's."""

    tcp_s: int = 0
    tcp_fin_s: int = 0
    udp_s: int = 0


class SyncDaemon(msgspec.Struct, frozen=True, kw_only=True):
    """lvs_sync_daemon. instance None: both roles run from the start. sync_id None: the instance's VRID."""

    interface: str
    instance: str | None = None
    sync_id: int | None = None
    max_length: int = 0
    port: int = 0
    ttl: int = 0
    group: str | None = None


class IpvsGlobals(msgspec.Struct, frozen=True, kw_only=True):
    """What concerns all virtual servers. flush_on_stop: none, all (everything in IPVS) or vs (ours, by service).

    dont_release: a stop leaves the table as it is (command line -I).
    """

    timeouts: LvsTimeouts = LvsTimeouts()
    flush: bool = False
    flush_on_stop: str = "none"
    sync_daemon: SyncDaemon | None = None
    net_namespace: str | None = None
    rs_init_notifies: bool = False
    dont_release: bool = False
    nftables_table: str | None = None
    nftables_priority: int = -1
    nftables_start_fwmark: int = 1000
    nftables_counters: bool = False
