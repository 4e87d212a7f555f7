"""Detection times that are looked at lazily, and sending in groups, in virtual time."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable

import pytest
from bfd_play import at, config, from_peer
from hypothesis import given
from hypothesis import strategies as st

from holdfast.actors.bfd.auth import Authenticator, AuthType, Key
from holdfast.actors.bfd.facts import PathLost, SessionConfig
from holdfast.actors.bfd.lane import Lane
from holdfast.actors.bfd.machine import BfdMachine
from holdfast.actors.bfd.packet import ControlPacket, State
from holdfast.actors.bfd.profiles import SessionSpec
from holdfast.actors.bfd.vigil import Vigil
from holdfast.actors.bfd.wheel import GROUP_SIZE, DetectionWheel, Pacer
from holdfast.actors.runtime.machine import MS, Instant, S
from holdfast.kernel.udp_batch import Path, Rows, SendGroup

ROWS = Rows()


def lane(number: int = 0, settings: SessionConfig | None = None) -> Lane:
    spec = SessionSpec(
        name=f"b{number}",
        neighbor=bytes([10, 0, 0, number % 250]),
        source=None,
        multihop=False,
        ttl=255,
        min_ttl=255,
        interface="",
        check_source=True,
        config=settings or config(),
        auth_type=None,
        keys=(),
        disabled=False,
        vrrp=True,
        checker=True,
    )
    made = Lane(spec, BfdMachine(spec.config, number + 1), 50_000 + number, ROWS)
    made.route(Path(bytes([10, 0, 0, 254]), spec.neighbor, made.source_port, made.port))
    return made


def up_lane(number: int = 0, seconds: float = 0.0) -> Lane:
    """Up, last heard at `seconds`, 150 ms of detection time."""
    made = lane(number)
    machine = made.machine
    machine.step(from_peer(State.DOWN), at(seconds))
    machine.step(from_peer(State.UP), at(seconds))
    made.refresh_limit()
    return made


def test_who_is_heard_is_never_due() -> None:
    wheel, one = DetectionWheel(), up_lane()
    wheel.watch(one)
    now = at(0)
    while now < at(30):
        now = Instant(now + 50 * MS)
        one.machine.seen = now
        while 0 < wheel.next_at() <= now:
            assert wheel.due(now) == []
    assert one.due_at() == now + 150 * MS


def test_silence_is_due_to_the_nanosecond() -> None:
    wheel, one = DetectionWheel(), up_lane()
    wheel.watch(one)
    one.machine.seen = Instant(at(0.1234567) + 3)
    expected = at(0.2734567) + 3
    ended = []
    looks = 0
    while not ended:
        now = wheel.next_at()
        assert 0 < now <= expected, "it slept over the end"
        ended = wheel.due(now)
        looks += 1
    assert (ended, now) == ([one], expected)
    assert looks < 6


def test_a_shorter_detection_time_is_seen() -> None:
    # Coming Up takes the detection time from seconds to milliseconds.
    wheel, one = DetectionWheel(), lane()
    one.machine.step(from_peer(State.DOWN, tx_ms=1000), at(0))
    one.refresh_limit()
    wheel.watch(one)
    assert one.placed_at == at(3)
    one.machine.step(from_peer(State.UP), at(0.5))
    one.refresh_limit()
    wheel.watch(one)
    assert one.placed_at == at(0.65)
    now = 0
    while not wheel.due(now):
        now = wheel.next_at()
    assert now == at(0.65)
    # The entry of the former time is still there and means nothing.
    assert wheel.due(at(10)) == []


def test_who_has_no_deadline_leaves() -> None:
    wheel, one = DetectionWheel(), up_lane()
    wheel.watch(one)
    one.limit = 0
    wheel.watch(one)
    assert wheel.due(at(100)) == []
    assert wheel.next_at() == 0


def test_who_is_about_to_end_is_told_of_once() -> None:
    told: list[tuple[Lane, int]] = []
    wheel = DetectionWheel(lambda lane, end: told.append((lane, end)))
    one, slow = up_lane(), up_lane(1)
    for each in (one, slow):
        wheel.watch(each)
    now = 0
    while not told:
        now = wheel.next_at()
        assert wheel.due(now) == []
        if now >= at(0.1):
            slow.machine.seen = at(0.1)
    assert (told, now) == ([(one, at(0.15))], at(0.148)), "2 ms before its end, and only who was not heard"
    # Heard at the last moment: nothing ends, and the next time it is told of anew.
    one.machine.seen = at(0.149)
    slow.machine.seen = at(0.28)
    ended: list[Lane] = []
    while not ended:
        now = wheel.next_at()
        ended = wheel.due(now)
    assert (told[1:], ended, now) == ([(one, at(0.299))], [one], at(0.299))


def test_a_process_that_stood_still_has_nothing_to_foresee() -> None:
    told: list[Lane] = []
    wheel, one = DetectionWheel(lambda lane, _: told.append(lane)), up_lane()
    wheel.watch(one)
    assert wheel.due(at(1)) == [one]
    assert told == []


def test_the_time_to_prepare_is_a_part_of_the_detection_time() -> None:
    leads = []
    for interval_ms in (3.3, 10, 50, 1000):
        made = lane(0, config(interval_ms, interval_ms))
        for state in (State.DOWN, State.UP):
            made.machine.step(from_peer(state, tx_ms=interval_ms), at(0))
        made.refresh_limit()
        leads.append(made.lead)
    assert leads == [495_000, 1_500_000, 2 * MS, 2 * MS]
    made.machine.step(PathLost(), at(0.01))
    made.refresh_limit()
    assert made.lead == 0, "only a session that is Up falters"


class Room:
    """What a vigil tells, and a lane that is heard when the test wants."""

    def __init__(self) -> None:
        self.told: list[Lane] = []
        self.rehearsed = 0
        self.heard: Callable[[], None] = lambda: None
        self.vigil = Vigil(lambda lane, _: self.told.append(lane), self._rehearse, self._drain)

    def _drain(self) -> None:
        self.heard()

    def _rehearse(self, lane: Lane, _now: Instant) -> None:
        self.rehearsed += 1


def faltering_lane(left_ns: int) -> tuple[Lane, int]:
    made, now = up_lane(), time.monotonic_ns()
    made.machine.seen = Instant(now - made.limit + left_ns)
    return made, now + left_ns


def test_a_vigil_ends_with_the_session() -> None:
    room = Room()
    made, end = faltering_lane(2 * MS)
    room.vigil.faltering(made, end)
    assert (room.told, made.falterings) == ([made], 1)
    assert 0 < room.vigil.next_at < end
    assert room.vigil.wait(end - 1_500_000) == end - 1_500_000, "not yet"
    before = made.machine.memory
    authenticator = made.authenticator = Authenticator(AuthType.KEYED_SHA1, (Key(1, b"x"),), 7)
    made.load(
        ControlPacket(
            state=State.UP,
            my_discriminator=1,
            your_discriminator=2,
            detect_mult=3,
            desired_min_tx_us=50_000,
            required_min_rx_us=50_000,
            authenticated=True,
        )
    )
    assert room.vigil.wait(room.vigil.next_at) >= end
    assert authenticator.sequence == 8, "no sequence number is used for a rehearsal"
    assert room.rehearsed > 0
    assert room.vigil.next_at == 0
    assert made.machine.memory == before, "what is rehearsed is forgotten"


def test_a_vigil_ends_when_the_neighbour_is_heard() -> None:
    room = Room()
    made, end = faltering_lane(3600 * S)
    room.vigil.faltering(made, end)
    room.heard = lambda: setattr(made.machine, "seen", Instant(end))
    assert room.vigil.wait(end - 1) < end


def test_of_many_that_falter_together_one_is_told_of() -> None:
    room = Room()
    lanes = [faltering_lane(2 * MS) for _ in range(5)]
    for made, end in lanes:
        room.vigil.faltering(made, end)
    assert room.told == [lanes[0][0]]
    assert [made.falterings for made, _ in lanes] == [1] * 5


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 40)), min_size=1, max_size=60), st.randoms())
def test_everyone_is_found_and_nobody_too_soon(lives: list[tuple[int, int]], chance: random.Random) -> None:
    wheel = DetectionWheel()
    lanes = [up_lane(number) for number in range(len(lives))]
    for each in lanes:
        wheel.watch(each)
    # Each is heard every so many milliseconds until its last packet.
    events = sorted(
        (at(moment / 1000), number) for number, (last, gap) in enumerate(lives) for moment in range(0, last + 1, gap)
    )
    last_heard = {number: at(0) for number in range(len(lives))}
    ended: dict[int, int] = {}
    position, now = 0, at(0)
    while len(ended) < len(lives):
        wake = wheel.next_at()
        assert wake > 0
        while position < len(events) and events[position][0] <= wake:
            when, number = events[position]
            if number not in ended:
                lanes[number].machine.seen = last_heard[number] = when
            position += 1
        now = Instant(max(now, wake) + chance.choice([0, 0, 20_000]))
        for each in wheel.due(now):
            number = lanes.index(each)
            assert now >= last_heard[number] + 150 * MS
            assert now - (last_heard[number] + 150 * MS) <= 20_000
            ended[number] = now


class Air:
    """Takes what the pacer sends. refuse: indexes that the kernel would not take."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.refuse: list[tuple[int, int]] = []

    def send(self, group: SendGroup) -> list[tuple[int, int]]:
        self.counts.append(group.count)
        return self.refuse


