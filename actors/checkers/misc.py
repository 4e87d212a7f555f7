"""MISC_CHECK: a program's exit status, and with misc_dynamic the weight it asks for."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

import msgspec

from holdfast.actors.checkers.base import Outcome, Schedule, Verdict, failed, not_run
from holdfast.actors.checkers.config import MiscCheck
from holdfast.actors.checkers.kinds import Checker, Surroundings, plain_schedule
from holdfast.actors.checkers.messages import Target
from holdfast.actors.checkers.sockets import Probe
from holdfast.actors.runtime.machine import MS, US, Duration, Instant, S, later
from holdfast.actors.runtime.programs import judge as may_run
from holdfast.kernel.program_access import Access
from holdfast.kernel.programs import Ended, Run

log = logging.getLogger(__name__)

KILL_AFTER = Duration(2 * S)
"""How long a program that ran into misc_timeout has to heed TERM before it is killed."""

_LOOK_AGAIN = Duration(20 * MS)
_START_WITHIN = Duration(10 * S)
"""What starting a program may take beside misc_timeout, before the run is given up."""


def judge(ended: Ended, *, timed_out: bool, dynamic: bool, name: str) -> Outcome:
    """What the end of a program says (keepalived.conf(5), MISC_CHECK).

    0: good. dynamic: 2..255 is good and asks for that weight less 2. Everything else is a failure, but that it could
    not be started at all.
    """
    seconds = round(ended.took_ns / S, 6)
    if timed_out:
        return failed(f"[{name}] timed out", took_s=seconds)
    if ended.problem is not None:
        return not_run(f"[{name}] could not be run: {ended.problem}")
    if ended.signal is not None:
        return failed(f"[{name}] was killed by signal {ended.signal}", signal=ended.signal, took_s=seconds)
    status = ended.exit_status or 0
    text = f"[{name}] exited with status {status}"
    if status == 0:
        return Outcome(Verdict.OK, text, {"exit_status": 0, "took_s": seconds})
    if dynamic and status >= 2:
        return Outcome(Verdict.OK, text, {"exit_status": status, "took_s": seconds}, weight=status - 2)
    return failed(text, exit_status=status, took_s=seconds)


class MiscProbe(Probe):
    """One run of the program."""

    __slots__ = ("_checker", "_forced", "_over", "_run", "_started", "_timed_out")

    def __init__(self, checker: MiscChecker, done: Callable[[Outcome], None]) -> None:
        super().__init__(done)
        self._checker = checker
        self._run: Run | None = None
        self._timed_out = False
        self._forced = False
        self._started = False
        self._over = False

    def begin(self) -> None:
        access = self._checker.access
        if access is not None and access.program is not None:
            self._start(access)
            return
        # Users and files may be slow to look up (a directory service, a network file system): not on the loop.
        task = self._checker.around.loop.create_task(self._look_up())
        self._checker.tasks.add(task)
        task.add_done_callback(self._checker.tasks.discard)

    async def _look_up(self) -> None:
        access = await asyncio.to_thread(self._checker.prepare)
        if not self._over:
            self._checker.access = access
            self._start(access)

    def _start(self, access: Access) -> None:
        if access.program is None:
            self._finish(not_run(access.problem or f"[{self._checker.spec.script}] may not be run"))
            return
        around = self._checker.around
        if around.programs is None:
            self._finish(not_run("this cell starts no programs"))
            return
        self._run = around.programs.start(access.program, self._ended)
        self._set(_LOOK_AGAIN)

    def cancel(self) -> None:
        if self._over:
            return
        self._close()
        if self._run is not None:
            self._run.signal(signal.SIGKILL)

    def _set(self, span: Duration) -> None:
        timers = self._checker.around.poller.timers
        timers.set(self, later(timers.now(), span), self._deadline)

    def _deadline(self, _now: Instant) -> None:
        if self._over or self._run is None:
            return
        if self._run.pid is None:
            # The helper that starts programs has not come to it yet (its own start, a busy host): that is not the
            # program's time.
            self._set(_LOOK_AGAIN)
        elif not self._started:
            self._started = True
            self._set(Duration(self._checker.spec.timeout_us * US))
        elif not self._timed_out:
            self._timed_out = True
            self._set(KILL_AFTER)
            self._run.signal(signal.SIGTERM)
        elif not self._forced:
            self._forced = True
            self._run.signal(signal.SIGKILL)

    def _ended(self, ended: Ended) -> None:
        spec = self._checker.spec
        self._finish(judge(ended, timed_out=self._timed_out, dynamic=spec.dynamic, name=str(spec.script)))

    def _finish(self, outcome: Outcome) -> None:
        if not self._over:
            self._close()
            self._done(outcome)

    def _close(self) -> None:
        self._over = True
        self._checker.around.poller.timers.set(self, None, self._deadline)


class MiscChecker(Checker[MiscCheck]):
    """Somebody else's program."""

    spec_type = MiscCheck
    label = "Misc check"
    not_identity = {"timeout_us": 0}  # noqa: RUF012 - a ClassVar of the base

    def __init__(self, spec: MiscCheck, around: Surroundings) -> None:
        super().__init__(spec, around)
        self.access: Access | None = None
        """Looked up at the first run; again at each run while the program may not be run."""
        self.tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def target_of(cls, spec: MiscCheck) -> str:
        return spec.script.argv[0].rpartition("/")[2] if spec.script.argv else "nothing"

    @classmethod
    def schedule_of(cls, spec: MiscCheck) -> Schedule:
        cap = Duration(spec.timeout_us * US + KILL_AFTER + _START_WITHIN)
        return msgspec.structs.replace(plain_schedule(spec, cap), from_start=True)

    def prepare(self) -> Access:
        """Who may run it and where it is; in a thread."""
        access = may_run(self.spec.script, self.around.settings.script_options)
        if self.access is None:
            for warning in access.warnings:
                log.warning("%s", warning)
        return access

    def probe(self, step: int, done: Callable[[Outcome], None]) -> MiscProbe:
        return MiscProbe(self, done)

    def success_words(self, target: Target, outcome: Outcome) -> str:
        return f"{self._for(target)} succeeded."

    def failure_words(self, target: Target, outcome: Outcome, retries: int) -> str:
        if "timed out" in outcome.text:
            how, why = "timed out", ""
        else:
            how, why = "failed", f" ({outcome.text.partition('] ')[2]})"
        # As keepalived: the configured retries, also for a first run that had none.
        after = f" after {self.spec.retry} retries" if self.spec.retry else " with retry disabled"
        return f"{self._for(target)} {how}{after}{why}."

    def _for(self, target: Target) -> str:
        script = self.spec.script
        return f"Misc check for [{target.real_server} VS {target.virtual_server}] by [{script}]"
