"""The example subscribers of the manual run against a real door, and tell what happens."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.actors.gateway.access import AccessList
from holdfast.actors.gateway.door import Door, Stream
from holdfast.actors.gateway.messages import Refusal
from holdfast.bus import keys
from holdfast.bus.counters import Counters
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Event, EventId
from holdfast.config.settings import PeerSettings

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
NODE_MODULES = Path(__file__).parents[3] / ".build" / "node"
"""Where the Node.js example's two packages are put, once."""


class Happened(Event, frozen=True, kw_only=True, tag="test.happened"):
    """What the examples are told."""

    number: int


class World:
    """A door on the loopback, and a subscriber in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server, self.viewer = keys.generate("lb1"), keys.generate("eye")
        keys.write(self.viewer, folder / "eye.key")
        self.stream = Stream("lb1")
        self.seq = 0
        self.port = self._free_port()
        self.door = self._door()

    @staticmethod
    def _free_port() -> int:
        while True:
            with socket.socket() as first, socket.socket() as second:
                first.bind(("127.0.0.1", 0))
                port = first.getsockname()[1]
                try:
                    second.bind(("127.0.0.1", port + 1))
                except OSError:
                    continue
                return int(port)

    def _door(self) -> Door:
        return Door(
            asyncio.get_running_loop(),
            self.stream,
            Counters("test"),
            self.server,
            [f"127.0.0.1:{self.port}"],
            AccessList([PeerSettings(name="eye", key=self.viewer.public)]),
            refuse=self._refuse,
            foreign=lambda request, caller: None,
            asked=lambda name: None,
        )

    def _refuse(self, address: str, refusal: Refusal, peer: str, text: str) -> None:
        raise AssertionError((address, refusal, peer, text))

    def happen(self, topic: str, number: int) -> None:
        self.seq += 1
        name = EventId("lb1", "test", 1, self.seq)
        self.stream.publish(Envelope(topic, name, 1, 1, (), Happened(number=number)))

    def again(self) -> None:
        """The gateway is put back: another epoch, nothing is lost of what is retained."""
        self.door.close()
        kept = list(self.stream.store.entries.values())
        old = self.stream.epoch
        self.stream = Stream("lb1")
        assert self.stream.epoch > old
        for envelope in kept:
            self.stream.publish(envelope)
        self.door = self._door()

    def command(self, *words: str) -> list[str]:
        return [*words, f"tcp://127.0.0.1:{self.port}", self.server.public, str(self.folder / "eye.key"), "thing/"]


def node_command() -> list[str]:
    """How to run the Node.js example; its two packages are installed once."""
    node, npm = shutil.which("node"), shutil.which("npm")
    assert node and npm, "Node.js is needed: deploy/setup.sh test"
    if not (NODE_MODULES / "node_modules" / "zeromq").exists():
        NODE_MODULES.mkdir(parents=True, exist_ok=True)
        words = [npm, "install", "--no-audit", "--no-fund", "zeromq@6", "@msgpack/msgpack@3"]
        subprocess.run(words, cwd=NODE_MODULES, check=True, capture_output=True, timeout=100)
    return [node, str(EXAMPLES / "subscriber.mjs")]


async def _told(process: asyncio.subprocess.Process) -> tuple[str, int, int]:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 20)
    assert line, "the example ended"
    found = json.loads(line)
    assert found["type"] == "test.happened"
    return found["topic"].split("/", 1)[1], found["body"]["number"], found["missed"]


async def follow_the_story(folder: Path, command: list[str]) -> None:
    """Joins late, follows, sees the gateway come back; skips what is not under its prefix."""
    world = World(folder)
    world.happen("lb1/thing/a/state", 1)
    world.happen("lb1/thing/a/state", 2)
    world.happen("lb1/other/x/state", 3)
    process = await asyncio.create_subprocess_exec(
        *world.command(*command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=NODE_MODULES.as_posix()
    )
    try:
        assert await _told(process) == ("thing/a/state", 2, 0)
        world.happen("lb1/thing/b/state", 4)
        world.happen("lb1/other/x/state", 5)
        world.happen("lb1/thing/a/state", 6)
        assert await _told(process) == ("thing/b/state", 4, 0)
        assert await _told(process) == ("thing/a/state", 6, 0)
        # One is lost on the way: the number says so, and the example reads everything again.
        world.stream.store.count("lb1/thing/a/state")
        world.happen("lb1/thing/a/state", 8)
        assert await _told(process) == ("thing/a/state", 8, 1)
        world.happen("lb1/thing/c/state", 9)
        again = [await _told(process) for _ in range(3)]
        assert {number for _, number, _ in again} == {4, 8, 9}
        await asyncio.sleep(0.01)
        world.again()
        again = [await _told(process) for _ in range(3)]
        assert {number for _, number, _ in again} == {4, 8, 9}
        world.happen("lb1/thing/a/state", 10)
        assert await _told(process) == ("thing/a/state", 10, 0)
    finally:
        process.kill()
        await process.wait()
        world.door.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    NODE_MODULES.mkdir(parents=True, exist_ok=True)
    yield tmp_path


async def test_the_python_example(folder: Path) -> None:
    await follow_the_story(folder, [sys.executable, str(EXAMPLES / "subscriber.py")])


@pytest.mark.peer
async def test_the_node_example(folder: Path) -> None:
    await follow_the_story(folder, node_command())


def test_the_python_example_is_short_and_needs_two_packages() -> None:
    text = (EXAMPLES / "subscriber.py").read_text()
    assert len(text.splitlines()) < 40
    imported = {match[1] for match in re.finditer(r"^(?:import|from) (\w+)", text, re.MULTILINE)}
    assert imported - set(sys.stdlib_module_names) == {"msgpack", "zmq"}
