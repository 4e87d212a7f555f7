"""A notify FIFO as a file: made, opened, written to without ever waiting, removed if it is ours.

Source: keepalived.conf(5), notify_fifo. We hold the reading end too (O_RDWR), so a reader that comes and goes never
sees an end of file and lines wait in the pipe while there is no reader; when it is full, lines are lost and counted.
"""

from __future__ import annotations

import contextlib
import os
import stat

MODE = 0o644
"""Before the umask is taken off, which is 0177 by default."""


class FifoError(Exception):
    """The FIFO cannot be used; the text says why."""


class Fifo:
    """One FIFO. Raises FifoError when it cannot be made or opened, or is a file that is not ours.

    uid, gid: its owner. created: the former life of this cell made it, so that it is ours although it is there.
    """

    def __init__(self, path: str, *, uid: int, gid: int, umask: int = 0o177, created: bool = False) -> None:
        self.path = path
        self.created = created
        self.written = 0
        self.lost = 0
        try:
            os.mkfifo(path, MODE & ~umask)
        except FileExistsError:
            self._check(uid, gid)
        except OSError as error:
            raise FifoError(f"unable to create notify FIFO {path}: {error.strerror}") from None
        else:
            self.created = True
            self._own(uid, gid, umask)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            self._remove()
            raise FifoError(f"unable to open notify FIFO {path}: {error.strerror}") from None

    def _check(self, uid: int, gid: int) -> None:
        status = os.lstat(self.path)
        if not stat.S_ISFIFO(status.st_mode):
            raise FifoError(f"notify FIFO {self.path} exists and is not a FIFO")
        if (status.st_uid, status.st_gid) != (uid, gid):
            raise FifoError(f"notify FIFO {self.path} exists and belongs to {status.st_uid}:{status.st_gid}")

    def _own(self, uid: int, gid: int, umask: int) -> None:
        try:
            os.chmod(self.path, MODE & ~umask)  # whatever the umask of this process takes off
            if (uid, gid) != (os.geteuid(), os.getegid()):
                os.chown(self.path, uid, gid, follow_symlinks=False)
        except OSError as error:
            self._remove()
            raise FifoError(f"unable to give notify FIFO {self.path} to {uid}:{gid}: {error.strerror}") from None

    def write(self, line: str) -> bool:
        """Writes a whole line or nothing of it. False: it is lost."""
        data = line.encode("utf-8", "surrogateescape")
        try:
            # Up to PIPE_BUF bytes go in whole or not at all (pipe(7)); longer lines do not exist.
            written = os.write(self._descriptor, data)
        except OSError:
            self.lost += 1
            return False
        self.written += 1
        return written == len(data)

    def close(self) -> None:
        """Closes it, and removes it if we made it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._remove()

    def _remove(self) -> None:
        if self.created:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
