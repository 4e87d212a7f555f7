"""What of the sessions outlives the process: a small file in the run directory (tmpfs), mapped into memory.

A successor of a killed cell goes on with the same discriminators, intervals and, with authentication, sequence numbers
(a peer takes a meticulous packet only if its number is one of the next few). Keeping something costs a memory write, no
system call and no message, which is why it is not in retained events: thousands of sessions come Up at once.

    entry: length (2), CRC-32 of the rest (4), number sent (4), number received (4), received known (1), msgpack of Kept
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from pathlib import Path

import msgspec

from holdfast.actors.bfd.auth import Authenticator
from holdfast.actors.bfd.facts import Memory

_HEAD = struct.Struct("=HIIIB")
_CHECKED = struct.Struct("=HI")
_SEQUENCES = struct.Struct("=IIB")
ENTRY_BYTES = 256
_ENTRIES_A_STEP = 256


class Kept(msgspec.Struct, array_like=True):
    """A session as it was. neighbor, multihop: with others under the same name it is worth nothing.

    sequence, received_sequence: of authenticated sessions, filled in by `MemoryStore`.
    """

    session: str
    neighbor: bytes
    multihop: bool
    source_port: int
    disabled: bool
    memory: Memory
    sequence: int = 0
    received_sequence: int | None = None


_decoder = msgspec.msgpack.Decoder(Kept)
_encoder = msgspec.msgpack.Encoder()


class MemorySlot:
    """The place of one session."""

    __slots__ = ("_at", "_store")

    def __init__(self, store: MemoryStore, at: int) -> None:
        self._store = store
        self._at = at

    def keep(self, kept: Kept) -> None:
        """Writes all but the sequence numbers."""
        data = _encoder.encode(kept)
        room = ENTRY_BYTES - _HEAD.size
        assert len(data) <= room, f"{len(data)} bytes to keep of {kept.session}"
        start = self._at + _HEAD.size
        self._store.memory[start : start + len(data)] = data
        _CHECKED.pack_into(self._store.memory, self._at, len(data), zlib.crc32(data))

    def keep_sequences(self, authenticator: Authenticator) -> None:
        """Writes the numbers; for each packet of a meticulous session."""
        received = authenticator.received_sequence
        _SEQUENCES.pack_into(
            self._store.memory,
            self._at + _CHECKED.size,
            authenticator.sequence,
            received or 0,
            received is not None,
        )

    def release(self) -> None:
        """The session is gone."""
        self._store.memory[self._at : self._at + ENTRY_BYTES] = bytes(ENTRY_BYTES)
        self._store.free.append(self._at)


class MemoryStore:
    """The file. `former`: what the process before left, by session."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.former: dict[str, Kept] = {}
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        for at in range(0, len(data) - ENTRY_BYTES + 1, ENTRY_BYTES):
            kept = _read(data[at : at + ENTRY_BYTES])
            if kept is not None:
                self.former[kept.session] = kept
        os.ftruncate(self._fd, 0)
        size = _ENTRIES_A_STEP * ENTRY_BYTES
        os.ftruncate(self._fd, size)
        self.memory = mmap.mmap(self._fd, size)
        self.free = list(range(size - ENTRY_BYTES, -1, -ENTRY_BYTES))

    def take(self) -> MemorySlot:
        """A place for a session."""
        if not self.free:
            size = len(self.memory)
            larger = size + max(_ENTRIES_A_STEP * ENTRY_BYTES, size // 2 // ENTRY_BYTES * ENTRY_BYTES)
            self.memory.resize(larger)
            self.free = list(range(larger - ENTRY_BYTES, size - 1, -ENTRY_BYTES))
        return MemorySlot(self, self.free.pop())

    def close(self) -> None:
        """After a clean stop nothing is to be restored."""
        self.memory.close()
        os.close(self._fd)
        self._path.unlink(missing_ok=True)


def _read(entry: bytes) -> Kept | None:
    """The session of an entry; None when it is empty, or was being written when the process died."""
    length, checksum, sent, received, known = _HEAD.unpack_from(entry)
    data = entry[_HEAD.size : _HEAD.size + length]
    if not length or zlib.crc32(data) != checksum:
        return None
    try:
        kept = _decoder.decode(data)
    except msgspec.DecodeError:
        return None
    kept.sequence, kept.received_sequence = sent, received if known else None
    return kept
