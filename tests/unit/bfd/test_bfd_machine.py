"""RFC 5880 section 6, clause by clause. docs/conformance-bfd.md has the table from clause to test.

The session's own discriminator is US, the peer's PEER; instants are seconds after the start.
"""

from __future__ import annotations

import itertools

import pytest
from bfd_play import (
    PEER,
    US,
    Answer,
    Disabled,
    Enabled,
    Reconfigured,
    at,
    config,
    down,
    from_peer,
    ms,
    none_of,
    only,
    sent,
    up,
)

from holdfast.actors.bfd.facts import Cause, Changed, EchoHeard, PathLost, Refreshed, Transmit, TransmitEcho, jittered
from holdfast.actors.bfd.machine import BfdMachine
from holdfast.actors.bfd.packet import Diagnostic, State
from holdfast.actors.runtime.machine import Deadline, Instant

# ------------------------------------------------------------------ 6.1, 6.2: the state machine


def test_6_1_active_sends_before_it_hears() -> None:
    machine = BfdMachine(config(), US)
    order = only(machine.start(at(0)), Transmit)
    assert order.at_once
    assert order.packet is not None
    assert (order.packet.state, order.packet.your_discriminator) == (State.DOWN, 0)


def test_6_1_passive_is_silent_until_it_hears() -> None:
    machine = BfdMachine(config(passive=True), US)
    none_of(machine.start(at(0)), Transmit)
    assert only(machine.step(from_peer(State.DOWN), at(1)), Transmit).at_once


def test_6_1_passive_is_silent_again_when_the_peer_is_forgotten() -> None:
    machine = up(config(passive=True))
    actions = machine.step(Deadline(), at(2))
    assert only(actions, Changed).new is State.DOWN
    assert only(actions, Transmit).packet is None


TABLE = {
    # (ours, received): (new, diagnostic) as section 6.2 draws it and 6.8.6 words it
    (State.DOWN, State.ADMIN_DOWN): (State.DOWN, Diagnostic.NONE),
    (State.DOWN, State.DOWN): (State.INIT, Diagnostic.NONE),
    (State.DOWN, State.INIT): (State.UP, Diagnostic.NONE),
    (State.DOWN, State.UP): (State.DOWN, Diagnostic.NONE),
    (State.INIT, State.ADMIN_DOWN): (State.DOWN, Diagnostic.NEIGHBOR_SIGNALED_DOWN),
    (State.INIT, State.DOWN): (State.INIT, Diagnostic.NONE),
    (State.INIT, State.INIT): (State.UP, Diagnostic.NONE),
    (State.INIT, State.UP): (State.UP, Diagnostic.NONE),
    (State.UP, State.ADMIN_DOWN): (State.DOWN, Diagnostic.NEIGHBOR_SIGNALED_DOWN),
    (State.UP, State.DOWN): (State.DOWN, Diagnostic.NEIGHBOR_SIGNALED_DOWN),
    (State.UP, State.INIT): (State.UP, Diagnostic.NONE),
    (State.UP, State.UP): (State.UP, Diagnostic.NONE),
    **{(State.ADMIN_DOWN, heard): (State.ADMIN_DOWN, Diagnostic.ADMINISTRATIVELY_DOWN) for heard in State},
}


def in_state(state: State) -> BfdMachine:
    if state is State.UP:
        return up()
    machine = down()
    if state is State.INIT:
        machine.step(from_peer(State.DOWN), at(0.5))
    elif state is State.ADMIN_DOWN:
        machine.step(Disabled(), at(0.5))
    assert machine.state is state
    return machine


@pytest.mark.parametrize(("ours", "heard"), list(itertools.product(State, State)))
def test_6_2_6_8_6_state_table(ours: State, heard: State) -> None:
    machine = in_state(ours)
    new, diagnostic = TABLE[ours, heard]
    actions = machine.step(from_peer(heard), at(2))
    assert (machine.state, machine.local_diagnostic) == (new, diagnostic)
    if new is ours:
        none_of(actions, Changed)
    else:
        assert (only(actions, Changed).old, only(actions, Changed).new) == (ours, new)


