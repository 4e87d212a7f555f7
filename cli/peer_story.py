"""What the other node says about itself, when ours says that it fell silent or resigned. Pure.

Several of its events may tell the story; they are looked for from the most telling one on: its own transition away
from MASTER, then a pause of its process, then the death of the cell with its routers, then its link. When nothing came
from it at all, our gateway's word that it cannot be reached is all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from holdfast.actors.gateway.messages import PeerState, PeerStatus
from holdfast.actors.runtime.messages import CellStateChanged
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged, VrrpTrouble
from holdfast.actors.watch.messages import LinkState
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Reason, ReasonKind

NS = 1_000_000_000
SLACK_NS = 2 * NS
LATER_NS = 120 * NS
"""A node that stood still, or was cut off, tells of it when it is back."""
_TOLD_LATE = frozenset({ReasonKind.STALLED, ReasonKind.LEASE_EXPIRED, ReasonKind.RESTARTED})
_CELL_KINDS = frozenset({ReasonKind.KILLED, ReasonKind.STALLED, ReasonKind.STOPPED, ReasonKind.RESTARTED})


class Clocks:
    """What each node's gateway said of the other nodes' clocks."""

    def __init__(self, history: Iterable[Envelope]) -> None:
        self._offsets: dict[tuple[str, str], int] = {}
        for each in history:
            event = each.event
            if isinstance(event, PeerState) and event.clock_offset_s is not None:
                self._offsets[each.id.node, event.peer] = round(event.clock_offset_s * NS)

    def seen_from(self, node: str, envelope: Envelope) -> int:
        """When the event happened, on the wall clock of `node`."""
        there = envelope.id.node
        offset = self._offsets.get((node, there))
        if offset is None:
            back = self._offsets.get((there, node))
            offset = 0 if back is None else -back
        return envelope.wall_ns - offset


def story_of_the_peer(
    envelope: Envelope, reason: Reason, everything: list[Envelope], clocks: Clocks
) -> Envelope | None:
    """The event of another node that tells why it was silent or resigned; None when none is known.

    envelope: our transition; reason: why, with the master's address in its evidence.
    """
    event = envelope.event
    if not isinstance(event, VrrpStateChanged):
        return None
    master = str(reason.evidence.get("master") or "")
    if not master:
        return None  # nobody was there who could have fallen silent
    here = envelope.id.node
    silent_ns = int(float(reason.evidence.get("last_advert_s_ago") or 0) * NS)
    at = envelope.wall_ns
    about = [
        each
        for each in everything
        if each.id.node != here and at - silent_ns - SLACK_NS <= clocks.seen_from(here, each) <= at + LATER_NS
    ]
    node = _node_of(master, everything)
    if node:
        about = [each for each in about if each.id.node == node]
    tests: tuple[Callable[[Envelope], bool], ...] = (
        lambda each: _left_master(each, event, clocks.seen_from(here, each) - at),
        lambda each: _stood_still(each, event, clocks.seen_from(here, each), at),
        _cell_died,
        _link_down,
    )
    begun = at - silent_ns
    for test in tests:
        found = [each for each in about if test(each)]
        if found:
            return min(found, key=lambda each: abs(clocks.seen_from(here, each) - begun))
    return _cannot_be_reached(envelope, node, everything, at - silent_ns - SLACK_NS)


def _same_router(event: VrrpStateChanged, other: VrrpStateChanged) -> bool:
    return event.vrid == other.vrid and event.family == other.family


def _node_of(master: str, everything: list[Envelope]) -> str:
    """Which node was MASTER with this address; empty when no node of the cluster said so."""
    for each in reversed(everything):
        told = each.event
        if isinstance(told, VrrpStateChanged) and told.state is VrrpState.MASTER and told.master == master:
            return each.id.node
    return ""


def _left_master(each: Envelope, event: VrrpStateChanged, later_ns: int) -> bool:
    """later_ns: how long after our transition. Later it may be a consequence, unless it could not tell before."""
    told = each.event
    return (
        isinstance(told, VrrpStateChanged)
        and _same_router(event, told)
        and told.old is VrrpState.MASTER
        and told.state is not VrrpState.MASTER
        and (later_ns < NS // 2 or told.reason.kind in _TOLD_LATE)
    )


def _stood_still(each: Envelope, event: VrrpStateChanged, when: int, at: int) -> bool:
    """Whether it was still standing when we took over."""
    told = each.event
    if not isinstance(told, VrrpTrouble) or told.reason.kind is not ReasonKind.STALLED:
        return False
    stood_ns = int(float(told.reason.evidence.get("stood_still_s") or 0) * NS)
    return told.instance == event.instance and when - stood_ns - NS // 2 <= at


def _cell_died(each: Envelope) -> bool:
    told = each.event
    return isinstance(told, CellStateChanged) and "vrrp" in told.rooms and told.reason.kind in _CELL_KINDS


def _link_down(each: Envelope) -> bool:
    told = each.event
    return isinstance(told, LinkState) and not told.up


def _cannot_be_reached(envelope: Envelope, node: str, everything: list[Envelope], since: int) -> Envelope | None:
    found = [
        each
        for each in everything
        if each.id.node == envelope.id.node
        and isinstance(each.event, PeerState)
        and each.event.state is PeerStatus.UNREACHABLE
        and each.event.reason is not None
        and each.event.peer == node
        and since <= each.wall_ns <= envelope.wall_ns + LATER_NS
    ]
    return found[0] if found else None
