"""The room as a cell has it: slices in, results out; against servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from checks_lab import at, full_port, refused_port, silent, tcp_server

from holdfast.actors.checkers import actor, base, check_actor
from holdfast.actors.checkers.actor import CheckersRoom
from holdfast.actors.checkers.check_actor import RunningCheck
from holdfast.actors.checkers.config import (
    Check,
    CheckersGlobals,
    FileCheck,
    HttpCheck,
    HttpUrl,
    ServerChecks,
    ServiceChecks,
    SslClient,
    TcpCheck,
)
from holdfast.actors.checkers.kinds import Turnstile
from holdfast.actors.checkers.messages import (
    CheckDone,
    CheckNotRun,
    CheckOverdue,
    CheckResult,
    CheckState,
    CheckStateChanged,
    RunCheck,
    SuspendCheck,
)
from holdfast.actors.runtime.actor import Mailroom
from holdfast.actors.runtime.context import CellContext
from holdfast.actors.runtime.machine import Instant
from holdfast.actors.watch.messages import FileValue, LinkAddresses
from holdfast.bus.envelope import Envelope
from holdfast.bus.fake import FakeBus
from holdfast.bus.messages import Failed, Reason, ReasonKind
from holdfast.config.settings import Settings
from holdfast.kernel.timers import DeadlineHeap

REASON = Reason(kind=ReasonKind.STARTED, node="lb1", subject="test")
EventT = TypeVar("EventT")


class Cell:
    """A room with its bus and what it was told so far."""

    def __init__(self, run_dir: Path, restored: list[Envelope] | None = None, name: str = "checkers") -> None:
        loop = asyncio.get_running_loop()
        self.mailroom = Mailroom(loop)
        self.mailroom.open()
        self.bus = FakeBus(cell=name)
        self.timers = DeadlineHeap(loop)
        self.context = CellContext(
            node="lb1",
            cell=name,
            run_dir=run_dir,
            bus=self.bus,
            loop=loop,
            timers=self.timers,
            settings=Settings(),
            restored=restored,
        )
        self.slices: dict[str, bytes] = {}
        self.number = 0
        self.room = CheckersRoom(self.context)
        self.context.slices("checkers", self.room.apply)

    async def load(self, *services: ServiceChecks, settings: CheckersGlobals | None = None) -> None:
        """A configuration, and the room has taken it in."""
        slices = {each.service: msgspec.msgpack.encode(each) for each in services}
        slices["globals"] = msgspec.msgpack.encode(settings or CheckersGlobals())
        self.number += 1
        self.context.configure("checkers", self.number, slices)
        await self.room.settled()

    async def until(self, kind: type[EventT], test: Callable[[EventT], object], limit_s: float = 10.0) -> EventT:
        """The newest event of that kind that passes, waiting for it."""
        end = time.monotonic() + limit_s
        seen = 0
        while time.monotonic() < end:
            for envelope in self.bus.published[seen:]:
                seen += 1
                if isinstance(envelope.event, kind) and test(envelope.event):
                    return envelope.event
            await asyncio.sleep(0.002)
        raise AssertionError(f"no such {kind.__name__} among {self.bus.events(kind)}")  # type: ignore[arg-type]

    async def result(self, test: Callable[[CheckResult], object]) -> CheckResult:
        return await self.until(CheckResult, test)

    def mark(self) -> None:
        """What was published so far does not count for `until`."""
        self.bus.published.clear()


@contextlib.asynccontextmanager
async def cell(tmp_path: Path, restored: list[Envelope] | None = None) -> AsyncIterator[Cell]:
    made = Cell(tmp_path, restored)
    try:
        yield made
        await made.context.run_stop_hooks()
    finally:
        await made.room.stop()
        left = len(made.room.poller), len(made.timers)
        made.timers.close()
        made.mailroom.close()
    assert left == (0, 0), "sockets, deadlines left behind"


@pytest.fixture(autouse=True)
def no_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "BOOTSTRAP", 0)
    monkeypatch.setattr(base, "RESTORED_WITHIN", 10_000_000)
    monkeypatch.setattr(check_actor, "REFRESH_NS", 0)


def tcp(port: int, **words: Any) -> TcpCheck:
    timing = {"delay_loop_us": 30_000, "delay_before_retry_us": 10_000, "warmup_us": 0, "retry": 1} | words
    timeout_s = timing.pop("timeout_s", 5.0)
    return TcpCheck(name="", connection=at(port, timeout_s=timeout_s), **timing)


def service(name: str, *checks: Check, **words: Any) -> ServiceChecks:
    servers = tuple(
        ServerChecks(
            server=f"[10.0.0.{place}]:tcp:80",
            address=f"10.0.0.{place}",
            port=80,
            weight=1,
            checks=(msgspec.structs.replace(check, name=f"CHECK-{place}@{name}"),),  # type: ignore[arg-type]
        )
        for place, check in enumerate(checks)
    )
    return ServiceChecks(service=name, protocol="tcp", servers=servers, **words)


async def test_a_server_goes_and_comes_back(tmp_path: Path):
    port = refused_port()
    async with cell(tmp_path) as here:
        await here.load(service("vs", tcp(port)))
        down = await here.result(lambda each: True)
        assert (down.ok, down.up, down.first, down.changed, down.attempt) == (False, False, True, True, 1)
        assert [(each.check, each.virtual_server) for each in down.targets] == [("CHECK-0@vs", "vs")]
        assert down.kind == "TCP_CHECK"
        assert "refused the connection" in down.text
        state = await here.until(CheckStateChanged, lambda each: each.up is False)
        assert (state.old, state.state) == (CheckState.UNKNOWN, CheckState.DOWN)
        assert state.reason.kind is ReasonKind.CHECK_FAILED
        assert state.reason.subject == f"check/{down.check}"
        (told,) = [each for each in here.bus.published if isinstance(each.event, CheckStateChanged)]
        (cause,) = [each for each in here.bus.published if each.event == down]
        assert told.causes == (cause.id,)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)

        server = await asyncio.start_server(serve, "127.0.0.1", port)
        up = await here.result(lambda each: each.up)
        assert (up.ok, up.changed, up.attempt, up.first) == (True, True, 0, False)
        assert up.since_wall_ns > down.since_wall_ns > 0
        assert up.next_s == pytest.approx(0.03)
        server.close()
        await server.wait_closed()
        again = await here.result(lambda each: each.runs > up.runs and each.up is False)
        assert again.attempt == 2  # one failure is forgiven
        assert here.bus.retained_event(f"check/{up.check}", "result") is not None


async def test_identical_checks_run_once_and_speak_for_all(tmp_path: Path):
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(1)

    async with cell(tmp_path) as here, tcp_server(serve) as port:
        slow = tcp(port, delay_loop_us=60_000_000)
        await here.load(service("a", slow), service("b", slow), service("c", slow))
        result = await here.result(lambda each: each.up)
        assert [each.virtual_server for each in result.targets] == ["a", "b", "c"]
        assert len(here.bus.events(CheckResult)) == 1
        # A fourth service learns at once, and nobody looks again for it.
        here.mark()
        await here.load(service("a", slow), service("b", slow), service("d", slow))
        result = await here.result(lambda each: len(each.targets) == 3)
        assert [each.virtual_server for each in result.targets] == ["a", "b", "d"]
        assert (result.up, result.changed) == (True, False)
        assert connections == 1


async def test_reload_keeps_the_state_of_the_same_check(tmp_path: Path):
    port = refused_port()
    async with cell(tmp_path) as here:
        await here.load(service("vs", tcp(port)))
        before = await here.result(lambda each: each.up is False and each.runs >= 3)
        here.mark()
        await here.load(service("vs", tcp(port, retry=5, delay_loop_us=40_000)))
        after = await here.result(lambda each: each.retry == 5)
        assert after.check == before.check
        assert (after.up, after.changed) == (False, False)
        assert after.runs > before.runs
        # Another connect_timeout is another check.
        await here.load(service("vs", tcp(port, timeout_s=1.5)))
        fresh = await here.result(lambda each: each.check != before.check)
        assert (fresh.first, fresh.changed) == (True, True)
        assert here.bus.retained(f"check/{before.check}") == []


async def test_the_same_target_with_two_timings_is_two_checks(tmp_path: Path):
    async with cell(tmp_path) as here, tcp_server(silent) as port:
        await here.load(service("a", tcp(port)), service("b", tcp(port, retry=3)))
        names = {each.name for each in here.room.running.values()}
        assert len(names) == 2
        (short, long) = sorted(names, key=len)
        assert long.startswith(short)
        await here.result(lambda each: each.check == short)
        await here.result(lambda each: each.check == long)
        await here.load(service("a", tcp(port)))
        assert len(here.room.running) == 1


async def test_what_is_removed_is_forgotten(tmp_path: Path):
    async with cell(tmp_path) as here, tcp_server(silent) as port:
        await here.load(service("a", tcp(port)))
        name = (await here.result(lambda each: True)).check
        await here.load()
        assert here.room.running == {}
        await asyncio.sleep(0)
        assert here.bus.retained("check/") == []
        reply = await here.bus.request(f"check/{name}", RunCheck(check=name))
        assert isinstance(reply, Failed)


async def test_what_is_no_news_is_told_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check_actor, "REFRESH_NS", 200_000_000)
    port = refused_port()
    async with cell(tmp_path) as here:
        await here.load(service("vs", tcp(port, delay_loop_us=10_000)))
        await here.result(lambda each: each.runs > 1)
        told = [each.runs for each in here.bus.events(CheckResult)]  # type: ignore[attr-defined]
        assert told[0] == 1
        assert told[1] > 3  # those between said the same
        here.mark()
        async with tcp_server(silent) as live:
            await here.load(service("vs", tcp(live, delay_loop_us=10_000)))
            await here.result(lambda each: each.up)
        # Its failures on the way down are news, each of them.
        down = await here.result(lambda each: each.changed and each.up is False)
        assert down.attempt == 2
        assert [each.attempt for each in here.bus.events(CheckResult) if each.check == down.check][-2:] == [1, 2]  # type: ignore[attr-defined]


async def test_a_silent_server_is_down_after_its_time(tmp_path: Path):
    async with cell(tmp_path) as here:
        with full_port() as port:
            await here.load(service("a", tcp(port, timeout_s=0.05)))
            down = await here.result(lambda each: True)
    assert down.up is False
    assert down.latency_us >= 50_000
    assert "within 0.05 s" in down.text


async def test_a_thousand_silent_servers_do_not_delay_the_live_ones(tmp_path: Path):
    async with cell(tmp_path) as here, tcp_server(silent) as live:
        with full_port() as port:
            dead = [
                TcpCheck(name="", connection=at(port, timeout_s=3, bind_address=f"127.0.1.{n % 250 + 1}", fwmark=0))
                for n in range(250)
            ]
            dead = [
                msgspec.structs.replace(each, warmup_us=0, retry=retry, delay_loop_us=60_000_000)
                for each in dead
                for retry in range(4)
            ]
            await here.load(service("dead", *dead), service("live", tcp(live)))
            assert len(here.room.running) == 1001
            await here.result(lambda each: each.targets[0].virtual_server == "live" and each.runs >= 15)
            live_results = [each for each in here.bus.events(CheckResult) if each.targets[0].virtual_server == "live"]  # type: ignore[attr-defined]
    assert all(each.up for each in live_results)  # type: ignore[attr-defined]
    assert not [each for each in here.bus.events(CheckOverdue) if each.targets[0].virtual_server == "live"]  # type: ignore[attr-defined]


async def test_endless_answer_is_ended_by_the_limit_of_the_run(tmp_path: Path):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.005)

    async with cell(tmp_path) as here, tcp_server(serve) as port:
        check = HttpCheck(
            name="", connection=at(port, timeout_s=0.25), urls=(HttpUrl(path="/"),), warmup_us=0, delay_loop_us=20_000
        )
        await here.load(service("vs", check))
        down = await here.result(lambda each: True)
    assert down.up is False
    assert down.text == "not done within 1 s, ended"


async def test_could_not_be_run_is_told_and_becomes_overdue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base, "OVERDUE_FLOOR", 0)
    check = TcpCheck(name="", connection=at(80, bind_address="192.0.2.77"), warmup_us=0, delay_loop_us=20_000, retry=0)
    async with cell(tmp_path) as here:
        await here.load(service("vs", check))
        not_run = await here.until(CheckNotRun, lambda each: True)
        assert not_run.errno
        overdue = await here.until(CheckOverdue, lambda each: each.overdue)
        assert overdue.silent_s > overdue.limit_s / 2
        assert overdue.reason.kind is ReasonKind.CHECK_OVERDUE
        assert here.bus.events(CheckResult) == []


async def test_ha_suspend_follows_the_address(tmp_path: Path):
    def addresses(*texts: str) -> LinkAddresses:
        return LinkAddresses(interface="eth0", addresses=texts)

    async with cell(tmp_path) as here, tcp_server(silent) as port:
        here.bus.publish("link/eth0", "addresses", addresses("10.0.0.7/24"))
        suspended = service("vs", tcp(port), ha_suspend=True, suspend_address="10.9.9.9")
        await here.load(suspended)
        await asyncio.sleep(0.1)
        assert here.bus.events(CheckResult) == []
        state = await here.until(CheckStateChanged, lambda each: True)
        assert (state.old, state.state) == (CheckState.UNKNOWN, CheckState.SUSPENDED)
        here.mark()
        here.bus.publish("link/eth0", "addresses", addresses("10.0.0.7/24", "10.9.9.9/32"))
        await here.result(lambda each: each.up)
        here.bus.publish("link/eth0", "addresses", addresses("10.0.0.7/24"))
        state = await here.until(CheckStateChanged, lambda each: each.suspended)
        assert state.up is True  # the verdict stays
        here.mark()
        await asyncio.sleep(0.1)
        assert here.bus.events(CheckResult) == []
        # Shared with a service that is not suspended it runs.
        await here.load(suspended, service("other", tcp(port)))
        await here.result(lambda each: len(each.targets) == 2 and each.runs > 1)
        here.bus.forget("link/eth0", "addresses")
        await here.load(suspended)
        await here.until(CheckStateChanged, lambda each: each.suspended)


async def test_an_operator_suspends_and_runs_checks(tmp_path: Path):
    async with cell(tmp_path) as here, tcp_server(silent) as port:
        await here.load(service("vs", tcp(port)), service("slow", tcp(port, delay_loop_us=60_000_000)))
        slow = await here.result(lambda each: each.targets[0].virtual_server == "slow")
        subject = "checkers/checkers"
        reply = await here.bus.request(subject, SuspendCheck(virtual_server="vs"))
        assert reply == CheckDone(message="1 check(s) suspended")
        state = await here.until(CheckStateChanged, lambda each: each.suspended)
        assert (state.old, state.state) == (CheckState.UP, CheckState.SUSPENDED)
        assert state.reason.kind is ReasonKind.OPERATOR_RELEASE
        here.mark()
        await asyncio.sleep(0.08)
        assert here.bus.events(CheckResult) == []
        reply = await here.bus.request(f"check/{slow.check}", RunCheck(check=slow.check))
        assert isinstance(reply, CheckDone)
        again = await here.result(lambda each: each.check == slow.check)
        assert again.runs == slow.runs + 1
        reply = await here.bus.request(subject, SuspendCheck(virtual_server="vs", suspended=False))
        assert isinstance(reply, CheckDone)
        await here.result(lambda each: each.targets[0].virtual_server == "vs")
        reply = await here.bus.request(subject, SuspendCheck(virtual_server="nobody"))
        assert isinstance(reply, Failed)


async def test_after_a_crash_the_verdict_stands_and_the_first_run_is_not_the_first(tmp_path: Path):
    port = refused_port()
    async with cell(tmp_path) as here:
        await here.load(service("vs", tcp(port)))
        before = await here.result(lambda each: each.runs >= 2)
        restored = here.bus.retained("check/")
    async with cell(tmp_path, restored) as here:
        await here.load(service("vs", tcp(port)))
        # Told at once, before it has looked: followers hold on to it.
        confirmed = await here.result(lambda each: True)
        state = await here.until(CheckStateChanged, lambda each: True)
        after = await here.result(lambda each: each.runs > confirmed.runs)
    assert (confirmed.runs, confirmed.up, confirmed.changed) == (before.runs, False, False)
    assert state.up is False
    assert after.check == before.check
    assert (after.up, after.changed, after.first) == (False, False, False)
    assert after.runs > before.runs
    assert after.since_wall_ns == before.since_wall_ns


async def test_files_tell_by_events(tmp_path: Path):
    async with cell(tmp_path) as here:
        check = FileCheck(name="", track_file="load", path="/load", weight=2)
        here.bus.publish("file/load", "state", FileValue(file="load", path="/load", value=4, reason=REASON))
        await here.load(service("vs", check))
        first = await here.result(lambda each: True)
        assert (first.up, first.first, first.changed, first.weight_add) == (True, True, True, 8)
        here.bus.publish("file/load", "state", FileValue(file="load", path="/load", value=-(2**31), reason=REASON))
        down = await here.result(lambda each: each.up is False)
        assert (down.changed, down.weight_add) == (True, 0)
        state = await here.until(CheckStateChanged, lambda each: each.up is False)
        assert state.reason.kind is ReasonKind.FILE_VALUE


async def test_an_actor_that_a_fault_ends_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(actor, "REVIVE_AFTER_S", 0.02)
    async with cell(tmp_path) as here, tcp_server(silent) as port:
        await here.load(service("vs", tcp(port)))
        before = await here.result(lambda each: each.up)
        (running,) = here.room.running.values()
        report = RunningCheck._report
        faults = [AssertionError("a broken invariant")]

        def faulty(self: RunningCheck, action: base.Report) -> None:
            if faults:
                raise faults.pop()
            report(self, action)

        monkeypatch.setattr(RunningCheck, "_report", faulty)
        while running.ref.is_alive():
            await asyncio.sleep(0.002)
        here.mark()
        after = await here.result(lambda each: each.up)
        assert (after.first, after.changed) == (False, False)
        assert after.runs > before.runs - 1


async def test_actors_that_are_removed_leave_nothing_behind(tmp_path: Path):
    async with cell(tmp_path) as here, tcp_server(silent) as port:
        await here.load(service("vs", tcp(port, timeout_s=0.05)))
        await here.result(lambda each: each.up)
        (running,) = here.room.running.values()
        actor_there = weakref.ref(here.mailroom.actors[running.ref.actor_urn])
        del running
        gc.disable()
        try:
            await here.load()
            end = time.monotonic() + 5
            # The heap of deadlines lets go of what was cancelled when its time comes.
            while actor_there() is not None and time.monotonic() < end:
                here.timers.set("wake", Instant(here.timers.now() + 1_000_000), lambda _: None)
                await asyncio.sleep(0.01)
            assert actor_there() is None
        finally:
            gc.enable()
            here.timers.set("wake", None, lambda _: None)


async def test_new_globals_reach_the_checks(tmp_path: Path):
    async with cell(tmp_path) as here, tcp_server(silent) as port:
        await here.load(service("vs", tcp(port)))
        await here.load(service("vs", tcp(port)), settings=CheckersGlobals(ssl=SslClient(ca="/nowhere")))
        assert here.room.around.settings.ssl.ca == "/nowhere"
        here.mark()
        await here.result(lambda each: each.up)


async def test_a_large_configuration_leaves_the_loop_its_turns(tmp_path: Path):
    async with cell(tmp_path) as here:
        services = [
            service(
                f"vs{number}",
                *(
                    TcpCheck(name="", connection=at(80, f"10.{number}.0.{place}"), warmup_us=600_000_000)
                    for place in range(1, 21)
                ),
            )
            for number in range(100)
        ]
        slices = {each.service: msgspec.msgpack.encode(each) for each in services}
        longest = 0.0
        here.context.configure("checkers", 1, slices)
        task = asyncio.ensure_future(here.room.settled())
        while not task.done():
            # CPU time, so that a busy machine does not count against us.
            started = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - started)
        assert len(here.room.running) == 2000
        assert longest < 0.05
        here.context.configure("checkers", 2, slices)
        await here.room.settled()
        assert here.room.running


async def test_so_many_runs_start_in_one_turn(tmp_path: Path):
    """All are due at once; the loop has its turns in between, and none is left out or runs twice."""
    async with cell(tmp_path) as here, tcp_server(silent) as port:
        checks = [
            msgspec.structs.replace(
                tcp(port, delay_loop_us=60_000_000), connection=at(port, bind_address=f"127.0.2.{n}")
            )
            for n in range(1, 201)
        ]
        running: list[int] = []
        await here.load(service("vs", *checks))
        while len(here.bus.events(CheckResult)) < 200:
            running.append(len(here.room.poller))
            await asyncio.sleep(0)
    assert max(running) <= 3 * Turnstile.STARTS_A_TURN
    assert sorted(each.runs for each in here.bus.events(CheckResult)) == [1] * 200  # type: ignore[attr-defined]


async def test_dump(tmp_path: Path):
    async with cell(tmp_path) as here, tcp_server(silent) as port:
        await here.load(service("vs", tcp(port)))
        result = await here.result(lambda each: each.up)
        text = here.context.dump()
    assert "Health checkers of checkers" in text
    assert f" {result.check}: up, 127.0.0.1:{port} accepted the connection; for 1 real server(s)" in text
