"""The shell of one target's scripts: starts them, signals them, says what became of them. See `queue.py`."""

from __future__ import annotations

import asyncio
import logging
import signal

import msgspec

from holdfast.actors.notify.config import Script
from holdfast.actors.notify.messages import NotifyDone
from holdfast.actors.notify.notices import Notice, ScriptCall
from holdfast.actors.notify.queue import (
    EndCall,
    Noticed,
    QueueMachine,
    RunEnded,
    SayDone,
    SayDropped,
    SayFailed,
    StartCall,
)
from holdfast.actors.runtime.actor import LoopActor
from holdfast.actors.runtime.machine import Action, Deadline, Duration, Fact, Instant
from holdfast.actors.runtime.programs import judge
from holdfast.bus.base import Bus
from holdfast.config.values import ScriptOptions
from holdfast.kernel.faces import Timers
from holdfast.kernel.program_access import Access
from holdfast.kernel.programs import Ended, Programs, Run

log = logging.getLogger("holdfast.notify")

NOTICES_WAITING_MAX = 64
REASON_VARIABLE = "HOLDFAST_REASON"
"""The one variable that our notify scripts have and keepalived's do not: why, as JSON (docs/notify.md)."""


class Judge:
    """What is known of each script, looked up in a thread. One for the whole room, so that each is looked up once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ScriptOptions) -> None:
        self.options = options
        self._loop = loop
        self._known: dict[Script, Access] = {}

    def known(self, script: Script) -> Access | None:
        """At once, or None."""
        return self._known.get(script)

    async def ask(self, script: Script) -> Access:
        """Looks it up if it is not known. The log hears of what is wrong, once."""
        access = self._known.get(script)
        if access is None:
            access = await self._loop.run_in_executor(None, judge, script, self.options)
            if script not in self._known:
                self._known[script] = access
                for text in (*access.warnings, *((access.problem,) if access.problem else ())):
                    log.warning("%s", text)
        return access


class TakeJudge(msgspec.Struct, frozen=True):
    """A reload changed who runs scripts."""

    judge: Judge


class AskIdle(msgspec.Struct, frozen=True):
    """The answer is True when nothing runs and nothing waits."""


class Retire(msgspec.Struct, frozen=True):
    """The target is gone: the actor ends when its queue is empty."""


class ScriptsActor(LoopActor):
    """See the file's first lines."""

    def __init__(
        self,
        target: str,
        *,
        bus: Bus,
        timers: Timers,
        loop: asyncio.AbstractEventLoop,
        programs: Programs,
        judge: Judge,
        limit: Duration,
    ) -> None:
        super().__init__()
        self.target = target
        self._bus = bus
        self._timers = timers
        self._loop = loop
        self._programs = programs
        self._judge = judge
        self._machine = QueueMachine(limit=limit, room=NOTICES_WAITING_MAX)
        self._run: Run | None = None
        self._ending: int | None = None
        self._word = ""
        self._retiring = False
        self._tasks: set[asyncio.Task[None]] = set()

    def on_receive(self, message: object) -> object:
        """Takes `queue.Noticed`, `TakeJudge`, `AskIdle` and `Retire`."""
        match message:
            case Noticed():
                self._take(message)
            case TakeJudge(judge=new):
                self._judge = new
            case AskIdle():
                return self._machine.idle
            case Retire():
                self._retiring = True
                self._leave_when_idle()
            case _:
                raise AssertionError(message)
        return None

    def on_stop(self) -> None:
        """The target is gone and its last notice is done, or the cell ends."""
        self._timers.set(self, None, self._due)
        if self._run is not None:
            self._run.signal(signal.SIGTERM)
        self._bus.forget(f"notify/{self.target}", "done")

    def _due(self, now: Instant) -> None:
        self._take(Deadline(), now)

    def _take(self, fact: Fact, now: Instant | None = None) -> None:
        actions = self._machine.step(fact, self._timers.now() if now is None else now)
        self._timers.set(self, self._machine.deadline, self._due)
        for action in actions:
            self._carry_out(action)
        self._leave_when_idle()

    def _leave_when_idle(self) -> None:
        if self._retiring and self._machine.idle:
            self.stop()

    def _carry_out(self, action: Action) -> None:
        match action:
            case StartCall(call=call, notice=notice):
                self._word = notice.word or self._word
                self._start(call, notice)
            case EndCall(call=call, force=force):
                number = signal.SIGKILL if force else signal.SIGTERM
                log.warning("notify script %s of %s is sent %s", call.script, self.target, number.name)
                self._ending = number
                if self._run is not None:
                    self._run.signal(number)
            case SayFailed(call=call, ended=ended, timed_out=timed_out):
                log.log(*_failure(self.target, call, ended, timed_out))
            case SayDropped(notices=notices, overtaken=overtaken):
                why = "overtaken by the stop" if overtaken else "too many are waiting for a slow script"
                words = ", ".join(notice.word or notice.line.strip() for notice in notices)
                log.warning("notifications of %s are dropped (%s): %s", self.target, why, words)
            case SayDone(event=event):
                machine = self._machine
                done = NotifyDone(
                    target=self.target,
                    event=event,
                    word=self._word,
                    dropped=machine.dropped,
                    timed_out=machine.timed_out,
                    failed=machine.failed,
                )
                self._bus.publish(f"notify/{self.target}", "done", done, causes=(event,))
            case _:
                raise AssertionError(action)

    def _start(self, call: ScriptCall, notice: Notice) -> None:
        access = self._judge.known(call.script)
        self._ending = None
        if access is not None:
            self._start_judged(call, notice, access)
            return

        async def ask() -> None:
            found = await self._judge.ask(call.script)
            if not self.actor_stopped.is_set():
                self._start_judged(call, notice, found)

        task = self._loop.create_task(ask())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _start_judged(self, call: ScriptCall, notice: Notice, access: Access) -> None:
        if access.program is None:
            # Not from inside the machine's step: it is told on a later turn, as of any other end.
            self._loop.call_soon(self._ended, Ended(problem=access.problem))
            return
        program = access.program
        if call.arguments:
            program = msgspec.structs.replace(program, argv=(*program.argv, *call.arguments))
        variables = None
        if notice.reason is not None:
            variables = {REASON_VARIABLE: msgspec.json.encode(notice.reason).decode()}
        log.info("%s: running notify script %s", self.target, " ".join((str(call.script), *call.arguments)))
        self._run = self._programs.start(program, self._ended, variables=variables)
        if self._ending is not None:
            self._run.signal(self._ending)  # its time was up while it was being looked up

    def _ended(self, how: Ended) -> None:
        self._run = None
        if not self.actor_stopped.is_set():
            self._take(RunEnded(how.exit_status, how.signal, how.problem, how.took_ns))


def _failure(
    target: str, call: ScriptCall, ended: RunEnded, timed_out: bool
) -> tuple[int, str, object, object, object]:
    seconds = f"{ended.took_ns / 1e9:.1f} s"
    if timed_out:
        return (logging.WARNING, "%s: notify script %s was ended after %s", target, call.script, seconds)
    if ended.problem is not None:
        return (logging.WARNING, "%s: notify script %s did not run: %s", target, call.script, ended.problem)
    if ended.signal is not None:
        return (logging.INFO, "%s: notify script %s died of signal %s", target, call.script, ended.signal)
    return (logging.INFO, "%s: notify script %s exited with status %s", target, call.script, ended.exit_status)
