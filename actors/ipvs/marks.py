"""nftables_ipvs: the addresses of a virtual server group in nftables maps, and one kernel service by mark for them all.

keepalived.conf(5), nftables_ipvs: a group of thousands of addresses costs the kernel one service for each protocol and
family instead of thousands. Pure: what the firewall is told is a text that replaces our table in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from holdfast.actors.ipvs.config import GroupMember, IpvsGlobals, VirtualServer

_PROTOCOLS = ("tcp", "udp", "sctp")
_ADDRESS_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
_HEADERS = {4: "ip", 6: "ip6"}


class Marks:
    """Which mark stands for which virtual server and family. Marks once given stay while their service is there."""

    def __init__(self, given: dict[str, int] | None = None) -> None:
        self.given: dict[str, int] = dict(given or {})
        self._members: dict[str, tuple[str, tuple[GroupMember, ...]]] = {}

    def rewrite(self, config: VirtualServer, settings: IpvsGlobals) -> VirtualServer:
        """The virtual server as the kernel gets it: a mark for each family instead of its addresses."""
        self.forget(config.name, keep_marks=True)
        if settings.nftables_table is None or config.kind != "group":
            self.forget(config.name)
            return config
        addresses = tuple(member for member in config.members if member.first is not None)
        if not addresses:
            self.forget(config.name)
            return config
        families = sorted({_family(member) for member in addresses})
        for gone in (4, 6):
            if gone not in families:
                self.given.pop(_key(config.name, gone), None)
        marked = tuple(
            GroupMember(family=family, fwmark=self._mark(config.name, family, settings.nftables_start_fwmark))
            for family in families
        )
        self._members[config.name] = (config.protocol, addresses)
        others = tuple(member for member in config.members if member.first is None)
        return msgspec.structs.replace(config, members=(*marked, *others))

    def forget(self, name: str, *, keep_marks: bool = False) -> None:
        """The virtual server is gone."""
        self._members.pop(name, None)
        if not keep_marks:
            for family in (4, 6):
                self.given.pop(_key(name, family), None)

    def _mark(self, name: str, family: int, start: int) -> int:
        key = _key(name, family)
        mark = self.given.get(key)
        if mark is None or mark < start:
            taken = set(self.given.values())
            mark = start
            while mark in taken:
                mark += 1
            self.given[key] = mark
        return mark

    def script(self, settings: IpvsGlobals) -> str:
        """What `nft -f -` gets: our table as it should be, or gone when there is nothing to mark."""
        table = settings.nftables_table
        if table is None or not self._members:
            return ""
        lines = [removal(table).rstrip()]
        # A table for each family: not every kernel has nftables' family inet.
        for family in (4, 6):
            maps: list[str] = []
            rules: list[str] = []
            for protocol in _PROTOCOLS:
                for any_port in (False, True):
                    elements = list(self._elements(protocol, family, any_port=any_port))
                    if elements:
                        name = f"{protocol}_map{'_any' if any_port else ''}"
                        maps.extend(_map(name, family, elements, any_port=any_port))
                        rules.append(_rule(name, protocol, family, any_port=any_port, settings=settings))
            if rules:
                lines.append(f"table {_HEADERS[family]} {table} {{")
                lines.extend(maps)
                lines.append("    chain in {")
                lines.append(f"        type filter hook input priority {settings.nftables_priority}; policy accept;")
                lines.extend(f"        {rule}" for rule in rules)
                lines.extend(("    }", "}"))
        return "\n".join(lines) + "\n"

    def _elements(self, protocol: str, family: int, *, any_port: bool) -> Iterable[str]:
        for name, (spoken, members) in self._members.items():
            if spoken != protocol:
                continue
            for member in members:
                if _family(member) != family or (member.port == 0) is not any_port:
                    continue
                mark = self.given[_key(name, family)]
                last = member.last if member.last not in (None, member.first) else None
                addresses = f"{member.first}-{last}" if last else str(member.first)
                yield f"{addresses} : {mark}" if any_port else f"{addresses} . {member.port} : {mark}"


def removal(table: str) -> str:
    """Removes our tables, whether they are there or not."""
    return "".join(f"add table {family} {table}\ndelete table {family} {table}\n" for family in _HEADERS.values())


def _key(name: str, family: int) -> str:
    return f"{name} IPv{family}"


def _family(member: GroupMember) -> int:
    return 6 if ":" in (member.first or "") else 4


def _map(name: str, family: int, elements: list[str], *, any_port: bool) -> list[str]:
    key = _ADDRESS_TYPES[family] + ("" if any_port else " . inet_service")
    content = ",\n            ".join(elements)
    return [
        f"    map {name} {{",
        f"        type {key} : mark",
        "        flags interval",
        f"        elements = {{ {content} }}",
        "    }",
    ]


def _rule(name: str, protocol: str, family: int, *, any_port: bool, settings: IpvsGlobals) -> str:
    address = f"{_HEADERS[family]} daddr"
    key = address if any_port else f"{address} . {protocol} dport"
    counter = "counter " if settings.nftables_counters else ""
    return f"meta l4proto {protocol} {counter}meta mark set {key} map @{name}"
