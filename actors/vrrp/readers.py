"""How the VRRP room's keywords are read where a plain kind of argument does not do (keepalived.conf(5)).

Counterpart: keywords.py, which lists them.
"""

from __future__ import annotations

import ipaddress
import re

from holdfast.actors.vrrp.addresses import parse_address
from holdfast.actors.vrrp.config import UnicastPeer, Vmac
from holdfast.actors.vrrp.routes import parse_route
from holdfast.actors.vrrp.rules import parse_rule
from holdfast.config.context import Context, Words
from holdfast.config.diagnostics import Severity
from holdfast.config.kinds import Bool, Command, Integer, Time, Value, address
from holdfast.config.table import Draft
from holdfast.config.text import integer

_MAC = re.compile(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){4,5}\Z")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class AtLeastOne(Integer):
    """A count of which 0 becomes 1, with a complaint."""

    def read(self, words: Words, index: int = 1) -> object:
        """The count, or None after a complaint."""
        number = super().read(words, index)
        if number == 0:
            words.error(f"'{words.items[0]}' cannot be 0: 1 taken", "1 or more", index=index)
            return 1
        return number


class Multicast(Value):
    """A multicast address of one family."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.shape = "224.0.0.18" if family == 4 else "ff02::12"

    def read(self, words: Words, index: int = 1) -> object:
        """The address, or None after a complaint."""
        word = words.word(index)
        ip = address(word)
        if ip is None or ip.version != self.family or not ip.is_multicast:
            hint = f"an IPv{self.family} multicast address"
            words.error(f"'{word}' for '{words.items[0]}': ignored", hint, index=index)
            return None
        if isinstance(ip, ipaddress.IPv6Address) and ip.packed[1] & 0x0F != 2:
            words.error(f"'{word}' is not link-local multicast: taken nevertheless", "ff02::...", index=index)
        return str(ip)


class ExtraInterfaceTime(Value):
    """[all] SECONDS, for garp_extra_if."""

    shape = "[all] 0..86400 s"

    def __init__(self, low: int) -> None:
        self.low = low

    def read(self, words: Words, index: int = 1) -> object:
        """(microseconds, all interfaces?), or None after a complaint."""
        everywhere = len(words) > index and words.items[index] == "all"
        index += everywhere
        if len(words) <= index:
            words.error(f"'{words.items[0]}' lacks its time: ignored", self.shape, index=index)
            return None
        number = integer(words.items[index])
        if number is None or not self.low <= number <= 86400:
            hint = f"{self.low}..86400 s"
            words.error(f"'{words.items[0]}' cannot be '{words.items[index]}': ignored", hint, index=index)
            return None
        return number * 1_000_000, everywhere


# -- addresses, routes, rules ------------------------------------------------------------------------------------------


def _same_family(draft: Draft, words: Words, ip: Address, index: int, what: str) -> bool:
    """Whether an address is of the instance's family, which the first address decides."""
    family = draft.values.setdefault("family", ip.version)
    if family != ip.version:
        words.error(f"{what} '{ip}' is not of the instance's family: ignored", f"an IPv{family} address", index=index)
        return False
    return True


def virtual_address(words: Words, draft: Draft) -> None:
    spec = parse_address(words, static=False, family=draft.get("family"))
    if spec is not None:
        draft.values.setdefault("family", spec.family)
        draft.append("addresses", spec)


def excluded_address(words: Words, draft: Draft) -> None:
    spec = parse_address(words, static=False, family=None)
    if spec is not None:
        draft.append("excluded_addresses", spec)


def static_address(words: Words, draft: Draft) -> None:
    spec = parse_address(words, static=True, family=None)
    if spec is not None:
        draft.append("static_addresses", (spec, words.line))


def route_line(words: Words, draft: Draft) -> None:
    if (route := parse_route(words, static=False)) is not None:
        draft.append("routes", route)


def rule_line(words: Words, draft: Draft) -> None:
    if (rule := parse_rule(words, static=False)) is not None:
        draft.append("rules", rule)


def static_route(words: Words, draft: Draft) -> None:
    if (route := parse_route(words, static=True)) is not None:
        draft.append("static_routes", route)


