"""Conversations with the machine of a virtual server."""

from __future__ import annotations

import errno
import random
from typing import Any

import msgspec
import pytest
from pools import VS, Player, real, sorry, virtual

from holdfast.actors.ipvs.config import VirtualServer
from holdfast.actors.ipvs.facts import (
    CheckForgotten,
    ConnectionsCounted,
    CountConnections,
    DrainAsked,
    Forget,
    Former,
    FormerServer,
    OrderRefused,
    Publish,
    Put,
    Reconfigured,
    Removed,
    RemoveServices,
    Settle,
    Stopped,
)
from holdfast.actors.runtime.machine import Action, Deadline
from holdfast.bus.messages import ReasonKind
from holdfast.config.values import Script

RS1, RS2, RS3 = (f"[10.0.1.{i}]:tcp:80" for i in (1, 2, 3))


def test_without_alpha_servers_serve_before_their_first_check() -> None:
    player = Player(virtual(real(1), real(2)))
    player.start()
    assert player.pool == {"10.0.1.1": 1, "10.0.1.2": 1}
    assert player.lines == [f"Gained quorum 1+0=1 <= 2 for VS {VS}"]
    assert player.fifo == [f"VS {VS} UP"]
    assert [event.announce for event in player.servers] == [False, False]


def test_rs_init_notifies_tells_of_servers_that_are_simply_up() -> None:
    player = Player(virtual(real(1), real(2, alpha=True)), rs_init_notifies=True)
    player.start()
    assert player.fifo == [f"RS {RS1} {VS} UP", f"VS {VS} UP"]


def test_alpha_servers_wait_for_their_first_success() -> None:
    player = Player(virtual(real(1, alpha=True)))
    player.start()
    assert player.pool == {}
    assert player.fifo == []
    player.check(1, 1, True)
    assert player.pool == {"10.0.1.1": 1}
    assert player.fifo == [f"RS {RS1} {VS} UP", f"VS {VS} UP"]


def test_alpha_confirmed_down_is_announced_once() -> None:
    player = Player(virtual(real(1, alpha=True)))
    player.start()
    player.check(1, 1, False)
    assert player.fifo == [f"RS {RS1} {VS} DOWN"]
    assert player.check(2, 1, False) == []


def test_first_success_without_alpha_says_nothing() -> None:
    player = Player(virtual(real(1)))
    player.start()
    assert player.check(1, 1, True) == []


def test_a_server_dies_and_comes_back() -> None:
    player = Player(virtual(real(1, weight=3), real(2)))
    player.start()
    player.check(1, 1, False)
    assert player.pool == {"10.0.1.2": 1}
    assert player.lines == [f"Removing service {RS1} from VS {VS}"]
    assert player.fifo == [f"RS {RS1} {VS} DOWN"]
    player.check(2, 1, True)
    assert player.pool == {"10.0.1.1": 3, "10.0.1.2": 1}
    assert player.lines == [f"Adding service {RS1} to VS {VS}"]
    assert player.fifo == [f"RS {RS1} {VS} UP"]


def test_all_checks_must_succeed() -> None:
    player = Player(virtual(real(1, checks=2), real(2)))
    player.start()
    player.check(1, 1, False, slot=1)
    assert player.pool == {"10.0.1.2": 1}
    player.check(2, 1, False, slot=0)
    assert player.fifo == []
    assert player.servers[0].failed_checks == (f"TCP_CHECK-0@{RS1}@{VS}", f"TCP_CHECK-1@{RS1}@{VS}")
    player.check(3, 1, True, slot=1)
    assert player.pool == {"10.0.1.2": 1}
    player.check(4, 1, True, slot=0)
    assert player.fifo == [f"RS {RS1} {VS} UP"]


def test_last_server_gone_is_a_lost_quorum_in_this_order() -> None:
    player = Player(virtual(real(1)))
    player.start()
    player.check(1, 1, False)
    assert player.fifo == [f"RS {RS1} {VS} DOWN", f"VS {VS} DOWN"]
    assert player.lines == [f"Removing service {RS1} from VS {VS}", f"Lost quorum 1-0=1 > 0 for VS {VS}"]
    player.check(2, 1, True)
    assert player.fifo == [f"RS {RS1} {VS} UP", f"VS {VS} UP"]


