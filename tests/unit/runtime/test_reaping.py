"""A dead child is noticed without being buried, and buried as an ordinary process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from holdfast.actors.runtime.reaping import bury, exit_code_of


def test_a_child_is_noticed_and_then_buried() -> None:
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert exit_code_of(alive.pid) is None
    alive.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, alive.pid, os.WEXITED | os.WNOWAIT)
    assert exit_code_of(alive.pid) == -signal.SIGKILL
    assert exit_code_of(alive.pid) == -signal.SIGKILL  # it is still there
    bury(alive.pid)
    assert exit_code_of(alive.pid) == 0  # and now it is not
    bury(alive.pid)
    alive.wait()


def test_the_exit_code_of_one_that_ended_by_itself() -> None:
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert exit_code_of(child.pid) == 7
    bury(child.pid)
    child.wait()
