"""LoopActor keeps what pykka documents of its actors: each claim runs against ThreadingActor too where it can."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest

from holdfast.actors.runtime.actor import BlockingAsk, LoopActor, Mailroom, actor_ask, actor_stop


class LoopThread:
    """A loop in a thread of its own, so that a test can block as pykka's users do."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.room: Mailroom
        opened = threading.Event()

        def run() -> None:
            asyncio.set_event_loop(self.loop)
            self.room = Mailroom(self.loop)
            self.room.open()
            opened.set()
            self.loop.run_forever()
            self.room.close()

        self.thread = threading.Thread(target=run)
        self.thread.start()
        opened.wait(5)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


@pytest.fixture
def cell() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()
    pykka.ActorRegistry.stop_all()


@pytest.fixture(params=[pykka.ThreadingActor, LoopActor], ids=["threading", "loop"])
def base(request: pytest.FixtureRequest, cell: LoopThread) -> Any:
    return request.param


def make(base: Any, **methods: Callable[..., Any]) -> Any:
    return type("Made", (base,), {"use_daemon_thread": True, "critical": False, **methods})


def test_tell_and_ask_keep_the_order_of_one_sender(base: Any) -> None:
    seen: list[int] = []

    def on_receive(self: Any, message: Any) -> Any:
        if message == "seen":
            return list(seen)
        seen.append(message)
        return None

    ref = make(base, on_receive=on_receive).start()
    for number in range(200):
        ref.tell(number)
    assert ref.ask("seen", timeout=5) == list(range(200))
    ref.stop(timeout=5)


def test_on_start_comes_before_the_first_message_and_on_stop_after_the_last(base: Any) -> None:
    order: list[str] = []
    ref = make(
        base,
        on_start=lambda self: order.append("start"),
        on_receive=lambda self, message: order.append(message),
        on_stop=lambda self: order.append("stop"),
    ).start()
    ref.tell("a")
    ref.tell("b")
    assert ref.stop(timeout=5) is True
    assert order == ["start", "a", "b", "stop"]
    assert not ref.is_alive()
    assert ref.stop(timeout=5) is False


def test_an_exception_after_ask_goes_to_the_caller_and_the_actor_lives(base: Any) -> None:
    def on_receive(self: Any, message: Any) -> Any:
        if message == "bad":
            raise KeyError("bad")
        return "fine"

    ref = make(base, on_receive=on_receive).start()
    with pytest.raises(KeyError):
        ref.ask("bad", timeout=5)
    assert ref.ask("good", timeout=5) == "fine"
    ref.stop(timeout=5)


