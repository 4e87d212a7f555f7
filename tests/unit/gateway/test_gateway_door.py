"""The door over real sockets on the loopback: who gets in, what he gets, what happens when it cannot be opened."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
import zmq

from holdfast.actors.gateway import door
from holdfast.actors.gateway.access import AccessList
from holdfast.actors.gateway.door import Door, Stream
from holdfast.actors.gateway.messages import DescribeGateway, Refusal
from holdfast.actors.gateway.peer import failed
from holdfast.bus import keys
from holdfast.bus.base import Caller, RequestTimeout
from holdfast.bus.codec import Forgotten
from holdfast.bus.counters import Counters
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Event, EventId, Failed
from holdfast.bus.remote import AsyncClient
from holdfast.bus.wire import Answer, Request
from holdfast.config.settings import PeerSettings


class Happened(Event, frozen=True, kw_only=True, tag="test.happened-here"):
    """Something."""

    number: int


class World:
    """A door of lb1; eye is a viewer, hand an operator."""

    def __init__(self) -> None:
        self.key, self.eye, self.hand = (keys.generate(name) for name in ("lb1", "eye", "hand"))
        self.stream = Stream("lb1")
        self.refused: list[tuple[Refusal, str]] = []
        self.asked: list[str] = []
        self.commands: list[tuple[Request, Caller]] = []
        self.port = free_port()
        self.seq = 0

    def access(self) -> AccessList:
        return AccessList(
            [
                PeerSettings(name="eye", key=self.eye.public),
                PeerSettings(name="hand", key=self.hand.public, role="operator"),
            ]
        )

    def door(self) -> Door:
        return Door(
            asyncio.get_running_loop(),
            self.stream,
            Counters("test"),
            self.key,
            [f"127.0.0.1:{self.port}"],
            self.access(),
            refuse=lambda address, why, peer, text: self.refused.append((why, peer)),
            foreign=self._foreign,
            asked=self.asked.append,
        )

    def _foreign(self, request: Request, caller: Caller) -> asyncio.Future[Answer]:
        self.commands.append((request, caller))
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        done.set_result(failed(request, "heard", caller.role))
        return done

    def client(self, key: keys.KeyPair) -> AsyncClient:
        return AsyncClient(f"tcp://127.0.0.1:{self.port}", server_key=self.key.public, key=key)

    def happen(self, topic: str, number: int) -> None:
        self.seq += 1
        self.stream.publish(Envelope(topic, EventId("lb1", "c", 1, self.seq), 1, 1, (), Happened(number=number)))


def free_port() -> int:
    """Two ports in a row that nobody uses."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Lets the loop run until it is so."""
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.01)


async def test_what_was_told_before_it_opened_is_there() -> None:
    world = World()
    world.happen("lb1/thing/a/state", 1)
    world.happen("lb1/thing/a/state", 2)
    door = world.door()
    async with world.client(world.eye) as client:
        (found,) = await client.snapshot("thing/")
        assert (found.event, found.count, found.id.seq) == (Happened(number=2), 2, 2)
        stream = client.follow("thing/")
        assert (await stream.next(10)).event == Happened(number=2)
        world.happen("lb1/thing/a/state", 3)
        assert (await stream.next(10)).event == Happened(number=3)
        world.stream.forget("lb1/thing/a/state")
        assert isinstance((await stream.next(10)).event, Forgotten)
        assert await client.snapshot("thing/") == []
        assert stream.missed == 0
    door.close()
    assert world.refused == []


async def test_who_asks_is_who_his_key_says() -> None:
    world = World()
    door = world.door()
    async with world.client(world.hand) as client:
        reply = await client.request("gateway", DescribeGateway())
        assert reply == Failed(code="heard", message="operator")
    ((request, caller),) = world.commands
    assert (caller.node, caller.role) == ("hand", "operator")
    assert request.type == "gateway.describe"
    assert set(world.asked) == {"hand"}
    door.close()


async def test_a_viewers_command_goes_nowhere() -> None:
    world = World()
    door = world.door()
    async with world.client(world.eye) as client:
        reply = await client.request("gateway", DescribeGateway())
        assert isinstance(reply, Failed) and reply.code == "forbidden"
    assert world.commands == []
    assert world.refused == [(Refusal.ROLE, "eye")]
    door.close()


async def test_a_stranger_hears_nothing() -> None:
    world = World()
    door = world.door()
    async with world.client(keys.generate("eye")) as client:
        with pytest.raises(RequestTimeout):
            await client.snapshot("", timeout_s=0.5)
    assert {why for why, _ in world.refused} == {Refusal.KEY}
    door.close()


async def test_who_is_taken_off_the_list_is_not_listened_to_any_more() -> None:
    world = World()
    door = world.door()
    async with world.client(world.eye) as client:
        await client.snapshot("")
        door.access = AccessList([])
        with pytest.raises(RequestTimeout):
            await client.snapshot("", timeout_s=0.5)
    assert (Refusal.KEY, "eye") in world.refused
    door.close()


async def test_connections_are_counted() -> None:
    world = World()
    door = world.door()
    async with world.client(world.eye) as client:
        await client.snapshot("")
        await until(lambda: door.connections == 2)
    await until(lambda: door.connections == 0)
    door.close()


@pytest.mark.parametrize("taken", [0, 1])
async def test_a_port_that_is_taken_leaves_nothing_behind(taken: int) -> None:
    world = World()
    with socket.socket() as other:
        other.bind(("127.0.0.1", world.port + taken))
        other.listen()
        for _ in range(3):
            with pytest.raises(zmq.ZMQError):
                world.door()
    world.happen("lb1/thing/a/state", 1)
    door = world.door()
    async with world.client(world.eye) as client:
        assert len(await client.snapshot("")) == 1
    door.close()


async def test_a_client_comes_back_after_the_door_was_opened_anew() -> None:
    world = World()
    world.happen("lb1/thing/a/state", 1)
    door = world.door()
    async with world.client(world.eye) as client:
        stream = client.follow("thing/")
        assert (await stream.next(10)).event == Happened(number=1)
        door.close()
        world.happen("lb1/thing/a/state", 2)
        world.happen("lb1/thing/b/state", 3)
        door = world.door()
        found = [await stream.next(15), await stream.next(15)]
        assert [each.event for each in found] == [Happened(number=2), Happened(number=3)]
        assert stream.missed == 0, "what is retained was not missed"
    door.close()


def test_a_descriptor_that_is_another_ones_by_now_has_no_address() -> None:
    """It was closed and is a local socket's: no address, and no failure that would leave the monitor unread."""
    one, other = socket.socketpair()
    with one, other:
        assert door._address_of(one.fileno()) == ""
    with socket.socket() as lonely:
        assert door._address_of(lonely.fileno()) == ""
