"""Conversations with an instance that starts, waits as BACKUP and takes over."""

from __future__ import annotations

import pytest
from play import instant
from vrrp_words import CAUSE, HIGHER, LEASED, LOWER, OURS, PLAIN, advert, backup, evidence, fresh, logs

from holdfast.actors.runtime.machine import Deadline, Duration, S
from holdfast.actors.vrrp import actions as act
from holdfast.actors.vrrp.config import GarpTiming
from holdfast.actors.vrrp.facts import AdvertRejected, SourceChanged, Start, TrackerKind, TrackerReported
from holdfast.actors.vrrp.messages import VrrpMasterSeen, VrrpStateChanged
from holdfast.actors.vrrp.packet import Reject
from holdfast.bus.messages import ReasonKind

TAKEOVER = ["advert 100", "take over", "announce x5", "MASTER: peer-silent"]


def test_backup_waits_three_intervals_and_skew() -> None:
    m = backup()
    assert m.at(3.609, Deadline()) == []  # 3 s + 156/256 s = 3.609375 s
    assert m.at(3.609375, Deadline()) == TAKEOVER


def test_the_skew_of_version_2_is_of_a_second_whatever_the_interval() -> None:
    """RFC 3768 6.1; surprise 8."""
    m = backup(version=2, advert_interval_us=10_000_000)
    assert m.due == 30 + 156 / 256
    m = backup(version=3, advert_interval_us=10_000_000)
    assert m.due == 30 + 10 * 156 / 256


def test_down_timer_adverts() -> None:
    assert backup(down_timer_adverts=1).due == 1 + 156 / 256
    assert backup(down_timer_adverts=100).due == 100 + 156 / 256


def test_a_takeover_sends_before_it_takes_and_tells_last() -> None:
    """Surprise 14, the order of actions is part of the contract."""
    m = backup()
    m.until(3.7)
    kinds = [type(action) for action in m.last]
    assert kinds == [act.SendAdvert, act.TakeOver, act.Announce, act.Publish, act.Log, act.Log]


def test_the_transition_says_what_was_missed() -> None:
    m = backup()
    m.at(0.5, advert(200, HIGHER))
    m.until(5)
    assert evidence(m) == {
        "priority": 100,
        "interval_s": 1.0,
        "limit_s": 3.609375,
        "waited_s": 3.609375,
        "last_advert_s_ago": 3.609375,
        "master": HIGHER,
        "master_priority": 200,
    }


def test_the_state_event_is_complete() -> None:
    m = backup()
    m.until(4)
    (event,) = [a.event for a in m.last if isinstance(a, act.Publish) and isinstance(a.event, VrrpStateChanged)]
    assert (event.instance, event.vrid, event.family, event.interface) == ("VI_1", 51, 4, "eth0")
    assert event.addresses == ("10.0.0.1/24",)
    assert event.master == OURS
    assert event.since_mono_ns == instant(3.609375)


def test_causes_travel_on() -> None:
    m = fresh()
    m.at(0, Start((CAUSE,)))
    published = [action for action in m.last if isinstance(action, act.Publish)]
    assert [action.causes for action in published] == [(CAUSE,)]


def test_leftovers_of_an_earlier_life_go_first() -> None:
    m = fresh()
    assert m.at(0, Start()) == ["let go of leftovers", "BACKUP: started"]
    assert logs(m) == ["(VI_1) Entering BACKUP STATE (init)"]


def test_state_master_shortens_the_first_wait() -> None:
    """Surprise 5: one interval and the least skew; keepalived 2.2.7 waits the whole time."""
    assert backup(wants_master=True).due == 1 + 1 / 256
    assert backup(wants_master=True, version=2, advert_interval_us=10_000_000).due == 10 + 1 / 256
    slow = backup(wants_master=True, options=PLAIN.__class__(node="lb1", lease=PLAIN.lease, quick_start=False))
    assert slow.due == 3.609375


