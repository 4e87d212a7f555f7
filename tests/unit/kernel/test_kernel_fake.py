"""The kernel in memory behaves as the shells are promised (faces.py)."""

from __future__ import annotations

import errno
import struct

import pytest

from holdfast.kernel.base import AddressSpec, KernelError, RouteSpec, RuleSpec
from holdfast.kernel.faces import Kernel
from holdfast.kernel.fake import FakeKernel, FakeNetwork
from holdfast.kernel.fake_requests import OUR_PORT
from holdfast.kernel.instant import Instant
from holdfast.kernel.records import AddressChanged, Change, LinkChanged, Received

S = 1_000_000_000


def advert(source: str, destination: str, vrid: int = 7) -> bytes:
    def packed(text: str) -> bytes:
        return bytes(int(part) for part in text.split("."))

    message = bytes((0x31, vrid, 100, 1, 0, 100, 0, 0, 10, 0, 0, 1))
    header = struct.pack("!BBHHHBBH", 0x45, 0xC0, 20 + len(message), 1, 0, 255, 112, 0)
    return header + packed(source) + packed(destination) + message


@pytest.fixture
def two() -> tuple[FakeNetwork, FakeKernel, FakeKernel]:
    network = FakeNetwork()
    a, b = FakeKernel(network, "a"), FakeKernel(network, "b")
    a.add_link("eth0", segment="lan", addresses=["10.0.0.1/24", "fe80::1/64"])
    b.add_link("eth0", segment="lan", addresses=["10.0.0.2/24", "fe80::2/64"])
    network.settle()
    return network, a, b


Two = tuple[FakeNetwork, FakeKernel, FakeKernel]


def test_it_has_every_face(two: Two) -> None:
    kernel: Kernel = two[1]
    assert kernel.links.by_name("eth0") is not None
    assert kernel.sysctl_set("net/ipv4/ip_forward", 1)
    assert kernel.sysctl_get("net/ipv4/ip_forward") == "1"


def test_packets_reach_who_joined_the_group(two: Two) -> None:
    network, a, b = two
    out = a.advert_socket("eth0", 4)
    into = b.advert_socket("eth0", 4, groups=["224.0.0.18"])
    deaf = b.advert_socket("eth0", 4)
    heard: list[Received] = []
    into.on_readable(lambda: heard.extend(into.receive()))
    assert out.send_many([(advert("10.0.0.1", "224.0.0.18"), out.destination("224.0.0.18"))]) == []
    assert heard == []
    network.settle()
    assert [(packet.source, packet.destination, packet.ttl, packet.payload[1]) for packet in heard] == [
        ("10.0.0.1", "224.0.0.18", 255, 7)
    ]
    assert deaf.receive() == []
    into.accept_vrids([8])
    out.send_many([(advert("10.0.0.1", "224.0.0.18"), out.destination("224.0.0.18"))])
    network.settle()
    assert len(heard) == 1
    out6, into6 = a.advert_socket("eth0", 6), b.advert_socket("eth0", 6, groups=["ff02::12"])
    out6.send_many([(bytes(24), out6.destination("ff02::12", source="fe80::1"))])
    assert [(packet.source, packet.ttl) for packet in into6.receive()] == [("fe80::1", 255)]


def test_loss_and_links_that_are_down(two: Two) -> None:
    network, a, b = two
    out = a.advert_socket("eth0", 4)
    into = b.advert_socket("eth0", 4)
    message = [(advert("10.0.0.1", "10.0.0.2"), out.destination("10.0.0.2"))]
    network.segment("lan").drop = lambda sender, receiver, data: sender == "a"
    assert out.send_many(message) == []
    assert into.receive() == []
    network.segment("lan").drop = None
    out.send_many(message)
    assert len(into.receive()) == 1
    a.set_link("eth0", up=False)
    assert [error.errno for error in out.send_many(message)] == [errno.ENETDOWN]
    out.close()
    assert [error.errno for error in out.send_many(message)] == [errno.EBADF]
    assert len(network.segment("lan").seen) == 2


