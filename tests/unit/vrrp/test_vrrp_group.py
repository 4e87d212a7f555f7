"""Sync groups: members are MASTER together or not at all."""

from __future__ import annotations

import pytest
from vrrp_words import HIGHER, LOWER, advert, fresh, reason, tell

from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant, S
from holdfast.actors.vrrp import actions as act
from holdfast.actors.vrrp.actions import Wish
from holdfast.actors.vrrp.config import Tracked, Tracks
from holdfast.actors.vrrp.facts import (
    LinkChanged,
    OperatorRelease,
    Reconfigured,
    Restored,
    Start,
    Stop,
    TrackerKind,
    TrackerReported,
)
from holdfast.actors.vrrp.group import GroupMachine, GroupReconfigured, GroupStop, MemberWish, Tell
from holdfast.actors.vrrp.machine import VrrpMachine
from holdfast.actors.vrrp.messages import VrrpState
from holdfast.actors.vrrp.options import LeaseMode, MachineOptions
from holdfast.bus.messages import ReasonKind


class Pair:
    """Two members and their group, wired as the shell wires them. lines: `who what`, in order."""

    def __init__(self, **fields: object) -> None:
        options = MachineOptions(node="lb1", group="G", lease=LeaseMode.OFF)
        self.machines: dict[str, VrrpMachine] = {}
        for name, more in (("A", {}), ("B", fields)):
            self.machines[name] = fresh(options, name=name, **more).machine
        self.group = GroupMachine("G", ("A", "B"), "lb1")
        self.now = Instant(0)
        self.lines: list[str] = []

    def at(self, seconds: float, member: str, fact: Fact) -> list[str]:
        self.now = Instant(round(seconds * S))
        self.lines = []
        self._step(member, fact)
        return self.lines

    def start(self) -> None:
        for name in self.machines:
            self.at(0, name, Start())

    def until(self, seconds: float) -> list[str]:
        """Keeps every deadline up to then; returns what was told, with its instant."""
        lines: list[str] = []
        while True:
            due = [(m.deadline, name) for name, m in self.machines.items() if m.deadline is not None]
            if not due or min(due)[0] > seconds * S:
                self.now = Instant(round(seconds * S))
                return lines
            at, name = min(due)
            lines += [f"{at / S:g} {line}" for line in self.at(at / S, name, Deadline())]

    def group_step(self, fact: Fact) -> list[str]:
        self.lines = []
        self._carry_out("G", self.group.step(fact, self.now))
        return self.lines

    def _step(self, member: str, fact: Fact) -> None:
        self._carry_out(member, list(self.machines[member].step(fact, self.now)))

    def _carry_out(self, who: str, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case act.TellGroup(wish=wish, reason=why, causes=causes):
                    self._carry_out("G", self.group.step(MemberWish(who, wish, why, causes), self.now))
                case Tell(member=member, fact=fact):
                    self._step(member, fact)
                case _:
                    line = tell(action)
                    if line is not None:
                        self.lines.append(f"{who} {line}")

    def states(self) -> tuple[str, str, str]:
        return (self.machines["A"].state.value, self.machines["B"].state.value, self.group.state.value)


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
