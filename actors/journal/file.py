"""The journal's file: SQLite in WAL mode. One writer (the journal's own thread), any number of readers.

A reader opens the file by itself (`Journal`), whether the daemon runs or not. The frames are kept as they travel on
the bus, so events of types that are not known here are kept too.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from holdfast.bus.codec import BadFrame
from holdfast.bus.envelope import Envelope, unpack
from holdfast.bus.messages import EventId
from holdfast.config.settings import JournalSettings

DEFAULT_RUN_DIR = Path("/run/holdfast")
DEFAULT_PATH = Path("/var/lib/holdfast/journal.sqlite")
POINTER = "journal.path"
"""In the run directory: where the journal of this node is, for the command line."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY,
    wall_ns INTEGER NOT NULL,
    node TEXT NOT NULL,
    cell TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    topic TEXT NOT NULL,
    frame BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS events_name ON events (node, cell, epoch, seq, topic);
CREATE INDEX IF NOT EXISTS events_wall ON events (wall_ns);
CREATE INDEX IF NOT EXISTS events_topic ON events (topic, wall_ns);
"""
_PRUNE_SHARE = 0.1
"""What is too much is removed together with a tenth more, so that it is not removed event by event."""


def journal_path(settings: JournalSettings, run_dir: Path) -> Path:
    """Where the journal of a daemon is. One with a run directory of its own keeps it there unless told otherwise, in a
    folder that may be another user's (the gateway's)."""
    if settings.path:
        return Path(settings.path)
    return DEFAULT_PATH if run_dir == DEFAULT_RUN_DIR else run_dir / "journal" / DEFAULT_PATH.name


def find(run_dir: Path) -> Path | None:
    """The journal of the daemon of this run directory, None when it never kept one."""
    try:
        return Path((run_dir / POINTER).read_text(encoding="utf-8").strip())
    except OSError:
        path = journal_path(JournalSettings(), run_dir)
        return path if path.exists() else None


class Row(msgspec.Struct, frozen=True):
    """One event on its way into the file."""

    topic: str
    id: EventId
    wall_ns: int
    frame: bytes


class Figures(msgspec.Struct, frozen=True):
    """How much is in the file."""

    events: int
    size_bytes: int
    first_wall_ns: int | None


class JournalWriter:
    """The writing end; every call may block and is made from one thread. Raises sqlite3.Error and OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._db = self._open()
        with contextlib.suppress(OSError):
            path.chmod(0o640)
            os.chown(path, -1, path.parent.stat().st_gid)

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=2.0)
        try:
            # Before the first table, or it has no effect.
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL")
            # A killed process loses nothing that was committed; only a power cut may take the last moments.
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA journal_size_limit = 8388608")
            db.executescript(_SCHEMA)
        except BaseException:
            db.close()
            raise
        return db

    def append(self, rows: Iterable[Row]) -> None:
        """All of them in one transaction; those that are there already stay as they are."""
        values = [(r.wall_ns, r.id.node, r.id.cell, r.id.epoch, r.id.seq, r.topic, r.frame) for r in rows]
        self._db.execute("BEGIN")
        try:
            self._db.executemany(
                "INSERT OR IGNORE INTO events (wall_ns, node, cell, epoch, seq, topic, frame) VALUES (?,?,?,?,?,?,?)",
                values,
            )
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def prune(self, settings: JournalSettings, now_ns: int | None = None) -> int:
        """Removes what is too old or too much. Returns how many events that were."""
        now_ns = time.time_ns() if now_ns is None else now_ns
        before = now_ns - round(settings.max_age_days * 86400 * 1e9)
        removed = self._db.execute("DELETE FROM events WHERE wall_ns < ?", (before,)).rowcount
        limit = round(settings.max_size_mb * 1e6)
        while True:
            used = self._used_bytes()
            count = self._count()
            if used <= limit or not count:
                break
            surplus = 1 - limit / used
            doomed = max(1, min(count, round(count * (surplus + _PRUNE_SHARE * (1 - surplus)))))
            removed += self._db.execute(
                "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT ?)", (doomed,)
            ).rowcount
        if removed:
            # As a script: `execute` takes one step of a statement without columns, which frees one page.
            self._db.executescript("PRAGMA incremental_vacuum")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return removed

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def _used_bytes(self) -> int:
        return (self._pragma("page_count") - self._pragma("freelist_count")) * self._pragma("page_size")

    def _count(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM events").fetchone()[0])

    def newest(self) -> dict[str, int]:
        """Node -> the wall clock of its newest event, ns."""
        return dict(self._db.execute("SELECT node, max(wall_ns) FROM events GROUP BY node").fetchall())

    def figures(self) -> Figures:
        """How much is in the file."""
        first = self._db.execute("SELECT min(wall_ns) FROM events").fetchone()[0]
        return Figures(self._count(), self._used_bytes(), first)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()


def open_writer(path: Path) -> tuple[JournalWriter, str]:
    """A writer and what is to be said about it. A damaged file is set aside and a new one begun."""
    try:
        return JournalWriter(path), ""
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns() // 1_000_000_000}")
        path.rename(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return JournalWriter(path), f"the journal was damaged ({error}) and is kept as {aside}"


class Journal:
    """The reading end, read-only; the daemon may run or not. Raises OSError when there is no journal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise FileNotFoundError(f"no journal at {path}")
        self._db = self._open(path)

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        # Without the right to write, SQLite can read a WAL file only while its -shm file is there; when it is not,
        # nobody writes, and the file can be taken as it is.
        problem: sqlite3.Error | None = None
        for options in ("mode=ro", "mode=ro&immutable=1"):
            db = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, isolation_level=None, timeout=2.0)
            try:
                db.execute("SELECT 1 FROM events LIMIT 1").fetchall()
            except sqlite3.Error as error:
                db.close()
                problem = error
                continue
            return db
        raise OSError(f"{path}: {problem}")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def events(
        self,
        prefix: str = "",
        *,
        since_ns: int = 0,
        until_ns: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[Envelope]:
        """Events whose topic without its node begins with `prefix`, by wall clock; limit keeps the newest of them.

        A frame that cannot be read any more is left out.
        """
        order = "DESC" if newest_first or limit is not None else "ASC"
        sql = (
            "SELECT topic, frame FROM events WHERE wall_ns >= ? AND wall_ns <= ?"
            " AND substr(topic, instr(topic, '/') + 1, ?) = ?"
            f" ORDER BY wall_ns {order}, id {order} LIMIT ?"
        )
        values = (
            since_ns,
            2**63 - 1 if until_ns is None else until_ns,
            len(prefix),
            prefix,
            -1 if limit is None else limit,
        )
        rows: Iterable[tuple[str, bytes]] = self._db.execute(sql, values)
        if limit is not None and not newest_first:
            rows = reversed(list(rows))
        for topic, frame in rows:
            with contextlib.suppress(BadFrame):
                yield unpack(topic, frame)

    def page(self, node: str, since_ns: int, after: int, limit: int) -> tuple[list[tuple[str, bytes]], int]:
        """(topic, frame) of at most `limit` events in the order they were kept, and the number to go on after.

        node: whose events, empty for all. The number is 0 when there are no more.
        """
        rows = self._db.execute(
            "SELECT id, topic, frame FROM events WHERE id > ? AND wall_ns >= ? AND (? = '' OR node = ?)"
            " ORDER BY id LIMIT ?",
            (after, since_ns, node, node, limit),
        ).fetchall()
        return [(topic, frame) for _, topic, frame in rows], rows[-1][0] if len(rows) == limit else 0

    def by_id(self, name: EventId) -> Envelope | None:
        """The event with this id."""
        row = self._db.execute(
            "SELECT topic, frame FROM events WHERE node = ? AND cell = ? AND epoch = ? AND seq = ?",
            (name.node, name.cell, name.epoch, name.seq),
        ).fetchone()
        return None if row is None else unpack(*row)

    def last_before(self, topic: str, wall_ns: int) -> Envelope | None:
        """The newest event under a whole topic at that time."""
        row = self._db.execute(
            "SELECT topic, frame FROM events WHERE topic = ? AND wall_ns <= ? ORDER BY wall_ns DESC, id DESC LIMIT 1",
            (topic, wall_ns),
        ).fetchone()
        return None if row is None else unpack(*row)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()
