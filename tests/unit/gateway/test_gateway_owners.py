"""Who owns each virtual address, and when it is an alarm: conversations in virtual time."""

from __future__ import annotations

import random

from holdfast.actors.gateway.messages import AddressOwners, OwnersStatus
from holdfast.actors.gateway.owners import (
    ForgetOwners,
    Gone,
    Heard,
    OwnersMachine,
    Reach,
    TellOwners,
    Told,
    Troubled,
    plain,
)
from holdfast.actors.runtime.machine import Deadline, Fact, Instant, seconds
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged
from holdfast.bus.messages import Evidence, Reason, ReasonKind

ONE, TWO, NONE, UNKNOWN = OwnersStatus.ONE, OwnersStatus.TWO, OwnersStatus.NONE, OwnersStatus.UNKNOWN
M, B, F, INIT, STOP = VrrpState.MASTER, VrrpState.BACKUP, VrrpState.FAULT, VrrpState.INIT, VrrpState.STOP
SOURCE = {"lb1": "10.0.0.1", "lb2": "10.0.0.2", "lb3": "10.0.0.3"}
VIP = "10.0.0.254"


def told(
    node: str,
    state: VrrpState,
    *,
    old: VrrpState = INIT,
    age_s: float = 0,
    kind: ReasonKind = ReasonKind.STARTED,
    vrid: int = 51,
    addresses: tuple[str, ...] = (f"{VIP}/24",),
    master: str | None = None,
    priority: int = 100,
) -> Told:
    reason = Reason(kind=kind, node=node, subject="vrrp/V")
    event = VrrpStateChanged(
        instance="V",
        old=old,
        state=state,
        priority=priority,
        since_mono_ns=0,
        reason=reason,
        vrid=vrid,
        family=4,
        interface="eth0",
        addresses=addresses,
        master=SOURCE[node] if state is M else master,
    )
    return Told(node, event, seconds(age_s))


class Play:
    """Keeps deadlines; `told` is what was published, with its time."""

    def __init__(self) -> None:
        self.machine = OwnersMachine("lb1")
        self.now = 0.0
        self.told: list[tuple[float, AddressOwners]] = []
        self.forgotten: list[str] = []

    def at(self, now: float, *facts: Fact) -> list[OwnersStatus]:
        """Lets time pass, then tells the facts. What was said since the last call."""
        before = len(self.told)
        while (due := self.machine.deadline) is not None and due <= seconds(now):
            self.now = due / 1e9
            self._step(Deadline())
            assert self.machine.deadline is None or self.machine.deadline > due, "no deadline twice"
        self.now = now
        for fact in facts:
            self._step(fact)
        return [event.state for _, event in self.told[before:]]

    def _step(self, fact: Fact) -> None:
        for action in self.machine.step(fact, Instant(seconds(self.now))):
            if isinstance(action, TellOwners):
                self.told.append((self.now, action.event))
            else:
                assert isinstance(action, ForgetOwners)
                self.forgotten.append(action.address)

    @property
    def last(self) -> AddressOwners:
        return self.told[-1][1]


def settled() -> Play:
    """lb1 owns it, lb2 and lb3 hear it."""
    play = Play()
    play.at(0, told("lb1", M), told("lb2", B, master=SOURCE["lb1"]), told("lb3", B, master=SOURCE["lb1"]))
    assert play.last.state is ONE
    play.at(10)
    play.told.clear()
    return play


def test_one_owner_is_told_at_once() -> None:
    play = Play()
    assert play.at(0, told("lb1", M)) == [ONE]
    assert not play.last.alarm
    assert [holder.node for holder in play.last.holders] == ["lb1"]


def test_two_owners_are_an_alarm_after_half_an_interval() -> None:
    play = settled()
    assert play.at(20, told("lb2", M, old=B, kind=ReasonKind.PEER_SILENT)) == []
    assert play.at(20.499) == []
    assert play.at(20.501) == [TWO]
    assert play.told[-1][0] == 20.5
    assert play.last.alarm
    assert play.last.reason is not None and play.last.reason.kind is ReasonKind.PEER_SILENT
    assert "lb1 does not hear lb2" in play.last.differences
    assert play.at(25, told("lb2", B, old=M, master=SOURCE["lb1"])) == [ONE]
    assert not play.last.alarm