def test_6_2_every_change_is_told_to_the_peer_at_once() -> None:
    machine = down()
    for heard, expected in ((State.DOWN, State.INIT), (State.INIT, State.UP), (State.DOWN, State.DOWN)):
        order = only(machine.step(from_peer(heard), at(1)), Transmit)
        assert order.at_once
        assert order.packet is not None
        assert order.packet.state is expected


def test_6_2_init_times_out_too() -> None:
    machine = in_state(State.INIT)
    changed = only(machine.step(Deadline(), at(4)), Changed)
    assert (changed.new, changed.cause) == (State.DOWN, Cause.SILENT)


def test_6_2_init_is_extended_by_packets() -> None:
    machine = in_state(State.INIT)
    machine.step(from_peer(State.DOWN), at(0.6))
    assert machine.step(Deadline(), at(0.74)) == []
    assert machine.state is State.INIT


# ------------------------------------------------------------------ 6.3: discriminators


def test_6_3_the_peer_number_is_echoed_from_the_first_packet_on() -> None:
    machine = down()
    order = only(machine.step(from_peer(State.DOWN), at(1)), Transmit)
    assert order.packet is not None
    assert (order.packet.my_discriminator, order.packet.your_discriminator) == (US, PEER)


def test_6_3_a_peer_with_a_new_number_is_answered_with_it() -> None:
    machine = up()
    order = only(machine.step(from_peer(State.UP, my_discriminator=77), at(2)), Transmit)
    assert order.packet is not None
    assert order.packet.your_discriminator == 77


# ------------------------------------------------------------------ 6.5, 6.8.3: polls


def test_6_5_p_is_in_every_packet_until_f_and_no_packet_is_added() -> None:
    machine = up()
    order = only(machine.step(Reconfigured(config(rx_ms=100)), at(2)), Transmit)
    assert order.packet is not None
    assert order.packet.poll
    none_of(machine.step(from_peer(State.UP), at(2.05)), Transmit)
    assert machine.polling
    order = only(machine.step(from_peer(State.UP, final=True), at(2.1)), Transmit)
    assert order.packet is not None
    assert not order.packet.poll
    # The end of a poll is told by the next periodic packet: only P differs.
    assert not order.at_once


def test_6_5_f_answers_p_at_once_and_tells_the_present() -> None:
    machine = up()
    actions = machine.step(from_peer(State.UP, poll=True, rx_ms=300), at(2))
    assert isinstance(actions[-1], Answer)
    packet = only(actions, Answer).packet
    assert (packet.final, packet.poll, packet.state) == (True, False, State.UP)


@pytest.mark.parametrize("state", [State.DOWN, State.INIT, State.UP])
def test_6_5_p_is_answered_in_every_state(state: State) -> None:
    machine = in_state(state)
    assert only(machine.step(from_peer(State.UP, poll=True), at(2)), Answer).packet.final


def test_6_5_p_is_not_answered_while_admin_down() -> None:
    # Section 6.8.6 discards before it comes to P.
    none_of(in_state(State.ADMIN_DOWN).step(from_peer(State.UP, poll=True), at(2)), Answer)


def test_6_5_p_is_answered_although_we_poll() -> None:
    machine = up()
    machine.step(Reconfigured(config(rx_ms=100)), at(2))
    packet = only(machine.step(from_peer(State.UP, poll=True), at(2.01)), Answer).packet
    # Section 6.8.7: a packet never has both.
    assert (packet.poll, packet.final) == (False, True)
    assert machine.polling


def test_6_5_f_without_a_poll_means_nothing() -> None:
    machine = up()
    assert machine.step(from_peer(State.UP, final=True), at(2)) == []
    assert machine.settled


