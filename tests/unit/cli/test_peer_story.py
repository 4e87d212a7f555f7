"""Which of the other node's events tells why it fell silent."""

from __future__ import annotations

import pytest

from holdfast.actors.gateway.messages import PeerState, PeerStatus
from holdfast.actors.runtime.messages import CellStateChanged, CellStatus
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged, VrrpTrouble
from holdfast.actors.watch.messages import LinkState
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Event, EventId, Evidence, Reason, ReasonKind
from holdfast.cli.explain import explain, say
from holdfast.cli.peer_story import Clocks, story_of_the_peer

NS = 10**9
T = 1_000_000 * NS
M, B, F = VrrpState.MASTER, VrrpState.BACKUP, VrrpState.FAULT


class History:
    """Makes envelopes; at_s counts from T on the clock of the node that tells."""

    def __init__(self) -> None:
        self.all: list[Envelope] = []

    def add(self, node: str, at_s: float, topic: str, event: Event, *causes: Envelope) -> Envelope:
        name = EventId(node, "c", 1, len(self.all) + 1)
        ids = tuple(each.id for each in causes)
        envelope = Envelope(f"{node}/{topic}", name, T + int(at_s * NS), 0, ids, event, 1)
        self.all.append(envelope)
        return envelope

    def state(
        self, node: str, at_s: float, old: VrrpState, new: VrrpState, kind: ReasonKind, **evidence: object
    ) -> Envelope:
        given: Evidence = dict(evidence)  # type: ignore[arg-type]
        event = VrrpStateChanged(
            instance="V",
            old=old,
            state=new,
            priority=100,
            since_mono_ns=0,
            reason=Reason(kind=kind, node=node, subject="vrrp/V", evidence=given),
            vrid=51,
            family=4,
            interface="eth0",
            addresses=("10.0.0.254/24",),
            master={"lb1": "10.0.0.1", "lb2": "10.0.0.2"}[node] if new is M else None,
        )
        return self.add(node, at_s, "vrrp/V/state", event)

    def takeover(self, at_s: float, *, silent_s: float = 3.6, kind: ReasonKind = ReasonKind.PEER_SILENT) -> Envelope:
        """lb2 becomes MASTER because lb1 was not heard."""
        return self.state("lb2", at_s, B, M, kind, master="10.0.0.1", last_advert_s_ago=silent_s, limit_s=3.6)

    def cell(self, node: str, at_s: float, cell: str, kind: ReasonKind, rooms: tuple[str, ...]) -> Envelope:
        reason = Reason(kind=kind, node=node, subject=f"cell/{cell}")
        event = CellStateChanged(cell=cell, status=CellStatus.DEAD, rooms=rooms, pid=1, restarts=0, reason=reason)
        return self.add(node, at_s, f"cell/{cell}/state", event)

    def stalled(self, node: str, at_s: float, stood_s: float) -> Envelope:
        reason = Reason(kind=ReasonKind.STALLED, node=node, subject="vrrp/V", evidence={"stood_still_s": stood_s})
        return self.add(node, at_s, "vrrp/V/trouble", VrrpTrouble(instance="V", state=M, reason=reason))

    def link(self, node: str, at_s: float, *, up: bool) -> Envelope:
        kind = ReasonKind.LINK_UP if up else ReasonKind.LINK_DOWN
        event = LinkState(
            interface="eth0", exists=True, up=up, raw_up=up, reason=Reason(kind=kind, node=node, subject="link/eth0")
        )
        return self.add(node, at_s, "link/eth0/state", event)

    def peer(self, node: str, at_s: float, other: str, state: PeerStatus, offset_s: float | None = None) -> Envelope:
        reason = Reason(kind=ReasonKind.PEER_UNREACHABLE, node=node, subject=f"node/{other}")
        event = PeerState(
            peer=other,
            role="operator",
            endpoint="tcp://x:1",
            old=PeerStatus.REACHABLE,
            state=state,
            clock_offset_s=offset_s,
            reason=reason if state is PeerStatus.UNREACHABLE else None,
        )
        return self.add(node, at_s, f"node/{other}/state", event)

    def story(self, envelope: Envelope) -> Envelope | None:
        return story_of_the_peer(envelope, envelope.event.reason, self.all, Clocks(self.all))  # type: ignore[attr-defined]


@pytest.fixture
def told() -> History:
    """lb1 was MASTER since long ago."""
    history = History()
    history.state("lb1", -500, B, M, ReasonKind.PEER_LOWER_PRIORITY)
    return history


