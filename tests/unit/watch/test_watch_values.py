"""The pure parts for files, links and processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.actors.runtime.machine import Instant, seconds
from holdfast.actors.watch.config import LinkDelay, TrackFile, TrackProcess
from holdfast.actors.watch.file import FileMachine, parse_number
from holdfast.actors.watch.link import GONE, LinkMachine, LinkSeen
from holdfast.actors.watch.process import Process, ProcessMachine, ProcessTable, matches
from holdfast.bus.messages import ReasonKind


def at(value: float) -> Instant:
    return Instant(seconds(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"", 0),
        (b"\n", 0),
        (b"5", 5),
        (b"-5\n", -5),
        (b"+7", 7),
        (b"  \t\n 12 34", 12),
        (b"12abc", 12),
        (b"abc", 0),
        (b"0x10", 16),
        (b"0X1f ", 31),
        (b"-0x10", -16),
        (b"010", 8),
        (b"08", 0),
        (b"0x", 0),
        (b"0xg", 0),
        (b"0", 0),
        (b"-", 0),
        (b"--5", 0),
        (b"2147483647", 2147483647),
        (b"-2147483648", -2147483648),
        (b"2147483648", None),
        (b"-2147483649", None),
        (b"99999999999999999999", None),
        (b"5\x00\x00", 5),
        (b"1e3", 1),
    ],
)
def test_numbers_are_read_in_c_notation(text: bytes, value: int | None) -> None:
    assert parse_number(text) == value


@given(st.binary(max_size=300))
def test_any_bytes_give_a_number_or_none(text: bytes) -> None:
    value = parse_number(text)
    assert value is None or -(2**31) <= value < 2**31


@given(st.integers(-(2**31), 2**31 - 1))
def test_decimal_numbers_come_back(value: int) -> None:
    assert parse_number(str(value).encode() + b"\n") == value


def test_a_file_is_told_when_its_value_changes_and_only_then() -> None:
    machine = FileMachine(TrackFile(name="f", path="/run/f"), node="lb1")
    first = machine.changed(b"10\n", at(1))
    assert first is not None and (first.value, first.readable) == (10, True)
    assert machine.changed(b"10", at(2)) is None
    second = machine.changed(b"-3", at(3))
    assert second is not None and second.value == -3
    assert second.reason.kind is ReasonKind.FILE_VALUE and second.reason.evidence["old"] == 10


def test_a_missing_file_is_zero() -> None:
    machine = FileMachine(TrackFile(name="f", path="/run/f"), node="lb1")
    first = machine.changed(None, at(1))
    assert first is not None and (first.value, first.readable) == (0, False)
    second = machine.changed(b"0", at(2))
    assert second is not None and second.readable and second.since_mono_ns == first.since_mono_ns


def test_a_number_out_of_range_is_ignored() -> None:
    machine = FileMachine(TrackFile(name="f", path="/run/f"), node="lb1")
    machine.changed(b"10", at(1))
    assert machine.changed(b"99999999999", at(2)) is None
    assert machine.last is not None and machine.last.value == 10


def test_a_file_restored_after_a_crash_says_nothing_when_nothing_changed() -> None:
    file = TrackFile(name="f", path="/run/f")
    before = FileMachine(file, node="lb1").changed(b"7", at(1))
    assert FileMachine(file, node="lb1", before=before).changed(b"7", at(9)) is None


UP = LinkSeen(exists=True, raw_up=True, ifindex=4, mtu=1500, mac="02:00:00:00:00:01")
DOWN = LinkSeen(exists=True, raw_up=False, ifindex=4, mtu=1500, mac="02:00:00:00:00:01")


def test_without_delays_a_link_changes_at_once() -> None:
    machine = LinkMachine("eth0", node="lb1")
    first = machine.seen(UP, at(0))
    assert first is not None and first.up and first.reason.kind is ReasonKind.LINK_UP
    second = machine.seen(DOWN, at(1))
    assert second is not None and not second.up and second.reason.kind is ReasonKind.LINK_DOWN
    assert machine.deadline is None


def test_delays_hold_a_change_back() -> None:
    machine = LinkMachine("eth0", node="lb1", delay=LinkDelay(interface="eth0", down_us=500_000, up_us=2_000_000))
    machine.seen(UP, at(0))
    held = machine.seen(DOWN, at(10))
    assert held is not None and held.up and not held.raw_up
    assert machine.deadline == at(10.5)
    assert machine.due(at(10.4)) is None
    fell = machine.due(at(10.5))
    assert fell is not None and not fell.up and fell.reason.evidence["for_s"] == 0.5
    machine.seen(UP, at(20))
    assert machine.deadline == at(22)


def test_a_change_taken_back_in_time_was_none() -> None:
    machine = LinkMachine("eth0", node="lb1", delay=LinkDelay(interface="eth0", down_us=500_000))
    machine.seen(UP, at(0))
    machine.seen(DOWN, at(10))
    back = machine.seen(UP, at(10.3))
    assert back is not None and back.up and machine.deadline is None
    machine.seen(DOWN, at(10.4))
    assert machine.deadline == at(10.9)


def test_a_link_that_vanishes_is_down_without_delay() -> None:
    machine = LinkMachine("eth0", node="lb1", delay=LinkDelay(interface="eth0", down_us=500_000, up_us=500_000))
    machine.seen(UP, at(0))
    gone = machine.seen(GONE, at(1))
    assert gone is not None and not gone.up and not gone.exists
    assert gone.reason.kind is ReasonKind.LINK_MISSING
    machine.seen(UP, at(2))
    assert machine.deadline == at(2.5)


@pytest.mark.parametrize(
    ("options", "comm", "argv", "expected"),
    [
        ({"path": "haproxy"}, "haproxy", ("/usr/sbin/haproxy", "-W"), True),
        ({"path": "haproxy"}, "haproxy2", ("haproxy",), False),
        ({"path": "a-name-longer-than-15"}, "a-name-longer-t", (), True),
        ({"path": "kthreadd"}, "kthreadd", (), True),
        ({"path": "/usr/sbin/haproxy", "full_command": True}, "haproxy", ("/usr/sbin/haproxy", "-W"), True),
        ({"path": "haproxy", "full_command": True}, "haproxy", ("/usr/sbin/haproxy", "-W"), False),
        ({"path": "x", "full_command": True}, "x", (), False),
        ({"path": "p", "parameters": ("-f", "c")}, "q", ("p", "-f", "c"), True),
        ({"path": "p", "parameters": ("-f", "c")}, "q", ("p", "-f", "cc"), False),
        ({"path": "p", "parameters": ("-f", "c")}, "q", ("p", "-f", "c", "d"), False),
        ({"path": "p", "parameters": (), "param_match": "exact"}, "q", ("p",), True),
        ({"path": "p", "parameters": (), "param_match": "exact"}, "q", ("p", "-f"), False),
        ({"path": "p", "parameters": ("-f",), "param_match": "partial"}, "q", ("p", "-f", "c"), True),
        ({"path": "p", "parameters": ("-f",), "param_match": "partial"}, "q", ("p", "-g", "c"), False),
        ({"path": "p", "parameters": ("-f", "/etc"), "param_match": "initial"}, "q", ("p", "-f", "/etc/a"), True),
        ({"path": "p", "parameters": ("-f", "/etc"), "param_match": "initial"}, "q", ("p", "-fx", "/etc/a"), False),
        ({"path": "p", "parameters": ("-f", "/etc"), "param_match": "initial"}, "q", ("p", "-f"), False),
    ],
)
def test_which_processes_are_counted(
    options: dict[str, object], comm: str, argv: tuple[str, ...], expected: bool
) -> None:
    track = TrackProcess(name="t", **options)  # type: ignore[arg-type]
    assert matches(track, Process(comm, argv)) is expected


def test_the_table_counts_what_came_and_went() -> None:
    table = ProcessTable([TrackProcess(name="web", path="nginx"), TrackProcess(name="lb", path="haproxy")])
    assert not table.needs_command
    table.replace_all([(10, Process("nginx")), (11, Process("nginx")), (12, Process("sh"))])
    assert (table.count("web"), table.count("lb")) == (2, 0)
    assert table.seen(12, Process("haproxy")) == [("lb", 1)]
    assert table.seen(11, Process("haproxy")) == [("web", -1), ("lb", 1)]
    assert table.forked(10, 20) == [("web", 1)]
    assert table.forked(99, 21) == []
    assert table.gone(10) == [("web", -1)]
    assert table.gone(10) == []
    assert table.seen(20, Process("sh")) == [("web", -1)]
    assert (table.count("web"), table.count("lb")) == (0, 2)


def test_quorum_without_delays() -> None:
    machine = ProcessMachine(TrackProcess(name="w", path="w", quorum=2), node="lb1")
    first = machine.counted(1, at(0))
    assert first is not None and not first.achieved
    second = machine.counted(2, at(1))
    assert second is not None and second.achieved and second.reason.evidence["count"] == 2
    assert machine.counted(3, at(2)) is None


def test_quorum_max_and_the_process_that_must_not_run() -> None:
    machine = ProcessMachine(TrackProcess(name="w", path="w", quorum=1, quorum_max=0), node="lb1")
    first = machine.counted(0, at(0))
    assert first is not None and first.achieved
    second = machine.counted(1, at(1))
    assert second is not None and not second.achieved
    both = ProcessMachine(TrackProcess(name="w", path="w", quorum=1, quorum_max=2), node="lb1")
    verdicts = [event.achieved for count in (0, 1, 2, 3) if (event := both.counted(count, at(count))) is not None]
    assert verdicts == [False, True, False]


def test_delays_of_fork_and_terminate() -> None:
    track = TrackProcess(name="w", path="w", fork_delay_us=500_000, terminate_delay_us=2_000_000)
    machine = ProcessMachine(track, node="lb1")
    first = machine.counted(1, at(0))
    assert first is not None and first.achieved
    assert machine.counted(0, at(1)) is None
    assert machine.deadline == at(3)
    assert machine.counted(1, at(2)) is None  # back in time: nothing happened
    assert machine.deadline is None
    machine.counted(0, at(5))
    lost = machine.due(at(7))
    assert lost is not None and not lost.achieved
    assert machine.counted(1, at(8)) is None
    assert machine.due(at(8.4)) is None
    gained = machine.due(at(8.5))
    assert gained is not None and gained.achieved
