"""The event side of a cell: its XPUB socket.

Who listens connects here; nothing waits for anybody. When the queue of a slow subscriber is full, what comes for it is
dropped and the others get theirs. ZeroMQ tells the first time (`full`), and no more until that queue has room again;
how many events it was the subscriber finds out by their numbers, and reports (wire.py, `missed`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import zmq

from holdfast.bus.codec import encode
from holdfast.bus.sockets import LoopSocket, Tune
from holdfast.bus.wire import BEAT, BYE, HARD_BYTES_MAX, SYNC, Hello

QUEUE_EVENTS_MAX = 4096
"""Events that wait for one slow subscriber on the sending side; the receiving side holds as many again."""
BEAT_S = 10.0
FULL_BEAT_S = 0.25
_SUBSCRIBE = 1


def bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Binds; an ipc socket is open to its owner and group alone, and gets the group of its directory."""
    if not endpoint.startswith("ipc://"):
        socket.bind(endpoint)
        return
    path = Path(endpoint.removeprefix("ipc://"))
    # umask belongs to the process, but cells bind before they start anything else.
    before = os.umask(0o117)
    try:
        socket.bind(endpoint)
    finally:
        os.umask(before)
    with contextlib.suppress(OSError):
        os.chown(path, -1, path.parent.stat().st_gid)


class Publisher:
    """Sends frames to whoever subscribed. hello(): how far this cell is, for control frames.

    endpoints: one, or several for the same stream. tune: keys and the like, set before binding.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoints: str | Sequence[str],
        hello: Hello,
        tune: Tune | None = None,
    ) -> None:
        self._loop = loop
        self._start = hello
        self.seq = 0
        self.full = 0
        socket = context.socket(zmq.XPUB)
        socket.setsockopt(zmq.SNDHWM, QUEUE_EVENTS_MAX)
        socket.setsockopt(zmq.MAXMSGSIZE, HARD_BYTES_MAX)
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        # With NODROP a full queue is an error we can count; without it ZeroMQ drops in silence.
        socket.setsockopt(zmq.XPUB_NODROP, 1)
        if tune is not None:
            tune(socket)
        for endpoint in (endpoints,) if isinstance(endpoints, str) else endpoints:
            bind(socket, endpoint)
        self._socket = socket
        self._loop_socket = LoopSocket(loop, socket, self._subscribed)
        self._beat_timer = loop.call_later(BEAT_S, self._beat)
        self._beat_at = loop.time() + BEAT_S

    def hello(self, text: str = "") -> Hello:
        """Who publishes here, and how far it is."""
        start = self._start
        return Hello(start.node, start.cell, start.epoch, self.seq, self.full, text)

    def send(self, topic: bytes, frame: bytes) -> None:
        """To everyone who subscribed to a prefix of `topic` and has room for it."""
        try:
            self._socket.send_multipart((topic, frame), zmq.NOBLOCK)
        except zmq.Again:
            self._send_to_those_with_room(topic, frame)
        self._loop_socket.poke()

    def _send_to_those_with_room(self, topic: bytes, frame: bytes) -> None:
        self.full += 1
        self._socket.setsockopt(zmq.XPUB_NODROP, 0)
        try:
            self._socket.send_multipart((topic, frame), zmq.NOBLOCK)
        except zmq.Again:
            pass  # nobody has room: the beat tells all of them
        finally:
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._beat_within(FULL_BEAT_S)

    def fence(self, topic: bytes) -> None:
        """Tells the one subscriber of this sync topic that it has everything up to now. A lost one is asked again."""
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart((topic, encode(self.hello())), zmq.NOBLOCK)
        self._loop_socket.poke()

    def _beat_within(self, seconds: float) -> None:
        at = self._loop.time() + seconds
        if at < self._beat_at:
            self._beat_timer.cancel()
            self._beat_at = at
            self._beat_timer = self._loop.call_later(seconds, self._beat)

    def _beat(self) -> None:
        body = encode(self.hello())
        wait_s = BEAT_S
        try:
            self._socket.send_multipart((BEAT, body), zmq.NOBLOCK)
        except zmq.Again:
            # Somebody is still full. The others get the beat now, he gets a later one.
            wait_s = 4 * FULL_BEAT_S
            self._socket.setsockopt(zmq.XPUB_NODROP, 0)
            with contextlib.suppress(zmq.Again):
                self._socket.send_multipart((BEAT, body), zmq.NOBLOCK)
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._loop_socket.poke()
        self._beat_at = self._loop.time() + wait_s
        self._beat_timer = self._loop.call_later(wait_s, self._beat)

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """The socket itself, for a monitor."""
        return self._socket

    def _subscribed(self, parts: list[zmq.Frame]) -> None:
        message = parts[0].bytes
        if message[:1] == bytes((_SUBSCRIBE,)) and message[1:].startswith(SYNC) and len(message) < 256:
            self.fence(message[1:])

    def close(self, *, removed: bool, linger_ms: int) -> None:
        """Says good-bye. removed: the things this cell owned are gone with it."""
        self._beat_timer.cancel()
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart((BYE, encode(self.hello("removed" if removed else "stopped"))), zmq.NOBLOCK)
        self._loop_socket.close(linger_ms)
