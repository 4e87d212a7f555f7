"""A director and its workers on one bus in memory: checks move, go on from what counts, and are told to nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from checks_lab import at, silent, tcp_server

from holdfast.actors.checkers import base, check_actor, hosting, shares
from holdfast.actors.checkers.actor import CheckersRoom
from holdfast.actors.checkers.config import (
    Check,
    CheckersGlobals,
    Connection,
    FileCheck,
    HttpCheck,
    HttpUrl,
    ServerChecks,
    ServiceChecks,
    SslClient,
    TcpCheck,
)
from holdfast.actors.checkers.hosting import WorkerRoom
from holdfast.actors.checkers.messages import CheckResult, CheckStateChanged, SuspendCheck
from holdfast.actors.checkers.plan import Plan
from holdfast.actors.runtime.actor import Mailroom
from holdfast.actors.runtime.context import CellContext
from holdfast.actors.worker.messages import FetchShare, Share, ShareOffered, ShareState, ShareStatus
from holdfast.bus.base import Caller
from holdfast.bus.fake import FakeBus, FakeNetwork
from holdfast.bus.messages import Failed
from holdfast.config.settings import ChecksSettings, Settings
from holdfast.kernel.timers import DeadlineHeap


def connection(**words: object) -> Connection:
    return Connection(address="10.0.0.2", port=80, **words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "settings", "moves"),
    [
        (TcpCheck(name="a", connection=connection()), CheckersGlobals(), True),
        (TcpCheck(name="a", connection=connection(bind_address="10.0.0.1")), CheckersGlobals(), False),
        (TcpCheck(name="a", connection=connection(bind_interface="eth0")), CheckersGlobals(), False),
        (TcpCheck(name="a", connection=connection(fwmark=3)), CheckersGlobals(), False),
        (FileCheck(name="a", track_file="f", path="/f"), CheckersGlobals(), False),
        (HttpCheck(name="a", connection=connection(), tls=True), CheckersGlobals(), True),
        (
            HttpCheck(name="a", connection=connection(), tls=True),
            CheckersGlobals(ssl=SslClient(certificate="/c.pem", key="/k.pem")),
            False,
        ),
        (
            HttpCheck(name="a", connection=connection()),
            CheckersGlobals(ssl=SslClient(certificate="/c.pem", key="/k.pem")),
            True,
        ),
    ],
)
def test_what_needs_this_host_stays(spec: Check, settings: CheckersGlobals, moves: bool) -> None:
    assert shares.can_move(spec, settings) is moves


def test_a_probe_has_the_same_name_for_every_director() -> None:
    one = TcpCheck(name="TCP_CHECK-1@a@b", connection=connection())
    other = TcpCheck(name="TCP_CHECK-7@c@d", connection=connection())
    slower = TcpCheck(name="TCP_CHECK-1@a@b", connection=connection(), delay_loop_us=1)
    assert shares.probe_name(one) == shares.probe_name(other) != shares.probe_name(slower)


def test_a_share_travels_and_keeps_its_names() -> None:
    plan = Plan()
    spec = HttpCheck(name="HTTP_GET-1@s@v", connection=connection(), urls=(HttpUrl(path="/secret"),))
    server = ServerChecks(server="[10.0.0.2]:tcp:80", address="10.0.0.2", port=80, weight=1, checks=(spec,))
    plan.put("v", ServiceChecks(service="v", protocol="TCP", servers=(server,)))
    (wanted,) = plan.wanted.values()
    made = shares.shared(shares.probe_name(spec), wanted, True)
    (back,) = shares.unpacked(shares.packed([made]))
    assert back == made and back.servers == ("[10.0.0.2]:tcp:80",)
    assert shares.digest_of([made]) == shares.digest_of([msgspec.structs.replace(back, up=False)]) != ""
    assert shares.digest_of([]) == "" and shares.unpacked(b"") == ()
    there = Plan()
    there.put("lb1/checkers", shares.as_service("lb1/checkers", [back]))
    there.put("lb2/checkers", shares.as_service("lb2/checkers", [back]))
    (once,) = there.wanted.values()
    assert len(once.targets) == 2 and shares.probe_name(once.spec) == made.probe


class House:
    """A director lb1 and the workers w1, w2 in one loop."""

    def __init__(self, folder: Path, points: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.mailroom = Mailroom(self.loop)
        self.mailroom.open()
        self.network = FakeNetwork()
        self.folder = folder
        self.buses: dict[str, FakeBus] = {}
        self.timers: list[DeadlineHeap] = []
        checks = ChecksSettings(vantage_points=points, lost_after_s=1.0, return_after_s=0.5, run_for=("lb1",))
        self.settings = Settings(node="lb1", placement={"checkers": "@w1 @w2"}, checks=checks)
        self.context = self.cell("lb1", "checkers", self.settings)
        self.director = CheckersRoom(self.context)
        self.context.slices("checkers", self.director.apply)
        self.workers: dict[str, WorkerRoom] = {}
        for name in ("w1", "w2"):
            self.begin(name)

    def begin(self, name: str) -> None:
        settings = Settings(node=name, checks=self.settings.checks)
        self.workers[name] = WorkerRoom(self.cell(name, "worker", settings))

    def cell(self, node: str, name: str, settings: Settings) -> CellContext:
        bus = self.buses[node] = FakeBus(node, name, self.network)
        self.timers.append(DeadlineHeap(self.loop))
        folder = self.folder / node
        folder.mkdir(exist_ok=True)
        return CellContext(
            node=node, cell=name, run_dir=folder, bus=bus, loop=self.loop, timers=self.timers[-1], settings=settings
        )

    def load(self, *ports: int) -> None:
        servers = tuple(
            ServerChecks(
                server=f"[127.0.0.1]:tcp:{port}",
                address="127.0.0.1",
                port=port,
                weight=1,
                checks=(
                    TcpCheck(
                        name=f"TCP_CHECK-1@{port}@v",
                        connection=at(port),
                        delay_loop_us=50_000,
                        delay_before_retry_us=20_000,
                        warmup_us=0,
                    ),
                ),
            )
            for port in ports
        )
        service = ServiceChecks(service="v", protocol="TCP", servers=servers)
        globals_ = msgspec.msgpack.encode(CheckersGlobals())
        self.context.configure("checkers", 1, {"globals": globals_, "v": msgspec.msgpack.encode(service)})

    async def until(self, condition: Callable[[], object], what: str) -> None:
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(what)

    def status(self, worker: str) -> ShareStatus | None:
        event = self.buses["lb1"].retained_event(f"share/{worker},checkers", "state")
        return event.state if isinstance(event, ShareState) else None

    def ups(self) -> list[bool | None]:
        found = [each.event for each in self.buses["lb1"].retained("check/")]
        return [each.up for each in found if isinstance(each, CheckResult)]

    async def die(self, name: str) -> None:
        """Nothing of it is heard any more; what it retained stays, as with a node that nobody reaches."""
        self.buses[name].publish = lambda *_, **__: None  # type: ignore[assignment, method-assign, return-value]
        await self.workers.pop(name).stop()

    async def close(self) -> None:
        for worker in self.workers.values():
            await worker.stop()
        await self.context.run_stop_hooks()
        await self.director.stop()
        for timers in self.timers:
            timers.close()
        self.mailroom.close()


@contextlib.asynccontextmanager
async def house(folder: Path, points: int = 1) -> AsyncIterator[House]:
    made = House(folder, points)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "BOOTSTRAP", 0)
    monkeypatch.setattr(base, "RESTORED_WITHIN", 10_000_000)
    monkeypatch.setattr(check_actor, "REFRESH_NS", 0)
    monkeypatch.setattr(hosting, "BEAT_EVERY_S", 0.05)


def test_checks_run_on_the_workers_and_come_home_when_none_is_left(tmp_path: Path) -> None:
    async def run() -> None:
        async with tcp_server(silent) as port, house(tmp_path) as made:
            made.load(port)
            await made.until(lambda: made.ups() == [True], "a verdict from a worker")
            assert [each.remote for each in made.director.running.values()] == [True]
            running = {name: len(worker.room.running) for name, worker in made.workers.items()}
            assert sorted(running.values()) == [0, 1], "one of them looks"
            looking = max(running, key=lambda name: running[name])
            other = min(running, key=lambda name: running[name])
            mark = len(made.buses["lb1"].published)
            await made.die(looking)
            await made.until(lambda: made.workers[other].room.running, "the other one looks")
            await made.until(lambda: made.status(other) is ShareStatus.RUNNING, "and says so")
            await made.die(other)
            await made.until(lambda: made.status(other) is ShareStatus.LOST, "it is missed")
            await made.until(lambda: not [each for each in made.director.running.values() if each.remote], "home")
            before = made.director.results()
            await made.until(lambda: made.director.results() != before, "it runs here")
            after = made.buses["lb1"].published[mark:]
            assert not [each for each in after if isinstance(each.event, CheckStateChanged)], "nothing changed"
            assert made.ups() == [True]

    asyncio.run(run())


def test_one_of_two_points_of_view_is_no_majority(tmp_path: Path) -> None:
    async def run() -> None:
        async with tcp_server(silent) as port, house(tmp_path, points=2) as made:
            made.load(port)
            await made.until(lambda: made.ups() == [True], "up")
            await made.until(
                lambda: all(len(each.room.running) == 1 for each in made.workers.values()), "both look at it"
            )
            (name,) = (each.name for each in made.workers["w1"].room.running.values())
            await made.workers["w1"].room.stop()
            bad = CheckResult(check=name, kind="TCP_CHECK", targets=(), ok=False, up=False, text="refused")
            made.buses["w1"].publish(f"probe/{name}", "result", bad)
            await asyncio.sleep(0.3)
            assert made.ups() == [True]
            await made.workers["w2"].room.stop()
            made.buses["w2"].publish(f"probe/{name}", "result", bad)
            await made.until(lambda: made.ups() == [False], "both say so")

    asyncio.run(run())


def test_a_share_is_told_to_its_worker_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with tcp_server(silent) as port, house(tmp_path) as made:
            made.load(port)
            await made.until(lambda: made.ups() == [True], "up")
            serve = made.buses["lb1"].server_of("share/checkers")
            assert serve is not None
            for worker, caller, role in (
                ("w1", "w2", "worker"),
                ("w1", "w1", "viewer"),
                ("w1", "eve", "operator"),
                ("eve", "eve", "operator"),
                ("lb1", "lb1", "operator"),
            ):
                reply = serve(FetchShare(worker=worker), Caller(node=caller, cell="worker", role=role))
                assert isinstance(reply, Failed) and reply.code == "forbidden"
            told = serve(FetchShare(worker="w1"), Caller(node="w1", cell="worker", role="worker"))
            assert isinstance(told, Share)
            offers = made.buses["lb1"].events(ShareOffered)
            assert offers and not any(str(port) in str(each) for each in offers)

    asyncio.run(run())


def test_what_an_operator_suspends_stands_still_at_home(tmp_path: Path) -> None:
    async def run() -> None:
        async with tcp_server(silent) as port, house(tmp_path) as made:
            made.load(port)
            await made.until(lambda: made.ups() == [True], "up")
            hold = made.buses["lb1"].server_of("checkers/checkers")
            assert hold is not None
            hold(SuspendCheck(virtual_server="v"), Caller(node="lb1", cell="cli"))
            await made.until(lambda: not any(worker.room.running for worker in made.workers.values()), "nobody looks")
            assert [(each.remote, each.suspended) for each in made.director.running.values()] == [(False, True)]
            hold(SuspendCheck(virtual_server="v", suspended=False), Caller(node="lb1", cell="cli"))
            await made.until(lambda: any(worker.room.running for worker in made.workers.values()), "it goes on there")

    asyncio.run(run())


def test_a_worker_of_another_mind_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that names checks in another way would run what nobody hears."""
    monkeypatch.setattr(WorkerRoom, "_missing", lambda *_: "understood in another way")

    async def run() -> None:
        async with tcp_server(silent) as port, house(tmp_path) as made:
            made.load(port)
            await made.until(lambda: made.ups() == [True], "it runs at home in the end")
            assert [each.remote for each in made.director.running.values()] == [False]

    asyncio.run(run())