def test_without_a_sorry_server_a_lost_quorum_leaves_the_pool_alone() -> None:
    player = Player(virtual(*(real(i) for i in range(1, 5)), quorum=3))
    player.start()
    player.check(1, 1, False)
    player.check(2, 2, False)
    assert player.fifo == [f"RS {RS2} {VS} DOWN", f"VS {VS} DOWN"]
    assert player.pool == {"10.0.1.3": 1, "10.0.1.4": 1}


def test_hysteresis_is_wide_on_both_sides() -> None:
    # The sample of the manual: 10 servers, quorum 7, hysteresis 2: up from 9, down below 5.
    player = Player(virtual(*(real(i, alpha=True) for i in range(1, 11)), quorum=7, hysteresis=2))
    player.start()
    for number in range(1, 9):
        player.check(1, number, True)
        assert player.services == []
    player.check(1, 9, True)
    assert player.fifo[-1] == f"VS {VS} UP"
    for number in range(1, 5):
        player.check(2, number, False)
        assert player.services == []
    player.check(2, 5, False)
    assert player.fifo[-1] == f"VS {VS} DOWN"
    for number in range(1, 5):
        player.check(3, number, True)
        assert player.services == []
    player.check(3, 5, True)
    assert player.fifo[-1] == f"VS {VS} UP"


def test_the_sorry_server_serves_for_all() -> None:
    player = Player(virtual(real(1), real(2), real(3), quorum=2, sorry_server=sorry()))
    player.start()
    assert player.pool == {"10.0.1.1": 1, "10.0.1.2": 1, "10.0.1.3": 1}
    player.check(1, 1, False)
    player.check(2, 2, False)
    assert player.pool == {"10.0.2.1": 1}
    assert player.lines[-2:] == [
        f"Adding sorry server [10.0.2.1]:tcp:80 to VS {VS}",
        f"Removing alive servers from the pool for VS {VS}",
    ]
    # Booked, told, not sent.
    player.check(3, 3, False)
    assert player.pool == {"10.0.2.1": 1}
    assert player.fifo == [f"RS {RS3} {VS} DOWN"]
    player.check(4, 3, True)
    assert player.pool == {"10.0.2.1": 1}
    player.check(5, 1, True)
    assert player.pool == {"10.0.1.1": 1, "10.0.1.3": 1}
    assert player.fifo == [f"RS {RS1} {VS} UP", f"VS {VS} UP"]


def test_down_from_the_start_with_a_sorry_server_is_told() -> None:
    player = Player(virtual(real(1, alpha=True), sorry_server=sorry()))
    player.start()
    assert player.pool == {"10.0.2.1": 1}
    assert player.fifo == [f"VS {VS} DOWN"]
    assert player.lines[0] == f"Starting with quorum down 1-0=1 > 0 for VS {VS}"
    assert player.services[0].starting


def test_quorum_zero_is_never_gained() -> None:
    player = Player(virtual(real(1, weight=0), quorum=0, sorry_server=sorry()))
    player.start()
    assert player.pool == {"10.0.2.1": 1}


def test_an_inhibited_sorry_server_rests_at_weight_0() -> None:
    player = Player(virtual(real(1), sorry_server=sorry(inhibit=True)))
    player.start()
    assert player.pool == {"10.0.1.1": 1, "10.0.2.1": 0}
    player.check(1, 1, False)
    assert player.pool == {"10.0.2.1": 1}
    player.check(2, 1, True)
    assert player.pool == {"10.0.1.1": 1, "10.0.2.1": 0}


