"""What was missed of another node is asked for when it is back, and only that."""

from __future__ import annotations

import asyncio
import time

from holdfast.actors.gateway.messages import PeerState, PeerStatus
from holdfast.actors.journal.catchup import FIRST_NS, PAGES_MAX, SLACK_NS, Catchup
from holdfast.actors.journal.file import Row
from holdfast.actors.journal.messages import JournalPage, ReadJournal
from holdfast.bus.base import Caller
from holdfast.bus.envelope import Envelope, pack
from holdfast.bus.fake import FakeBus, FakeNetwork
from holdfast.bus.messages import Command, Event, EventId, Reply

CONNECTING, REACHABLE, UNREACHABLE = PeerStatus.CONNECTING, PeerStatus.REACHABLE, PeerStatus.UNREACHABLE


class Noted(Event, frozen=True, kw_only=True, tag="test.noted-there"):
    """Something that happened on the other node."""

    text: str = ""


def event(node: str, seq: int, wall_ns: int) -> Envelope:
    return Envelope(f"{node}/a/b/c", EventId(node, "x", 1, seq), wall_ns, 0, (), Noted(), seq)


def peer(old: PeerStatus, state: PeerStatus) -> Envelope:
    told = PeerState(peer="lb2", role="operator", endpoint="tcp://x:1", old=old, state=state)
    return Envelope("lb1/node/lb2/state", EventId("lb1", "gateway", 1, 1), 0, 0, (), told, 1)


class World:
    """lb1 catches up with what lb2's journal answers."""

    def __init__(self) -> None:
        network = FakeNetwork()
        self.here, self.there = FakeBus("lb1", "gateway", network), FakeBus("lb2", "gateway", network)
        self.there.serve("journal", self._serve)
        self.asked: list[ReadJournal] = []
        self.pages: list[JournalPage] = []
        self.rows: list[Row] = []
        self.catchup = Catchup(asyncio.get_running_loop(), self.here, self.rows.extend)

    def _serve(self, command: Command, caller: Caller) -> Reply:
        assert isinstance(command, ReadJournal)
        self.asked.append(command)
        return self.pages.pop(0) if self.pages else JournalPage(events=())

    async def tell(self, old: PeerStatus, state: PeerStatus) -> None:
        work = self.catchup.peer(peer(old, state))
        if work is not None:
            await work


def page(*events: Envelope, following: int = 0) -> JournalPage:
    return JournalPage(events=tuple((each.topic, pack(each)) for each in events), next=following)


async def test_after_a_cut_everything_since_the_last_event_is_asked_for() -> None:
    world = World()
    world.catchup.heard(event("lb2", 1, 50 * SLACK_NS))
    await world.tell(REACHABLE, UNREACHABLE)
    assert world.asked == []
    world.catchup.heard(event("lb2", 9, 90 * SLACK_NS))  # retained, read again before the gateway says it is back
    world.pages = [page(event("lb2", 5, 60 * SLACK_NS), following=7), page(event("lb2", 6, 61 * SLACK_NS))]
    await world.tell(UNREACHABLE, REACHABLE)
    assert [(each.node, each.since_wall_ns, each.after) for each in world.asked] == [
        ("lb2", 49 * SLACK_NS, 0),
        ("lb2", 49 * SLACK_NS, 7),
    ]
    assert [row.id.seq for row in world.rows] == [5, 6]


async def test_after_our_own_start_it_goes_on_from_what_the_file_has() -> None:
    world = World()
    last = time.time_ns() - FIRST_NS // 2
    world.catchup.opened({"lb2": last, "lb1": 5})
    await world.tell(CONNECTING, REACHABLE)
    assert [each.since_wall_ns for each in world.asked] == [last - SLACK_NS]


async def test_of_a_new_node_the_last_hour_is_asked_for() -> None:
    world = World()
    before = time.time_ns()
    world.catchup.opened({})
    await world.tell(CONNECTING, REACHABLE)
    assert abs(world.asked[0].since_wall_ns - (before - FIRST_NS - SLACK_NS)) < 10 * 10**9


async def test_figures_alone_ask_for_nothing() -> None:
    world = World()
    world.catchup.opened({})
    await world.tell(REACHABLE, REACHABLE)
    assert world.asked == []


async def test_what_a_node_says_of_others_and_what_is_no_event_is_left_out() -> None:
    world = World()
    world.catchup.opened({})
    good = event("lb2", 2, 5)
    bad = (("lb2/a/b/c", b"\xc1"), ("lb2/a", pack(good)), ("lb3/a/b/c", pack(event("lb3", 1, 5))))
    world.pages = [JournalPage(events=(*bad, (good.topic, pack(good))))]
    await world.tell(CONNECTING, REACHABLE)
    assert [row.id for row in world.rows] == [good.id]


async def test_a_journal_without_end_is_not_read_for_ever() -> None:
    world = World()
    world.catchup.opened({})
    world.pages = [page(following=n + 1) for n in range(PAGES_MAX * 2)]
    await world.tell(CONNECTING, REACHABLE)
    assert len(world.asked) == PAGES_MAX


async def test_a_node_that_refuses_or_is_gone_is_left_alone() -> None:
    world = World()
    world.catchup.opened({})
    world.there._servers.clear()
    await world.tell(CONNECTING, REACHABLE)
    assert world.rows == []
