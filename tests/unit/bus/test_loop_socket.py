"""A socket on the loop goes on after a handler that failed: what waits behind it makes no event of its own."""

from __future__ import annotations

import asyncio

import zmq

from holdfast.bus.sockets import LoopSocket


def test_what_waits_behind_a_failure_is_handed_out() -> None:
    async def run() -> list[bytes]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        here, there = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        here.bind("inproc://x")
        there.connect("inproc://x")
        for number in range(5):
            there.send(b"%d" % number)
        seen: list[bytes] = []
        done = asyncio.Event()

        def take(parts: list[zmq.Frame]) -> None:
            seen.append(parts[0].bytes)
            if seen[-1] == b"4":
                done.set()
            if seen[-1] == b"1":
                raise IndexError("a handler that failed")

        socket = LoopSocket(loop, here, take)
        await asyncio.wait_for(done.wait(), 10)
        socket.close()
        there.close()
        context.term()
        return seen

    assert asyncio.run(run()) == [b"0", b"1", b"2", b"3", b"4"]
