"""What a daemon does to its own process: going to the background, pid files, the run directory, names, descriptors."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import grp
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from holdfast.bus import rundir

GROUP = "holdfast"
"""Members may follow events and give commands on this host; without the group only root may."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


class StartError(Exception):
    """The daemon cannot start here; the text is for the operator."""


class RunDirectory:
    """The run directory, held by this daemon alone for as long as it or one of its cells lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock_fd = -1

    def take(self, node: str, wait_s: float = 1.0, *, held_fd: int | None = None) -> None:
        """Makes and locks it. Raises StartError when another daemon has it or it cannot be made.

        held_fd: it is locked by this already.

        wait_s: the cells of a daemon that was just killed hold the lock until they are dead too, which is soon.
        """
        try:
            self.path.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._open_to_group(self.path)
            for name in ("bus", "state"):
                (self.path / name).mkdir(mode=0o750, exist_ok=True)
                self._open_to_group(self.path / name)
            rundir.event_endpoint(self.path, "x" * 16)
            self.lock_fd = held_fd or os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except (OSError, ValueError) as error:
            raise StartError(f"run directory {self.path}: {error}") from None
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= until:
                    owner = os.pread(self.lock_fd, 32, 0).decode("utf-8", "replace").strip() or "unknown"
                    os.close(self.lock_fd)
                    self.lock_fd = -1
                    raise StartError(
                        f"another holdfast (pid {owner}) runs with the run directory {self.path}; "
                        "give this one its own with --run-dir"
                    ) from None
                time.sleep(0.01)
        os.ftruncate(self.lock_fd, 0)
        os.pwrite(self.lock_fd, b"%d\n" % os.getpid(), 0)
        self.remove_sockets(None if held_fd is None else "supervisor")
        (self.path / "node").write_text(f"{node}\n", encoding="utf-8")

    @staticmethod
    def _open_to_group(path: Path) -> None:
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
        with contextlib.suppress(PermissionError):
            path.chmod(0o750)

    def remove_sockets(self, cell: str | None = None) -> None:
        """Removes socket files nobody listens at any more: of one cell that is dead, or of all."""
        with contextlib.suppress(OSError):
            for each in (self.path / "bus").iterdir():
                if each.suffix in (".pub", ".cmd") and (cell is None or each.stem == cell):
                    with contextlib.suppress(OSError):
                        each.unlink()

    def forget_state(self, cell: str | None = None) -> None:
        """Removes what a cell retained (of one, or of all): after a clean stop there is nothing to go on from."""
        with contextlib.suppress(OSError):
            for each in (self.path / "state").iterdir():
                if cell is None or each.stem == cell:
                    with contextlib.suppress(OSError):
                        each.unlink()

    def release(self) -> None:
        """After a clean stop."""
        self.remove_sockets()
        self.forget_state()
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1


class PidFile:
    """A pid file in keepalived's form: the number and a newline. Refuses to start beside a living owner."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self) -> None:
        """Raises StartError when the process named in it lives and is a holdfast, or it cannot be written."""
        other = self._living()
        if other:
            raise StartError(f"{self.path}: holdfast is already running as pid {other}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        except OSError as error:
            raise StartError(f"pid file {self.path}: {error}") from None

    def _living(self) -> int:
        try:
            pid = int(self.path.read_text(encoding="utf-8").strip())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return 0
        return pid if pid != os.getpid() and b"holdfast" in command else 0

    def remove(self) -> None:
        """If it is still ours."""
        with contextlib.suppress(OSError, ValueError):
            if int(self.path.read_text(encoding="utf-8").strip()) == os.getpid():
                self.path.unlink()


def daemonize() -> None:
    """Goes to the background: the caller's process ends with 0, the daemon goes on in a session of its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)


def set_name(name: str) -> None:
    """What ps and top show of this thread (15 bytes)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when its parent ends, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def log_descriptors() -> set[int]:
    """The descriptors that log handlers write to."""
    found = set()
    for handler in logging.getLogger().handlers:
        for attribute in ("stream", "socket"):
            target = getattr(handler, attribute, None)
            with contextlib.suppress(AttributeError, OSError, ValueError):
                found.add(target.fileno())  # type: ignore[union-attr]
    return found


def close_all_but(keep: Iterable[int]) -> None:
    """Closes every descriptor above 2 that is not in `keep`."""
    kept = set(keep)
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in kept:
            with contextlib.suppress(OSError):
                os.close(fd)


def reset_signals() -> None:
    """After a fork: no signal of this process may reach the parent's loop, and the terminal's do not end a cell.

    Handlers that do nothing, not SIG_IGN: what a cell executes begins with the defaults again.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, _heard)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _heard(number: int, frame: object) -> None:
    """The supervisor gets the same signal and tells the cells what it means."""
