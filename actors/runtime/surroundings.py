"""What keepalived's configuration says about the daemon as a whole, carried out by the supervisor: where it runs, how
its files look, and the scripts at its beginning and end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path

from holdfast.actors.runtime.process import StartError
from holdfast.actors.runtime.programs import judge
from holdfast.config.values import ProcessOptions, Script
from holdfast.kernel.base import KernelError
from holdfast.kernel.privileges import enter_network_namespace
from holdfast.kernel.programs import Ended, ProgramRunner

log = logging.getLogger(__name__)

KILL_AFTER_S = 1.0
HURRIED_NICE = -20
FIRST_NICE = -10
"""Of the cells that addresses and services wait for, at an ordinary start: on one processor nine tenths of it."""
NICE_VARIABLE = "HOLDFAST_NICE"


class Hurry:
    """The first second after a crash, ahead of ordinary processes: addresses wait for us until their leases run out.

    The command line has begun it (cli/hurry.py) before it loaded this program; `over` gives the priority back.
    """

    def __init__(self) -> None:
        nice = os.environ.pop(NICE_VARIABLE, "")
        self._nice = int(nice) if nice else None

    @property
    def on(self) -> bool:
        """Whether it lasts."""
        return self._nice is not None

    def over(self) -> None:
        """All cells are started."""
        if self._nice is not None:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, self._nice)
            self._nice = None


def enter(options: ProcessOptions) -> None:
    """Before anything is opened: the umask and the network namespace. Raises StartError."""
    if options.umask is not None:
        os.umask(options.umask)
    if options.net_namespace is not None:
        try:
            enter_network_namespace(options.net_namespace)
        except KernelError as error:
            raise StartError(f"net_namespace {options.net_namespace}: {error}") from None


def run_directory(default: Path, options: ProcessOptions) -> Path:
    """The run directory of a daemon that was given none: each instance and each network namespace has its own, as
    keepalived's pid files have."""
    names = [name for name in (options.net_namespace, options.instance) if name]
    return default.joinpath("_".join(name.replace("/", "-") for name in names)) if names else default


async def run_script(what: str, script: Script | None, timeout_s: float, options: ProcessOptions) -> None:
    """The startup or shutdown script: waited for, ended when it takes too long. What goes wrong is said, no more."""
    if script is None:
        return
    loop = asyncio.get_running_loop()
    # It looks into files and user databases; nothing else waits, and a thread would be in the way of forks.
    access = judge(script, options.scripts)
    for warning in access.warnings:
        log.warning("%s %s: %s", what, script, warning)
    if access.program is None:
        log.error("%s %s: %s", what, script, access.problem)
        return
    runner = ProgramRunner(loop)
    try:
        ended: asyncio.Future[Ended] = loop.create_future()
        run = runner.start(access.program, ended.set_result)
        try:
            how = await asyncio.wait_for(asyncio.shield(ended), timeout_s)
        except TimeoutError:
            log.error("%s %s was ended: it ran for more than %g s", what, script, timeout_s)
            run.signal(signal.SIGTERM)
            done, _ = await asyncio.wait([ended], timeout=KILL_AFTER_S)
            if not done:
                run.signal(signal.SIGKILL)
                await asyncio.wait([ended], timeout=KILL_AFTER_S)
            return
        if not how.ok:
            status = how.problem or (f"signal {how.signal}" if how.signal else f"exit status {how.exit_status}")
            log.warning("%s %s: %s", what, script, status)
    finally:
        await runner.close()
