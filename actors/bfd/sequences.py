"""Sequence numbers of authenticated sessions, kept where a killed process cannot take them along.

A peer takes a meticulous packet only if its number is the next or one of the next few, so a successor of a killed
process must know the last number to the packet. They live in a small file in the run directory (tmpfs) that is mapped
into memory: keeping one costs a memory write, no system call.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

from holdfast.actors.bfd.auth import Authenticator

_ENTRY = struct.Struct("=IIIB3x")
_ENTRIES_A_STEP = 256


class SequenceSlot:
    """The place of one session: discriminator, sent, received, received known."""

    __slots__ = ("_at", "_discriminator", "_store")

    def __init__(self, store: SequenceStore, at: int, discriminator: int) -> None:
        self._store = store
        self._at = at
        self._discriminator = discriminator

    def store(self, authenticator: Authenticator) -> None:
        """Keeps both numbers."""
        received = authenticator.received_sequence
        _ENTRY.pack_into(
            self._store.memory,
            self._at,
            self._discriminator,
            authenticator.sequence,
            received or 0,
            received is not None,
        )

    def release(self) -> None:
        """The session is gone."""
        _ENTRY.pack_into(self._store.memory, self._at, 0, 0, 0, 0)
        self._store.free.append(self._at)


class SequenceStore:
    """The file. `former` holds what the process before left: discriminator -> (sent, received or None)."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._fd).st_size // _ENTRY.size * _ENTRY.size
        self.former: dict[int, tuple[int, int | None]] = {}
        for discriminator, sent, received, known in _ENTRY.iter_unpack(os.pread(self._fd, size, 0)):
            if discriminator:
                self.former[discriminator] = (sent, received if known else None)
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, _ENTRIES_A_STEP * _ENTRY.size)
        self.memory = mmap.mmap(self._fd, _ENTRIES_A_STEP * _ENTRY.size)
        self.free = [index * _ENTRY.size for index in reversed(range(_ENTRIES_A_STEP))]

    def take(self, discriminator: int) -> SequenceSlot:
        """A place for a session."""
        if not self.free:
            size = len(self.memory)
            larger = size + _ENTRIES_A_STEP * _ENTRY.size
            self.memory.resize(larger)
            self.free = list(range(larger - _ENTRY.size, size - 1, -_ENTRY.size))
        return SequenceSlot(self, self.free.pop(), discriminator)

    def close(self) -> None:
        """Unmaps; what is in the file stays."""
        self.memory.close()
        os.close(self._fd)