def test_6_8_3_one_second_while_not_up() -> None:
    machine = down(config(tx_ms=10))
    assert sent(machine).desired_min_tx_us == 1_000_000
    machine.step(from_peer(State.DOWN), at(0.5))
    assert sent(machine).desired_min_tx_us == 1_000_000
    assert machine.transmit_interval_us == 1_000_000


def test_6_8_3_coming_up_polls_for_the_fast_interval() -> None:
    machine = up(settled=False)
    packet = sent(machine)
    assert (packet.poll, packet.desired_min_tx_us) == (True, 50_000)
    # A smaller transmit interval needs no permission.
    assert machine.transmit_interval_us == 50_000


def test_6_8_3_going_down_goes_back_to_one_second() -> None:
    machine = up()
    machine.step(from_peer(State.DOWN), at(2))
    assert machine.transmit_interval_us == 1_000_000
    assert not sent(machine).poll


def test_6_8_3_a_raised_transmit_interval_waits_for_the_poll() -> None:
    machine = up()
    machine.step(Reconfigured(config(tx_ms=400)), at(2))
    assert sent(machine).desired_min_tx_us == 400_000
    assert machine.transmit_interval_us == 50_000
    order = only(machine.step(from_peer(State.UP, final=True), at(2.1)), Transmit)
    assert order.interval_us == 400_000


def test_6_8_3_a_lowered_transmit_interval_holds_at_once() -> None:
    machine = up(config(tx_ms=400))
    order = only(machine.step(Reconfigured(config(tx_ms=60)), at(2)), Transmit)
    assert order.interval_us == 60_000


def test_6_8_3_a_lowered_receive_interval_waits_for_the_poll() -> None:
    machine = up(config(rx_ms=400))
    machine.step(Reconfigured(config(rx_ms=50)), at(2))
    assert sent(machine).required_min_rx_us == 50_000
    assert machine.detection == ms(3 * 400)
    machine.step(from_peer(State.UP, final=True), at(2.1))
    assert machine.detection == ms(3 * 50)


def test_6_8_3_a_raised_receive_interval_holds_at_once() -> None:
    machine = up()
    machine.step(Reconfigured(config(rx_ms=400)), at(2))
    assert machine.detection == ms(3 * 400)


def test_6_8_3_the_peers_wish_is_followed_at_once() -> None:
    machine = up()
    order = only(machine.step(from_peer(State.UP, rx_ms=700), at(2)), Transmit)
    assert (order.interval_us, order.at_once) == (700_000, False)
    order = only(machine.step(from_peer(State.UP, rx_ms=20), at(2)), Transmit)
    assert order.interval_us == 50_000


def test_6_8_3_a_second_change_waits_for_a_packet_without_f() -> None:
    machine = up()
    machine.step(Reconfigured(config(rx_ms=100)), at(2))
    machine.step(Reconfigured(config(rx_ms=200)), at(2.01))
    assert sent(machine).required_min_rx_us == 100_000
    machine.step(from_peer(State.UP, final=True), at(2.1))
    assert not machine.polling
    order = only(machine.step(from_peer(State.UP), at(2.15)), Transmit)
    assert order.packet is not None
    assert (order.packet.poll, order.packet.required_min_rx_us) == (True, 200_000)


def test_6_8_3_a_change_taken_back_needs_no_second_poll() -> None:
    machine = up()
    machine.step(Reconfigured(config(rx_ms=100)), at(2))
    machine.step(Reconfigured(config(rx_ms=200)), at(2.01))
    machine.step(Reconfigured(config(rx_ms=100)), at(2.02))
    machine.step(from_peer(State.UP, final=True), at(2.1))
    none_of(machine.step(from_peer(State.UP), at(2.15)), Transmit)
    assert not machine.polling


def test_6_8_3_not_up_needs_no_poll() -> None:
    machine = in_state(State.INIT)
    order = only(machine.step(Reconfigured(config(rx_ms=100)), at(1)), Transmit)
    assert order.packet is not None
    assert (order.packet.poll, order.packet.required_min_rx_us) == (False, 100_000)


