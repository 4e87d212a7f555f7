"""From what was read to the VRRP room's Structs: defaults, what fits together, and what does not (keepalived.conf(5)).

Every complaint here is one that keepalived makes after it has read everything. Counterpart: keywords.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from holdfast.actors.vrrp.config import (
    GarpGroup,
    GarpTiming,
    LinkDelay,
    NotifyScripts,
    SyncGroup,
    Tracks,
    VrrpInstance,
    VrrpRoom,
)
from holdfast.actors.vrrp.membership import GroupPlan, VridRegister, plan_groups
from holdfast.actors.vrrp.tracking import TRACKINGS, Entry, entries, own_weight, tracks
from holdfast.config import scripts
from holdfast.config.context import Context
from holdfast.config.diagnostics import Severity
from holdfast.config.source import Line
from holdfast.config.table import Draft
from holdfast.kernel.base import AddressSpec

OWNER = 255
DEFAULT_PRIORITY = 100
MOST_ADDRESSES = 255
_NOTIFIES = ("master", "backup", "fault", "stop", "deleted", "master_rx_lower_pri")


def finish(context: Context) -> Mapping[str, msgspec.Struct]:
    """The slices of the VRRP room."""
    groups = plan_groups(context)
    instances: list[VrrpInstance] = []
    vrids = VridRegister(context)
    for draft in context.named("vrrp_instance").values():
        plan = next((group for group in groups if draft.name in group.members), None)
        instance = _Builder(context, draft, plan).build()
        if instance is not None and vrids.accept(instance, draft):
            instances.append(instance)
    built = {instance.name: instance for instance in instances}
    room = VrrpRoom(
        router_id=context.globals.get("router_id", ""),
        instances=tuple(instances),
        groups=tuple(group for plan in groups if (group := _group(context, plan, built)) is not None),
        **_static(context),
        **_globals(context),
    )
    return {"room": room}


class _Builder:
    """Makes one instance of its draft."""

    def __init__(self, context: Context, draft: Draft, group: GroupPlan | None) -> None:
        self.context = context
        self.draft = draft
        self.group = group
        self.name = draft.name
        self.fields: dict[str, Any] = {}

    def error(self, field: str, text: str, hint: str = "") -> None:
        self.context.error(self.draft.line_of(field), f"{self.name}: {text}", hint)

    def either(self, field: str, default: Any) -> Any:
        """The instance's own value, or the global one, or the default."""
        value = self.draft.get(field)
        return self.context.globals.get(f"vrrp_{field}", default) if value is None else value

    def build(self) -> VrrpInstance | None:
        """The instance, or None when it cannot be used."""
        draft = self.draft
        # Also the scripts of an instance that is dropped count for script security.
        notify = notify_scripts(self.context, draft, f"instance {draft.name}")
        strict = bool(draft.get("strict", self.context.globals.get("vrrp_strict", False)))
        family = draft.get("family", 4)
        version = self._version(family, strict)
        if not draft.has("interface") and not (draft.get("peers") and draft.has("source") and draft.has("vrf")):
            self.error("interface", "no usable interface: dropped", "interface INTERFACE")
            return None
        if not draft.has("vrid"):
            self.error("vrid", "virtual_router_id is missing: dropped", "virtual_router_id 1..255")
            return None
        addresses = draft.get("addresses", [])
        if not addresses and not draft.get("no_virtual_ipaddress"):
            if strict or version == 3:
                self.error("addresses", "no virtual address: dropped", "virtual_ipaddress { ADDRESS }")
                return None
            self.error("addresses", "no virtual address: one is sensible", "virtual_ipaddress { ADDRESS }")
        if strict and family == 6 and addresses and not addresses[0].address.lower().startswith("fe80:"):
            self.error("addresses", "the first IPv6 address is not link-local: dropped", "fe80::...")
            return None
        self.fields = {
            "name": draft.name,
            "interface": draft.get("interface", ""),
            "vrid": draft.get("vrid"),
            "family": family,
            "version": version,
            "strict": strict,
            "advert_interval_us": self._interval(version),
        }
        priority = self._priority(strict)
        self._authentication(version, strict, priority)
        self._unicast(strict)
        self._preemption(strict, priority)
        self._strictness(version, strict, priority)
        self._addresses(addresses)
        self._vmac(strict)
        self.fields["garp"] = garp_timing(self.context, draft, strict)
        self.fields["tracks"] = self._tracks(priority)
        self.fields["notify"] = notify
        for name in ("routes", "rules"):
            self.fields[name] = tuple(draft.get(name, ()))
        for name in ("promote_secondaries", "dont_track_primary", "track_source", "timer_expired_backup", "vrf"):
            if draft.has(name):
                self.fields[name] = draft.get(name)
        self.fields["kernel_rx_buf_bytes"] = draft.get("kernel_rx_buf_bytes")
        self.fields["sync_daemon_interface"] = draft.get("lvs_sync_daemon_interface")
        self.fields["checksum_as_v2"] = draft.get(
            "checksum_as_v2", self.context.globals.get("v3_checksum_as_v2", False)
        )
        self.fields["skip_check_adv_addr"] = bool(self.either("skip_check_adv_addr", False))
        self.fields["owner_ignore_adverts"] = bool(self.either("owner_ignore_adverts", False))
        return VrrpInstance(**self.fields)

    def _version(self, family: int, strict: bool) -> int:
        chosen = self.draft.get("version")
        if family == 4:
            return int(chosen or self.context.globals.get("vrrp_version", 2))
        if chosen == 2 and strict:
            self.error("version", "IPv6 needs VRRP version 3 in strict mode: 3 taken", "version 3")
            return 3
        return int(chosen or 3)

    def _interval(self, version: int) -> int:
        interval = int(self.draft.get("advert_interval_us", 1_000_000))
        if version == 2:
            if interval % 1_000_000:
                rounded = max(1_000_000, (interval + 500_000) // 1_000_000 * 1_000_000)
                text = f"VRRPv2 adverts come in whole seconds: {rounded // 1_000_000} s taken"
                self.error("advert_interval_us", text, "advert_int 1..255")
                return rounded
            return interval
        if interval >= 40_960_000:
            self.error(
                "advert_interval_us", "VRRPv3 adverts come within 40.95 s: 40.95 s taken", "advert_int 0.01..40.95"
            )
            return 40_950_000
        if interval % 10_000:
            rounded = max(10_000, (interval + 5_000) // 10_000 * 10_000)
            text = f"VRRPv3 adverts come in steps of 10 ms: {rounded // 1000} ms taken"
            self.error("advert_interval_us", text, "two decimals")
            return rounded
        return interval

    def _priority(self, strict: bool) -> int:
        draft = self.draft
        wants_master = draft.get("state") == "MASTER"
        priority = draft.get("priority", OWNER if wants_master else DEFAULT_PRIORITY)
        if strict and draft.has("state") and wants_master != (priority == OWNER):
            self.error("state", "in strict mode an owner, and only an owner, is MASTER at the start", "priority 255")
            wants_master = priority == OWNER
        self.fields["priority"] = priority
        self.fields["wants_master"] = wants_master or priority == OWNER
        return int(priority)

    def _authentication(self, version: int, strict: bool, priority: int) -> None:
        draft = self.draft
        kind = draft.get("auth_type")
        if kind is None:
            return
        if version == 3 or strict:
            why = "VRRP version 3 has" if version == 3 else "strict mode allows"
            self.error("auth_type", f"{why} no authentication: ignored", "remove the authentication block")
            return
        if not draft.get("auth_pass"):
            self.error("auth_type", "authentication without a password: ignored", "auth_pass PASSWORD")
            return
        if kind == "AH" and self.fields["wants_master"] and priority != OWNER:
            self.error("state", "AH starts as BACKUP unless owner: BACKUP taken", "state BACKUP")
            self.fields["wants_master"] = False
        self.fields["auth_type"] = kind.lower()
        self.fields["auth_pass"] = draft.get("auth_pass")

    def _unicast(self, strict: bool) -> None:
        draft = self.draft
        globals_ = self.context.globals
        peers = tuple(draft.get("peers", ()))
        words = draft.get("unicast_words")
        unicast = bool(peers) or bool(draft.get("unicast_fault_no_peer") and words)
        if words and not unicast:
            self.error("unicast", "unicast words without a peer: multicast taken", "unicast_peer { ADDRESS }")
        ttl = draft.get("unicast_ttl")
        if ttl is not None and not peers:
            self.error("unicast_ttl", "unicast_ttl without a peer: ignored", "unicast_peer { ADDRESS }")
            ttl = None
        if unicast and draft.has("mcast_group"):
            self.error("mcast_group", "a multicast destination with unicast peers: ignored", "one of the two")
        group = globals_.get("vrrp_mcast_group4", "224.0.0.18")
        if self.fields["family"] == 6:
            group = globals_.get("vrrp_mcast_group6", "ff02::12")
        self.fields |= {
            "unicast": unicast,
            "peers": peers,
            "unicast_ttl": ttl,
            "source": draft.get("source"),
            "mcast_group": draft.get("mcast_group", group) if not unicast else group,
            "old_unicast_checksum": draft.get("old_unicast_checksum"),
            "check_unicast_src": unicast
            and bool(
                draft.get("check_unicast_src")
                or globals_.get("vrrp_check_unicast_src")
                or any(peer.min_ttl is not None or peer.max_ttl is not None for peer in peers)
            ),
        }

    def _preemption(self, strict: bool, priority: int) -> None:
        draft = self.draft
        nopreempt = bool(draft.get("nopreempt", False))
        if nopreempt and self.fields["wants_master"]:
            self.error("nopreempt", "nopreempt has no effect with state MASTER: ignored", "state BACKUP")
            nopreempt = False
        delay = draft.get("preempt_delay_us", 0)
        if delay:
            why = ""
            if strict:
                why = "strict mode"
            elif nopreempt:
                why = "nopreempt"
            elif self.fields["wants_master"]:
                why = "state MASTER"
            if why:
                self.error("preempt_delay_us", f"preempt_delay does not go with {why}: ignored", "preempt_delay 0")
                delay = 0
        self.fields["nopreempt"] = nopreempt
        self.fields["preempt_delay_us"] = delay

    def _strictness(self, version: int, strict: bool, priority: int) -> None:
        draft = self.draft
        accept = draft.get("accept")
        if strict and accept and version == 2:
            self.error("accept", "VRRPv2 in strict mode has no accept: ignored", "no_accept")
            accept = None
        self.fields["accept"] = bool(accept if accept is not None else not strict or priority == OWNER)
        no_advert = draft.get("lower_prio_no_advert")
        if strict and no_advert is False:
            self.error("lower_prio_no_advert", "strict mode does not answer lower adverts: true taken", "true")
        send = draft.get("higher_prio_send_advert")
        if strict and send:
            self.error("higher_prio_send_advert", "strict mode sends no advert when it yields: false taken", "false")
        globals_ = self.context.globals
        if no_advert is None:
            no_advert = globals_.get("vrrp_lower_prio_no_advert", False)
        if send is None:
            send = globals_.get("vrrp_higher_prio_send_advert", False)
        adverts = self.either("down_timer_adverts", 3)
        if strict and adverts != 3:
            self.error("down_timer_adverts", "strict mode waits for 3 adverts: 3 taken", "down_timer_adverts 3")
            adverts = 3
        self.fields |= {
            "lower_prio_no_advert": True if strict else bool(no_advert),
            "higher_prio_send_advert": False if strict else bool(send),
            "down_timer_adverts": adverts,
        }

    def _addresses(self, addresses: list[AddressSpec]) -> None:
        kept: dict[tuple[str, str], AddressSpec] = {}
        for spec in addresses:
            kept.setdefault((spec.address, spec.dev), spec)
        listed = list(kept.values())
        room = self._room_for_addresses()
        if len(listed) > room:
            text = f"{len(listed)} addresses do not fit an advert: {len(listed) - room} of them are excluded from it"
            self.error("addresses", text, f"at most {room}")
        excluded = {(spec.address, spec.dev): spec for spec in listed[room:]}
        for spec in self.draft.get("excluded_addresses", ()):
            if (spec.address, spec.dev) not in kept:
                excluded.setdefault((spec.address, spec.dev), spec)
        self.fields["addresses"] = tuple(listed[:room])
        self.fields["excluded_addresses"] = tuple(excluded.values())

    def _room_for_addresses(self) -> int:
        """How many addresses an advert may carry: one byte counts them, and it is never fragmented."""
        interface = self.context.host.interface(self.fields["interface"])
        mtu = interface.mtu if interface else 1500
        # Link header, IP header, VRRP header; VRRPv2 has 8 more bytes for authentication with IPv4.
        if self.fields["family"] == 6:
            return min(MOST_ADDRESSES, max(0, mtu - 14 - 40 - 8) // 16)
        return min(MOST_ADDRESSES, max(0, mtu - 14 - 20 - 8 - (8 if self.fields["version"] == 2 else 0)) // 4)

    def _vmac(self, strict: bool) -> None:
        draft = self.draft
        vmac = draft.get("vmac")
        base = bool(draft.get("vmac_xmit_base"))
        if base and (vmac is None or vmac.kind != "vmac"):
            self.error("vmac_xmit_base", "vmac_xmit_base without use_vmac: ignored", "use_vmac")
            base = False
        elif base and strict:
            self.error("vmac_xmit_base", "vmac_xmit_base does not go with strict mode: ignored")
            base = False
        if vmac is None:
            return
        if vmac.kind == "vmac" and self.fields["unicast"] and not base:
            self.error("vmac", "unicast with use_vmac sends from the interface below", "vmac_xmit_base")
            base = True
        if vmac.kind == "ipvlan" and self.fields["family"] == 4 and not draft.get("ipvlan_address"):
            self.error("vmac", "an IPv4 ipvlan needs an address", "use_ipvlan [IFNAME] ADDRESS")
        self.fields["vmac"] = msgspec.structs.replace(vmac, xmit_base=base)

    def _tracks(self, priority: int) -> Tracks:
        chosen: dict[str, list[Entry]] = {}
        for tracking in TRACKINGS:
            kept: list[Entry] = []
            for entry in entries(self.draft, tracking).values():
                weight = own_weight(self.context, tracking, entry.name)[0] if entry.weight is None else entry.weight
                if tracking.keyword == "track_interface" and entry.name == self.fields["interface"]:
                    text = f"{self.name}: its own interface '{entry.name}' is tracked anyway: ignored"
                    self.context.error(entry.line, text, "dont_track_primary switches it off", 0)
                    continue
                if priority == OWNER and weight and tracking.keyword != "track_process":
                    text = f"{self.name}: an owner ignores weights: {tracking.what} '{entry.name}' ignored"
                    self.context.error(entry.line, text, "weight 0", 0)
                    continue
                if self.group is not None and weight and not self.group.keeps_weights:
                    entry_ = self._in_group(tracking.keyword, tracking.what, entry, weight)
                    if entry_ is None:
                        continue
                    entry = entry_  # noqa: PLW2901 - the entry as the group leaves it
                kept.append(entry)
            chosen[tracking.keyword] = kept
        return tracks(self.context, chosen)

    def _in_group(self, keyword: str, what: str, entry: Entry, weight: int) -> Entry | None:
        """What a sync group leaves of a weighted entry of its member."""
        if keyword == "track_process":
            return entry
        if keyword == "track_interface" or (keyword == "track_file" and entry.weight is None and weight == 1):
            text = f"{self.name}: weight of {what} '{entry.name}' ignored: the instance is in a sync group"
            self.context.error(entry.line, text, "sync_group_tracking_weight, or track it in the group", 0)
            return msgspec.structs.replace(entry, weight=0, reverse=False)
        text = f"{self.name}: weighted {what} '{entry.name}' ignored: the instance is in a sync group"
        self.context.error(entry.line, text, "sync_group_tracking_weight, or track it in the group", 0)
        return None


def garp_timing(context: Context, draft: Draft, strict: bool) -> GarpTiming:
    """garp_* of an instance over vrrp_garp_* over the defaults."""
    values = context.globals
    found: dict[str, Any] = {}
    minimal = {"master_delay_us": 0, "master_repeat": 1, "master_refresh_us": 0, "master_refresh_repeat": 1}
    for name in GarpTiming.__struct_fields__[:6]:
        value = draft.get(f"garp_{name}", values.get(f"garp_{name}"))
        if value is None and values.get("vrrp_min_garp"):
            value = minimal.get(name)
        if value is not None:
            found[name] = value
    for name in ("delay_us", "repeat"):
        found.setdefault(f"lower_prio_{name}", found.get(f"master_{name}", getattr(GarpTiming(), f"master_{name}")))
        if strict and draft.get(f"garp_lower_prio_{name}"):
            text = f"{draft.name}: strict mode does not announce after a lower advert: 0 taken"
            context.error(draft.line_of(f"garp_lower_prio_{name}"), text, "0")
        if strict:
            found[f"lower_prio_{name}"] = 0
    extra = draft.get("garp_extra_if", values.get("vrrp_garp_extra_if"))
    if extra is not None:
        found |= {"extra_if_us": extra[0], "extra_if_all": extra[1]}
    return GarpTiming(**found)


def notify_scripts(context: Context, draft: Draft, owner: str) -> NotifyScripts:
    """notify_* of an instance or a group, as far as they can run."""
    found: dict[str, Any] = {}
    for name in _NOTIFIES:
        field = f"notify_{name}"
        found[name] = scripts.accept(context, draft.get(field), draft.line_of(field), f"{field} of {owner}")
    found["any"] = scripts.accept(context, draft.get("notify"), draft.line_of("notify"), f"notify of {owner}")
    values = context.globals
    alert = draft.get("smtp_alert", values.get("smtp_alert_vrrp", values.get("smtp_alert", False)))
    changes = draft.get("notify_priority_changes", values.get("vrrp_notify_priority_changes", False))
    deleted = bool(draft.get("notify_deleted_state"))
    return NotifyScripts(notify_deleted=deleted, priority_changes=bool(changes), smtp_alert=bool(alert), **found)


def _group(context: Context, plan: GroupPlan, built: Mapping[str, VrrpInstance]) -> SyncGroup | None:
    """A sync group of the members that can be used."""
    notify = notify_scripts(context, plan.draft, f"group {plan.name}")
    members = tuple(name for name in plan.members if name in built)
    if not members:
        return None
    owners = [name for name in members if built[name].priority == OWNER]
    chosen: dict[str, list[Entry]] = {}
    for tracking in TRACKINGS:
        kept = []
        for entry in entries(plan.draft, tracking).values():
            weight = own_weight(context, tracking, entry.name)[0] if entry.weight is None else entry.weight
            if owners and weight:
                text = f"{plan.name}: weight of {tracking.what} '{entry.name}' ignored: {owners[0]} has priority 255"
                context.error(entry.line, text, "weight 0", 0)
                entry = msgspec.structs.replace(entry, weight=0, reverse=False)  # noqa: PLW2901 - without its weight
            kept.append(entry)
        chosen[tracking.keyword] = kept
    return SyncGroup(
        name=plan.name,
        members=members,
        tracks=tracks(context, chosen),
        notify=notify,
        tracking_weight=plan.keeps_weights,
    )


def _static(context: Context) -> dict[str, Any]:
    """Static addresses, routes and rules, and the groups that follow them."""
    root = context.root
    default = context.globals.get("default_interface", "eth0")
    addresses: list[AddressSpec] = []
    for spec, line in root.get("static_addresses", ()):
        if spec.dev:
            addresses.append(spec)
        elif _default_interface(context, default, spec, line):
            addresses.append(msgspec.structs.replace(spec, dev=default))
    return {
        "static_addresses": tuple(addresses),
        "static_routes": tuple(root.get("static_routes", ())),
        "static_rules": tuple(root.get("static_rules", ())),
        "track_groups": tuple(
            (draft.name, tuple(name for name, _ in draft.get("members", ())))
            for draft in context.named("track_group").values()
        ),
    }


def _default_interface(context: Context, name: str, spec: AddressSpec, line: Line) -> bool:
    if context.host.interface(name) is not None or context.globals.get("dynamic_interfaces"):
        return True
    what = f"static address {spec.address} without dev: the default interface"
    hint = "dev INTERFACE, or default_interface"
    context.report(Severity.FATAL, line, f"{what} '{name}' does not exist", hint)
    return False


def _globals(context: Context) -> dict[str, Any]:
    values = context.globals
    found = {
        name: values.get(name)
        for name in (
            "garp_interval_us",
            "gna_interval_us",
            "disable_local_igmp",
            "log_unknown_vrids",
            "rx_bufs_policy",
            "rx_bufs_multiplier",
        )
        if values.has(name)
    }
    return found | {
        "startup_delay_us": max(values.get("startup_delay_us", 0), values.get("boot_delay_us", 0)),
        "dynamic_interfaces": bool(values.get("dynamic_interfaces")),
        "write_states_on_reload": bool(values.get("fifo_write_vrrp_states_on_reload")),
        "link_delays": tuple(
            LinkDelay(interface=name, down_us=down, up_us=up) for name, down, up in context.root.get("link_delays", ())
        ),
        "garp_groups": tuple(
            GarpGroup(
                garp_interval_us=draft.get("garp_interval_us", 0),
                gna_interval_us=draft.get("gna_interval_us", 0),
                interfaces=tuple(draft.get("interfaces", ())),
            )
            for draft in context.named("garp_group").values()
        ),
    }