def test_an_exception_after_tell_ends_the_actor_and_calls_on_failure(base: Any) -> None:
    failed = threading.Event()
    stopped: list[int] = []
    kinds: list[Any] = []

    def on_receive(self: Any, message: Any) -> Any:
        raise ValueError(message)

    def on_failure(self: Any, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        kinds.append(exception_type)
        failed.set()

    ref = make(base, on_receive=on_receive, on_failure=on_failure, on_stop=lambda self: stopped.append(1)).start()
    ref.tell("boom")
    assert failed.wait(5)
    assert kinds == [ValueError]
    assert stopped == []
    assert not ref.is_alive()
    with pytest.raises(pykka.ActorDeadError):
        ref.tell("more")
    with pytest.raises(pykka.ActorDeadError):
        ref.ask("more", timeout=5)
    assert pykka.ActorRegistry.get_by_urn(ref.actor_urn) is None


def test_messages_behind_a_stop_are_answered_with_actor_dead(base: Any) -> None:
    gate = threading.Event()
    ref = make(base, on_receive=lambda self, message: gate.wait(5)).start()
    ref.tell("wait")
    stopping = ref.stop(block=False)
    late = ref.ask("late", block=False)
    gate.set()
    assert stopping.get(timeout=5) is True
    with pytest.raises(pykka.ActorDeadError):
        late.get(timeout=5)


def test_an_ask_times_out(base: Any) -> None:
    gate = threading.Event()
    ref = make(base, on_receive=lambda self, message: gate.wait(5)).start()
    with pytest.raises(pykka.Timeout):
        ref.ask("slow", timeout=0.05)
    gate.set()
    ref.stop(timeout=5)


def test_a_failing_on_start_ends_the_actor(base: Any) -> None:
    def on_start(self: Any) -> None:
        raise OSError("no")

    ref = make(base, on_start=on_start).start()
    assert ref.actor_stopped.wait(5)
    assert not ref.is_alive()


def test_proxies_work(base: Any) -> None:
    ref = make(base, double=lambda self, x: 2 * x, size=7).start()
    proxy = ref.proxy()
    assert proxy.double(4).get(timeout=5) == 8
    assert proxy.size.get(timeout=5) == 7
    ref.stop(timeout=5)


def test_messages_told_in_the_constructor_are_handled(cell: LoopThread) -> None:
    class Eager(LoopActor):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []
            self.actor_ref.tell("early")

        def on_receive(self, message: Any) -> Any:
            if message == "seen":
                return self.seen
            self.seen.append(message)
            return None

    assert Eager.start().ask("seen", timeout=5) == ["early"]


class Echo(LoopActor):
    def on_receive(self, message: Any) -> Any:
        return message


async def test_a_blocking_ask_inside_the_loop_raises_at_once_and_sends_nothing() -> None:
    seen: list[Any] = []

    class Noting(LoopActor):
        def on_receive(self, message: Any) -> Any:
            seen.append(message)

    ref = Noting.start()
    with pytest.raises(BlockingAsk):
        ref.ask("x")
    with pytest.raises(BlockingAsk):
        ref.ask("x", timeout=1)
    with pytest.raises(BlockingAsk):
        ref.stop()
    with pytest.raises(BlockingAsk):
        ref.ask("later", block=False).get()
    assert await actor_ask(ref, "end") is None
    assert seen == ["later", "end"]
    assert await actor_stop(ref)
    assert not await actor_stop(ref)


async def test_awaiting_an_answer_inside_the_loop() -> None:
    class Slow(LoopActor):
        critical = False

        def on_receive(self, message: Any) -> Any:
            if message == "raise":
                raise TimeoutError("mine")
            return message + 1

    ref = Slow.start()
    assert await actor_ask(ref, 1) == 2
    assert await ref.ask(5, block=False) == 6
    with pytest.raises(TimeoutError, match="mine"):
        await actor_ask(ref, "raise")
    assert await actor_stop(ref)
    with pytest.raises(pykka.ActorDeadError):
        await actor_ask(ref, 1)


def test_an_answer_that_does_not_come_in_time_is_pykkas_timeout(cell: LoopThread) -> None:
    gate = threading.Event()

    class Slow(LoopActor):
        def on_receive(self, message: Any) -> Any:
            return gate.wait(5)

    ref = Slow.start()

    async def ask() -> None:
        with pytest.raises(pykka.Timeout):
            await actor_ask(ref, "slow", timeout_s=0.02)
        gate.set()
        assert await actor_ask(ref, "again") is True

    asyncio.run(ask())


async def test_thousands_of_actors_share_the_loop_in_the_order_of_what_was_told() -> None:
    order: list[int] = []

    class Numbered(LoopActor):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def on_receive(self, message: Any) -> Any:
            order.append(self.number)
            return None

    refs = [Numbered.start(number) for number in range(3000)]
    for _ in range(3):
        for ref in refs:
            ref.tell("go")
    assert await actor_ask(refs[-1], "go") is None
    assert order == [*range(3000)] * 3 + [2999]
    assert threading.active_count() < 50
    for ref in refs:
        ref.stop(block=False)
    assert await actor_stop(refs[-1]) is False or not refs[-1].is_alive()
    assert not Mailroom.current().actors


async def test_a_long_inbox_leaves_the_loop_its_turn() -> None:
    turns: list[int] = []
    count = 0

    class Busy(LoopActor):
        def on_receive(self, message: Any) -> Any:
            nonlocal count
            count += 1

    def turn() -> None:
        turns.append(count)
        if count < 5000:
            asyncio.get_running_loop().call_soon(turn)

    ref = Busy.start()
    for _ in range(5000):
        ref.tell(1)
    turn()
    await actor_ask(ref, "end")
    assert len(turns) > 5, "the loop had no turn between 5000 messages"


async def test_the_owner_hears_of_an_actor_that_failed() -> None:
    failed: list[tuple[str, str]] = []
    room = Mailroom(asyncio.get_running_loop(), lambda actor, error: failed.append((type(actor).__name__, str(error))))
    room.open()

    class Broken(LoopActor):
        def on_receive(self, message: Any) -> Any:
            raise AssertionError("invariant")

    broken = Broken.start()
    echo = Echo.start()
    broken.tell(1)
    assert await actor_ask(echo, 5) == 5
    assert failed == [("Broken", "invariant")]
    room.close()
    assert not echo.is_alive()


async def test_a_closed_mailroom_answers_with_actor_dead() -> None:
    room = Mailroom(asyncio.get_running_loop())
    room.open()
    ref = Echo.start()
    future = ref.ask(1, block=False)
    room.close()
    with pytest.raises(pykka.ActorDeadError):
        await future


def test_no_loop_and_no_mailroom_is_said_so() -> None:
    with pytest.raises(RuntimeError, match="no loop runs here"):
        Echo.start()
