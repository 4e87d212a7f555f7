"""nftables_ipvs: groups by mark, and the firewall's text."""

from __future__ import annotations

import msgspec
from pools import real
from test_ipvs_room import House

from holdfast.actors.ipvs.config import GroupMember, IpvsGlobals, VirtualServer
from holdfast.actors.ipvs.marks import Marks, removal
from holdfast.actors.ipvs.room import Room

RANGE4 = GroupMember(family=4, first="10.0.0.1", last="10.0.0.9", port=80)
SINGLE4 = GroupMember(family=4, first="10.0.1.1", port=0)
RANGE6 = GroupMember(family=6, first="fd00::1", last="fd00::9", port=443)
OWN_MARK = GroupMember(fwmark=5, family=4)
ON = IpvsGlobals(nftables_table="keepalived_ipvs")


def group(name: str, *members: GroupMember, protocol: str = "tcp") -> VirtualServer:
    return VirtualServer(
        name=f"[{name}]:0",
        kind="group",
        family=4,
        protocol=protocol,
        group=name,
        members=members,
        real_servers=(real(1),),
    )


def test_addresses_become_one_mark_a_family_and_own_marks_stay() -> None:
    marks = Marks()
    rewritten = marks.rewrite(group("A", RANGE4, SINGLE4, RANGE6, OWN_MARK), ON)
    assert rewritten.members == (GroupMember(family=4, fwmark=1000), GroupMember(family=6, fwmark=1001), OWN_MARK)
    other = marks.rewrite(group("B", RANGE4, protocol="udp"), ON)
    assert other.members == (GroupMember(family=4, fwmark=1002),)
    # Given once, they stay; a group that goes frees its own.
    assert marks.rewrite(group("A", RANGE4), ON).members == (GroupMember(family=4, fwmark=1000),)
    marks.forget("[A]:0")
    assert marks.rewrite(group("C", RANGE4), ON).members == (GroupMember(family=4, fwmark=1000),)
    assert Marks({"[B]:0 IPv4": 1002}).rewrite(group("B", RANGE4), ON).members[0].fwmark == 1002


def test_without_the_keyword_nothing_changes() -> None:
    marks = Marks()
    config = group("A", RANGE4)
    assert marks.rewrite(config, IpvsGlobals()) is config
    assert marks.script(IpvsGlobals()) == ""
    assert marks.rewrite(group("A", OWN_MARK), ON).members == (OWN_MARK,)
    assert marks.script(ON) == ""


def test_the_firewalls_text() -> None:
    marks = Marks()
    marks.rewrite(group("A", RANGE4, SINGLE4), ON)
    marks.rewrite(group("B", RANGE6, protocol="udp"), ON)
    assert marks.script(ON) == (
        "add table ip keepalived_ipvs\n"
        "delete table ip keepalived_ipvs\n"
        "add table ip6 keepalived_ipvs\n"
        "delete table ip6 keepalived_ipvs\n"
        "table ip keepalived_ipvs {\n"
        "    map tcp_map {\n"
        "        type ipv4_addr . inet_service : mark\n"
        "        flags interval\n"
        "        elements = { 10.0.0.1-10.0.0.9 . 80 : 1000 }\n"
        "    }\n"
        "    map tcp_map_any {\n"
        "        type ipv4_addr : mark\n"
        "        flags interval\n"
        "        elements = { 10.0.1.1 : 1000 }\n"
        "    }\n"
        "    chain in {\n"
        "        type filter hook input priority -1; policy accept;\n"
        "        meta l4proto tcp meta mark set ip daddr . tcp dport map @tcp_map\n"
        "        meta l4proto tcp meta mark set ip daddr map @tcp_map_any\n"
        "    }\n"
        "}\n"
        "table ip6 keepalived_ipvs {\n"
        "    map udp_map {\n"
        "        type ipv6_addr . inet_service : mark\n"
        "        flags interval\n"
        "        elements = { fd00::1-fd00::9 . 443 : 1001 }\n"
        "    }\n"
        "    chain in {\n"
        "        type filter hook input priority -1; policy accept;\n"
        "        meta l4proto udp meta mark set ip6 daddr . udp dport map @udp_map\n"
        "    }\n"
        "}\n"
    )


async def test_the_room_loads_the_maps_and_serves_by_mark() -> None:
    house = House()
    loaded: list[str] = []

    async def load(script: str, subject: str) -> None:
        loaded.append(script)

    house.room._marking._load = load
    assert isinstance(house.room, Room)
    await house.configure(group("A", RANGE4), nftables_table="t")
    assert [str(key) for key in house.table.table] == ["FWM 1000"]
    assert "10.0.0.1-10.0.0.9 . 80 : 1000" in loaded[-1]
    count = len(loaded)
    await house.configure(msgspec.structs.replace(group("A", RANGE4), scheduler="rr"), nftables_table="t")
    assert len(loaded) == count
    await house.configure(group("A", RANGE4))
    assert len(house.table.table) == 9
    assert loaded[-1] == removal("t")
    await house.configure(group("A", RANGE4), nftables_table="t")
    assert [str(key) for key in house.table.table] == ["FWM 1000"]
    await house.stop()
    assert loaded[-1] == removal("t")