def test_6_8_3_the_same_settings_change_nothing_on_the_wire() -> None:
    machine = up()
    none_of(machine.step(Reconfigured(config()), at(2)), Transmit)


def test_a_changed_multiplier_is_told_without_a_poll() -> None:
    # Section 6.8.3 asks for polls for the two intervals only.
    machine = up()
    order = only(machine.step(Reconfigured(config(mult=9)), at(2)), Transmit)
    assert order.packet is not None
    assert (order.packet.detect_mult, order.packet.poll, order.at_once) == (9, False, True)


# ------------------------------------------------------------------ 6.6: demand mode, the answering side


def test_6_6_demand_stops_our_packets_once_both_are_up() -> None:
    machine = up()
    assert only(machine.step(from_peer(State.UP, demand=True), at(2)), Transmit).packet is None


def test_6_6_demand_is_ignored_before_both_are_up() -> None:
    machine = down()
    machine.step(from_peer(State.DOWN, demand=True), at(1))
    assert sent(machine).state is State.INIT
    order = only(machine.step(from_peer(State.INIT, demand=True), at(1.1)), Transmit)
    assert order.packet is not None
    assert order.packet.state is State.UP


def test_6_6_polls_of_the_demanding_peer_are_answered() -> None:
    machine = up()
    machine.step(from_peer(State.UP, demand=True), at(2))
    actions = machine.step(from_peer(State.UP, demand=True, poll=True), at(5))
    assert only(actions, Answer).packet.final
    none_of(actions, Transmit)


def test_6_6_our_poll_is_sent_in_spite_of_demand() -> None:
    machine = up()
    machine.step(from_peer(State.UP, demand=True), at(2))
    order = only(machine.step(Reconfigured(config(rx_ms=100)), at(3)), Transmit)
    assert order.packet is not None
    assert order.packet.poll
    assert only(machine.step(from_peer(State.UP, demand=True, final=True), at(3.1)), Transmit).packet is None


def test_6_6_the_end_of_demand_starts_our_packets() -> None:
    machine = up()
    machine.step(from_peer(State.UP, demand=True), at(2))
    assert only(machine.step(from_peer(State.UP), at(3)), Transmit).packet is not None


def test_6_6_demand_does_not_lengthen_our_detection() -> None:
    machine = up()
    machine.step(from_peer(State.UP, demand=True), at(2))
    assert machine.deadline == at(2.15)


# ------------------------------------------------------------------ 6.8.1: state variables


def test_6_8_1_initial_values() -> None:
    machine = BfdMachine(config(), US)
    assert (machine.state, machine.remote_state) == (State.DOWN, State.DOWN)
    assert (machine.remote_discriminator, machine.local_diagnostic, machine.remote_min_rx_us) == (0, 0, 1)
    assert machine.transmit_interval_us == 1_000_000


def test_6_8_1_the_peer_is_forgotten_after_a_detection_time() -> None:
    machine = up()
    machine.step(from_peer(State.DOWN), at(2))
    assert sent(machine).your_discriminator == PEER
    assert machine.step(Deadline(), at(2.149)) == []
    order = only(machine.step(Deadline(), at(2.15)), Transmit)
    assert order.packet is not None
    assert order.packet.your_discriminator == 0
    assert machine.deadline is None


def test_6_8_1_the_diagnostic_tells_of_the_last_change() -> None:
    machine = up()
    machine.step(Deadline(), at(2))
    assert sent(machine).diagnostic == Diagnostic.DETECTION_TIME_EXPIRED
    machine.step(from_peer(State.DOWN), at(3))
    assert sent(machine).diagnostic == Diagnostic.NONE


# ------------------------------------------------------------------ 6.8.2, 6.8.4: the agreed times


@pytest.mark.parametrize(("ours_ms", "theirs_ms", "agreed_ms"), [(50, 200, 200), (200, 50, 200), (50, 50, 50)])
def test_6_8_2_transmit_interval(ours_ms: float, theirs_ms: float, agreed_ms: float) -> None:
    machine = up(config(tx_ms=ours_ms), rx_ms=theirs_ms)
    assert machine.transmit_interval_us == agreed_ms * 1000


