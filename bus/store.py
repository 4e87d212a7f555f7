"""What a cell retains: in memory for whoever joins, and in a log in the run directory for its own successor.

The cell appends each retained event to the log itself, right after it has sent it. So a cell that is killed leaves
behind exactly what it published, whoever else was killed with it; a mirror kept by another process would always lag
by what is still in the sockets. The run directory is memory (tmpfs): an append costs a few microseconds and no disk.

The log: records of `length, crc32` (little endian, 32 bits each) and a msgpack array. The first record names the
writer, `[version, node, cell, epoch, boot id]`, the others are `[topic, frame]`, frame nil for what was forgotten. A
torn or damaged record ends the reading: what came before it holds.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from holdfast.bus.codec import BadFrame, encode_any
from holdfast.bus.envelope import Envelope, unpack

log = logging.getLogger(__name__)

_HEAD = struct.Struct("<II")
_VERSION = 1
_decode = msgspec.msgpack.Decoder().decode

COMPACT_AT_ONCE = 500
"""Records of a new log that are written between two turns of the loop: some milliseconds."""

COMPACT_ABOVE_BYTES = 256 * 1024
"""A log shorter than this is not worth rewriting."""


class Left(msgspec.Struct):
    """What a former life of a cell left behind. epoch: its last; entries: topic -> frame, oldest first."""

    epoch: int
    entries: dict[str, bytes]


@functools.cache
def boot_id() -> str:
    """The kernel's name for this boot: what is left from another one is not state but history."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def read_left(path: Path, node: str, cell: str) -> Left | None:
    """What cell `cell` of this node left in `path` during this boot, None when there is nothing to go on from."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    records = _records(data)
    if not records:
        return None
    head = records[0]
    if len(head) != 5 or head[0] != _VERSION or head[1:3] != [node, cell] or head[4] != boot_id():
        return None
    entries: dict[str, bytes] = {}
    for record in records[1:]:
        topic, frame = record
        entries.pop(topic, None)
        if frame is not None:
            entries[topic] = frame
    return Left(epoch=head[3], entries=entries)


def envelopes(left: Left | None) -> list[Envelope]:
    """The events of a former life, decoded; one that does not decode any more is left out."""
    found = []
    for topic, frame in (left.entries if left is not None else {}).items():
        try:
            found.append(unpack(topic, frame))
        except BadFrame as error:
            log.warning("what %s left behind cannot be read: %s", topic, error)
    return found


def _records(data: bytes) -> list[list[Any]]:
    records: list[list[Any]] = []
    offset = 0
    while offset + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, offset)
        body = data[offset + _HEAD.size : offset + _HEAD.size + length]
        if len(body) != length or zlib.crc32(body) != checksum:
            break
        try:
            record = _decode(body)
        except msgspec.DecodeError:
            break
        if not isinstance(record, list) or (records and (len(record) != 2 or not isinstance(record[0], str))):
            break
        records.append(record)
        offset += _HEAD.size + length
    return records


class RetainedStore:
    """The newest event of each topic and how many there have been. path: the log, None keeps memory only."""

    def __init__(self, node: str, cell: str, epoch: int, path: Path | None = None) -> None:
        self.node = node
        self.cell = cell
        self.epoch = epoch
        self.entries: dict[str, Envelope] = {}
        self.frames: dict[str, bytes] = {}
        self.counts: dict[str, int] = {}
        self.restored: set[str] = set()
        """Topics that are still as a former life left them."""
        self._path = path
        self._fd = -1
        self._new_fd = -1
        """The log that is to replace the present one, while it is being written."""
        self._written = 0
        self._written_meanwhile = 0
        self._live = 0
        if path is not None:
            self.compact()

    def keep_in(self, path: Path | None) -> None:
        """Where the log goes. Nothing is written yet: `restore` does that, so that a former log holds until then."""
        self._path = path

    def restore(self, left: Left) -> list[Envelope]:
        """Takes over what a former life retained, with its ids and counts. Returns it decoded."""
        found = envelopes(left)
        for envelope in found:
            self.entries[envelope.topic] = envelope
            self.frames[envelope.topic] = left.entries[envelope.topic]
            self.counts[envelope.topic] = envelope.count
            self.restored.add(envelope.topic)
        self.compact()
        return found

    def count(self, topic: str) -> int:
        """One more event under `topic`; returns how many that makes."""
        number = self.counts.get(topic, 0) + 1
        self.counts[topic] = number
        return number

    def put(self, envelope: Envelope, frame: bytes) -> None:
        """`envelope` is the newest of its topic."""
        topic = envelope.topic
        old = self.frames.pop(topic, None)
        self.entries.pop(topic, None)
        self.entries[topic] = envelope
        self.frames[topic] = frame
        self.restored.discard(topic)
        self._live += len(frame) - (len(old) if old is not None else -len(topic))
        self._append([topic, frame])

    def drop(self, topic: str) -> bool:
        """Nothing is retained under `topic` any more. False: nothing was."""
        if self.entries.pop(topic, None) is None:
            return False
        self._live -= len(self.frames.pop(topic)) + len(topic)
        self.restored.discard(topic)
        self._append([topic, None])
        return True

    @property
    def wants_compacting(self) -> bool:
        """True when most of the log is history."""
        return self._fd >= 0 and self._written > COMPACT_ABOVE_BYTES + 3 * self._live

    def compact(self) -> None:
        """Writes the log anew with what is retained now; the old one holds until the new one is complete."""
        if self._path is None:
            return
        parts = [_packed([_VERSION, self.node, self.cell, self.epoch, boot_id()])]
        parts += [_packed([topic, frame]) for topic, frame in self.frames.items()]
        data = b"".join(parts)
        new = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o640)
            _write_all(fd, data)
            os.rename(new, self._path)
        except PermissionError as error:
            # A cell that has given up its rights keeps the file, not the folder.
            if not self._rewrite(data):
                log.error("%s cannot be written, a restart of this cell will begin from nothing: %s", self._path, error)
            return
        except OSError as error:
            log.error("%s cannot be written, a restart of this cell will begin from nothing: %s", self._path, error)
            return
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._compacted(len(data))

    def compacting(self) -> Iterator[None]:
        """`compact` by and by, for a large log: what is put or dropped meanwhile goes to both, the old and the new.

        Where the folder may not be written it is done in one piece, as `compact` does it.
        """
        if self._path is None or self._new_fd >= 0:
            return
        new = self._path.with_suffix(".new")
        try:
            self._new_fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError:
            self.compact()
            return
        try:
            written = self._append_new(_packed([_VERSION, self.node, self.cell, self.epoch, boot_id()]))
            topics = list(self.frames)
            for first in range(0, len(topics), COMPACT_AT_ONCE):
                some = topics[first : first + COMPACT_AT_ONCE]
                written += self._append_new(
                    b"".join(_packed([topic, self.frames[topic]]) for topic in some if topic in self.frames)
                )
                yield
                if self._fd < 0 or self._new_fd < 0:
                    return  # the store was closed, or what came meanwhile could not be written
            os.rename(new, self._path)
            os.close(self._fd)
            self._fd, self._new_fd = self._new_fd, -1
            self._written = written + self._written_meanwhile
        except OSError as error:
            log.error("%s: %s; its history is kept", new, error)
        finally:
            self._written_meanwhile = 0
            self._give_up_new()

    def _give_up_new(self) -> None:
        if self._new_fd >= 0 and self._path is not None:
            os.close(self._new_fd)
            self._new_fd = -1
            with contextlib.suppress(OSError):
                self._path.with_suffix(".new").unlink()

    def _append_new(self, data: bytes) -> int:
        _write_all(self._new_fd, data)
        return len(data)

    def _rewrite(self, data: bytes) -> bool:
        """Compacting in place. Who is killed in the middle of it leaves less behind, but nothing wrong."""
        if self._fd < 0:
            return False
        try:
            os.ftruncate(self._fd, 0)
            _write_all(self._fd, data)
        except OSError:
            return False
        self._compacted(len(data))
        return True

    def _compacted(self, written: int) -> None:
        self._written = written
        self._live = sum(len(topic) + len(frame) for topic, frame in self.frames.items())

    def _append(self, record: list[Any]) -> None:
        if self._fd < 0:
            return
        data = _packed(record)
        try:
            _write_all(self._fd, data)
        except OSError as error:
            # Half a record would hide all that follows: better no log than a wrong one.
            log.error("%s: %s; a restart of this cell will begin from nothing", self._path, error)
            self.close(remove=True)
            return
        self._written += len(data)
        if self._new_fd >= 0:
            try:
                self._written_meanwhile += self._append_new(data)
            except OSError as error:
                log.error("%s: %s; its history is kept", self._path, error)
                self._give_up_new()

    def close(self, *, remove: bool = False) -> None:
        """Ends the log. remove: after a clean stop there is nothing to go on from."""
        self._give_up_new()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if remove and self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()


def _packed(record: list[Any]) -> bytes:
    body = encode_any(record)
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
