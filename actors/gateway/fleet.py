"""Nodes that meet on NATS: the connection of one node (`[gateway] engine = "nats"`).

One JetStream stream has the events of all nodes. A node publishes its own, each acknowledged and sent again until it
is; who follows gets the newest event of each topic and then everything in the stream's order, and after a lost
connection everything from where it was. Commands are NATS requests with the bus's own bodies. Signs of life go past
the stream.

The subjects and what each role may do are in bus/subjects.py; what comes in and goes out is the gateway's (actor.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import tomllib
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import nats
import nats.errors
import nats.js.errors
from nats.js import api

from holdfast.bus import subjects, topics
from holdfast.bus.codec import BadFrame, encode
from holdfast.bus.counters import Counters
from holdfast.bus.envelope import Frame, unpack_frame
from holdfast.bus.wire import Answer, Request, decode_answer, decode_request
from holdfast.config.settings import GatewaySettings

log = logging.getLogger(__name__)

BEAT_EVERY_S = 1.0
BATCH_EVENTS = 256
WAITING_EVENTS_MAX = 20_000
"""Events that wait for a connection. Older ones give way; what is retained is published again after that."""
ACK_S = 5.0
LOOK_EVERY_S = 15.0
DEDUPLICATE_S = 120.0
CONNECT_S = 3.0
SAY_EVERY_S = 60.0
JOIN_S = 2.0
"""When nothing comes for so long there is nothing: the nodes that are followed have not told anything yet."""

Came = Callable[[str, Frame], None]
Ask = Callable[[Request, str, str], Awaitable[Answer | None]]
"""(request, role, who asks) -> the answer; None: it is not listened to."""


class FleetProblem(Exception):
    """Why there is no connection, for a person."""


class Fleet:
    """One connection. Made on the cell's loop; everything happens there.

    came(topic, frame): an event of another node. beat(node): it lives. asked: a command for this node. caught_up():
    the newest event of each topic has come. connected(): all that is retained here is to be published (again).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        node: str,
        settings: GatewaySettings,
        counters: Counters,
        *,
        came: Came,
        beat: Callable[[str], None],
        asked: Ask,
        caught_up: Callable[[], None],
        connected: Callable[[], None],
    ) -> None:
        self.node = node
        self.error = ""
        self.missed = 0
        self._loop = loop
        self._settings = settings
        self._counters = counters
        self._came = came
        self._beat_of = beat
        self._asked = asked
        self._caught_up = caught_up
        self._connected = connected
        self._nats: Any = None
        self._joined = False
        self._said = ""
        self._said_at = 0.0
        self._waiting: deque[tuple[str, bytes, str]] = deque()
        self._wake = asyncio.Event()
        self._follows = [_Follow(self, pattern) for pattern in settings.nats_follow]
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._run())

    # --- the connection ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """From the first connection on; NATS itself connects again after that."""
        while True:
            try:
                await self._connect()
                break
            except (FleetProblem, nats.errors.Error, OSError, ssl.SSLError, TimeoutError) as error:
                text = str(error) or type(error).__name__
                if text != self.error:
                    log.error("no connection to NATS: %s", text)
                self.error = text
                connection, self._nats = self._nats, None
                if connection is not None:
                    with contextlib.suppress(nats.errors.Error, OSError):
                        await connection.close()
                await asyncio.sleep(CONNECT_S)
        self._spawn(self._publish_all())
        self._spawn(self._beat())
        self._spawn(self._look())

    async def _connect(self) -> None:
        settings = self._settings
        options: dict[str, Any] = {}
        if settings.nats_ca or settings.nats_certificate:
            options["tls"] = tls_context(settings)
        if settings.nats_credentials:
            options["user"], options["password"] = read_credentials(Path(settings.nats_credentials))
        self._nats = await nats.connect(
            list(settings.nats_servers),
            name=self.node,
            inbox_prefix=subjects.inbox_of(self.node),
            connect_timeout=int(CONNECT_S),
            reconnect_time_wait=1,
            max_reconnect_attempts=-1,
            ping_interval=2,
            max_outstanding_pings=2,
            pending_size=16 * 1024 * 1024,
            error_cb=self._failed,
            disconnected_cb=self._gone,
            reconnected_cb=self._again,
            **options,
        )
        await self._make_stream()
        await self._nats.subscribe(subjects.commands_for(self.node), cb=self._command)
        for follow in self._follows:
            await self._nats.subscribe(subjects.beat_of(follow.pattern), cb=self._heard)
            await follow.begin()
        self._is_there()

    async def _make_stream(self) -> None:
        settings = self._settings
        wanted = api.StreamConfig(
            name=subjects.STREAM,
            subjects=[f"{subjects.EVENTS}.>"],
            max_age=settings.nats_keep_days * 86400,
            max_bytes=int(settings.nats_keep_mb * 1e6),
            storage=api.StorageType.FILE,
            num_replicas=settings.nats_replicas,
            duplicate_window=DEDUPLICATE_S,
        )
        try:
            await self.streams.stream_info(subjects.STREAM)
        except nats.js.errors.NotFoundError:
            await self.streams.add_stream(wanted)

    @property
    def streams(self) -> Any:
        """JetStream over this connection."""
        return self._nats.jetstream(timeout=ACK_S)

    @property
    def connection(self) -> Any:
        """The connection itself."""
        return self._nats

    @property
    def up(self) -> bool:
        """Whether there is a connection now."""
        return self._nats is not None and self._nats.is_connected

    def _is_there(self) -> None:
        self.error = ""
        self._joined = True
        log.info("connected to NATS at %s", self._nats.connected_url.netloc)
        self._connected()
        self._wake.set()

    async def _gone(self) -> None:
        if self.error or not self._joined:
            return
        self.error = "the connection is lost"
        log.warning("the connection to NATS is lost")

    async def _again(self) -> None:
        for follow in self._follows:
            self._spawn(follow.again())
        self._is_there()

    async def _failed(self, error: Exception) -> None:
        """Each attempt that fails comes here, once a second while there is no server: said when it is another, and
        once a minute."""
        text = str(error) or type(error).__name__
        if not self.up:
            self.error = text
        now = self._loop.time()
        if text != self._said or now - self._said_at >= SAY_EVERY_S:
            self._said, self._said_at = text, now
            log.warning("NATS: %s", text)

    # --- events --------------------------------------------------------------------------------------------------

    def publish(self, topic: str, data: bytes, name: str) -> None:
        """Tells all others. name: of the event; the same one twice is stored once."""
        if len(self._waiting) >= WAITING_EVENTS_MAX:
            self._waiting.popleft()
            self._counters.dropped += 1
        self._waiting.append((subjects.subject_of(topic), data, name))
        self._wake.set()

    async def _publish_all(self) -> None:
        """Sends what waits, some at a time and in order, until each is acknowledged."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch = [self._waiting[index] for index in range(min(BATCH_EVENTS, len(self._waiting)))]
                if not self.up or not await self._sent(batch):
                    await asyncio.sleep(0.5)
                    continue
                for _ in batch:
                    self._waiting.popleft()

    async def _sent(self, batch: list[tuple[str, bytes, str]]) -> bool:
        streams = self.streams
        acks = []
        try:
            for subject, data, name in batch:
                if len(data) > self._nats.max_payload:
                    self._counters.dropped += 1
                    log.error("an event of %d bytes under %s is too large for NATS", len(data), subject)
                    continue
                acks.append(await streams.publish_async(subject, data, headers={"Nats-Msg-Id": name}))
            await asyncio.wait_for(asyncio.gather(*acks), ACK_S)
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError) as error:
            log.warning("%d event(s) will be sent again: %s", len(batch), str(error) or type(error).__name__)
            for ack in acks:
                ack.cancel()
            return False
        return True

    def take(self, subject: str, data: bytes, *, old: bool) -> None:
        """An event of the stream. old: from before we joined, the newest of its topic."""
        try:
            topic = subjects.topic_of(subject)
            frame = unpack_frame(data)
            node = topics.split(topic)[0]
            if frame.id.node != node:
                raise BadFrame("foreign", f"an event of {frame.id.node} under {topic}")
        except (BadFrame, topics.BadTopic) as error:
            problem = error if isinstance(error, BadFrame) else BadFrame("topic", str(error))
            self._counters.count_bad(problem, "NATS")
            return
        if node != self.node and (frame.retain or not old):
            self._counters.received += 1
            self._came(topic, frame)

    def caught_up(self) -> None:
        """One of the follows has all that stands now."""
        if all(follow.joined for follow in self._follows):
            self._caught_up()

    async def _look(self) -> None:
        """Who is forgotten by the server gets nothing and is not told so: now and then the ends are compared."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self.up:
                for follow in self._follows:
                    with contextlib.suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError):
                        await follow.look()

    # --- signs of life and commands ------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            if self.up:
                with contextlib.suppress(nats.errors.Error):
                    await self._nats.publish(subjects.beat_of(self.node), b"")
            await asyncio.sleep(BEAT_EVERY_S)

    async def _heard(self, message: Any) -> None:
        name = message.subject.rpartition(".")[2]
        try:
            node = topics.split(subjects.topic_of(f"{subjects.EVENTS}.{name}.a.b.c"))[0]
        except topics.BadTopic:
            return
        if node != self.node:
            self._beat_of(node)

    async def _command(self, message: Any) -> None:
        try:
            role, name = subjects.caller_of(message.subject)
            request = decode_request(message.data)
        except (topics.BadTopic, BadFrame) as error:
            problem = error if isinstance(error, BadFrame) else BadFrame("topic", str(error))
            self._counters.count_bad(problem, "NATS")
            return
        self._counters.requests += 1
        if message.reply:
            self._spawn(self._answer(request, role, name, message))

    async def _answer(self, request: Request, role: str, name: str, message: Any) -> None:
        answer = await self._asked(request, role, name)
        if answer is not None:
            data = encode(msgspec.structs.replace(answer, id=request.id))
            if len(data) > self._nats.max_payload:
                text = f"the answer has {len(data)} bytes, NATS takes {self._nats.max_payload} (max_payload)"
                log.error("%s for %s: %s", request.type or request.op, name, text)
                data = encode(Answer(id=request.id, op="error", node=self.node, cell="", epoch=0, seq=0, text=text))
            with contextlib.suppress(nats.errors.Error):
                await self._nats.publish(message.reply, data)

    async def ask(self, node: str, request: Request, timeout_s: float) -> Answer:
        """Asks another node. Raises TimeoutError, ConnectionError, BadFrame."""
        if not self.up:
            raise ConnectionError("there is no connection to NATS")
        subject = subjects.command_of(self._settings.nats_role, node, self.node)
        try:
            reply = await self._nats.request(subject, encode(request), timeout=timeout_s)
        except nats.errors.NoRespondersError:
            raise ConnectionError("is not connected to NATS") from None
        except nats.errors.TimeoutError:
            raise TimeoutError from None
        except nats.errors.Error as error:
            raise ConnectionError(str(error)) from None
        return decode_answer(reply.data)

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("the connection to NATS: a part of it failed", exc_info=task.exception())

    async def close(self) -> None:
        """Ends it; what waits for an acknowledgement has a moment."""
        deadline = self._loop.time() + 0.5
        while self._waiting and self.up and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
        self._joined = False
        for task in list(self._tasks):
            task.cancel()
        if self._nats is not None:
            with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
                await asyncio.wait_for(self._nats.close(), 0.5)


