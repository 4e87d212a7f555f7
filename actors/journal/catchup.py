"""What was missed of another node while it could not be reached, read from its journal when it is back.

The bus brings a node that returns up to date by what is retained; what happened in between and was overtaken by newer
events is in that node's journal alone, and `why` wants it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from holdfast.actors.gateway.messages import PeerState, PeerStatus
from holdfast.actors.journal.file import Row
from holdfast.actors.journal.messages import JournalPage, ReadJournal
from holdfast.bus.base import Bus, BusError
from holdfast.bus.codec import BadFrame
from holdfast.bus.envelope import Envelope, unpack_frame, unpack_topic

log = logging.getLogger(__name__)

NS = 1_000_000_000
SLACK_NS = 5 * NS
"""What was on its way when the line was cut is asked for too; what is there already costs nothing."""
FIRST_NS = 3600 * NS
"""Of a node that this journal has never heard of, so much of the past."""
AWAY_NS = 7 * 24 * 3600 * NS
PAGES_MAX = 40
ASK_S = 10.0


class Catchup:
    """Watches nodes go and return. late(rows): events that were missed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bus: Bus, late: Callable[[list[Row]], None]) -> None:
        self._bus = bus
        self._late = late
        self._before: asyncio.Future[dict[str, int]] = loop.create_future()
        self._newest: dict[str, int] = {}
        self._since: dict[str, int] = {}

    def opened(self, newest: dict[str, int]) -> None:
        """The file is open. newest: node -> wall clock of its newest event in there, ns."""
        if not self._before.done():
            self._before.set_result(newest)

    def heard(self, envelope: Envelope) -> None:
        """An event of another node came."""
        node = envelope.id.node
        self._newest[node] = max(self._newest.get(node, 0), envelope.wall_ns)

    def peer(self, envelope: Envelope) -> Coroutine[Any, Any, None] | None:
        """The gateway tells how a node stands; what is to be done, if anything, when it is back."""
        event = envelope.event
        if not isinstance(event, PeerState) or event.old is event.state:
            return None
        name = event.peer
        if event.old is PeerStatus.REACHABLE and name in self._newest:
            self._since[name] = self._newest[name]
        if event.state is not PeerStatus.REACHABLE:
            return None
        return self._read(name, self._since.pop(name, 0))

    async def _read(self, name: str, since_ns: int) -> None:
        if not since_ns:
            now = time.time_ns()
            before = await asyncio.shield(self._before)
            since_ns = max(before.get(name, now - FIRST_NS), now - AWAY_NS)
        after = 0
        for _ in range(PAGES_MAX):
            command = ReadJournal(node=name, since_wall_ns=since_ns - SLACK_NS, after=after)
            try:
                reply = await self._bus.request("journal", command, timeout_s=ASK_S, node=name)
            except BusError as error:
                log.info("the journal of %s cannot be read: %s", name, error)
                return
            if not isinstance(reply, JournalPage):
                log.info("the journal of %s cannot be read: %s", name, reply)
                return
            self._late(_rows(name, reply))
            after = reply.next
            if not after:
                return


def _rows(name: str, page: JournalPage) -> list[Row]:
    """What another node says happened on it; events of others it has no say in."""
    rows = []
    for topic, data in page.events:
        try:
            frame = unpack_frame(data)
            unpack_topic(topic.encode("utf-8"))
        except (BadFrame, UnicodeEncodeError) as error:
            log.info("the journal of %s: %s", name, error)
            continue
        if frame.id.node == name:
            rows.append(Row(topic, frame.id, frame.wall_ns, data))
    return rows
