"""Deadlines on one timerfd, on both loops."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from holdfast.kernel.instant import Instant
from holdfast.kernel.timers import DeadlineHeap, TimerFd, boottime_ns, monotonic

MS = 1_000_000
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def runner(work: Coroutine[Any, Any, None]) -> None:
        loop = LOOPS[request.param]()
        try:
            loop.run_until_complete(asyncio.wait_for(work, 10))
        finally:
            loop.close()

    return runner


class Alarm:
    """Counts calls and lets a test wait for one."""

    def __init__(self) -> None:
        self.calls: list[Instant] = []
        self.event = asyncio.Event()

    def __call__(self, now: Instant) -> None:
        self.calls.append(now)
        self.event.set()


def after(ms: float) -> Instant:
    return Instant(monotonic() + round(ms * MS))


def test_fires_once_and_not_early(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def work() -> None:
        heap, alarm = DeadlineHeap(asyncio.get_running_loop()), Alarm()
        at = after(5)
        heap.set("a", at, alarm)
        assert heap.deadline("a") == at
        await alarm.event.wait()
        assert alarm.calls[0] >= at
        assert heap.deadline("a") is None
        assert len(heap) == 0
        assert sum(heap.late_us_log2) == 1
        heap.close()

    run(work())


def test_a_past_deadline_fires_in_the_next_turn(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def work() -> None:
        heap, alarm = DeadlineHeap(asyncio.get_running_loop()), Alarm()
        heap.set("a", Instant(1), alarm)
        assert alarm.calls == []
        await alarm.event.wait()
        heap.close()

    run(work())


def test_all_that_is_due_fires_in_order_with_one_now(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def work() -> None:
        heap, alarm = DeadlineHeap(asyncio.get_running_loop()), Alarm()
        order: list[int] = []

        def call(number: int) -> Callable[[Instant], None]:
            def due(now: Instant) -> None:
                order.append(number)
                alarm(now)

            return due

        at = after(3)
        numbers = list(range(50))
        random.Random(7).shuffle(numbers)
        for number in numbers:
            heap.set(number, Instant(at + number), call(number))
        await alarm.event.wait()
        assert order == sorted(numbers)
        assert len(set(alarm.calls)) == 1
        heap.close()

    run(work())


def test_moved_later_replaced_and_removed(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def work() -> None:
        heap = DeadlineHeap(asyncio.get_running_loop())
        old, new, gone, last = Alarm(), Alarm(), Alarm(), Alarm()
        heap.set("moved", after(2), old)
        heap.set("moved", after(12), new)
        heap.set("gone", after(3), gone)
        heap.set("gone", None, gone)
        heap.set("sooner", after(1000), old)
        heap.set("sooner", after(4), last)
        await last.event.wait()
        assert new.calls == []
        await new.event.wait()
        assert old.calls == gone.calls == []
        heap.close()

    run(work())


def test_who_fires_first_may_move_and_remove_the_others(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def work() -> None:
        heap = DeadlineHeap(asyncio.get_running_loop())
        moved, removed, renewed = Alarm(), Alarm(), Alarm()
        seen: list[str] = []
        base = after(2)

        def first(now: Instant) -> None:
            seen.append("first")
            heap.set("moved", Instant(now + 5 * MS), moved)
            heap.set("removed", None, removed)
            heap.set("first", Instant(now - 1), renewed)  # due already: not in this turn, or it would never end

        heap.set("first", base, first)
        heap.set("moved", Instant(base + 1), moved)
        heap.set("removed", Instant(base + 2), removed)
        await renewed.event.wait()
        assert moved.calls == []
        await moved.event.wait()
        assert removed.calls == []
        assert seen == ["first"]
        heap.close()

    run(work())


def test_sockets_are_drained_before_deadlines(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def work() -> None:
        heap, late, other = DeadlineHeap(asyncio.get_running_loop()), Alarm(), Alarm()
        at = after(2)
        heap.set("master-down", at, late)
        heap.set("other", at, other)
        # What the hook hears moves the deadline: the advert that waited counts.
        remove = heap.before_firing(lambda: heap.set("master-down", after(8), late))
        await other.event.wait()
        assert late.calls == []
        remove()
        await late.event.wait()
        heap.close()

    run(work())


def test_a_failure_does_not_stop_the_others(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        told: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: told.append(context))
        heap, alarm = DeadlineHeap(loop), Alarm()

        def fails(now: Instant) -> None:
            raise ValueError("broken machine")

        at = after(2)
        heap.set("fails", at, fails)
        heap.set("fine", Instant(at + 1), alarm)
        await alarm.event.wait()
        assert [context["deadline"] for context in told] == ["fails"]
        heap.close()

    run(work())


def test_many_moves_do_not_grow_the_heap(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def work() -> None:
        heap, alarm = DeadlineHeap(asyncio.get_running_loop()), Alarm()
        at = after(10_000)
        for step in range(20_000):  # ever earlier: the case that needs a new heap tuple each
            heap.set("a", Instant(at - step), alarm)
        assert len(heap._heap) < 1000
        for step in range(20_000):  # ever later: the ordinary case
            heap.set("a", Instant(at + step), alarm)
        assert len(heap._heap) < 1000
        heap.set("a", after(1), alarm)
        await alarm.event.wait()
        heap.close()

    run(work())


def test_random_operations_agree_with_a_model() -> None:
    """Whatever is set, moved and removed: exactly what a dictionary says is due fires, in order of the instants."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        dice = random.Random(3)
        heap = DeadlineHeap(loop)
        model: dict[int, int] = {}
        fired: list[tuple[int, int]] = []

        def call(key: int, at: int) -> Callable[[Instant], None]:
            return lambda now: fired.append((at, key))

        for _ in range(300):
            now = monotonic()
            for _ in range(dice.randrange(20)):
                key = dice.randrange(40)
                if dice.random() < 0.2:
                    heap.set(key, None, call(key, 0))
                    model.pop(key, None)
                else:
                    at = now + dice.choice((-MS, 60_000 * MS)) + dice.randrange(1000)
                    heap.set(key, Instant(at), call(key, at))
                    model[key] = at
            fired.clear()
            heap.fire()
            due = sorted((at, key) for key, at in model.items() if at <= now)
            assert sorted(fired) == due
            assert [at for at, _ in fired] == [at for at, _ in due]
            for _, key in due:
                del model[key]
            assert {key: heap.deadline(key) for key in model} == model
        heap.close()

    asyncio.run(work())


def test_timer_fd_alone() -> None:
    timer = TimerFd()
    timer.arm(Instant(monotonic() - 1))
    assert timer.armed_at is not None
    while not timer.clear():
        pass
    assert timer.armed_at is None
    timer.arm(None)
    assert not timer.clear()
    timer.close()
    timer.close()


def test_the_clocks_agree_while_the_machine_is_awake() -> None:
    first = boottime_ns() - monotonic()
    assert abs(boottime_ns() - monotonic() - first) < 50 * MS