def test_an_owner_is_master_at_once() -> None:
    m = backup(priority=255, wants_master=True)
    assert m.due == pytest.approx(1e-6)
    assert m.until(0.001) == [(1e-6, ["advert 255", "take over", "announce x5", "MASTER: peer-silent"])]


def test_equal_priority_is_accepted() -> None:
    """Surprise 3: a backup compares no addresses."""
    m = backup()
    assert m.at(1, advert(100, LOWER)) == [f"master {LOWER} 100"]
    assert m.due == 1 + 3.609375


def test_lower_priority_is_discarded_and_the_timer_runs_on() -> None:
    m = backup()
    due = m.due
    assert m.at(1, advert(99)) == []
    assert logs(m) == [f"(VI_1) received lower priority (99) advert from {LOWER} - discarding"]
    assert m.due == due
    assert m.until(4)[0][1][-1] == "MASTER: peer-lower-priority"
    assert evidence(m)["master_priority"] == 99


def test_the_same_advert_again_only_moves_the_timer() -> None:
    m = backup()
    same = advert(200, HIGHER)
    assert m.at(1, same) == [f"master {HIGHER} 200"]
    for at in range(2, 50):
        assert m.at(at, same) == []
        assert m.due == at + 3.609375
    assert m.machine.statistics.advert_rcvd == 49


def test_nopreempt_obeys_any_priority_but_takes_over_from_silence() -> None:
    """Surprise 4: nopreempt is not "stay backup for ever"."""
    m = backup(nopreempt=True)
    for at in (1, 2, 3, 4, 5, 6):
        m.at(at, advert(1))
    assert m.machine.state == "BACKUP"
    assert m.until(10) == [(9.609375, TAKEOVER)]


def test_the_learned_interval_sets_the_timer() -> None:
    """Surprise 8: v3 follows the master's interval, for the skew too."""
    m = backup()
    m.at(1, advert(200, HIGHER, interval_s=2.0))
    assert m.due == 1 + 3 * 2 + 2 * 156 / 256
    assert logs(m)[0] == "(VI_1) advertisement interval updated from 1000ms to 2000ms by master"
    (seen,) = [a.event for a in m.last if isinstance(a, act.Publish)]
    assert seen == VrrpMasterSeen(instance="VI_1", address=HIGHER, priority=200, interval_us=2_000_000)


def test_a_discarded_advert_teaches_nothing() -> None:
    m = backup()
    m.at(1, advert(50, interval_s=9.0))
    assert m.machine.master_interval == S


def test_version_2_learns_no_interval() -> None:
    m = backup(version=2)
    m.at(1, advert(200, HIGHER, interval_s=None))
    assert m.due == 1 + 3.609375


def test_priority_0_leaves_only_the_skew() -> None:
    m = backup()
    m.at(1, advert(200, HIGHER))
    m.at(2, advert(0, HIGHER))
    assert m.due == 2 + 156 / 256
    assert logs(m) == ["(VI_1) Backup received priority 0 advertisement"]
    assert m.until(3)[0][1][-1] == "MASTER: peer-resigned"
    assert evidence(m)["resigned_s_ago"] == 0.609375
    assert m.machine.statistics.pri_zero_rcvd == 1


def test_a_new_master_after_priority_0_ends_the_short_wait() -> None:
    m = backup()
    m.at(1, advert(200, HIGHER))
    m.at(2, advert(0, HIGHER))
    m.at(2.1, advert(150, LOWER))
    assert m.due == 2.1 + 3.609375


def test_preempt_delay() -> None:
    """Obeys a lower master while the delay runs; then lower adverts are ignored and the timer runs out."""
    m = backup(preempt_delay_us=5_000_000)
    m.at(1, advert(50))
    assert "(VI_1) start preempt delay (5.000000)" in logs(m)
    for at in (2, 3, 4, 5):
        m.at(at, advert(50))
    assert m.due == 5 + 3.609375
    m.at(6, advert(50))
    assert m.due == 5 + 3.609375
    assert m.until(9)[0][1][-1] == "MASTER: peer-lower-priority"