def test_its_own_transition_tells_it(told: History) -> None:
    wanted = told.state("lb1", -3.5, M, F, ReasonKind.SCRIPT_FAILED)
    told.cell("lb1", -3.4, "notify", ReasonKind.KILLED, ("notify",))
    told.link("lb1", -3.6, up=False)
    assert told.story(told.takeover(0)) is wanted


def test_a_process_that_stood_still_tells_it_when_it_runs_again(told: History) -> None:
    wanted = told.state("lb1", 5.0, M, B, ReasonKind.STALLED, stood_still_s=8.0)
    assert told.story(told.takeover(0)) is wanted


def test_a_pause_that_was_over_before_we_took_over_or_began_after_it_is_another_story(told: History) -> None:
    takeover = told.takeover(0)
    told.stalled("lb1", 20.0, 1.0)
    assert told.story(takeover) is None
    wanted = told.stalled("lb1", 2.0, 5.0)
    assert told.story(takeover) is wanted


def test_that_it_gave_way_to_us_afterwards_is_no_cause(told: History) -> None:
    takeover = told.takeover(0)
    told.state("lb1", 30.0, M, B, ReasonKind.PEER_HIGHER_PRIORITY)
    assert told.story(takeover) is None


def test_the_death_of_the_cell_with_the_routers_tells_it_and_no_other_cell(told: History) -> None:
    told.cell("lb1", -3.5, "notify", ReasonKind.KILLED, ("notify",))
    takeover = told.takeover(0)
    assert told.story(takeover) is None
    wanted = told.cell("lb1", -3.0, "protocol", ReasonKind.KILLED, ("watch", "vrrp"))
    assert told.story(takeover) is wanted


def test_a_link_that_went_down_tells_it(told: History) -> None:
    told.link("lb1", -3.0, up=True)
    wanted = told.link("lb1", -3.6, up=False)
    assert told.story(told.takeover(0)) is wanted


def test_nothing_but_our_gateways_word_when_all_of_it_is_gone(told: History) -> None:
    wanted = told.peer("lb2", -1.8, "lb1", PeerStatus.UNREACHABLE)
    takeover = told.takeover(0)
    assert told.story(takeover) is wanted
    told.all.remove(wanted)
    told.peer("lb2", -1.8, "lb7", PeerStatus.UNREACHABLE)
    assert told.story(takeover) is None, "another node's absence"


def test_a_third_node_is_not_taken_for_the_master(told: History) -> None:
    told.cell("lb3", -3.0, "protocol", ReasonKind.KILLED, ("watch", "vrrp"))
    assert told.story(told.takeover(0)) is None


def test_where_nobody_was_heard_nobody_is_asked(told: History) -> None:
    told.state("lb1", -3.5, M, F, ReasonKind.SCRIPT_FAILED)
    first = told.state("lb2", 0, B, M, ReasonKind.PEER_SILENT, master=None, limit_s=3.6)
    assert told.story(first) is None


@pytest.mark.parametrize("teller", ["lb1", "lb2"])
def test_clocks_that_differ_by_an_hour(told: History, teller: str) -> None:
    """lb1's clock is an hour ahead; either gateway may have measured it."""
    if teller == "lb2":
        told.peer("lb2", -100, "lb1", PeerStatus.REACHABLE, offset_s=3600)
    else:
        told.peer("lb1", 3500, "lb2", PeerStatus.REACHABLE, offset_s=-3600)
    told.state("lb1", -2.0, M, F, ReasonKind.SCRIPT_FAILED)  # an hour ago
    wanted = told.state("lb1", 3600 - 3.5, M, F, ReasonKind.LINK_DOWN)
    assert told.story(told.takeover(0)) is wanted


def test_the_chain_goes_on_to_the_root_on_the_other_node(told: History) -> None:
    script = Reason(kind=ReasonKind.SCRIPT_FAILED, node="lb1", subject="script/chk", evidence={"exit_status": 1})
    cause = told.add("lb1", -3.6, "script/chk/state", VrrpTrouble(instance="V", state=M, reason=script))
    fault = told.state("lb1", -3.5, M, F, ReasonKind.PRIORITY_CHANGED)
    told.all[-1] = Envelope(fault.topic, fault.id, fault.wall_ns, 0, (cause.id,), fault.event, 1)
    told.takeover(0)
    (found,) = explain("vrrp/V", told.all, limit=1)
    assert [(each.node, each.kind) for each in found.chain] == [
        ("lb2", ReasonKind.PEER_SILENT),
        ("lb1", ReasonKind.PRIORITY_CHANGED),
        ("lb1", ReasonKind.SCRIPT_FAILED),
    ]
    assert found.root == script
    text = say(found)
    assert "10.0.0.1 fell silent" in text
    assert "lb1 says:" in text
    assert "the script chk failed" in text
