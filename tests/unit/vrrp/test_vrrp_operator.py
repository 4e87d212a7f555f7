"""Release and resume, reload, and that every fact has a legal end in every state."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from play import Play
from vrrp_words import (
    CAUSE,
    HIGHER,
    LEASED,
    LOWER,
    OURS,
    PLAIN,
    advert,
    backup,
    changed,
    evidence,
    fresh,
    master,
    reason,
    tell,
)

from holdfast.actors.runtime.machine import Deadline, Duration, Fact, Instant, S
from holdfast.actors.vrrp import actions as act
from holdfast.actors.vrrp.config import AddressSpec, GarpTiming, Tracked, Tracks
from holdfast.actors.vrrp.facts import (
    AddressFailed,
    AdvertFailed,
    AdvertRejected,
    FaultCleared,
    FaultRaised,
    GroupAnnounce,
    GroupOrder,
    Holding,
    HoldingLost,
    LeaseLost,
    LinkChanged,
    OperatorRelease,
    OperatorResume,
    SourceChanged,
    Stalled,
    Start,
    Stop,
    TrackerKind,
    TrackerReported,
)
from holdfast.actors.vrrp.machine import VrrpMachine
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged
from holdfast.actors.vrrp.options import MachineOptions
from holdfast.actors.vrrp.packet import Reject
from holdfast.bus.messages import ReasonKind

QUIET = GarpTiming(master_delay_us=0)


# ---- release and resume


def test_release_hands_mastership_over_at_once() -> None:
    m = master()
    start = m.now / S
    told = m.at(start + 0.5, OperatorRelease("kernel update", (CAUSE,)))
    assert told == ["advert 0", "let go", "BACKUP: operator-release"]
    assert evidence(m) == {"why": "kernel update", "priority": 100}
    assert m.due is None
    event = next(a.event for a in m.last if isinstance(a, act.Publish))
    assert isinstance(event, VrrpStateChanged) and event.released


def test_a_released_instance_stays_out_even_when_nobody_else_is_there() -> None:
    m = master()
    m.at(m.now / S + 0.5, OperatorRelease())
    m.at(m.now / S + 1, advert(50, LOWER))
    assert m.machine.master == LOWER
    m.at(m.now / S + 1, advert(0, LOWER))
    assert m.due is None
    assert m.until(m.now / S + 1000) == []


def test_resume_is_an_ordinary_backup_again() -> None:
    m = master()
    m.at(10, OperatorRelease())
    assert m.at(20, OperatorResume()) == ["still BACKUP: operator-resume"]
    assert m.due == 23.609375
    assert m.until(24)[0][1][0] == "advert 100"


def test_release_of_a_backup_is_told() -> None:
    m = backup()
    assert m.at(1, OperatorRelease()) == ["still BACKUP: operator-release"]
    assert m.due is None
    assert m.at(1, OperatorRelease()) == []


def test_a_released_owner_comes_back_from_fault_as_backup() -> None:
    m = master(priority=255, wants_master=True)
    m.at(1, OperatorRelease())
    m.at(2, LinkChanged("eth0", up=False))
    assert m.at(3, LinkChanged("eth0", up=True)) == ["BACKUP: link-up"]
    assert m.due is None


def test_resume_in_fault_waits_for_the_fault() -> None:
    m = backup()
    m.at(1, OperatorRelease())
    m.at(2, LinkChanged("eth0", up=False))
    assert m.at(3, OperatorResume()) == ["still FAULT: operator-resume"]
    assert m.at(3, OperatorResume()) == []
    m.at(4, LinkChanged("eth0", up=True))
    assert m.due == 4 + 3.609375


# ---- reload


def test_a_reload_that_changes_nothing_moves_nothing() -> None:
    m = master(garp=QUIET)
    due = m.due
    assert m.at(m.now / S + 0.3, changed(m)) == ["reconcile"]
    assert m.due == due


def test_other_addresses_are_reconciled_and_told() -> None:
    m = master(garp=QUIET)
    new = (AddressSpec(address="10.0.0.2", prefix=24),)
    assert m.at(m.now / S + 0.3, changed(m, addresses=new)) == ["reconcile", "still MASTER: peer-silent"]
    event = next(a.event for a in m.last if isinstance(a, act.Publish))
    assert isinstance(event, VrrpStateChanged) and event.addresses == ("10.0.0.2/24",)


def test_a_renamed_instance_keeps_its_state_without_a_notify() -> None:
    """Surprise 16: old and new state are equal in the event, so nobody is notified."""
    m = master(garp=QUIET)
    assert m.at(m.now / S + 0.3, changed(m, name="VI_new")) == ["reconcile", "still MASTER: peer-silent"]
    event = next(a.event for a in m.last if isinstance(a, act.Publish))
    assert isinstance(event, VrrpStateChanged)
    assert (event.instance, event.old, event.state) == ("VI_new", VrrpState.MASTER, VrrpState.MASTER)


def test_a_new_priority_goes_out_with_the_next_advert() -> None:
    m = master(garp=QUIET)
    start = m.now / S
    assert m.at(start + 0.3, changed(m, priority=150)) == ["reconcile", "priority 150: reload"]
    assert m.until(start + 1) == [(round(start + 1, 6), ["advert 150"])]


def test_a_backup_s_timer_moves_with_the_new_priority() -> None:
    m = backup()
    m.at(1, advert(200, HIGHER))
    m.at(2, changed(m, priority=200))
    assert m.due == 1 + 3 + 56 / 256


def test_a_shorter_interval_leaves_no_gap() -> None:
    m = master(garp=QUIET, advert_interval_us=10_000_000)
    start = m.now / S
    m.at(start + 2, changed(m, advert_interval_us=1_000_000))
    assert m.due == start + 2
    assert m.say(Deadline()) == ["advert 100"]
    assert m.due == start + 3


def test_a_new_tracker_counts_as_good_until_it_reports() -> None:
    """Surprise 12."""
    m = master(garp=QUIET)
    m.at(m.now / S + 0.3, changed(m, tracks=Tracks(scripts=(Tracked(name="new", weight=0),))))
    assert m.machine.state == "MASTER"
    told = m.at(m.now / S + 1, TrackerReported(TrackerKind.SCRIPT, "new", up=False))
    assert told[-1] == "FAULT: script-failed"


def test_a_tracker_that_goes_takes_its_fault_and_weight_along() -> None:
    tracks = Tracks(scripts=(Tracked(name="a", weight=0), Tracked(name="b", weight=-10)))
    m = fresh(tracks=tracks)
    m.at(0, TrackerReported(TrackerKind.SCRIPT, "a", up=False))
    m.at(0, TrackerReported(TrackerKind.SCRIPT, "b", up=False))
    assert m.at(0, Start())[-1] == "FAULT: script-failed"
    assert m.at(1, changed(m, tracks=Tracks())) == ["priority 100: reload", "BACKUP: reload"]


def test_a_reload_while_it_waits_for_scripts_ends_the_waiting() -> None:
    m = fresh(tracks=Tracks(scripts=(Tracked(name="a", weight=0),)))
    m.at(0, Start())
    assert m.at(1, changed(m, tracks=Tracks())) == ["BACKUP: reload"]


def test_the_fault_of_the_shell_stays() -> None:
    m = backup()
    m.at(1, FaultRaised("socket", reason()))
    assert m.at(2, changed(m)) == []
    assert m.machine.state == "FAULT"


def test_a_reload_before_the_start() -> None:
    m = fresh()
    assert m.at(0, changed(m, priority=7)) == []
    assert m.at(0, Start())[-1] == "BACKUP: started"
    assert m.machine.priority == 7


def test_a_released_instance_stays_released_over_a_reload() -> None:
    m = backup()
    m.at(1, OperatorRelease())
    m.at(2, changed(m, priority=7))
    assert m.machine.released
    assert m.due is None


# ---- every fact in every state


def _in_fault() -> Play[VrrpMachine]:
    m = backup()
    m.at(0, LinkChanged("eth0", up=False))
    return m


def _released() -> Play[VrrpMachine]:
    m = backup()
    m.at(0, OperatorRelease())
    return m


def _waiting() -> Play[VrrpMachine]:
    m = fresh(tracks=Tracks(scripts=(Tracked(name="a", weight=0),)))
    m.at(0, Start())
    return m


def _stopped() -> Play[VrrpMachine]:
    m = master()
    m.say(Stop())
    return m


STATES: dict[str, Callable[[], Play[VrrpMachine]]] = {
    "init": fresh,
    "waiting": _waiting,
    "backup": backup,
    "leased backup": lambda: backup(LEASED),
    "grouped backup": lambda: _grouped(MachineOptions(node="lb1", group="G")),
    "master": master,
    "leased master": lambda: master(LEASED),
    "owner": lambda: master(priority=255, wants_master=True),
    "fault": _in_fault,
    "released": _released,
    "stopped": _stopped,
}


def _grouped(options: MachineOptions) -> Play[VrrpMachine]:
    m = fresh(options)
    m.at(0, Start())
    m.at(0, GroupOrder("G", VrrpState.BACKUP, reason()))
    return m


FACTS: list[Fact] = [
    Deadline(),
    advert(0, HIGHER),
    advert(1, LOWER),
    advert(100, LOWER),
    advert(100, OURS),
    advert(100, HIGHER),
    advert(255, HIGHER),
    AdvertRejected(Reject.TTL, HIGHER),
    AdvertRejected(Reject.VRID, HIGHER),
    AdvertFailed(105, "no buffers"),
    LinkChanged("eth0", up=True),
    LinkChanged("eth0", up=False),
    SourceChanged(None),
    SourceChanged("192.0.2.77"),
    TrackerReported(TrackerKind.SCRIPT, "a", up=True),
    TrackerReported(TrackerKind.SCRIPT, "a", up=False),
    FaultRaised("x", reason()),
    FaultCleared("x", reason()),
    Stalled(Duration(S)),
    Stalled(Duration(9 * S), unseen=Duration(9 * S)),
    HoldingLost(Holding.ADDRESS, "address/10.0.0.1@eth0"),
    HoldingLost(Holding.RULE, "rule/1"),
    LeaseLost(("address/10.0.0.1@eth0",)),
    AddressFailed("route/default", "add route", 19),
    OperatorRelease(),
    OperatorResume(),
    GroupOrder("G", VrrpState.MASTER, reason()),
    GroupOrder("G", VrrpState.BACKUP, reason()),
    GroupOrder("G", VrrpState.FAULT, reason()),
    GroupOrder("G", VrrpState.FAULT, reason(), cleared=True),
    GroupAnnounce("G"),
    Stop(),
    Stop(deleted=True),
]


def check(m: Play[VrrpMachine]) -> None:
    """What must hold after every step."""
    machine = m.machine
    assert machine.state in (VrrpState.INIT, VrrpState.BACKUP, VrrpState.MASTER, VrrpState.FAULT, VrrpState.STOP)
    assert 1 <= machine.priority <= 255
    if machine.state is VrrpState.MASTER:
        assert machine.deadline is not None and machine.deadline - m.now <= machine._interval
        assert not machine.faults and not machine.released
    elif machine.state is VrrpState.BACKUP:
        assert not machine.faults
        assert (machine.deadline is None) == machine.released
    else:
        assert machine.deadline is None
    for action in m.last:
        if isinstance(action, act.Publish) and isinstance(action.event, VrrpStateChanged):
            assert action.event.reason.kind
            assert action.event.reason.node == "lb1"


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: f"{type(fact).__name__}")
def test_every_fact_has_a_legal_end(state: str, fact: Fact) -> None:
    m = STATES[state]()
    m.say(fact)
    check(m)


@settings(max_examples=150, deadline=None)
@given(
    state=st.sampled_from(sorted(STATES)),
    story=st.lists(st.tuples(st.sampled_from(FACTS), st.integers(0, 5_000)), max_size=40),
)
def test_every_story_has_a_legal_end(state: str, story: list[tuple[Fact, int]]) -> None:
    m = STATES[state]()
    machine = m.machine
    now = m.now
    holds = machine.state is VrrpState.MASTER
    for fact, later_ms in story:
        now = Instant(now + later_ms * 1_000_000)
        for each in (Deadline(), fact):
            before = machine.state
            m.now = now
            m.last = list(machine.step(each, now))
            check(m)
            # Whoever becomes MASTER takes over, whoever leaves lets go, and each change is told once.
            told = [tell(action) for action in m.last]
            changes = [a for a in m.last if isinstance(a, act.Publish) and _moves(a.event)]
            moved = before is not machine.state and not _deleted_in_fault(before, machine)
            assert len(changes) == moved, told
            for action in m.last:
                if isinstance(action, act.TakeOver):
                    assert not holds
                    holds = True
                elif isinstance(action, act.LetGo):
                    holds = False
                elif isinstance(action, act.Announce | act.RefreshLease | act.Restore | act.Reconcile):
                    assert holds
            assert holds == (machine.state is VrrpState.MASTER)


def _deleted_in_fault(before: VrrpState, machine: VrrpMachine) -> bool:
    """A deleted instance is told as FAULT, which says nothing new to those who know it as that."""
    deleted = machine.reason is not None and machine.reason.kind is ReasonKind.RELOAD
    return before is VrrpState.FAULT and machine.state is VrrpState.STOP and deleted


def _moves(event: object) -> bool:
    return isinstance(event, VrrpStateChanged) and event.old is not event.state


def test_same_facts_same_actions() -> None:
    """A machine has no will of its own."""
    plays = [backup(PLAIN), backup(PLAIN)]
    traces = []
    for m in plays:
        for at, fact in enumerate(FACTS[:-2]):
            m.at(at * 0.7, fact)
        traces.append(m.trace)
    assert traces[0] == traces[1]
