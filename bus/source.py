"""One other cell as this process sees it: a SUB socket for its events, a DEALER for questions.

`Source` keeps the views of all subscriptions on that cell exact (view.py has the rules); `Channel` sends requests
and hands the answers out by their id.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable

import zmq

from holdfast.bus.codec import BadFrame, encode
from holdfast.bus.counters import Counters
from holdfast.bus.envelope import Envelope, Frame, envelope_of, unpack_frame, unpack_topic
from holdfast.bus.sockets import LoopSocket, Tune
from holdfast.bus.view import View
from holdfast.bus.wire import (
    BEAT,
    BYE,
    CONTROL,
    HARD_BYTES_MAX,
    SYNC,
    Answer,
    Hello,
    Request,
    decode_answer,
    decode_hello,
)

QUEUE_EVENTS_MAX = 4096
SNAPSHOT_TIMEOUT_S = 1.0
"""A cell that does not answer is asked again after this; its events go on meanwhile."""
CHECK_EVERY_S = 1.0
"""How often at most beats lead to a comparison."""
LAST_WORDS_S = 2.0
"""How long a cell whose socket file is gone is listened to."""
RECONNECT_MS = 50

_ids = itertools.count(1)


def _tune(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.RCVHWM, QUEUE_EVENTS_MAX)
    socket.setsockopt(zmq.SNDHWM, QUEUE_EVENTS_MAX)
    socket.setsockopt(zmq.MAXMSGSIZE, HARD_BYTES_MAX)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.LINGER, 0)


class Channel:
    """Questions to one cell. An answer reaches the callback of its question; other answers are dropped.

    tune: keys and the like, set before connecting.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        name: str,
        endpoint: str,
        counters: Counters,
        tune: Tune | None = None,
    ) -> None:
        self.name = name
        self._counters = counters
        self._waiting: dict[int, tuple[Callable[[Answer], None], Callable[[], None]]] = {}
        socket = context.socket(zmq.DEALER)
        _tune(socket)
        if tune is not None:
            tune(socket)
        socket.connect(endpoint)
        self._socket = LoopSocket(loop, socket, self._received)

    def ask(self, request: Request, answered: Callable[[Answer], None], lost: Callable[[], None]) -> None:
        """Sends it. `lost()` when the cell is known to be gone; a deadline is the caller's own business."""
        self._waiting[request.id] = (answered, lost)
        if not self._socket.send([encode(request)]):
            self.forget(request.id)
            lost()

    def report(self, request: Request) -> None:
        """Sends what has no answer."""
        self._socket.send([encode(request)])

    def forget(self, request_id: int) -> None:
        """No callback for this question any more."""
        self._waiting.pop(request_id, None)

    def _received(self, parts: list[zmq.Frame]) -> None:
        try:
            answer = decode_answer(parts[-1].bytes)
        except BadFrame as error:
            self._counters.count_bad(error, f"cell {self.name}")
            return
        waiting = self._waiting.get(answer.id)
        if waiting is None:
            return
        if answer.last:
            del self._waiting[answer.id]
        waiting[0](answer)

    def close(self) -> None:
        """The cell is gone: everything open is lost."""
        self._socket.close()
        waiting, self._waiting = self._waiting, {}
        for _, lost in waiting.values():
            lost()


def request_id() -> int:
    """A number for the next question."""
    return next(_ids)


class _Reading:
    """A snapshot or a comparison under way. It counts when both the answer and the fence have come."""

    def __init__(self, views: list[View], op: str, fence: bytes) -> None:
        self.id = request_id()
        self.views = views
        self.op = op
        self.fence = fence + b"r%d" % self.id
        self.fenced = False
        self.complete: Answer | None = None
        self.events: list[tuple[str, bytes]] = []
        self.totals_here: list[int] = []


