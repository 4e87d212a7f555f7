"""Two machines and a bad wire, in virtual time: what must hold whatever gets lost."""

from __future__ import annotations

import itertools

import pytest
from bfd_play import Disabled, Enabled, Reconfigured, World, at, config
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.actors.bfd.facts import Cause, SessionConfig
from holdfast.actors.bfd.machine import BfdMachine
from holdfast.actors.bfd.packet import State
from holdfast.actors.runtime.machine import MS, Instant, S

BOTH_UP = (State.UP, State.UP)


def world(seed: int = 1, **more: float) -> World:
    return World(seed, config(), config(), **more).start()  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_they_come_up_within_three_seconds(seed: int) -> None:
    assert world(seed).run(3).states == BOTH_UP


@pytest.mark.parametrize("seed", range(5))
def test_they_come_up_on_a_bad_wire_too(seed: int) -> None:
    assert any(change.new is State.UP for _, change in world(seed, loss=0.3).run(60).left.changes)


@pytest.mark.parametrize("seed", range(5))
def test_a_quiet_hour_has_no_event(seed: int) -> None:
    w = world(seed).run(5)
    before = [len(end.changes) for end in w.ends]
    w.run(600)
    assert [len(end.changes) for end in w.ends] == before


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_is_noticed_within_the_detection_time(seed: int) -> None:
    w = world(seed).run(5)
    w.cut = True
    w.run(0.1505)
    assert w.states == (State.DOWN, State.DOWN)
    assert {end.changes[-1][1].cause for end in w.ends} == {Cause.SILENT}


@pytest.mark.parametrize("seed", range(5))
def test_a_healed_wire_brings_them_back(seed: int) -> None:
    w = world(seed).run(5)
    w.cut = True
    w.run(2)
    w.cut = False
    assert w.run(3).states == BOTH_UP


@pytest.mark.parametrize("seed", range(5))
def test_a_restarted_peer_is_back_soon(seed: int) -> None:
    w = world(seed).run(5)
    w.right.restart(0x21)
    w.run(3)
    assert w.states == BOTH_UP
    assert w.left.machine.remote_discriminator == 0x21


@pytest.mark.parametrize("seed", range(5))
def test_a_successor_with_the_memory_moves_nothing(seed: int) -> None:
    w = world(seed).run(5)
    kept = w.right.machine.memory
    w.right.alive = False
    changes = len(w.left.changes)
    w.run(0.08)
    w.right.machine = BfdMachine(config(), kept.local_discriminator)
    w.right.order, w.right.alive = None, True
    w.right.do(w.right.machine.restore(kept, w.now))
    w.run(10)
    assert w.states == BOTH_UP
    assert len(w.left.changes) == changes


@pytest.mark.parametrize("seed", range(5))
def test_a_pause_shorter_than_the_detection_time_is_no_event(seed: int) -> None:
    w = world(seed).run(5)
    changes = [len(end.changes) for end in w.ends]
    w.left.paused_until = Instant(w.now + 90 * MS)
    w.run(5)
    assert [len(end.changes) for end in w.ends] == changes


@pytest.mark.parametrize("seed", range(5))
def test_who_was_paused_hears_what_waited_before_it_judges(seed: int) -> None:
    w = world(seed).run(5)
    w.left.paused_until = Instant(w.now + 4 * S)
    w.run(4.01)
    # The right side rightly missed the left one; the left one learns it from a packet, not from its own clock.
    assert w.left.changes[-1][1].cause is not Cause.SILENT


