"""`why`: from a transition along its causes to the root, over nodes, in words and as data."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.actors.runtime.messages import CellStateChanged, CellStatus
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged
from holdfast.actors.watch.messages import ScriptResult
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Event, EventId, Reason, ReasonKind
from holdfast.cli.explain import explain, phrase, say
from holdfast.cli.lines import line

NS = 1_000_000_000
NOON = 1_790_000_000 * NS
_numbers = iter(range(1, 10_000))


def told(node: str, subject: str, event: Event, at_s: float, causes: tuple[EventId, ...] = ()) -> Envelope:
    name = EventId(node=node, cell="protocol", epoch=1, seq=next(_numbers))
    wall = NOON + int(at_s * NS)
    return Envelope(f"{node}/{subject}/state", name, wall, int(at_s * NS), causes, event)


def state(new: VrrpState, reason: Reason, *, old: VrrpState = VrrpState.BACKUP) -> VrrpStateChanged:
    return VrrpStateChanged(
        instance="VI_1",
        old=old,
        state=new,
        priority=100,
        since_mono_ns=0,
        reason=reason,
        vrid=51,
        family=4,
        interface="eth0",
        addresses=("10.0.0.100/24",),
    )


def silent() -> Reason:
    evidence: dict[str, Any] = {
        "master": "10.0.0.1",
        "last_advert_s_ago": 3.611,
        "limit_s": 3.609,
        "waited_s": 3.611,
        "priority": 100,
        "interval_s": 1.0,
    }
    return Reason(kind=ReasonKind.PEER_SILENT, node="lb2", subject="vrrp/VI_1", evidence=evidence)


def test_a_silent_peer_is_told_with_its_numbers() -> None:
    (found,) = explain("vrrp/VI_1", [told("lb2", "vrrp/VI_1", state(VrrpState.MASTER, silent()), 10)])
    text = say(found)
    assert "VI_1 became MASTER on lb2" in text
    assert "10.0.0.1 fell silent" in text
    assert "3.611 s ago, limit 3.609 s (priority 100, interval 1.000 s)" in text


def test_causes_are_followed_to_the_root() -> None:
    failed = Reason(kind=ReasonKind.SCRIPT_FAILED, node="lb1", subject="script/chk", evidence={"exit_status": 7})
    script = told("lb1", "script/chk", ScriptResult(script="chk", ok=False, reason=failed), 9)
    group = Reason(kind=ReasonKind.SYNC_GROUP, node="lb1", subject="vrrp-group/G", evidence={"member": "VI_2"})
    change = told("lb1", "vrrp/VI_1", state(VrrpState.FAULT, group, old=VrrpState.MASTER), 10, (script.id,))
    (found,) = explain("vrrp/VI_1", [change, script])
    assert [reason.kind for reason in found.chain] == [ReasonKind.SYNC_GROUP, ReasonKind.SCRIPT_FAILED]
    assert found.root == failed
    assert "because the script chk failed (exit status 7)" in say(found)


def test_the_other_node_tells_its_own_story() -> None:
    killed = Reason(kind=ReasonKind.KILLED, node="lb1", subject="cell/protocol", evidence={"signal": "SIGKILL"})
    cell = CellStateChanged(
        cell="protocol", status=CellStatus.DEAD, rooms=("vrrp",), pid=7, restarts=0, reason=killed, signal=9
    )
    history = [
        told("lb1", "cell/protocol", cell, 6.5),
        told("lb2", "vrrp/VI_1", state(VrrpState.MASTER, silent()), 10),
    ]
    (found,) = explain("vrrp/VI_1", history)
    assert found.root == killed
    assert "lb1 says: cell/protocol died (signal SIGKILL)" in say(found)


def test_the_json_form_is_the_published_one() -> None:
    (found,) = explain("vrrp/VI_1", [told("lb2", "vrrp/VI_1", state(VrrpState.MASTER, silent()), 10)])
    data = found.as_json()
    assert set(data) == {"subject", "node", "wall", "from", "to", "reason", "root", "chain"}
    assert (data["from"], data["to"]) == ("BACKUP", "MASTER")
    assert set(data["reason"]) == {"kind", "node", "subject", "evidence"}
    assert data["root"] == data["chain"][-1]


def test_newest_first_up_to_a_time_and_a_number() -> None:
    reason = Reason(kind=ReasonKind.LINK_DOWN, node="n", subject="link/eth0")
    history = [told("n", "vrrp/VI_1", state(VrrpState.FAULT, reason), at) for at in (1, 2, 3, 4)]
    assert [each.wall_ns - NOON for each in explain("vrrp/VI_1", history, limit=2)] == [4 * NS, 3 * NS]
    assert explain("vrrp/VI_1", history, at_wall_ns=NOON + int(2.5 * NS))[0].wall_ns == NOON + 2 * NS


@pytest.mark.parametrize("kind", list(ReasonKind))
def test_every_reason_can_be_said(kind: ReasonKind) -> None:
    bare = phrase(Reason(kind=kind, node="n", subject="kind/name"))
    assert "{" not in bare
    full = phrase(
        Reason(kind=kind, node="n", subject="kind/name", evidence={"odd_thing": 5, "took_s": 0.25, "none": None})
    )
    assert "odd thing 5" in full
    assert "took 0.250 s" in full
    assert "none" not in full


def test_a_line_of_tail_names_both_states() -> None:
    text = line(told("lb2", "vrrp/VI_1", state(VrrpState.MASTER, silent()), 10))
    assert "vrrp/VI_1 BACKUP -> MASTER: 10.0.0.1 fell silent" in text
    again = line(told("lb2", "vrrp/VI_1", state(VrrpState.MASTER, silent(), old=VrrpState.MASTER), 10))
    assert "vrrp/VI_1 is MASTER (as before)" in again
