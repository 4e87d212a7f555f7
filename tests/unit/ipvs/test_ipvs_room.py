"""The director's room on a table in memory: start, reload, stop, crash, what others do to the table."""

from __future__ import annotations

import asyncio
import errno
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pools import VS, real, sorry, virtual

from holdfast.actors.checkers.messages import CheckResult, Target
from holdfast.actors.ipvs import room as room_module
from holdfast.actors.ipvs.config import GroupMember, IpvsGlobals, LvsTimeouts, SyncDaemon, VirtualServer
from holdfast.actors.ipvs.messages import (
    Done,
    Drain,
    GetServices,
    RealServerChanged,
    Reconcile,
    Services,
    TableRepaired,
    VirtualServerChanged,
)
from holdfast.actors.ipvs.room import Room
from holdfast.actors.notify.messages import NotifyProgress
from holdfast.actors.runtime.actor import Mailroom
from holdfast.actors.runtime.context import CellContext
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged
from holdfast.bus.envelope import Envelope
from holdfast.bus.fake import FakeBus
from holdfast.bus.messages import Failed, Reason, ReasonKind
from holdfast.config.settings import IpvsSettings, Settings
from holdfast.kernel.base import KernelError
from holdfast.kernel.fake_ipvs import FakeIpvs
from holdfast.kernel.ipvs_types import (
    DestinationOrder,
    DestinationSpec,
    ServiceKey,
    ServiceOrder,
    ServiceSpec,
    Timeouts,
    Verb,
)
from holdfast.kernel.timers import DeadlineHeap

KEY = ServiceKey(4, 6, "10.0.0.1", 80)
FOREIGN = ServiceKey(4, 6, "192.0.2.9", 99)


class House:
    """One director cell with everything around it in memory."""

    def __init__(self, table: FakeIpvs | None = None, restored: list[Envelope] | None = None, **settings: Any) -> None:
        self.table = table or FakeIpvs()
        self.bus = FakeBus(cell="director")
        self.others = FakeBus(cell="checkers", network=self.bus.network)
        loop = asyncio.get_running_loop()
        self.timers = DeadlineHeap(loop)
        self.ctx = CellContext(
            node="lb1",
            cell="director",
            run_dir=Path(tempfile.gettempdir()),
            bus=self.bus,
            loop=loop,
            timers=self.timers,
            settings=Settings(node="lb1", ipvs=IpvsSettings(**settings)),
            restored=restored,
        )
        self.room = Room(self.ctx, lambda namespace: self.table)
        self.number = 0

    async def configure(self, *services: VirtualServer, **settings: Any) -> None:
        """A start or a reload with this configuration, carried out to its end."""
        self.number += 1
        slices = {service.name: msgspec.msgpack.encode(service) for service in services}
        slices["globals"] = msgspec.msgpack.encode(IpvsGlobals(**settings))
        self.ctx.configure("ipvs", self.number, slices)
        await self.settled()

    async def settled(self) -> None:
        """Everything under way has come to rest."""
        for _ in range(5):
            await asyncio.sleep(0)
        await self.room.settled()

    async def check(self, number: int, up: bool, service: str = VS) -> None:
        """A check of 10.0.1.NUMBER reports."""
        name = f"[10.0.1.{number}]:tcp:80"
        target = Target(f"TCP_CHECK-0@{name}@{service}", service, name)
        result = CheckResult(check=f"tcp-{number}", kind="TCP_CHECK", targets=(target,), ok=up, up=up, text="seen")
        self.others.publish(f"check/tcp-{number}", "result", result)
        await self.settled()

    def pool(self, key: ServiceKey = KEY) -> dict[str, int]:
        """What the kernel has: address -> weight."""
        return {item.address: item.weight for item in self.table.table[key][1].values()}

    def told(self) -> list[str]:
        """FIFO lines so far, in order."""
        return [
            envelope.event.fifo_line
            for envelope in self.bus.published
            if isinstance(envelope.event, RealServerChanged | VirtualServerChanged) and envelope.event.fifo_line
        ]

    def die(self) -> list[Envelope]:
        """SIGKILL: returns what is retained."""
        self.room._reconciler.stop()
        for ref in self.room.actors.values():
            ref.stop(block=False)
        Mailroom.current().close()
        return self.bus.retained()

    async def stop(self) -> None:
        """A clean stop."""
        await self.ctx.run_stop_hooks()
        self.timers.close()


