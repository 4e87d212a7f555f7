"""Starting other people's programs (trackers' scripts, notify scripts, checks) without ever holding up the loop.

A small helper process (`program_host.py`) forks and waits; here are orders and answers. Who may run what is decided in
`program_access.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

HOST_FILE = Path(__file__).with_name("program_host.py")
LARGEST_MESSAGE = 1 << 20
_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}

DROPPED_VARIABLES = frozenset(
    # As keepalived does, plus those by which systemd speaks to us alone (sd_notify(3)).
    (
        "IFS",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "LISTEN_FDS",
        "LISTEN_PID",
    )
)


_Word = str | int | bytes | None | list[bytes] | list[int] | dict[bytes, bytes]
_Order = tuple[_Word, ...]


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What to start, with everything looked up beforehand.

    path: of the file, absolute. argv: with the name it is called by. uid None: as we are; else the child has exactly
    this user, group and supplementary groups. umask: for the files it makes.
    """

    path: str
    argv: tuple[str, ...]
    uid: int | None = None
    gid: int = 0
    groups: tuple[int, ...] = ()
    umask: int = 0o022


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended: with an exit status, by a signal, or with a problem: it never ran, or we lost sight of it."""

    exit_status: int | None = None
    signal: int | None = None
    problem: str | None = None
    took_ns: int = 0

    @property
    def ok(self) -> bool:
        """Exit status 0."""
        return self.exit_status == 0


class Run(Protocol):
    """One program in progress."""

    pid: int | None

    def signal(self, number: int) -> None:
        """To its whole process group; nothing when it has ended. What remains of the group then ends with it."""


class Programs(Protocol):
    """Starts programs. `ProgramRunner` does it; tests have their own."""

    def start(
        self, program: Program, ended: Callable[[Ended], None], *, variables: Mapping[str, str] | None = None
    ) -> Run:
        """Starts it and returns at once. `ended` is called on the loop, once, and never before this returns."""


class _Run:
    __slots__ = ("_runner", "ended", "pid", "token")

    def __init__(self, runner: ProgramRunner, token: int, ended: Callable[[Ended], None]) -> None:
        self._runner = runner
        self.token = token
        self.ended = ended
        self.pid: int | None = None

    def signal(self, number: int) -> None:
        self._runner._order(("signal", self.token, int(number)))


class ProgramRunner:
    """The programs of one cell. The helper process is started with the first program and again if it should die.

    All methods belong to the thread of `loop`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, environment: Mapping[str, str] | None = None) -> None:
        self._loop = loop
        source = os.environ if environment is None else environment
        self._environment = {
            os.fsencode(name): os.fsencode(value) for name, value in source.items() if name not in DROPPED_VARIABLES
        }
        self._channel: socket.socket | None = None
        self._host_pid: int | None = None
        self._waiting: deque[bytes] = deque()
        self._runs: dict[int, _Run] = {}
        self._tokens = 0
        self._idle: list[asyncio.Future[None]] = []
        self.helper_starts = 0

    @property
    def running(self) -> int:
        """How many programs are in progress."""
        return len(self._runs)

    def start(
        self, program: Program, ended: Callable[[Ended], None], *, variables: Mapping[str, str] | None = None
    ) -> Run:
        """See `Programs.start`. variables: for this run, beside our own environment."""
        self._tokens += 1
        run = _Run(self, self._tokens, ended)
        self._runs[run.token] = run
        environment = self._environment
        if variables:
            extra = {os.fsencode(name): os.fsencode(value) for name, value in variables.items()}
            environment = {**environment, **extra}
        argv = [os.fsencode(word) for word in program.argv]
        path = os.fsencode(program.path)
        groups = list(program.groups)
        identity = (program.uid, program.gid, groups, program.umask)
        order: _Order = ("start", run.token, path, argv, environment, *identity)
        problem = "" if self._channel is not None else self._open()
        if not problem and not self._order(order):
            problem = "its command line and environment are too long"
        if problem:
            self._loop.call_soon(self._finish, run.token, Ended(problem=problem))
        return run

    async def close(self, timeout_s: float = 1.0) -> None:
        """Ends the helper, and with it whatever still runs: TERM, half a second later KILL."""
        pid, self._host_pid = self._host_pid, None
        self._drop_channel("the daemon stops")
        if pid is not None:
            await self._wait_for(pid, timeout_s)

    async def settled(self, timeout_s: float) -> bool:
        """Waits until nothing runs. False when something still does after `timeout_s`."""
        if not self._runs:
            return True
        future: asyncio.Future[None] = self._loop.create_future()
        self._idle.append(future)
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            return False
        return True

    def _open(self) -> str:
        """Starts the helper. Returns what is wrong, or nothing."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        with theirs:
            try:
                # posix_spawn shares our memory until exec instead of copying its page tables.
                self._host_pid = os.posix_spawn(
                    sys.executable,
                    [sys.executable, "-I", "-S", "-B", str(HOST_FILE)],
                    self._environment,
                    file_actions=[
                        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_RDWR, 0),
                        (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
                    ],
                    setsid=True,  # a terminal's signals are for the cell, which then stops us in order
                    setsigmask=(),
                    setsigdef=_SIGNALS,  # a daemon that a shell has put into the background ignores SIGINT and SIGQUIT
                )
            except OSError as error:
                ours.close()
                return f"the script helper could not be started: {error.strerror}"
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST_MESSAGE)
        self._channel = ours
        self.helper_starts += 1
        self._loop.add_reader(ours, self._readable)
        return ""

    def _order(self, order: _Order) -> bool:
        """Sends an order, or keeps it until the helper has room. False when it is too large to be sent at all."""
        if self._channel is None:
            return True  # runs of a helper that is gone have been told so
        message = marshal.dumps(order)
        if len(message) >= LARGEST_MESSAGE:
            return False
        if self._waiting:
            self._waiting.append(message)
            return True
        try:
            self._channel.send(message)
        except BlockingIOError:
            self._waiting.append(message)
            self._loop.add_writer(self._channel, self._writable)
        except ConnectionError:
            pass  # the reader will see it and end all runs
        except OSError:
            return False
        return True

    def _writable(self) -> None:
        assert self._channel is not None
        while self._waiting:
            try:
                self._channel.send(self._waiting[0])
            except BlockingIOError:
                return
            except OSError:
                break  # the reader will see it and end all runs
            self._waiting.popleft()
        self._loop.remove_writer(self._channel)

    def _readable(self) -> None:
        while self._channel is not None:
            try:
                message = self._channel.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                pid, self._host_pid = self._host_pid, None
                self._drop_channel("the script helper died")
                if pid is not None:
                    task = self._loop.create_task(self._wait_for(pid, 5.0))
                    task.add_done_callback(lambda done: done.exception())
                return
            self._answer(marshal.loads(message))

    def _answer(self, answer: tuple[str, int, int, int | str]) -> None:
        word, token, number = answer[:3]
        match word:
            case "started":
                if token in self._runs:
                    self._runs[token].pid = number
            case "failed":
                text = os.strerror(number) if number else "unknown"
                self._finish(token, Ended(problem=f"{answer[3]}: {text}"))
            case "ended":
                took_ns = int(answer[3])
                code = os.waitstatus_to_exitcode(number)
                if code < 0:
                    self._finish(token, Ended(signal=-code, took_ns=took_ns))
                else:
                    self._finish(token, Ended(exit_status=code, took_ns=took_ns))

    def _finish(self, token: int, how: Ended) -> None:
        run = self._runs.pop(token, None)
        if run is None:
            return
        if not self._runs:
            for future in self._idle:
                if not future.done():
                    future.set_result(None)
            self._idle.clear()
        run.ended(how)

    def _drop_channel(self, why: str) -> None:
        channel, self._channel = self._channel, None
        self._waiting.clear()
        if channel is not None:
            self._loop.remove_reader(channel)
            self._loop.remove_writer(channel)
            channel.close()
        for token in list(self._runs):
            self._finish(token, Ended(problem=why))

    async def _wait_for(self, pid: int, timeout_s: float) -> None:
        """Reaps the helper, by force if it does not end in time."""
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return  # reaped by somebody else
        ended = asyncio.Event()
        self._loop.add_reader(descriptor, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), timeout_s)
        except TimeoutError:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), 1.0)
        finally:
            self._loop.remove_reader(descriptor)
            # Reaped by somebody else; or not ended yet, then whoever takes our children over reaps it.
            with contextlib.suppress(ChildProcessError, BlockingIOError):
                os.waitid(os.P_PIDFD, descriptor, os.WEXITED)
            os.close(descriptor)
