"""Following and asking all cells of a run directory: the listening half of the bus.

A cell has one beside its publisher (`cellbus.py`), a client has nothing else (`client.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from holdfast.bus import rundir
from holdfast.bus.base import Handler, RequestTimeout, SourceLost, UnknownMessage
from holdfast.bus.codec import BadFrame, decode_reply, encode, tag_of
from holdfast.bus.counters import Counters
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Command, Reply
from holdfast.bus.source import Channel, Source, request_id
from holdfast.bus.view import View
from holdfast.bus.wire import Answer, Request, matches

log = logging.getLogger(__name__)


class HubSubscription:
    """One handler on every cell of the node, our own included (`local`)."""

    def __init__(self, hub: Hub, prefix: str, handler: Handler) -> None:
        self.prefix = prefix
        self.closed = False
        self.views: dict[str, View] = {}
        self._hub = hub
        self._handler = handler
        self._missed_before = 0

    @property
    def missed(self) -> int:
        """Events that went by unseen, over all cells."""
        return self._missed_before + sum(view.missed for view in self.views.values())

    @property
    def stale(self) -> frozenset[str]:
        """Cells of which something was heard and which are gone now: what they told stands, and may be old."""
        return frozenset(name for name in self.views if not self._hub.sources[name].open)

    def matches(self, topic: str) -> bool:
        """Whether an event under this topic is for this handler."""
        return not self.closed and matches(self.prefix, topic)

    def deliver(self, envelope: Envelope) -> None:
        """Calls the handler; what it raises is logged and counted and ends here."""
        if self.closed:
            return
        if not envelope.wall_ns:  # made by a view, which has no clock
            envelope = msgspec.structs.replace(envelope, wall_ns=time.time_ns(), mono_ns=time.monotonic_ns())
        try:
            self._handler(envelope)
        except Exception:
            self._hub.counters.handler_errors += 1
            log.exception("the handler of %s failed with %s", self.prefix, envelope.topic)

    def close(self) -> None:
        """No call of the handler after this."""
        if not self.closed:
            self.closed = True
            self._hub.unsubscribe(self)


class Hub:
    """All other cells. own: the name of this cell, not followed over sockets. changed(): a source joined or went."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        run_dir: Path,
        counters: Counters,
        own: str = "",
        node: str = "",
        changed: Callable[[], None] | None = None,
    ) -> None:
        self.loop = loop
        self.counters = counters
        self.run_dir = run_dir
        self.sources: dict[str, Source] = {}
        self.subscriptions: list[HubSubscription] = []
        self._context = context
        self._own = own
        self._node = node
        self._changed = changed or _nothing
        self._inodes: dict[str, int] = {}
        self._channels: dict[str, Channel] = {}
        self._served_by: dict[str, str] = {}
        self._watch = rundir.CellWatch(loop, run_dir, self.rescan)

    def rescan(self) -> None:
        """Looks for cells that came, went, or were started again."""
        now = rundir.cells(self.run_dir)
        now.pop(self._own, None)
        for name in set(self._inodes) - set(now):
            self._lose(name)
        for name, inode in now.items():
            if self._inodes.get(name) != inode:
                self._lose(name)
                self._inodes[name] = inode
                if self.subscriptions:
                    self._connect(name)
        self._changed()

    def _lose(self, name: str) -> None:
        self._inodes.pop(name, None)
        source = self.sources.get(name)
        if source is not None:
            source.leave()
        channel = self._channels.pop(name, None)
        if channel is not None:
            channel.close()

    def _connect(self, name: str) -> Source:
        source = self.sources.get(name)
        if source is None:
            source = self.sources[name] = Source(
                self.loop,
                self._context,
                name,
                self.counters,
                self._changed,
                (self._node, self._own or self.counters.cell),
            )
            for subscription in self.subscriptions:
                self._add_view(subscription, source)
        if not source.open:
            source.connect(rundir.event_endpoint(self.run_dir, name), rundir.command_endpoint(self.run_dir, name))
        return source

    @staticmethod
    def _add_view(subscription: HubSubscription, source: Source) -> None:
        view = View(subscription.prefix, subscription.deliver)
        subscription.views[source.name] = view
        source.add(view)

    def subscribe(self, prefix: str, handler: Handler) -> HubSubscription:
        """Follows `NODE/PREFIX` (or `*/PREFIX`) on all other cells, those that come later too."""
        subscription = HubSubscription(self, prefix, handler)
        self.subscriptions.append(subscription)
        for source in self.sources.values():
            self._add_view(subscription, source)
        for name in self._inodes:
            if name not in self.sources or not self.sources[name].open:
                self._connect(name)
        return subscription

    def unsubscribe(self, subscription: HubSubscription) -> None:
        """Ends what `subscribe` began."""
        if subscription in self.subscriptions:
            self.subscriptions.remove(subscription)
        for name, view in subscription.views.items():
            source = self.sources.get(name)
            if source is not None:
                source.remove(view)

    def cell_names(self) -> list[str]:
        """The other cells that have a socket file."""
        return sorted(self._inodes)

    def channel(self, name: str) -> Channel:
        """The way to ask one cell. Raises SourceLost when it has no socket file."""
        source = self.sources.get(name)
        if source is not None and source.channel is not None:
            return source.channel
        if name not in self._inodes:
            raise SourceLost(f"cell {name} is not running")
        channel = self._channels.get(name)
        if channel is None:
            endpoint = rundir.command_endpoint(self.run_dir, name)
            channel = self._channels[name] = Channel(self.loop, self._context, name, endpoint, self.counters)
        return channel

    async def ask_cell(self, name: str, request: Request, timeout_s: float) -> list[Answer]:
        """All parts of the answer of one cell. Raises RequestTimeout, SourceLost."""
        done: asyncio.Future[None] = self.loop.create_future()
        answers: list[Answer] = []

        def answered(answer: Answer) -> None:
            answers.append(answer)
            if answer.last and not done.done():
                done.set_result(None)

        def lost() -> None:
            if not done.done():
                done.set_exception(SourceLost(f"cell {name} went away"))

        channel = self.channel(name)
        channel.ask(request, answered, lost)
        try:
            await asyncio.wait_for(done, timeout_s)
        except TimeoutError:
            raise RequestTimeout(f"cell {name} did not answer in {timeout_s:g} s") from None
        finally:
            channel.forget(request.id)
        return answers

    async def request(
        self, subject: str, command: Command, *, timeout_s: float, to: str = "", node: str = "", cell: str = ""
    ) -> Reply:
        """Asks the cell that serves `subject`: all of them the first time, afterwards the one that did.

        to: another node. node, cell: who asks. Raises RequestTimeout, SourceLost, UnknownMessage.
        """
        draft = Request(
            id=0,
            op="command",
            node=node,
            cell=cell,
            to=to,
            subject=subject,
            type=tag_of(command),
            body=msgspec.Raw(encode(command)),
        )
        answer = await self.forward(draft, timeout_s)
        try:
            return decode_reply(answer.type, bytes(answer.body))
        except BadFrame as error:
            raise UnknownMessage(f"a reply that cannot be read: {error}") from None

    async def forward(self, draft: Request, timeout_s: float) -> Answer:
        """Asks as `request` does, and returns the answer as it came. draft: its id is not used."""
        deadline = self.loop.time() + timeout_s
        key = f"{draft.to}/{draft.subject}"
        likely = self._served_by.get(key)
        if likely is not None and likely in self._inodes:
            # Whoever served it may have died with the question: then its successor, or another, is asked.
            with contextlib.suppress(SourceLost, UnknownMessage):
                return await self._broadcast(draft, [likely], deadline - self.loop.time(), key)
        return await self._broadcast(draft, self.cell_names(), deadline - self.loop.time(), key)

    async def _broadcast(self, draft: Request, names: list[str], timeout_s: float, key: str) -> Answer:
        done: asyncio.Future[Answer] = self.loop.create_future()
        waiting: dict[str, tuple[Channel, int]] = {}
        texts: list[str] = []
        gone: list[str] = []

        def left(name: str) -> None:
            waiting.pop(name, None)
            if waiting or done.done() or not all_asked:
                return
            if gone:
                done.set_exception(SourceLost(f"{draft.subject}: cell {', '.join(gone)} went away"))
            else:
                done.set_exception(UnknownMessage("; ".join(texts) or f"nobody serves {draft.subject}"))

        def answered(name: str, answer: Answer) -> None:
            if done.done():
                return
            if answer.op == "reply":
                self._served_by[key] = name
                done.set_result(answer)
                return
            if answer.text:
                texts.append(answer.text)
            left(name)

        def lost(name: str) -> None:
            gone.append(name)
            left(name)

        all_asked = False
        for name in names:
            request = msgspec.structs.replace(draft, id=request_id())
            channel = self.channel(name)
            waiting[name] = (channel, request.id)
            channel.ask(
                request,
                lambda answer, name=name: answered(name, answer),  # type: ignore[misc]
                lambda name=name: lost(name),  # type: ignore[misc]
            )
        all_asked = True
        if not waiting and not done.done():
            if gone or not names:
                raise SourceLost(
                    "no cell of this node is running" if not names else f"cell {', '.join(gone)} went away"
                )
            raise UnknownMessage("; ".join(texts) or f"nobody serves {draft.subject}")
        try:
            return await asyncio.wait_for(done, max(timeout_s, 0))
        except TimeoutError:
            silent = ", ".join(sorted(waiting))
            raise RequestTimeout(f"{draft.subject}: no answer in time from cell {silent}") from None
        finally:
            for channel, number in waiting.values():
                channel.forget(number)

    def close(self) -> None:
        """Ends everything; open requests are lost."""
        self._watch.close()
        for source in self.sources.values():
            source.close()
        for channel in self._channels.values():
            channel.close()
        self.subscriptions.clear()


def _nothing() -> None:
    """Nobody wants to know."""
