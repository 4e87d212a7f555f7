"""MISC_CHECK with real programs; FILE_CHECK and BFD_CHECK by events."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from checks_lab import Lab

from holdfast.actors.bfd.messages import BfdState, BfdStateChanged
from holdfast.actors.checkers import bfd, file
from holdfast.actors.checkers.base import Outcome, Verdict
from holdfast.actors.checkers.config import BfdCheck, FileCheck, MiscCheck, Script
from holdfast.actors.checkers.kinds import checker_of
from holdfast.actors.checkers.messages import Target
from holdfast.actors.checkers.misc import MiscChecker, judge
from holdfast.actors.watch.messages import FileValue
from holdfast.bus.messages import Reason, ReasonKind
from holdfast.kernel.programs import Ended

REASON = Reason(kind=ReasonKind.STARTED, node="lb1", subject="test")


def misc(*argv: str, timeout_s: float = 10.0, dynamic: bool = False) -> MiscCheck:
    script = Script(argv=argv, user="root")
    return MiscCheck(name="m", script=script, timeout_us=round(timeout_s * 1e6), dynamic=dynamic, retry=0)


@pytest.mark.parametrize(
    ("status", "dynamic", "verdict", "weight"),
    [
        (0, False, Verdict.OK, None),
        (1, False, Verdict.FAILED, None),
        (2, False, Verdict.FAILED, None),
        (0, True, Verdict.OK, None),
        (1, True, Verdict.FAILED, None),
        (2, True, Verdict.OK, 0),
        (3, True, Verdict.OK, 1),
        (255, True, Verdict.OK, 253),
    ],
)
async def test_exit_status(tmp_path: Path, status: int, dynamic: bool, verdict: Verdict, weight: int | None):
    async with Lab(tmp_path) as lab:
        outcome = await lab.probe(misc("/bin/sh", "-c", f"exit {status}", dynamic=dynamic))
    assert (outcome.verdict, outcome.weight) == (verdict, weight), outcome.text
    assert outcome.text == f"[/bin/sh -c exit {status}] exited with status {status}"


async def test_a_program_that_hangs_is_ended_with_all_its_children(tmp_path: Path):
    mark = tmp_path / "mark"
    script = f"trap 'echo heard > {mark}; exit 0' TERM; sleep 60 & wait"
    async with Lab(tmp_path) as lab:
        outcome = await lab.probe(misc("/bin/sh", "-c", script, timeout_s=0.2))
    assert outcome.verdict is Verdict.FAILED
    assert outcome.text.endswith("timed out")
    assert mark.read_text() == "heard\n"


async def test_a_program_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from holdfast.actors.checkers import misc as module

    monkeypatch.setattr(module, "KILL_AFTER", 100_000_000)
    async with Lab(tmp_path) as lab:
        outcome = await lab.probe(misc("/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done", timeout_s=0.2))
    assert outcome.verdict is Verdict.FAILED
    assert outcome.text.endswith("timed out")


async def test_a_program_that_is_not_there_is_no_failure(tmp_path: Path):
    async with Lab(tmp_path) as lab:
        outcome = await lab.probe(misc("/nonexistent/check"))
    assert outcome.verdict is Verdict.NOT_RUN
    assert "cannot be accessed" in outcome.text


async def test_a_program_that_comes_later_is_run(tmp_path: Path):
    path = tmp_path / "check"
    async with Lab(tmp_path) as lab:
        checker = MiscChecker(misc(str(path)), lab.around)

        async def run() -> Outcome:
            future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            checker.probe(0, future.set_result).begin()
            return await asyncio.wait_for(future, 10)

        assert (await run()).verdict is Verdict.NOT_RUN
        path.write_text("#!/bin/sh\nexit 0\n")
        path.chmod(0o755)
        assert (await run()).verdict is Verdict.OK


class SlowPrograms:
    """A helper that takes its time to start programs, and whose programs end when they are told to."""

    pid: int | None = None

    def __init__(self) -> None:
        self.signals: list[int] = []

    def start(self, program: object, ended: Callable[[Ended], None], **_: object) -> SlowPrograms:
        self.ended = ended
        return self

    def signal(self, number: int) -> None:
        self.signals.append(number)
        self.ended(Ended(signal=number))


async def test_the_time_before_the_program_starts_is_not_its_own(tmp_path: Path):
    async with Lab(tmp_path) as lab:
        lab.around.programs = slow = SlowPrograms()  # type: ignore[assignment]
        run = asyncio.ensure_future(lab.probe(misc("/bin/true", timeout_s=0.1)))
        await asyncio.sleep(0.25)
        assert slow.signals == []
        slow.pid = 4711
        outcome = await run
    assert outcome.text.endswith("timed out")
    assert slow.signals == [signal.SIGTERM]


@pytest.mark.parametrize(
    ("ended", "verdict"),
    [
        (Ended(signal=signal.SIGSEGV), Verdict.FAILED),
        (Ended(problem="exec: No such file"), Verdict.NOT_RUN),
        (Ended(exit_status=0), Verdict.OK),
    ],
)
def test_endings(ended: Ended, verdict: Verdict):
    assert judge(ended, timed_out=False, dynamic=True, name="x").verdict is verdict
    assert judge(ended, timed_out=True, dynamic=True, name="x").verdict is Verdict.FAILED


async def test_misc_log_words(tmp_path: Path):
    target = Target("m", "[10.0.0.1]:tcp:80", "[10.0.0.2]:tcp:80")
    async with Lab(tmp_path) as lab:
        checker = MiscChecker(misc("/bin/check", "-a"), lab.around)
        often = MiscChecker(msgspec.structs.replace(misc("/bin/check", "-a"), retry=2), lab.around)
    bad = judge(Ended(exit_status=3), timed_out=False, dynamic=False, name="/bin/check -a")
    slow = judge(Ended(exit_status=3), timed_out=True, dynamic=False, name="/bin/check -a")
    start = "Misc check for [[10.0.0.2]:tcp:80 VS [10.0.0.1]:tcp:80] by [/bin/check -a] "
    assert checker.success_words(target, bad) == f"{start}succeeded."
    # As keepalived 2.2.7 writes them.
    assert often.failure_words(target, bad, 0) == f"{start}failed after 2 retries (exited with status 3)."
    assert checker.failure_words(target, bad, 0) == f"{start}failed with retry disabled (exited with status 3)."
    assert checker.failure_words(target, slow, 0) == f"{start}timed out with retry disabled."


@pytest.mark.parametrize(
    ("value", "weight", "reverse", "verdict", "added"),
    [
        (0, 0, False, Verdict.OK, 0),
        (1, 0, False, Verdict.FAILED, 0),
        (-7, 0, False, Verdict.FAILED, 0),
        (0, 0, True, Verdict.FAILED, 0),
        (1, 0, True, Verdict.OK, 0),
        (5, 2, False, Verdict.OK, 10),
        (5, 2, True, Verdict.OK, -10),
        (-5, 2, False, Verdict.OK, -10),
        (-(2**31), 1, False, Verdict.FAILED, 0),
        (2**31 - 1, -1, False, Verdict.OK, -(2**31 - 1)),
        (2**31 - 1, -2, False, Verdict.FAILED, 0),
        (2**31 - 1, 2, True, Verdict.FAILED, 0),
        (2**31 - 1, 9, False, Verdict.OK, 2**31 - 1),
    ],
)
def test_file_values(value: int, weight: int, reverse: bool, verdict: Verdict, added: int):
    outcome = file.judge(value, weight, reverse, "f")
    assert (outcome.verdict, outcome.weight_add) == (verdict, added)


async def test_file_check_follows_its_file(tmp_path: Path):
    async with Lab(tmp_path) as lab:
        lab.bus.publish("file/load", "state", FileValue(file="load", path="/x", value=3, reason=REASON))
        lab.bus.publish("file/load2", "state", FileValue(file="load2", path="/y", value=9, reason=REASON))
        check = FileCheck(name="f", track_file="load", path="/x", weight=2)
        told: list[int] = []
        subscription = checker_of(check)(check, lab.around).follow(lambda outcome, _: told.append(outcome.weight_add))
        lab.bus.publish("file/load", "state", FileValue(file="load", path="/x", value=-1, reason=REASON))
        subscription.close()
        lab.bus.publish("file/load", "state", FileValue(file="load", path="/x", value=8, reason=REASON))
    assert told == [6, -2]


def session(state: BfdState, *, tracker_up: bool, checker: bool = True) -> BfdStateChanged:
    return BfdStateChanged(
        session="s1",
        old=BfdState.DOWN,
        state=state,
        tracker_up=tracker_up,
        reason=REASON,
        since_mono_ns=0,
        neighbor="10.0.0.9",
        local_diagnostic="Control Detection Time Expired",
        remote_diagnostic="",
        detection_us=0,
        checker=checker,
    )


async def test_bfd_check_follows_its_session(tmp_path: Path):
    async with Lab(tmp_path) as lab:
        check = BfdCheck(name="b", instance="s1")
        told: list[Outcome] = []
        subscription = checker_of(check)(check, lab.around).follow(lambda outcome, _: told.append(outcome))
        lab.bus.publish("bfd/s1", "state", session(BfdState.UP, tracker_up=True))
        lab.bus.publish("bfd/s1", "state", session(BfdState.DOWN, tracker_up=False))
        lab.bus.publish("bfd/s1", "state", session(BfdState.ADMIN_DOWN, tracker_up=True))
        lab.bus.publish("bfd/s1", "state", session(BfdState.DELETED, tracker_up=False))
        lab.bus.publish("bfd/s1", "state", session(BfdState.DOWN, tracker_up=False, checker=False))
        subscription.close()
    assert [each.verdict for each in told] == [Verdict.OK, Verdict.FAILED, Verdict.OK]
    assert told[1].text == "BFD session s1 with 10.0.0.9 is Down (Control Detection Time Expired)"


def test_words_of_bfd():
    target = Target("b", "[10.0.0.1]:tcp:80", "[10.0.0.2]:tcp:80")
    check = BfdCheck(name="b", instance="s1")
    checker = bfd.BfdChecker(check, None)  # type: ignore[arg-type]
    outcome = Outcome(Verdict.OK)
    assert checker.success_words(target, outcome) == "BFD check of [s1] RS([10.0.0.2]:tcp:80) is UP"
    assert checker.failure_words(target, outcome, 0) == "BFD check of [s1] RS([10.0.0.2]:tcp:80) is DOWN"