def static_rule(words: Words, draft: Draft) -> None:
    if (rule := parse_rule(words, static=True)) is not None:
        draft.append("static_rules", rule)


def unicast_peers(words: Words, draft: Draft) -> None:
    """The unicast_peer block: also an empty one asks for unicast."""
    draft.values["unicast_words"] = True
    for line in words.context.value_lines(words):
        peer_line(line, draft)


def peer_line(words: Words, draft: Draft) -> None:
    ip = address(words.items[0])
    if ip is None:
        words.error(f"'{words.items[0]}' is no address of a unicast peer: ignored", "an IP address", index=0)
        return
    if not _same_family(draft, words, ip, 0, "unicast peer"):
        return
    limits: dict[str, int] = {}
    index = 1
    while index < len(words):
        word = words.items[index]
        if word not in ("min_ttl", "max_ttl"):
            words.error(f"unknown word '{word}' for a unicast peer: ignored", "min_ttl N, max_ttl N", index=index)
            index += 1
            continue
        if index + 1 >= len(words):
            words.error(f"'{word}' lacks its number: ignored", "0..255", index=index + 1)
            break
        value = integer(words.items[index + 1])
        if value is None or not 0 <= value <= 255:
            words.error(f"'{word}' cannot be '{words.items[index + 1]}': ignored", "0..255", index=index + 1)
        else:
            limits[word] = value
        index += 2
    if limits.get("min_ttl", 0) > limits.get("max_ttl", 255):
        words.error("min_ttl is above max_ttl: all packets of this peer are dropped", "min_ttl <= max_ttl", index=0)
    draft.append("peers", UnicastPeer(address=str(ip), **limits))


def read_source(words: Words, draft: Draft) -> None:
    ip = address(words.word())
    if ip is None:
        words.error(f"'{words.items[1]}' is no source address: ignored", "an IP address", index=1)
    elif _same_family(draft, words, ip, 1, "source"):
        draft.put("source", str(ip), words.line)
        if words.items[0] == "unicast_src_ip":
            draft.values["unicast_words"] = True


def multicast_destination(words: Words, draft: Draft) -> None:
    ip = address(words.word())
    if ip is None or not ip.is_multicast:
        words.error(f"'{words.items[1]}' is no multicast address: ignored", "224.0.0.0/4 or ff02::...", index=1)
    elif _same_family(draft, words, ip, 1, "multicast destination"):
        if isinstance(ip, ipaddress.IPv6Address) and ip.packed[1] & 0x0F != 2:
            words.error(f"'{ip}' is not link-local multicast: ignored", "ff02::...", index=1)
            return
        draft.put("mcast_group", str(ip), words.line)


def native_ipv6(words: Words, draft: Draft) -> None:
    if draft.values.setdefault("family", 6) == 4:
        words.error("native_ipv6 with IPv4 addresses: ignored", "IPv6 addresses only", index=0)


# -- the instance ------------------------------------------------------------------------------------------------------


def read_interface(words: Words, draft: Draft) -> None:
    name = words.word()
    found = words.context.host.interface(name)
    if found is not None and found.loopback:
        words.error(f"'{name}' is a loopback interface: ignored", "an interface with other routers behind it", index=1)
        return
    words.context.has_interface(name, words.line, f"of {draft.name}", 1)
    draft.put("interface", name, words.line)


def read_state(words: Words, draft: Draft) -> None:
    word = words.word()
    if word not in ("MASTER", "BACKUP"):
        words.error(f"'{word}' is no state: BACKUP taken", "MASTER or BACKUP", index=1)
    elif word == "BACKUP" and draft.get("state") == "MASTER":
        words.error("state was MASTER before: BACKUP ignored", "one state", index=1)
    else:
        draft.put("state", word, words.line)


def auth_type(words: Words, draft: Draft) -> None:
    """`auth_type PASS|AH`."""
    word = words.word()
    if word not in ("PASS", "AH"):
        words.error(f"'auth_type' cannot be '{word}': ignored", "PASS or AH", index=1)
        return
    if word == "AH":
        text = "'auth_type AH' is accepted and not yet acted on: adverts have no authentication"
        words.note(text, "auth_type PASS", index=1)
    draft.put("auth_type", word, words.line)


