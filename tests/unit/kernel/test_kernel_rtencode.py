"""rtnetlink requests: beside pyroute2's reading of them, and through our own decoder and back."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from holdfast.kernel.base import AddressSpec, KernelError, NextHop, RouteSpec, RuleSpec
from holdfast.kernel.records import AddressRecord
from holdfast.kernel.rtdecode import UNREADABLE, decode_address, decode_link, decode_route, decode_rule, messages
from holdfast.kernel.rtencode import encode_address, encode_route, encode_rule

INDEXES = {"eth0": 7, "eth1": 8}
NAMES = {index: name for name, index in INDEXES.items()}


def ifindex_of(name: str) -> int:
    if name not in INDEXES:
        raise KernelError("find interface", f"link/{name}", 19)
    return INDEXES[name]


def read(kind: type, data: bytes) -> tuple[Any, dict[str, Any]]:
    """pyroute2's view: the message and its attributes."""
    message = kind(data)
    message.decode()
    assert message["header"]["length"] == len(data)
    return message, dict(message["attrs"])


def body_of(data: bytes) -> tuple[int, int, int, int]:
    """(type, flags, offset, end) of the one message."""
    ((kind, flags, _, _, offset, end),) = messages(data)
    return kind, flags, offset, end


def decoded_address(data: bytes) -> AddressRecord:
    _, _, offset, end = body_of(data)
    record = decode_address(data, offset, end)
    assert record is not None
    return record


def test_a_plain_address() -> None:
    message, attributes = read(ifaddrmsg, encode_address(AddressSpec(address="10.1.2.3", prefix=32), 7))
    assert (message["family"], message["prefixlen"], message["index"], message["scope"]) == (2, 32, 7, 0)
    assert attributes == {"IFA_LOCAL": "10.1.2.3", "IFA_ADDRESS": "10.1.2.3"}
    assert message["header"]["type"] == 20
    assert message["header"]["flags"] == 0x501  # REQUEST, CREATE, REPLACE


def test_an_address_with_everything() -> None:
    spec = AddressSpec(
        address="10.1.2.3",
        prefix=24,
        broadcast="+",
        scope=253,
        label="eth0:vip",
        noprefixroute=True,
        autojoin=True,
        preferred_lft_s=60,
    )
    message, attributes = read(ifaddrmsg, encode_address(spec, 7, valid_lft_s=3))
    assert message["scope"] == 253
    assert attributes["IFA_BROADCAST"] == "10.1.2.255"
    assert attributes["IFA_LABEL"] == "eth0:vip"
    assert attributes["IFA_FLAGS"] == 0x600
    # The kernel refuses a preferred lifetime above the valid one.
    assert attributes["IFA_CACHEINFO"]["ifa_valid"] == attributes["IFA_CACHEINFO"]["ifa_preferred"] == 3


def test_ipv6_has_its_own_flags_and_no_label() -> None:
    spec = AddressSpec(
        address="fd00::1", prefix=64, home=True, mngtmpaddr=True, label="x", broadcast="+", scope=253, preferred_lft_s=0
    )
    message, attributes = read(ifaddrmsg, encode_address(spec, 7))
    assert message["family"] == socket.AF_INET6
    assert message["scope"] == 0
    assert attributes["IFA_FLAGS"] == 0x02 | 0x10 | 0x100
    assert attributes["IFA_CACHEINFO"]["ifa_preferred"] == 0
    assert attributes["IFA_CACHEINFO"]["ifa_valid"] == 0xFFFFFFFF
    assert set(attributes) == {"IFA_LOCAL", "IFA_ADDRESS", "IFA_FLAGS", "IFA_CACHEINFO"}


def test_the_prefix_of_a_peer_counts() -> None:
    spec = AddressSpec(address="10.1.2.3", prefix=32, peer="10.9.9.0/24")
    message, attributes = read(ifaddrmsg, encode_address(spec, 7))
    assert message["prefixlen"] == 24
    assert (attributes["IFA_LOCAL"], attributes["IFA_ADDRESS"]) == ("10.1.2.3", "10.9.9.0")


def test_removing_an_address_names_only_what_finds_it() -> None:
    spec = AddressSpec(address="10.1.2.3", prefix=24, broadcast="+", label="eth0:vip")
    message, attributes = read(ifaddrmsg, encode_address(spec, 7, remove=True))
    assert message["header"]["type"] == 21
    assert attributes == {"IFA_LOCAL": "10.1.2.3", "IFA_ADDRESS": "10.1.2.3"}


@pytest.mark.parametrize(("text", "expected"), [("+", "10.1.3.255"), ("-", "10.1.2.0"), ("10.1.2.7", "10.1.2.7")])
def test_broadcast_words(text: str, expected: str) -> None:
    data = encode_address(AddressSpec(address="10.1.2.3", prefix=23, broadcast=text), 7)
    assert decoded_address(data).broadcast == expected