async def test_start_fills_the_table_and_tells_afterwards() -> None:
    house = House()
    await house.configure(virtual(real(1), real(2, weight=3)))
    assert house.pool() == {"10.0.1.1": 1, "10.0.1.2": 3}
    assert house.told() == [f"VS {VS} UP"]
    await house.stop()


async def test_the_first_words_wait_for_whoever_notifies() -> None:
    house = House()
    house.ctx.house = frozenset({"ipvs", "notify"})
    slices = {VS: msgspec.msgpack.encode(virtual(real(1))), "globals": msgspec.msgpack.encode(IpvsGlobals())}
    house.ctx.configure("ipvs", 1, slices)
    for _ in range(50):
        await asyncio.sleep(0)
    assert house.pool() == {"10.0.1.1": 1}, "the table waits for nobody"
    assert house.told() == []
    notify = FakeBus(cell="notify", network=house.bus.network)
    (state,) = house.bus.retained("director/")
    for epoch in (state.id.epoch - 1, state.id.epoch):
        assert house.told() == [], "what was heard of a former life does not count"
        heard = msgspec.structs.replace(state.id, epoch=epoch)
        notify.publish("notify/notify", "progress", NotifyProgress(told={"director@director": heard}))
        for _ in range(10):
            await asyncio.sleep(0)
    await house.settled()
    assert house.told() == [f"VS {VS} UP"]
    await house.stop()


async def test_a_failed_check_takes_the_server_out_and_the_causes_are_named() -> None:
    house = House()
    await house.configure(virtual(real(1), quorum=1))
    before = len(house.bus.published)
    await house.check(1, False)
    assert house.pool() == {}
    server, service = house.bus.published[before:]
    assert isinstance(server.event, RealServerChanged)
    assert isinstance(service.event, VirtualServerChanged)
    (result,) = house.others.published
    assert server.causes == (result.id,)
    assert service.causes == (server.id, result.id)
    assert server.topic == "lb1/rs/[10.0.1.1]:tcp:80@[10.0.0.1]:tcp:80/state"
    await house.check(1, True)
    assert house.pool() == {"10.0.1.1": 1}
    await house.stop()


async def test_results_from_before_the_start_count() -> None:
    house = House()
    await house.check(1, False)
    await house.configure(virtual(real(1), real(2)))
    await house.settled()
    assert house.pool() == {"10.0.1.2": 1}
    await house.stop()


async def test_a_result_that_comes_before_its_reload_counts_after_it() -> None:
    house = House()
    await house.configure(virtual(real(1)))
    await house.check(2, False)
    await house.configure(virtual(real(1), real(2)))
    assert house.pool() == {"10.0.1.1": 1}
    house.others.forget("check/tcp-2", "result")
    await house.configure(virtual(real(1)))
    await house.configure(virtual(real(1), real(2)))
    assert house.pool() == {"10.0.1.1": 1, "10.0.1.2": 1}
    await house.stop()


async def test_a_reload_touches_only_what_changed() -> None:
    house = House()
    other = msgspec.structs.replace(virtual(real(1)), name="[10.0.0.2]:tcp:80", address="10.0.0.2")
    await house.configure(virtual(real(1), real(2), real(3)), other)
    house.table.applied.clear()
    await house.configure(virtual(real(1, weight=7), real(2), real(4)), other)
    spec = {item.address: item for item in house.table.table[KEY][1].values()}
    assert [(order.verb, str(getattr(order, "destination", order).address)) for order in house.table.applied] == [
        (Verb.EDIT, "10.0.1.1"),
        (Verb.ADD, "10.0.1.4"),
        (Verb.DELETE, "10.0.1.3"),
    ]
    assert spec["10.0.1.1"].weight == 7
    house.table.applied.clear()
    await house.configure(virtual(real(1, weight=7), real(2), real(4)), other)
    assert house.table.applied == []
    await house.stop()


async def test_a_reload_that_changes_the_scheduler_edits_the_service() -> None:
    house = House()
    await house.configure(virtual(real(1)))
    house.table.applied.clear()
    await house.configure(virtual(real(1), scheduler="rr", persistence_timeout_s=50))
    (order,) = house.table.applied
    assert isinstance(order, ServiceOrder)
    assert (order.verb, order.service.scheduler, order.service.timeout_s) == (Verb.EDIT, "rr", 50)
    await house.stop()


