"""The journal: its file, its limits, and what becomes of it when the disk does not do what it should."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from holdfast.actors.journal import file as journal_file
from holdfast.actors.journal.actor import JournalActor
from holdfast.actors.journal.file import Journal, JournalWriter, Row, find, journal_path, open_writer
from holdfast.actors.journal.messages import JournalState
from holdfast.actors.runtime.cell import CellContext
from holdfast.bus.codec import UnknownEvent
from holdfast.bus.envelope import Envelope, pack
from holdfast.bus.fake import FakeBus, FakeNetwork
from holdfast.bus.messages import Event, EventId
from holdfast.config.settings import JournalSettings, Settings


class Noted(Event, frozen=True, kw_only=True, tag="test.journal.noted"):
    text: str


def row(number: int, *, wall_ns: int | None = None, topic: str = "n1/vrrp/VI_1/state", text: str = "x") -> Row:
    name = EventId("n1", "protocol", 1, number)
    wall = number * 1000 if wall_ns is None else wall_ns
    return Row(topic, name, wall, pack(Envelope(topic, name, wall, 0, (), Noted(text=text), number)))


def texts(journal: Journal, *arguments: Any, **options: Any) -> list[str]:
    return [cast(Noted, each.event).text for each in journal.events(*arguments, **options)]


def test_what_is_written_is_read_in_order_by_prefix_and_time(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    writer = JournalWriter(path)
    writer.append([row(2, text="b"), row(1, text="a"), row(3, text="c", topic="n1/link/eth0/state")])
    with Journal(path) as journal:
        assert texts(journal) == ["a", "b", "c"]
        assert texts(journal, "vrrp/") == ["a", "b"]
        assert texts(journal, "vrrp/VI_1/st") == ["a", "b"]
        assert texts(journal, "n1/") == []
        assert texts(journal, since_ns=2000) == ["b", "c"]
        assert texts(journal, until_ns=2000) == ["a", "b"]
        assert texts(journal, limit=2) == ["b", "c"]
        assert texts(journal, limit=2, newest_first=True) == ["c", "b"]
        found = journal.by_id(EventId("n1", "protocol", 1, 2))
        assert found is not None
        assert found.event == Noted(text="b")
        assert journal.by_id(EventId("n1", "protocol", 2, 2)) is None
        before = journal.last_before("n1/vrrp/VI_1/state", 1999)
        assert before is not None
        assert before.event == Noted(text="a")
        assert journal.last_before("n1/vrrp/VI_1/state", 999) is None
    writer.close()


def test_an_event_that_comes_twice_is_kept_once(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "j.sqlite")
    writer.append([row(1), row(2)])
    writer.append([row(2), row(3)])
    assert writer.figures().events == 3
    writer.close()


def test_events_of_unknown_types_and_damaged_frames(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    writer = JournalWriter(path)
    name = EventId("n1", "c", 1, 1)
    strange = pack(Envelope("n1/a/b/c", name, 5, 0, (), UnknownEvent(name="future.type", raw=b"\x80"), 1))
    writer.append([Row("n1/a/b/c", name, 5, strange), Row("n1/a/b/d", name, 6, b"\xc1garbage")])
    with Journal(path) as journal:
        (envelope,) = journal.events()
        assert envelope.event == UnknownEvent(name="future.type", raw=b"\x80")
    writer.close()


def test_old_events_go(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    day = 86_400_000_000_000
    writer = JournalWriter(path)
    writer.append([row(1, wall_ns=day), row(2, wall_ns=3 * day), row(3, wall_ns=4 * day)])
    assert writer.prune(JournalSettings(max_age_days=1.5), now_ns=4 * day) == 1
    assert writer.figures().first_wall_ns == 3 * day
    writer.close()


def test_the_size_stays_within_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    writer = JournalWriter(path)
    settings = JournalSettings(max_size_mb=1)
    for batch in range(6):
        writer.append([row(batch * 500 + number, text="x" * 600) for number in range(500)])
        writer.prune(settings, now_ns=0)
        assert writer.figures().size_bytes <= 1_000_000
    with Journal(path) as journal:
        kept = [each.id.seq for each in journal.events()]
    assert kept == list(range(kept[0], 3000))
    assert path.stat().st_size <= 1_100_000
    writer.close()


def test_a_reader_without_rights_reads_a_closed_journal(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    writer = JournalWriter(path)
    writer.append([row(1)])
    writer.close()
    path.chmod(0o444)
    with Journal(path) as journal:
        assert texts(journal) == ["x"]
        with pytest.raises(sqlite3.OperationalError):
            journal._db.execute("DELETE FROM events")


def test_no_journal_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Journal(tmp_path / "none")
    assert find(tmp_path) is None


def test_where_the_journal_is(tmp_path: Path) -> None:
    assert journal_path(JournalSettings(), Path("/run/holdfast")) == Path("/var/lib/holdfast/journal.sqlite")
    assert journal_path(JournalSettings(), tmp_path) == tmp_path / "journal" / "journal.sqlite"
    assert journal_path(JournalSettings(path="/a/b"), tmp_path) == Path("/a/b")
    (tmp_path / "journal.path").write_text("/some/where\n")
    assert find(tmp_path) == Path("/some/where")


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    path.write_bytes(b"SQLite format 3\0" + os.urandom(4096))
    writer, remark = open_writer(path)
    assert "damaged" in remark
    writer.append([row(1)])
    writer.close()
    assert len(list(tmp_path.glob("j.sqlite.damaged-*"))) == 1


def test_what_was_committed_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    script = (
        "import sys\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_journal import row\n"
        "from holdfast.actors.journal.file import JournalWriter\n"
        f"writer = JournalWriter(Path({str(path)!r}))\n"
        "for number in range(1, 100000):\n"
        "    writer.append([row(number)])\n"
        "    print(number, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 50:
            break
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait(10)
    last = int(rest[-1]) if rest and rest[-1].isdigit() else 50
    writer, remark = open_writer(path)
    assert remark == ""
    with Journal(path) as journal:
        kept = [each.id.seq for each in journal.events()]
    assert kept == list(range(1, len(kept) + 1))
    assert len(kept) >= last
    writer.close()


class Rig:
    """A JournalActor on a fake bus."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        loop = asyncio.get_running_loop()
        self.now = 1
        self.network = FakeNetwork(lambda: self.now)
        self.bus = FakeBus("n1", "gateway", self.network)
        self.other = FakeBus("n1", "protocol", self.network)
        self.ctx = CellContext(
            node="n1",
            cell="gateway",
            run_dir=tmp_path,
            bus=self.bus,
            loop=loop,
            timers=cast(Any, None),
            settings=Settings(node="n1", journal=JournalSettings(max_age_days=1e5, **settings)),
        )
        self.path = tmp_path / "journal" / "journal.sqlite"
        self.actor = JournalActor.start(self.ctx, flush_s=0.01, retry_s=0.05)

    def tell(self, text: str, subject: str = "vrrp/VI_1") -> None:
        self.now += 1
        self.other.publish(subject, "state", Noted(text=text))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    def states(self) -> list[JournalState]:
        return [each for each in self.bus.events(JournalState) if isinstance(each, JournalState)]

    def texts(self) -> list[str]:
        with Journal(self.path) as journal:
            return [each.event.text for each in journal.events() if isinstance(each.event, Noted)]


