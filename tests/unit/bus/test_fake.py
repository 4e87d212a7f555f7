"""FakeBus behaves as the real one where a room can tell: the same stories on both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.bus.base import Bus, Caller, UnknownMessage
from holdfast.bus.cellbus import CellBus
from holdfast.bus.envelope import Envelope
from holdfast.bus.fake import FakeBus, FakeNetwork
from holdfast.bus.messages import Command, Event, Reply


class Said(Event, frozen=True, kw_only=True, tag="test.fake.said"):
    value: int


class Want(Command, frozen=True, kw_only=True, tag="test.fake.want"):
    value: int


class Got(Reply, frozen=True, kw_only=True, tag="test.fake.got"):
    value: int


Story = Callable[[Bus, Bus, Callable[[], Awaitable[None]]], Awaitable[Any]]


async def on_fake(story: Story, tmp_path: Path) -> Any:
    network = FakeNetwork()

    async def settle() -> None:
        await asyncio.sleep(0)

    return await story(FakeBus("n", "a", network), FakeBus("n", "b", network), settle)


async def on_real(story: Story, tmp_path: Path) -> Any:
    loop = asyncio.get_running_loop()
    a, b = CellBus(loop, tmp_path, "n", "a"), CellBus(loop, tmp_path, "n", "b")

    async def settle() -> None:
        """Until b has heard everything that a said so far, and each itself."""
        for speaker, listener in ((a, b), (b, a)):
            done = loop.create_future()
            subscription = listener.subscribe("settle/", lambda each, done=done: done.done() or done.set_result(None))  # type: ignore[misc]
            while not done.done():
                speaker.publish("settle/x", "state", Said(value=0), retain=False)
                await asyncio.sleep(0.01)
            subscription.close()

    try:
        return await story(a, b, settle)
    finally:
        a.close()
        b.close()


def short(envelope: Envelope) -> tuple[str, int | None]:
    return envelope.topic, envelope.event.value if isinstance(envelope.event, Said) else None


async def retained_then_live(a: Bus, b: Bus, settle: Callable[[], Awaitable[None]]) -> Any:
    seen: list[Any] = []
    a.publish("thing/x", "state", Said(value=1))
    a.publish("thing/x", "state", Said(value=2))
    a.publish("thing/y", "told", Said(value=3), retain=False)
    b.publish("thing/z", "state", Said(value=4))
    await settle()
    subscription = b.subscribe("thing/x", lambda each: seen.append(short(each)))
    await settle()
    first = a.publish("thing/x", "state", Said(value=5))
    second = a.publish("thing/xx", "state", Said(value=6), causes=[first])
    a.forget("thing/x", "state")
    a.forget("thing/x", "state")
    await settle()
    subscription.close()
    a.publish("thing/x", "state", Said(value=7))
    await settle()
    retained = [short(each) for each in a.retained("thing/")]
    return seen, retained, second.seq - first.seq, subscription.missed


async def requests(a: Bus, b: Bus, settle: Callable[[], Awaitable[None]]) -> Any:
    async def later(command: Command, caller: Caller) -> Reply:
        assert isinstance(command, Want)
        return Got(value=command.value + 100)

    def at_once(command: Command, caller: Caller) -> Reply:
        assert isinstance(command, Want)
        return Got(value=command.value + (1 if caller.cell == "b" else 1000))

    a.serve("thing/x", at_once)
    a.serve("thing", later)
    await settle()
    found = [await b.request("thing/x", Want(value=1)), await b.request("thing/other", Want(value=1))]
    with pytest.raises(UnknownMessage):
        await b.request("nobody/x", Want(value=1))
    return found, await a.request("thing/x", Want(value=1))


@pytest.mark.parametrize("story", [retained_then_live, requests])
async def test_the_fake_and_the_real_bus_tell_the_same_story(story: Story, tmp_path: Path) -> None:
    fake, real = await on_fake(story, tmp_path), await on_real(story, tmp_path)
    assert fake == real
    assert fake


def test_the_fake_delivers_breadth_first_and_can_hold_back() -> None:
    network = FakeNetwork(lambda: 42)
    bus = FakeBus(network=network)
    seen: list[int | None] = []

    def handle(envelope: Envelope) -> None:
        seen.append(short(envelope)[1])
        if seen[-1] == 1:
            bus.publish("thing/a", "state", Said(value=10))
            bus.publish("thing/b", "state", Said(value=11))
            seen.append(-1)

    bus.subscribe("thing/", handle)
    bus.publish("thing/a", "state", Said(value=1))
    assert seen == [1, -1, 10, 11]
    network.held = True
    bus.publish("thing/a", "state", Said(value=12))
    assert len(seen) == 4
    network.pump()
    assert seen[-1] == 12
    assert bus.published[-1].wall_ns == 42
    assert bus.retained_event("thing/a", "state") == Said(value=12)


def test_the_fake_refuses_what_cannot_travel() -> None:
    class Bad(Event, frozen=True, kw_only=True, tag="test.fake.bad"):
        thing: Any

    with pytest.raises(TypeError):
        FakeBus().publish("thing/a", "state", Bad(thing=object()))