async def test_groups_follow_their_members() -> None:
    house = House()
    members = (GroupMember(family=4, first="10.0.0.10", last="10.0.0.12", port=80), GroupMember(fwmark=5))
    group = VirtualServer(
        name="[G]:0", kind="group", family=4, protocol="tcp", group="G", members=members, real_servers=(real(1),)
    )
    await house.configure(group)
    assert {str(key) for key in house.table.table} == {
        "[10.0.0.10]:tcp:80",
        "[10.0.0.11]:tcp:80",
        "[10.0.0.12]:tcp:80",
        "FWM 5",
    }
    assert all(len(destinations) == 1 for _, destinations in house.table.table.values())
    fewer = msgspec.structs.replace(group, members=(GroupMember(family=4, first="10.0.0.12", port=80),))
    await house.configure(fewer)
    assert {str(key) for key in house.table.table} == {"[10.0.0.12]:tcp:80"}
    await house.check(1, False, service="[G]:0")
    await house.stop()
    assert house.table.table == {}


async def test_a_removed_service_goes_and_is_told() -> None:
    house = House()
    other = msgspec.structs.replace(virtual(), name="[10.0.0.2]:tcp:80", address="10.0.0.2")
    await house.configure(virtual(real(1)), other)
    await house.configure(other)
    assert KEY not in house.table.table
    assert house.told()[-2:] == [f"RS [10.0.1.1]:tcp:80 {VS} DOWN", f"VS {VS} DOWN"]
    assert house.bus.retained(f"vs/{VS}") == []
    assert house.bus.retained(f"rs/[10.0.1.1]:tcp:80@{VS}") == []
    await house.stop()


async def test_foreign_services_are_never_touched() -> None:
    table = FakeIpvs()
    table.apply([ServiceOrder(Verb.ADD, ServiceSpec(FOREIGN, "rr"))])
    table.applied.clear()
    house = House(table)
    await house.configure(virtual(real(1)))
    await house.room._reconciler.compare()
    await house.configure(virtual(real(2)))
    await house.stop()
    assert list(table.table) == [FOREIGN]
    assert not any("192.0.2.9" in str(order) for order in table.applied)


@pytest.mark.parametrize(("mode", "left"), [("none", [FOREIGN]), ("vs", [FOREIGN]), ("all", [])])
async def test_stop_flushes_as_configured(mode: str, left: list[ServiceKey]) -> None:
    table = FakeIpvs()
    table.apply([ServiceOrder(Verb.ADD, ServiceSpec(FOREIGN, "rr"))])
    house = House(table)
    await house.configure(virtual(real(1)), flush_on_stop=mode)
    await house.stop()
    assert list(table.table) == left
    assert table.closed


async def test_a_stop_that_does_not_release_leaves_everything() -> None:
    house = House()
    await house.configure(virtual(real(1), omega=True), dont_release=True)
    told = house.told()
    await house.stop()
    assert house.pool() == {"10.0.1.1": 1}
    assert house.told() == told


async def test_lvs_flush_clears_the_table_at_start_only() -> None:
    table = FakeIpvs()
    table.apply([ServiceOrder(Verb.ADD, ServiceSpec(FOREIGN, "rr"))])
    house = House(table)
    await house.configure(virtual(real(1)), flush=True)
    assert list(table.table) == [KEY]
    await house.configure(virtual(real(2)), flush=True)
    assert table.flushes == 1
    await house.stop()


async def test_timeouts_come_back_at_the_end() -> None:
    house = House()
    await house.configure(virtual(real(1)), timeouts=LvsTimeouts(tcp_s=1000))
    assert house.table.timeouts() == Timeouts(1000, 120, 300)
    await house.configure(virtual(real(1)), timeouts=LvsTimeouts(udp_s=55))
    assert house.table.timeouts() == Timeouts(900, 120, 55)
    await house.stop()
    assert house.table.timeouts() == Timeouts(900, 120, 300)


async def test_after_a_crash_nothing_moves_and_nothing_is_told_again() -> None:
    config = virtual(real(1), real(2), real(3), quorum=2, sorry_server=sorry())
    house = House()
    await house.configure(config, timeouts=LvsTimeouts(tcp_s=1000))
    await house.check(1, False)
    await house.check(2, False)
    assert house.pool() == {"10.0.2.1": 1}
    retained = house.die()
    house.table.applied.clear()
    second = House(house.table, retained)
    # The checkers cell lives on: its results are there.
    second.others = house.others
    house.others.network.cells.append(second.bus)
    second.bus.network.cells.append(house.others)
    await second.configure(config, timeouts=LvsTimeouts(tcp_s=1000))
    assert second.table.applied == []
    assert second.told() == []
    kinds = {envelope.event.reason.kind for envelope in second.bus.published if hasattr(envelope.event, "reason")}
    assert kinds == {ReasonKind.RESTARTED}
    await second.check(1, True)
    assert second.pool() == {"10.0.1.1": 1, "10.0.1.3": 1}
    await second.stop()
    assert second.table.timeouts() == Timeouts(900, 120, 300)


