"""How a dead child is noticed, and how it is buried without standing in anybody's way."""

from __future__ import annotations

import os
from typing import Final

_REAL_TIME: Final = (os.SCHED_FIFO, os.SCHED_RR)


def exit_code_of(pid: int) -> int | None:
    """The exit code of a child that has ended and is not buried, -N for signal N; None: it lives. 0 when somebody else
    has buried it."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def bury(pid: int) -> None:
    """Takes an ended child out of the process table, as an ordinary process.

    The kernel then clears the child's directory in /proc, and spins while a thread of the child that is still on its
    way out does the same. Such a thread is an ordinary one: on its processor a real-time process would spin until
    the kernel throttles it, which is most of a second (sched_rt_runtime_us; seen with Linux 6.18).
    """
    policy = os.sched_getscheduler(0)
    real_time = policy & ~os.SCHED_RESET_ON_FORK in _REAL_TIME
    parameters = os.sched_getparam(0)
    if real_time:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass
    finally:
        if real_time:
            os.sched_setscheduler(0, policy, parameters)