def test_a_higher_advert_ends_the_preempt_delay() -> None:
    m = backup(preempt_delay_us=5_000_000)
    m.at(1, advert(50))
    m.at(2, advert(200, HIGHER))
    assert "(VI_1) stop preempt delay" in logs(m)
    m.at(6.5, advert(50))
    assert "(VI_1) start preempt delay (5.000000)" in logs(m)


def test_no_preempt_delay_without_a_lower_master() -> None:
    assert backup(preempt_delay_us=60_000_000).due == 3.609375


def test_a_changed_priority_shifts_the_running_timer() -> None:
    from vrrp_words import instance

    tracks = instance().tracks.__class__(scripts=(_tracked("chk", -56),))
    m = backup(tracks=tracks)
    assert m.due == 3.609375
    assert m.at(1, TrackerReported(TrackerKind.SCRIPT, "chk", up=False)) == ["priority 44: script-failed"]
    assert m.due == 3 + (256 - 44) / 256
    assert logs(m) == ["(VI_1) Changing effective priority from 100 to 44"]
    m.at(2, TrackerReported(TrackerKind.SCRIPT, "chk", up=True))
    assert m.due == 3.609375


def test_a_raised_priority_preempts_the_master_it_obeyed() -> None:
    m = backup(tracks=_tracks(scripts=(_tracked("chk", 150),)))
    same = advert(200, HIGHER)
    m.at(1, same)
    m.at(2, same)
    m.at(2.5, TrackerReported(TrackerKind.SCRIPT, "chk", up=True))
    m.at(3, same)
    assert m.due == pytest.approx(2 + 3 + 6 / 256)
    assert m.until(6)[0][1][-1] == "MASTER: peer-lower-priority"


def test_startup_delay_throws_packets_away_then_waits_as_usual() -> None:
    options = PLAIN.__class__(node="lb1", lease=PLAIN.lease, startup_delay_us=10_000_000)
    m = backup(options)
    assert m.due == 10
    assert m.at(5, advert(200, HIGHER)) == []
    assert m.machine.statistics.advert_rcvd == 0
    assert m.until(10) == []
    assert m.due == 13.609375
    assert m.until(14) == [(13.609375, TAKEOVER)]


def test_master_changes_are_told_once() -> None:
    m = backup()
    assert m.at(1, advert(150, HIGHER)) == [f"master {HIGHER} 150"]
    assert m.at(2, advert(150, HIGHER)) == []
    assert m.at(3, advert(160, LOWER)) == [f"master {LOWER} 160"]
    assert logs(m) == [f"(VI_1) master changed from {HIGHER} to {LOWER}"]
    assert m.at(4, advert(170, LOWER)) == [f"master {LOWER} 170"]


def test_refused_adverts_are_the_reason_when_nothing_else_came() -> None:
    """A peer whose password differs is not silent: the transition says so."""
    m = backup(version=2)
    for at in (1, 2, 3):
        m.at(at, AdvertRejected(Reject.AUTH_FAILURE, HIGHER))
    assert m.until(4)[0][1][-1] == "MASTER: auth-mismatch"
    assert evidence(m)["refused_from"] == HIGHER
    m = backup()
    m.at(1, AdvertRejected(Reject.VERSION, HIGHER, {"version": 2}))
    m.at(3, AdvertRejected(Reject.VERSION, HIGHER, {"version": 2}))
    assert m.until(4)[0][1][-1] == "MASTER: advert-mismatch"


def test_refused_adverts_are_told_once_and_counted_always() -> None:
    m = backup()
    assert m.at(1, AdvertRejected(Reject.CHECKSUM, HIGHER)) == ["trouble: advert-mismatch"]
    for _ in range(1000):
        assert m.say(AdvertRejected(Reject.CHECKSUM, HIGHER)) == []
    assert m.machine.statistics.checksum_err == 1001
    assert m.due == 3.609375


