"""A blocking client of a node's bus: for the command line and for programs that have no loop of their own.

It needs the run directory and nothing else: no configuration, no daemon that answers for the others. A socket file
is taken for a hint; a cell is alive when it answers before the deadline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import msgspec

from holdfast.bus import rundir, topics
from holdfast.bus.base import BusError, RequestTimeout
from holdfast.bus.codec import BadFrame
from holdfast.bus.counters import Counters
from holdfast.bus.envelope import Envelope, unpack
from holdfast.bus.hub import Hub, HubSubscription
from holdfast.bus.messages import Command, Reply
from holdfast.bus.sockets import end_context, new_context
from holdfast.bus.source import request_id
from holdfast.bus.store import envelopes, read_left
from holdfast.bus.wire import Request, matches

DEFAULT_RUN_DIR = Path("/run/holdfast")
ANSWER_S = 1.0
FOLLOW_EVENTS_MAX = 100_000
"""Events that wait for a slow reader of `follow`; the oldest give way, and are counted as missed."""


class Snapshot(msgspec.Struct):
    """What the living cells retain. events: oldest first, of one topic only the newest.

    alive: the cells that answered. silent: those that have a socket and did not: dead, or hung.
    """

    events: list[Envelope]
    alive: list[str]
    silent: list[str]

    def under(self, prefix: str) -> list[Envelope]:
        """The events whose topic without its node begins with `prefix`."""
        return [each for each in self.events if each.topic.partition("/")[2].startswith(prefix)]


class Client:
    """Not shared between threads. Use it as a context manager, or `close` it."""

    def __init__(self, run_dir: Path = DEFAULT_RUN_DIR) -> None:
        self.run_dir = run_dir
        self.counters = Counters("client")
        self._loop = asyncio.new_event_loop()
        self._context = new_context()
        self._hub: Hub | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def node(self) -> str | None:
        """The name of the node; None while no daemon ever ran with this run directory."""
        return rundir.node_name(self.run_dir)

    @property
    def hub(self) -> Hub:
        """The listening half, made when it is first needed."""
        if self._hub is None:
            self._hub = Hub(self._loop, self._context, self.run_dir, self.counters, node=self.node or "")
        return self._hub

    def snapshot(self, prefix: str = "", *, node: str | None = None, timeout_s: float = ANSWER_S) -> Snapshot:
        """What is retained under `prefix` (as in Bus.subscribe). node: None is this one, "*" is every node."""
        return self._loop.run_until_complete(self._snapshot(self._full(prefix, node), timeout_s))

    async def _snapshot(self, prefix: str, timeout_s: float) -> Snapshot:
        hub = self.hub
        hub.rescan()
        names = hub.cell_names()
        results = await asyncio.gather(
            *(
                hub.ask_cell(name, Request(id=request_id(), op="snapshot", prefixes=(prefix,)), timeout_s)
                for name in names
            ),
            return_exceptions=True,
        )
        newest: dict[str, Envelope] = {}
        alive, silent = [], []
        for name, result in zip(names, results, strict=True):
            if isinstance(result, BusError):
                silent.append(name)
                continue
            if isinstance(result, BaseException):
                raise result
            alive.append(name)
            for topic, data in (event for answer in result for event in answer.events):
                try:
                    envelope = unpack(topic, data)
                except BadFrame as error:
                    self.counters.count_bad(error, f"cell {name}")
                    continue
                known = newest.get(topic)
                if known is None or known.wall_ns <= envelope.wall_ns:
                    newest[topic] = envelope
        events = sorted(newest.values(), key=lambda each: (each.wall_ns, each.id.seq))
        return Snapshot(events, alive, silent)

    def left_behind(self, alive: Iterable[str] = ()) -> list[Envelope]:
        """What cells that are not in `alive` retained when they died, each event marked stale.

        For explaining, never for showing what is: a clean stop leaves nothing, so this is the state of a daemon that
        was killed, or of a cell that is being put back.
        """
        node = self.node
        if node is None:
            return []
        found: list[Envelope] = []
        for path in sorted((self.run_dir / "state").glob("*.log")):
            if path.stem not in alive:
                found += envelopes(read_left(path, node, path.stem))
        return [msgspec.structs.replace(each, stale=True) for each in sorted(found, key=lambda each: each.wall_ns)]

    def request(self, subject: str, command: Command, *, timeout_s: float = 2.0, node: str | None = None) -> Reply:
        """As Bus.request. Raises RequestTimeout, SourceLost, UnknownMessage."""
        to = "" if node is None or node == self.node else node

        async def ask() -> Reply:
            hub = self.hub
            hub.rescan()
            return await hub.request(subject, command, timeout_s=timeout_s, to=to, node=self.node or "", cell="cli")

        return self._loop.run_until_complete(ask())

    def follow(self, prefix: str = "", *, node: str | None = None, since_wall_ns: int = 0) -> Follower:
        """Events under `prefix`: first what is retained (not older than `since_wall_ns`), then each as it happens.

        Goes on over restarts of cells and of the daemon, and waits for one that is not there yet.
        """
        return Follower(self, self._full(prefix, node), since_wall_ns)

    def _full(self, prefix: str, node: str | None) -> str:
        whose = node if node is not None else self.node
        # No daemon has ever run here: whatever node it will be, its events are meant.
        return f"*/{prefix}" if whose in (None, "*") else f"{topics.quote(str(whose))}/{prefix}"

    def alive(self, timeout_s: float = ANSWER_S) -> list[str]:
        """The cells that answer."""
        return self._loop.run_until_complete(self._snapshot("\x00/", timeout_s)).alive

    def close(self) -> None:
        """Ends everything."""
        if self._hub is not None:
            self._hub.close()
            self._hub = None
        if not self._loop.is_closed():
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()
        end_context(self._context)


class Follower:
    """An iterator over events. Stays exact while its reader is elsewhere: what it cannot hold it counts."""

    def __init__(self, client: Client, prefix: str, since_wall_ns: int) -> None:
        self._client = client
        self._prefix = prefix
        self._since = since_wall_ns
        self._events: deque[Envelope] = deque()
        self._overrun = 0
        self._arrived: asyncio.Future[None] | None = None
        self._subscription: HubSubscription = client.hub.subscribe(prefix, self._take)

    @property
    def missed(self) -> int:
        """Events that went by unseen."""
        return self._subscription.missed + self._overrun

    def _take(self, envelope: Envelope) -> None:
        if envelope.wall_ns and envelope.wall_ns < self._since:
            return
        if len(self._events) >= FOLLOW_EVENTS_MAX:
            self._events.popleft()
            self._overrun += 1
        self._events.append(envelope)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def next(self, timeout_s: float | None = None) -> Envelope:
        """The next event. Raises RequestTimeout when none comes within timeout_s (None: waits for ever)."""
        if not self._events:
            self._client._loop.run_until_complete(self._wait(timeout_s))
        return self._events.popleft()

    async def _wait(self, timeout_s: float | None) -> None:
        self._arrived = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(self._arrived, timeout_s)
        except TimeoutError:
            raise RequestTimeout(f"no event under {self._prefix} within {timeout_s:g} s") from None
        finally:
            self._arrived = None

    def until(self, wanted: type | tuple[type, ...], timeout_s: float) -> Envelope:
        """The next event of one of these types. Raises RequestTimeout after timeout_s in all."""
        loop = self._client._loop
        deadline = loop.time() + timeout_s
        while True:
            envelope = self.next(max(0.0, deadline - loop.time()))
            if isinstance(envelope.event, wanted):
                return envelope

    def __iter__(self) -> Iterator[Envelope]:
        return self

    def __next__(self) -> Envelope:
        return self.next()

    def matches(self, topic: str) -> bool:
        """Whether events under this topic are followed."""
        return matches(self._prefix, topic)

    def close(self) -> None:
        """Ends the following."""
        self._subscription.close()
