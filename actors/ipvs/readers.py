"""How the IPVS room's keywords are read where a plain kind of argument does not do (keepalived.conf(5)).

Counterpart: keywords.py, which lists them.
"""

from __future__ import annotations

import ipaddress
import re
import socket

from holdfast.actors.ipvs.config import Forwarding, GroupMember, LvsTimeouts, SyncDaemon
from holdfast.config.context import Words
from holdfast.config.kinds import Choice, Command, Integer, address, host_address
from holdfast.config.table import Draft
from holdfast.config.text import integer

_UINT32 = (1 << 32) - 1
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "sh", "mh", "dh", "fo", "ovf", "lblcr", "sed", "nq", "twos")
FLAGS = {"flag-1": 0x08, "flag-2": 0x10, "flag-3": 0x20}
_MOST_SECONDS = 2_678_400
_LAST_OCTET = re.compile(r"([0-9]+)\Z")
_LAST_GROUP = re.compile(r"([0-9a-fA-F]{1,4})\Z")


def read_port(words: Words, index: int, low: int = 1) -> int | None:
    """A port, 0 when there is no word, or None when it is none."""
    if len(words) <= index:
        return 0
    port = integer(words.items[index])
    return port if port is not None and low <= port <= 65535 and "-" not in words.items[index] else None


# -- virtual_server ----------------------------------------------------------------------------------------------------


def open_service(words: Words, parent: Draft) -> Draft | None:
    """`virtual_server ADDRESS [PORT]`, `virtual_server fwmark N`, `virtual_server group NAME`."""
    first = words.word()
    draft = Draft(words.line, first, parent)
    if first == "fwmark":
        mark = integer(words.word(2))
        if mark is None or not 0 < mark <= _UINT32 or "-" in words.items[2]:
            words.error(f"fwmark '{words.items[2]}': virtual_server skipped", "1..4294967295", index=2)
            return None
        draft.values |= {"kind": "fwmark", "fwmark": mark}
    elif first == "group":
        draft.values |= {"kind": "group", "group": words.word(2)}
    else:
        ip = host_address(words.word())
        port = read_port(words, 2)
        if ip is None or port is None:
            given = " ".join(words.items[1:3])
            words.error(f"'{given}': virtual_server skipped", "ADDRESS [1..65535], fwmark N or group NAME", index=1)
            return None
        draft.values |= {"kind": "address", "address": ip[0], "port": port, "family": ip[1]}
    words.context.root.values.setdefault("virtual_servers", []).append(draft)
    return draft


def ip_family(words: Words, draft: Draft) -> None:
    word = words.word()
    families = {"inet": 4, "inet6": 6}
    if word not in families:
        words.error(f"ip_family cannot be '{word}': ignored", "inet or inet6", index=1)
    elif draft.get("family", families[word]) != families[word]:
        words.error(
            f"ip_family {word} is not that of the virtual_server: ignored", "the family of its address", index=1
        )
    else:
        draft.put("family", families[word], words.line)


def scheduler(words: Words, draft: Draft) -> None:
    name = Choice(SCHEDULERS).read(words)
    if name is not None:
        draft.put("scheduler", name, words.line)


def flag(words: Words, draft: Draft) -> None:
    draft.values["flags"] = draft.get("flags", 0) | FLAGS[words.items[0]]


def scheduler_flag(words: Words, draft: Draft) -> None:
    """sh-port, sh-fallback, mh-port, mh-fallback: behind their scheduler."""
    scheduler, _, what = words.items[0].partition("-")
    chosen = draft.get("scheduler")
    if chosen not in ("sh", "mh"):
        hint = f"behind lvs_sched {scheduler}"
        words.error(f"'{words.items[0]}' is for scheduler {scheduler} only: ignored", hint, index=0)
    elif chosen == scheduler:
        draft.values["flags"] = draft.get("flags", 0) | (0x10 if what == "port" else 0x08)


def hashed(words: Words, draft: Draft) -> None:
    if draft.get("scheduler") not in ("sh", "mh"):
        words.error("'hashed' is for scheduler sh only: ignored", "behind lvs_sched sh", index=0)
        return
    draft.put("hashed", True, words.line)