def test_groups_are_filled_before_new_ones_are_made() -> None:
    air = Air()
    pacer = Pacer(air.send, random.Random(1))
    lanes = [lane(number) for number in range(GROUP_SIZE + 3)]
    for each in lanes:
        pacer.join(each, 50_000, 0)
    pacer.fire(60 * MS)
    assert sorted(air.counts) == [3, GROUP_SIZE]
    assert all(each.packets_out == 1 for each in lanes)


@pytest.mark.parametrize("mult", [1, 3])
def test_every_turn_has_its_own_jitter(mult: int) -> None:
    air = Air()
    pacer = Pacer(air.send, random.Random(1))
    pacer.join(lane(0, config(mult=mult)), 50_000, 0)
    turns = []
    for _ in range(200):
        now = pacer.next_at()
        pacer.fire(now)
        turns.append(now)
    gaps = [later - earlier for earlier, later in itertools.pairwise(turns)]
    assert min(gaps) >= 37.5 * MS
    assert max(gaps) <= (45 if mult == 1 else 50) * MS
    assert len(set(gaps)) > 150


def test_a_late_turn_is_not_followed_by_a_hasty_one() -> None:
    air = Air()
    pacer = Pacer(air.send, random.Random(1))
    pacer.join(lane(), 50_000, 0)
    pacer.fire(500 * MS)
    assert pacer.next_at() >= 537.5 * MS
    assert air.counts == [1]


