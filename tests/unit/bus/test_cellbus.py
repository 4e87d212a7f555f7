"""The bus over real sockets between real processes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

sys.path.insert(0, str(Path(__file__).parent))
from bus_child import Double, Doubled, Nobody, Told

from holdfast.bus import rundir, wire
from holdfast.bus.base import RequestTimeout, SourceLost, UnknownMessage
from holdfast.bus.cellbus import CellBus
from holdfast.bus.client import Client
from holdfast.bus.counters import BusCounters
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Failed

SCRIPT = Path(__file__).parent / "bus_child.py"


class Child:
    """A cell in a process of its own."""

    def __init__(self, run_dir: Path, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(run_dir), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.pid = self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            raise AssertionError(self.process.stderr.read().decode())
        return json.loads(line)

    def call(self, method: str, *arguments: Any) -> Any:
        self.send(method, *arguments)
        return self.answer()

    def send(self, method: str, *arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([method, *arguments]).encode() + b"\n")
        self.process.stdin.flush()

    def until(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 15) -> dict[str, Any]:
        """Asks for reports until one is as wanted."""
        end = time.monotonic() + seconds
        while True:
            report: dict[str, Any] = self.call("report")
            if condition(report):
                return report
            assert time.monotonic() < end, report
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


Start = Callable[[str], Child]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    (path / "bus").mkdir(parents=True)
    (path / "node").write_text("n\n")
    return path


@pytest.fixture
def start(run_dir: Path) -> Iterator[Start]:
    made: list[Child] = []

    def make(name: str) -> Child:
        made.append(Child(run_dir, name))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def client(run_dir: Path) -> Iterator[Client]:
    with Client(run_dir) as made:
        yield made


def values(state: dict[str, int]) -> dict[str, int]:
    return {topic.removeprefix("n/thing/").removesuffix("/state"): value for topic, value in state.items()}


def test_a_late_joiner_gets_what_is_retained_and_then_what_happens(start: Start) -> None:
    publisher, reader = start("publisher"), start("reader")
    publisher.call("publish", "thing/a", "state", 0, 5)
    publisher.call("publish", "thing/b/c d", "state", 7, 8)
    publisher.call("publish", "other/a", "state", 0, 1)
    publisher.call("publish", "thing/a", "told", 100, 103, 0, False)
    reader.call("follow", "thing/")
    reader.until(lambda report: len(report["state"]) == 2)
    publisher.call("publish", "thing/a", "told", 103, 104, 0, False)
    publisher.call("publish", "thing/a", "state", 5, 8)
    report = reader.until(lambda report: report["state"].get("n/thing/a/state") == 7)
    assert report["state"] == {"n/thing/a/state": 7, "n/thing/b%2Fc%20d/state": 7, "n/thing/a/told": 103}
    # Retained two, told one, then three: nothing twice, nothing missed.
    assert (report["values"], report["missed"]) == (6, 0)


def test_a_reader_that_is_there_first_meets_cells_as_they_come(start: Start) -> None:
    reader = start("reader")
    reader.call("follow", "thing/")
    for name in ("one", "two", "three"):
        publisher = start(name)
        publisher.call("publish", f"thing/{name}", "state", 1, 2)
    reader.until(lambda report: values(report["state"]) == {"one": 1, "two": 1, "three": 1})


def test_a_killed_and_restarted_publisher_ends_with_exactly_its_state(start: Start) -> None:
    reader, publisher = start("reader"), start("publisher")
    reader.call("follow", "thing/")
    publisher.call("many", 300)
    reader.until(lambda report: len(report["state"]) == 300)
    publisher.call("publish", "thing/0", "state", 5000, 5001)
    reader.until(lambda report: report["last"] == 5000)
    publisher.kill()
    publisher = start("publisher")
    publisher.call("forget", "thing/7", "state")
    publisher.call("publish", "thing/1", "state", 1001, 1002)
    wanted = {str(number): number for number in range(300) if number != 7} | {"0": 5000, "1": 1001}
    report = reader.until(lambda report: values(report["state"]) == wanted)
    # What stood over the restart was not told again.
    assert report["values"] == 302
    assert report["missed"] == 0


def test_a_publisher_killed_in_a_flood_is_followed_exactly(start: Start) -> None:
    reader = start("reader")
    reader.call("follow", "thing/")
    for life in range(3):
        publisher = start("publisher")
        publisher.call("publish", "thing/marker", "state", life, life + 1)
        reader.until(lambda report, life=life: values(report["state"]).get("marker") == life)  # type: ignore[misc]
        publisher.send("many", 20_000)
        time.sleep(0.05 + random.random() / 10)
        publisher.kill()
    publisher = start("publisher")
    with Client(Path(publisher.process.args[2])) as client:  # type: ignore[index]
        snapshot = client.snapshot("thing/")
        truth = {each.topic: each.event.value for each in snapshot.events if isinstance(each.event, Told)}
    assert len(truth) > 10
    reader.until(lambda report: report["state"] == truth)


def test_a_clean_stop_leaves_things_standing_and_a_removal_takes_them(start: Start) -> None:
    reader, publisher = start("reader"), start("publisher")
    reader.call("follow", "thing/")
    publisher.call("many", 3)
    reader.until(lambda report: len(report["state"]) == 3)
    publisher.call("close", False)
    publisher.process.wait(10)
    again = start("publisher")
    again.call("publish", "thing/2", "state", 9, 10)
    reader.until(lambda report: values(report["state"]) == {"2": 9})
    again.call("close", True)
    reader.until(lambda report: report["state"] == {})


def test_a_flood_with_a_slow_reader_is_bounded_counted_and_repaired(start: Start) -> None:
    publisher, slow, quick = start("publisher"), start("slow"), start("quick")
    slow.call("follow", "thing/")
    quick.call("follow", "calm/")
    publisher.call("publish", "thing/a", "state", 0, 1)
    publisher.call("publish", "calm/a", "state", 0, 1)
    slow.until(lambda report: report["last"] == 0)
    quick.until(lambda report: report["last"] == 0)
    before = publisher.call("report"), slow.call("report")
    slow.send("sleep", 4)
    count = 60_000
    for first in range(1, count, 5000):
        publisher.call("publish", "thing/a", "state", first, first + 5000, 500)
    publisher.call("publish", "calm/a", "state", 1, 2)
    # Who does not follow the flood does not notice it.
    assert quick.until(lambda report: report["last"] == 1, 3)["values"] == 2
    flooded = publisher.call("report")
    slow.answer()
    # The last event was dropped, and nothing comes after it: the reader finds that out when it has caught up.
    last = count
    report = slow.until(lambda report: report["last"] == last)
    assert report["missed"] > 10_000
    assert report["missed"] + report["values"] == count + 1
    publisher.until(lambda report: report["dropped"] == report["slow"].get("n/slow", 0) > 10_000)
    assert publisher.call("report")["dropped"] == report["missed"]
    # 4096 events of 0.7 kB wait on either side, whatever the flood: some MB, not the 40 that were sent.
    assert flooded["peak_kb"] - before[0]["rss_kb"] < 25_000
    assert report["peak_kb"] - before[1]["rss_kb"] < 25_000


def test_commands_reach_who_serves_them(start: Start, client: Client) -> None:
    first, second = start("first"), start("second")
    reply = client.request("own/second", Double(value=4))
    assert reply == Doubled(value=8, pid=second.pid, caller="n/cli")
    reply = client.request("own/first", Double(value=4))
    assert isinstance(reply, Doubled)
    assert reply.pid == first.pid
    assert isinstance(client.request("double/anything at all", Double(value=1)), Doubled)
    with pytest.raises(UnknownMessage, match="nobody serves own/third"):
        client.request("own/third", Double(value=1))
    assert client.request("double", Nobody()) == Failed(code="what", message="Nobody()")
    assert client.request("broken", Double(value=1)) == Failed(
        code="error", message="RuntimeError('broken on purpose')"
    )


def test_a_request_has_one_deadline(start: Start, client: Client) -> None:
    start("first")
    began = time.monotonic()
    with pytest.raises(RequestTimeout):
        client.request("slow", Double(value=30), timeout_s=0.3)
    assert time.monotonic() - began < 2
    assert isinstance(client.request("double", Double(value=1)), Doubled)


def test_a_cell_that_dies_with_a_request_is_a_lost_source(start: Start, run_dir: Path, client: Client) -> None:
    first = start("first")
    with pytest.raises(SourceLost, match="no cell"):
        Client(run_dir / "nothing").request("double", Double(value=1))
    client.request("own/first", Double(value=1))

    async def ask() -> None:
        asking = asyncio.ensure_future(
            client.hub.request("slow", Double(value=30), timeout_s=20, node="n", cell="test")
        )
        await asyncio.sleep(0.2)
        first.kill()
        for path in (run_dir / "bus").iterdir():  # what the supervisor does
            path.unlink()
        with pytest.raises(SourceLost):
            await asking

    client._loop.run_until_complete(ask())


def test_a_dead_or_hung_cell_is_silent_in_a_snapshot(start: Start, run_dir: Path, client: Client) -> None:
    alive, dead, hung = start("alive"), start("dead"), start("hung")
    for child in (alive, dead, hung):
        child.call("publish", f"thing/{child.process.args[3]}", "state", 1, 2)  # type: ignore[index]
    dead.kill()  # its socket files stay
    os.kill(hung.pid, signal.SIGSTOP)
    began = time.monotonic()
    snapshot = client.snapshot("thing/", timeout_s=0.5)
    assert time.monotonic() - began < 3
    assert (snapshot.alive, snapshot.silent) == (["alive"], ["dead", "hung"])
    assert [each.subject for each in snapshot.events] == ["thing/alive"]
    # What the others left is there for who wants to explain something, and says of itself that it is old.
    left = client.left_behind(snapshot.alive)
    assert {each.subject for each in left if each.stale} == {"thing/dead", "thing/hung", "cell/dead", "cell/hung"} & {
        each.subject for each in left
    }
    assert {"thing/dead", "thing/hung"} <= {each.subject for each in left}
    os.kill(hung.pid, signal.SIGCONT)


def test_random_bytes_are_counted_and_harm_nobody(start: Start, run_dir: Path) -> None:
    victim, reader = start("victim"), start("reader")
    reader.call("follow", "thing/")
    victim.call("publish", "thing/a", "state", 0, 1)
    reader.until(lambda report: report["last"] == 0)
    chance = random.Random(1)
    context = zmq.Context()
    attacker = context.socket(zmq.DEALER)
    attacker.setsockopt(zmq.LINGER, 5000)
    attacker.connect(rundir.command_endpoint(run_dir, "victim"))
    rubbish = 0
    for number in range(3000):
        parts = [chance.randbytes(chance.randrange(1, 200)) for _ in range(chance.choice([1, 1, 1, 2, 4]))]
        attacker.send_multipart(parts)
        rubbish += 1
        if number % 100 == 0:
            # A well-formed request with a strange op, and a command with a strange body.
            attacker.send(msgspec.msgpack.encode({"id": number, "op": "dance"}))
            body = {"id": number, "op": "command", "subject": "double", "type": "test.bus.double", "body": 5}
            attacker.send(msgspec.msgpack.encode(body))
    attacker.send(b"x" * (2 * wire.REQUEST_BYTES_MAX))
    bad = victim.until(lambda report: sum(report["bad"].values()) >= rubbish + 31)["bad"]
    assert bad["oversized"] == 1
    assert bad["body"] == 30
    # A stranger that publishes rubbish under a cell's name: its followers count and go on.
    false = context.socket(zmq.XPUB)
    false.bind(rundir.event_endpoint(run_dir, "false"))
    end = time.monotonic() + 10
    sent = 0
    while sum(reader.call("report")["bad"].values()) < 50:
        assert time.monotonic() < end
        for _ in range(20):
            false.send_multipart([b"n/thing/" + chance.randbytes(8), chance.randbytes(chance.randrange(60))])
            false.send_multipart([b"n/thing/a/state", chance.randbytes(chance.randrange(60))])
            false.send(b"\xff" + chance.randbytes(5))
            sent += 3
    victim.call("publish", "thing/a", "state", 1, 2)
    report = reader.until(lambda report: report["last"] == 1)
    assert report["state"] == {"n/thing/a/state": 1}
    assert report["missed"] == 0
    attacker.close(0)
    false.close(0)
    context.term()


def test_a_stranger_with_zmq_and_msgpack_alone_can_follow_and_ask(start: Start, run_dir: Path) -> None:
    import msgpack

    publisher = start("publisher")
    publisher.call("publish", "thing/a", "state", 1, 2)
    context = zmq.Context()
    ask = context.socket(zmq.REQ)
    ask.connect(rundir.command_endpoint(run_dir, "publisher"))
    ask.send(msgpack.packb({"id": 1, "op": "snapshot", "prefixes": ["n/thing/"]}))
    answer = msgpack.unpackb(ask.recv())
    ((topic, frame),) = answer["events"]
    assert (topic, msgpack.unpackb(frame)["body"]["value"]) == ("n/thing/a/state", 1)
    follow = context.socket(zmq.SUB)
    follow.connect(rundir.event_endpoint(run_dir, "publisher"))
    follow.subscribe(b"n/thing/")
    follow.subscribe(b"\xffsync/me")
    assert follow.recv_multipart()[0] == b"\xffsync/me"  # from here on nothing is lost
    publisher.call("publish", "thing/a", "state", 2, 3)
    topic, frame = follow.recv_multipart()
    assert (topic, msgpack.unpackb(frame)["body"]["value"]) == (b"n/thing/a/state", 2)
    ask.close(0)
    follow.close(0)
    context.term()


def test_the_sockets_are_closed_to_others(start: Start, run_dir: Path) -> None:
    start("cell")
    for path in (run_dir / "bus").iterdir():
        assert path.stat().st_mode & 0o777 == 0o660


def test_a_run_directory_too_deep_for_a_socket_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too long for a socket"):
        rundir.event_endpoint(tmp_path / ("x" * 100), "cell")


async def test_a_cell_hears_itself_in_order_and_on_a_later_turn(run_dir: Path) -> None:
    bus = CellBus(asyncio.get_running_loop(), run_dir, "n", "own")
    bus.publish("thing/a", "state", Told(value=0))
    seen: list[int] = []
    done = asyncio.get_running_loop().create_future()

    def handle(envelope: Envelope) -> None:
        if not isinstance(envelope.event, Told):
            return
        seen.append(envelope.event.value)
        if envelope.event.value == 1:
            bus.publish("thing/a", "state", Told(value=10))
            seen.append(-1)
        if envelope.event.value == 10:
            done.set_result(None)

    subscription = bus.subscribe("thing/", handle)
    bus.publish("thing/a", "state", Told(value=1))
    bus.publish("thing/b", "state", Told(value=2))
    assert seen == []
    await asyncio.wait_for(done, 5)
    assert seen == [0, 1, -1, 2, 10]
    assert [each.event for each in bus.retained("thing/a")] == [Told(value=10)]
    subscription.close()
    bus.publish("thing/a", "state", Told(value=11))
    await asyncio.sleep(0.01)
    assert seen[-1] == 10
    bus.close()


async def test_a_follower_knows_which_of_its_sources_are_gone(start: Start, run_dir: Path) -> None:
    loop = asyncio.get_running_loop()
    bus = CellBus(loop, run_dir, "n", "own")
    heard = asyncio.Event()
    subscription = bus.subscribe("thing/", lambda envelope: heard.set())
    child = await loop.run_in_executor(None, start, "child")
    await loop.run_in_executor(None, child.call, "publish", "thing/a", "state", 1, 2)
    await asyncio.wait_for(heard.wait(), 10)
    assert subscription.stale == frozenset()
    child.kill()
    for path in (run_dir / "bus").glob("child.*"):  # what the supervisor does
        path.unlink()
    async with asyncio.timeout(10):
        while not subscription.stale:
            await asyncio.sleep(0.01)
    assert subscription.stale == {"child"}
    bus.close()


async def test_an_exception_in_a_handler_is_counted_and_the_next_is_called(run_dir: Path) -> None:
    bus = CellBus(asyncio.get_running_loop(), run_dir, "n", "own")
    seen: list[str] = []

    def bad(envelope: Envelope) -> None:
        raise KeyError("bad")

    bus.subscribe("thing/", bad)
    bus.subscribe("thing/", lambda envelope: seen.append(envelope.topic))
    bus.publish("thing/a", "state", Told(value=1))
    await asyncio.sleep(0.01)
    assert seen == ["n/thing/a/state"]
    bus.report()
    (report,) = bus.retained("cell/own/bus")
    assert isinstance(report.event, BusCounters)
    assert (report.event.handler_errors, report.event.published) == (1, 1)
    bus.close()


async def test_a_cell_asks_itself_without_a_socket(run_dir: Path) -> None:
    bus = CellBus(asyncio.get_running_loop(), run_dir, "n", "own")
    bus.serve("double", lambda command, caller: Doubled(value=1, pid=0, caller=caller.cell))

    async def never(command: object, caller: object) -> Doubled:
        await asyncio.sleep(30)
        raise AssertionError

    bus.serve("never", never)
    assert await bus.request("double", Double(value=1)) == Doubled(value=1, pid=0, caller="own")
    with pytest.raises(RequestTimeout):
        await bus.request("never", Double(value=1), timeout_s=0.02)
    with pytest.raises(SourceLost):
        await bus.request("nobody", Double(value=1))
    bus.close()


def test_the_last_words_of_a_cell_are_heard(start: Start) -> None:
    reader = start("reader")
    reader.call("follow", "thing/")
    for life in range(5):
        publisher = start("publisher")
        publisher.call("publish", "thing/a", "state", 1000 * life, 1000 * life + 1)
        reader.until(lambda report, life=life: report["last"] == 1000 * life)  # type: ignore[misc]
        publisher.send("publish", "thing/a", "state", 1000 * life + 1, 1000 * life + 500)
        publisher.send("close")
        publisher.process.wait(10)
        report = reader.until(lambda report, life=life: report["last"] == 1000 * life + 499)  # type: ignore[misc]
        assert report["missed"] == 0
