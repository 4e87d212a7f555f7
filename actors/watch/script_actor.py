"""The shell of one vrrp_script: starts it, signals it, publishes its results. The machine is in `script.py`."""

from __future__ import annotations

import logging
import signal

import msgspec

from holdfast.actors.runtime.actor import LoopActor
from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant
from holdfast.actors.watch.config import TrackScript
from holdfast.actors.watch.messages import ScriptResult
from holdfast.actors.watch.script import (
    EndRun,
    RunEnded,
    SayResult,
    SaySkipped,
    ScriptMachine,
    StartRun,
    Suspend,
    Verdict,
)
from holdfast.bus.base import Bus
from holdfast.bus.messages import Reason, ReasonKind
from holdfast.kernel.faces import Timers
from holdfast.kernel.program_access import Access
from holdfast.kernel.programs import Ended, Program, Programs, Run

log = logging.getLogger("holdfast.watch")


class Configure(msgspec.Struct, frozen=True):
    """The script as it is configured now, and what it may do. reloaded: not the first configuration of this cell."""

    script: TrackScript
    access: Access
    reloaded: bool = False


class Finish(msgspec.Struct, frozen=True):
    """The room stops: a run in progress is asked to end, no other begins."""


class ScriptActor(LoopActor):
    """See the file's first lines. restored: what the former life of this cell published last, after a crash."""

    def __init__(
        self, name: str, *, bus: Bus, timers: Timers, programs: Programs, restored: ScriptResult | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self._bus = bus
        self._timers = timers
        self._programs = programs
        self._restored = restored
        self._machine: ScriptMachine | None = None
        self._program: Program | None = None
        self._run: Run | None = None
        self._pending: Configure | None = None
        self._last: ScriptResult | None = None
        self._exit_status: int | None = None

    def on_receive(self, message: object) -> object:
        """Takes `Configure` and `Finish`."""
        match message:
            case Configure():
                self._configure(message)
            case Finish():
                if self._machine is not None:
                    self._take(Suspend(), self._timers.now())
            case _:
                raise AssertionError(message)
        return None

    def on_stop(self) -> None:
        """Removed by a reload, or the cell ends: nothing of it stays."""
        self._timers.set(self, None, self._due)
        if self._run is not None:
            self._run.signal(signal.SIGTERM)
        self._bus.forget(f"script/{self.name}", "state")

    def _configure(self, order: Configure) -> None:
        now = self._timers.now()
        if self._run is not None:
            # The run of the former definition says nothing about the new one, which waits for its end: never two.
            self._pending = order
            self._take(Suspend(), now)
            return
        script, access = order.script, order.access
        self._program = access.program
        if access.program is None:
            self._disable(access, now)
            return
        before = self._machine.verdict if self._machine is not None else self._former_verdict(script)
        self._machine = ScriptMachine(
            script, node=self._bus.node, now=now, reloaded=order.reloaded and before is None, before=before
        )
        if before is not None and before.last is not None:
            log.info("VRRP_Script(%s) considered %s on reload", self.name, _word(self._machine.ok))
        if self._restored is not None:
            self._publish(self._restored)
            self._restored = None
        self._carry_out(self._machine.begin(now))
        self._arm()

    def _former_verdict(self, script: TrackScript) -> Verdict | None:
        """A cell that died and came back goes on with the verdict that others have acted on."""
        last = self._restored
        if last is None or last.disabled:
            self._restored = None
            return None
        top = script.rise + script.fall - 1
        return Verdict(top if last.ok else 0, script.rise, script.fall, last, last.runs, True, last.in_a_row, None)

    def _disable(self, access: Access, now: Instant) -> None:
        """keepalived drops such a script wherever it is tracked; those who track it are told so."""
        log.warning("%s", access.problem)
        self._machine = None
        self._restored = None
        self._timers.set(self, None, self._due)
        self._publish(
            ScriptResult(
                script=self.name,
                ok=True,
                disabled=True,
                problem=access.problem,
                since_mono_ns=now,
                reason=Reason(
                    kind=ReasonKind.SCRIPT_OK,
                    node=self._bus.node,
                    subject=f"script/{self.name}",
                    evidence={"disabled": True, "problem": access.problem},
                ),
            )
        )

    def _due(self, now: Instant) -> None:
        self._take(Deadline(), now)

    def _take(self, fact: Fact, now: Instant) -> None:
        assert self._machine is not None
        actions = self._machine.step(fact, now)
        self._arm()
        self._carry_out(actions)

    def _arm(self) -> None:
        assert self._machine is not None
        self._timers.set(self, self._machine.deadline, self._due)

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case StartRun():
                    assert self._program is not None
                    self._start(self._program)
                case EndRun(force=force):
                    if self._run is not None:
                        self._run.signal(signal.SIGKILL if force else signal.SIGTERM)
                case SayResult(result=result):
                    self._log(result)
                    self._publish(result)
                case SaySkipped(times=times):
                    # The first time loudly: a script that is always too slow would fill the log otherwise.
                    level = logging.WARNING if times == 1 else logging.DEBUG
                    log.log(level, "Track script %s is already running, expect idle - skipping run", self.name)
                case _:
                    raise AssertionError(action)

    def _start(self, program: Program) -> None:
        def ended(how: Ended) -> None:
            self._run = None
            if self.actor_stopped.is_set():
                return
            self._take(RunEnded(how.exit_status, how.signal, how.problem, how.took_ns), self._timers.now())
            order, self._pending = self._pending, None
            if order is not None:
                self._configure(order)

        self._run = self._programs.start(program, ended)

    def _publish(self, result: ScriptResult) -> None:
        self._last = result
        self._bus.publish(f"script/{self.name}", "state", result)

    def _log(self, result: ScriptResult) -> None:
        """In keepalived's words: people have filters for them."""
        last = self._last
        if result.exit_status is not None and result.exit_status != self._exit_status:
            log.info("Script `%s` now returning %d", self.name, result.exit_status)
            self._exit_status = result.exit_status
        if last is not None and last.ok == result.ok and (last.runs or not result.runs):
            return
        if result.ok:
            log.info("VRRP_Script(%s) %s", self.name, "succeeded" if result.runs else "considered successful on reload")
        elif result.timed_out:
            log.info("VRRP_Script(%s) timed_out", self.name)
        elif result.signal is not None:
            log.info("VRRP_Script(%s) failed (due to signal %d)", self.name, result.signal)
        elif result.exit_status is not None:
            log.info("VRRP_Script(%s) failed (exited with status %d)", self.name, result.exit_status)
        elif result.problem is not None:
            log.info("VRRP_Script(%s) failed (%s)", self.name, result.problem)


def _word(ok: bool) -> str:
    return "successful" if ok else "unsuccessful"
