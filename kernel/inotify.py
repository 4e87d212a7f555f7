"""Files that may have changed, told by the kernel (inotify(7)).

The directory is watched, not the file: so a file that appears, is renamed over or vanishes is seen too. One inotify
instance serves a cell.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from typing import Final

from holdfast.kernel.base import KernelError

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_EVENT: Final = struct.Struct("=iIII")
_IN_CLOSE_WRITE: Final = 0x8
_IN_MOVED_FROM: Final = 0x40
_IN_MOVED_TO: Final = 0x80
_IN_CREATE: Final = 0x100
_IN_DELETE: Final = 0x200
_IN_DELETE_SELF: Final = 0x400
_IN_MOVE_SELF: Final = 0x800
_IN_Q_OVERFLOW: Final = 0x4000
_IN_IGNORED: Final = 0x8000
_IN_ONLYDIR: Final = 0x1000000
_MASK: Final = (
    _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE | _IN_DELETE_SELF | _IN_MOVE_SELF
)

Changed = Callable[[], None]


class Inotify:
    """Follows files for one loop. Not shared between threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        descriptor = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            raise KernelError("open", "inotify", ctypes.get_errno())
        self._descriptor: int = descriptor
        self._loop = loop
        self._directories: dict[str, int] = {}
        self._followers: dict[int, dict[str, list[Changed]]] = {}
        loop.add_reader(descriptor, self._readable)

    def watch(self, path: str, changed: Changed) -> Callable[[], None]:
        """`changed()` when the file is written and closed, appears, vanishes or is replaced; also when its
        directory goes.

        Returns what ends it. KernelError when the directory cannot be watched (it is not there, or too many are).
        """
        directory, name = os.path.split(os.path.abspath(path))
        number = self._directories.get(directory)
        if number is None:
            number = _LIBC.inotify_add_watch(self._descriptor, os.fsencode(directory), _MASK | _IN_ONLYDIR)
            if number < 0:
                raise KernelError("watch", f"directory/{directory}", ctypes.get_errno())
            self._directories[directory] = number
            self._followers.setdefault(number, {})
        self._followers[number].setdefault(name, []).append(changed)

        def end() -> None:
            self._unwatch(directory, number, name, changed)

        return end

    def close(self) -> None:
        """Follows nothing any more; harmless twice."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            self._directories.clear()
            self._followers.clear()

    def _unwatch(self, directory: str, number: int, name: str, changed: Changed) -> None:
        names = self._followers.get(number)
        if names is None or changed not in names.get(name, ()):
            return
        names[name].remove(changed)
        if not names[name]:
            del names[name]
        if not names and self._descriptor >= 0:
            del self._followers[number]
            if self._directories.get(directory) == number:
                del self._directories[directory]
                _LIBC.inotify_rm_watch(self._descriptor, number)

    def _readable(self) -> None:
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        # A file that changed several times is told once.
        told: dict[Changed, None] = {}
        offset = 0
        while offset + _EVENT.size <= len(data):
            number, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
            offset += length
            if mask & _IN_Q_OVERFLOW:
                told.update(dict.fromkeys(call for names in self._followers.values() for call in _calls(names)))
                continue
            names = self._followers.get(number)
            if names is None:
                continue
            if mask & (_IN_DELETE_SELF | _IN_MOVE_SELF | _IN_IGNORED):
                # The directory itself is gone: this watch tells nothing more. Its followers look, and watch anew.
                told.update(dict.fromkeys(_calls(names)))
                self._directories = {path: kept for path, kept in self._directories.items() if kept != number}
                if mask & _IN_MOVE_SELF:
                    _LIBC.inotify_rm_watch(self._descriptor, number)
                del self._followers[number]
                continue
            told.update(dict.fromkeys(names.get(name, ())))
        for call in told:
            call()


def _calls(names: dict[str, list[Changed]]) -> list[Changed]:
    return [call for calls in names.values() for call in calls]
