"""The face of the bus that every room codes against; `cellbus.py` has the real one, `fake.py` the one for tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Command, Event, EventId, Reply

Handler = Callable[[Envelope], None]


class BusError(Exception):
    """A request that got no answer. The subclasses say why."""


class RequestTimeout(BusError):
    """Nobody answered before the one deadline of the request."""


class SourceLost(BusError):
    """The cell that was to answer died or left before it did."""


class UnknownMessage(BusError):
    """Every cell answered, and none of them serves this subject or knows this command."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent a command. node and cell: its own words (cell is `cli` for a person). role: what it may do.

    Over the local sockets everyone is an operator: their directory is closed to others. The gateway sets what the
    peer's key stands for.
    """

    node: str
    cell: str
    role: str = "operator"


Server = Callable[[Command, Caller], Reply | Awaitable[Reply]]


class Subscription(Protocol):
    """One handler and what it follows."""

    @property
    def missed(self) -> int:
        """How many events went by unseen so far. What is retained was read again; what was not is lost."""

    @property
    def stale(self) -> frozenset[str]:
        """Cells of which something was heard and which are gone now: what they told stands, and may be old."""

    def close(self) -> None:
        """No call of the handler after this."""


class Bus(Protocol):
    """One cell's end of the bus. Not shared between threads: all calls come from the cell's loop."""

    node: str
    cell: str

    def publish(
        self, subject: str, aspect: str, event: Event, *, causes: Sequence[EventId] = (), retain: bool = True
    ) -> EventId:
        """Tells everyone who follows the topic. Returns the id, to be named as a cause of what follows from it.

        Does not block and does not raise for a slow reader. retain: it is given to whoever joins later, until the
        next one of its topic. Subscribers of this cell get it on a later turn of the loop, in order.
        """

    def forget(self, subject: str, aspect: str) -> None:
        """Nothing is retained under the topic any more; followers get `Forgotten`. Nothing happens if nothing was."""

    def retained(self, prefix: str = "") -> list[Envelope]:
        """What this cell itself retains, oldest first. prefix: as in `subscribe`."""

    def subscribe(self, prefix: str, handler: Handler, *, node: str | None = None) -> Subscription:
        """Calls `handler` with what is retained under the prefix, then with each event, in each sender's order.

        prefix: the beginning of a topic without its node, names quoted (`vrrp/`, `config/vrrp`; `topics.
        subject_words`). node: None is our own, "*" is every node. After a gap the retained events are read again and
        the handler gets those it does not know. An exception in the handler is logged and counted.
        """

    def serve(self, subject: str, handler: Server) -> None:
        """Commands for `subject` reach `handler`; a kind alone (`vrrp`) takes what no full subject takes."""

    async def request(
        self, subject: str, command: Command, *, timeout_s: float = 2.0, node: str | None = None
    ) -> Reply:
        """Sends `command` to who serves `subject` and returns the reply; `Failed` is a reply too.

        timeout_s: one deadline for the whole of it. Raises RequestTimeout, SourceLost, UnknownMessage.
        """