def test_a_flood_from_many_sources_is_told_a_few_times() -> None:
    m = backup()
    told = [m.at(1, AdvertRejected(Reject.TTL, f"192.0.2.{n}")) for n in range(200)]
    assert len([each for each in told if each]) == 16


def test_address_mismatch_counts_but_is_obeyed() -> None:
    """Surprise 6."""
    m = backup()
    m.at(1, advert(200, HIGHER, address_mismatch=True))
    m.at(2, advert(200, HIGHER, address_mismatch=True))
    assert m.machine.statistics.addr_list_err == 2
    assert m.due == 2 + 3.609375


def test_waits_in_init_for_unweighted_scripts() -> None:
    """Surprise 12: one result of each is enough; until then nothing is told."""
    tracks = _tracks(scripts=(_tracked("a"), _tracked("b"), _tracked("weighted", 10)))
    m = fresh(tracks=tracks)
    assert m.at(0, Start()) == ["let go of leftovers"]
    assert m.machine.pending == {"script/a", "script/b"}
    assert m.due is None
    assert m.at(0.5, TrackerReported(TrackerKind.SCRIPT, "a", up=True)) == []
    assert m.at(1.5, TrackerReported(TrackerKind.SCRIPT, "b", up=True)) == ["BACKUP: started"]
    assert evidence(m)["waited_s"] == 1.5
    assert m.due == 1.5 + 3.609375


def test_a_script_that_fails_first_starts_in_fault() -> None:
    m = fresh(tracks=_tracks(scripts=(_tracked("a"),)))
    m.at(0, Start())
    assert m.at(0.5, TrackerReported(TrackerKind.SCRIPT, "a", up=False)) == ["FAULT: script-failed"]
    assert logs(m) == ["(VI_1) Entering FAULT STATE (init)"]


def test_a_bfd_session_that_says_nothing_is_down() -> None:
    m = fresh(tracks=_tracks(bfd=(_tracked("b"),)))
    assert m.at(0, Start()) == ["let go of leftovers", "FAULT: bfd-down"]


def test_facts_before_the_start_do_nothing() -> None:
    m = fresh()
    assert m.at(0, advert(0)) == []
    assert m.at(1, Deadline()) == []
    assert m.due is None


def test_no_source_address_is_a_fault() -> None:
    """Surprise 17."""
    m = fresh()
    m.at(0, SourceChanged(None))
    assert m.at(0, Start()) == ["let go of leftovers", "FAULT: address-missing"]
    assert m.at(1, SourceChanged(OURS)) == ["BACKUP: link-up"]


def test_garp_count_follows_the_configuration() -> None:
    m = backup(garp=GarpTiming(master_repeat=2))
    assert m.until(4)[0][1][2] == "announce x2"


def test_takeover_with_a_lease() -> None:
    """The best backup is unknown: priority 254 would take over after 3.008 s, and the kernel is 0.1 s late."""
    m = backup(LEASED)
    assert m.until(4)[0][1][:2] == ["advert 100", "take over for 2 s"]


def test_the_lease_follows_from_the_best_backup_heard() -> None:
    m = backup(LEASED, priority=200)
    m.at(1, advert(100))
    assert m.until(5)[0][1][:2] == ["advert 200", "take over for 3 s"]


def test_adverts_of_an_interval_of_zero_teach_nothing() -> None:
    m = backup()
    m.at(1, advert(200, HIGHER, interval_s=0.0))
    assert m.machine.master_interval == Duration(S)


def test_the_reason_kinds_are_of_the_vocabulary() -> None:
    m = backup()
    m.until(4)
    assert m.machine.reason is not None
    assert m.machine.reason.kind is ReasonKind.PEER_SILENT


def _tracked(name: str, weight: int = 0, reverse: bool = False) -> object:
    from holdfast.actors.vrrp.config import Tracked

    return Tracked(name=name, weight=weight, reverse=reverse)


def _tracks(**kinds: object) -> object:
    from holdfast.actors.vrrp.config import Tracks

    return Tracks(**kinds)  # type: ignore[arg-type]