async def test_after_a_crash_services_that_the_file_no_longer_has_are_removed() -> None:
    other = msgspec.structs.replace(virtual(real(1)), name="[10.0.0.2]:tcp:80", address="10.0.0.2")
    house = House()
    house.table.apply([ServiceOrder(Verb.ADD, ServiceSpec(FOREIGN, "rr"))])
    await house.configure(virtual(real(1)), other)
    retained = house.die()
    second = House(house.table, retained)
    await second.configure(virtual(real(1)))
    assert set(second.table.table) == {KEY, FOREIGN}
    await second.stop()


async def test_leftovers_in_a_service_of_ours_are_put_right_at_start() -> None:
    table = FakeIpvs()
    table.apply(
        [
            ServiceOrder(Verb.ADD, ServiceSpec(KEY, "rr")),
            DestinationOrder(Verb.ADD, KEY, DestinationSpec("10.0.1.1", 80, weight=9)),
            DestinationOrder(Verb.ADD, KEY, DestinationSpec("10.0.1.9", 80)),
        ]
    )
    house = House(table)
    await house.configure(virtual(real(1)))
    assert house.pool() == {"10.0.1.1": 1}
    assert table.table[KEY][0].scheduler == "wlc"
    await house.stop()


async def test_what_others_change_is_repaired_or_reported() -> None:
    for mode in ("repair", "report"):
        house = House(reconcile=mode)
        await house.configure(virtual(real(1), real(2)))
        house.table.apply(
            [
                DestinationOrder(Verb.EDIT, KEY, DestinationSpec("10.0.1.1", 80, weight=5)),
                DestinationOrder(Verb.DELETE, KEY, DestinationSpec("10.0.1.2", 80)),
                DestinationOrder(Verb.ADD, KEY, DestinationSpec("10.0.1.3", 80)),
            ]
        )
        reply = await house.others.request("director/director", Reconcile())
        assert reply == Done(message="3 differences")
        await house.settled()
        (event,) = house.bus.events(TableRepaired)
        assert isinstance(event, TableRepaired)
        assert (event.count, event.repaired) == (3, mode == "repair")
        assert event.differences == (
            "[10.0.1.1]:80 of [10.0.0.1]:tcp:80 has weight 5 instead of 1",
            "[10.0.1.2]:80 of [10.0.0.1]:tcp:80 is missing",
            "[10.0.1.3]:80 of [10.0.0.1]:tcp:80 is not ours",
        )
        good = {"10.0.1.1": 1, "10.0.1.2": 1}
        assert (house.pool() == good) is (mode == "repair")
        await house.stop()


async def test_a_service_that_somebody_removed_comes_back_with_the_next_change() -> None:
    house = House()
    await house.configure(virtual(real(1), real(2), real(3)))
    house.table.table.clear()
    await house.check(1, False)
    await house.settled()
    assert house.pool() == {"10.0.1.2": 1, "10.0.1.3": 1}
    await house.stop()


async def test_a_refused_server_is_not_told_as_up_and_the_others_go_on() -> None:
    house = House()
    house.table.refuse = lambda order: errno.ENOMEM if "10.0.1.2" in str(order) else None
    await house.configure(virtual(real(1), real(2), real(3), quorum=3))
    assert house.pool() == {"10.0.1.1": 1, "10.0.1.3": 1}
    (event,) = [
        envelope.event
        for envelope in house.bus.retained("rs/[10.0.1.2]")
        if isinstance(envelope.event, RealServerChanged)
    ]
    assert not event.up
    assert not event.in_pool
    assert house.told()[-1] == f"VS {VS} DOWN"
    house.table.refuse = lambda order: None
    machine = house.room.machines[VS]
    assert machine.deadline is not None
    await _until(lambda: house.pool() == {"10.0.1.1": 1, "10.0.1.2": 1, "10.0.1.3": 1})
    await house.stop()


async def test_a_refused_service_is_tried_again() -> None:
    house = House()
    house.table.refuse = lambda order: errno.ENOENT if isinstance(order, ServiceOrder) else None
    await house.configure(virtual(real(1)))
    assert house.table.table == {}
    house.table.refuse = lambda order: None
    await _until(lambda: KEY in house.table.table and house.pool() == {"10.0.1.1": 1})
    await house.stop()


