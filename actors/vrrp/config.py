"""The VRRP room's configuration: the typed values that keepalived's keywords fill (keepalived.conf(5)).

One `VrrpRoom` is the whole slice of this room. All times are in microseconds unless the name says otherwise.
"""

from __future__ import annotations

import msgspec

from holdfast.config.values import Script
from holdfast.kernel.base import AddressSpec, RouteSpec, RuleSpec

__all__ = [
    "AddressSpec",
    "GarpGroup",
    "GarpTiming",
    "LinkDelay",
    "NotifyScripts",
    "RouteSpec",
    "RuleSpec",
    "Script",
    "SyncGroup",
    "Tracked",
    "Tracks",
    "UnicastPeer",
    "Vmac",
    "VrrpInstance",
    "VrrpRoom",
]


class UnicastPeer(msgspec.Struct, frozen=True, kw_only=True):
    """A unicast neighbour and the hop limits its packets may have."""

    address: str
    min_ttl: int | None = None
    max_ttl: int | None = None


class GarpTiming(msgspec.Struct, frozen=True, kw_only=True):
    """Gratuitous ARP and unsolicited neighbour advertisement timing (garp_*). Delays: 0 = none."""

    master_delay_us: int = 5_000_000
    master_repeat: int = 5
    master_refresh_us: int = 0
    master_refresh_repeat: int = 1
    lower_prio_delay_us: int = 5_000_000
    lower_prio_repeat: int = 5
    extra_if_us: int = 0
    extra_if_all: bool = False


class Tracked(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a track_* block. The loader fills weight and reverse in, from the
    tracked thing's own where the entry is silent; None only where a Struct is made by hand (0 and False then)."""

    name: str
    weight: int | None = None
    reverse: bool | None = None


class Tracks(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance or a group looks at."""

    interfaces: tuple[Tracked, ...] = ()
    scripts: tuple[Tracked, ...] = ()
    files: tuple[Tracked, ...] = ()
    processes: tuple[Tracked, ...] = ()
    bfd: tuple[Tracked, ...] = ()


class NotifyScripts(msgspec.Struct, frozen=True, kw_only=True):
    """notify_* of an instance or a group."""

    master: Script | None = None
    backup: Script | None = None
    fault: Script | None = None
    stop: Script | None = None
    deleted: Script | None = None
    any: Script | None = None
    master_rx_lower_pri: Script | None = None
    notify_deleted: bool = False
    priority_changes: bool = False
    smtp_alert: bool = False


class Vmac(msgspec.Struct, frozen=True, kw_only=True):
    """use_vmac / use_ipvlan as written; accepted and not yet acted on."""

    kind: str
    ifname: str | None = None
    mac: str | None = None
    xmit_base: bool = False
    words: tuple[str, ...] = ()


class VrrpInstance(msgspec.Struct, frozen=True, kw_only=True):
    """One vrrp_instance with every default filled in.

    priority 1..255, base. advert_interval_us: ours. family 4 or 6. mcast_group: destination unless `peers`.
    source None: the interface's primary address (IPv6: link-local).
    """

    name: str
    interface: str
    vrid: int
    family: int = 4
    version: int = 2
    priority: int = 100
    wants_master: bool = False
    advert_interval_us: int = 1_000_000
    addresses: tuple[AddressSpec, ...] = ()
    excluded_addresses: tuple[AddressSpec, ...] = ()
    routes: tuple[RouteSpec, ...] = ()
    rules: tuple[RuleSpec, ...] = ()
    auth_type: str = "none"
    auth_pass: bytes = b""
    unicast: bool = False
    peers: tuple[UnicastPeer, ...] = ()
    unicast_ttl: int | None = None
    check_unicast_src: bool = False
    source: str | None = None
    track_source: bool = False
    mcast_group: str = "224.0.0.18"
    old_unicast_checksum: bool | None = None
    checksum_as_v2: bool = False
    nopreempt: bool = False
    preempt_delay_us: int = 0
    accept: bool = True
    strict: bool = False
    skip_check_adv_addr: bool = False
    promote_secondaries: bool = False
    dont_track_primary: bool = False
    garp: GarpTiming = GarpTiming()
    lower_prio_no_advert: bool = False
    higher_prio_send_advert: bool = False
    down_timer_adverts: int = 3
    timer_expired_backup: int | None = None
    owner_ignore_adverts: bool = False
    tracks: Tracks = Tracks()
    notify: NotifyScripts = NotifyScripts()
    kernel_rx_buf_bytes: int | None = None
    vmac: Vmac | None = None
    sync_daemon_interface: str | None = None
    vrf: str | None = None


class SyncGroup(msgspec.Struct, frozen=True, kw_only=True):
    """One vrrp_sync_group; members are names of instances that exist."""

    name: str
    members: tuple[str, ...]
    tracks: Tracks = Tracks()
    notify: NotifyScripts = NotifyScripts()
    tracking_weight: bool = False


class GarpGroup(msgspec.Struct, frozen=True, kw_only=True):
    """garp_group: spacing of GARP/NA packets over a set of interfaces; 0 = no spacing."""

    garp_interval_us: int = 0
    gna_interval_us: int = 0
    interfaces: tuple[str, ...] = ()


class LinkDelay(msgspec.Struct, frozen=True, kw_only=True):
    """interface_up_down_delays of one interface."""

    interface: str
    down_us: int = 0
    up_us: int = 0


class VrrpRoom(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the VRRP room is told."""

    router_id: str = ""
    instances: tuple[VrrpInstance, ...] = ()
    groups: tuple[SyncGroup, ...] = ()
    static_addresses: tuple[AddressSpec, ...] = ()
    static_routes: tuple[RouteSpec, ...] = ()
    static_rules: tuple[RuleSpec, ...] = ()
    track_groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    garp_groups: tuple[GarpGroup, ...] = ()
    garp_interval_us: int = 0
    gna_interval_us: int = 0
    link_delays: tuple[LinkDelay, ...] = ()
    startup_delay_us: int = 0
    dynamic_interfaces: bool = False
    disable_local_igmp: bool = False
    log_unknown_vrids: bool = False
    write_states_on_reload: bool = False
    rx_bufs_policy: str | None = None
    rx_bufs_multiplier: int = 3
    release_vips: bool = False
    dont_release: bool = False
