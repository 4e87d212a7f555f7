"""A ZeroMQ socket on an asyncio loop.

ZeroMQ's file descriptor is edge-triggered: it becomes readable when something changed, once. So it is read until it
is empty (or until a limit, and then again on the loop's next turn), and looked at after each send, because a send may
swallow the signal of a message that came in. This costs a third of what zmq.asyncio's futures cost a message.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable

import zmq

log = logging.getLogger(__name__)

TURN_MESSAGES_MAX = 256
"""Messages read in one turn of the loop: a flood leaves the deadlines of the cell their turn."""

DRAIN_TURNS_MAX = 64

_open_contexts: set[zmq.Context[zmq.Socket[bytes]]] = set()


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """A ZeroMQ context that is kept until `end_context`.

    One that the garbage collector finds first waits for ever for sockets that it can no longer close.
    Its threads are as urgent as the one that calls: a real-time process says nothing faster than they hand it on.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    if policy in (os.SCHED_FIFO, os.SCHED_RR):
        priority = os.sched_getparam(0).sched_priority
        if _may_be(policy, priority):
            context.set(zmq.THREAD_SCHED_POLICY, policy)
            context.set(zmq.THREAD_PRIORITY, priority)
    _open_contexts.add(context)
    return context


def _may_be(policy: int, priority: int) -> bool:
    """Whether a thread of this process may schedule itself so. ZeroMQ's aborts the process when it may not."""
    allowed: list[bool] = []

    def attempt() -> None:
        try:
            os.sched_setscheduler(0, policy, os.sched_param(priority))
        except OSError:
            return
        allowed.append(True)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return bool(allowed)


def end_context(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Closes whatever is still open and waits for what lingers."""
    context.destroy()
    _open_contexts.discard(context)


Receive = Callable[[list[zmq.Frame]], None]
Tune = Callable[["zmq.Socket[bytes]"], None]
"""Sets what a socket needs before it binds or connects, such as its keys."""


class LoopSocket:
    """Calls `receive(parts)` for each message. Owns the socket.

    caught_up: called when the socket is empty after more than BACKLOG messages in a row: its queue was long, so the
    sender's may have been full.
    """

    BACKLOG = 1024

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        socket: zmq.Socket[bytes],
        receive: Receive,
        caught_up: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self.socket = socket
        self._receive = receive
        self._caught_up = caught_up
        self._in_a_row = 0
        self._poked = False
        self._fd: int = socket.getsockopt(zmq.FD)  # type: ignore[assignment]
        loop.add_reader(self._fd, self._drain)
        self.poke()

    def send(self, parts: list[bytes]) -> bool:
        """False when the queue is full: nothing was sent."""
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            # EHOSTUNREACH: a ROUTER whose peer has gone. ENOTSOCK: closed under us while the cell ends.
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH, zmq.ENOTSOCK):
                raise
            return False
        finally:
            self.poke()
        return True

    def poke(self) -> None:
        """Looks for messages on the next turn of the loop."""
        if not self._poked and not self.socket.closed:
            self._poked = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._poked = False
        socket = self.socket
        for _ in range(TURN_MESSAGES_MAX):
            if socket.closed:
                return
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.ZMQError as error:
                if error.errno != zmq.EAGAIN:
                    log.debug("receiving: %s", error)
                in_a_row, self._in_a_row = self._in_a_row, 0
                if in_a_row > self.BACKLOG and self._caught_up is not None:
                    self._caught_up()
                return
            self._in_a_row += 1
            try:
                self._receive(parts)
            except Exception:
                # What still waits here makes no new event of its own: without another look it would wait for ever.
                self.poke()
                raise
        self.poke()

    def drain(self) -> None:
        """Hands out everything that has arrived, however much it is: before the socket is closed."""
        for _ in range(DRAIN_TURNS_MAX):
            before = self._in_a_row
            self._drain()
            if self._in_a_row <= before:
                return

    def close(self, linger_ms: int = 0) -> None:
        """No call of `receive` after this. linger_ms: how long what was sent may still leave in the background."""
        if not self.socket.closed:
            self._loop.remove_reader(self._fd)
            self.socket.close(linger_ms)
