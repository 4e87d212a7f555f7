"""Two to five routers on a bad network, in virtual time, with checkers that run all along."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from world import Router, World

from holdfast.actors.runtime.machine import Action, Fact, Instant, S
from holdfast.actors.vrrp import actions as act
from holdfast.actors.vrrp.facts import AdvertReceived
from holdfast.actors.vrrp.messages import VrrpState
from holdfast.actors.vrrp.options import LeaseMode

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def yields_to_higher(world: World, router: Router, fact: Fact, actions: list[Action]) -> None:
    """Safety, as far as one router can know: whoever hears a better advert is not MASTER after it."""
    if isinstance(fact, AdvertReceived) and fact.priority > router.machine.priority:
        assert router.machine.state is not VrrpState.MASTER, world.explain()


def silent_as_backup(world: World, router: Router, fact: Fact, actions: list[Action]) -> None:
    """Only a MASTER sends; a step that ends elsewhere has sent nothing but a resignation."""
    if router.machine.state is not VrrpState.MASTER:
        assert all(not isinstance(a, act.SendAdvert) or a.priority == 0 for a in actions), world.explain()


class TwoMasters:
    """Measures for how long more than one router was MASTER at a time."""

    def __init__(self) -> None:
        self.since: Instant | None = None
        self.longest = 0

    def __call__(self, world: World, router: Router, fact: Fact, actions: list[Action]) -> None:
        if len(world.masters()) > 1:
            if self.since is None:
                self.since = world.now
            self.longest = max(self.longest, world.now - self.since)
        else:
            self.since = None


@st.composite
def schedules(draw: st.DrawFn, routers: int) -> list[tuple[float, str, int, float]]:
    """Faults in the order they happen: (seconds since the last one, what, which router, for how long)."""
    kinds = st.sampled_from(
        ("pause", "crash", "power", "restart", "restore", "cut", "one-way", "mend", "lossy", "slow")
    )
    return draw(
        st.lists(
            st.tuples(st.floats(0, 12), kinds, st.integers(0, routers - 1), st.floats(0.05, 10)),
            min_size=1,
            max_size=12,
        )
    )


def play(world: World, schedule: list[tuple[float, str, int, float]]) -> None:
    for after, what, number, lasts in schedule:
        world.run(after)
        match what:
            case "pause":
                world.pause(number, lasts)
            case "crash":
                world.crash(number)
            case "power":
                world.power_off(number)
            case "restart":
                world.restart(number)
            case "restore":
                world.restart(number, restored=True)
            case "cut":
                world.cut([number])
            case "one-way":
                world.cut([number], one_way=True)
            case "mend":
                world.cuts.clear()
            case "lossy":
                world.loss = min(0.9, lasts / 10)
            case "slow":
                world.delay_ms = (0.0, lasts * 200)
    world.run(3)


@QUICK
@given(st.data())
def test_one_master_soon_after_the_network_heals(data: st.DataObject) -> None:
    """Liveness: 3 intervals and a skew until the best one takes over, its advert ends any other; at most 4 + 1.

    Safety after healing: two masters for one interval and the delay at most.
    """
    count = data.draw(st.integers(2, 5), label="routers")
    priorities = data.draw(st.lists(st.integers(1, 254), min_size=count, max_size=count), label="priorities")
    interval = data.draw(st.sampled_from((0.1, 1.0, 2.0)), label="interval")
    world = World(
        data.draw(st.integers(0, 1 << 32), label="seed"),
        priorities=priorities,
        interval_s=interval,
        loss=data.draw(st.sampled_from((0.0, 0.2)), label="loss"),
        duplicates=data.draw(st.sampled_from((0.0, 0.3)), label="duplicates"),
        delay_ms=data.draw(st.sampled_from(((0.0, 1.0), (0.0, 50.0))), label="delay"),
        version=data.draw(st.sampled_from((2, 3)), label="version") if interval >= 1 else 3,
    )
    world.check_always(yields_to_higher)
    world.check_always(silent_as_backup)
    play(world, data.draw(schedules(count), label="schedule"))
    world.heal()
    two = TwoMasters()
    world.run(0.21)  # What is still on its way arrives.
    world.check_always(two)
    world.run(5 * max(interval, 1.0) + 1)
    note(world.explain())
    # Among equals whoever is MASTER stays: a backup accepts equal priorities.
    assert [world.routers[number].machine.priority for number in world.masters()] == [max(priorities)], world.explain()
    assert two.longest <= interval * S + 10_000_000, world.explain()
    settled = len(world.transitions)
    world.run(20 * interval)
    assert len(world.transitions) == settled, world.explain()
    assert world.owners() == world.masters(), world.explain()


@QUICK
@given(st.data())
def test_nopreempt_still_ends_with_one_master(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 4), label="routers")
    world = World(data.draw(st.integers(0, 1 << 32)), priorities=[100 + 10 * n for n in range(count)], nopreempt=True)
    world.check_always(silent_as_backup)
    play(world, data.draw(schedules(count), label="schedule"))
    world.heal()
    world.run(7)
    assert len(world.masters()) == 1, world.explain()


@QUICK
@given(st.data())
def test_a_frozen_or_dead_owner_never_makes_two(data: st.DataObject) -> None:
    """Leases and stalls: on a good network with adverts of a second, whatever happens to processes, the address never
    has two owners, but for the delay of one advert.

    With preemption there is one way more: a better router comes back while the owner is frozen, and does not wait for
    its silence; then the rest of the lease bounds it.
    """
    preempts = data.draw(st.booleans(), label="preempt")
    world = World(data.draw(st.integers(0, 1 << 32)), priorities=(200, 150, 100), nopreempt=not preempts)
    world.run(5)
    faults = st.tuples(
        st.floats(0, 9),
        st.sampled_from(("pause", "crash", "restart", "restore", "power")),
        st.integers(0, 2),
        st.floats(0.05, 12),
    )
    before = world.two_owners
    play(world, data.draw(st.lists(faults, max_size=8), label="schedule"))
    world.heal()
    world.run(8)
    handovers = sum(event.state is VrrpState.MASTER for _, _, event in world.transitions)
    # A better router that comes back sends its advert, and the old one hears it up to 2 ms later.
    bound = (3 * S + S // 10) if preempts else 2_100_000
    assert world.two_owners - before <= handovers * bound, world.explain()


@QUICK
@given(st.integers(0, 1 << 32), st.floats(0.05, 0.9), st.sampled_from((0.1, 1.0)))
def test_a_cell_that_comes_back_soon_moves_nothing(seed: int, gap: float, interval: float) -> None:
    """SIGKILL of the cell, put back before its peers miss it: no transition anywhere, the address never leaves."""
    world = World(seed, priorities=(200, 150), interval_s=interval)
    world.run(10)
    settled = [entry for entry in world.transitions if entry[2].old is not entry[2].state]
    for number in (0, 1, 0):
        world.run(1.7 * interval)
        world.crash(number)
        world.run(gap * interval)
        assert world.owners() == [0]
        world.restart(number, restored=True)
    world.run(10)
    assert [entry for entry in world.transitions if entry[2].old is not entry[2].state] == settled
    assert world.owners() == [0]


@QUICK
@given(st.integers(0, 1 << 32), st.floats(0.1, 10.0))
def test_a_master_stopped_for_any_time(seed: int, stop_s: float) -> None:
    """SIGSTOP for 0.1 to 10 s: no time with two owners; without one no longer than until the backup's takeover."""
    world = World(seed, priorities=(200, 100))
    world.run(12)
    assert world.masters() == [0]
    two, none = world.two_owners, world.no_owner
    world.pause(0, stop_s)
    world.run(25)
    assert world.masters() == [0], world.explain()
    assert world.two_owners - two <= 3_000_000, world.explain()
    assert world.no_owner - none <= 2 * S, world.explain()