@pytest.mark.parametrize(
    ("our_rx_ms", "their_tx_ms", "their_mult", "detection_ms"),
    [(50, 50, 3, 150), (50, 200, 3, 600), (200, 50, 3, 600), (50, 50, 7, 350), (3.3, 3.3, 3, 9.9)],
)
def test_6_8_4_detection_time(our_rx_ms: float, their_tx_ms: float, their_mult: int, detection_ms: float) -> None:
    # Our own multiplier (200) must not matter.
    machine = up(config(rx_ms=our_rx_ms, mult=200), tx_ms=their_tx_ms, detect_mult=their_mult)
    assert machine.detection == ms(detection_ms)


def test_6_8_4_silence_of_exactly_the_detection_time_ends_the_session() -> None:
    machine = up()
    machine.step(from_peer(State.UP), at(2))
    assert machine.deadline == at(2.15)
    assert machine.step(Deadline(), Instant(at(2.15) - 1)) == []
    actions = machine.step(Deadline(), at(2.15))
    changed = only(actions, Changed)
    assert (changed.old, changed.new, changed.cause) == (State.UP, State.DOWN, Cause.SILENT)
    assert (changed.silent, changed.detection, changed.missed) == (ms(150), ms(150), 3)
    packet = only(actions, Transmit).packet
    assert packet is not None
    assert (packet.diagnostic, packet.your_discriminator) == (Diagnostic.DETECTION_TIME_EXPIRED, 0)


def test_6_8_4_the_carrier_moves_the_deadline_without_a_call() -> None:
    machine = up()
    machine.seen = at(7)
    assert machine.deadline == at(7.15)


def test_6_8_4_down_has_no_detection() -> None:
    assert down().deadline is None


# ------------------------------------------------------------------ 6.8.5, 6.8.8, 6.8.9: echo


ECHO = config(echo_tx_us=50_000)


def test_6_8_9_echoes_run_only_when_up_and_allowed() -> None:
    machine = down(ECHO)
    none_of(machine.step(from_peer(State.DOWN, required_min_echo_rx_us=20_000), at(0.5)), TransmitEcho)
    actions = machine.step(from_peer(State.UP, required_min_echo_rx_us=20_000), at(1))
    assert only(actions, TransmitEcho).interval_us == 50_000


def test_6_8_9_echoes_keep_to_the_peers_limit() -> None:
    assert up(ECHO, required_min_echo_rx_us=80_000).echo_interval_us == 80_000


def test_6_8_9_no_echo_to_a_peer_that_allows_none() -> None:
    assert up(ECHO).echo_interval_us == 0


def test_6_8_6_echo_stops_when_the_peer_takes_it_back() -> None:
    machine = up(ECHO, required_min_echo_rx_us=20_000)
    assert only(machine.step(from_peer(State.UP), at(2)), TransmitEcho).interval_us == 0


def test_6_8_5_lost_echoes_end_the_session() -> None:
    machine = up(ECHO, required_min_echo_rx_us=20_000, tx_ms=1000)
    machine.step(EchoHeard(), at(2))
    assert machine.deadline == at(2.15)
    actions = machine.step(Deadline(), at(2.15))
    assert only(actions, Changed).cause is Cause.ECHO_LOST
    assert machine.local_diagnostic == Diagnostic.ECHO_FAILED
    assert only(actions, TransmitEcho).interval_us == 0


def test_6_8_3_echo_slows_control_packets_by_a_poll() -> None:
    machine = down(ECHO)
    machine.step(from_peer(State.DOWN, required_min_echo_rx_us=20_000), at(0.5))
    machine.step(from_peer(State.UP, required_min_echo_rx_us=20_000), at(1))
    machine.step(from_peer(State.UP, final=True, required_min_echo_rx_us=20_000), at(1.01))
    machine.step(from_peer(State.UP, required_min_echo_rx_us=20_000), at(1.06))
    packet = sent(machine)
    assert (packet.poll, packet.required_min_rx_us) == (True, 1_000_000)