def test_inhibit_keeps_a_failed_server_at_weight_0() -> None:
    player = Player(virtual(real(1, weight=5, inhibit_on_failure=True), real(2)))
    player.start()
    player.check(1, 1, False)
    assert player.pool == {"10.0.1.1": 0, "10.0.1.2": 1}
    assert player.lines == [f"Disabling service {RS1} of VS {VS}"]
    assert player.servers[0].inhibited
    player.check(2, 1, True)
    assert player.pool == {"10.0.1.1": 5, "10.0.1.2": 1}


def test_alpha_with_inhibit_starts_at_weight_0() -> None:
    player = Player(virtual(real(1, alpha=True, inhibit_on_failure=True)))
    player.start()
    assert player.pool == {"10.0.1.1": 0}


def test_inhibited_servers_stay_at_weight_0_while_the_sorry_server_serves() -> None:
    player = Player(
        virtual(real(1, inhibit_on_failure=True), real(2, inhibit_on_failure=True), quorum=2, sorry_server=sorry())
    )
    player.start()
    player.check(1, 1, False)
    assert player.pool == {"10.0.1.1": 0, "10.0.1.2": 0, "10.0.2.1": 1}


@pytest.mark.parametrize("inhibit", [False, True])
def test_the_sorry_server_may_be_one_of_the_real_servers(inhibit: bool) -> None:
    same = msgspec.structs.replace(sorry(), address="10.0.1.2", name=RS2)
    player = Player(virtual(real(1), real(2, weight=4, inhibit_on_failure=inhibit), quorum=5, sorry_server=same))
    player.start()
    assert player.pool == {"10.0.1.1": 1, "10.0.1.2": 4}
    player.check(1, 1, False)
    assert player.pool == {"10.0.1.2": 1}
    player.check(2, 2, False)
    assert player.pool == {"10.0.1.2": 1}
    player.check(3, 1, True)
    player.check(4, 2, True)
    assert player.pool == {"10.0.1.1": 1, "10.0.1.2": 4}


def test_dynamic_weight_counts_for_the_quorum() -> None:
    player = Player(virtual(real(1, weight=10, kind="MISC_CHECK"), quorum=5))
    player.start()
    player.check(1, 1, True, weight=3)
    assert player.pool == {"10.0.1.1": 3}
    assert player.lines[0] == f"Changing weight from 10 to 3 for active service {RS1} of VS {VS}"
    assert player.fifo == [f"VS {VS} DOWN"]
    player.check(2, 1, True)
    assert player.pool == {"10.0.1.1": 10}
    assert player.fifo == [f"VS {VS} UP"]


def test_a_files_weight_is_added_and_clamped() -> None:
    player = Player(virtual(real(1, weight=10, kind="FILE_CHECK"), real(2)))
    player.start()
    player.check(1, 1, True, weight_add=7)
    assert player.pool == {"10.0.1.1": 17, "10.0.1.2": 1}
    player.check(2, 1, True, weight_add=-50)
    assert player.pool == {"10.0.1.1": 0, "10.0.1.2": 1}
    assert player.servers[0].effective_weight == -40
    player.check(3, 1, False)
    assert player.services == []
    assert player.servers[0].reason.kind is ReasonKind.FILE_VALUE


def test_events_carry_scripts_reason_and_evidence() -> None:
    config = virtual(
        real(1, notify_down=Script(argv=("/bin/down", "x"))),
        quorum_down=Script(argv=("/bin/quorum-down",)),
    )
    player = Player(config)
    player.start()
    player.check(1, 1, False, text="connection refused", latency_us=1500, attempt=3)
    server, service = player.servers[0], player.services[0]
    assert (server.script, service.script) == (("/bin/down", "x"), ("/bin/quorum-down",))
    assert server.reason.kind is ReasonKind.CHECK_FAILED
    assert server.reason.subject == "check/c"
    assert server.reason.evidence == {
        "check": "TCP_CHECK",
        "text": "connection refused",
        "latency_s": 0.0015,
        "attempts": 3,
    }
    assert service.reason.kind is ReasonKind.QUORUM_LOST
    assert service.reason.evidence["weight_sum"] == 0
    publishes = [action for action in player.actions if isinstance(action, Publish)]
    assert [action.follows for action in publishes] == [False, True]


