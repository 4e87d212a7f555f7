"""When something was last done, kept where it outlives the process: a number for each name in a mapped file.

Writing one is a store into memory, cheap enough for every advert; the file lies in the run directory (tmpfs), and what
was stored before a SIGKILL is there after it. The clock is the monotonic one: the numbers mean nothing after a boot.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import struct
from pathlib import Path

_ENTRY = struct.Struct("=8sq")
_GROW = 64


class Stamps:
    """`stamps.view[stamps.slot(name)] = now`. One writer. What a former life stored last is `left(name)`."""

    def __init__(self, path: Path | None) -> None:
        """path None, or a file that cannot be made: everything works and nothing outlives this process."""
        self._path = path
        self._left = _read(path) if path is not None else {}
        self._numbers = {key: number for number, key in enumerate(self._left)}
        self._map: mmap.mmap | bytearray = bytearray(0)
        self.view = memoryview(self._map)
        """Slots as 64-bit numbers; another object whenever there is a new name, so never keep it."""
        self._grow(max(_GROW, 2 * len(self._left)))
        for number, (key, stamp) in enumerate(self._left.items()):
            _ENTRY.pack_into(self._map, number * _ENTRY.size, key, stamp)
        self._publish()

    def slot(self, name: str) -> int:
        """Where the number of `name` is; it begins with what was left."""
        key = _key(name)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            if (number + 1) * _ENTRY.size > len(self._map):
                self._grow(2 * number)
                self._publish()
            _ENTRY.pack_into(self._map, number * _ENTRY.size, key, 0)
        return 2 * number + 1

    def left(self, name: str) -> int | None:
        """The number that a former life stored last, None if none did."""
        return self._left.get(_key(name))

    def close(self, *, remove: bool = True) -> None:
        """The end. remove: nobody goes on from it."""
        self.view.release()
        if remove and self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _grow(self, entries: int) -> None:
        """More room, with all that was there."""
        old = bytes(self._map)
        fresh: mmap.mmap | bytearray = bytearray(entries * _ENTRY.size)
        if self._path is not None:
            with contextlib.suppress(OSError):
                descriptor = os.open(self._new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
                try:
                    os.ftruncate(descriptor, len(fresh))
                    fresh = mmap.mmap(descriptor, len(fresh))
                finally:
                    os.close(descriptor)
        fresh[: len(old)] = old
        self.view.release()
        self._map = fresh
        self.view = memoryview(fresh).cast("q")

    def _publish(self) -> None:
        """The larger file takes the place of the old one only when it has all of it."""
        if self._path is not None and isinstance(self._map, mmap.mmap):
            self._new.replace(self._path)

    @property
    def _new(self) -> Path:
        assert self._path is not None
        return self._path.with_suffix(".new")


def _key(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def _read(path: Path) -> dict[bytes, int]:
    try:
        data = path.read_bytes()
    except OSError:
        return {}
    whole = data[: len(data) // _ENTRY.size * _ENTRY.size]
    return {key: stamp for key, stamp in _ENTRY.iter_unpack(whole) if stamp}