def test_we_say_that_we_loop_echoes() -> None:
    assert sent(up(config(echo_rx_us=30_000))).required_min_echo_rx_us == 30_000
    assert sent(up()).required_min_echo_rx_us == 0


# ------------------------------------------------------------------ 6.8.6: reception


def test_6_8_6_what_a_packet_sets() -> None:
    machine = down()
    machine.step(
        from_peer(State.DOWN, rx_ms=70, tx_ms=1000, detect_mult=9, diagnostic=5, required_min_echo_rx_us=60_000), at(1)
    )
    assert machine.remote_discriminator == PEER
    assert (machine.remote_state, machine.remote_mult, machine.remote_diagnostic) == (State.DOWN, 9, 5)
    assert (machine.remote_min_rx_us, machine.remote_min_tx_us) == (70_000, 1_000_000)
    assert machine.remote_min_echo_rx_us == 60_000
    assert machine.seen == at(1)


def test_6_8_6_admin_down_listens_but_does_not_move() -> None:
    machine = in_state(State.ADMIN_DOWN)
    machine.step(from_peer(State.UP), at(2))
    assert (machine.state, machine.remote_state) == (State.ADMIN_DOWN, State.UP)


# ------------------------------------------------------------------ 6.8.7: transmission


def test_6_8_7_zero_min_rx_stops_periodic_packets() -> None:
    machine = up()
    assert only(machine.step(from_peer(State.UP, rx_ms=0), at(2)), Transmit).packet is None
    assert only(machine.step(from_peer(State.UP, rx_ms=50), at(2.1)), Transmit).packet is not None


@pytest.mark.parametrize("mult", [2, 3, 255])
def test_6_8_7_jitter_takes_up_to_a_quarter(mult: int) -> None:
    gaps = [jittered(50_000, mult, number / 1000) for number in range(1000)]
    assert max(gaps) == ms(50)
    assert ms(37.5) < min(gaps) < ms(37.6)


def test_6_8_7_jitter_with_multiplier_one() -> None:
    gaps = [jittered(50_000, 1, number / 1000) for number in range(1000)]
    assert max(gaps) <= ms(45)
    assert min(gaps) >= ms(37.5)


def test_6_8_7_content_of_a_packet() -> None:
    packet = sent(up(config(tx_ms=60, rx_ms=70, mult=4)))
    assert (packet.detect_mult, packet.desired_min_tx_us, packet.required_min_rx_us) == (4, 60_000, 70_000)
    assert (packet.my_discriminator, packet.your_discriminator) == (US, PEER)
    assert (packet.control_plane_independent, packet.demand, packet.authenticated) == (False, False, False)


def test_6_8_7_the_a_bit_is_set_with_authentication() -> None:
    assert sent(up(config(authenticated=True))).authenticated


# ------------------------------------------------------------------ 6.8.16, 6.8.17: from outside


def test_6_8_16_disable_tells_admin_down() -> None:
    machine = up()
    actions = machine.step(Disabled(), at(2))
    order = only(actions, Transmit)
    assert order.packet is not None
    assert (order.packet.state, order.packet.diagnostic) == (State.ADMIN_DOWN, Diagnostic.ADMINISTRATIVELY_DOWN)
    assert order.at_once
    assert only(actions, Changed).cause is Cause.DISABLED
    assert machine.step(Disabled(), at(3)) == []


def test_6_8_16_disable_stops_echoes() -> None:
    machine = up(ECHO, required_min_echo_rx_us=20_000)
    assert only(machine.step(Disabled(), at(2)), TransmitEcho).interval_us == 0


def test_6_8_16_enable_begins_at_down() -> None:
    machine = in_state(State.ADMIN_DOWN)
    assert only(machine.step(Enabled(), at(2)), Changed).new is State.DOWN
    assert machine.local_diagnostic == Diagnostic.NONE
    assert machine.step(Enabled(), at(2)) == []


