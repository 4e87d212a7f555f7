"""Faults as a set, weights as a sum: links, scripts, files, processes, BFD, addresses, what the shell finds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vrrp_words import CAUSE, HIGHER, OURS, PLAIN, advert, backup, evidence, fresh, instance, logs, master, reason

from holdfast.actors.runtime.machine import S
from holdfast.actors.vrrp.config import AddressSpec, RouteSpec, Tracked, Tracks
from holdfast.actors.vrrp.facts import (
    FaultCleared,
    FaultRaised,
    LinkChanged,
    SourceChanged,
    Start,
    TrackerKind,
    TrackerReported,
)
from holdfast.actors.vrrp.options import LeaseMode, MachineOptions
from holdfast.actors.vrrp.priority import Priority, contribution_of_state, contribution_of_value
from holdfast.bus.messages import ReasonKind

LEAVES_MASTER = ["advert 0", "advert 0", "let go"]


def script(name: str, up: bool, **fields: object) -> TrackerReported:
    return TrackerReported(TrackerKind.SCRIPT, name, up=up, **fields)  # type: ignore[arg-type]


def tracks(*scripts: tuple[str, int]) -> Tracks:
    return Tracks(scripts=tuple(Tracked(name=name, weight=weight) for name, weight in scripts))


def test_link_down_is_a_fault_of_a_master() -> None:
    """Surprise 13: two priority-0 adverts, counted once."""
    m = master()
    told = m.at(m.now / S + 0.5, LinkChanged("eth0", up=False, causes=(CAUSE,)))
    assert told == [*LEAVES_MASTER, "FAULT: link-down"]
    assert logs(m) == ["(VI_1) Entering FAULT STATE"]
    assert m.due is None
    assert m.machine.statistics.pri_zero_sent == 1
    assert m.last[3].causes == (CAUSE,)  # type: ignore[attr-defined]


def test_a_backup_in_fault_sends_nothing() -> None:
    m = backup()
    assert m.at(1, LinkChanged("eth0", up=False, exists=False)) == ["FAULT: link-missing"]
    assert m.at(2, advert(0)) == []


def test_link_up_again_waits_a_full_master_down_time() -> None:
    """What was learnt is forgotten."""
    m = backup()
    m.at(0.5, advert(200, HIGHER, interval_s=5.0))
    m.at(1, LinkChanged("eth0", up=False))
    assert m.at(2, LinkChanged("eth0", up=True)) == ["BACKUP: link-up"]
    assert m.due == 2 + 3.609375


def test_an_owner_is_master_straight_from_fault() -> None:
    m = master(priority=255, wants_master=True)
    m.at(1, LinkChanged("eth0", up=False))
    assert m.at(2, LinkChanged("eth0", up=True)) == ["advert 255", "take over", "announce x5", "MASTER: link-up"]


def test_unicast_announces_its_source_after_a_fault() -> None:
    m = backup(unicast=True)
    m.at(1, LinkChanged("eth0", up=False))
    assert m.at(2, LinkChanged("eth0", up=True)) == ["announce source", "BACKUP: link-up"]


def test_every_fault_must_be_over() -> None:
    m = backup(tracks=Tracks(interfaces=(Tracked(name="eth1", weight=0),)))
    m.at(1, LinkChanged("eth0", up=False))
    m.at(2, LinkChanged("eth1", up=False))
    m.at(3, FaultRaised("socket", reason()))
    assert set(m.machine.faults) == {"link/eth0", "link/eth1", "shell:socket"}
    assert m.at(4, LinkChanged("eth0", up=True)) == []
    assert m.at(5, FaultCleared("socket", reason(ReasonKind.LINK_UP))) == []
    assert m.at(6, LinkChanged("eth1", up=True)) == ["BACKUP: link-up"]


def test_the_same_fault_twice_is_one() -> None:
    m = backup()
    m.at(1, FaultRaised("socket", reason()))
    m.at(2, FaultRaised("socket", reason()))
    assert m.at(3, FaultCleared("socket", reason(ReasonKind.LINK_UP))) == ["BACKUP: link-up"]


def test_dont_track_primary() -> None:
    m = backup(dont_track_primary=True)
    assert m.machine.interfaces == ()
    assert m.at(1, LinkChanged("eth0", up=False)) == []


def test_interfaces_of_addresses_and_routes_are_tracked() -> None:
    addresses = (
        AddressSpec(address="10.0.0.1", prefix=24),
        AddressSpec(address="10.1.0.1", prefix=24, dev="eth1"),
        AddressSpec(address="10.2.0.1", prefix=24, dev="eth2", track=False),
    )
    routes = (
        RouteSpec(destination="default", dev="eth3"),
        RouteSpec(destination="10.9.0.0/16", dev="eth4", track=False),
    )
    options = MachineOptions(node="lb1", lease=LeaseMode.OFF, extra_interfaces=("eth5",))
    m = fresh(options, addresses=addresses, routes=routes)
    assert m.machine.interfaces == ("eth0", "eth1", "eth3", "eth5")
    m.at(0, LinkChanged("eth5", up=False))
    assert m.at(0, Start())[-1] == "FAULT: link-down"


def test_an_interface_nobody_spoke_of_is_missing_at_the_start() -> None:
    m = fresh(tracks=Tracks(interfaces=(Tracked(name="eth1", weight=0),)))
    m.machine._tracking._links.pop("eth1")
    assert m.at(0, Start())[-1] == "FAULT: link-missing"


def test_a_weighted_interface_only_moves_the_priority() -> None:
    """Surprise 9: a changed priority sends no advert."""
    m = master(tracks=Tracks(interfaces=(Tracked(name="eth1", weight=-30),)))
    assert m.at(m.now / S + 0.1, LinkChanged("eth1", up=False)) == ["priority 70: link-down"]
    assert m.until(m.now / S + 1)[0][1][0] == "advert 70"


def test_losing_the_source_address_is_a_fault() -> None:
    m = master()
    assert m.at(m.now / S + 0.1, SourceChanged(None)) == [*LEAVES_MASTER, "FAULT: address-missing"]
    assert m.at(m.now / S + 1, SourceChanged("192.0.2.7")) == ["BACKUP: link-up"]


def test_another_source_address_is_no_transition() -> None:
    m = master()
    assert m.at(m.now / S + 0.1, SourceChanged("192.0.2.7")) == []
    assert m.machine.master == "192.0.2.7"


def test_track_src_ip() -> None:
    m = backup(source=OURS)
    assert m.at(1, SourceChanged(OURS, present=False)) == []
    m = backup(source=OURS, track_source=True)
    assert m.at(1, SourceChanged(OURS, present=False)) == ["FAULT: address-missing"]


def test_an_unweighted_script_is_a_fault() -> None:
    m = fresh(tracks=tracks(("chk", 0)))
    m.at(0, script("chk", True))
    m.at(0, Start())
    m.until(4)
    told = m.at(4, script("chk", False, evidence={"exit_status": 3}))
    assert told == [*LEAVES_MASTER, "FAULT: script-failed"]
    assert evidence(m) == {"exit_status": 3}
    assert m.at(5, script("chk", True)) == ["BACKUP: script-ok"]


def test_a_script_that_took_too_long_says_so() -> None:
    m = fresh(tracks=tracks(("chk", 0)))
    m.at(0, Start())
    assert m.at(1, script("chk", False, timed_out=True)) == ["FAULT: script-timeout"]


def test_weights_of_scripts() -> None:
    """Neutral until they have run; up adds a positive weight, down a negative one."""
    m = backup(tracks=tracks(("up", 20), ("down", -20)))
    assert m.machine.priority == 100
    assert m.at(1, script("up", True)) == ["priority 120: script-ok"]
    assert m.at(2, script("down", True)) == []
    assert m.at(3, script("down", False)) == ["priority 100: script-failed"]
    assert m.at(4, script("up", False)) == ["priority 80: script-failed"]
    assert m.machine.contributions == {"script/down": -20}


def test_reverse() -> None:
    reverse = (Tracked(name="w", weight=20, reverse=True), Tracked(name="z", weight=0, reverse=True))
    m = fresh(tracks=Tracks(scripts=reverse))
    m.at(0, script("z", False))
    m.at(0, Start())
    assert m.at(1, script("w", True)) == ["priority 80: script-ok"]
    assert m.at(2, script("z", True)) == ["FAULT: script-ok"]


def test_the_sum_is_unclamped() -> None:
    """Surprise 9: what is beyond 1..254 is remembered, a later change may not be seen."""
    m = backup(priority=200, tracks=tracks(("a", 60), ("b", 60)))
    m.at(1, script("a", True))
    assert m.machine.priority == 254
    assert m.at(2, script("b", True)) == []
    assert m.at(3, script("b", False)) == []
    assert m.at(4, script("a", False)) == ["priority 200: script-failed"]
    m = backup(
        priority=10,
        tracks=tracks(
            ("a", -60),
        ),
    )
    m.at(1, script("a", False))
    assert m.machine.priority == 1


def test_address_owners_ignore_weights_not_faults() -> None:
    m = master(priority=255, wants_master=True, tracks=tracks(("a", -60)))
    assert m.at(1, script("a", False)) == []
    assert m.machine.priority == 255
    assert m.at(2, LinkChanged("eth0", up=False))[-1] == "FAULT: link-down"


def test_files() -> None:
    """Surprise 11: value times weight whatever its sign; -254 or less is a fault; weight 0: any value but 0."""
    files = (Tracked(name="f", weight=1), Tracked(name="zero", weight=0))
    m = fresh(tracks=Tracks(files=files))
    m.at(0, TrackerReported(TrackerKind.FILE, "zero", up=True, value=0))
    m.at(0, Start())
    assert m.at(1, TrackerReported(TrackerKind.FILE, "f", up=True, value=-40)) == ["priority 60: file-value"]
    assert evidence(m) == {"value": -40}
    assert m.at(2, TrackerReported(TrackerKind.FILE, "f", up=True, value=-254))[-1] == "FAULT: file-value"
    assert m.at(3, TrackerReported(TrackerKind.FILE, "f", up=True, value=400))[-1] == "BACKUP: file-value"
    assert m.machine.priority == 254
    assert m.at(4, TrackerReported(TrackerKind.FILE, "zero", up=True, value=1))[-1] == "FAULT: file-value"


def test_a_process_without_quorum() -> None:
    m = fresh(tracks=Tracks(processes=(Tracked(name="p", weight=0),)))
    m.at(0, Start())
    assert m.at(1, TrackerReported(TrackerKind.PROCESS, "p", up=False)) == ["FAULT: process-quorum"]
    assert evidence(m) == {"quorum": False}


def test_a_bfd_session() -> None:
    m = fresh(tracks=Tracks(bfd=(Tracked(name="b", weight=0),)))
    m.at(0, TrackerReported(TrackerKind.BFD, "b", up=True))
    m.at(0, Start())
    assert m.at(1, TrackerReported(TrackerKind.BFD, "b", up=False)) == ["FAULT: bfd-down"]
    assert m.at(2, TrackerReported(TrackerKind.BFD, "b", up=True)) == ["BACKUP: bfd-up"]


def test_group_tracks_count_beside_the_own_ones() -> None:
    options = MachineOptions(node="lb1", lease=LeaseMode.OFF, group_tracks=tracks(("chk", -10)))
    m = backup(options, tracks=tracks(("chk", -20)))
    assert m.at(1, script("chk", False)) == ["priority 70: script-failed"]


def test_weights_of_members_are_neutral_in_a_group() -> None:
    """Surprise 10: weighted scripts are dropped, a weighted interface is a fault when it is down."""
    mine = Tracks(
        scripts=(Tracked(name="w", weight=-20), Tracked(name="z", weight=0)),
        interfaces=(Tracked(name="eth1", weight=-20),),
        files=(Tracked(name="one", weight=1), Tracked(name="two", weight=2)),
    )
    options = MachineOptions(node="lb1", lease=LeaseMode.OFF, weights_neutral=True)
    m = fresh(options, tracks=mine)
    m.at(0, script("z", True))
    m.at(0, TrackerReported(TrackerKind.FILE, "one", up=True, value=0))
    m.at(0, Start())
    assert m.at(1, script("w", False)) == []
    assert m.at(2, TrackerReported(TrackerKind.FILE, "two", up=True, value=9)) == []
    assert m.at(3, LinkChanged("eth1", up=False)) == ["FAULT: link-down"]
    assert m.at(4, LinkChanged("eth1", up=True)) == ["BACKUP: link-up"]
    assert m.at(5, TrackerReported(TrackerKind.FILE, "one", up=True, value=9)) == ["FAULT: file-value"]


def test_what_is_not_tracked_is_ignored() -> None:
    m = backup()
    assert m.at(1, script("other", False)) == []
    assert m.at(1, LinkChanged("eth7", up=False)) == []


@pytest.mark.parametrize(
    ("weight", "reverse", "up", "value"),
    [
        (10, False, True, 10),
        (10, False, False, 0),
        (-10, False, True, 0),
        (-10, False, False, -10),
        (10, True, True, -10),
        (10, True, False, 0),
        (-10, True, True, 0),
        (-10, True, False, 10),
        (0, False, True, 0),
        (0, False, False, None),
        (0, True, True, None),
        (0, True, False, 0),
    ],
)
def test_the_table_of_weights(weight: int, reverse: bool, up: bool, value: int | None) -> None:
    assert contribution_of_state(weight, reverse, up) == value


@pytest.mark.parametrize(
    ("weight", "reverse", "content", "value"),
    [
        (1, False, 5, 5),
        (2, False, -5, -10),
        (2, True, 5, -10),
        (1, False, 300, 253),
        (1, False, -253, -253),
        (1, False, -254, None),
        (100, False, -3, None),
        (0, False, 0, 0),
        (0, False, 7, None),
        (0, True, 0, None),
        (0, True, 7, 0),
    ],
)
def test_the_table_of_files(weight: int, reverse: bool, content: int, value: int | None) -> None:
    assert contribution_of_value(weight, reverse, content) == value


@given(st.integers(1, 254), st.dictionaries(st.text(max_size=3), st.integers(-253, 253), max_size=6))
def test_a_priority_is_within_its_limits(base: int, parts: dict[str, int]) -> None:
    priority = Priority(base)
    for key, value in parts.items():
        priority.put(key, value)
    assert priority.effective == min(254, max(1, base + sum(parts.values())))
    for key in parts:
        priority.drop(key)
    assert priority.effective == base
    priority.base = 255
    assert priority.effective == 255


def test_the_instance_of_the_tests_has_no_trackers() -> None:
    assert instance().tracks == Tracks()
    assert backup(PLAIN).machine.contributions == {}