async def test_every_event_of_the_node_is_kept_but_the_configuration(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.tell("before")
    await rig.until(lambda: bool(rig.states()))
    rig.tell("after")
    rig.tell("password", "slice/protocol,vrrp,room")
    rig.tell("last words")
    # No waiting: the clean stop writes what is still there.
    await rig.ctx.run_stop_hooks()
    assert rig.texts() == ["before", "after", "last words"]
    assert rig.states()[0].writing
    assert find(tmp_path) == rig.path


async def test_a_full_disk_stops_the_journal_with_an_alarm_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = 24
    open_before = JournalWriter._open

    def small(self: JournalWriter) -> sqlite3.Connection:
        db = open_before(self)
        db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        return db

    monkeypatch.setattr(journal_file.JournalWriter, "_open", small)
    rig = Rig(tmp_path)
    await rig.until(lambda: bool(rig.states()))
    for number in range(200):
        rig.tell(f"{number} {'x' * 1000}")
    await rig.until(lambda: not rig.states()[-1].writing)
    assert "full" in rig.states()[-1].error
    rig.tell("while it is full")
    assert rig.actor.is_alive()
    pages = 100_000
    await rig.until(lambda: rig.states()[-1].writing)
    assert [each.writing for each in rig.states()] == [True, False, True]
    await rig.ctx.run_stop_hooks()
    kept = rig.texts()
    # What waited meanwhile was not lost.
    assert len(kept) == 201
    assert kept[-1] == "while it is full"


async def test_what_waits_for_the_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.actors.journal.actor.WAITING_EVENTS_MAX", 10)
    directory = tmp_path / "journal" / "journal.sqlite"
    directory.mkdir(parents=True)  # cannot be opened as a file
    rig = Rig(tmp_path)
    await rig.until(lambda: bool(rig.states()) and not rig.states()[-1].writing)
    for number in range(50):
        rig.tell(str(number))
    directory.rmdir()
    await rig.until(lambda: rig.states()[-1].writing)
    assert rig.states()[-1].lost > 30
    await rig.ctx.run_stop_hooks()
    assert rig.texts() == [str(number) for number in range(len(rig.texts()))]