def auth_pass(words: Words, draft: Draft) -> None:
    password = words.word().encode()
    if len(password) > 8:
        words.error(f"'{words.items[1]}' is longer than 8 characters: cut off", "1..8 characters", index=1)
    draft.put("auth_pass", password[:8], words.line)


def old_checksum(words: Words, draft: Draft) -> None:
    draft.values["unicast_words"] = True
    if len(words) == 1:
        draft.put("old_unicast_checksum", True, words.line)
    elif words.items[1] == "never":
        draft.put("old_unicast_checksum", False, words.line)
    else:
        words.error(f"'old_unicast_checksum' cannot be '{words.items[1]}': ignored", "never, or nothing", index=1)


def skip_check(words: Words, draft: Draft) -> None:
    # Any valid value switches it on, also false: so does keepalived.
    if Bool().read(words) is not None:
        draft.put("skip_check_adv_addr", True, words.line)


def read_vrf(words: Words, draft: Draft) -> None:
    name = words.word()
    if draft.has("interface"):
        words.error("vrf and interface exclude each other: ignored", "unicast without interface", index=0)
    else:
        draft.put("vrf", name, words.line)


def use_vmac(words: Words, draft: Draft) -> None:
    """`use_vmac [[name] IFNAME] [MAC] [group G] [netlink_notify_msg]`; 2.2.7 knows IFNAME and MAC only."""
    name = mac = None
    for index in range(1, len(words)):
        word = words.items[index]
        if _MAC.match(word):
            octets = [int(octet, 16) for octet in word.split(":")]
            if octets[:4] == [0, 0, 0x5E, 0] or octets[0] & 1:
                words.error(
                    f"'{word}' cannot be the MAC of a VMAC: ignored", "not 00:00:5e:00, not multicast", index=index
                )
                continue
            mac = word
        elif name is not None:
            words.error(f"the VMAC has a name already: '{word}' ignored", "one name", index=index)
        elif len(word) > 15 or "/" in word:
            words.error(f"'{word}' cannot be an interface's name: ignored", "at most 15 characters", index=index)
        elif words.context.host.interface(word) is not None:
            words.error(f"interface '{word}' exists already: name ignored", "another name", index=index)
        elif any(
            isinstance(vmac := other.get("vmac"), Vmac) and vmac.ifname == word
            for other in words.context.named("vrrp_instance").values()
            if other is not draft
        ):
            words.error(f"VMAC '{word}' is another instance's: name ignored", "another name", index=index)
        else:
            name = word
    draft.put("vmac", Vmac(kind="vmac", ifname=name, mac=mac, words=tuple(words.items[1:])), words.line)


def use_ipvlan(words: Words, draft: Draft) -> None:
    """`use_ipvlan [IFNAME] [ADDRESS] [bridge|private|vepa]`."""
    name = None
    for index in range(1, len(words)):
        word = words.items[index]
        ip = address(word.partition("/")[0])
        if ip is not None:
            if _same_family(draft, words, ip, index, "ipvlan address"):
                draft.values["ipvlan_address"] = True
        elif word in ("bridge", "private", "vepa"):
            continue
        elif name is not None:
            words.error(f"the ipvlan has a name already: '{word}' ignored", "one name", index=index)
        else:
            name = word
    draft.put("vmac", Vmac(kind="ipvlan", ifname=name, words=tuple(words.items[1:])), words.line)


def notify_deleted(words: Words, draft: Draft) -> None:
    draft.values["notify_deleted_state"] = True
    if len(words) > 1:
        first_notify(words, draft)


def first_notify(words: Words, draft: Draft) -> None:
    """The first definition of a notify script wins."""
    field = words.items[0]
    if draft.has(field):
        words.error(f"{field} of {draft.name} is given twice: ignored", "one script for each", index=0)
        return
    script = Command().read(words)
    if script is not None:
        draft.put(field, script, words.line)


def read_members(words: Words, draft: Draft) -> None:
    if draft.has("members"):
        words.error(f"the members of '{draft.name}' are given twice: ignored", "one group block", index=0)
        return
    draft.put("members", [], words.line)
    what = f"'{draft.name}' has an empty group block"
    for line in words.context.value_lines(words, needs_lines=what):
        draft.values["members"] += [(name, line.line) for name in line.items]


