"""The VRRP room's keywords (keepalived.conf(5)): what they fill becomes Structs in build.py.

Counterpart: readers.py, for those whose arguments are of no plain kind.
"""

from __future__ import annotations

from holdfast.actors.vrrp import build, readers
from holdfast.actors.vrrp.tracking import TRACKINGS, reader
from holdfast.config.context import Words
from holdfast.config.kinds import Block, Bool, Choice, Command, Custom, Flag, Integer, Lines, Time, Word, named_block
from holdfast.config.table import Draft, Keyword, Room, Status

_ACCEPTED = Status.ACCEPTED
_UINT32 = (1 << 32) - 1
SECONDS = 4294
"""keepalived keeps such times as microseconds in 32 bits."""

_INSTANCE_TRACKS = tuple(
    Keyword(
        tracking.keyword,
        Lines(reader(tracking), "NAME [weight N [reverse]]"),
        f"each {tracking.what} the priority follows",
    )
    for tracking in TRACKINGS
)
_NOTIFIES = {
    "notify_master": "run when it becomes MASTER",
    "notify_backup": "run when it becomes BACKUP",
    "notify_fault": "run when it goes to FAULT",
    "notify_stop": "run when holdfast stops",
    "notify": "run at each change, with type, name, state and priority as arguments",
}


def _notifies() -> tuple[Keyword, ...]:
    return tuple(Keyword(name, Custom(readers.first_notify, Command.shape), doc) for name, doc in _NOTIFIES.items())


_AUTHENTICATION = (
    Keyword("auth_type", Custom(readers.auth_type, "PASS|AH"), "simple password; AH is accepted, not yet acted on"),
    Keyword("auth_pass", Custom(readers.auth_pass, "PASSWORD"), "the password, up to 8 characters"),
)
_HMAC = (
    Keyword("key", Word("ID VALUE"), "a key", newer=True, status=_ACCEPTED),
    Keyword("active_key", Integer(1, 255), "the key we sign with", newer=True, status=_ACCEPTED),
    Keyword("time_window", Integer(1, 300, unit="s"), "how old an advert may be", newer=True, status=_ACCEPTED),
    Keyword("anti_replay", Choice(("time", "monotonic")), "how replays are told", newer=True, status=_ACCEPTED),
    Keyword(
        "mode",
        Choice(("enforce", "permissive", "receive-only")),
        "what happens to adverts without it",
        newer=True,
        status=_ACCEPTED,
    ),
)


def _same_draft(words: Words, parent: Draft) -> Draft:
    """An inner block that fills its parent."""
    parent.values[words.items[0]] = True
    parent.lines[words.items[0]] = words.line
    return parent


_GARP = (
    ("master_delay", Time(0, SECONDS, places=0), "time to the second burst after becoming MASTER; 0: none", "_us"),
    ("master_repeat", readers.AtLeastOne(0, _UINT32), "packets of a burst", ""),
    ("master_refresh", Time(0, SECONDS, places=0), "time between bursts while MASTER; 0: none", "_us"),
    ("master_refresh_repeat", readers.AtLeastOne(0, _UINT32), "packets of such a burst", ""),
    (
        "lower_prio_delay",
        Time(0, SECONDS, places=0),
        "time to the second burst after an advert of lower priority",
        "_us",
    ),
    ("lower_prio_repeat", Integer(0, _UINT32), "packets of a burst after such an advert", ""),
)