class _Follow:
    """The events of one node, or of all (`*`), from the stream and in its order."""

    def __init__(self, fleet: Fleet, pattern: str) -> None:
        self.pattern = pattern
        self.joined = False
        self._fleet = fleet
        self._subscription: Any = None
        self._last = 0
        """Where in the stream we are."""
        self._consumed = 0
        self._end = 0
        """Where the stream ended when we joined."""
        self._behind_at = -1
        self._mark: object = None
        self._busy = asyncio.Lock()

    async def begin(self) -> None:
        """The newest of each topic, then what comes."""
        info = await self._fleet.streams.stream_info(subjects.STREAM)
        self._end = info.state.last_seq
        self._last = 0
        self.joined = False
        await self._subscribe(deliver_policy=api.DeliverPolicy.LAST_PER_SUBJECT)
        # Where nothing is there is nothing to wait for.
        asyncio.get_running_loop().call_later(JOIN_S if self._end else 0, self._join_if_silent)

    def _join_if_silent(self) -> None:
        if not self._consumed:
            self._last = max(self._last, self._end)
            self._join()

    def _join(self) -> None:
        if not self.joined:
            self.joined = True
            self._fleet.caught_up()

    async def again(self) -> None:
        """From where we were; if the stream does not reach back so far, the newest of each topic."""
        async with self._busy:
            pause_s = 0.2
            while True:
                try:
                    info = await self._fleet.streams.stream_info(subjects.STREAM)
                    if not self.joined or info.state.last_seq < self._last:
                        await self.begin()
                    elif info.state.first_seq > self._last + 1:
                        self._fleet.missed += info.state.first_seq - self._last - 1
                        await self.begin()
                    else:
                        await self._subscribe(
                            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._last + 1
                        )
                    return
                except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                    log.warning("the events on NATS: %s", str(error) or type(error).__name__)
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, CONNECT_S)

    async def _subscribe(self, **policy: Any) -> None:
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.unsubscribe()
        self._consumed = 0
        config = api.ConsumerConfig(ack_policy=api.AckPolicy.NONE, inactive_threshold=30, mem_storage=True, **policy)
        # Its callback is bound to this subscription: what an older one still hands out does not count.
        mark = object()
        self._mark = mark

        async def came(message: Any) -> None:
            if self._mark is mark:
                self._came(message)

        self._subscription = await self._fleet.streams.subscribe(
            subjects.events_of(self.pattern),
            stream=subjects.STREAM,
            cb=came,
            manual_ack=True,
            config=config,
            flow_control=True,
            idle_heartbeat=5,
        )

    def _came(self, message: Any) -> None:
        # $JS.ACK.STREAM.CONSUMER.DELIVERED.STREAM_SEQ.CONSUMER_SEQ.TIME.PENDING
        words = message.reply.split(".")
        if len(words) < 9:
            return
        place, consumed, pending = int(words[-4]), int(words[-3]), int(words[-1])
        if consumed != self._consumed + 1:
            # Something was dropped on the way to us: read again from the last that came.
            self._mark = None
            self._fleet._spawn(self.again())
            return
        self._consumed = consumed
        self._last = max(self._last, place)
        self._fleet.take(message.subject, message.data, old=place <= self._end)
        if not self.joined and not pending:
            self._last = max(self._last, self._end)
            self._join()

    async def look(self) -> None:
        """Whether the stream goes on without us."""
        last = (await self._fleet.streams.stream_info(subjects.STREAM)).state.last_seq
        behind, self._behind_at = self._behind_at, self._last
        if self.pattern == "*" and last > self._last and behind == self._last:
            await self.again()


def tls_context(settings: GatewaySettings) -> ssl.SSLContext:
    """Whom we trust, and who we are. Raises FleetProblem."""
    try:
        context = ssl.create_default_context(cafile=settings.nats_ca or None)
        if settings.nats_certificate:
            context.load_cert_chain(settings.nats_certificate, settings.nats_key or None)
    except OSError as error:
        names = ", ".join(name for name in (settings.nats_ca, settings.nats_certificate, settings.nats_key) if name)
        raise FleetProblem(f"{names}: {error}") from None
    return context


def read_credentials(path: Path) -> tuple[str, str]:
    """User and password from a TOML file that nobody else can read. Raises FleetProblem."""
    try:
        if path.stat().st_mode & 0o077:
            raise FleetProblem(f"{path}: others may read it (chmod 600)")
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        return str(found["user"]), str(found["password"])
    except KeyError as error:
        raise FleetProblem(f"{path}: {error} is missing") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FleetProblem(f"{path}: {error}") from None
