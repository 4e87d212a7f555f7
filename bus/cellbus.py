"""CellBus: a cell's end of the bus over ZeroMQ. The face is `base.Bus`."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from holdfast.bus import rundir, topics
from holdfast.bus.base import Caller, Handler, RequestTimeout, Server, SourceLost, UnknownMessage
from holdfast.bus.codec import Forgotten, decode_command, decode_reply, encode, tag_of
from holdfast.bus.counters import BusCounters, Counters
from holdfast.bus.envelope import FRAME_BYTES_MAX, Envelope, Frame, envelope_of, pack
from holdfast.bus.hub import Hub, HubSubscription
from holdfast.bus.messages import Command, Event, EventId, Failed, Reply
from holdfast.bus.publisher import Publisher
from holdfast.bus.server import CommandServer, Foreign
from holdfast.bus.sockets import end_context, new_context
from holdfast.bus.store import Left, RetainedStore, read_left
from holdfast.bus.wire import Answer, Hello, Request

log = logging.getLogger(__name__)

REPORT_TROUBLE_S = 1.0
REPORT_CALM_S = 60.0


class CellBus:
    """One cell's end of the bus. Made and used on the cell's loop.

    left: what a former life of this cell retained; it is given to whoever joins as if nothing had happened, until
    `settle` forgets what nobody published again. keep: retained events go to a log in the run directory.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        run_dir: Path,
        node: str,
        cell: str,
        *,
        left: Left | None = None,
        keep: bool = True,
    ) -> None:
        self.node = node
        self.cell = cell
        self.counters = Counters(cell)
        self._loop = loop
        self._queue: deque[tuple[HubSubscription, Envelope]] = deque()
        self._flushing = False
        self._closed = False
        self.epoch = max(time.time_ns() // 1_000_000, left.epoch + 1 if left is not None else 0)
        path = rundir.state_path(run_dir, cell) if keep else None
        self.store = RetainedStore(node, cell, self.epoch, None if left is not None else path)
        self.restored: list[Envelope] = []
        if left is not None:
            self.store.keep_in(path)
            self.restored = self.store.restore(left)
        rundir.bus_dir(run_dir).mkdir(mode=0o750, parents=True, exist_ok=True)
        self._context = new_context()
        # Commands first: whoever sees the event socket finds the other one.
        self._server = CommandServer(
            loop, self._context, rundir.command_endpoint(run_dir, cell), self.store, self.counters
        )
        hello = Hello(node, cell, self.epoch, 0)
        self._publisher = Publisher(loop, self._context, rundir.event_endpoint(run_dir, cell), hello)
        self._server.publisher = self._publisher
        self.hub = Hub(loop, self._context, run_dir, self.counters, own=cell, node=node)
        self._said: BusCounters | None = None
        self._said_at = 0.0
        self._said_troubles = self.counters.troubles
        self._timer = loop.call_later(REPORT_TROUBLE_S, self._housekeeping)

    def publish(
        self, subject: str, aspect: str, event: Event, *, causes: Sequence[EventId] = (), retain: bool = True
    ) -> EventId:
        """As Bus.publish."""
        topic = topics.topic_of(self.node, subject, aspect)
        publisher = self._publisher
        publisher.seq += 1
        name = EventId(self.node, self.cell, self.epoch, publisher.seq)
        envelope = Envelope(
            topic,
            name,
            time.time_ns(),
            time.monotonic_ns(),
            tuple(causes),
            event,
            self.store.count(topic),
            retain=retain,
        )
        frame = pack(envelope, retain=retain)
        self.counters.published += 1
        if len(frame) > FRAME_BYTES_MAX:
            self.counters.dropped += 1
            log.error("an event of %d bytes under %s is too large to be sent", len(frame), topic)
            return name
        if not self._closed:
            publisher.send(topic.encode("utf-8"), frame)
        if retain:
            self.store.put(envelope, frame)
        self._locally(envelope)
        return name

    def forget(self, subject: str, aspect: str) -> None:
        """As Bus.forget."""
        self._forget_topic(topics.topic_of(self.node, subject, aspect))

    def _forget_topic(self, topic: str) -> None:
        if self.store.drop(topic):
            node, subject, aspect = topics.split(topic)
            if node == self.node:
                self.publish(subject, aspect, Forgotten(), retain=False)
            else:
                now = (time.time_ns(), time.monotonic_ns())
                name = EventId(self.node, self.cell, self.epoch, self._publisher.seq + 1)
                gone = Envelope(topic, name, *now, (), Forgotten(), retain=False)
                self._send_relayed(gone, pack(gone, retain=False))
            # Who comes later knows nothing of it, and who was there forgot it with this event.
            self.store.counts.pop(topic, None)

    def relay(self, topic: str, frame: Frame) -> Envelope:
        """Publishes another node's event under its own name, as it came. Returns it. Raises BadFrame.

        Its number under the topic is this cell's own, so that followers of this cell miss nothing unnoticed.
        """
        envelope = envelope_of(topic, frame)
        if envelope.gone:
            self._forget_topic(topic)
            return envelope
        count = self.store.count(topic)
        envelope = msgspec.structs.replace(envelope, count=count)
        via = EventId(self.node, self.cell, self.epoch, self._publisher.seq + 1)
        self._send_relayed(envelope, encode(msgspec.structs.replace(frame, n=count, via=via)))
        return envelope

    def _send_relayed(self, envelope: Envelope, frame: bytes) -> None:
        self._publisher.seq += 1
        self.counters.published += 1
        if not self._closed:
            self._publisher.send(envelope.topic.encode("utf-8"), frame)
        if envelope.retain:
            self.store.put(envelope, frame)
        self._locally(envelope)

    def relayed(self, node: str) -> dict[str, Envelope]:
        """What is retained of another node's events, by topic."""
        beginning = topics.quote(node) + "/"
        return {topic: each for topic, each in self.store.entries.items() if topic.startswith(beginning)}

    def relayed_nodes(self) -> set[str]:
        """The other nodes of which something is retained."""
        return {topics.split(topic)[0] for topic in self.store.entries} - {self.node}

    def forget_relayed(self, topic: str) -> None:
        """As `forget`, for another node's topic."""
        self._forget_topic(topic)

    def serve_foreign(self, foreign: Foreign) -> None:
        """`foreign` takes the commands for other nodes: this cell is the gateway."""
        self._server.foreign = foreign

    async def forward(self, request: Request, caller: Caller, *, timeout_s: float) -> Answer:
        """Has a command from outside answered by whoever serves it on this node.

        caller: who asks, with his role. Raises RequestTimeout, SourceLost, UnknownMessage, BadFrame.
        """
        if self._server.server_of(request.subject) is None:
            draft = msgspec.structs.replace(request, to="", node=caller.node, cell=caller.cell, role=caller.role)
            return await self.hub.forward(draft, timeout_s)
        command = decode_command(request.type, bytes(request.body))
        if command is None:
            raise UnknownMessage(f"unknown command {request.type}"[:200])
        reply = await self._served_here(request.subject, command, caller, timeout_s)
        body = msgspec.Raw(encode(reply))
        seq = self._publisher.seq
        return Answer(
            id=request.id,
            op="reply",
            node=self.node,
            cell=self.cell,
            epoch=self.epoch,
            seq=seq,
            type=tag_of(reply),
            body=body,
        )

    def retained(self, prefix: str = "") -> list[Envelope]:
        """As Bus.retained."""
        return [each for topic, each in self.store.entries.items() if topic.partition("/")[2].startswith(prefix)]

    def subscribe(self, prefix: str, handler: Handler, *, node: str | None = None) -> HubSubscription:
        """As Bus.subscribe."""
        whose = "*" if node == "*" else topics.quote(node or self.node)
        subscription = self.hub.subscribe(f"{whose}/{prefix}", handler)
        for envelope in self.store.entries.values():
            if subscription.matches(envelope.topic):
                self._enqueue(subscription, envelope)
        return subscription

    def serve(self, subject: str, handler: Server) -> None:
        """As Bus.serve."""
        self._server.serve(subject, handler)

    async def request(
        self, subject: str, command: Command, *, timeout_s: float = 2.0, node: str | None = None
    ) -> Reply:
        """As Bus.request."""
        to = "" if node is None or node == self.node else node
        if to and self._server.foreign is not None:
            return await self._ask_elsewhere(subject, command, to, timeout_s)
        if to or self._server.server_of(subject) is None:
            return await self.hub.request(subject, command, timeout_s=timeout_s, to=to, node=self.node, cell=self.cell)
        return await self._served_here(subject, command, Caller(node=self.node, cell=self.cell), timeout_s)

    async def _ask_elsewhere(self, subject: str, command: Command, to: str, timeout_s: float) -> Reply:
        """This cell is the gateway itself: nobody else could hand the command on."""
        assert self._server.foreign is not None
        draft = Request(
            id=0,
            op="command",
            node=self.node,
            cell=self.cell,
            to=to,
            subject=subject,
            type=tag_of(command),
            body=msgspec.Raw(encode(command)),
        )
        waiting = self._server.foreign(draft, Caller(node=self.node, cell=self.cell))
        if waiting is None:
            raise SourceLost(f"no node {to} is known")
        try:
            answer = await asyncio.wait_for(waiting, timeout_s)
        except TimeoutError:
            raise RequestTimeout(f"{subject} on {to}: no answer in {timeout_s:g} s") from None
        if answer.op != "reply":
            raise UnknownMessage(answer.text or f"nobody serves {subject} on {to}")
        return decode_reply(answer.type, bytes(answer.body))

    async def _served_here(self, subject: str, command: Command, caller: Caller, timeout_s: float) -> Reply:
        server = self._server.server_of(subject)
        assert server is not None
        try:
            result = server(command, caller)
            if inspect.isawaitable(result):
                result = await asyncio.wait_for(result, timeout_s)
        except TimeoutError:
            raise RequestTimeout(f"{subject}: no answer in {timeout_s:g} s") from None
        except UnknownMessage:
            raise
        except Exception as error:
            self.counters.handler_errors += 1
            log.exception("command %r for %s failed", command, subject)
            return Failed(code="error", message=repr(error))
        assert isinstance(result, Reply)
        return result

    def settle(self) -> int:
        """Forgets what a former life retained and nobody has published again. Returns how many topics that were.

        What other nodes said is theirs to take back: a gateway keeps it until it hears them again.
        """
        own = topics.quote(self.node) + "/"
        topics_left = sorted(topic for topic in self.store.restored if topic.startswith(own))
        for topic in topics_left:
            self._forget_topic(topic)
        return len(topics_left)

    def _locally(self, envelope: Envelope) -> None:
        for subscription in self.hub.subscriptions:
            if subscription.matches(envelope.topic):
                self._enqueue(subscription, envelope)

    def _enqueue(self, subscription: HubSubscription, envelope: Envelope) -> None:
        self._queue.append((subscription, envelope))
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        # What is published by a handler goes to the next turn: a circle of handlers must not stop the loop.
        for _ in range(len(self._queue)):
            subscription, envelope = self._queue.popleft()
            subscription.deliver(envelope)
        self._flushing = bool(self._queue)
        if self._flushing:
            self._loop.call_soon(self._flush)

    def _housekeeping(self) -> None:
        self._timer = self._loop.call_later(REPORT_TROUBLE_S, self._housekeeping)
        if self.store.wants_compacting:
            self._compact(self.store.compacting())
        now = self._loop.time()
        troubled = self.counters.troubles != self._said_troubles
        if self._said is None or troubled or now - self._said_at >= REPORT_CALM_S:
            self.report()

    def _compact(self, steps: Iterator[None]) -> None:
        """One step of it in each turn of the loop."""
        for _ in steps:
            self._loop.call_soon(self._compact, steps)
            return

    def report(self) -> None:
        """Publishes the counters, unless nothing but this report itself has changed."""
        report = self.counters.report()
        self._said_at = self._loop.time()
        self._said_troubles = self.counters.troubles
        if self._said is None or _without_itself(report) != _without_itself(self._said):
            self.publish(f"cell/{self.cell}", "bus", report)
            self._said = self.counters.report()

    def close(self, *, removed: bool = False, keep_state: bool = False, linger_ms: int = 500) -> None:
        """Leaves the bus. removed: what this cell owned is gone with it. keep_state: a successor goes on from it."""
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        self._publisher.close(removed=removed, linger_ms=linger_ms)
        self._server.close(linger_ms)
        self.hub.close()
        self.store.close(remove=not keep_state)
        end_context(self._context)


def _without_itself(report: BusCounters) -> tuple[object, ...]:
    return (report.published, report.received, report.dropped, report.missed, report.handler_errors, report.bad)


__all__ = ["CellBus", "read_left"]