class Source:
    """One other cell's events. Opened and closed as its socket file comes and goes; the views outlast that.

    changed(): it joined or was heard for the first time. reader: our node and cell, for reports of what was missed.
    tune: what both sockets need before they connect. decode: what makes an envelope of a frame, here in full.
    answer_s: how long a snapshot may take before it is asked for again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        name: str,
        counters: Counters,
        changed: Callable[[], None],
        reader: tuple[str, str] = ("", ""),
        tune: Tune | None = None,
        decode: Callable[[str, Frame], Envelope] = envelope_of,
        answer_s: float = SNAPSHOT_TIMEOUT_S,
    ) -> None:
        self.name = name
        self._tune = tune
        self._decode = decode
        self._answer_s = answer_s
        self._reader = reader
        self._unreported = 0
        self.hello: Hello | None = None
        self.last_heard = 0.0
        self.views: list[View] = []
        self._loop = loop
        self._context = context
        self._counters = counters
        self._changed = changed
        self._token = SYNC + os.urandom(8).hex().encode() + b"/"
        self._fences = 0
        self._sub: LoopSocket | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self.channel: Channel | None = None
        self._endpoints: tuple[str, str] | None = None
        self._epoch = 0
        self._full_there = 0
        self._prefixes: dict[bytes, int] = {}
        self._reading: _Reading | None = None
        self._reading_timer: asyncio.TimerHandle | None = None
        self._check_wanted = False
        self._check_at = 0.0
        self._check_timer: asyncio.TimerHandle | None = None

    @property
    def open(self) -> bool:
        """True while its socket file is there; `hello` tells whether it was ever heard."""
        return self._sub is not None and self._leaving is None

    @property
    def joined(self) -> bool:
        """True when every view has its snapshot."""
        return self.open and all(view.joined for view in self.views)

    def connect(self, event_endpoint: str, command_endpoint: str) -> None:
        """The socket files are there (anew)."""
        self.disconnect()
        self._endpoints = (event_endpoint, command_endpoint)
        self.channel = Channel(self._loop, self._context, self.name, command_endpoint, self._counters, self._tune)
        socket = self._context.socket(zmq.SUB)
        _tune(socket)
        if self._tune is not None:
            self._tune(socket)
        for topic in (BEAT, BYE, *self._prefixes, self._token):
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        socket.connect(event_endpoint)
        for view in self.views:
            # Even if it is the same life of the cell: what it said between the two connections went by.
            view.wants_snapshot = True
        self._sub = LoopSocket(self._loop, socket, self._received, self._check_soon)

    def leave(self) -> None:
        """The socket files are gone: what is known stays as it is, and is stale.

        Whoever waits for an answer hears of it at once; the last words of the cell may still be on their way.
        """
        if self._sub is None or self._leaving is not None:
            return
        self._end_channel()
        self._leaving = self._loop.call_later(LAST_WORDS_S, self.disconnect)

    def renew(self) -> None:
        """Connects anew to the same place: ZeroMQ itself never tries again where a key was refused once."""
        if self._endpoints is not None:
            for view in self.views:
                view.wants_snapshot = True
            self.connect(*self._endpoints)

    def disconnect(self) -> None:
        """Hands out what has arrived and ends the connection."""
        if self._sub is not None:
            self._sub.drain()
        self._end()

    def _end(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        self._end_channel()
        if self._sub is not None:
            self._sub.close()
            self._sub = None
        self.hello = None

    def _end_channel(self) -> None:
        self._stop_reading()
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.close()

    def add(self, view: View) -> None:
        """`view` follows this cell from now on."""
        self.views.append(view)
        prefix = _wire_prefix(view.prefix)
        self._prefixes[prefix] = self._prefixes.get(prefix, 0) + 1
        if self._sub is not None:
            if self._prefixes[prefix] == 1:
                self._sub.socket.setsockopt(zmq.SUBSCRIBE, prefix)
            # The answer to this fence says that the subscription before it is in force.
            self._fences += 1
            fence = self._token + b"%d" % self._fences
            self._sub.socket.setsockopt(zmq.SUBSCRIBE, fence)
            self._sub.poke()

    def remove(self, view: View) -> None:
        """`view` follows no longer."""
        self.views.remove(view)
        prefix = _wire_prefix(view.prefix)
        self._prefixes[prefix] -= 1
        if not self._prefixes[prefix]:
            del self._prefixes[prefix]
            if self._sub is not None:
                self._sub.socket.setsockopt(zmq.UNSUBSCRIBE, prefix)
                self._sub.poke()

    def close(self) -> None:
        """Ends it; nothing more is handed out."""
        self._end()
        if self._check_timer is not None:
            self._check_timer.cancel()

    def _received(self, parts: list[zmq.Frame]) -> None:
        try:
            if len(parts) != 2:
                raise BadFrame("parts", f"{len(parts)} parts")
            topic = parts[0].bytes
            if topic.startswith(CONTROL):
                self._control(topic, decode_hello(parts[1].bytes))
            else:
                self._event(unpack_topic(topic), parts[1].bytes)
        except BadFrame as error:
            self._counters.count_bad(error, f"cell {self.name}")

    def _event(self, topic: str, data: bytes) -> None:
        views = [view for view in self.views if view.matches(topic)]
        if not views:
            return
        frame = unpack_frame(data)
        stream = frame.via or frame.id
        if stream.epoch != self._epoch:
            if stream.epoch < self._epoch:
                return
            self._new_epoch(stream.epoch)
        envelope = self._decode(topic, frame)
        self._counters.received += 1
        self.last_heard = self._loop.time()
        wants = False
        for view in views:
            before = view.missed
            view.live(envelope, stream.seq, frame.retain)
            self._count_missed(view.missed - before)
            wants = wants or view.wants_snapshot
        if wants and self._reading is None:
            self._read()

    def _control(self, topic: bytes, hello: Hello) -> None:
        if hello.epoch < self._epoch:
            return
        self.last_heard = self._loop.time()
        known_before = self.hello is not None
        self.hello = hello
        if hello.epoch > self._epoch:
            self._new_epoch(hello.epoch)
        if topic == BYE:
            if hello.text == "removed":
                for view in self.views:
                    view.forget_all()
        elif topic == BEAT:
            if hello.full != self._full_there:
                self._full_there = hello.full
                self._check_soon()
        elif self._reading is not None and topic == self._reading.fence:
            self._reading.fenced = True
            self._reading.totals_here = [view.total for view in self._reading.views]
            if self._reading.op == "snapshot":
                for view in self._reading.views:
                    view.fence()
            self._finish()
        elif topic.startswith(self._token) and not topic.startswith(self._token + b"r"):
            # The subscriptions are in force. The bare token a second time: the connection was lost in between.
            self._full_there = hello.full
            if topic == self._token and known_before:
                for view in self.views:
                    view.wants_snapshot = True
            self._read()
        if not known_before:
            self._changed()

    def _new_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._stop_reading()
        for view in self.views:
            view.join()

    def _check_soon(self) -> None:
        """Something was dropped there, perhaps for us: compare how many events there and here have been."""
        self._check_wanted = True
        wait_s = self._check_at - self._loop.time()
        if wait_s <= 0:
            self._check()
        elif self._check_timer is None:
            self._check_timer = self._loop.call_later(wait_s, self._check)

    def _check(self) -> None:
        self._check_timer = None
        views = [view for view in self.views if view.joined]
        if self.channel is None or self._reading is not None or not self._check_wanted or not views:
            return
        self._check_wanted = False
        self._check_at = self._loop.time() + CHECK_EVERY_S
        self._ask(_Reading(views, "totals", self._token))

    def _read(self) -> None:
        """Asks for the snapshot of every view that wants one, unless something is being read already."""
        views = [view for view in self.views if view.wants_snapshot]
        if self.channel is None or self._reading is not None:
            return
        if views:
            self._ask(_Reading(views, "snapshot", self._token))
        elif self._check_wanted:
            self._check_soon()

    def _ask(self, reading: _Reading) -> None:
        assert self.channel is not None
        self._reading = reading
        self._reading_timer = self._loop.call_later(self._answer_s, self._retry)
        prefixes = tuple(view.prefix for view in reading.views)
        if reading.op == "snapshot":
            prefixes = tuple(dict.fromkeys(prefixes))
        request = Request(id=reading.id, op=reading.op, prefixes=prefixes, fence=reading.fence)
        self.channel.ask(request, self._answered, _nothing)

    def _retry(self) -> None:
        reading = self._reading
        self._stop_reading()
        if reading is not None and reading.op == "totals":
            self._check_wanted = True
        self._read()

    def _stop_reading(self) -> None:
        if self._reading_timer is not None:
            self._reading_timer.cancel()
            self._reading_timer = None
        if self._reading is not None and self.channel is not None:
            self.channel.forget(self._reading.id)
        self._reading = None

    def _answered(self, answer: Answer) -> None:
        reading = self._reading
        if reading is None or answer.id != reading.id:
            return
        reading.events.extend(answer.events)
        if answer.last:
            reading.complete = answer
            self._finish()

    def _finish(self) -> None:
        reading = self._reading
        if reading is None or reading.complete is None or not reading.fenced:
            return
        answer = reading.complete
        self._stop_reading()
        if answer.epoch != self._epoch:
            self._read()
            return
        views = [view for view in reading.views if view in self.views]
        if reading.op == "totals":
            for view, here, there in zip(reading.views, reading.totals_here, answer.totals, strict=False):
                if here != there:
                    view.wants_snapshot = True
        else:
            entries = self._decoded(reading.events)
            for view in views:
                before = view.missed
                view.snapshot(answer.seq, entries, answer.counts)
                self._count_missed(view.missed - before)
            self._report_missed()
            self._changed()
        self._read()

    def _count_missed(self, events: int) -> None:
        self._counters.missed += events
        self._unreported += events

    def _report_missed(self) -> None:
        """Tells the publisher, who cannot know it otherwise and whose operator wants to."""
        if self._unreported and self.channel is not None:
            node, cell = self._reader
            self.channel.report(Request(id=request_id(), op="missed", node=node, cell=cell, missed=self._unreported))
            self._unreported = 0

    def _decoded(self, events: list[tuple[str, bytes]]) -> list[Envelope]:
        found = []
        for topic, data in events:
            try:
                found.append(self._decode(topic, unpack_frame(data)))
            except BadFrame as error:
                self._counters.count_bad(error, f"cell {self.name}")
        return found


def _wire_prefix(prefix: str) -> bytes:
    """What to subscribe to: every node's events have no common beginning, so all come and the views choose."""
    return b"" if prefix.startswith("*/") else prefix.encode("utf-8")


def _nothing() -> None:
    """The reading's own timer asks again."""