def test_reload_touches_only_what_changed() -> None:
    player = Player(virtual(real(1), real(2), real(3)))
    player.start()
    player.check(1, 2, False)
    new = virtual(real(1, weight=4), real(2), real(4))
    player.at(2, Reconfigured(new))
    assert player.pool == {"10.0.1.1": 4, "10.0.1.4": 1}
    assert player.lines == [
        f"service {RS3} no longer exist",
        f"Removing service {RS3} from VS {VS}",
        f"Changing weight from 1 to 4 for active service {RS1} of VS {VS}",
    ]
    # A server that the file no longer has was alive: its down is told; a newcomer says nothing.
    assert player.fifo == [f"RS {RS3} {VS} DOWN"]
    assert Forget(f"rs/{RS3}@{VS}") in player.actions
    player.check(3, 2, True)
    assert player.pool == {"10.0.1.1": 4, "10.0.1.2": 1, "10.0.1.4": 1}


def test_reload_that_takes_the_last_check_away_brings_the_server_up() -> None:
    player = Player(virtual(real(1), real(2)))
    player.start()
    player.check(1, 1, False)
    player.at(2, Reconfigured(virtual(real(1, checks=0), real(2))))
    assert player.pool == {"10.0.1.1": 1, "10.0.1.2": 1}
    assert player.fifo == [f"RS {RS1} {VS} UP"]


def test_reload_that_changes_the_quorum_loses_it() -> None:
    player = Player(virtual(real(1), real(2)))
    player.start()
    player.check(1, 1, False)
    player.at(2, Reconfigured(virtual(real(1), real(2), quorum=2, sorry_server=sorry())))
    assert player.pool == {"10.0.2.1": 1}
    assert player.fifo == [f"VS {VS} DOWN"]
    player.at(3, Reconfigured(virtual(real(1), real(2), quorum=2)))
    assert player.pool == {"10.0.1.2": 1}


def test_a_check_with_new_options_starts_without_a_verdict() -> None:
    player = Player(virtual(real(1), real(2)))
    player.start()
    player.check(1, 1, False)
    player.at(2, CheckForgotten(server=RS1, check=f"TCP_CHECK-0@{RS1}@{VS}"))
    assert player.pool == {"10.0.1.2": 1}
    player.check(3, 1, True)
    assert player.pool == {"10.0.1.1": 1, "10.0.1.2": 1}


def test_removed_by_reload_tells_down_whatever_omega_says() -> None:
    player = Player(virtual(real(1), real(2)))
    player.start()
    player.at(1, Removed())
    assert player.pool is None
    assert player.fifo == [f"RS {RS1} {VS} DOWN", f"RS {RS2} {VS} DOWN", f"VS {VS} DOWN"]
    assert player.actions[-1] == Forget(f"vs/{VS}")
    assert player.lines[0] == f"Removing Virtual Server {VS}"


def test_stop_is_silent_without_omega() -> None:
    player = Player(virtual(real(1), real(2)))
    player.start()
    player.at(1, Stopped())
    assert isinstance(player.actions[0], RemoveServices)
    assert player.fifo == []
    assert player.lines[0] == f"Shutting down service {RS1} from VS {VS}"


def test_stop_with_omega_tells_in_keepalived_s_order() -> None:
    player = Player(virtual(real(1), real(2), real(3), quorum=2, omega=True))
    player.start()
    player.at(1, Stopped())
    assert player.fifo == [f"RS {RS1} {VS} DOWN", f"RS {RS2} {VS} DOWN", f"RS {RS3} {VS} DOWN", f"VS {VS} DOWN"]


def test_stop_with_omega_tells_of_a_quorum_that_was_lost_before() -> None:
    player = Player(virtual(real(1, alpha=True), omega=True))
    player.start()
    player.at(1, Stopped())
    assert player.fifo == [f"VS {VS} DOWN"]