INSTANCE = (
    Keyword("state", Custom(readers.read_state, "MASTER|BACKUP"), "what it is to begin with"),
    Keyword("interface", Custom(readers.read_interface, "INTERFACE"), "where adverts are sent and addresses put"),
    Keyword("virtual_router_id", Integer(1, 255), "VRID, equal on all routers", field="vrid"),
    Keyword("priority", Integer(1, 255, otherwise=100), "255: owner of the addresses"),
    Keyword("version", Integer(2, 3), "VRRP version"),
    Keyword("advert_int", Time(0.01, 255, otherwise=1), "time between adverts", field="advert_interval_us"),
    Keyword("native_ipv6", Custom(readers.native_ipv6), "an IPv6 instance even without addresses"),
    Keyword("vrf", Custom(readers.read_vrf, "NAME"), "for unicast without interface", status=_ACCEPTED),
    Keyword(
        "virtual_ipaddress",
        Lines(readers.virtual_address, "ADDRESS[/PREFIX] [brd A] [dev IF] [scope S] [label L] ..."),
        "the addresses of the virtual router",
    ),
    Keyword(
        "virtual_ipaddress_excluded",
        Lines(readers.excluded_address, "ADDRESS[/PREFIX] ..."),
        "more addresses, which are not in the adverts",
    ),
    Keyword("no_virtual_ipaddress", Flag(), "no complaint when there is no address", newer=True),
    Keyword("virtual_routes", Lines(readers.route_line, "ROUTE"), "routes in the words of ip-route(8)"),
    Keyword("virtual_rules", Lines(readers.rule_line, "RULE"), "rules in the words of ip-rule(8)"),
    Keyword("promote_secondaries", Flag(), "secondary addresses survive their primary"),
    Keyword("authentication", Block(_AUTHENTICATION, _same_draft), "VRRPv2 authentication"),
    Keyword("auth_hmac", Block(_HMAC, _same_draft), "signed adverts, keepalived's own", newer=True, status=_ACCEPTED),
    Keyword("unicast_peer", Custom(readers.unicast_peers, "{ ADDRESS [min_ttl N] [max_ttl N] ... }"), "the peers"),
    Keyword("unicast_src_ip", Custom(readers.read_source, "ADDRESS"), "source of unicast adverts"),
    Keyword("mcast_src_ip", Custom(readers.read_source, "ADDRESS"), "source of multicast adverts"),
    Keyword("mcast_dst_ip", Custom(readers.multicast_destination, "ADDRESS"), "another multicast group"),
    Keyword("track_src_ip", Flag(), "FAULT while the source address is missing", field="track_source"),
    Keyword("unicast_ttl", Integer(0, 255), "TTL of unicast adverts"),
    Keyword("check_unicast_src", Custom(readers.check_unicast_src), "adverts only from the peers"),
    Keyword("unicast_fault_no_peer", Flag(), "FAULT instead of multicast when there is no peer"),
    Keyword(
        "old_unicast_checksum", Custom(readers.old_checksum, "[never]"), "checksum of old versions in VRRPv3 unicast"
    ),
    Keyword("v3_checksum_as_v2", Bool(), "VRRPv3 checksum without pseudo-header", field="checksum_as_v2", newer=True),
    Keyword("dont_track_primary", Flag(), "its own interface may be down"),
    *_INSTANCE_TRACKS,
    Keyword("nopreempt", Flag(), "a lower master keeps its place"),
    Keyword("preempt", Flag(False), "the opposite of nopreempt, and the default", field="nopreempt"),
    Keyword("preempt_delay", Time(0, 1000), "time before a lower master is relieved", field="preempt_delay_us"),
    Keyword("accept", Flag(True), "answers on its addresses (the default)"),
    Keyword("no_accept", Flag(False), "drops packets to its addresses unless owner", field="accept"),
    Keyword("strict_mode", Bool(), "keeps to the RFC", field="strict"),
    Keyword(
        "skip_check_adv_addr", Custom(readers.skip_check, "[true|false]"), "looks at a master's addresses only once"
    ),
    Keyword("use_vmac", Custom(readers.use_vmac, "[IFNAME] [MAC]"), "the virtual MAC address", status=_ACCEPTED),
    Keyword("vmac_xmit_base", Flag(), "adverts from the interface below", status=_ACCEPTED),
    Keyword("use_vmac_addr", Flag(), "virtual MAC addresses for all addresses", status=_ACCEPTED),
    Keyword(
        "use_ipvlan", Custom(readers.use_ipvlan, "[IFNAME] [ADDRESS] [MODE]"), "an ipvlan interface", status=_ACCEPTED
    ),
    *(Keyword(f"garp_{name}", kind, doc, field=f"garp_{name}{unit}") for name, kind, doc, unit in _GARP),
    Keyword("garp_extra_if", readers.ExtraInterfaceTime(0), "announces on further interfaces", status=_ACCEPTED),
    Keyword(
        "vmac_garp_intvl",
        readers.ExtraInterfaceTime(0),
        "announces on further interfaces",
        field="garp_extra_if",
        deprecated="garp_extra_if",
        loud=True,
        status=_ACCEPTED,
    ),
    Keyword("lower_prio_no_advert", Bool(), "does not answer a lower advert at once"),
    Keyword("higher_prio_send_advert", Bool(), "sends one more advert before it yields"),
    Keyword("down_timer_adverts", Integer(1, 100), "missed adverts before the master counts as dead"),
    Keyword("timer_expired_backup", Custom(readers.timer_expired, "[1..254]"), "yields after a standstill", newer=True),
    Keyword(
        "thread_timer_expired",
        Custom(readers.timer_expired, "[1..254]"),
        "yields after a standstill",
        newer=True,
        deprecated="timer_expired_backup",
    ),
    Keyword("owner_ignore_adverts", Bool(), "an owner does not listen to adverts", newer=True),
    Keyword("kernel_rx_buf_size", Integer(0, _UINT32, unit="bytes"), "receive buffer", field="kernel_rx_buf_bytes"),
    *_notifies(),
    Keyword("notify_deleted", Custom(readers.notify_deleted, f"[{Command.shape}]"), "run when a reload deletes it"),
    Keyword(
        "notify_master_rx_lower_pri", Custom(readers.first_notify, Command.shape), "run when it hears a lower advert"
    ),
    Keyword("notify_priority_changes", Bool(), "FIFO lines for changes of priority"),
    Keyword("smtp_alert", Bool(), "mails at changes of state"),
    Keyword(
        "lvs_sync_daemon_interface",
        Word("INTERFACE"),
        "interface of the IPVS sync daemon",
        deprecated="lvs_sync_daemon in global_defs",
        loud=True,
    ),
    Keyword("debug", Integer(0, 4), "no effect", status=Status.NEVER),
    Keyword(
        "linkbeat_use_polling",
        Flag(),
        "the kernel reports links",
        deprecated="linkbeat_interfaces",
        loud=True,
        status=Status.NEVER,
    ),
)

