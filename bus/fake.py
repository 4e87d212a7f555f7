"""The bus in memory, for the tests of rooms: no socket, no loop needed, everything in a fixed order.

Several `FakeBus` on one `FakeNetwork` are the cells of several nodes. Each event goes through its wire form, so a
field that cannot travel fails here and not in the field.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Sequence

from holdfast.bus import topics
from holdfast.bus.base import Caller, Handler, RequestTimeout, Server, UnknownMessage
from holdfast.bus.codec import Forgotten, decode_command, decode_reply, encode, tag_of
from holdfast.bus.envelope import Envelope, pack, unpack
from holdfast.bus.messages import Command, Event, EventId, Reply


class FakeNetwork:
    """What connects the cells of a test. now: nanoseconds, both clocks. delay(): holds deliveries until `pump`."""

    def __init__(self, now: Callable[[], int] | None = None) -> None:
        self.now = now or (lambda: 0)
        self.cells: list[FakeBus] = []
        self.held = False
        self._queue: deque[tuple[FakeSubscription, Envelope]] = deque()
        self._pumping = False

    def post(self, envelope: Envelope) -> None:
        """Queues the event for every subscription it matches, then delivers unless a delivery is under way."""
        for cell in self.cells:
            for subscription in cell.subscriptions:
                if subscription.matches(envelope):
                    self._queue.append((subscription, envelope))
        self.pump_unless_held()

    def push(self, subscription: FakeSubscription, envelope: Envelope) -> None:
        """Queues one retained event for a subscription that joins."""
        self._queue.append((subscription, envelope))

    def pump_unless_held(self) -> None:
        """Delivers what is queued, as a cell does on its next turn."""
        if not self.held and not self._pumping:
            self.pump()

    def pump(self) -> None:
        """Delivers everything that is queued, and what that leads to."""
        self._pumping = True
        try:
            while self._queue:
                subscription, envelope = self._queue.popleft()
                if not subscription.closed:
                    subscription.handler(envelope)
        finally:
            self._pumping = False


class FakeSubscription:
    """A handler and its prefix; `missed` and `stale` may be set by a test."""

    def __init__(self, bus: FakeBus, prefix: str, handler: Handler, node: str) -> None:
        self.bus = bus
        self.prefix = prefix
        self.handler = handler
        self.node = node
        self.missed = 0
        self.stale: frozenset[str] = frozenset()
        self.closed = False

    def matches(self, envelope: Envelope) -> bool:
        """True when the handler is to get this event."""
        node, _, rest = envelope.topic.partition("/")
        return not self.closed and self.node in ("*", node) and rest.startswith(self.prefix)

    def close(self) -> None:
        """No call of the handler after this."""
        self.closed = True
        if self in self.bus.subscriptions:
            self.bus.subscriptions.remove(self)


class FakeBus:
    """A cell's end of a FakeNetwork. published: every event in order, for assertions."""

    def __init__(self, node: str = "lb1", cell: str = "test", network: FakeNetwork | None = None) -> None:
        self.node = node
        self.cell = cell
        self.network = network or FakeNetwork()
        self.network.cells.append(self)
        self.epoch = 1
        self.published: list[Envelope] = []
        self.subscriptions: list[FakeSubscription] = []
        self._retained: dict[str, Envelope] = {}
        self._counts: dict[str, int] = {}
        self._servers: dict[str, Server] = {}
        self._seq = 0

    def events(self, kind: type[Event] | None = None) -> list[Event]:
        """The published events without their envelopes, of one type when given."""
        return [each.event for each in self.published if kind is None or isinstance(each.event, kind)]

    def publish(
        self, subject: str, aspect: str, event: Event, *, causes: Sequence[EventId] = (), retain: bool = True
    ) -> EventId:
        """As Bus.publish; followers are called before this returns unless a delivery is under way."""
        topic = topics.topic_of(self.node, subject, aspect)
        self._seq += 1
        self._counts[topic] = self._counts.get(topic, 0) + 1
        name = EventId(self.node, self.cell, self.epoch, self._seq)
        now = self.network.now()
        draft = Envelope(topic, name, now, now, tuple(causes), event, self._counts[topic])
        envelope = unpack(topic, pack(draft))
        self.published.append(envelope)
        if retain:
            self._retained.pop(topic, None)
            self._retained[topic] = envelope
        self.network.post(envelope)
        return name

    def forget(self, subject: str, aspect: str) -> None:
        """As Bus.forget."""
        if self._retained.pop(topics.topic_of(self.node, subject, aspect), None) is not None:
            self.publish(subject, aspect, Forgotten(), retain=False)

    def retained(self, prefix: str = "") -> list[Envelope]:
        """As Bus.retained."""
        return [each for each in self._retained.values() if each.topic.partition("/")[2].startswith(prefix)]

    def retained_event(self, subject: str, aspect: str) -> Event | None:
        """The event retained under one topic, None when there is none."""
        found = self._retained.get(topics.topic_of(self.node, subject, aspect))
        return None if found is None else found.event

    def subscribe(self, prefix: str, handler: Handler, *, node: str | None = None) -> FakeSubscription:
        """As Bus.subscribe; the retained events come before this returns."""
        subscription = FakeSubscription(self, prefix, handler, self.node if node is None else node)
        self.subscriptions.append(subscription)
        for cell in self.network.cells:
            for envelope in cell.retained():
                if subscription.matches(envelope):
                    self.network.push(subscription, envelope)
        self.network.pump_unless_held()
        return subscription

    def serve(self, subject: str, handler: Server) -> None:
        """As Bus.serve."""
        self._servers[subject] = handler

    def server_of(self, subject: str) -> Server | None:
        """The handler that takes commands for `subject`."""
        return self._servers.get(subject) or self._servers.get(subject.partition("/")[0])

    async def request(
        self, subject: str, command: Command, *, timeout_s: float = 2.0, node: str | None = None
    ) -> Reply:
        """As Bus.request, over all cells of the network. A handler that is slow is waited for: time is the test's."""
        for cell in self.network.cells:
            if cell.node != (node or self.node):
                continue
            server = cell.server_of(subject)
            if server is not None:
                travelled = decode_command(tag_of(command), encode(command))
                assert travelled is not None
                answer = server(travelled, Caller(node=self.node, cell=self.cell))
                reply = await answer if inspect.isawaitable(answer) else answer
                assert isinstance(reply, Reply)
                return decode_reply(tag_of(reply), encode(reply))
        if all(cell.node != (node or self.node) for cell in self.network.cells):
            raise RequestTimeout(f"no cell of node {node}")
        raise UnknownMessage(f"nobody serves {subject}")
