"""What an actor tells the bus of its session's life."""

from __future__ import annotations

import asyncio
import logging

import pytest
from bfd_play import config

from holdfast.actors.bfd.facts import Cause, Changed
from holdfast.actors.bfd.messages import BfdFaltering, BfdState, BfdStateChanged
from holdfast.actors.bfd.packet import State
from holdfast.actors.bfd.profiles import SessionSpec
from holdfast.actors.bfd.session_actor import Faltering, Happened, Removed, SessionActor
from holdfast.actors.runtime.actor import Mailroom
from holdfast.actors.runtime.machine import MS, Duration
from holdfast.bus.fake import FakeBus
from holdfast.bus.messages import ReasonKind

SPEC = SessionSpec(
    name="b0",
    neighbor=bytes([10, 0, 0, 2]),
    source=None,
    multihop=False,
    ttl=255,
    min_ttl=255,
    interface="",
    check_source=True,
    config=config(),
    auth_type=None,
    keys=(),
    disabled=False,
    vrrp=True,
    checker=False,
)


def happened(old: State, new: State, cause: Cause, *, tracker_up: bool = False, diagnostic: int = 0) -> Happened:
    changed = Changed(old, new, cause, Duration(161 * MS), Duration(150 * MS), 3)
    return Happened(changed, 12_345, tracker_up, diagnostic, 0)


STARTED = happened(State.DOWN, State.DOWN, Cause.STARTED)
CAME_UP = happened(State.INIT, State.UP, Cause.HANDSHAKE, tracker_up=True)
SILENT = happened(State.UP, State.DOWN, Cause.SILENT, diagnostic=1)


async def told(*messages: object, before: BfdStateChanged | None = None) -> tuple[FakeBus, list[BfdStateChanged]]:
    bus = FakeBus()
    room = Mailroom(asyncio.get_running_loop())
    room.open()
    ref = SessionActor.start(SPEC, bus=bus, told=before)
    for message in messages:
        ref.tell(message)
    for _ in range(5):
        await asyncio.sleep(0)
    room.close()
    return bus, [event for event in bus.events(BfdStateChanged) if isinstance(event, BfdStateChanged)]


async def test_the_start_is_told_as_down() -> None:
    _, events = await told(STARTED)
    assert [(each.old, each.state, each.tracker_up) for each in events] == [(BfdState.DOWN, BfdState.DOWN, False)]
    assert events[0].reason.kind is ReasonKind.STARTED
    assert (events[0].vrrp, events[0].checker) == (True, False)


async def test_up_and_the_loss_with_its_evidence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _, events = await told(STARTED, CAME_UP, SILENT)
    assert [(each.old, each.state) for each in events[1:]] == [
        (BfdState.DOWN, BfdState.UP),
        (BfdState.UP, BfdState.DOWN),
    ]
    assert [each.reason.kind for each in events[1:]] == [ReasonKind.BFD_UP, ReasonKind.BFD_DOWN]
    assert events[2].reason.subject == "bfd/b0"
    assert events[2].reason.evidence == {
        "cause": "detection time expired",
        "neighbor": "10.0.0.2",
        "last_packet_s": 0.161,
        "detection_s": 0.15,
        "interval_s": 0.05,
        "missed": 3,
        "local_diagnostic": "Control Detection Time Expired",
    }
    assert caplog.messages == [
        "(b0) Entering Up state",
        "(b0) Expired after 161 ms (11000 usec overdue)",
        "(b0) Entering Down state (Local diagnostic - Control Detection Time Expired, "
        "Remote diagnostic - No Diagnostic)",
    ]


async def test_init_that_comes_and_goes_is_passed_over() -> None:
    _, events = await told(
        STARTED,
        happened(State.DOWN, State.INIT, Cause.HANDSHAKE),
        happened(State.INIT, State.DOWN, Cause.SILENT),
        happened(State.DOWN, State.INIT, Cause.HANDSHAKE),
    )
    assert len(events) == 1


async def test_a_restored_session_repeats_what_was_told() -> None:
    _, first = await told(STARTED, CAME_UP)
    restored = happened(State.UP, State.UP, Cause.RESTORED, tracker_up=True)
    _, events = await told(restored, before=first[-1])
    assert events == [first[-1]]


async def test_removal_is_told_and_nothing_is_kept() -> None:
    bus, events = await told(STARTED, CAME_UP, Removed())
    assert events[-1].state is BfdState.DELETED
    assert events[-1].reason.kind is ReasonKind.RELOAD
    assert bus.retained("bfd/") == []


async def test_a_session_that_falters_is_told_and_not_kept() -> None:
    bus, events = await told(STARTED, CAME_UP, Faltering(148 * MS, 150 * MS, 2 * MS))
    assert len(events) == 2
    assert bus.published[-1].event == BfdFaltering(session="b0", silent_us=148_000, detection_us=150_000, left_us=2_000)
    assert [each.aspect for each in bus.retained("bfd/")] == ["state"]
