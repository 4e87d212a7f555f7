"""Runs that are due at once start over several turns of the loop."""

from __future__ import annotations

import asyncio

from holdfast.actors.checkers.kinds import Turnstile


async def test_the_limit_of_a_turn_and_the_order():
    turnstile = Turnstile(asyncio.get_running_loop())
    limit = Turnstile.STARTS_A_TURN
    started: list[int] = []
    for number in range(2 * limit + 5):
        turnstile.enter(lambda number=number: started.append(number))
    assert started == list(range(limit))
    await asyncio.sleep(0)
    assert len(started) == 2 * limit
    turnstile.enter(lambda: started.append(-1))  # behind those that wait
    await asyncio.sleep(0)
    assert started == [*range(2 * limit + 5), -1]


async def test_a_quiet_time_gives_all_of_a_turn_back():
    turnstile = Turnstile(asyncio.get_running_loop())
    started: list[int] = []
    for turn in range(3):
        for _ in range(Turnstile.STARTS_A_TURN):
            turnstile.enter(lambda turn=turn: started.append(turn))
        assert len(started) == (turn + 1) * Turnstile.STARTS_A_TURN
        await asyncio.sleep(0)
        await asyncio.sleep(0)