def test_a_handover_is_no_alarm() -> None:
    play = settled()
    play.at(20, told("lb2", M, old=B))
    assert play.at(20.2, told("lb1", B, old=M, master=SOURCE["lb2"])) == [ONE]
    assert play.at(60) == []


def test_a_resignation_is_no_alarm() -> None:
    play = settled()
    play.at(20, told("lb1", F, old=M, kind=ReasonKind.SCRIPT_FAILED))
    assert OwnersStatus.NONE not in play.at(20.7, told("lb2", M, old=B))
    assert play.last.state is ONE
    assert not any(event.alarm for _, event in play.told)


def test_nobody_is_an_alarm_after_an_interval_with_the_reason_of_who_had_it() -> None:
    play = settled()
    play.at(20, told("lb1", F, old=M, kind=ReasonKind.LINK_DOWN))
    play.at(20.1, told("lb2", F, old=B, kind=ReasonKind.SCRIPT_FAILED), told("lb3", F, old=B))
    assert play.at(20.9) == []
    assert play.at(21.1) == [NONE]
    assert play.last.alarm
    assert play.last.reason is not None and play.last.reason.kind is ReasonKind.LINK_DOWN
    assert any(line.startswith("lb2: FAULT (script-failed") for line in play.last.differences)


def test_a_backup_that_has_just_begun_is_given_the_time_to_hear_its_master() -> None:
    play = Play()
    play.at(0, told("lb1", B), told("lb2", B))
    assert play.at(3.9) == []
    assert play.at(3.95, told("lb1", M, old=B)) == [ONE]
    assert not any(event.alarm for _, event in play.told)


def test_backups_that_hear_nobody_for_ever_are_an_alarm() -> None:
    play = Play()
    play.at(0, told("lb1", B), told("lb2", B))
    assert play.at(4.1) == [NONE]


def test_shorter_intervals_are_judged_sooner() -> None:
    play = settled()
    for node in ("lb2", "lb3"):
        play.at(15, Heard(node, "V", SOURCE["lb1"], seconds(0.3)))
    play.at(20, told("lb2", M, old=B))
    # lb1 is not known to have another interval, so the longest counts.
    assert play.at(20.3) == []
    play = settled()
    for node in ("lb1", "lb2", "lb3"):
        play.at(15, Heard(node, "V", SOURCE["lb1"], seconds(0.3)))
    play.at(20, told("lb2", M, old=B))
    assert play.at(20.16) == [TWO]


def test_an_owner_that_cannot_be_reached_is_unknown_and_no_alarm() -> None:
    play = settled()
    assert play.at(20, Reach("lb1", False)) == [UNKNOWN]
    assert not play.last.alarm
    assert [holder.reachable for holder in play.last.holders] == [False, True, True]
    assert play.at(23, told("lb2", M, old=B)) == [ONE]
    # It is heard again, and was MASTER all along: two.
    assert play.at(40, Reach("lb1", True)) == []
    assert play.at(40.5) == [TWO]


def test_a_master_outside_of_the_cluster_is_told_as_that() -> None:
    play = Play()
    play.at(0, told("lb1", B, master="10.0.0.77"))
    assert play.last.state is UNKNOWN
    assert play.last.outside == "10.0.0.77"
    assert play.at(60) == []


def test_one_way_loss() -> None:
    play = settled()
    play.at(20, told("lb2", M, old=B, priority=50))
    for step in range(1, 20):
        play.at(20 + step * 0.1, Heard("lb1", "V", SOURCE["lb2"]))
    assert play.last.state is TWO
    assert {"lb1 hears lb2", "lb2 does not hear lb1"} <= set(play.last.differences)
    assert play.last.reason is not None and play.last.reason.kind is ReasonKind.ONE_WAY_LOSS


