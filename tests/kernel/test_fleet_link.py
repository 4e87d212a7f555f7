"""The connection to NATS by itself, on the loopback: before there is a server, and when there is none for a while."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from holdfast.actors.gateway.fleet import Fleet, FleetProblem, read_credentials
from holdfast.bus.codec import encode
from holdfast.bus.counters import BusCounters, Counters
from holdfast.bus.envelope import Envelope, Frame, pack
from holdfast.bus.messages import EventId
from holdfast.bus.wire import Answer, Request
from holdfast.config.settings import GatewaySettings

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

SERVER = shutil.which("nats-server") or "/usr/sbin/nats-server"


class Server:
    """nats-server without TLS, for this host."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [SERVER, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder / "store")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


class End:
    """One node's connection and what came over it."""

    def __init__(self, server: Server, node: str) -> None:
        self.node = node
        self.came: list[tuple[str, int]] = []
        self.beats: set[str] = set()
        self.joined = 0
        settings = GatewaySettings(engine="nats", nats_servers=(f"nats://127.0.0.1:{server.port}",), nats_keep_mb=50.0)
        self.fleet = Fleet(
            asyncio.get_running_loop(),
            node,
            settings,
            Counters("test"),
            came=self._came,
            beat=self.beats.add,
            asked=self._asked,
            caught_up=self._caught_up,
            connected=lambda: None,
        )
        self._seq = 0

    def _came(self, topic: str, frame: Frame) -> None:
        self.came.append((topic, frame.id.seq))

    def _caught_up(self) -> None:
        self.joined += 1

    async def _asked(self, request: Request, role: str, name: str) -> Answer | None:
        return Answer(
            id=0, op="reply", node=self.node, cell="x", epoch=0, seq=0, text=f"{role} {name} {request.subject}"
        )

    def tell(self, name: str, *, retain: bool = True) -> int:
        """Publishes an event; its number."""
        self._seq += 1
        own = EventId(self.node, "cell", 1, self._seq)
        topic = f"{self.node}/thing/{name}/state"
        envelope = Envelope(topic, own, time.time_ns(), time.monotonic_ns(), (), BusCounters(cell="x"))
        self.fleet.publish(topic, pack(envelope, retain=retain), f"{self.node}/{self._seq}")
        return self._seq


async def until(condition: Callable[[], object], what: str, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.02)


def test_a_node_that_is_there_before_its_server_joins_when_that_comes(tmp_path: Path) -> None:
    server = Server(tmp_path)

    async def run() -> None:
        one = End(server, "a.1")
        early = one.tell("x")
        await until(lambda: one.fleet.error, "it says why there is no connection")
        assert not one.fleet.up
        server.start()
        await until(lambda: one.joined, "joined")
        other = End(server, "b")
        await until(lambda: other.came == [("a.1/thing/x/state", early)], "what was told before there was a server")
        await until(lambda: other.beats == {"a.1"} and one.beats == {"b"}, "they live")
        request = Request(id=7, op="command", subject="thing", body=msgspec.Raw(encode(BusCounters(cell="y"))))
        answer = await other.fleet.ask("a.1", request, 5)
        assert (answer.id, answer.text) == (7, "operator b thing")
        with pytest.raises(ConnectionError):
            await other.fleet.ask("nobody", request, 5)
        await one.fleet.close()
        await other.fleet.close()

    try:
        asyncio.run(run())
    finally:
        server.kill()


def test_what_is_told_while_there_is_no_server_comes_afterwards_once_and_in_order(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start()

    async def run() -> None:
        one, other = End(server, "a"), End(server, "b")
        await until(lambda: one.joined and other.joined, "both are there")
        sent = [one.tell("x", retain=bool(number % 2)) for number in range(500)]
        await until(lambda: len(other.came) == 500, "all came")
        server.kill()
        await until(lambda: not one.fleet.up and not other.fleet.up, "it is gone")
        sent += [one.tell("x", retain=bool(number % 2)) for number in range(1500)]
        server.start()
        await until(lambda: len(other.came) >= 2000, "the rest came")
        sent += [one.tell("y")]
        await until(lambda: other.came[-1][0] == "a/thing/y/state", "and it goes on")
        assert [number for _, number in other.came] == sent
        late = End(server, "c")
        await until(lambda: late.joined, "a newcomer")
        assert sorted(late.came) == [("a/thing/x/state", 2000), ("a/thing/y/state", 2001)], "gets the newest of each"
        for each in (one, other, late):
            await each.fleet.close()

    try:
        asyncio.run(run())
    finally:
        server.kill()


def test_credentials(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text('user = "lb1"\npassword = "secret"\n')
    path.chmod(0o600)
    assert read_credentials(path) == ("lb1", "secret")
    path.chmod(0o640)
    with pytest.raises(FleetProblem, match="others may read it"):
        read_credentials(path)
    path.chmod(0o600)
    path.write_text('user = "lb1"\n')
    with pytest.raises(FleetProblem, match="password"):
        read_credentials(path)
    with pytest.raises(FleetProblem):
        read_credentials(tmp_path / "none")
