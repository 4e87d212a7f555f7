"""Where an address must not move, or must not stay: stalls, leases, what others remove, crashes of the cell."""

from __future__ import annotations

import pytest
from play import instant
from vrrp_words import CAUSE, HIGHER, LEASED, LOWER, OURS, PLAIN, advert, changed, evidence, fresh, logs, master, reason

from holdfast.actors.runtime.machine import Deadline, Duration, Instant, S, seconds
from holdfast.actors.vrrp.config import GarpTiming, Tracked, Tracks
from holdfast.actors.vrrp.facts import (
    AddressFailed,
    AdvertFailed,
    Holding,
    HoldingLost,
    LeaseLost,
    LinkChanged,
    Restored,
    SourceChanged,
    Stalled,
    TrackerKind,
    TrackerReported,
)
from holdfast.actors.vrrp.messages import VrrpState
from holdfast.actors.vrrp.options import LeaseMode, MachineOptions, MissingPolicy
from holdfast.actors.vrrp.timing import lease_seconds, takeover_limit
from holdfast.bus.messages import ReasonKind

QUIET = GarpTiming(master_delay_us=0)
SUBJECT = "address/10.0.0.1@eth0"
ROUTE = "route/default"


# ---- stalls


def test_a_master_that_slept_too_long_is_backup_without_a_word() -> None:
    """The best backup (254 unless one was heard) has taken over 3.008 s after our last advert."""
    m = master(garp=QUIET)
    start = m.now / S
    assert m.at(start + 3.0078125, Deadline()) == ["let go", "BACKUP: stalled"]
    assert evidence(m) == {"silent_s": 3.007812, "limit_s": 3.007812, "interval_s": 1.0}
    assert m.due == pytest.approx(start + 3.0078125 + 3.609375)


def test_a_master_that_slept_less_goes_on() -> None:
    m = master(garp=QUIET)
    start = m.now / S
    assert m.at(start + 3.0, Deadline()) == ["advert 100"]


def test_the_best_backup_heard_sets_the_limit() -> None:
    m = master(garp=QUIET, priority=200, heard=100)
    start = m.now / S
    assert m.at(start + 3.6, Deadline()) == ["advert 200"]
    assert m.at(start + 3.6 + 3.609375, Deadline()) == ["let go", "BACKUP: stalled"]


def test_timer_expired_backup_configures_the_best_backup() -> None:
    m = master(garp=QUIET, nopreempt=True, timer_expired_backup=50)
    start = m.now / S
    assert m.at(start + 3.8, Deadline()) == ["advert 100"]


def test_what_waited_is_heard_as_backup_not_answered_as_master() -> None:
    m = master(garp=QUIET, priority=200)
    start = m.now / S
    told = m.at(start + 8, advert(100, LOWER))
    assert told == ["let go", "BACKUP: stalled"]
    assert m.machine.state == "BACKUP"
    assert m.until(start + 12)[0][1][-1] == "MASTER: peer-lower-priority"


def test_the_shell_s_stall_says_why() -> None:
    m = master(garp=QUIET)
    start = m.now / S
    fact = Stalled(seconds(8.0), evidence={"cgroup_throttled_s": 7.9}, causes=(CAUSE,))
    assert m.at(start + 8, fact) == ["let go", "BACKUP: stalled"]
    assert evidence(m)["cgroup_throttled_s"] == 7.9
    assert evidence(m)["stood_still_s"] == 8.0


def test_a_short_stall_is_told_and_moves_nothing() -> None:
    m = master(garp=QUIET)
    start = m.now / S
    assert m.at(start + 1.5, Stalled(seconds(1.2))) == ["trouble: stalled"]
    assert m.say(Deadline()) == ["advert 100"]
    assert m.machine.statistics.stalls == 1


def test_suspend_is_time_that_the_clock_does_not_show() -> None:
    m = master(garp=QUIET)
    start = m.now / S
    assert m.at(start + 0.5, Stalled(seconds(60), unseen=seconds(60))) == ["let go", "BACKUP: stalled"]
    m = master(garp=QUIET)
    start = m.now / S
    assert m.at(start + 0.5, Stalled(seconds(2), unseen=seconds(2))) == ["trouble: stalled"]
    assert m.say(Deadline()) == ["advert 100"]