def test_removal_does_not_tell_of_a_quorum_that_was_lost_before() -> None:
    player = Player(virtual(real(1), real(2), quorum=2))
    player.start()
    player.check(1, 2, False)
    player.at(2, Removed())
    assert player.fifo == [f"RS {RS1} {VS} DOWN"]


def test_stop_that_keeps_the_table_does_nothing() -> None:
    player = Player(virtual(real(1), omega=True))
    player.start()
    assert player.at(1, Stopped(keep=True)) == []


def test_restored_after_a_crash_nothing_moves_until_a_check_speaks() -> None:
    config = virtual(real(1), real(2, alpha=True), real(3), quorum=2, sorry_server=sorry())
    former = Former(
        quorum_up=False,
        sorry_active=True,
        panic=False,
        servers={
            RS1: FormerServer(up=False, effective_weight=1, failed_checks=(f"TCP_CHECK-0@{RS1}@{VS}",)),
            RS2: FormerServer(up=True, effective_weight=1),
            RS3: FormerServer(up=False, effective_weight=1, failed_checks=("a check of an older configuration",)),
        },
    )
    player = Player(config, former)
    player.start()
    assert player.pool == {"10.0.2.1": 1}
    assert player.fifo == []
    assert {event.reason.kind for event in player.servers} == {ReasonKind.RESTARTED}
    assert [event.up for event in player.servers] == [False, True, False]
    player.check(1, 2, True)
    assert player.actions == []
    player.check(2, 1, True)
    assert player.pool == {"10.0.1.1": 1, "10.0.1.2": 1}
    assert player.fifo == [f"RS {RS1} {VS} UP", f"VS {VS} UP"]


def test_a_refused_destination_is_not_booked_and_tried_again() -> None:
    player = Player(virtual(real(1), real(2), quorum=2))
    player.start()
    assert player.services[0].up
    player.at(0.1, OrderRefused(server=RS1, text="IPVS add: no memory", errno=errno.ENOMEM))
    assert player.fifo == [f"VS {VS} DOWN"]
    assert not player.servers[0].up
    assert player.machine.deadline == 2_100_000_000
    assert player.at(2, Deadline()) == []
    player.at(2.1, Deadline())
    assert player.pool == {"10.0.1.1": 1, "10.0.1.2": 1}
    assert player.fifo == [f"RS {RS1} {VS} UP", f"VS {VS} UP"]
    assert player.machine.deadline is None


def test_a_refused_server_that_then_fails_is_not_tried_again() -> None:
    player = Player(virtual(real(1), real(2)))
    player.start()
    player.at(0.1, OrderRefused(server=RS1, text="x", errno=errno.ENOMEM))
    player.check(1, 1, False)
    assert player.fifo == []
    player.at(2.1, Deadline())
    assert player.pool == {"10.0.1.2": 1}


def test_drain_by_command_until_no_connection_is_left() -> None:
    player = Player(virtual(real(1), real(2)))
    player.start()
    player.at(1, DrainAsked(server=RS1))
    assert player.pool == {"10.0.1.1": 0, "10.0.1.2": 1}
    assert player.servers[0].draining
    (count,) = player.at(2, Deadline())
    assert isinstance(count, CountConnections)
    assert [name for name, _ in count.servers] == [RS1]
    assert player.at(2.01, ConnectionsCounted(server=RS1, connections=3)) == []
    player.at(3, Deadline())
    player.at(3.01, ConnectionsCounted(server=RS1, connections=0))
    assert player.pool == {"10.0.1.2": 1}
    # Checks go on, and do not bring it back.
    player.check(4, 1, False)
    player.check(5, 1, True)
    assert player.pool == {"10.0.1.2": 1}
    player.at(6, Deadline())
    assert player.machine.deadline is None
    player.at(7, DrainAsked(server=RS1, undo=True))
    assert player.pool == {"10.0.1.1": 1, "10.0.1.2": 1}