SYNC_GROUP = (
    Keyword("group", Custom(readers.read_members, "{ INSTANCE ... }"), "its members"),
    *_INSTANCE_TRACKS,
    *_notifies(),
    Keyword("smtp_alert", Bool(), "mails at changes of state"),
    Keyword(
        "global_tracking",
        Flag(),
        "members keep their weights",
        field="tracking_weight",
        deprecated="track_* of the group",
        loud=True,
    ),
    Keyword("sync_group_tracking_weight", Flag(), "members keep their weights", field="tracking_weight"),
    Keyword("notify_priority_changes", Bool(), "FIFO lines for changes of priority"),
)

_GARP_GROUP = (
    Keyword("garp_interval", Time(0, 2147.483647), "time between gratuitous ARPs", field="garp_interval_us"),
    Keyword("gna_interval", Time(0, 2147.483647), "time between neighbour adverts", field="gna_interval_us"),
    Keyword("interface", Custom(readers.garp_interface, "INTERFACE"), "one interface"),
    Keyword(
        "interfaces",
        Lines(readers.garp_interface_line, "INTERFACE", empty="an empty interfaces block"),
        "several interfaces",
    ),
)

ROOT = (
    Keyword("vrrp_instance", Block(INSTANCE, named_block("vrrp_instance"), shape="NAME"), "a virtual router"),
    Keyword("vrrp_sync_group", Block(SYNC_GROUP, named_block("vrrp_sync_group"), shape="NAME"), "a sync group"),
    Keyword(
        "static_ipaddress", Lines(readers.static_address, "ADDRESS[/PREFIX] [dev IF] ..."), "addresses that always are"
    ),
    Keyword("static_routes", Lines(readers.static_route, "ROUTE"), "routes that always are"),
    Keyword("static_rules", Lines(readers.static_rule, "RULE"), "rules that always are"),
    Keyword(
        "track_group",
        Block(
            (
                Keyword(
                    "group", Custom(readers.read_members, "{ INSTANCE ... }"), "instances that follow the static items"
                ),
            ),
            named_block("track_group"),
            shape="NAME",
        ),
        "instances that follow static addresses, routes and rules",
    ),
    Keyword(
        "garp_group", Block(_GARP_GROUP, readers.open_garp_group, readers.close_garp_group), "spacing of announcements"
    ),
    Keyword(
        "interface_up_down_delays",
        Lines(readers.link_delay, "INTERFACE DOWN [UP]"),
        "how long a link must be up or down",
    ),
    Keyword(
        "linkbeat_interfaces",
        Lines(readers.linkbeat, "INTERFACE [MII|ETHTOOL|IOCTL]"),
        "links to poll",
        status=Status.NEVER,
    ),
    Keyword("linkbeat_use_polling", Flag(), "the kernel reports links", status=Status.NEVER),
)