def read_method(words: Words, draft: Draft, field: str) -> None:
    """`lvs_method NAT|DR|TUN [type ipip|gue|gre] [port N] [nocsum|csum|remcsum]`."""
    method = words.word()
    shape = "NAT, DR, or TUN [type ipip|gue|gre] [port N] [nocsum|csum|remcsum]"
    if method not in ("NAT", "DR", "TUN"):
        words.error(f"'{words.items[0]}' cannot be '{method}': ignored", shape, index=1)
        return
    kind, port, checksum = "ipip", 0, "nocsum"
    index = 2
    while index < len(words):
        word = words.items[index]
        if word == "type":
            kind = words.word(index + 1)
            if kind not in ("ipip", "gue", "gre"):
                words.error(f"'{kind}' is no type of tunnel: ignored", "ipip, gue or gre", index=index + 1)
                return
            index += 1
        elif word == "port":
            found = Integer(1, 65535).read(words, index + 1)
            if found is None:
                return
            port = found
            index += 1
        elif word in ("nocsum", "csum", "remcsum"):
            checksum = word
        else:
            words.error(f"unknown word '{word}' for a tunnel: ignored", shape, index=index)
            return
        index += 1
    if method != "TUN":
        draft.put(field, Forwarding(method=method), words.line)
    elif (kind == "gue") != bool(port):
        words.error("gue tunnels need a port, others have none: ignored", "type gue port N", index=1)
    elif checksum != "nocsum" and (kind == "ipip" or (kind == "gre" and checksum == "remcsum")):
        words.error(f"{kind} tunnels have no {checksum}: ignored", "ipip: nocsum; gre: csum; gue: all", index=1)
    else:
        forwarding = Forwarding(method="TUN", tunnel_type=kind, tunnel_port=port, tunnel_checksum=checksum)
        draft.put(field, forwarding, words.line)


def method(words: Words, draft: Draft) -> None:
    read_method(words, draft, "forwarding")


def persistence_engine(words: Words, draft: Draft) -> None:
    name = words.word()
    if len(name) > 15:
        words.error(f"persistence_engine '{name}' is too long: cut off", "at most 15 characters", index=1)
    draft.put("persistence_engine", name[:15], words.line)


def persistence_timeout(words: Words, draft: Draft) -> None:
    if len(words) == 1:
        draft.put("persistence_timeout_s", 360, words.line)
        return
    number = Integer(1, _MOST_SECONDS, unit="s").read(words)
    if number is not None:
        draft.put("persistence_timeout_s", number, words.line)


def granularity(words: Words, draft: Draft) -> None:
    """A netmask for IPv4, a prefix length for IPv6; a service without a family takes it from this."""
    word = words.word()
    family = draft.get("family")
    if family == 6 or (family is None and word.isdigit()):
        number = integer(word)
        if number is None or not 1 <= number <= 128:
            words.error(f"persistence_granularity cannot be '{word}': ignored", "1..128", index=1)
            return
        draft.values["family"] = 6
        draft.put("persistence_granularity", str(number), words.line)
        return
    try:
        mask = str(ipaddress.IPv4Address(socket.inet_aton(word)))
    except (OSError, UnicodeError, ValueError):
        words.error(f"persistence_granularity cannot be '{word}': ignored", "a netmask, 255.255.255.0", index=1)
        return
    draft.values["family"] = 4
    draft.put("persistence_granularity", mask, words.line)


def protocol(words: Words, draft: Draft) -> None:
    word = words.word().lower()
    if word not in ("tcp", "udp", "sctp"):
        words.error(f"protocol cannot be '{words.items[1]}': ignored", "TCP, UDP or SCTP", index=1)
        return
    draft.put("protocol", word, words.line)


def notify(words: Words, draft: Draft) -> None:
    """The first definition of a script wins."""
    field = words.items[0]
    if draft.has(field):
        words.error(f"{field} is given twice: ignored", "one script for each", index=0)
        return
    script = Command().read(words)
    if script is not None:
        draft.put(field, script, words.line)


def sorry_server(words: Words, draft: Draft) -> None:
    ip = host_address(words.word())
    port = read_port(words, 2, 0)
    if ip is None or port is None:
        words.error(f"'{' '.join(words.items[1:3])}' is no sorry_server: ignored", "ADDRESS [PORT]", index=1)
        return
    draft.put("sorry_server", (ip[0], port), words.line)