def test_drain_ends_at_its_time_limit() -> None:
    player = Player(virtual(real(1), real(2)))
    player.start()
    player.at(1, DrainAsked(server=RS1, timeout_s=5))
    player.at(5.9, ConnectionsCounted(server=RS1, connections=9))
    assert player.pool == {"10.0.1.1": 0, "10.0.1.2": 1}
    player.at(6, ConnectionsCounted(server=RS1, connections=9))
    assert player.pool == {"10.0.1.2": 1}


def test_drain_without_removal_stays_at_weight_0() -> None:
    player = Player(virtual(real(1), real(2)))
    player.start()
    player.at(1, DrainAsked(server=RS1, remove=False))
    assert player.machine.deadline is None
    assert player.pool == {"10.0.1.1": 0, "10.0.1.2": 1}


def test_draining_the_last_server_loses_the_quorum_and_the_sorry_server_comes() -> None:
    player = Player(virtual(real(1), sorry_server=sorry()))
    player.start()
    player.at(1, DrainAsked(server=RS1, remove=False))
    assert player.pool == {"10.0.2.1": 1}


def test_a_server_that_a_reload_removes_drains_when_configured() -> None:
    player = Player(virtual(real(1), real(2)), drain_timeout_s=30)
    player.start()
    player.at(1, Reconfigured(virtual(real(2))))
    assert player.pool == {"10.0.1.1": 0, "10.0.1.2": 1}
    assert player.fifo == [f"RS {RS1} {VS} DOWN"]
    player.at(2, Deadline())
    player.at(2.1, ConnectionsCounted(server=RS1, connections=0))
    assert player.pool == {"10.0.1.2": 1}
    assert player.actions[-1] == Forget(f"rs/{RS1}@{VS}")


def test_a_draining_server_that_comes_back_by_reload_serves_again() -> None:
    player = Player(virtual(real(1), real(2)), drain_timeout_s=30)
    player.start()
    player.at(1, Reconfigured(virtual(real(2))))
    player.at(2, Reconfigured(virtual(real(1), real(2))))
    assert player.pool == {"10.0.1.1": 1, "10.0.1.2": 1}


def test_panic_keeps_the_pool_when_too_many_fail_at_once() -> None:
    player = Player(virtual(*(real(i) for i in range(1, 5))), panic_threshold=0.5)
    player.start()
    player.check(1, 1, False)
    player.check(1.1, 2, False)
    assert player.pool == {"10.0.1.3": 1, "10.0.1.4": 1}
    player.check(1.2, 3, False)
    assert player.pool == {f"10.0.1.{i}": 1 for i in range(1, 5)}
    assert player.services[0].panic
    assert "3 of 4 servers" in player.lines[0]
    player.check(1.3, 4, False)
    assert player.pool == {f"10.0.1.{i}": 1 for i in range(1, 5)}
    assert player.machine.quorum_up
    player.check(5, 1, True)
    assert player.services == []
    # Half of them are back: two of four is not more than half.
    player.check(6, 2, True)
    assert player.pool == {"10.0.1.1": 1, "10.0.1.2": 1}
    assert not player.services[-1].panic


def test_no_panic_for_servers_that_die_one_after_the_other() -> None:
    player = Player(virtual(*(real(i) for i in range(1, 5))), panic_threshold=0.5)
    player.start()
    for number in range(1, 4):
        player.check(100.0 * number, number, False)
    assert player.pool == {"10.0.1.4": 1}


def test_reports_for_servers_and_checks_that_are_not_there_say_nothing() -> None:
    player = Player(virtual(real(1)))
    player.start()
    assert player.check(1, 9, False) == []
    assert player.check(1, 1, False, slot=5) == []