GLOBAL_DEFS = (
    Keyword(
        "dynamic_interfaces", Custom(readers.dynamic_interfaces, "[allow_if_changes]"), "interfaces may come later"
    ),
    Keyword("default_interface", Custom(readers.interface_name, "INTERFACE"), "for static addresses without dev"),
    Keyword("disable_local_igmp", Flag(), "no IGMP on the VMACs", status=_ACCEPTED),
    Keyword("v3_checksum_as_v2", Bool(), "VRRPv3 checksum without pseudo-header", newer=True),
    Keyword("vrrp_mcast_group4", readers.Multicast(4), "IPv4 multicast group"),
    Keyword("vrrp_mcast_group6", readers.Multicast(6), "IPv6 multicast group"),
    *(Keyword(f"vrrp_garp_{name}", kind, doc, field=f"garp_{name}{unit}") for name, kind, doc, unit in _GARP),
    Keyword("vrrp_down_timer_adverts", Integer(1, 100), "missed adverts before a master counts as dead"),
    Keyword(
        "vrrp_garp_interval", Time(0.000001, 4294.967295), "time between gratuitous ARPs", field="garp_interval_us"
    ),
    Keyword(
        "vrrp_gna_interval", Time(0.000001, 4294.967295), "time between neighbour adverts", field="gna_interval_us"
    ),
    Keyword("vrrp_min_garp", Bool(), "one gratuitous ARP, no repetition"),
    Keyword("vrrp_garp_extra_if", readers.ExtraInterfaceTime(1), "announces on further interfaces", status=_ACCEPTED),
    Keyword(
        "vrrp_vmac_garp_intvl",
        readers.ExtraInterfaceTime(1),
        "announces on further interfaces",
        field="vrrp_garp_extra_if",
        deprecated="vrrp_garp_extra_if",
        loud=True,
        status=_ACCEPTED,
    ),
    Keyword("vrrp_lower_prio_no_advert", Bool(), "does not answer a lower advert at once"),
    Keyword("vrrp_higher_prio_send_advert", Bool(), "sends one more advert before it yields"),
    Keyword("vrrp_version", Integer(2, 3), "VRRP version of instances"),
    Keyword("vrrp_iptables", Custom(readers.iptables, "[IN [OUT]]"), "iptables chains", status=Status.NEVER),
    Keyword(
        "vrrp_ipsets", Custom(readers.optional_words, "[NAME ...]"), "names of ipsets", newer=True, status=Status.NEVER
    ),
    Keyword("nftables", Custom(readers.optional_words, "[NAME ...]"), "name of the nftables table", status=_ACCEPTED),
    Keyword("nftables_priority", Integer(-(1 << 31), (1 << 31) - 1), "priority of its chains", status=_ACCEPTED),
    Keyword("nftables_ifindex", Flag(), "rules by interface index", status=_ACCEPTED),
    Keyword("nftables_counters", Flag(), "rules with counters", status=_ACCEPTED),
    Keyword("vrrp_check_unicast_src", Flag(), "adverts only from the peers"),
    Keyword("vrrp_skip_check_adv_addr", Flag(), "looks at a master's addresses only once"),
    Keyword("vrrp_strict", Flag(), "keeps to the RFC"),
    Keyword("vrrp_owner_ignore_adverts", Bool(), "an owner does not listen to adverts", newer=True),
    Keyword("vrrp_notify_priority_changes", Bool(), "FIFO lines for changes of priority"),
    Keyword("fifo_write_vrrp_states_on_reload", Flag(), "FIFO lines for all states after a reload"),
    Keyword("log_unknown_vrids", Flag(), "reports adverts of VRIDs that are not ours"),
    Keyword("vrrp_startup_delay", Time(0.001, 4294.967295), "silence at the start", field="startup_delay_us"),
    Keyword("vrrp_delay_after_boot", Time(0.001, 4294.967295), "silence after boot", field="boot_delay_us", newer=True),
    Keyword(
        "vrrp_rx_bufs_policy",
        Custom(readers.rx_policy, "MTU|ADVERT|BYTES"),
        "size of receive buffers",
        status=_ACCEPTED,
    ),
    Keyword(
        "vrrp_rx_bufs_multiplier", Integer(1, _UINT32), "factor of it", field="rx_bufs_multiplier", status=_ACCEPTED
    ),
    Keyword("vmac_prefix", Word("PREFIX"), "names of VMACs", status=_ACCEPTED),
    Keyword("vmac_addr_prefix", Word("PREFIX"), "names of VMACs of addresses", status=_ACCEPTED),
    Keyword("vrrp_netlink_cmd_rcv_bufs", Integer(0, _UINT32, unit="bytes"), "netlink buffer", status=_ACCEPTED),
    Keyword("vrrp_netlink_cmd_rcv_bufs_force", Bool(), "above the kernel's limit", status=_ACCEPTED),
    Keyword("vrrp_netlink_monitor_rcv_bufs", Integer(0, _UINT32, unit="bytes"), "netlink buffer", status=_ACCEPTED),
    Keyword("vrrp_netlink_monitor_rcv_bufs_force", Bool(), "above the kernel's limit", status=_ACCEPTED),
    Keyword("enable_snmp_vrrp", Flag(), "SNMP", status=_ACCEPTED),
    Keyword("enable_snmp_keepalived", Flag(), "SNMP", deprecated="enable_snmp_vrrp", status=_ACCEPTED),
    Keyword("enable_snmp_rfc", Flag(), "SNMP", status=_ACCEPTED),
    Keyword("enable_snmp_rfcv2", Flag(), "SNMP", status=_ACCEPTED),
    Keyword("enable_snmp_rfcv3", Flag(), "SNMP", status=_ACCEPTED),
)

VRRP = Room("vrrp", root=ROOT, global_defs=GLOBAL_DEFS, finish=build.finish)
