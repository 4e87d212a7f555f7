"""Sync groups: members are MASTER together or not at all."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vrrp_pair import Pair
from vrrp_words import HIGHER, LOWER, advert, fresh, reason

from holdfast.actors.runtime.machine import Deadline, Fact, Instant, S
from holdfast.actors.vrrp.actions import Wish
from holdfast.actors.vrrp.config import Tracked, Tracks
from holdfast.actors.vrrp.facts import (
    AdvertReceived,
    LinkChanged,
    OperatorRelease,
    OperatorResume,
    Reconfigured,
    Restored,
    Start,
    Stop,
    TrackerKind,
    TrackerReported,
)
from holdfast.actors.vrrp.group import GroupMachine, GroupReconfigured, GroupStop, MemberWish, Tell
from holdfast.actors.vrrp.messages import VrrpState
from holdfast.actors.vrrp.options import LeaseMode, MachineOptions
from holdfast.bus.messages import ReasonKind


def started(**fields: object) -> Pair:
    pair = Pair(**fields)
    pair.start()
    assert pair.states() == ("BACKUP", "BACKUP", "BACKUP")
    return pair


def masters(**fields: object) -> Pair:
    pair = started(**fields)
    pair.until(8)
    assert pair.states() == ("MASTER", "MASTER", "MASTER")
    return pair


def test_the_members_begin_together() -> None:
    pair = Pair()
    assert pair.at(0, "A", Start()) == ["A let go of leftovers"]
    assert pair.states() == ("INIT", "INIT", "INIT")
    assert pair.at(0, "B", Start()) == [
        "B let go of leftovers",
        "A BACKUP: started",
        "B BACKUP: started",
        "G group BACKUP: started",
    ]


def test_a_faulty_member_starts_all_in_fault() -> None:
    pair = Pair()
    pair.at(0, "B", LinkChanged("eth0", up=False))
    pair.at(0, "A", Start())
    lines = pair.at(0, "B", Start())
    assert lines == ["B let go of leftovers", "B FAULT: link-down", "A FAULT: sync-group", "G group FAULT: sync-group"]


def test_a_fault_that_is_over_before_all_have_started() -> None:
    pair = Pair()
    pair.at(0, "A", LinkChanged("eth0", up=False))
    pair.at(0, "A", Start())
    assert pair.states() == ("FAULT", "INIT", "INIT")
    pair.at(1, "A", LinkChanged("eth0", up=True))
    pair.at(1, "B", Start())
    assert pair.states() == ("BACKUP", "BACKUP", "BACKUP")
    pair.until(6)
    assert pair.states() == ("MASTER", "MASTER", "MASTER")


@pytest.mark.parametrize("fault", [False, True])
def test_instances_that_a_reload_puts_into_a_group(fault: bool) -> None:
    """One is MASTER already, the other not: a group is MASTER together or not at all."""
    pair = Pair()
    alone = MachineOptions(node="lb1", lease=LeaseMode.OFF)
    for name, priority in (("A", 100), ("B", 50)):
        pair.machines[name] = fresh(alone, name=name, priority=priority).machine
    pair.start()
    pair.until(3.7)
    assert pair.states() == ("MASTER", "BACKUP", "INIT")
    if fault:
        pair.at(3.7, "B", LinkChanged("eth0", up=False))
    for name, machine in pair.machines.items():
        options = MachineOptions(node="lb1", group="G", lease=LeaseMode.OFF)
        pair.at(3.75, name, Reconfigured(machine.instance, options))
    expected = "FAULT" if fault else "BACKUP"
    assert pair.states() == (expected, expected, expected)
    pair.until(20)
    assert pair.states() == (("FAULT",) * 3 if fault else ("MASTER",) * 3)


def test_an_instance_that_leaves_a_group_leaves_its_fault() -> None:
    pair = masters()
    pair.at(8.1, "A", LinkChanged("eth0", up=False))
    alone = MachineOptions(node="lb1", lease=LeaseMode.OFF)
    assert pair.at(9, "B", Reconfigured(pair.machines["B"].instance, alone)) == ["B BACKUP: reload"]


def test_nobody_begins_before_the_scripts_of_all_have_run() -> None:
    pair = Pair(tracks=Tracks(scripts=(Tracked(name="chk", weight=0),)))
    pair.start()
    assert pair.states() == ("INIT", "INIT", "INIT")
    pair.at(1, "B", TrackerReported(TrackerKind.SCRIPT, "chk", up=True))
    assert pair.states() == ("BACKUP", "BACKUP", "BACKUP")


def test_the_last_timer_takes_all_to_master() -> None:
    """Surprise 23: a member whose timer ran out waits another round for the others."""
    pair = started(priority=50)
    lines = pair.until(4)
    at_b = f"{3 + 206 / 256:g}"
    assert lines == [
        f"{at_b} B advert 50",
        f"{at_b} B take over",
        f"{at_b} B announce x5",
        f"{at_b} B MASTER: peer-silent",
        f"{at_b} A advert 100",
        f"{at_b} A take over",
        f"{at_b} A announce x5",
        f"{at_b} A MASTER: peer-silent",
        f"{at_b} G group MASTER: peer-silent",
    ]


def test_a_member_that_hears_a_master_holds_the_others_back() -> None:
    pair = started()
    for at in range(1, 20):
        pair.until(at)
        pair.at(at, "B", advert(200, HIGHER))
    assert pair.states() == ("BACKUP", "BACKUP", "BACKUP")
    assert pair.machines["A"].deadline is not None
    pair.until(30)
    assert pair.states() == ("MASTER", "MASTER", "MASTER")


def test_a_wish_ends_when_a_master_is_heard() -> None:
    pair = started(priority=50)
    pair.until(3.7)
    assert pair.at(3.75, "A", advert(200, HIGHER)) == [f"A master {HIGHER} 200"]
    pair.until(4.5)
    assert pair.states() == ("BACKUP", "BACKUP", "BACKUP")


def test_one_loser_takes_all_to_backup_without_priority_0() -> None:
    pair = masters()
    lines = pair.at(8.1, "A", advert(200, HIGHER))
    assert lines == [
        "A let go",
        "A BACKUP: peer-higher-priority",
        "B let go",
        "B BACKUP: sync-group",
        "G group BACKUP: sync-group",
        f"A master {HIGHER} 200",
    ]


def test_one_fault_takes_all_down_and_all_must_be_well() -> None:
    pair = masters()
    lines = pair.at(8.1, "A", LinkChanged("eth0", up=False))
    assert lines == [
        "A advert 0",
        "A advert 0",
        "A let go",
        "A FAULT: link-down",
        "B advert 0",
        "B advert 0",
        "B let go",
        "B FAULT: sync-group",
        "G group FAULT: sync-group",
    ]
    assert pair.at(8.2, "B", LinkChanged("eth0", up=False)) == []
    assert pair.at(9, "A", LinkChanged("eth0", up=True)) == []
    assert pair.at(10, "B", LinkChanged("eth0", up=True)) == [
        "A BACKUP: sync-group",
        "B BACKUP: link-up",
        "G group BACKUP: sync-group",
    ]
    pair.until(15)
    assert pair.states() == ("MASTER", "MASTER", "MASTER")


def test_the_group_s_reason_names_the_member_and_its_cause() -> None:
    pair = masters()
    pair.at(8.1, "A", LinkChanged("eth0", up=False))
    why = pair.machines["B"].reason
    assert why is not None
    assert why.kind is ReasonKind.SYNC_GROUP
    assert why.subject == "vrrp-group/G"
    assert why.evidence == {"group": "G", "member": "A", "because": "link-down", "interface": "eth0"}


def test_a_lower_advert_makes_the_others_announce_too() -> None:
    pair = masters()
    lines = pair.at(8.1, "A", advert(50, LOWER))
    assert "A announce x5" in lines and "B announce x5" in lines
    assert "B advert 100" not in lines


def test_release_of_every_member() -> None:
    """The shell tells every member; the first takes all to BACKUP, each with its own resignation, so that the peers of
    all take over after their skew times."""
    pair = masters()
    assert pair.at(8.1, "A", OperatorRelease()) == [
        "A advert 0",
        "A let go",
        "A BACKUP: operator-release",
        "B advert 0",
        "B let go",
        "B BACKUP: sync-group",
        "G group BACKUP: sync-group",
    ]
    pair.at(8.1, "B", OperatorRelease())
    assert pair.until(100) == []
    assert pair.states() == ("BACKUP", "BACKUP", "BACKUP")


def test_a_restored_group_goes_on() -> None:
    pair = Pair()
    for name in ("A", "B"):
        fact = Restored(
            state=VrrpState.MASTER, since=Instant(1), reason=reason(), priority=100, silent_since=Instant(9 * S)
        )
        pair.at(10, name, fact)
    assert pair.states() == ("MASTER", "MASTER", "MASTER")


def test_a_restored_group_of_which_one_was_too_late_is_backup() -> None:
    pair = Pair()
    for name, silent in (("A", 9.5), ("B", 5.0)):
        since = Instant(round(silent * S))
        fact = Restored(state=VrrpState.MASTER, since=Instant(1), reason=reason(), priority=100, silent_since=since)
        pair.at(10, name, fact)
    assert pair.states() == ("BACKUP", "BACKUP", "BACKUP")


def test_the_faulty_member_leaves_by_reload() -> None:
    pair = masters()
    pair.at(8.1, "A", LinkChanged("eth0", up=False))
    lines = pair.group_step(GroupReconfigured(("B",)))
    assert lines == ["B BACKUP: reload", "G group BACKUP: sync-group"]


def test_renamed_members_keep_their_wishes() -> None:
    pair = started(priority=50)
    pair.until(3.7)
    pair.group.step(GroupReconfigured(("A2", "B"), {"A2": "A"}), pair.now)
    assert set(pair.group._wants) == {"A2"}


def test_a_member_that_joins_later_begins_as_backup() -> None:
    pair = masters()
    pair.group.step(GroupReconfigured(("A", "B", "C")), pair.now)
    (order,) = pair.group.step(MemberWish("C", Wish.READY, reason()), pair.now)
    assert isinstance(order, Tell) and order.member == "C"
    (order,) = pair.group.step(MemberWish("C", Wish.MASTER, reason()), pair.now)
    assert isinstance(order, Tell) and order.fact.state is VrrpState.MASTER  # type: ignore[union-attr]


def test_stop() -> None:
    pair = masters()
    for name in ("A", "B"):
        pair.at(9, name, Stop())
    assert pair.group_step(GroupStop()) == ["G group STOP: stopped"]


def test_strangers_are_not_heard() -> None:
    assert GroupMachine("G", ("A",)).step(MemberWish("X", Wish.FAULT, reason()), Instant(0)) == []


def test_a_group_of_owners_goes_together_at_once() -> None:
    pair = Pair()
    options = MachineOptions(node="lb1", group="G", group_owner=True, lease=LeaseMode.OFF)
    for name in ("A", "B"):
        pair.machines[name] = fresh(options, name=name, priority=255, wants_master=True).machine
    pair.start()
    pair.until(0.01)
    assert pair.states() == ("MASTER", "MASTER", "MASTER")


def test_state_master_is_no_hint_in_a_group_of_others() -> None:
    """An owner among others waits with them, its whole master-down time."""
    pair = Pair(priority=255, wants_master=True)
    pair.start()
    assert pair.machines["B"].deadline == 3 * S + S // 256
    pair.until(4)
    assert pair.states() == ("MASTER", "MASTER", "MASTER")


class Routers:
    """Two pairs on two links: A speaks to A, B to B, with a millisecond of delay."""

    def __init__(self, priorities: tuple[int, int]) -> None:
        self.now = Instant(0)
        self.priorities = priorities
        self.broken: set[str] = set()
        self.queue: list[tuple[int, int, int, str, AdvertReceived]] = []
        self.pairs: list[Pair] = []
        for number in (0, 1):
            self.pairs.append(self._pair(number))
        for pair in self.pairs:
            pair.start()

    def _pair(self, number: int) -> Pair:
        pair = Pair(common={"priority": self.priorities[number]})
        pair.now = self.now
        source = f"192.0.2.{10 + number}"
        pair.address(source)
        pair.send = lambda member, priority: self._send(number, member, advert(priority, source))
        return pair

    def _send(self, number: int, member: str, packet: AdvertReceived) -> None:
        if member not in self.broken:
            entry = (self.pairs[number].now + 1_000_000, len(self.queue), 1 - number, member, packet)
            heapq.heappush(self.queue, entry)

    def restart(self, number: int) -> None:
        """The host comes up anew."""
        self.pairs[number] = self._pair(number)
        self.pairs[number].start(self.now / S)

    def tell(self, number: int, member: str, fact: Fact) -> None:
        self.pairs[number].at_instant(self.now, member, fact)
        self._together()

    def run(self, seconds: float) -> None:
        end = self.now + round(seconds * S)
        while True:
            due = [(pair.due[0], number) for number, pair in enumerate(self.pairs) if pair.due is not None]
            at, number = min(due) if due else (end + 1, 0)
            if self.queue and self.queue[0][0] <= min(at, end):
                at, _, number, member, packet = heapq.heappop(self.queue)
                self.now = Instant(at)
                self.pairs[number].at_instant(self.now, member, packet)
            elif at <= end:
                pair = self.pairs[number]
                assert pair.due is not None
                self.now = Instant(max(at, self.now))
                pair.at_instant(self.now, pair.due[1], Deadline())
            else:
                self.now = Instant(end)
                return
            self._together()

    def _together(self) -> None:
        for pair in self.pairs:
            masters = [machine.state is VrrpState.MASTER for machine in pair.machines.values()]
            assert all(masters) or not any(masters), pair.states()


EVENTS = st.tuples(
    st.floats(0, 8), st.sampled_from(("down", "up", "cut", "mend", "restart", "release", "resume")), st.integers(0, 3)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENTS, max_size=12), st.sampled_from(((200, 100), (100, 200), (100, 100))))
def test_members_are_master_together_or_not_at_all(
    events: list[tuple[float, str, int]], priorities: tuple[int, int]
) -> None:
    """Whatever happens to links, hosts and operators; and once all is well one router has both."""
    routers = Routers(priorities)
    for after, what, which in events:
        routers.run(after)
        number, member = which // 2, "AB"[which % 2]
        match what:
            case "down" | "up":
                routers.tell(number, member, LinkChanged("eth0", up=what == "up"))
            case "cut":
                routers.broken.add(member)
            case "mend":
                routers.broken.clear()
            case "restart":
                routers.restart(number)
            case "release" | "resume":
                for each in ("A", "B"):
                    routers.tell(number, each, OperatorRelease() if what == "release" else OperatorResume())
    routers.broken.clear()
    for number in (0, 1):
        for member in ("A", "B"):
            routers.tell(number, member, LinkChanged("eth0", up=True))
            routers.tell(number, member, OperatorResume())
    routers.run(16)
    masters = [number for number, pair in enumerate(routers.pairs) if pair.is_master]
    assert len(masters) == 1, [pair.states() for pair in routers.pairs]
    if priorities[0] != priorities[1]:
        assert priorities[masters[0]] == 200


def test_a_released_group_hands_over_in_a_skew_time() -> None:
    routers = Routers((200, 100))
    routers.run(10)
    assert routers.pairs[0].is_master
    for member in ("A", "B"):
        routers.tell(0, member, OperatorRelease())
    routers.run(0.62)
    assert routers.pairs[1].is_master
