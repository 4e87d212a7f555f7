"""The VRRP room with the kernel and the bus in memory, in virtual time: what the shell carries in and out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from holdfast.actors.bfd.messages import BfdFaltering, BfdState, BfdStateChanged
from holdfast.actors.runtime.actor import Mailroom
from holdfast.actors.runtime.context import CellContext
from holdfast.actors.runtime.machine import Deadline, seconds
from holdfast.actors.vrrp.config import SyncGroup, Tracked, Tracks, VrrpInstance, VrrpRoom
from holdfast.actors.vrrp.engine import Engine
from holdfast.actors.vrrp.facts import AdvertReceived
from holdfast.actors.vrrp.messages import VrrpGroupChanged, VrrpState, VrrpStateChanged, VrrpTrouble
from holdfast.actors.vrrp.room import Room
from holdfast.bus.envelope import Envelope
from holdfast.bus.fake import FakeBus
from holdfast.bus.fake import FakeNetwork as BusNetwork
from holdfast.bus.messages import Reason, ReasonKind
from holdfast.config.settings import Settings
from holdfast.kernel.base import AddressSpec
from holdfast.kernel.fake import FakeKernel, FakeNetwork
from holdfast.kernel.instant import Instant

START = FakeNetwork().now


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    mailroom = Mailroom(loop)
    mailroom.open()
    yield loop
    mailroom.close()
    loop.close()


def one(name: str, vrid: int, priority: int, address: str, interface: str = "eth0", **more: object) -> VrrpInstance:
    return VrrpInstance(
        name=name,
        interface=interface,
        vrid=vrid,
        version=3,
        priority=priority,
        addresses=(AddressSpec(address=address, prefix=24),),
        **more,  # type: ignore[arg-type]
    )


class Host:
    """A host with a VRRP room on a network in memory."""

    def __init__(self, network: FakeNetwork, name: str, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.kernel = FakeKernel(network, name)
        for interface, net in (("eth0", 0), ("eth1", 1)):
            self.kernel.add_link(interface, segment=interface, addresses=[f"10.0.{net}.{number}/24"])
        self.bus_network = BusNetwork(lambda: network.now)
        self.bus = FakeBus(node=name, cell="protocol", network=self.bus_network)
        self.seen: list[Envelope] = []
        self.bus.subscribe("vrrp", self.seen.append)
        self.ctx = CellContext(
            node=name,
            cell="protocol",
            run_dir=Path("/nonexistent"),
            bus=self.bus,
            loop=loop,
            timers=self.kernel.timers,  # type: ignore[arg-type]
            settings=Settings(node=name),
        )
        self.engine = Engine(self.kernel, network.soon, suspended_ns=lambda: 0)
        self.room = Room(self.ctx, self.kernel, self.engine)
        self.generation = 0

    def configure(self, *instances: VrrpInstance, **more: object) -> None:
        self.generation += 1
        room = VrrpRoom(instances=instances, **more)  # type: ignore[arg-type]
        self.ctx.configure("vrrp", self.generation, {"room": msgspec.msgpack.encode(room)})

    def states(self, name: str) -> list[VrrpState]:
        return [
            each.event.state
            for each in self.seen
            if isinstance(each.event, VrrpStateChanged)
            and each.event.instance == name
            and each.event.state is not each.event.old
        ]

    def has(self, address: str, interface: str = "eth0") -> bool:
        return self.kernel.links.has_address(self.kernel.links.ifindex(interface), address)


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


def run(network: FakeNetwork, until_s: float) -> None:
    network.run_until(Instant(START + seconds(until_s)))


def test_failover_and_return(network: FakeNetwork, loop: asyncio.AbstractEventLoop) -> None:
    a, b = Host(network, "a", 1, loop), Host(network, "b", 2, loop)
    a.configure(one("V", 7, 200, "10.0.0.100"))
    b.configure(one("V", 7, 100, "10.0.0.100"))
    run(network, 5)
    assert a.states("V") == [VrrpState.BACKUP, VrrpState.MASTER]
    assert b.states("V") == [VrrpState.BACKUP]
    assert a.has("10.0.0.100")
    assert not b.has("10.0.0.100")
    assert len(a.kernel.announcer.sent) == 5
    a.kernel.running = False  # frozen: its lease takes the address away before b takes over
    run(network, 8.5)
    assert not a.has("10.0.0.100")
    run(network, 9)
    assert b.states("V")[-1] is VrrpState.MASTER
    assert b.has("10.0.0.100")
    a.kernel.running = True
    run(network, 14)
    assert b.states("V")[-1] is VrrpState.BACKUP
    assert a.states("V") == [VrrpState.BACKUP, VrrpState.MASTER, VrrpState.BACKUP, VrrpState.MASTER]
    reasons = [each.event.reason.kind.value for each in a.seen if isinstance(each.event, VrrpStateChanged)]
    assert reasons[2] == "stalled"


def test_the_timer_runs_from_the_arrival_of_the_last_advert(
    network: FakeNetwork, loop: asyncio.AbstractEventLoop
) -> None:
    a, b = Host(network, "a", 1, loop), Host(network, "b", 2, loop)
    a.configure(one("V", 7, 200, "10.0.0.100"))
    b.configure(one("V", 7, 100, "10.0.0.100"))
    run(network, 5)
    line = b.engine.lines_of("eth0")[0]
    heard = []
    for waits_ns in (0, 1_500_000):
        line.socket.waits_ns = waits_ns  # type: ignore[attr-defined]
        before = b.room.actors["V"].machine.deadline
        network.run_until(Instant(network.now + seconds(1)))
        after = b.room.actors["V"].machine.deadline
        assert before is not None and after is not None
        heard.append(after - before)
    assert heard == [seconds(1), seconds(1) - 1_500_000]


def test_a_better_advert_right_behind_a_takeover_leaves_no_address(
    network: FakeNetwork, loop: asyncio.AbstractEventLoop
) -> None:
    a, b = Host(network, "a", 1, loop), Host(network, "b", 2, loop)
    a.configure(one("V", 7, 200, "10.0.0.100"))
    b.configure(one("V", 7, 100, "10.0.0.100"))
    run(network, 5)
    a.kernel.running = False
    actor = b.room.actors["V"]
    assert actor.machine.deadline is not None
    actor.take(Deadline(), actor.machine.deadline)
    assert actor.machine.state is VrrpState.MASTER
    actor.take(AdvertReceived("10.0.0.1", 0x0A000001, 200), network.now)
    b.engine.flush()
    assert actor.machine.state is VrrpState.BACKUP
    assert not b.has("10.0.0.100")
    assert b.states("V")[-2:] == [VrrpState.MASTER, VrrpState.BACKUP]


def test_link_loss_is_a_fault_and_heals(network: FakeNetwork, loop: asyncio.AbstractEventLoop) -> None:
    a = Host(network, "a", 1, loop)
    a.configure(one("V", 7, 200, "10.0.0.100"))
    run(network, 5)
    a.kernel.set_link("eth0", up=False)
    run(network, 5.1)
    assert a.states("V")[-1] is VrrpState.FAULT
    assert not a.has("10.0.0.100")
    a.kernel.set_link("eth0", up=True)
    run(network, 10)
    assert a.states("V")[-2:] == [VrrpState.BACKUP, VrrpState.MASTER]


def test_a_deleted_address_comes_back_without_a_transition(
    network: FakeNetwork, loop: asyncio.AbstractEventLoop
) -> None:
    a = Host(network, "a", 1, loop)
    a.configure(one("V", 7, 200, "10.0.0.100"))
    run(network, 5)
    a.kernel.remove_address("eth0", "10.0.0.100")
    run(network, 5.05)
    assert a.has("10.0.0.100")
    assert a.states("V") == [VrrpState.BACKUP, VrrpState.MASTER]


def test_a_firewall_that_others_flush_comes_back_and_is_reported(
    network: FakeNetwork, loop: asyncio.AbstractEventLoop
) -> None:
    a = Host(network, "a", 1, loop)
    a.configure(one("V", 7, 200, "10.0.0.100", accept=False), one("W", 8, 200, "10.0.0.101"))
    firewall = a.kernel.firewall
    assert firewall.restored == 1  # what a former daemon left is replaced
    run(network, 5)
    assert firewall.blocked == ["10.0.0.100"]
    assert firewall.lost is not None
    for number in range(7):
        firewall.lost("nft (pid 4711)")
        assert firewall.restored == 1 + min(number + 1, 5)  # a fight is not fought at full speed
    run(network, 5.2)
    assert firewall.restored == 7
    told = [each.event for each in a.seen if isinstance(each.event, VrrpTrouble)]
    assert [event.instance for event in told] == ["V"] * 7
    assert told[0].reason.evidence["by"] == "nft (pid 4711)"
    assert told[-1].reason.evidence["fight"]


def test_a_group_moves_as_one(network: FakeNetwork, loop: asyncio.AbstractEventLoop) -> None:
    a = Host(network, "a", 1, loop)
    group = SyncGroup(name="G", members=("V", "W"))
    a.configure(one("V", 7, 200, "10.0.0.100"), one("W", 8, 200, "10.0.1.100", "eth1"), groups=(group,))
    run(network, 5)
    assert a.states("V") == a.states("W") == [VrrpState.BACKUP, VrrpState.MASTER]
    a.kernel.set_link("eth1", up=False)
    run(network, 5.1)
    assert a.states("V")[-1] is a.states("W")[-1] is VrrpState.FAULT
    told = [each.event.state for each in a.seen if isinstance(each.event, VrrpGroupChanged)]
    assert told == [VrrpState.BACKUP, VrrpState.MASTER, VrrpState.FAULT]


def test_a_reload_touches_only_what_changed(network: FakeNetwork, loop: asyncio.AbstractEventLoop) -> None:
    a = Host(network, "a", 1, loop)
    v, w = one("V", 7, 200, "10.0.0.100"), one("W", 8, 200, "10.0.1.100", "eth1")
    a.configure(v, w)
    run(network, 5)
    sent = len(a.kernel.requests.sent)
    a.configure(v, one("W", 8, 200, "10.0.1.101", "eth1"))
    run(network, 5.2)
    assert a.states("V") == a.states("W") == [VrrpState.BACKUP, VrrpState.MASTER]
    assert a.has("10.0.0.100")
    assert a.has("10.0.1.101", "eth1")
    assert not a.has("10.0.1.100", "eth1")
    assert not [subject for subject in a.kernel.requests.sent[sent:] if "10.0.0.100" in subject and "eth1" in subject]
    a.configure(v)
    run(network, 6)
    assert not a.has("10.0.1.101", "eth1")
    assert a.states("W")[-1] is VrrpState.FAULT  # as keepalived tells of a removed instance without notify_deleted


def test_a_session_that_falters_changes_nothing_and_its_end_does(
    network: FakeNetwork, loop: asyncio.AbstractEventLoop
) -> None:
    host = Host(network, "a", 1, loop)
    host.configure(one("V", 7, 200, "10.0.0.100", tracks=Tracks(bfd=(Tracked(name="up", weight=0, reverse=False),))))
    bfd = FakeBus(node="a", cell="bfd", network=host.bus_network)

    def says(state: BfdState) -> None:
        reason = Reason(kind=ReasonKind.BFD_DOWN, node="a", subject="bfd/up")
        event = BfdStateChanged(
            session="up",
            old=BfdState.DOWN,
            state=state,
            tracker_up=state is BfdState.UP,
            reason=reason,
            since_mono_ns=0,
            neighbor="10.0.0.9",
            local_diagnostic="",
            remote_diagnostic="",
            detection_us=150_000,
        )
        bfd.publish("bfd/up", "state", event)

    says(BfdState.UP)
    run(network, 6)
    assert host.states("V")[-1] is VrrpState.MASTER
    socket = host.engine.lines_of("eth0")[0].socket
    probed: list[int] = []
    socket.probe = lambda messages: probed.append(len(messages))  # type: ignore[method-assign]
    falters = BfdFaltering(session="up", silent_us=148_000, detection_us=150_000, left_us=2_000)
    bfd.publish("bfd/up", "faltering", falters, retain=False)
    bfd.publish("bfd/other", "faltering", msgspec.structs.replace(falters, session="other"), retain=False)
    run(network, 7)
    assert probed == [1], "the advert of priority 0 is ready, once"
    assert host.states("V")[-1] is VrrpState.MASTER
    says(BfdState.DOWN)
    run(network, 7.1)
    assert host.states("V")[-1] is VrrpState.FAULT
