"""Conversations with a MASTER: its adverts, what it hears, how it leaves."""

from __future__ import annotations

from vrrp_words import CAUSE, HIGHER, LEASED, LOWER, OURS, advert, evidence, logs, master

from holdfast.actors.runtime.machine import Deadline, S
from holdfast.actors.vrrp import actions as act
from holdfast.actors.vrrp.config import GarpTiming
from holdfast.actors.vrrp.facts import AdvertRejected, SourceChanged, Stop
from holdfast.actors.vrrp.packet import Reject

QUIET = GarpTiming(master_delay_us=0)


def test_adverts_come_each_interval_and_lateness_does_not_add_up() -> None:
    m = master(garp=QUIET)
    start = m.now / S
    assert m.until(start + 3) == [(round(start + n, 6), ["advert 100"]) for n in (1, 2, 3)]
    m.at(start + 4.2, Deadline())
    assert m.due == start + 5
    m.at(start + 7.0, Deadline())
    assert m.due == start + 8


def test_a_deadline_too_early_does_nothing() -> None:
    m = master()
    assert m.at(m.now / S + 0.999, Deadline()) == []


def test_an_ordinary_advert_costs_no_allocation_of_actions() -> None:
    m = master(garp=QUIET).machine
    first = m.step(Deadline(), m.deadline)  # type: ignore[arg-type]
    second = m.step(Deadline(), m.deadline)  # type: ignore[arg-type]
    assert first is second


def test_the_second_burst_comes_after_the_delay() -> None:
    """Surprise 15: 5 at once and 5 more after 5 s."""
    m = master()
    start = m.now / S
    happened = m.until(start + 6)
    assert (round(start + 5, 6), ["advert 100", "announce x5"]) in happened
    assert sum("announce x5" in told for _, told in happened) == 1


def test_refreshes_go_on() -> None:
    m = master(garp=GarpTiming(master_delay_us=0, master_refresh_us=2_500_000, master_refresh_repeat=2))
    start = m.now / S
    bursts = [round(at - start, 6) for at, told in m.until(start + 10) if "announce x2" in told]
    assert bursts == [2.5, 5.0, 7.5, 10.0]


def test_priority_0_is_answered_at_once_and_nothing_else() -> None:
    m = master(garp=QUIET)
    start = m.now / S
    assert m.at(start + 0.5, advert(0)) == ["advert 100"]
    assert m.due == start + 1.5
    assert m.machine.statistics.pri_zero_rcvd == 1


def test_a_lower_priority_is_answered_and_announced_again() -> None:
    """Surprise 2: RFC 5798 discards it."""
    m = master(garp=GarpTiming(master_delay_us=0, lower_prio_delay_us=2_000_000, lower_prio_repeat=3))
    start = m.now / S
    assert m.at(start + 0.5, advert(50)) == ["advert 100", "announce x3", f"heard lower {LOWER}"]
    assert logs(m) == [f"(VI_1) Received advert from {LOWER} with lower priority 50, ours 100, forcing new election"]
    assert m.due == start + 1.5
    assert (round(start + 2.5, 6), ["advert 100", "announce x3"]) in m.until(start + 3)


def test_lower_prio_no_advert_is_the_rfc() -> None:
    m = master(garp=QUIET, lower_prio_no_advert=True)
    due = m.due
    assert m.at(m.now / S + 0.5, advert(50)) == ["announce x5", f"heard lower {LOWER}"]
    assert logs(m) == [f"(VI_1) Received advert from {LOWER} with lower priority 50, ours 100"]
    assert m.due == due


def test_strict_timing_announces_nothing_for_lower_priority() -> None:
    m = master(garp=GarpTiming(lower_prio_repeat=0, lower_prio_delay_us=0))
    assert m.at(m.now / S + 0.5, advert(50)) == ["advert 100", f"heard lower {LOWER}"]


def test_a_higher_priority_takes_mastership() -> None:
    m = master()
    start = m.now / S
    assert m.at(start + 0.5, advert(200, HIGHER)) == ["let go", "BACKUP: peer-higher-priority", f"master {HIGHER} 200"]
    assert evidence(m) == {"master": HIGHER, "master_priority": 200, "priority": 100, "source": OURS}
    assert f"(VI_1) Master received advert from {HIGHER} with higher priority 200, ours 100" in logs(m)
    assert m.due == start + 0.5 + 3.609375


def test_the_winner_s_interval_is_learnt() -> None:
    m = master()
    start = m.now / S
    m.at(start + 0.5, advert(200, HIGHER, interval_s=4.0))
    assert m.due == start + 0.5 + 12 + 4 * 156 / 256


def test_equal_priority_is_decided_by_the_address_as_a_number() -> None:
    """Surprise 3."""
    m = master()
    assert m.at(m.now / S + 0.5, advert(100, LOWER))[0] == "advert 100"
    told = m.at(m.now / S + 0.6, advert(100, HIGHER))
    assert told[:2] == ["let go", "BACKUP: peer-higher-priority"]
    text = f"(VI_1) Master received advert from {HIGHER} with same priority 100 but higher IP address than ours"
    assert text in logs(m)


def test_the_comparison_is_numeric_not_of_text() -> None:
    m = master()
    m.at(m.now / S, SourceChanged("192.0.2.10"))
    assert m.at(m.now / S + 0.5, advert(100, "192.0.2.9"))[0] == "advert 100"