def test_a_backup_that_was_suspended_listens_anew() -> None:
    m = fresh()
    from holdfast.actors.vrrp.facts import Start

    m.at(0, Start())
    m.at(1, advert(200, HIGHER))
    m.at(4, Stalled(seconds(100), unseen=seconds(100)))
    assert m.due == 4 + 3.609375
    m.at(5, Stalled(seconds(1)))
    assert m.due == 4 + 3.609375


def test_a_master_that_nobody_can_hear_is_backup_in_time() -> None:
    """Its adverts do not leave, so its leases are not refreshed either, and a backup takes over."""
    m = master(garp=QUIET)
    start = m.now / S
    tries = 0
    m.until(start + 0.999)
    while m.machine.state == "MASTER":
        assert m.due is not None
        told = m.at(m.due, Deadline())
        if told == ["advert 100"]:
            tries += 1
            assert m.say(AdvertFailed(1, "operation not permitted")) == (["trouble: stalled"] if tries == 1 else [])
    assert told == ["let go", "BACKUP: stalled"]
    assert m.now == pytest.approx((start + 3.0078125) * S)
    assert tries == 9
    assert m.machine.statistics.advert_sent == 1


def test_the_first_advert_may_fail_too() -> None:
    m = master(garp=QUIET)
    start = m.now / S
    assert m.say(AdvertFailed(105, "no buffers")) == ["trouble: stalled"]
    assert m.until(start + 0.5) == [(round(start + 0.25, 6), ["advert 100"])]
    m = fresh(garp=QUIET)
    m.at(100, restored(silent_s=0.5))
    m.say(AdvertFailed(105, "no buffers"))
    assert m.until(100.3) == [(100.25, ["advert 100"])]


def test_one_advert_that_fails_is_tried_again_soon_and_moves_nothing() -> None:
    m = master(LEASED, garp=QUIET)
    start = m.now / S
    assert m.at(start + 1, Deadline()) == ["advert 100", "refresh for 2 s"]
    assert m.say(AdvertFailed(105, "no buffers")) == ["trouble: stalled"]
    assert m.until(start + 1.5) == [(round(start + 1.25, 6), ["advert 100", "refresh for 2 s"])]


# ---- leases


@pytest.mark.parametrize(
    ("best", "interval_s", "lease_s"),
    [(254, 1.0, 2), (100, 1.0, 3), (154, 1.0, 3), (254, 0.1, 2), (254, 10.0, 29), (1, 1.0, 3), (254, 2.0, 5)],
)
def test_a_lease_ends_before_the_best_backup_takes_over(best: int, interval_s: float, lease_s: int) -> None:
    limit = takeover_limit(3, best, seconds(interval_s))
    assert lease_seconds(LEASED, limit) == lease_s
    if interval_s >= 1:
        assert lease_s * S + S // 10 <= limit


def test_down_timer_adverts_above_three_do_not_lengthen_the_lease() -> None:
    assert takeover_limit(3, 100, seconds(1), 10) == takeover_limit(3, 100, seconds(1), 3)
    assert takeover_limit(3, 100, seconds(1), 2) < takeover_limit(3, 100, seconds(1), 3)


def test_the_lease_can_be_fixed_or_off() -> None:
    assert lease_seconds(MachineOptions(lease=LeaseMode.FIXED, lease_s=7), Duration(S)) == 7
    assert lease_seconds(PLAIN, Duration(S)) is None
    m = master(garp=QUIET)
    assert all(told == ["advert 100"] for _, told in m.until(m.now / S + 5))


def test_a_lease_that_a_reload_switches_on_is_refreshed() -> None:
    m = master(PLAIN, garp=QUIET)
    start = m.now / S
    assert m.at(start + 0.5, changed(m, LEASED)) == ["reconcile"]
    assert m.until(start + 2) == [
        (round(start + 1, 6), ["advert 100"]),
        (round(start + 2, 6), ["advert 100", "refresh for 2 s"]),
    ]
    m.say(changed(m, PLAIN))
    assert m.until(start + 3) == [(round(start + 3, 6), ["advert 100"])]


def test_a_lost_lease_comes_back_when_nobody_can_have_taken_over() -> None:
    m = master(LEASED, garp=QUIET)
    start = m.now / S
    assert m.at(start + 2.1, LeaseLost((SUBJECT,))) == [f"restore address {SUBJECT}", "trouble: lease-expired"]
    assert m.machine.state == "MASTER"