async def test_drain_by_command() -> None:
    house = House()
    await house.configure(virtual(real(1), real(2)))
    house.table.connections[("10.0.1.1", 80)] = 2
    reply = await house.others.request("rs/x", Drain(real_server="[10.0.1.1]:tcp:80"))
    assert isinstance(reply, Done)
    await house.settled()
    assert house.pool() == {"10.0.1.1": 0, "10.0.1.2": 1}
    house.table.connections.clear()
    await _until(lambda: house.pool() == {"10.0.1.2": 1})
    await house.others.request("director/director", Drain(real_server="[10.0.1.1]:tcp:80", undo=True))
    await house.settled()
    assert house.pool() == {"10.0.1.1": 1, "10.0.1.2": 1}
    missing = await house.others.request("director/director", Drain(real_server="[10.9.9.9]:tcp:80"))
    assert isinstance(missing, Failed)
    await house.stop()


async def test_services_are_described_with_checks_and_connections() -> None:
    house = House()
    await house.configure(virtual(real(1), real(2), sorry_server=sorry()))
    await house.check(1, False)
    house.table.connections[("10.0.1.2", 80)] = 7
    reply = await house.others.request("director/director", GetServices())
    assert isinstance(reply, Services)
    (service,) = reply.services
    assert [(view.name, view.up, view.in_pool, view.active_connections) for view in service.servers] == [
        ("[10.0.1.1]:tcp:80", False, False, 0),
        ("[10.0.1.2]:tcp:80", True, True, 7),
        ("[10.0.2.1]:tcp:80", True, False, 0),
    ]
    (check,) = service.servers[0].checks
    assert (check.name, check.up, check.text) == ("tcp-1", False, "seen")
    assert isinstance(await house.others.request("director/director", GetServices(name="no")), Failed)
    assert "RIP = 10.0.1.1, RPORT = 80" in house.ctx.dump()
    await house.stop()


def _vrrp(house: House, state: VrrpState) -> None:
    event = VrrpStateChanged(
        instance="VI_1",
        old=VrrpState.BACKUP,
        state=state,
        priority=100,
        since_mono_ns=0,
        reason=Reason(kind=ReasonKind.STARTED, node="lb1", subject="vrrp/VI_1"),
        vrid=51,
        family=4,
        interface="eth0",
        addresses=(),
    )
    house.others.publish("vrrp/VI_1", "state", event)


async def test_the_sync_daemon_follows_its_instance() -> None:
    house = House()
    await house.configure(virtual(real(1)), sync_daemon=SyncDaemon(interface="eth0", instance="VI_1"))
    assert house.table.running == {}
    _vrrp(house, VrrpState.BACKUP)
    assert {role: daemon.sync_id for role, daemon in house.table.running.items()} == {"backup": 51}
    _vrrp(house, VrrpState.MASTER)
    assert list(house.table.running) == ["master"]
    _vrrp(house, VrrpState.FAULT)
    assert list(house.table.running) == ["backup"]
    await house.configure(virtual(real(1)))
    assert house.table.running == {}
    await house.stop()


async def test_without_an_instance_both_sync_daemons_run() -> None:
    house = House()
    await house.configure(virtual(real(1)), sync_daemon=SyncDaemon(interface="eth0", sync_id=3))
    assert sorted(house.table.running) == ["backup", "master"]
    await house.stop()
    assert house.table.running == {}


async def test_a_kernel_without_ipvs_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "REOPEN_AFTER_S", 0.01)
    house = House()
    answers = [KernelError("IPVS", "module", errno.ENOENT, "no IPVS"), house.table]

    def open_table(namespace: str | None) -> FakeIpvs:
        answer = answers.pop(0)
        if isinstance(answer, KernelError):
            raise answer
        return answer

    house.room._open_table = open_table
    await house.configure(virtual(real(1)))
    assert house.pool() == {"10.0.1.1": 1}
    await house.stop()


async def test_many_servers_do_not_hold_up_the_loop() -> None:
    house = House()
    servers = tuple(
        msgspec.structs.replace(real(1), name=f"[10.1.{i >> 8}.{i & 255}]:tcp:80", address=f"10.1.{i >> 8}.{i & 255}")
        for i in range(2000)
    )
    order_sizes: list[int] = []
    apply = house.table.apply

    def counted(orders: Any) -> Any:
        order_sizes.append(len(orders))
        return apply(orders)

    house.table.apply = counted  # type: ignore[method-assign]
    await house.configure(virtual(*servers))
    assert len(house.pool()) == 2000
    assert max(order_sizes) <= 128
    assert len(house.bus.retained("rs/")) == 2000
    await house.stop()


async def _until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)