def sorry_inhibit(words: Words, draft: Draft) -> None:
    if not draft.has("sorry_server"):
        words.error("'sorry_server_inhibit' before any sorry_server: ignored", "behind sorry_server", index=0)
        return
    draft.put("sorry_inhibit", True, words.line)


def sorry_method(words: Words, draft: Draft) -> None:
    if not draft.has("sorry_server"):
        words.error("'sorry_server_lvs_method' before any sorry_server: ignored", "behind sorry_server", index=0)
        return
    read_method(words, draft, "sorry_forwarding")


# -- real_server -------------------------------------------------------------------------------------------------------


def open_server(words: Words, service: Draft) -> Draft | None:
    ip = host_address(words.word())
    port = read_port(words, 2, 0)
    if ip is None or port is None:
        words.error(f"'{' '.join(words.items[1:3])}': real_server skipped", "ADDRESS [PORT]", index=1)
        return None
    draft = Draft(words.line, words.items[1], service)
    draft.values = {"address": ip[0], "port": port, "family": ip[1]}
    service.append("servers", draft)
    return draft


# -- virtual_server_group ----------------------------------------------------------------------------------------------


def read_group(words: Words, parent: Draft) -> None:
    name = words.word()
    draft = Draft(words.line, name, parent)
    groups = words.context.named("virtual_server_group")
    members: list[GroupMember] = []
    if len(words) > 2:
        words.error(f"'{words.items[2]}' behind the name of virtual_server_group '{name}'", "one name", index=2)
    block = Words(words.context, words.items[:1], words.line)
    for line in words.context.value_lines(block):
        member = _member(line)
        if member is not None:
            members.append(member)
    unnamed = any(member.first is None and member.family == 0 for member in members)
    if unnamed and {member.family for member in members} >= {4, 6}:
        hint = "fwmark N inet|inet6"
        words.error(f"group '{name}' has IPv4, IPv6 and a fwmark without family: dropped", hint, index=0)
        return
    if not members:
        words.error(f"virtual_server_group '{name}' is empty: dropped", "ADDRESS PORT", index=0)
        return
    if name in groups:
        words.note(f"virtual_server_group '{name}' is defined twice: the first one counts", "another name", index=1)
        return
    draft.values["members"] = members
    groups[name] = draft


def _member(words: Words) -> GroupMember | None:
    """`ADDRESS [PORT]`, a range, a network, or `fwmark N [inet|inet6]`."""
    first = words.items[0]
    if first == "fwmark":
        return _fwmark_member(words)
    port = read_port(words, 1)
    start, dash, end = first.partition("-")
    base, slash, prefix = start.partition("/")
    ip = address(base)
    if ip is None or port is None:
        words.error(f"'{' '.join(words.items[:2])}' is no member of a group: skipped", "ADDRESS [PORT]", index=0)
        return None
    last = ip
    if dash:
        found = _range_end(words, ip, end)
        if found is None:
            return None
        last = found
    elif slash:
        length = integer(prefix)
        if length is None or not 0 < length <= ip.max_prefixlen:
            words.error(f"'{first}' has no valid prefix length: skipped", f"1..{ip.max_prefixlen}", index=0)
            return None
        network = ipaddress.ip_network(f"{ip}/{length}", strict=False)
        if network.network_address != ip:
            words.error(f"'{first}' has host bits: skipped", str(network), index=0)
            return None
        last = network.broadcast_address
    return GroupMember(family=ip.version, first=str(ip), last=None if last == ip else str(last), port=port)


def _fwmark_member(words: Words) -> GroupMember | None:
    mark = integer(words.word(1))
    families = {"inet": 4, "inet6": 6}
    if mark is None or not 0 <= mark <= _UINT32 or "-" in words.items[1]:
        words.error(f"fwmark '{words.items[1]}': skipped", "0..4294967295", index=1)
        return None
    if len(words) > 2 and words.items[2] not in families:
        words.error(f"'{words.items[2]}' is no family of a fwmark: skipped", "inet or inet6", index=2)
        return None
    return GroupMember(family=families[words.items[2]] if len(words) > 2 else 0, fwmark=mark)


