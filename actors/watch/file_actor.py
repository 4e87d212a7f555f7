"""The shell of one track_file: reads it when the kernel says that it changed. The machine is in `file.py`."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from typing import Protocol

import msgspec

from holdfast.actors.runtime.actor import LoopActor
from holdfast.actors.runtime.machine import Duration, Instant, S, later
from holdfast.actors.watch.config import TrackFile
from holdfast.actors.watch.file import READ_LIMIT_BYTES, FileMachine
from holdfast.actors.watch.messages import FileValue
from holdfast.bus.base import Bus
from holdfast.kernel.base import KernelError
from holdfast.kernel.faces import Timers

log = logging.getLogger("holdfast.watch")

LOOK_AGAIN = Duration(1 * S)
"""How often a file is looked at whose directory cannot be watched (it is not there yet, or its file system cannot)."""


class FileNotices(Protocol):
    """Tells when a file may have changed (kernel/inotify.py)."""

    def watch(self, path: str, changed: Callable[[], None]) -> Callable[[], None]:
        """`changed()` when the file is written and closed, appears, vanishes or is replaced.

        Returns what ends it. Raises KernelError when the directory cannot be watched.
        """


class ConfigureFile(msgspec.Struct, frozen=True):
    """The file as it is configured now. create: the daemon just started, so init_file is acted on."""

    file: TrackFile
    create: bool = False


class FileActor(LoopActor):
    """See the file's first lines. restored: what the former life of this cell published last, after a crash."""

    def __init__(
        self, name: str, *, bus: Bus, timers: Timers, notices: FileNotices, restored: FileValue | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self._bus = bus
        self._timers = timers
        self._notices = notices
        self._restored = restored
        self._file: TrackFile | None = None
        self._machine: FileMachine | None = None
        self._unwatch: Callable[[], None] | None = None

    def on_receive(self, message: object) -> object:
        """Takes `ConfigureFile`."""
        assert isinstance(message, ConfigureFile)
        before = self._machine.last if self._machine is not None else self._restored
        moved = self._file is None or self._file.path != message.file.path
        self._file = message.file
        self._machine = FileMachine(message.file, node=self._bus.node, before=before)
        if message.create:
            initialise(message.file)
        if moved:
            self._follow()
        told = self._look()
        if self._restored is not None:
            if not told:
                self._bus.publish(f"file/{self.name}", "state", self._restored)
            self._restored = None
        return None

    def on_stop(self) -> None:
        """Removed by a reload, or the cell ends."""
        if self._unwatch is not None:
            self._unwatch()
        self._timers.set(self, None, self._again)
        self._bus.forget(f"file/{self.name}", "state")

    def _follow(self) -> None:
        """Watches the file, and if that cannot be done yet, looks at it every second until it can."""
        assert self._file is not None
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        self._timers.set(self, None, self._again)
        try:
            self._unwatch = self._notices.watch(self._file.path, self._changed)
        except KernelError as error:
            log.warning("track_file %s: %s - looking every second instead", self.name, error)
            self._timers.set(self, later(self._timers.now(), LOOK_AGAIN), self._again)

    def _again(self, now: Instant) -> None:
        assert self._file is not None
        try:
            self._unwatch = self._notices.watch(self._file.path, self._changed)
        except KernelError:
            self._timers.set(self, later(now, LOOK_AGAIN), self._again)
        self._look()

    def _changed(self) -> None:
        assert self._machine is not None
        self._look()
        if self._machine.last is not None and not self._machine.last.readable:
            # Perhaps its directory went, and the watch with it. Between the two the file may have come back.
            self._follow()
            self._look()

    def _look(self) -> bool:
        assert self._machine is not None and self._file is not None
        value = self._machine.changed(read(self._file.path), self._timers.now())
        if value is None:
            return False
        log.info("track_file %s is now %d%s", self.name, value.value, "" if value.readable else " (not readable)")
        self._bus.publish(f"file/{self.name}", "state", value)
        return True


def read(path: str) -> bytes | None:
    """The first bytes of a file, None when it is missing or not readable. Does not wait for a FIFO's writer."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return os.read(descriptor, READ_LIMIT_BYTES)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def initialise(file: TrackFile) -> None:
    """init_file: creates the file with its value, or overwrites it if so configured."""
    if file.init_value is None:
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    flags |= os.O_TRUNC if file.init_overwrite else os.O_EXCL
    try:
        descriptor = os.open(file.path, flags, 0o644)
    except OSError as error:
        if error.errno != errno.EEXIST:
            log.warning("track_file %s: unable to create %s: %s", file.name, file.path, error.strerror)
        return
    try:
        os.write(descriptor, b"%d\n" % file.init_value)
    except OSError as error:
        log.warning("track_file %s: unable to write %s: %s", file.name, file.path, error.strerror)
    finally:
        os.close(descriptor)