@pytest.mark.parametrize("lease", [LeaseMode.AUTO, LeaseMode.OFF])
def test_an_hour_of_three_routers_takes_well_under_a_second(lease: LeaseMode, request: pytest.FixtureRequest) -> None:
    seed = request.config.getoption("--seed") or 7
    world = World(seed, loss=0.02, delay_ms=(0, 5), lease=lease)
    world.check_always(yields_to_higher)
    started = time.process_time()
    world.run(3600)
    spent = time.process_time() - started
    print(f"3600 s of 3 routers: {spent:.3f} s of CPU")
    assert spent < 1.5
    world.heal()
    world.run(5)
    assert world.masters() == [world.highest()], world.explain()


def test_the_same_seed_is_the_same_world() -> None:
    traces = []
    for _ in range(2):
        world = World(11, loss=0.3, duplicates=0.2, delay_ms=(0, 400))
        world.run(60)
        world.pause(0, 5)
        world.run(60)
        traces.append(world.trace)
    assert traces[0] == traces[1]
    assert traces[0]


def test_a_resignation_hands_over_in_a_skew_time() -> None:
    world = World(3, priorities=(200, 100))
    world.run(10)
    from holdfast.actors.vrrp.facts import OperatorRelease

    world._step(world.routers[0], OperatorRelease())
    world.run(0.62)
    assert world.masters() == [1]
