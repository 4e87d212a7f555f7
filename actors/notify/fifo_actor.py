"""The shell of one notify FIFO: opens it, writes lines, runs its script. The file itself is in `fifo.py`."""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import pwd

import msgspec

from holdfast.actors.notify.config import Fifo as FifoConfig
from holdfast.actors.notify.config import Script, ScriptOptions
from holdfast.actors.notify.fifo import Fifo, FifoError
from holdfast.actors.notify.messages import FifoState
from holdfast.actors.runtime.actor import LoopActor
from holdfast.actors.runtime.machine import Duration, Instant, S, later
from holdfast.actors.runtime.programs import judge
from holdfast.bus.base import Bus
from holdfast.kernel.faces import Timers
from holdfast.kernel.program_access import Access
from holdfast.kernel.programs import Ended, Programs, Run

log = logging.getLogger("holdfast.notify")

SAY_LOST_EVERY = Duration(60 * S)
"""How often the log hears of lines that were lost; the count is always current in the events."""


class WriteLine(msgspec.Struct, frozen=True):
    """One line, with its newline."""

    line: str


class _Judged(msgspec.Struct, frozen=True):
    access: Access


class FifoActor(LoopActor):
    """See the file's first lines. restored: what the former life of this cell published last, after a crash."""

    critical = False

    def __init__(
        self,
        config: FifoConfig,
        *,
        options: ScriptOptions,
        umask: int,
        bus: Bus,
        timers: Timers,
        loop: asyncio.AbstractEventLoop,
        programs: Programs,
        restored: FifoState | None = None,
    ) -> None:
        super().__init__()
        self._config = config
        self._options = options
        self._umask = umask
        self._bus = bus
        self._timers = timers
        self._loop = loop
        self._programs = programs
        self._restored = restored
        self._fifo: Fifo | None = None
        self._run: Run | None = None
        self._told_lost = 0
        self._closing = False

    def on_start(self) -> None:
        """Opens the FIFO and starts its script."""
        problem: str | None = None
        try:
            uid, gid = _owner(self._config)
            created = self._restored is not None and self._restored.created
            self._fifo = Fifo(self._config.path, uid=uid, gid=gid, umask=self._umask, created=created)
        except FifoError as error:
            problem = str(error)
            log.warning("%s", error)
        self._say(problem)
        script = self._config.script
        if self._fifo is not None and script is not None:
            self._judge(script)

    def _judge(self, script: Script) -> None:
        options, reference = self._options, self.actor_ref

        def work() -> None:
            access = judge(script, options)
            if reference.is_alive():
                reference.tell(_Judged(access))

        self._loop.run_in_executor(None, work)

    def on_receive(self, message: object) -> object:
        """Takes `WriteLine`."""
        match message:
            case WriteLine(line=line):
                if self._fifo is not None and not self._fifo.write(line):
                    self._lost()
            case _Judged(access=access):
                self._start(access)
            case _:
                raise AssertionError(message)
        return None

    def on_stop(self) -> None:
        """The FIFO is no longer configured, or the daemon stops: its script gets TERM."""
        self._closing = True
        self._timers.set(self, None, self._said)
        if self._run is not None:
            self._run.signal(15)
        if self._fifo is not None:
            self._fifo.close()
        self._bus.forget(f"notify/fifo:{self._config.path}", "state")

    def _start(self, access: Access) -> None:
        for warning in access.warnings:
            log.warning("%s", warning)
        if access.program is None:
            log.warning("%s", access.problem)
            return
        program = msgspec.structs.replace(access.program, argv=(*access.program.argv, self._config.path))

        def ended(how: Ended) -> None:
            self._run = None
            if not self._closing:
                what = f"exit status {how.exit_status}" if how.exit_status is not None else f"signal {how.signal}"
                log.warning(
                    "notify fifo script %s terminated (%s)", access.program and access.program.path, how.problem or what
                )

        self._run = self._programs.start(program, ended)

    def _lost(self) -> None:
        assert self._fifo is not None
        if self._told_lost == 0:
            log.warning("notify FIFO %s is full: nobody reads it, lines are lost", self._config.path)
            self._say()
            self._timers.set(self, later(self._timers.now(), SAY_LOST_EVERY), self._said)
            self._told_lost = self._fifo.lost

    def _said(self, _now: Instant) -> None:
        """A minute after the first lost line: how many there are now, and from then on anew."""
        assert self._fifo is not None
        if self._fifo.lost != self._told_lost:
            log.warning("notify FIFO %s: %d lines are lost by now", self._config.path, self._fifo.lost)
            self._say()
        self._told_lost = 0

    def _say(self, problem: str | None = None) -> None:
        fifo = self._fifo
        self._bus.publish(
            f"notify/fifo:{self._config.path}",
            "state",
            FifoState(
                path=self._config.path,
                opened=fifo is not None,
                created=fifo is not None and fifo.created,
                written=fifo.written if fifo is not None else 0,
                lost=fifo.lost if fifo is not None else 0,
                problem=problem,
            ),
        )


def _owner(config: FifoConfig) -> tuple[int, int]:
    """Ours unless others are named. Raises FifoError for names that nobody has."""
    uid, gid = os.geteuid(), os.getegid()
    if config.user is not None:
        try:
            entry = pwd.getpwnam(config.user)
        except KeyError:
            raise FifoError(f"notify FIFO {config.path}: there is no user {config.user}") from None
        uid, gid = entry.pw_uid, entry.pw_gid
    if config.group is not None:
        try:
            gid = grp.getgrnam(config.group).gr_gid
        except KeyError:
            raise FifoError(f"notify FIFO {config.path}: there is no group {config.group}") from None
    return uid, gid