@given(
    address=st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    prefix=st.integers(1, 32),
    scope=st.sampled_from((0, 253, 254)),
    valid=st.none() | st.integers(1, 100_000),
    flags=st.tuples(*[st.booleans()] * 4),
)
def test_addresses_come_back(
    address: Any, prefix: int, scope: int, valid: int | None, flags: tuple[bool, bool, bool, bool]
) -> None:
    home, nodad, noprefixroute, autojoin = flags
    spec = AddressSpec(
        address=str(address),
        prefix=prefix,
        scope=scope,
        home=home,
        nodad=nodad,
        noprefixroute=noprefixroute,
        autojoin=autojoin,
    )
    record = decoded_address(encode_address(spec, 7, valid_lft_s=valid))
    assert ipaddress.ip_address(record.address) == address
    assert (record.prefix, record.ifindex, record.valid_lft_s) == (prefix, 7, valid)
    six = address.version == 6
    assert record.scope == (0 if six else scope)
    assert record.flags == (
        (2 if nodad and six else 0)
        | (0x10 if home and six else 0)
        | (0x200 if noprefixroute else 0)
        | (0x400 if autojoin else 0)
    )


def test_a_route_as_iproute2_would_ask_for_it() -> None:
    spec = RouteSpec(destination="10.8.0.0/16", via="10.1.2.254", dev="eth0", source="10.1.2.3", metric=5, tos=16)
    message, attributes = read(rtmsg, encode_route(spec, ifindex_of))
    assert message["header"]["type"] == 24
    assert message["header"]["flags"] == 0x401
    assert [message[name] for name in ("family", "dst_len", "src_len", "tos", "table", "proto", "scope", "type")] == [
        2,
        16,
        0,
        16,
        254,
        18,
        0,
        1,
    ]
    assert attributes == {
        "RTA_DST": "10.8.0.0",
        "RTA_PRIORITY": 5,
        "RTA_GATEWAY": "10.1.2.254",
        "RTA_PREFSRC": "10.1.2.3",
        "RTA_OIF": 7,
    }


def test_metrics_multipath_and_big_tables() -> None:
    spec = RouteSpec(
        destination="default",
        table=5000,
        metrics=(("mtu", "1400", True), ("rtt", "20ms", False), ("congctl", "cubic", False), ("initcwnd", "20", False)),
        features=("ecn",),
        realms="3/4",
        next_hops=(
            NextHop(via="10.1.2.254", dev="eth0", weight=3),
            NextHop(via="fe80::1", dev="eth1", onlink=True),
        ),
    )
    message, attributes = read(rtmsg, encode_route(spec, ifindex_of))
    assert message["table"] == 0
    assert attributes["RTA_TABLE"] == 5000
    assert attributes["RTA_FLOW"] == 3 << 16 | 4
    metrics = dict(attributes["RTA_METRICS"]["attrs"])
    assert metrics["RTAX_LOCK"] == 1 << 2
    assert (metrics["RTAX_MTU"], metrics["RTAX_RTT"], metrics["RTAX_INITCWND"], metrics["RTAX_FEATURES"]) == (
        1400,
        160,
        20,
        1,
    )
    hops = attributes["RTA_MULTIPATH"]
    assert [(hop["hops"], hop["oif"], hop["flags"]) for hop in hops] == [(2, 7, 0), (0, 8, 4)]
    assert dict(hops[0]["attrs"])["RTA_GATEWAY"] == "10.1.2.254"
    assert "RTA_VIA" in dict(hops[1]["attrs"])


@pytest.mark.parametrize(
    ("spec", "table", "scope", "kind"),
    [
        (RouteSpec(destination="10.0.0.0/8", dev="eth0"), 254, 253, 1),
        (RouteSpec(destination="10.0.0.0/8", via="10.1.1.1"), 254, 0, 1),
        (RouteSpec(destination="10.0.0.1", type="local", dev="eth0"), 255, 254, 2),
        (RouteSpec(destination="10.0.0.0/8", type="blackhole"), 254, 0, 6),
        (RouteSpec(destination="10.0.0.0/8", type="throw", table=9, scope=200), 9, 200, 9),
        (RouteSpec(destination="fd00::/8", family=6, dev="eth0"), 254, 0, 1),
    ],
)
def test_defaults_of_table_and_scope(spec: RouteSpec, table: int, scope: int, kind: int) -> None:
    message, _ = read(rtmsg, encode_route(spec, ifindex_of))
    assert (message["table"], message["scope"], message["type"]) == (table, scope, kind)


def test_modes_of_adding() -> None:
    for mode, flags in (("prepend", 0x401), ("add", 0x601), ("append", 0xC01)):
        spec = RouteSpec(destination="10.0.0.0/8", dev="eth0", mode=mode)
        assert body_of(encode_route(spec, ifindex_of))[1] == flags
        assert body_of(encode_route(spec, ifindex_of, remove=True))[:2] == (25, 1)


def test_a_route_on_an_interface_that_is_not_there() -> None:
    with pytest.raises(KernelError) as caught:
        encode_route(RouteSpec(destination="10.0.0.0/8", dev="eth9"), ifindex_of)
    assert caught.value.errno == 19