def link_delay(words: Words, draft: Draft) -> None:
    name = words.items[0]
    words.context.has_interface(name, words.line, "of interface_up_down_delays", 0, severity=Severity.FATAL)
    delays = Time(0, 255)
    down = delays.read(words, 1) if len(words) > 1 else 0
    up = delays.read(words, 2) if len(words) > 2 else 0
    draft.append("link_delays", (name, down or 0, up or 0))


def linkbeat(words: Words, draft: Draft) -> None:
    if not words.context.has_interface(words.items[0], words.line, "of linkbeat", 0, severity=Severity.FATAL):
        return
    for index in range(1, len(words)):
        if words.items[index] not in ("MII", "ETHTOOL", "IOCTL"):
            hint = "MII, ETHTOOL or IOCTL"
            words.error(f"unknown word '{words.items[index]}' for linkbeat: ignored", hint, index=index)


def open_garp_group(words: Words, parent: Draft) -> Draft:
    groups = words.context.named("garp_group")
    draft = Draft(words.line, str(len(groups)))
    groups[draft.name] = draft
    return draft


def garp_interface(words: Words, draft: Draft, index: int = 1) -> None:
    name = words.word(index)
    words.context.has_interface(name, words.line, "of a garp_group", index)
    taken: set[str] = words.context.root.values.setdefault("garp_group_interfaces", set())
    if name in taken:
        words.error(f"'{name}' is in a garp_group already: ignored", "one garp_group for each", index=index)
        return
    taken.add(name)
    draft.append("interfaces", name)


def garp_interface_line(words: Words, draft: Draft) -> None:
    for index in range(len(words)):
        garp_interface(words, draft, index)


def close_garp_group(draft: Draft, context: Context) -> None:
    if not draft.has("garp_interval_us") and not draft.has("gna_interval_us"):
        context.error(draft.line, "a garp_group without intervals: dropped", "garp_interval or gna_interval")
        del context.named("garp_group")[draft.name]


def dynamic_interfaces(words: Words, draft: Draft) -> None:
    draft.put("dynamic_interfaces", True, words.line)
    if len(words) > 1 and words.items[1] != "allow_if_changes":
        words.error(f"unknown word '{words.items[1]}': ignored", "allow_if_changes", index=1)


def iptables(words: Words, draft: Draft) -> None:
    draft.put("vrrp_iptables", tuple(words.items[1:]), words.line)
    words.error("iptables is not used, nftables is", "replace vrrp_iptables and vrrp_ipsets by nftables", index=0)


def rx_policy(words: Words, draft: Draft) -> None:
    if len(words) < 2:
        words.error("'vrrp_rx_bufs_policy' lacks its policy: ignored", "MTU, ADVERT or bytes", index=1)
        return
    word = words.items[1].upper()
    if word not in ("MTU", "ADVERT") and integer(word) is None:
        words.error(f"'vrrp_rx_bufs_policy' cannot be '{words.items[1]}': ignored", "MTU, ADVERT or bytes", index=1)
        return
    draft.put("rx_bufs_policy", word, words.line)


def interface_name(words: Words, draft: Draft) -> None:
    if len(words) < 2:
        words.error("'default_interface' lacks an interface: ignored", "default_interface INTERFACE", index=1)
        return
    draft.put("default_interface", words.items[1], words.line)


def timer_expired(words: Words, draft: Draft) -> None:
    """`timer_expired_backup [PRIORITY]`."""
    priority = Integer(1, 254).read(words) if len(words) > 1 else 254
    if priority is not None:
        draft.put("timer_expired_backup", priority, words.line)


def check_unicast_src(words: Words, draft: Draft) -> None:
    """`check_unicast_src`, which is for unicast only."""
    draft.values["unicast_words"] = True
    draft.put("check_unicast_src", True, words.line)


def optional_words(words: Words, draft: Draft) -> None:
    """Whatever names stand behind the keyword."""
    draft.put(words.items[0], tuple(words.items[1:]), words.line)