def test_a_refused_advert_is_the_reason() -> None:
    play = settled()
    evidence: Evidence = {"refused": "authtype_mismatch", "source": SOURCE["lb1"]}
    reason = Reason(kind=ReasonKind.AUTH_MISMATCH, node="lb2", subject="vrrp/V", evidence=evidence)
    play.at(20, Troubled("lb2", "V", reason), told("lb2", M, old=B))
    assert play.at(20.6) == [TWO]
    assert play.last.reason == reason
    assert any("authtype_mismatch" in line for line in play.last.differences)


def test_what_differs_in_the_configuration() -> None:
    play = settled()
    play.at(20, told("lb2", M, old=B, vrid=52, addresses=(f"{VIP}/24", "10.0.0.9/24")))
    play.at(20.6)
    alarm = next(event for _, event in play.told if event.address == VIP and event.alarm)
    assert "VRID: lb1 51, lb2 52" in alarm.differences
    assert "only lb2 has 10.0.0.9/24" in alarm.differences
    assert "priority: 100 on all of them" in alarm.differences
    assert alarm.reason is not None and alarm.reason.kind is ReasonKind.ADVERT_MISMATCH


def test_particulars_of_an_alarm_are_told_once_a_second_at_most() -> None:
    play = settled()
    play.at(20, told("lb2", M, old=B))
    play.at(20.6)
    play.told.clear()
    for step in range(100):
        priority = 100 + step % 2
        play.at(21 + step * 0.05, told("lb2", M, old=M, priority=priority))
    assert len(play.told) <= 6


def test_an_instance_that_is_removed_or_stopped_is_no_holder() -> None:
    play = settled()
    play.at(20, told("lb3", STOP, old=B))
    assert [holder.node for holder in play.last.holders] == ["lb1", "lb2"]
    play.at(21, Gone("lb2", "V"))
    assert [holder.node for holder in play.last.holders] == ["lb1"]
    play.at(22, Gone("lb1", "V"))
    assert play.forgotten == [VIP]


def test_a_node_that_leaves_the_configuration_is_forgotten() -> None:
    play = settled()
    play.at(20, Reach("lb1", False, known=False))
    assert [holder.node for holder in play.last.holders] == ["lb2", "lb3"]


def test_addresses_are_compared_whatever_their_spelling() -> None:
    assert plain("10.0.0.1/24") == plain("10.0.0.1") == "10.0.0.1"
    assert plain("2001:DB8::0001/64") == "2001:db8::1"
    assert plain("10.0.0.1/32 dev eth0") == "10.0.0.1"
    assert plain("strange") == "strange"


def test_what_anybody_on_the_link_makes_up_does_not_grow() -> None:
    play = settled()
    for number in range(1000):
        play.at(20, Heard("lb1", "V", f"10.1.{number >> 8}.{number & 255}"))
    (found,) = (each for key, each in play.machine._instances.items() if key[0] == "lb1")
    assert len(found.listening.heard) <= 64


def test_any_story_ends_with_the_truth() -> None:
    """Whatever was told in whatever order: some intervals after the last word, what was said is how it is."""
    for seed in range(200):
        chance = random.Random(seed)
        play = Play()
        last: dict[str, VrrpState] = {}
        away: set[str] = set()
        now = 0.0
        for _ in range(30):
            now += chance.choice((0.01, 0.3, 2.0))
            node = chance.choice(("lb1", "lb2", "lb3"))
            if chance.random() < 0.2 and node != "lb1":
                away ^= {node}
                play.at(now, Reach(node, node not in away))
                continue
            state = chance.choice((M, B, F))
            play.at(now, told(node, state, old=last.get(node, INIT)))
            last[node] = state
        play.at(now + 10)
        owners = [node for node, state in last.items() if state is M and node not in away]
        if len(owners) > 1:
            expected = TWO
        elif owners:
            expected = ONE
        else:
            expected = UNKNOWN if any(last.get(node) is M for node in away) else NONE
        assert play.last.state is expected, (seed, last, away)
        assert play.last.alarm is (expected in (TWO, NONE))
