"""Clients of a cluster over the network: they follow and ask all nodes through one node's gateway.

`AsyncClient` lives on an asyncio loop, `RemoteClient` is the same for programs without one. Both need the gateway's
endpoint and public key, and a key of their own that the gateway knows (docs/bus.md). What a client may do follows
from its role there: a viewer gets events, an operator may send commands too.

    with RemoteClient("tcp://192.0.2.1:7420", server_key=..., key=keys.read(Path("me.key"))) as client:
        for envelope in client.follow("vrrp/"):
            print(envelope.topic, envelope.event)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self

import msgspec

from holdfast.bus import topics
from holdfast.bus.base import RequestTimeout, UnknownMessage
from holdfast.bus.codec import BadFrame, decode_reply, encode, tag_of
from holdfast.bus.counters import Counters
from holdfast.bus.envelope import Envelope, unpack
from holdfast.bus.keys import KeyPair
from holdfast.bus.messages import Command, Reply
from holdfast.bus.sockets import end_context, new_context
from holdfast.bus.source import Source, request_id
from holdfast.bus.tcp import ANSWER_S, command_endpoint
from holdfast.bus.tcp import client as client_tune
from holdfast.bus.view import View
from holdfast.bus.wire import Answer, Request

RETRY_S = 0.05
PING_EVERY_S = 1.0
RENEW_S = 12.0
FOLLOW_EVENTS_MAX = 100_000
"""Events that wait for a slow reader of `follow`; the oldest give way, and are counted as missed."""


class AsyncFollower:
    """An async iterator over events: what is retained, then each as it happens. Exact over reconnects."""

    def __init__(self, source: Source, prefix: str) -> None:
        self._source = source
        self._events: deque[Envelope] = deque()
        self._arrived = asyncio.Event()
        self._overrun = 0
        self._view = View(prefix, self._take)
        source.add(self._view)

    @property
    def missed(self) -> int:
        """Events that went by unseen. What is retained was read again; what was not is lost."""
        return self._view.missed + self._overrun

    def _take(self, envelope: Envelope) -> None:
        if not envelope.wall_ns:  # made by the view, which has no clock
            envelope = msgspec.structs.replace(envelope, wall_ns=time.time_ns(), mono_ns=time.monotonic_ns())
        if len(self._events) >= FOLLOW_EVENTS_MAX:
            self._events.popleft()
            self._overrun += 1
        self._events.append(envelope)
        self._arrived.set()

    async def next(self, timeout_s: float | None = None) -> Envelope:
        """The next event. Raises RequestTimeout when none comes within timeout_s (None: waits for ever)."""
        while not self._events:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), timeout_s)
            except TimeoutError:
                raise RequestTimeout(f"no event within {timeout_s:g} s") from None
        return self._events.popleft()

    def __aiter__(self) -> AsyncIterator[Envelope]:
        return self

    async def __anext__(self) -> Envelope:
        return await self.next()

    def close(self) -> None:
        """Ends the following."""
        with contextlib.suppress(ValueError):
            self._source.remove(self._view)


class AsyncClient:
    """One connection to a gateway. Made on a running loop; `async with`, or `close` it.

    endpoint: of the gateway's events, `tcp://HOST:PORT`; commands go to the next port. server_key: its public key.
    """

    def __init__(self, endpoint: str, *, server_key: str, key: KeyPair) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = new_context()
        self._name = key.name
        self.counters = Counters("remote")
        tune = client_tune(key, server_key)
        self._source = Source(
            self._loop, self._context, endpoint, self.counters, _nothing, (key.name, "client"), tune, answer_s=ANSWER_S
        )
        self._source.connect(endpoint, command_endpoint(endpoint))
        self._answered_at = self._loop.time()
        self._timer = self._loop.call_later(0, self._ping)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def follow(self, prefix: str = "", *, node: str = "*") -> AsyncFollower:
        """Events under `prefix` (`vrrp/`, without the node) of all nodes, or of one."""
        return AsyncFollower(self._source, _full(prefix, node))

    async def snapshot(self, prefix: str = "", *, node: str = "*", timeout_s: float = 5.0) -> list[Envelope]:
        """What is retained under `prefix`, oldest first. Raises RequestTimeout."""
        draft = Request(id=0, op="snapshot", prefixes=(_full(prefix, node),), node=self._name, cell="client")
        answers = await self._ask(draft, timeout_s)
        found = []
        for topic, data in (event for answer in answers for event in answer.events):
            try:
                found.append(unpack(topic, data))
            except BadFrame as error:
                self.counters.count_bad(error, "the gateway")
        return sorted(found, key=lambda each: (each.wall_ns, each.id))

    async def request(self, subject: str, command: Command, *, node: str = "", timeout_s: float = 5.0) -> Reply:
        """Sends a command to the gateway's node, or to another one through it. Returns the reply.

        A reply may be `Failed` (`forbidden`: the role does not suffice). Raises RequestTimeout, UnknownMessage.
        """
        body = msgspec.Raw(encode(command))
        draft = Request(
            id=0,
            op="command",
            node=self._name,
            cell="client",
            to=node,
            subject=subject,
            type=tag_of(command),
            body=body,
        )
        answer = (await self._ask(draft, timeout_s))[-1]
        if answer.op != "reply":
            raise UnknownMessage(answer.text or f"nobody serves {subject}")
        try:
            return decode_reply(answer.type, bytes(answer.body))
        except BadFrame as error:
            raise UnknownMessage(f"a reply that cannot be read: {error}") from None

    def _ping(self) -> None:
        """Asks now and then whether the gateway is there, and connects anew when it has not been for long."""
        self._timer = self._loop.call_later(PING_EVERY_S, self._ping)
        if self._loop.time() - self._answered_at > RENEW_S:
            self._answered_at = self._loop.time()
            self._source.renew()
        channel = self._source.channel
        if channel is not None:
            request = Request(id=request_id(), op="ping", node=self._name, cell="client")
            channel.ask(request, self._ponged, _nothing)
            self._loop.call_later(RENEW_S, channel.forget, request.id)

    def _ponged(self, answer: Answer) -> None:
        self._answered_at = self._loop.time()

    async def _ask(self, draft: Request, timeout_s: float) -> list[Answer]:
        """All parts of the answer; tries until there is a connection, within one deadline."""
        deadline = self._loop.time() + timeout_s
        while True:
            left_s = deadline - self._loop.time()
            if left_s <= 0:
                raise RequestTimeout(f"no answer in {timeout_s:g} s (a wrong key is not answered at all)")
            answers = await self._try(msgspec.structs.replace(draft, id=request_id()), left_s)
            if answers is not None:
                return answers
            await asyncio.sleep(min(RETRY_S, left_s))

    async def _try(self, request: Request, left_s: float) -> list[Answer] | None:
        channel = self._source.channel
        assert channel is not None
        done: asyncio.Future[bool] = self._loop.create_future()
        answers: list[Answer] = []

        def answered(answer: Answer) -> None:
            answers.append(answer)
            if answer.last and not done.done():
                done.set_result(True)

        def lost() -> None:
            if not done.done():
                done.set_result(False)

        channel.ask(request, answered, lost)
        try:
            return answers if await asyncio.wait_for(done, left_s) else None
        except TimeoutError:
            return None
        finally:
            channel.forget(request.id)

    def close(self) -> None:
        """Ends everything."""
        self._timer.cancel()
        self._source.close()
        end_context(self._context)


class RemoteClient:
    """`AsyncClient` for programs without a loop. Not shared between threads; `with`, or `close` it."""

    def __init__(self, endpoint: str, *, server_key: str, key: KeyPair) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(_made(endpoint, server_key, key))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def follow(self, prefix: str = "", *, node: str = "*") -> Follower:
        """As AsyncClient.follow, as an iterator."""
        return Follower(self._loop, self._client.follow(prefix, node=node))

    def snapshot(self, prefix: str = "", *, node: str = "*", timeout_s: float = 5.0) -> list[Envelope]:
        """As AsyncClient.snapshot."""
        return self._loop.run_until_complete(self._client.snapshot(prefix, node=node, timeout_s=timeout_s))

    def request(self, subject: str, command: Command, *, node: str = "", timeout_s: float = 5.0) -> Reply:
        """As AsyncClient.request."""
        return self._loop.run_until_complete(self._client.request(subject, command, node=node, timeout_s=timeout_s))

    def close(self) -> None:
        """Ends everything."""
        if not self._loop.is_closed():
            self._client.close()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()


class Follower:
    """`AsyncFollower` for programs without a loop. Stays exact while its reader is elsewhere."""

    def __init__(self, loop: asyncio.AbstractEventLoop, follower: AsyncFollower) -> None:
        self._loop = loop
        self._follower = follower

    @property
    def missed(self) -> int:
        """Events that went by unseen."""
        return self._follower.missed

    def next(self, timeout_s: float | None = None) -> Envelope:
        """The next event. Raises RequestTimeout when none comes within timeout_s (None: waits for ever)."""
        return self._loop.run_until_complete(self._follower.next(timeout_s))

    def __iter__(self) -> Iterator[Envelope]:
        return self

    def __next__(self) -> Envelope:
        return self.next()

    def close(self) -> None:
        """Ends the following."""
        self._follower.close()


async def _made(endpoint: str, server_key: str, key: KeyPair) -> AsyncClient:
    return AsyncClient(endpoint, server_key=server_key, key=key)


def _full(prefix: str, node: str) -> str:
    return f"*/{prefix}" if node == "*" else f"{topics.quote(node)}/{prefix}"


def _nothing() -> None:
    """Nobody wants to know."""
