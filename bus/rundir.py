"""The run directory: where the sockets of a node's cells are, and how others find them.

    RUN/bus/NAME.pub    XPUB socket of cell NAME: its events
    RUN/bus/NAME.cmd    ROUTER socket of cell NAME: commands, retained events
    RUN/state/NAME.log  what cell NAME retains, for its successor (store.py)
    RUN/node            the name of the node

A cell binds `.cmd` before `.pub`, so whoever sees the second finds the first. The files of a killed cell stay until
the supervisor removes them: a file is a hint, only an answer is life.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

SOCKET_PATH_BYTES_MAX = 107
"""sockaddr_un.sun_path less its final zero (unix(7))."""

_IN_CREATE = 0x100
_IN_DELETE = 0x200
_IN_MOVED_TO = 0x80
_IN_MOVED_FROM = 0x40
_INOTIFY_EVENT = struct.Struct("iIII")


def bus_dir(run_dir: Path) -> Path:
    """Where the sockets are."""
    return run_dir / "bus"


def state_path(run_dir: Path, cell: str) -> Path:
    """Where a cell keeps what it retains."""
    return run_dir / "state" / f"{cell}.log"


def event_endpoint(run_dir: Path, cell: str) -> str:
    """The ZeroMQ endpoint of a cell's events. Raises ValueError when the path is too long for a socket."""
    return _endpoint(bus_dir(run_dir) / f"{cell}.pub")


def command_endpoint(run_dir: Path, cell: str) -> str:
    """The ZeroMQ endpoint for commands to a cell. Raises ValueError when the path is too long for a socket."""
    return _endpoint(bus_dir(run_dir) / f"{cell}.cmd")


def _endpoint(path: Path) -> str:
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise ValueError(f"{path}: too long for a socket, the limit is {SOCKET_PATH_BYTES_MAX} bytes")
    return f"ipc://{path}"


def cells(run_dir: Path) -> dict[str, int]:
    """The cells that have a socket file: name -> inode (another one after a restart)."""
    found = {}
    try:
        with os.scandir(bus_dir(run_dir)) as entries:
            for entry in entries:
                if entry.name.endswith(".pub"):
                    try:
                        found[entry.name.removesuffix(".pub")] = entry.inode()
                    except OSError:
                        continue
    except OSError:
        return {}
    return found


def node_name(run_dir: Path) -> str | None:
    """The node this run directory belongs to, None when no daemon ever ran here."""
    try:
        return (run_dir / "node").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


class CellWatch:
    """Calls `changed()` on the loop whenever a socket file appears or goes; works before the directory exists."""

    RESCAN_S = 1.0
    """Without inotify (no instances left) and while the directory is missing, it is looked at this often."""

    def __init__(self, loop: asyncio.AbstractEventLoop, run_dir: Path, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._directory = bus_dir(run_dir)
        self._changed = changed
        self._fd = -1
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._timer = None
        if self._closed:
            return
        self._fd = _watch(self._directory)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._readable)
        else:
            self._timer = self._loop.call_later(self.RESCAN_S, self._start)
        self._changed()

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        offset, lost = 0, False
        while offset + _INOTIFY_EVENT.size <= len(data):
            _, mask, _, length = _INOTIFY_EVENT.unpack_from(data, offset)
            offset += _INOTIFY_EVENT.size + length
            lost = lost or bool(mask & 0x8000)  # IN_IGNORED: the directory itself is gone
        if lost:
            self._forget_fd()
            self._timer = self._loop.call_later(self.RESCAN_S, self._start)
        self._changed()

    def _forget_fd(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """No call after this."""
        self._closed = True
        self._forget_fd()
        if self._timer is not None:
            self._timer.cancel()


def _watch(directory: Path) -> int:
    """An inotify descriptor for the entries of a directory, -1 when there can be none."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        return -1
    mask = _IN_CREATE | _IN_DELETE | _IN_MOVED_TO | _IN_MOVED_FROM
    if libc.inotify_add_watch(fd, os.fsencode(directory), mask) < 0:
        os.close(fd)
        return -1
    return fd