def test_an_advert_from_our_own_address_is_only_a_warning() -> None:
    m = master()
    assert m.at(m.now / S + 0.5, advert(100, OURS)) == ["trouble: duplicate-vrid"]
    assert logs(m)[0].startswith("(VI_1) WARNING - equal priority advert received")
    assert m.at(m.now / S + 0.6, advert(100, OURS)) == []
    assert m.machine.state == "MASTER"


def test_nopreempt_masters_give_way_too() -> None:
    m = master(nopreempt=True)
    assert m.at(m.now / S + 0.5, advert(101, LOWER))[:2] == ["let go", "BACKUP: peer-higher-priority"]


def test_giving_way_sends_no_priority_0() -> None:
    """Surprise 13."""
    m = master()
    m.at(m.now / S + 0.5, advert(200, HIGHER))
    assert not [action for action in m.last if isinstance(action, act.SendAdvert)]


def test_higher_prio_send_advert_sends_one_first() -> None:
    m = master(higher_prio_send_advert=True)
    assert m.at(m.now / S + 0.5, advert(200, HIGHER))[:3] == ["advert 100", "let go", "BACKUP: peer-higher-priority"]


def test_two_owners_are_decided_by_address() -> None:
    m = master(priority=255, wants_master=True)
    assert m.at(1, advert(255, LOWER))[0] == "advert 255"
    assert m.at(1.5, advert(255, HIGHER))[:2] == ["let go", "BACKUP: peer-higher-priority"]


def test_refused_packets_never_touch_the_timer() -> None:
    """Surprise 1: in keepalived a stream of wrong packets silences a master; here it does not."""
    m = master(garp=QUIET)
    start = m.now / S
    due = m.due
    for n in range(2000):
        m.at(start + n * 0.0004, AdvertRejected(Reject.CHECKSUM, HIGHER))
        assert m.due == due
    assert m.until(start + 3) == [(round(start + n, 6), ["advert 100"]) for n in (1, 2, 3)]


def test_a_storm_of_lower_adverts_is_not_answered_by_a_storm() -> None:
    m = master(garp=QUIET)
    start = m.now / S
    answers = sum("advert 100" in m.at(start + 0.2 + n / 1000, advert(50)) for n in range(500))
    assert answers == 5


def test_the_storm_is_not_announced_either() -> None:
    m = master(garp=QUIET, lower_prio_no_advert=True)
    start = m.now / S
    told = [m.at(start + 0.2 + n / 1000, advert(50)) for n in range(1500)]
    assert sum("announce x5" in each for each in told) == sum(f"heard lower {LOWER}" in each for each in told) == 2


def test_a_lower_advert_right_after_ours_is_answered_too() -> None:
    """It was sent before ours came, but somebody else has announced the addresses: ours must be the last word."""
    m = master(garp=QUIET)
    start = m.now / S
    m.at(start + 1, Deadline())
    assert m.at(start + 1.001, advert(50))[:2] == ["advert 100", "announce x5"]


def test_a_peer_that_goes_on_after_two_answers_does_not_hear_us() -> None:
    m = master(garp=QUIET)
    start = m.now / S
    told = [m.at(start + 0.5 + n, advert(50)) for n in range(5)]
    assert sum("trouble: one-way-loss" in each for each in told) == 1
    assert "trouble: one-way-loss" in told[3]


def test_stop_resigns_lets_go_and_is_told_last() -> None:
    """Surprise 24: STOP comes at the very end; no BACKUP or FAULT before."""
    m = master()
    assert m.at(m.now / S + 0.5, Stop(causes=(CAUSE,))) == ["advert 0", "let go", "STOP: stopped"]
    assert logs(m) == ["(VI_1) sent 0 priority"]
    assert m.due is None
    assert m.at(m.now / S + 1, advert(0)) == []
    assert m.machine.statistics.pri_zero_sent == 1


def test_stop_with_keep_leaves_everything() -> None:
    m = master()
    assert m.at(m.now / S + 0.5, Stop(keep=True)) == ["STOP: stopped"]


def test_deletion_by_reload_is_told_as_fault_or_deleted() -> None:
    """Surprise 24."""
    m = master()
    assert m.at(m.now / S + 0.5, Stop(deleted=True)) == ["advert 0", "let go", "FAULT: reload"]
    notify = m.machine.instance.notify.__class__(notify_deleted=True)
    m = master(notify=notify)
    assert m.at(m.now / S + 0.5, Stop(deleted=True)) == ["advert 0", "let go", "DELETED: reload"]


def test_leases_are_refreshed_right_after_an_advert_once_a_second() -> None:
    m = master(LEASED, garp=QUIET)
    start = m.now / S
    told = m.until(start + 3)
    assert told == [(round(start + n, 6), ["advert 100", "refresh for 2 s"]) for n in (1, 2, 3)]
    m = master(LEASED, garp=QUIET, advert_interval_us=100_000)
    start = m.now / S
    refreshed = [round(at - start, 3) for at, told in m.until(start + 4) if len(told) > 1]
    assert refreshed == [0.9, 1.8, 2.7, 3.6]


def test_long_intervals_have_long_leases() -> None:
    m = master(LEASED, garp=QUIET, advert_interval_us=10_000_000)
    assert m.machine.lease_s == 29


def test_counters() -> None:
    m = master(garp=QUIET)
    m.until(m.now / S + 2)
    m.at(m.now / S + 0.1, advert(200, HIGHER))
    statistics = m.machine.statistics
    assert (statistics.become_master, statistics.release_master) == (1, 1)
    assert (statistics.advert_sent, statistics.advert_rcvd) == (3, 1)
    statistics.clear()
    assert statistics.advert_sent == 0