def _range_end(
    words: Words, first: ipaddress.IPv4Address | ipaddress.IPv6Address, end: str
) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The end of a range: a whole address, or its last part."""
    last = address(end)
    if last is None:
        pattern = _LAST_OCTET if first.version == 4 else _LAST_GROUP
        value = int(end, 10 if first.version == 4 else 16) if pattern.match(end) else None
        size = 8 if first.version == 4 else 16
        if value is None or value >= 1 << size:
            words.error(f"'{words.items[0]}' has no valid end: skipped", "ADDRESS-LAST or ADDRESS-ADDRESS", index=0)
            return None
        last = ipaddress.ip_address((int(first) >> size << size) + value)
        if first.version == 6 and last.version == 4:
            last = ipaddress.IPv6Address(int(last))
    if last.version != first.version or int(last) <= int(first):
        words.error(f"the end of '{words.items[0]}' is not above its start: skipped", "START-END", index=0)
        return None
    return last


# -- global_defs -------------------------------------------------------------------------------------------------------


def timeouts(words: Words, draft: Draft) -> None:
    """`lvs_timeouts [tcp S] [tcpfin S] [udp S]`."""
    names = {"tcp": "tcp_s", "tcpfin": "tcp_fin_s", "udp": "udp_s"}
    found: dict[str, int] = {}
    shape = "tcp S, tcpfin S, udp S"
    if len(words) < 3:
        words.error("lvs_timeouts needs at least one value: ignored", shape, index=len(words))
        return
    index = 1
    while index < len(words):
        name = names.get(words.items[index])
        if name is None:
            words.error(f"unknown word '{words.items[index]}' for lvs_timeouts: ignored", shape, index=index)
            index += 1
            continue
        value = Integer(0, _MOST_SECONDS).read(words, index + 1)
        if value is not None:
            found[name] = value
        index += 2
    draft.put("lvs_timeouts", LvsTimeouts(**found), words.line)


def flush_on_stop(words: Words, draft: Draft) -> None:
    if len(words) > 1 and words.items[1] != "VS":
        words.error(f"'lvs_flush_on_stop' cannot be '{words.items[1]}': ignored", "VS, or nothing", index=1)
        return
    draft.put("lvs_flush_on_stop", "vs" if len(words) > 1 else "all", words.line)


_SYNC_NUMBERS = {"id": (0, 255), "maxlen": (1, 65507), "port": (1, 65535), "ttl": (1, 255)}
_SYNC_FIELDS = {"id": "sync_id", "maxlen": "max_length", "port": "port", "ttl": "ttl"}


def sync_daemon(words: Words, draft: Draft) -> None:
    """`lvs_sync_daemon IF [[inst] INSTANCE] [id N] [maxlen N] [port N] [ttl N] [group ADDRESS]`."""
    if len(words) < 2:
        words.error("lvs_sync_daemon lacks its interface: ignored", "lvs_sync_daemon INTERFACE [INSTANCE]", index=1)
        return
    fields: dict[str, object] = {}
    options = {*_SYNC_NUMBERS, "group"}
    index = 2
    if len(words) > 2 and words.items[2] not in options:
        index = 3
        name = words.items[2]
        if name == "inst" and len(words) > 3:
            name = words.items[3]
            index = 4
        fields["instance"] = name
        if len(words) > index and words.items[index] not in options:
            words.error("the sync id stands behind 'id'", f"id {words.items[index]}", index=index)
            fields["sync_id"] = Integer(0, 255).read(words, index)
            index += 1
    while index < len(words):
        word = words.items[index]
        if word not in options:
            words.error(
                f"unknown word '{word}' for lvs_sync_daemon: ignored", "id, maxlen, port, ttl, group", index=index
            )
            index += 1
            continue
        if index + 1 >= len(words):
            words.error(f"'{word}' of lvs_sync_daemon lacks its value: ignored", "", index=index + 1)
            break
        if word == "group":
            ip = address(words.items[index + 1])
            if ip is None or not ip.is_multicast:
                text = f"'{words.items[index + 1]}' is no multicast group: ignored"
                words.error(text, "224.0.0.81", index=index + 1)
            else:
                fields["group"] = str(ip)
        else:
            low, high = _SYNC_NUMBERS[word]
            value = Integer(low, high).read(words, index + 1)
            if value is not None:
                fields[_SYNC_FIELDS[word]] = value
        index += 2
    draft.put("lvs_sync_daemon", SyncDaemon(interface=words.items[1], **fields), words.line)  # type: ignore[arg-type]


def table_name(words: Words, draft: Draft) -> None:
    draft.put("nftables_ipvs", words.items[1] if len(words) > 1 else "keepalived_ipvs", words.line)