def test_a_lost_lease_after_the_limit_is_backup() -> None:
    m = master(LEASED, garp=QUIET)
    start = m.now / S
    assert m.at(start + 3.1, LeaseLost((SUBJECT,), (CAUSE,))) == ["let go", "BACKUP: lease-expired"]
    assert evidence(m) == {"lease_s": 2, "silent_s": 3.1, "limit_s": 3.007812}


def test_the_machine_knows_an_expired_lease_from_a_removal() -> None:
    m = master(LEASED, garp=QUIET)
    start = m.now / S
    assert m.at(start + 1.5, HoldingLost(Holding.ADDRESS, SUBJECT)) == [
        f"restore address {SUBJECT}",
        "trouble: address-missing",
    ]
    assert m.at(start + 1.6, LeaseLost((SUBJECT,)))[1] == "trouble: address-missing"
    assert m.at(start + 2.05, HoldingLost(Holding.ADDRESS, SUBJECT))[1] == "trouble: lease-expired"


def test_a_backup_has_no_lease_to_lose() -> None:
    from vrrp_words import backup

    m = backup(LEASED)
    assert m.at(1, LeaseLost((SUBJECT,))) == []
    assert m.at(1, HoldingLost(Holding.ADDRESS, SUBJECT)) == []
    assert m.at(1, AddressFailed(SUBJECT, "add", 1)) == []


# ---- what others remove


@pytest.mark.parametrize(("kind", "subject"), [(Holding.ADDRESS, SUBJECT), (Holding.ROUTE, ROUTE)])
def test_what_somebody_removes_is_put_back_without_a_transition(kind: Holding, subject: str) -> None:
    m = master(garp=QUIET)
    told = m.at(m.now / S + 0.5, HoldingLost(kind, subject, "ip", (CAUSE,)))
    assert told == [f"restore {kind.value} {subject}", "trouble: address-missing"]
    assert evidence(m) == {"put_back": True, "losses": 1, "fight": False, "by": "ip"}
    assert logs(m) == [f"(VI_1) {subject} was removed by ip: put back"]
    assert m.machine.state == "MASTER"


def test_keepalived_s_way_resigns_and_retries_after_its_skew() -> None:
    """Surprise 13."""
    options = MachineOptions(node="lb1", lease=LeaseMode.OFF, missing=MissingPolicy.RESIGN)
    m = master(options)
    start = m.now / S
    assert m.at(start + 0.5, HoldingLost(Holding.ADDRESS, SUBJECT)) == ["advert 0", "let go", "BACKUP: address-missing"]
    assert m.due == pytest.approx(start + 0.5 + 156 / 256)
    assert m.until(start + 2)[0][1][0] == "advert 100"


def test_a_fight_is_named_and_slowed_down() -> None:
    m = master(garp=QUIET)
    start = m.now / S
    for n in range(5):
        assert m.at(start + n / 100, HoldingLost(Holding.ADDRESS, SUBJECT, "NetworkManager"))[0].startswith("restore")
    assert m.at(start + 0.05, HoldingLost(Holding.ADDRESS, SUBJECT, "NetworkManager")) == ["trouble: address-missing"]
    assert evidence(m)["fight"] is True
    assert m.until(start + 1.01) == [
        (round(start + 0.15, 6), [f"restore address {SUBJECT}"]),
        (round(start + 1, 6), ["advert 100"]),
    ]
    for n in range(9):
        m.at(start + 1.02 + n / 1000, HoldingLost(Holding.ADDRESS, SUBJECT, "NetworkManager"))
    m.until(start + 1.5)
    m.at(start + 1.6, HoldingLost(Holding.ADDRESS, SUBJECT, "NetworkManager"))
    restores = [at for at, lines in m.until(start + 2.7) if f"restore address {SUBJECT}" in lines]
    assert restores == [round(start + 2.6, 6)], "the sixteenth loss waits a second"
    m.until(start + 20)
    assert m.say(HoldingLost(Holding.ADDRESS, SUBJECT))[0].startswith("restore")