def test_who_leaves_is_replaced_by_the_last() -> None:
    air = Air()
    pacer = Pacer(air.send, random.Random(1))
    lanes = [lane(number) for number in range(5)]
    for each in lanes:
        pacer.join(each, 50_000, 0)
    pacer.fire(60 * MS)
    pacer.leave(lanes[1])
    group = lanes[0].group
    assert group is not None
    assert [each.index for each in group.lanes] == list(range(4))
    assert lanes[4].index == 1
    headers = bytes(group.send_group._view[: 64 * 4])
    assert headers == b"".join(each.row.header for each in group.lanes)
    pacer.fire(200 * MS)
    assert (lanes[1].packets_out, lanes[4].packets_out) == (1, 2)


def test_an_empty_group_is_gone() -> None:
    air = Air()
    pacer = Pacer(air.send, random.Random(1))
    one = lane()
    pacer.join(one, 50_000, 0)
    pacer.leave(one)
    pacer.leave(one)
    assert pacer.next_at() == 0
    pacer.fire(60 * MS)
    assert air.counts == []


def test_what_the_kernel_refuses_is_counted() -> None:
    air = Air()
    pacer = Pacer(air.send, random.Random(1))
    lanes = [lane(number) for number in range(3)]
    for each in lanes:
        pacer.join(each, 50_000, 0)
    air.refuse = [(1, 101)]
    pacer.fire(60 * MS)
    assert [each.send_errors for each in lanes] == [0, 1, 0]
    assert lanes[1].last_send_errno == 101