def test_6_8_16_other_diagnostics_can_be_given() -> None:
    machine = up()
    machine.step(Disabled(Diagnostic.PATH_DOWN), at(2))
    assert sent(machine).diagnostic == Diagnostic.PATH_DOWN


def test_6_8_17_a_lost_path_ends_the_session_without_waiting() -> None:
    machine = up()
    actions = machine.step(PathLost(), at(2))
    assert only(actions, Changed).cause is Cause.PATH_DOWN
    assert sent(machine).diagnostic == Diagnostic.PATH_DOWN
    assert machine.step(PathLost(), at(2.01)) == []


# ------------------------------------------------------------------ what trackers are told (RFC 5882 section 4.2)


def test_a_tracker_is_down_until_up() -> None:
    machine = down()
    assert not machine.tracker_up
    machine.step(from_peer(State.DOWN), at(1))
    assert not machine.tracker_up
    machine.step(from_peer(State.UP), at(1.1))
    assert machine.tracker_up


@pytest.mark.parametrize("fact", [from_peer(State.DOWN), Deadline(), PathLost()])
def test_a_tracker_goes_down_with_the_session(fact: Deadline) -> None:
    machine = up()
    machine.step(fact, at(5))
    assert not machine.tracker_up


def test_rfc5882_4_2_a_peer_that_is_admin_down_is_no_failure() -> None:
    machine = up()
    machine.step(from_peer(State.ADMIN_DOWN), at(2))
    assert (machine.state, machine.tracker_up) == (State.DOWN, True)
    machine.step(Deadline(), at(9))
    assert machine.tracker_up


def test_our_own_admin_down_is_no_failure() -> None:
    machine = up()
    machine.step(Disabled(), at(2))
    assert machine.tracker_up


# ------------------------------------------------------------------ the carrier's part of the contract


def test_a_settled_packet_may_come_again_unseen() -> None:
    machine = up()
    packet = from_peer(State.UP)
    machine.step(packet, at(2))
    assert machine.settled
    before = machine.memory
    assert machine.step(packet, at(2.05)) == []
    assert machine.memory == before


@pytest.mark.parametrize("state", [State.DOWN, State.INIT, State.ADMIN_DOWN])
def test_nothing_is_settled_but_up(state: State) -> None:
    assert not in_state(state).settled


def test_a_call_too_early_does_nothing() -> None:
    machine = up()
    assert machine.step(Deadline(), at(1)) == []
    assert down().step(Deadline(), at(100)) == []


# ------------------------------------------------------------------ life after death of the process


def test_a_successor_goes_on_unnoticed() -> None:
    machine = up()
    successor = BfdMachine(config(), machine.memory.local_discriminator)
    actions = successor.restore(machine.memory, at(3))
    order = only(actions, Transmit)
    assert order.packet is not None
    assert (order.packet.state, order.packet.my_discriminator, order.packet.your_discriminator) == (State.UP, US, PEER)
    assert (order.interval_us, order.at_once, order.packet.poll) == (50_000, True, True)
    assert only(actions, Changed).cause is Cause.RESTORED
    assert successor.deadline == at(3.15)
    assert successor.tracker_up


def test_a_successor_notices_a_peer_that_went_down() -> None:
    successor = BfdMachine(config(), US)
    successor.restore(up().memory, at(3))
    assert only(successor.step(from_peer(State.DOWN, yours=US), at(3.01)), Changed).new is State.DOWN


def test_a_successor_of_a_farewell_begins_anew() -> None:
    machine = up()
    machine.step(Disabled(), at(2))
    successor = BfdMachine(config(), US)
    successor.restore(machine.memory, at(3))
    assert successor.state is State.DOWN


def test_what_must_be_kept_is_announced() -> None:
    machine = up()
    only(machine.step(from_peer(State.UP, rx_ms=90), at(2)), Refreshed)
    none_of(machine.step(from_peer(State.UP, rx_ms=90), at(2.01)), Refreshed)