ROUTES = [
    RouteSpec(destination="10.8.0.0/16", via="10.1.2.254", dev="eth0", table=254, scope=0, metric=5, tos=16),
    RouteSpec(destination="default", family=6, via="fe80::1", dev="eth1", table=254, scope=0, preference="high"),
    RouteSpec(destination="10.8.0.0/16", type="unreachable", table=5000, scope=0, realms="3/4"),
    RouteSpec(
        destination="fd00:8::/64",
        family=6,
        from_="fd00::/64",
        dev="eth0",
        table=254,
        scope=0,
        metrics=(("mtu", "1400", True),),
        features=("ecn",),
    ),
    RouteSpec(
        destination="10.9.0.0/16",
        table=254,
        scope=0,
        next_hops=(NextHop(via="10.1.2.1", dev="eth0", weight=256), NextHop(via="10.1.2.2", dev="eth1", onlink=True)),
    ),
    RouteSpec(
        destination="10.7.0.0/16",
        dev="eth0",
        table=254,
        scope=253,
        encap=("ip", "id", "7", "dst", "10.0.0.9", "ttl", "64"),
    ),
    RouteSpec(destination="10.6.0.0/16", dev="eth0", table=254, scope=253, encap=("mpls", "100/200", "ttl", "9")),
    RouteSpec(
        destination="10.5.0.0/16", dev="eth0", table=254, scope=253, encap=("ip6", "src", "fd00::1", "dst", "fd00::2")
    ),
    RouteSpec(destination="10.4.0.0/16", via="fd00::1", dev="eth0", table=254, scope=0, ttl_propagate=True),
]


@pytest.mark.parametrize("spec", ROUTES, ids=lambda spec: spec.destination)
def test_routes_come_back(spec: RouteSpec) -> None:
    data = encode_route(spec, ifindex_of)
    _, _, offset, end = body_of(data)
    record = decode_route(data, offset, end, NAMES.get)
    assert record is not None
    assert record.spec == spec


@pytest.mark.parametrize("words", [("gre", "x"), ("ip", "colour", "red")], ids=["kind not known", "option not known"])
def test_an_encapsulation_that_is_not_known_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(KernelError):
        encode_route(RouteSpec(destination="10.0.0.0/8", dev="eth0", encap=words), ifindex_of)


def test_ila_locators() -> None:
    data = encode_route(RouteSpec(destination="10.0.0.0/8", dev="eth0", encap=("ila", "1:2:3:44")), ifindex_of)
    assert bytes.fromhex("0001000200030044") in data


RULES = [
    RuleSpec(from_="10.0.0.0/8", table=100, preference=500),
    RuleSpec(family=6, to="fd00::/8", table=70_000, preference=3, invert=True, iif="eth0", oif="eth1", tos=4),
    RuleSpec(fwmark=5, fwmask=0xFF, action="blackhole", preference=4),
    RuleSpec(action="goto", goto=900, preference=5),
    RuleSpec(table=7, preference=6, suppress_prefix_length=0, suppress_group=3, realms="2"),
    RuleSpec(table=7, preference=7, uid_range=(10, 20), tunnel_id=99),
    RuleSpec(table=7, preference=8, ip_protocol=6, source_ports=(1, 9), destination_ports=(80, 81)),
    RuleSpec(l3mdev=True, preference=9),
    RuleSpec(action="nop", preference=10),
    RuleSpec(action="prohibit", from_="10.1.1.1/32", preference=11),
]


@pytest.mark.parametrize("spec", RULES, ids=lambda spec: str(spec.preference))
def test_rules_come_back(spec: RuleSpec) -> None:
    data = encode_rule(spec)
    kind, flags, offset, end = body_of(data)
    assert (kind, flags) == (32, 0x601)
    record = decode_rule(data, offset, end)
    assert record is not None
    assert record.spec == spec


def test_a_rule_as_pyroute2_reads_it() -> None:
    message, attributes = read(fibmsg, encode_rule(RULES[2]))
    assert message["action"] == 6
    assert attributes["FRA_FWMARK"] == 5
    assert attributes["FRA_FWMASK"] == 0xFF
    assert attributes["FRA_PRIORITY"] == 4
    assert attributes["FRA_PROTOCOL"] == 18
    message, attributes = read(fibmsg, encode_rule(RULES[6]))
    assert attributes["FRA_DPORT_RANGE"] == "80:81"
    assert attributes["FRA_IP_PROTO"] == 6


@given(st.binary(min_size=16, max_size=200))
def test_a_message_that_is_cut_raises_one_of_three(data: bytes) -> None:
    """The kernel is trusted, but a future message must not end the link table:

    it skips what raises one of `UNREADABLE`.
    """
    for decode in (decode_address, decode_link, decode_rule, lambda *where: decode_route(*where, NAMES.get)):
        with contextlib.suppress(*UNREADABLE):
            decode(data, 0, len(data))


def test_specs_are_values() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(ROUTES), type=list[RouteSpec]) == ROUTES
