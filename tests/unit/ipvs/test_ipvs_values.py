"""Configuration to kernel values, the plan between two tables, the bytes of netlink, the quorum's arithmetic."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import real, virtual

from holdfast.actors.ipvs.config import Forwarding, GroupMember, RealServer, SyncDaemon, VirtualServer
from holdfast.actors.ipvs.messages import server_subject, service_subject
from holdfast.actors.ipvs.plan import Book, destination_spec, differences, in_service, service_specs, wanted_table
from holdfast.actors.ipvs.quorum import MAX_WEIGHT, clamp_weight, is_panic, quorum_is_up, weight_sum
from holdfast.actors.ipvs.syncd import SyncDaemons, daemon_spec, roles_for
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged
from holdfast.bus.messages import Reason, ReasonKind
from holdfast.kernel import ipvs_codec as codec
from holdfast.kernel.fake_ipvs import SCHEDULERS, FakeIpvs
from holdfast.kernel.ipvs_types import (
    FLAG_HASHED,
    FLAG_ONE_PACKET,
    FLAG_PERSISTENT,
    DaemonSpec,
    DestinationOrder,
    DestinationSpec,
    Method,
    ServiceKey,
    ServiceOrder,
    ServiceSpec,
    Statistics,
    TunnelType,
    Verb,
)

KEY = ServiceKey(4, 6, "10.0.0.1", 80)


def test_names_of_subjects() -> None:
    assert service_subject("FWM 3") == "vs/FWM 3"
    assert server_subject("[10.0.0.1]:tcp:80", "[10.0.0.2]:tcp:80") == "rs/[10.0.0.2]:tcp:80@[10.0.0.1]:tcp:80"


def test_a_service_by_address() -> None:
    config = virtual(
        scheduler="sh", flags=0x18, persistence_timeout_s=50, persistence_granularity="255.255.255.0", one_packet=True
    )
    assert service_specs(config) == [
        ServiceSpec(KEY, "sh", 0x18 | FLAG_PERSISTENT | FLAG_ONE_PACKET, 50, "255.255.255.0")
    ]


def test_without_persistence_the_netmask_is_the_whole_address() -> None:
    (spec,) = service_specs(virtual(persistence_granularity="255.0.0.0"))
    assert (spec.timeout_s, spec.granularity, spec.flags) == (0, "255.255.255.255", 0)


def test_services_by_mark_keep_their_family() -> None:
    config = VirtualServer(name="FWM 3", kind="fwmark", family=6, protocol="none", fwmark=3)
    assert service_specs(config)[0].key == ServiceKey(6, fwmark=3)
    assert service_specs(config)[0].granularity == "128"


def test_a_group_has_a_service_for_each_address_and_mark() -> None:
    members = (
        GroupMember(family=4, first="10.0.0.254", last="10.0.1.1", port=80),
        GroupMember(family=6, first="fd00::ff", last="fd00::101", port=443),
        GroupMember(fwmark=9, family=6),
    )
    config = VirtualServer(
        name="[G]:0",
        kind="group",
        family=4,
        protocol="udp",
        members=members,
        persistence_timeout_s=10,
        persistence_granularity="255.255.0.0",
    )
    specs = service_specs(config)
    assert [str(spec.key) for spec in specs] == [
        "[10.0.0.254]:udp:80",
        "[10.0.0.255]:udp:80",
        "[10.0.1.0]:udp:80",
        "[10.0.1.1]:udp:80",
        "[fd00::ff]:udp:443",
        "[fd00::100]:udp:443",
        "[fd00::101]:udp:443",
        "FWM 9",
    ]
    assert [spec.granularity for spec in specs] == ["255.255.0.0"] * 4 + ["128"] * 4


@pytest.mark.parametrize(
    ("forwarding", "expected"),
    [
        (Forwarding(), DestinationSpec("10.0.1.1", 80, Method.NAT, 5, 9, 3)),
        (Forwarding(method="DR"), DestinationSpec("10.0.1.1", 80, Method.DR, 5, 9, 3)),
        (
            Forwarding(method="TUN", tunnel_type="gue", tunnel_port=99, tunnel_checksum="remcsum"),
            DestinationSpec("10.0.1.1", 80, Method.TUN, 5, 9, 3, TunnelType.GUE, 99, 2),
        ),
    ],
)
def test_destinations(forwarding: Forwarding, expected: DestinationSpec) -> None:
    server = RealServer(
        name="r", address="10.0.1.1", port=80, family=4, forwarding=forwarding, upper_threshold=9, lower_threshold=3
    )
    assert destination_spec(server, 5) == expected


@pytest.mark.parametrize("written", ["FD00:0::0001", "fd00:0:0:0:0:0:0:1", "fd00::1"])
def test_addresses_are_the_same_however_they_are_written(written: str) -> None:
    server = RealServer(name="r", address=written, port=80, family=6)
    assert destination_spec(server, 1).address == "fd00::1"
    config = VirtualServer(name="v", kind="address", family=6, protocol="tcp", address=written, port=80)
    assert service_specs(config)[0].key.address == "fd00::1"


def test_only_nat_has_a_port_of_its_own() -> None:
    mark = ServiceKey(4, fwmark=3)
    assert in_service(DestinationSpec("10.0.1.1", 8080, Method.NAT), KEY).port == 8080
    assert in_service(DestinationSpec("10.0.1.1", 8080, Method.DR), KEY).port == 80
    assert in_service(DestinationSpec("10.0.1.1", 8080, Method.TUN), mark).port == 0


def test_weights_stay_within_the_kernel_s_range() -> None:
    assert [clamp_weight(value) for value in (-1, 0, 7, MAX_WEIGHT + 1)] == [0, 0, 7, MAX_WEIGHT]
    assert weight_sum([-5, 3, 4]) == 7


@pytest.mark.parametrize(
    ("was_up", "total", "quorum", "hysteresis", "is_up"),
    [
        (False, 8, 7, 2, False),
        (False, 9, 7, 2, True),
        (True, 5, 7, 2, True),
        (True, 4, 7, 2, False),
        (True, 0, 1, 1, False),
        (False, 0, 0, 0, False),
        (True, 0, 0, 0, False),
    ],
)
def test_quorum(was_up: bool, total: int, quorum: int, hysteresis: int, is_up: bool) -> None:
    assert quorum_is_up(was_up, total, quorum, hysteresis) is is_up


@given(st.booleans(), st.integers(0, 100), st.integers(1, 50), st.integers(0, 49))
def test_more_weight_never_loses_a_quorum(was_up: bool, total: int, quorum: int, hysteresis: int) -> None:
    if quorum_is_up(was_up, total, quorum, hysteresis):
        assert quorum_is_up(was_up, total + 1, quorum, hysteresis)
        assert quorum_is_up(True, total, quorum, hysteresis)


def test_panic_is_off_unless_configured() -> None:
    assert not is_panic(10, 0, 0.0)
    assert is_panic(6, 4, 0.5)
    assert not is_panic(5, 5, 0.5)


def _random_table(chance: random.Random) -> dict[ServiceKey, tuple[ServiceSpec, list[DestinationSpec]]]:
    table = {}
    for number in range(chance.randint(0, 4)):
        key = ServiceKey(4, 6, f"10.0.0.{number}", 80)
        destinations = [
            DestinationSpec(f"10.0.1.{i}", 80, Method.DR, chance.randint(0, 3))
            for i in range(6)
            if chance.random() < 0.6
        ]
        table[key] = (ServiceSpec(key, chance.choice(("rr", "wlc"))), destinations)
    return table


@pytest.mark.parametrize("seed", range(40))
def test_the_orders_of_a_plan_lead_from_any_table_to_any_other(seed: int) -> None:
    chance = random.Random(seed)
    kernel, book = FakeIpvs(), Book()
    for _ in range(5):
        described = _random_table(chance)
        wanted = {}
        for spec, destinations in described.values():
            wanted.update(wanted_table([spec], destinations))
        orders = [*book.settle(wanted), *book.remove([key for key in book.table if key not in wanted])]
        for order in orders:
            book.carried_out(order)
        assert kernel.apply(orders) == []
        assert kernel.table == wanted
        assert book.table == wanted
        assert book.settle(wanted) == []
        assert differences(wanted, kernel.table) == []


def test_single_changes_are_one_order_a_service() -> None:
    book = Book()
    other = ServiceKey(4, fwmark=4)
    specs = [ServiceSpec(KEY, "rr"), ServiceSpec(other, "rr")]
    destination = DestinationSpec("10.0.1.1", 8080, Method.DR, 3)
    for order in book.settle(wanted_table(specs, [])):
        book.carried_out(order)
    orders = book.put([KEY, other], destination)
    assert [(order.verb, order.destination.port) for order in orders if isinstance(order, DestinationOrder)] == [
        (Verb.ADD, 80),
        (Verb.ADD, 0),
    ]
    for order in orders:
        book.carried_out(order)
    assert book.put([KEY, other], destination) == []
    assert len(book.drop([KEY, other], destination)) == 2
    assert book.put([ServiceKey(4, fwmark=99)], destination) == []


# -- bytes ------------------------------------------------------------------------------------------------------------

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
KEYS = st.one_of(
    st.builds(lambda family, mark: ServiceKey(family, fwmark=mark), st.sampled_from([4, 6]), st.integers(1, 2**32 - 1)),
    st.builds(
        lambda address, protocol, port: ServiceKey(6 if ":" in address else 4, protocol, address, port),
        ADDRESSES,
        st.sampled_from([6, 17, 132]),
        st.integers(0, 65535),
    ),
)


@st.composite
def services(draw: st.DrawFn) -> ServiceSpec:
    key = draw(KEYS)
    granularity = "255.255.255.0" if key.family == 4 else str(draw(st.integers(1, 128)))
    flags = draw(st.integers(0, 0x3F)) & ~FLAG_HASHED
    scheduler = draw(st.sampled_from(sorted(SCHEDULERS)))
    return ServiceSpec(
        key, scheduler, flags, draw(st.integers(0, 2**31)), granularity, draw(st.sampled_from(["", "sip"]))
    )


DESTINATIONS = st.builds(
    DestinationSpec,
    ADDRESSES,
    st.integers(0, 65535),
    st.sampled_from([Method.NAT, Method.TUN, Method.DR]).map(int),
    st.integers(0, MAX_WEIGHT),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 2]),
    st.integers(0, 65535),
    st.integers(0, 2),
)


@settings(max_examples=60, deadline=None)
@given(services())
def test_a_service_survives_its_bytes(service: ServiceSpec) -> None:
    # The kernel writes the same attributes that it takes.
    assert codec.decode_service(codec.service_bytes(service), statistics=False).spec == service


@settings(max_examples=60, deadline=None)
@given(DESTINATIONS)
def test_a_destination_survives_its_bytes(destination: DestinationSpec) -> None:
    data = codec.destination_bytes(destination)
    ((kind, first, last),) = codec.attributes(data, 0, len(data))
    assert kind == codec.TOP_DEST
    decoder = codec.DestinationDecoder(4)
    for _ in range(2):
        assert decoder.decode(data[first:last], statistics=False).spec == destination


@given(st.binary(max_size=200))
def test_attributes_of_any_bytes_end(data: bytes) -> None:
    for _kind, first, last in codec.attributes(data, 0, len(data)):
        assert 0 <= first <= last <= len(data)


def test_the_bytes_of_an_order() -> None:
    # By hand, from linux/genetlink.h and linux/ip_vs.h (little endian): NEW_DEST of 10.0.1.1:80, DR, weight 3.
    order = DestinationOrder(Verb.ADD, KEY, DestinationSpec("10.0.1.1", 80, Method.DR, 3))
    data = codec.order_bytes(0x1C, order, 7, ack=True)
    assert data[:20].hex() == "a40000001c00050007000000000000000501" + "0000"
    assert data[20:68].hex() == (
        "3000"
        + "0100"
        + "06000100"
        + "02000000"
        + "06000200"
        + "06000000"
        + "14000300"
        + "0a000001"
        + "00" * 12
        + "06000400"
        + "00500000"
    )
    assert data[68:72].hex() == "60000200"
    assert len(data) == 0xA4
    quiet = codec.order_bytes(0x1C, order, 7, ack=False)
    assert quiet[6:8] == b"\x01\x00"


def test_an_unusual_order_of_attributes_is_read_too() -> None:
    usual = codec.destination_bytes(DestinationSpec("10.0.1.1", 80, Method.DR, 3))[4:]
    parts = [usual[first - 4 : (last + 3) & ~3] for _kind, first, last in codec.attributes(usual, 0, len(usual))]
    decoder = codec.DestinationDecoder(4)
    expected = decoder.decode(usual, statistics=False)
    # Two of equal size change places: the total length stays, the layout does not.
    parts[3], parts[4] = parts[4], parts[3]
    assert decoder.decode(b"".join(parts), statistics=False) == expected


def test_statistics_are_read_in_both_widths() -> None:
    values = range(1, 11)
    wide = b"".join(codec.nest(kind, (kind * 10**10).to_bytes(8, "little")) for kind in values)
    assert codec.decode_statistics(wide) == Statistics(*(kind * 10**10 for kind in values))


# -- sync daemons -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instance", "state", "roles"),
    [
        (None, None, ("master", "backup")),
        ("VI_1", None, ("backup",)),
        ("VI_1", VrrpState.MASTER, ("master",)),
        ("VI_1", VrrpState.BACKUP, ("backup",)),
        ("VI_1", VrrpState.FAULT, ("backup",)),
        ("VI_1", VrrpState.STOP, ()),
    ],
)
def test_roles_of_the_sync_daemon(instance: str | None, state: VrrpState | None, roles: tuple[str, ...]) -> None:
    assert roles_for(SyncDaemon(interface="eth0", instance=instance), state) == roles
    assert roles_for(None, state) == ()


def test_the_sync_id_is_the_vrid_unless_given() -> None:
    assert daemon_spec(SyncDaemon(interface="eth0"), "master", 51) == DaemonSpec("master", "eth0", 51)
    assert daemon_spec(SyncDaemon(interface="eth0", sync_id=0), "master", 51).sync_id == 0


# -- the table in memory ----------------------------------------------------------------------------------------------


def test_the_fake_refuses_like_the_kernel() -> None:
    table = FakeIpvs()
    orders = [
        ServiceOrder(Verb.ADD, ServiceSpec(KEY, "rr")),
        ServiceOrder(Verb.ADD, ServiceSpec(KEY, "rr")),
        DestinationOrder(Verb.ADD, KEY, DestinationSpec("fd00::1", 80, Method.DR)),
        DestinationOrder(Verb.ADD, KEY, DestinationSpec("fd00::1", 80, Method.TUN)),
        DestinationOrder(Verb.ADD, KEY, DestinationSpec("10.0.1.1", 80, lower=2, upper=1)),
        DestinationOrder(Verb.EDIT, KEY, DestinationSpec("10.0.1.1", 80)),
        DestinationOrder(Verb.DELETE, KEY, DestinationSpec("10.0.1.1", 80)),
        ServiceOrder(Verb.DELETE, ServiceSpec(ServiceKey(4, fwmark=1), "rr")),
        ServiceOrder(Verb.ADD, ServiceSpec(ServiceKey(4, fwmark=1), "nosuch")),
    ]
    assert {refusal.index for refusal in table.apply(orders)} == {1, 2, 4, 5, 6, 7, 8}


def test_real_servers_of_tests_have_checks_with_names() -> None:
    assert real(1, checks=2).checks[1].name == "TCP_CHECK-1@[10.0.1.1]:tcp:80@[10.0.0.1]:tcp:80"


def test_a_sync_daemon_of_somebody_else_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    table = FakeIpvs()
    daemons = SyncDaemons(table)
    daemons.configure(SyncDaemon(interface="eth0", instance="VI", sync_id=7), initial=True)
    theirs = DaemonSpec("master", "sync0", 214)
    table.running["master"] = theirs
    became = VrrpStateChanged(
        instance="VI",
        vrid=7,
        family=4,
        interface="eth0",
        state=VrrpState.MASTER,
        old=VrrpState.BACKUP,
        priority=100,
        since_mono_ns=0,
        reason=Reason(kind=ReasonKind.STARTED, node="lb1", subject="vrrp/VI"),
        addresses=(),
    )
    daemons.instance_changed(became)
    assert table.running["master"] == theirs
    assert daemons.roles == ()
    assert "sync0" in caplog.text
    daemons.stop()
    assert table.running["master"] == theirs


def test_a_sync_daemon_that_runs_as_wanted_is_taken_over() -> None:
    table = FakeIpvs()
    daemons = SyncDaemons(table)
    daemons.configure(SyncDaemon(interface="eth0", sync_id=7), initial=True)
    assert daemons.roles == ("backup", "master")
    again = SyncDaemons(table)
    again.configure(SyncDaemon(interface="eth0", sync_id=7), initial=False)
    assert again.roles == ("backup", "master")