def test_batches_change_addresses_routes_and_rules(two: Two) -> None:
    network, a, _ = two
    told: list[AddressChanged] = []
    a.links.on_address(told.append, refreshes=True)
    index = a.links.ifindex("eth0")
    vip, route, rule = (
        AddressSpec(address="10.9.9.9", prefix=32),
        RouteSpec(destination="10.8.0.0/16", dev="eth0"),
        RuleSpec(from_="10.9.9.9", table=5, preference=3),
    )
    take, leave = a.requests.batch(), a.requests.batch()
    for batch, remove in ((take, False), (leave, True)):
        batch.address(vip, index, remove=remove)
        batch.route(route, remove=remove)
        batch.rule(rule, remove=remove)
    assert a.requests.run(take) == []
    assert a.requests.run(take) == []
    assert a.links.has_address(index, "10.9.9.9", 32)
    assert [record.spec for record in a.requests.routes()] == [route]
    assert [record.spec for record in a.requests.rules()] == [rule]
    assert told == []  # as with the real one, never inside the order
    network.settle()
    assert [(event.change, event.port) for event in told] == [(Change.ADDED, OUR_PORT), (Change.REFRESHED, OUR_PORT)]
    assert a.requests.run(leave) == a.requests.run(leave) == []
    network.settle()
    assert told[-1].change is Change.REMOVED
    assert not a.links.has_address(index, "10.9.9.9")
    assert a.requests.routes() == a.requests.rules() == []


def test_orders_can_be_refused(two: Two) -> None:
    _, a, _ = two
    a.requests.refuse("address/10.9.9.9@eth0", errno.EPERM)
    batch = a.requests.batch()
    batch.address(AddressSpec(address="10.9.9.9", prefix=32), a.links.ifindex("eth0"))
    batch.address(AddressSpec(address="10.9.9.8", prefix=32), 99)
    errors = a.requests.run(batch)
    assert [(error.subject, error.errno) for error in errors] == [
        ("address/10.9.9.9@eth0", errno.EPERM),
        ("address/10.9.9.8@#99", errno.ENODEV),
    ]
    with pytest.raises(KernelError):
        batch.route(RouteSpec(destination="10.0.0.0/8", dev="eth9"))


def test_a_leased_address_leaves_a_host_that_stands_still(two: Two) -> None:
    network, a, _ = two
    index = a.links.ifindex("eth0")
    batch = a.requests.batch()
    batch.address(AddressSpec(address="10.9.9.9", prefix=32), index, valid_lft_s=3)
    a.requests.run(batch)
    network.advance(2 * S)
    a.requests.run(batch)
    a.running = False
    network.advance(2 * S)
    assert a.links.has_address(index, "10.9.9.9")
    network.advance(1 * S)
    assert not a.links.has_address(index, "10.9.9.9")


def test_deadlines_fire_in_virtual_time(two: Two) -> None:
    network, a, b = two
    start = network.now
    seen: list[tuple[str, int]] = []

    def again(now: Instant) -> None:
        seen.append(("a", now - start))
        a.timers.set("a", Instant(now + S), again)

    a.timers.set("a", Instant(start + S), again)
    b.timers.set("b", Instant(start + 2 * S), lambda now: seen.append(("b", now - start)))
    b.timers.set("gone", Instant(start + S), lambda now: seen.append(("gone", 0)))
    b.timers.set("gone", None, lambda now: None)
    hooks: list[Instant] = []
    remove = a.timers.before_firing(lambda: hooks.append(network.now))
    network.advance(2 * S)
    assert seen == [("a", S), ("a", 2 * S), ("b", 2 * S)]
    assert hooks == [start + S, start + 2 * S]
    remove()
    a.running = False
    network.advance(5 * S)
    assert len(seen) == 3
    assert a.timers.deadline("a") == start + 3 * S


def test_links_come_and_go(two: Two) -> None:
    network, a, _ = two
    told: list[LinkChanged] = []
    end = a.links.on_link(told.append)
    a.set_link("eth0", up=False)
    a.links.drop_link("eth0")
    network.settle()
    assert [(event.old is not None, event.new is not None) for event in told] == [(True, True), (True, False)]
    assert told[0].new is not None and not told[0].new.up
    with pytest.raises(KernelError):
        a.links.ifindex("eth0")
    end()
    a.add_link("eth1")
    network.settle()
    assert len(told) == 2


def test_announcements_and_firewall_are_kept(two: Two) -> None:
    network, a, _ = two
    frames = a.announcer.prepare([(1, b"one"), (1, b"two"), (1, b"three")])
    assert a.announcer.send(frames, 1, 1) == a.announcer.send(frames, 2) == []
    assert [frame for _, _, frame in a.announcer.sent] == [b"two", b"three"]
    vip = AddressSpec(address="10.9.9.9", prefix=32)
    a.firewall.block([vip])
    assert a.firewall.blocked == ["10.9.9.9"]
    a.firewall.unblock([vip, vip])
    assert a.firewall.blocked == []
    a.close()
    assert a not in network.kernels
