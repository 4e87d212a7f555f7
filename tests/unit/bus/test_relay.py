"""Another node's events on the bus of this one: under their own name, followed exactly, kept over a restart."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from holdfast.bus import rundir
from holdfast.bus.base import Caller, UnknownMessage
from holdfast.bus.cellbus import CellBus
from holdfast.bus.codec import BadFrame, UnknownEvent, encode, encode_any, tag_of
from holdfast.bus.envelope import Envelope, Frame, pack, unpack, unpack_frame
from holdfast.bus.messages import Command, Event, EventId, Reply
from holdfast.bus.store import read_left
from holdfast.bus.wire import Answer, Request


class Elsewhere(Event, frozen=True, kw_only=True, tag="test.elsewhere"):
    """Something that happened on lb2."""

    value: int


class Poke(Command, frozen=True, kw_only=True, tag="test.poke"):
    """Asks somebody."""


class Poked(Reply, frozen=True, kw_only=True, tag="test.poked"):
    """Who asked."""

    by: str


@pytest.fixture
def run_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hf"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def frame(seq: int, value: int, *, retain: bool = True) -> tuple[str, Frame]:
    topic = "lb2/vrrp/V/state"
    envelope = Envelope(topic, EventId("lb2", "protocol", 7, seq), 10 + seq, 20, (), Elsewhere(value=value), seq + 40)
    return topic, unpack_frame(pack(envelope, retain=retain))


def bus(run_dir: Path, cell: str, **options: object) -> CellBus:
    return CellBus(asyncio.get_running_loop(), run_dir, "lb1", cell, **options)  # type: ignore[arg-type]


async def until(condition: Callable[[], object]) -> None:
    end = asyncio.get_running_loop().time() + 10
    while not condition():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.01)


async def test_followers_of_every_node_get_it_under_its_own_name(run_dir: Path) -> None:
    gateway, reader = bus(run_dir, "gateway"), bus(run_dir, "reader")
    own: list[Envelope] = []
    every: list[Envelope] = []
    one: list[Envelope] = []
    reader.subscribe("", own.append)
    followed = reader.subscribe("vrrp/", every.append, node="*")
    reader.subscribe("vrrp/", one.append, node="lb2")
    gateway.relay(*frame(1, 1))
    await until(lambda: every and one)
    gateway.relay(*frame(2, 2))
    gateway.relay(*frame(3, 3, retain=False))
    await until(lambda: len(every) == len(one) == 3)
    assert [each.event for each in every] == [Elsewhere(value=1), Elsewhere(value=2), Elsewhere(value=3)]
    assert [each.id for each in one] == [EventId("lb2", "protocol", 7, seq) for seq in (1, 2, 3)]
    assert [each for each in own if each.id.node == "lb2"] == []
    assert followed.missed == 0
    late: list[Envelope] = []
    reader.subscribe("vrrp/", late.append, node="*")
    await until(lambda: late)
    assert [each.id.seq for each in late] == [2], "the newest retained one"
    gateway.forget_relayed("lb2/vrrp/V/state")
    await until(lambda: every[-1].gone and late[-1].gone)
    assert gateway.relayed("lb2") == {}
    for each in (gateway, reader):
        each.close()


async def test_the_cells_own_followers_get_it_too(run_dir: Path) -> None:
    gateway = bus(run_dir, "gateway")
    found: list[Envelope] = []
    gateway.subscribe("", found.append, node="*")
    gateway.relay(*frame(1, 5))
    await until(lambda: any(each.id.node == "lb2" for each in found))
    gateway.close()


async def test_a_body_that_does_not_fit_is_refused_here(run_dir: Path) -> None:
    gateway = bus(run_dir, "gateway")
    topic, good = frame(1, 1)
    bad = unpack_frame(pack(Envelope(topic, good.id, 1, 1, (), UnknownEvent(name="test.elsewhere", raw=b"\x80"))))
    with pytest.raises(BadFrame):
        gateway.relay(topic, bad)
    assert gateway.relayed("lb2") == {}
    gateway.close()


async def test_what_a_newer_version_says_goes_on_untouched(run_dir: Path) -> None:
    gateway = bus(run_dir, "gateway")
    topic = "lb2/new/x/state"
    body = encode_any({"type": "future.thing", "field": [1, 2, 3]})
    event = UnknownEvent(name="future.thing", raw=body)
    told = unpack_frame(pack(Envelope(topic, EventId("lb2", "c", 1, 1), 1, 1, (), event)))
    gateway.relay(topic, told)
    kept = unpack(topic, gateway.store.frames[topic])
    assert isinstance(kept.event, UnknownEvent)
    assert kept.event.raw == body
    gateway.close()


async def test_a_gateway_that_is_put_back_still_knows_the_others(run_dir: Path) -> None:
    gateway = bus(run_dir, "gateway")
    gateway.publish("own/x", "state", Elsewhere(value=0))
    gateway.relay(*frame(1, 1))
    gateway.close(keep_state=True)
    left = read_left(rundir.state_path(run_dir, "gateway"), "lb1", "gateway")
    again = bus(run_dir, "gateway", left=left)
    assert again.relayed_nodes() == {"lb2"}
    assert again.settle() == 1, "its own unconfirmed word is forgotten, the other node's is not"
    assert list(again.relayed("lb2")) == ["lb2/vrrp/V/state"]
    again.close()


async def test_commands_for_another_node_go_to_the_gateway(run_dir: Path) -> None:
    gateway, reader = bus(run_dir, "gateway"), bus(run_dir, "reader")
    seen: list[tuple[Request, Caller]] = []

    async def carried(request: Request, caller: Caller) -> Answer:
        seen.append((request, caller))
        reply = Poked(by=caller.node)
        return Answer(id=0, op="reply", node="lb2", cell="c", epoch=1, seq=1, type=tag_of(reply), body=_raw(reply))

    gateway.serve_foreign(carried)
    await until(lambda: "gateway" in reader.hub.cell_names())
    assert await reader.request("thing", Poke(), node="lb2") == Poked(by="lb1")
    assert await gateway.request("thing", Poke(), node="lb2") == Poked(by="lb1")
    assert [request.to for request, _ in seen] == ["lb2", "lb2"]
    for each in (gateway, reader):
        each.close()


async def test_a_command_from_outside_is_answered_by_who_serves_it_and_bears_its_role(run_dir: Path) -> None:
    gateway, worker = bus(run_dir, "gateway"), bus(run_dir, "worker")
    callers: list[Caller] = []

    def serve(command: Command, caller: Caller) -> Reply:
        callers.append(caller)
        return Poked(by=caller.node)

    worker.serve("thing", serve)
    gateway.serve("here", serve)
    await until(lambda: "worker" in gateway.hub.cell_names())
    caller = Caller(node="hand", cell="client", role="replica")
    for subject in ("thing", "here"):
        request = Request(id=5, op="command", subject=subject, type=tag_of(Poke()), body=_raw(Poke()))
        answer = await gateway.forward(request, caller, timeout_s=5)
        assert (answer.op, answer.type) == ("reply", "test.poked")
    assert callers == [caller, caller]
    request = Request(id=5, op="command", subject="nobody", type=tag_of(Poke()), body=_raw(Poke()))
    with pytest.raises(UnknownMessage):
        await gateway.forward(request, caller, timeout_s=5)
    with pytest.raises(UnknownMessage):
        await gateway.forward(Request(id=5, op="command", subject="here", type="test.none"), caller, timeout_s=5)
    for each in (gateway, worker):
        each.close()


def _raw(message: Command | Reply) -> msgspec.Raw:
    return msgspec.Raw(encode(message))