def test_a_refused_kernel_call_is_told_and_tried_again() -> None:
    m = master(garp=QUIET)
    start = m.now / S
    assert m.at(start + 0.1, AddressFailed(SUBJECT, "add address", 105, "no buffers")) == ["trouble: address-missing"]
    assert evidence(m) == {"operation": "add address", "errno": 105, "text": "no buffers", "retry_s": 1.0}
    assert (round(start + 1.1, 6), [f"restore address {SUBJECT}"]) in m.until(start + 1.5)
    m.at(start + 1.6, AddressFailed(SUBJECT, "add address", 105))
    assert (round(start + 3.6, 6), [f"restore address {SUBJECT}"]) in m.until(start + 4)


# ---- the cell died


def restored(state: VrrpState = VrrpState.MASTER, silent_s: float | None = 0.3, **fields: object) -> Restored:
    silent = None if silent_s is None else instant(100 - silent_s)
    usual: dict[str, object] = {
        "state": state,
        "since": Instant(5),
        "reason": reason(ReasonKind.PEER_SILENT),
        "priority": 100,
        "silent_since": silent,
    }
    return Restored(**{**usual, **fields})  # type: ignore[arg-type]


def test_a_restored_master_goes_on_and_nobody_notices() -> None:
    m = fresh(LEASED, garp=QUIET)
    told = m.at(100, restored())
    assert told == ["advert 100", "refresh for 2 s", "reconcile", "still MASTER: peer-silent", "trouble: restarted"]
    assert m.machine.since == 5
    assert m.machine.master == OURS
    assert m.due == 101
    assert m.machine.statistics.become_master == 0


def test_a_master_restored_too_late_is_backup_without_a_word() -> None:
    m = fresh(LEASED, garp=QUIET)
    assert m.at(100, restored(silent_s=3.1)) == ["let go", "BACKUP: restarted"]
    assert evidence(m) == {"was": "MASTER", "limit_s": 3.007812, "silent_s": 3.1}
    m = fresh(LEASED, garp=QUIET)
    assert m.at(100, restored(silent_s=None)) == ["let go", "BACKUP: restarted"]


def test_a_restored_backup_keeps_its_master() -> None:
    m = fresh()
    fact = restored(VrrpState.BACKUP, None, master=HIGHER, master_priority=200, master_interval=Duration(2 * S))
    assert m.at(100, fact) == ["let go of leftovers", "still BACKUP: peer-silent"]
    assert (m.machine.master, m.machine.master_priority) == (HIGHER, 200)
    assert m.due == pytest.approx(100 + 6 + 2 * 156 / 256)


def test_a_restored_master_whose_link_is_down_is_in_fault() -> None:
    m = fresh(garp=QUIET)
    m.at(0, LinkChanged("eth0", up=False))
    assert m.at(100, restored()) == ["advert 0", "advert 0", "let go", "FAULT: link-down"]


def test_a_restored_fault_is_worked_out_again() -> None:
    m = fresh()
    assert m.at(100, restored(VrrpState.FAULT)) == ["let go of leftovers", "BACKUP: restarted"]
    m = fresh()
    m.at(0, SourceChanged(None))
    assert m.at(100, restored(VrrpState.FAULT)) == ["let go of leftovers", "FAULT: address-missing"]


def test_the_priority_of_the_former_life_counts_until_the_trackers_report() -> None:
    scripts = Tracks(scripts=(Tracked(name="a", weight=-30), Tracked(name="b", weight=0)))
    m = fresh(garp=QUIET, tracks=scripts)
    assert m.at(100, restored(priority=70))[0] == "advert 70"
    assert m.at(100.2, TrackerReported(TrackerKind.SCRIPT, "b", up=True)) == []
    assert m.at(100.5, TrackerReported(TrackerKind.SCRIPT, "a", up=False)) == []
    assert m.machine.priority == 70
    m = fresh(garp=QUIET, tracks=scripts)
    m.at(100, restored(priority=70))
    m.at(100.2, TrackerReported(TrackerKind.SCRIPT, "b", up=True))
    assert m.at(100.5, TrackerReported(TrackerKind.SCRIPT, "a", up=True)) == ["priority 100: script-ok"]


def test_a_released_instance_stays_released_over_a_crash() -> None:
    m = fresh()
    m.at(100, restored(VrrpState.BACKUP, None, released=True))
    assert m.machine.released
    assert m.due is None
