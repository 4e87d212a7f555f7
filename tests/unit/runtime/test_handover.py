"""What one version leaves to the next, and what happens when that does not get ready."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.actors.runtime import handover
from holdfast.actors.runtime.context import CellContext
from holdfast.bus.codec import encode


def command(code: str, folder: Path) -> handover.Command:
    return handover.Command((sys.executable, "-c", code), str(folder))


def test_a_version_that_gets_ready_is_nothing_to_speak_of(tmp_path: Path) -> None:
    assert asyncio.run(handover.probe(command("", tmp_path))) == ""


def test_one_that_does_not_says_why_in_its_last_lines(tmp_path: Path) -> None:
    code = "for n in range(50): print('line', n)\nraise SystemExit(6)"
    problem = asyncio.run(handover.probe(command(code, tmp_path))).splitlines()
    assert problem[0] == "the new version does not get ready (exit code 6)"
    assert problem[-1] == "line 49"
    assert len(problem) == 13


def test_one_that_is_not_there_says_so(tmp_path: Path) -> None:
    gone = handover.Command((str(tmp_path / "python"),), str(tmp_path))
    assert asyncio.run(handover.probe(gone)) == f"{tmp_path}/python: No such file or directory"


def test_one_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "PROBE_TIMEOUT_S", 0.3)
    mark = tmp_path / "pid"
    code = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    assert asyncio.run(handover.probe(command(code, tmp_path))) == "the new version was not ready within 0.3 s"
    if mark.exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int(mark.read_text()), 0)


def test_a_probe_knows_that_it_is_one_and_where_it_runs(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "from holdfast.actors.runtime import handover\n"
        f"assert handover.probing() and os.getcwd() == {str(tmp_path)!r}"
    )
    assert asyncio.run(handover.probe(command(code, tmp_path))) == ""
    assert not handover.probing()


def test_what_is_left_comes_back_with_its_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, orders = os.pipe()
    os.set_inheritable(lock, True)
    os.set_inheritable(orders, True)
    state = handover.HandOver(lock, 7, (handover.Adopted("protocol", 4711, orders, 2),))
    monkeypatch.setenv(handover.STATE_VARIABLE, encode(state).hex())
    assert handover.taking_over()
    assert handover.left() == state
    assert not os.get_inheritable(lock)
    assert not os.get_inheritable(orders)
    assert handover.left() is None, "it is taken once, and no child inherits it"
    os.close(lock)
    os.close(orders)


def test_the_new_version_has_the_process_its_descriptors_and_the_signals_that_waited(tmp_path: Path) -> None:
    """In a process of its own, since that is replaced."""
    new = (
        "import os, signal\n"
        "from holdfast.actors.runtime import handover\n"
        "state = handover.left()\n"
        "heard = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: heard.append('TERM'))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "before = list(heard)\n"
        "handover.go_on()\n"
        "print(os.getpid(), state.number, os.read(state.cells[0].fd, 9), before, heard, os.environ['NOTIFY_SOCKET'])\n"
    )
    old = (
        "import os, sys\n"
        "from holdfast.actors.runtime import handover\n"
        "lock, there = os.pipe()\n"
        "orders, theirs = os.pipe()\n"
        "os.write(theirs, b'an order')\n"
        "state = handover.HandOver(lock, 3, (handover.Adopted('protocol', 1, orders, 0),))\n"
        f"command = handover.Command((sys.executable, '-c', {new!r}), {str(tmp_path)!r})\n"
        "print(os.getpid(), flush=True)\n"
        "handover.become(command, state, {'NOTIFY_SOCKET': '/run/x'})\n"
    )
    lines = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[1] == f"{lines[0]} 3 b'an order' [] ['TERM'] /run/x"


def test_a_version_that_cannot_be_executed_leaves_all_as_it_was(tmp_path: Path) -> None:
    lock, orders = os.pipe()
    folder = os.getcwd()
    state = handover.HandOver(lock, 3, (handover.Adopted("protocol", 1, orders, 0),))
    with pytest.raises(FileNotFoundError):
        handover.become(handover.Command((str(tmp_path / "python"),), str(tmp_path)), state, {})
    assert os.getcwd() == folder
    assert not os.get_inheritable(lock)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(handover.HELD)
    os.close(lock)
    os.close(orders)


def test_hand_over_hooks_wait_side_by_side_and_a_failure_stops_none() -> None:
    told: list[str] = []

    async def slow() -> None:
        await asyncio.sleep(0)
        told.append("slow")

    def broken() -> None:
        raise RuntimeError("broken")

    context = CellContext.__new__(CellContext)
    context._hand_over_hooks = [slow, broken, lambda: told.append("quick")]
    asyncio.run(context.run_hand_over_hooks())
    assert sorted(told) == ["quick", "slow"]