def test_admin_down_is_heard_and_ended() -> None:
    w = world().run(5)
    w.left.tell(Disabled())
    w.run(1)
    assert w.states == (State.ADMIN_DOWN, State.DOWN)
    assert w.right.machine.tracker_up
    w.left.tell(Enabled())
    assert w.run(4).states == BOTH_UP


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("tx_ms", "rx_ms"), [(20, 20), (300, 50), (50, 300), (200, 400)])
def test_intervals_change_while_up(seed: int, tx_ms: float, rx_ms: float) -> None:
    w = World(seed, config(), config(), loss=0.1).start().run(20)
    w.loss = 0.0
    w.run(5)
    assert w.states == BOTH_UP
    changes = [len(end.changes) for end in w.ends]
    w.left.tell(Reconfigured(config(tx_ms=tx_ms, rx_ms=rx_ms)))
    w.run(5)
    assert [len(end.changes) for end in w.ends] == changes, "the session was lost"
    assert not w.left.machine.polling
    assert w.left.machine.transmit_interval_us == max(tx_ms, 50) * 1000
    assert w.right.machine.transmit_interval_us == max(rx_ms, 50) * 1000
    assert w.right.machine.detection == 3 * max(tx_ms, 50) * MS


@pytest.mark.parametrize("mult", [1, 3])
def test_gaps_are_the_interval_less_the_jitter(mult: int) -> None:
    w = World(7, config(mult=mult), config(mult=mult)).start().run(3)
    assert w.states == BOTH_UP
    w.left.sent_at.clear()
    w.run(60)
    times = [when for when, _ in w.left.sent_at]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) >= 37.5 * MS
    assert max(gaps) <= (45 if mult == 1 else 50) * MS


def test_passive_ends_wait_for_each_other_for_ever() -> None:
    w = World(1, config(passive=True), config(passive=True)).start().run(60)
    assert w.states == (State.DOWN, State.DOWN)
    assert not w.left.sent_at


def test_one_passive_end_comes_up() -> None:
    assert World(1, config(passive=True), config()).start().run(4).states == BOTH_UP


INTERVALS = st.sampled_from([20.0, 50.0, 300.0, 1000.0])
CONFIGS = st.builds(config, tx_ms=INTERVALS, rx_ms=INTERVALS, mult=st.integers(1, 5))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    left=CONFIGS,
    right=CONFIGS,
    story=st.lists(st.sampled_from(["cut", "heal", "lossy", "restart", "disable", "enable", "retime"]), max_size=8),
)
def test_whatever_happens_they_end_up(seed: int, left: SessionConfig, right: SessionConfig, story: list[str]) -> None:
    w = World(seed, left, right).start()

    def never_both() -> None:
        for end in w.ends:
            if end.sent_at:
                packet = end.sent_at[-1][1]
                assert not (packet.poll and packet.final)

    def one_second_unless_up() -> None:
        for end in w.ends:
            if end.sent_at:
                packet = end.sent_at[-1][1]
                assert packet.state is State.UP or packet.desired_min_tx_us >= 1_000_000

    w.checks += [never_both, one_second_unless_up]
    number = 0x100
    for chapter in story:
        match chapter:
            case "cut":
                w.cut = True
            case "heal":
                w.cut, w.loss = False, 0.0
            case "lossy":
                w.loss = 0.5
            case "restart":
                number += 1
                w.right.restart(number)
            case "disable":
                w.left.tell(Disabled())
            case "enable":
                w.left.tell(Enabled())
            case "retime":
                w.left.tell(Reconfigured(config(tx_ms=70, rx_ms=90)))
        w.run(1.3)
    w.cut, w.loss = False, 0.0
    w.left.tell(Enabled())
    # The slowest session here detects within 5 s; then come the one-second packets.
    w.run(16)
    assert w.states == BOTH_UP
    assert not w.left.machine.polling
    assert not w.right.machine.polling
    assert w.left.machine.detection == w.right.machine.config.detect_mult * w.right.machine.transmit_interval_us * 1000


def test_the_same_seed_gives_the_same_story() -> None:
    one, two = world(3, loss=0.2).run(30), world(3, loss=0.2).run(30)
    assert one.left.sent_at == two.left.sent_at
    assert one.now == two.now == at(30)