def test_start_settles_before_the_world_is_told() -> None:
    player = Player(virtual(real(1)))
    player.start()
    kinds = [type(action).__name__ for action in player.actions]
    assert kinds == ["Log", "Settle", "Publish", "Publish"]
    assert not any(isinstance(action, Put) for action in player.actions)
    assert isinstance(player.actions[1], Settle)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_orders_and_wishes_agree(seed: int) -> None:
    """Random checks, weights, drains and reloads; Player asserts after each step that orders led to the wish."""
    chance = random.Random(seed)

    def config() -> object:
        servers = [
            real(
                i,
                weight=chance.choice((0, 1, 5)),
                alpha=chance.random() < 0.3,
                inhibit_on_failure=chance.random() < 0.3,
            )
            for i in range(1, 8)
            if chance.random() < 0.8
        ]
        guard = sorry(inhibit=chance.random() < 0.3) if chance.random() < 0.5 else None
        if guard is not None and chance.random() < 0.4:
            guard = msgspec.structs.replace(guard, address=f"10.0.1.{chance.randint(1, 7)}")
        quorum = chance.randint(1, 8)
        return virtual(*servers, quorum=quorum, hysteresis=chance.randint(0, quorum - 1), sorry_server=guard)

    player = Player(
        config(),  # type: ignore[arg-type]
        panic_threshold=chance.choice((0.0, 0.5)),
        drain_timeout_s=chance.choice((0.0, 3.0)),
    )
    player.start()
    for step in range(200):
        number = chance.randint(1, 7)
        name = f"[10.0.1.{number}]:tcp:80"
        match chance.randint(0, 9):
            case 0:
                player.at(step, Reconfigured(config()))  # type: ignore[arg-type]
            case 1:
                player.at(step, DrainAsked(server=name, undo=chance.random() < 0.5, timeout_s=2))
            case 2:
                player.at(step, ConnectionsCounted(server=name, connections=chance.randint(0, 1)))
            case 3:
                player.at(step, Deadline())
            case _:
                player.check(step, number, chance.random() < 0.6, weight_add=chance.choice((0, 0, 0, -3, 4)))
        alive = [server for server in player.machine.servers.values() if server.counts and not server.leaving]
        if not alive and player.machine.config.sorry_server is not None:
            assert player.machine.sorry_active
    player.at(1000, Removed())
    assert player.pool is None


def _many(first: int, count: int, **more: Any) -> VirtualServer:
    return virtual(*(real(number, **more) for number in range(first, first + count)))


def _told(steps: list[list[Action]]) -> list[str]:
    """The subjects of events, in order, without the common part."""
    told = [action.subject for step in steps for action in step if isinstance(action, Publish)]
    return [subject.partition("@")[0].removeprefix("rs/") for subject in told]


def test_a_large_service_starts_in_several_steps_and_tells_in_order() -> None:
    player = Player(_many(1, 1000))
    steps = [player.start()]
    assert sum(isinstance(action, Settle) for action in steps[0]) == 1, "the kernel comes first"
    # A check that fails meanwhile is heard after all of the start was told.
    assert player.check(0, 7, False) == []
    steps += player.finish(0)
    assert len(steps) > 3
    assert max(map(len, steps)) <= 300
    names = [f"[10.0.1.{number}]:tcp:80" for number in range(1, 1001)]
    assert _told(steps) == [*names, f"vs/{VS}", names[6]]
    assert player.pool is not None
    assert "10.0.1.7" not in player.pool
    assert len(player.pool) == 999


def test_a_large_reload_takes_several_steps_with_the_effects_of_one() -> None:
    player = Player(_many(1, 600))
    player.start()
    player.finish(0)
    steps = [player.at(1, Reconfigured(_many(301, 600)))]
    steps += player.finish(1)
    assert len(steps) > 3
    assert max(map(len, steps)) <= 300
    gone = [f"[10.0.1.{number}]:tcp:80" for number in range(1, 301)]
    new = [f"[10.0.1.{number}]:tcp:80" for number in range(601, 901)]
    assert _told(steps) == [*gone, *new, f"vs/{VS}"]
    assert player.pool == {f"10.0.1.{number}": 1 for number in range(301, 901)}


def test_a_stop_in_the_middle_of_a_large_start_is_a_whole_stop() -> None:
    player = Player(_many(1, 1000))
    player.start()
    assert player.machine.busy
    actions = player.at(0, Stopped())
    assert any(isinstance(action, RemoveServices) for action in actions)
    assert player.machine.deadline is None
    assert player.pool is None
