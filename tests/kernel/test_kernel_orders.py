"""rtnetlink orders against a real kernel, beside what `ip` says; the table of links that follows them."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from netns import Lab, NetNs, wait_until

from holdfast.kernel.base import AddressSpec, KernelError, NextHop, RouteSpec, RuleSpec
from holdfast.kernel.links import LinkTable
from holdfast.kernel.linux import LinuxKernel
from holdfast.kernel.netlink import Netlink
from holdfast.kernel.records import AddressChanged, Change, LinkChanged, RouteChanged, RuleChanged

pytestmark = pytest.mark.netns


class Host:
    """A namespace with eth0 (10.1.2.1/24, fd00:1::1/64) and its netlink."""

    def __init__(self, lab: Lab) -> None:
        self.ns, self.far = lab.namespace("a"), lab.namespace("b")
        lab.veth(self.ns, "eth0", self.far, "eth0", up=False)
        self.far.ip("link set eth0 up")
        # Without link-local addresses, which come and change when the kernel likes.
        self.ns.ip_batch(["link set eth0 addrgenmode none", "link set eth0 up"])
        self.ns.ip_batch(["addr add 10.1.2.1/24 dev eth0", "addr add fd00:1::1/64 dev eth0 nodad"])
        with self.ns.enter():
            self.links = LinkTable()
            self.netlink = Netlink(self.links.ifindex, self.links.name)
        self.eth0 = self.links.ifindex("eth0")

    def json(self, command: str) -> Any:
        return json.loads(self.ns.ip(f"-j -d {command}") or "[]")

    def close(self) -> None:
        self.netlink.close()
        self.links.close()


@pytest.fixture
def host() -> Iterator[Host]:
    with Lab() as lab:
        host = Host(lab)
        yield host
        host.close()


def addresses(host: Host) -> dict[str, dict[str, Any]]:
    (link,) = host.json("addr show dev eth0")
    return {f"{found['local']}/{found['prefixlen']}": found for found in link["addr_info"]}


def test_addresses_are_as_ip_shows_them(host: Host) -> None:
    batch = host.netlink.batch()
    for spec in (
        AddressSpec(address="10.1.2.9", prefix=24, broadcast="+", label="eth0:vip"),
        AddressSpec(address="10.5.0.1", prefix=32, scope=253, noprefixroute=True),
        AddressSpec(address="10.6.0.1", prefix=32, peer="10.6.0.2/32"),
        AddressSpec(address="fd00:5::1", prefix=128, preferred_lft_s=0),
        AddressSpec(address="fd00:6::1", prefix=64, home=True),
    ):
        batch.address(spec, host.eth0)
    assert host.netlink.run(batch) == []
    shown = addresses(host)
    assert shown["10.1.2.9/24"]["broadcast"] == "10.1.2.255"
    assert shown["10.1.2.9/24"]["label"] == "eth0:vip"
    assert shown["10.1.2.9/24"]["secondary"] is True
    assert shown["10.5.0.1/32"]["scope"] == "link"
    assert shown["10.5.0.1/32"]["noprefixroute"] is True
    assert shown["10.6.0.1/32"]["address"] == "10.6.0.2"
    assert shown["fd00:5::1/128"]["deprecated"] is True
    assert shown["fd00:5::1/128"]["nodad"] is True
    assert shown["fd00:6::1/64"]["home"] is True
    # And our own reading of them agrees, from a dump as from the notifications.
    host.links.drain()
    for records in (host.netlink.addresses(), host.links.addresses(host.eth0)):
        mine = {f"{record.address}/{record.prefix}": record for record in records if record.ifindex == host.eth0}
        assert set(shown) == set(mine)
        assert mine["10.1.2.9/24"].label == "eth0:vip"
        assert mine["10.1.2.9/24"].secondary
        assert mine["10.6.0.1/32"].peer == "10.6.0.2"
        assert mine["fd00:5::1/128"].preferred_lft_s == 0


def test_a_lease_ends_by_itself_and_is_told(host: Host) -> None:
    spec = AddressSpec(address="10.9.9.9", prefix=32)
    told: list[AddressChanged] = []
    plain: list[AddressChanged] = []

    def into(events: list[AddressChanged], event: AddressChanged) -> None:
        if event.address.address == spec.address:  # the link-local one changes too, when its check has ended
            events.append(event)

    host.links.on_address(lambda event: into(told, event), refreshes=True)
    host.links.on_address(lambda event: into(plain, event))
    batch = host.netlink.batch()
    batch.address(spec, host.eth0, valid_lft_s=1)
    started = time.monotonic()
    assert host.netlink.run(batch) == host.netlink.run(batch) == []
    host.links.drain()
    assert [(event.change, event.port) for event in told] == [
        (Change.ADDED, host.netlink.port),
        (Change.REFRESHED, host.netlink.port),
    ]
    assert len(plain) == 1
    assert addresses(host)["10.9.9.9/32"]["valid_life_time"] == 1
    while len(told) < 3:
        assert time.monotonic() - started < 5
        time.sleep(0.01)
        host.links.drain()
    assert told[2].change is Change.REMOVED
    assert told[2].port == 0  # the kernel itself
    assert 0.9 < time.monotonic() - started < 2.5
    assert not host.links.has_address(host.eth0, "10.9.9.9")


def test_what_is_there_is_put_again_and_what_is_gone_removed_again(host: Host) -> None:
    add, remove = host.netlink.batch(), host.netlink.batch()
    for family, address in ((4, "10.9.9.9"), (6, "fd00:9::9")):
        spec = AddressSpec(address=address, prefix=32 if family == 4 else 128)
        route = RouteSpec(destination="10.8.0.0/16" if family == 4 else "fd00:8::/64", family=family, dev="eth0")
        rule = RuleSpec(family=family, from_=f"{address}/{spec.prefix}", table=100, preference=300)
        for batch, gone in ((add, False), (remove, True)):
            batch.address(spec, host.eth0, remove=gone)
            batch.route(route, remove=gone)
            batch.rule(rule, remove=gone)
    assert len(add) == 6
    for batch in (add, add, remove, remove, add, remove):
        assert host.netlink.run(batch) == []
    assert host.netlink.routes() == []
    assert "10.9.9.9/32" not in addresses(host)


def test_a_refusal_names_its_subject_in_the_kernels_words(host: Host) -> None:
    batch = host.netlink.batch()
    batch.address(AddressSpec(address="10.9.9.1", prefix=32), host.eth0)
    batch.address(AddressSpec(address="10.9.9.2", prefix=32), 999)
    batch.route(RouteSpec(destination="10.8.0.0/16", via="192.0.2.1", dev="eth0"))
    batch.address(AddressSpec(address="10.9.9.3", prefix=32), host.eth0)
    batch.rule(RuleSpec(action="goto", goto=5, preference=9))
    errors = host.netlink.run(batch)
    assert [(error.subject, error.errno) for error in errors] == [
        ("address/10.9.9.2@#999", errno.ENODEV),
        ("route/10.8.0.0/16@main", errno.ENETUNREACH),
        ("rule/9", errno.EINVAL),
    ]
    assert "Nexthop has invalid gateway" in str(errors[1])
    assert {"10.9.9.1/32", "10.9.9.3/32"} <= set(addresses(host))
    assert host.netlink.collect(batch) == []


def test_two_batches_on_their_way_at_once(host: Host) -> None:
    first, second = host.netlink.batch(), host.netlink.batch()
    first.address(AddressSpec(address="10.9.9.2", prefix=32), 999)
    second.address(AddressSpec(address="10.9.9.3", prefix=32), 998)
    host.netlink.send(first)
    host.netlink.send(second)
    assert [error.subject for error in host.netlink.collect(second)] == ["address/10.9.9.3@#998"]
    assert [error.subject for error in host.netlink.collect(first)] == ["address/10.9.9.2@#999"]


def test_thousands_of_requests_in_one_batch(host: Host) -> None:
    add, remove = host.netlink.batch(), host.netlink.batch()
    specs = [AddressSpec(address=f"10.20.{n >> 8}.{n & 255}", prefix=32) for n in range(3000)]
    for spec in specs:
        add.address(spec, host.eth0)
        remove.address(spec, host.eth0, remove=True)
    wrong = host.netlink.batch()
    for spec in specs:
        wrong.address(spec, 999)
    assert host.netlink.run(add) == []
    assert len(addresses(host)) >= 3000
    assert len(host.netlink.run(wrong)) == 3000
    assert host.netlink.run(remove) == []

    def settled() -> bool:
        host.links.drain()
        return len(host.links.addresses(host.eth0, 4)) == 1

    wait_until(settled)


ROUTES = [
    RouteSpec(destination="10.8.0.0/16", via="10.1.2.254", dev="eth0", metric=5, tos=16, source="10.1.2.1"),
    RouteSpec(destination="10.8.1.0/24", type="blackhole", table=100),
    RouteSpec(destination="default", via="10.1.2.254", table=5000, realms="3/4"),
    RouteSpec(
        destination="10.8.2.0/24",
        next_hops=(NextHop(via="10.1.2.2", dev="eth0", weight=3), NextHop(via="10.1.2.3", dev="eth0", onlink=True)),
    ),
    RouteSpec(destination="10.8.3.0/24", dev="eth0", metrics=(("mtu", "1400", True), ("initcwnd", "20", False))),
    RouteSpec(destination="10.8.4.0/24", via="fe80::1", dev="eth0"),
    RouteSpec(destination="10.8.5.0/24", dev="eth0", metrics=(("congctl", "reno", False),), features=("ecn",)),
    RouteSpec(destination="10.8.6.0/24", dev="eth0", metrics=(("rtt", "20ms", False), ("rto_min", "300ms", False))),
    RouteSpec(destination="fd00:8::/64", family=6, via="fd00:1::fe", dev="eth0", preference="high", metric=77),
    RouteSpec(destination="default", family=6, via="fe80::1", dev="eth0", table=5000, expires_s=100),
    RouteSpec(destination="fd00:7::/64", family=6, type="unreachable"),
    RouteSpec(
        destination="fd00:6::/64",
        family=6,
        next_hops=(NextHop(via="fd00:1::2", dev="eth0"), NextHop(via="fd00:1::3", dev="eth0", weight=2)),
    ),
    RouteSpec(destination="10.8.7.0/24", dev="eth0", protocol=4, scope=0),
]

SHOWN = {
    "10.8.0.0/16": "via 10.1.2.254 dev eth0 proto keepalived src 10.1.2.1 metric 5",
    "blackhole 10.8.1.0/24": "table 100 proto keepalived",
    "10.8.2.0/24": "nexthop via 10.1.2.2 dev eth0 weight 3",
    "10.8.3.0/24": "mtu lock 1400 initcwnd 20",
    "10.8.4.0/24": "via inet6 fe80::1 dev eth0",
    "10.8.5.0/24": "congctl reno",
    "10.8.6.0/24": "rtt 20ms rto_min 300ms",
    "fd00:8::/64": "via fd00:1::fe dev eth0 proto keepalived metric 77 pref high",
    "unreachable fd00:7::/64": "proto keepalived",
    "10.8.7.0/24": "proto static scope global",
}


def known(spec: RouteSpec) -> RouteSpec:
    """A spec with what the kernel fills in left out, to compare by what was asked for."""
    fields = {name: getattr(spec, name) for name in spec.__struct_fields__}
    fields |= {"scope": None, "table": spec.table or 254, "expires_s": None, "preference": None, "metrics": ()}
    fields |= {"metric": spec.metric or (1024 if spec.family == 6 else None), "features": ()}
    if spec.family == 6 and spec.type != "unicast":
        fields["dev"] = None  # the kernel shows `lo`
    if spec.table in {100, 5000} and spec.family == 4 and spec.via:
        fields["dev"] = "eth0"
    return RouteSpec(**fields)


def test_routes_are_as_ip_shows_them(host: Host) -> None:
    batch = host.netlink.batch()
    for spec in ROUTES:
        batch.route(spec)
    assert host.netlink.run(batch) == []
    text = host.ns.ip("-d -4 route show table all") + host.ns.ip("-d -6 route show table all")
    text = re.sub(r"proto 18\b", "proto keepalived", text)
    for destination, words in SHOWN.items():
        (block,) = re.findall(rf"^(?:unicast )?{re.escape(destination)} .*(?:\n\s+.*)*", text, re.MULTILINE)
        missing = [word for word in words.split() if word not in block.split()]
        assert not missing, (missing, block)
    asked = [known(spec) for spec in ROUTES if spec.protocol == 18]
    held = [known(record.spec) for record in host.netlink.routes()]
    for spec in asked:
        assert spec in held, (spec, [other for other in held if other.destination == spec.destination])
    assert len(held) == len(asked)
    # What the notifications said is what a dump says.
    host.links.drain()
    followed = {str(known(record.spec)) for record in host.links.routes()}
    assert followed == {str(spec) for spec in held}
    remove = host.netlink.batch()
    for spec in ROUTES:
        remove.route(spec, remove=True)
    assert host.netlink.run(remove) == []
    assert host.netlink.routes() == host.netlink.routes(4) == []
    host.links.drain()
    assert host.links.routes() == ()


def test_an_encapsulated_route(host: Host) -> None:
    batch = host.netlink.batch()
    words = ("ip", "id", "7", "src", "10.1.2.1", "dst", "10.0.0.9", "ttl", "64")
    batch.route(RouteSpec(destination="10.8.9.0/24", dev="eth0", encap=words))
    errors = host.netlink.run(batch)
    if errors:  # a kernel without lightweight tunnels says so, for this route
        assert errors[0].errno == errno.EOPNOTSUPP
        return
    (record,) = host.netlink.routes()
    assert record.spec.encap == words


RULES = [
    RuleSpec(from_="10.9.9.9/32", table=100, preference=300),
    RuleSpec(to="10.9.0.0/16", table=70_000, preference=301, invert=True, iif="eth0", tos=4),
    RuleSpec(fwmark=5, fwmask=0xFF, action="blackhole", preference=302),
    RuleSpec(action="goto", goto=900, preference=303),
    RuleSpec(table=7, preference=304, suppress_prefix_length=0),
    RuleSpec(table=7, preference=305, uid_range=(10, 20)),
    RuleSpec(table=7, preference=306, ip_protocol=6, source_ports=(1, 9), destination_ports=(80, 81)),
    RuleSpec(family=6, from_="fd00::/8", table=7, preference=307, oif="eth0"),
    RuleSpec(family=6, action="prohibit", to="fd00::1/128", preference=308),
]


def test_rules_are_as_ip_shows_them(host: Host) -> None:
    told: list[RuleChanged] = []
    host.links.on_rule(told.append)
    batch = host.netlink.batch()
    for spec in RULES:
        batch.rule(spec)
    assert host.netlink.run(batch) == host.netlink.run(batch) == []
    text = host.ns.ip("rule show") + host.ns.ip("-6 rule show")
    for line in (
        "300:\tfrom 10.9.9.9 lookup 100 proto 18",
        "301:\tnot from all to 10.9.0.0/16 tos 0x04 iif eth0 lookup 70000 proto 18",
        "302:\tfrom all fwmark 0x5/0xff blackhole proto 18",
        "305:\tfrom all uidrange 10-20 lookup 7 proto 18",
        "307:\tfrom fd00::/8 oif eth0 lookup 7 proto 18",
        "308:\tfrom all to fd00::1 prohibit proto 18",
    ):
        assert line in re.sub(r"proto keepalived", "proto 18", text).replace(" [detached]", "")
    held = [record.spec for record in host.netlink.rules()]
    missing = [spec for spec in RULES if spec not in held]
    assert not missing, (missing, held)
    host.links.drain()
    assert [event.rule.spec for event in told] == RULES
    assert {str(rule) for rule in host.links.rules()} == {str(rule) for rule in host.netlink.rules()}
    remove = host.netlink.batch()
    for spec in RULES:
        remove.rule(spec, remove=True)
    assert host.netlink.run(remove) == []
    host.links.drain()
    assert {event.change for event in told[len(RULES) :]} == {Change.REMOVED}


def test_links_that_appear_rename_change_and_vanish(host: Host) -> None:
    told: list[LinkChanged] = []
    host.links.on_link(told.append)
    host.ns.ip("link add veth1 type veth peer name veth2")
    host.links.drain()
    assert host.links.by_name("veth1") is not None
    assert host.links.by_name("veth1").kind == "veth"  # type: ignore[union-attr]
    index = host.links.ifindex("veth1")
    host.ns.ip_batch(["link set veth1 up", "link set veth2 up", "link set veth1 mtu 1280"])

    def is_up(wanted: bool) -> bool:
        host.links.drain()
        link = host.links.by_index(index)
        return link is not None and link.up is wanted

    # The kernel tells of the carrier a little later.
    wait_until(lambda: is_up(True))
    link = host.links.by_index(index)
    assert link is not None and link.mtu == 1280 and len(link.mac) == 6
    host.ns.ip("link set veth2 down")
    wait_until(lambda: is_up(False))
    host.ns.ip("link set veth1 down")
    host.ns.ip("link set veth1 name lan0")
    host.links.drain()
    assert host.links.by_name("veth1") is None
    assert host.links.ifindex("lan0") == index
    host.ns.ip("addr add 10.77.0.1/24 dev lan0")
    host.links.drain()
    gone: list[AddressChanged] = []
    host.links.on_address(gone.append)
    host.ns.ip("link delete lan0")
    host.links.drain()
    assert host.links.by_index(index) is None
    assert [(event.change, event.address.address) for event in gone] == [(Change.REMOVED, "10.77.0.1")]
    with pytest.raises(KernelError):
        host.links.ifindex("lan0")
    assert (told[-1].old is not None, told[-1].new) in {(True, None)}
    renames = [event for event in told if event.old and event.new and event.old.name != event.new.name]
    assert [(event.old.name, event.new.name) for event in renames if event.old and event.new] == [("veth1", "lan0")]


def test_a_promoted_secondary_stays(host: Host) -> None:
    host.ns.sysctl("net.ipv4.conf.eth0.promote_secondaries", 1)
    host.ns.ip_batch(
        ["addr add 10.1.2.8/24 dev eth0", "addr add 10.1.2.9/24 dev eth0", "addr del 10.1.2.1/24 dev eth0"]
    )
    host.links.drain()
    records = host.links.addresses(host.eth0, 4)
    assert [record.address for record in records] == ["10.1.2.8", "10.1.2.9"]
    assert [record.secondary for record in records] == [False, True]


def test_no_change_is_lost_in_an_overrun() -> None:
    """A tiny buffer and a flood: afterwards the table is what the kernel has, and the callbacks made it so."""
    with Lab() as lab:
        ns = lab.namespace("a")
        ns.ip("link add d0 type veth peer name d1")
        ns.ip_batch(["link set d0 addrgenmode none", "link set d1 addrgenmode none"])
        ns.ip_batch(["link set d0 up", "link set d1 up", "addr add 10.1.1.1/24 dev d0"])
        with ns.enter():
            links = LinkTable(receive_buffer_bytes=4096, force_buffer=False)
            netlink = Netlink(links.ifindex, links.name)
        mirror = {(record.address, record.prefix) for record in links.addresses(links.ifindex("d0"))}
        routes: set[str] = set()
        resyncs: list[bool] = []

        def address(event: AddressChanged) -> None:
            key = (event.address.address, event.address.prefix)
            (mirror.discard if event.change is Change.REMOVED else mirror.add)(key)

        def route(event: RouteChanged) -> None:
            destination = event.route.spec.destination
            (routes.discard if event.change is Change.REMOVED else routes.add)(destination)

        links.on_address(address)
        links.on_route(route)
        links.on_resync(lambda: resyncs.append(True))
        index = links.ifindex("d0")
        for round_ in range(5):
            batch = netlink.batch()
            for number in range(300):
                spec = AddressSpec(address=f"10.2.{round_}.{number % 250 + 1}", prefix=32)
                batch.address(spec, index, remove=number >= 250 and number % 2 == 0)
                batch.route(RouteSpec(destination=f"10.{round_ + 10}.{number % 250}.0/24", dev="d0"))
            batch.address(AddressSpec(address="10.1.1.1", prefix=24), index, remove=round_ % 2 == 0)
            assert netlink.run(batch) == []
            links.drain()
            truth = {(record.address, record.prefix) for record in netlink.addresses() if record.ifindex == index}
            assert mirror == truth
            assert routes == {record.spec.destination for record in netlink.routes()}
        assert links.overruns >= 5
        assert len(resyncs) == links.overruns
        ns.ip("link delete d0")
        links.drain()
        assert mirror == set()
        assert links.by_name("d0") is None
        links.close()
        netlink.close()


def test_changes_reach_callbacks_on_the_loop() -> None:
    with Lab() as lab:
        ns = lab.namespace("a")
        ns.ip("link add d0 type veth peer name d1")

        async def work() -> None:
            kernel = LinuxKernel(asyncio.get_running_loop())
            seen: asyncio.Queue[object] = asyncio.Queue()
            kernel.links.on_link(seen.put_nowait)
            kernel.links.on_address(seen.put_nowait)
            await asyncio.to_thread(change, ns)
            async with asyncio.timeout(5):
                while True:
                    event = await seen.get()
                    if isinstance(event, AddressChanged) and event.address.address == "10.3.3.3":
                        break
            link = kernel.links.by_name("d0")
            assert link is not None and link.flags & 1
            assert kernel.sysctl_set("net/ipv4/conf/d0/arp_ignore", 2)
            assert kernel.sysctl_get("net/ipv4/conf/d0/arp_ignore") == "2"
            kernel.restore_sysctls()
            assert kernel.sysctl_get("net/ipv4/conf/d0/arp_ignore") == "0"
            kernel.close()

        with ns.enter():
            asyncio.run(work())


def change(ns: NetNs) -> None:
    ns.ip("link set d0 up")
    ns.ip("addr add 10.3.3.3/32 dev d0")
