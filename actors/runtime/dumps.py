"""USR1 and USR2: one file of what all cells have to say about themselves."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from holdfast.actors.runtime.children import Child
from holdfast.actors.runtime.messages import Orders

ANSWER_S = 2.0


class Dumps:
    """Asks the cells for their parts and puts them together. run_dir: where the parts lie meanwhile."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def done(self, path: str) -> None:
        """A cell has written its part."""
        waiting = self._waiting.pop(path, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def collect(self, op: str, head: str, cells: Iterable[Child], target: Path) -> None:
        """One file of the parts of all cells; a cell that does not answer is named in it. Raises OSError."""
        text = head
        for child in sorted(cells, key=lambda each: each.name):
            part = self._run_dir / f"{op}.{child.name}"
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[str(part)] = waiting
            text += f"------< cell {child.name}, {child.status}, pid {child.pid}, restarts {child.restarts} >------\n"
            try:
                self._prepare(part)
                if not child.tell(Orders(op, path=str(part))):
                    raise TimeoutError
                await asyncio.wait_for(waiting, ANSWER_S)
                text += part.read_text(encoding="utf-8", errors="surrogateescape")
            except (TimeoutError, OSError):
                text += " (no answer)\n"
            finally:
                self._waiting.pop(str(part), None)
                part.unlink(missing_ok=True)
        write_new(target, text)

    def _prepare(self, part: Path) -> None:
        """A cell that is another user's by now can write its part, and make no file here."""
        part.unlink(missing_ok=True)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o660)
        try:
            os.fchown(fd, -1, self._run_dir.stat().st_gid)
            os.fchmod(fd, 0o660)
        finally:
            os.close(fd)


def write_new(target: Path, text: str) -> None:
    """The file is new whatever lies at its name: a link that someone put into /tmp is replaced, not followed."""
    new = target.with_name(f".{target.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    new.replace(target)
