"""The demo ends by itself, and leaves nothing behind however it is ended."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns

ROOT = Path(__file__).resolve().parents[2]
BUILDING = "about to build"
"""No line of the demo: its first namespace is there."""


class Demo:
    """A demo on a terminal of its own (or a pipe), as make starts it."""

    def __init__(self, *, terminal: bool = True) -> None:
        words = [sys.executable, str(ROOT / "deploy/demo/demo.py")]
        if terminal:
            # As the first process of a session that owns the terminal.
            words = ["setsid", "--ctty", *words]
            self.screen, theirs = pty.openpty()
        else:
            self.screen, theirs = os.pipe()
        self.process = subprocess.Popen(
            words,
            stdin=theirs if terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=not terminal,
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, wanted: str, seconds: float = 40) -> str:
        """What is shown up to `wanted` (a regular expression); for an empty one: up to the end."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not (wanted and re.search(wanted, self.text)):
            if not select.select([self.screen], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(self.screen, 65536)
            except OSError as error:
                assert error.errno == errno.EIO  # the other end of a terminal is closed
                data = b""
            if not data:
                break
            self.text += data.decode(errors="replace")
        assert not wanted or re.search(wanted, self.text), self.text[-3000:]
        return self.text

    def until_building(self) -> None:
        """Until it has begun with the network."""
        until = time.monotonic() + 20
        while not self.namespaces():
            assert time.monotonic() < until and self.process.poll() is None
            time.sleep(0.002)

    def namespaces(self) -> list[str]:
        """Those of this demo."""
        with contextlib.suppress(FileNotFoundError):
            return [each for each in os.listdir("/run/netns") if each.startswith(f"hfdemo{self.process.pid}-")]
        return []

    def folder(self) -> Path:
        """Where its files are."""
        return Path(tempfile.gettempdir(), f"holdfast-demo-{self.process.pid}")

    def processes(self) -> list[str]:
        """Command lines that speak of this demo's folder or namespaces."""
        found = []
        marks = (str(self.folder()).encode(), f"hfdemo{self.process.pid}-".encode())
        for each in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = each.read_bytes()
                if any(mark in words for mark in marks):
                    found.append(f"{each.parent.name}: {words.decode(errors='replace')}")
        return found

    def assert_nothing_is_left(self) -> None:
        """Neither namespaces, nor files, nor processes."""
        assert (self.namespaces(), self.folder().exists(), self.processes()) == ([], False, [])

    def close_terminal(self) -> None:
        """As closing the window does: the kernel hangs up on the session."""
        if self.screen >= 0:
            os.close(self.screen)
            self.screen = -1


@pytest.fixture
def demo() -> Iterator[Demo]:
    one = Demo()
    yield from _ended(one)


@pytest.fixture
def piped() -> Iterator[Demo]:
    yield from _ended(Demo(terminal=False))


def _ended(one: Demo) -> Iterator[Demo]:
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.process.terminate()
            one.process.wait(15)
        one.close_terminal()


def test_it_ends_by_itself_in_less_than_a_minute_and_shows_everything(piped: Demo) -> None:
    started = time.monotonic()
    text = piped.read_until("", 60)
    assert piped.process.wait(5) == 0, text[-3000:]
    assert time.monotonic() - started < 60
    assert text.count("\n== ") == 6
    assert len(re.findall(r"the client had no answer for [\d.]+ s \(ping\), [\d.]+ s \(HTTP\)", text)) == 5
    assert len(re.findall(r"    LAN became (MASTER|FAULT) on r[12] at .* because ", text)) == 5
    assert "nothing left behind" in text
    piped.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("how", "when"),
    [
        (signal.SIGINT, BUILDING),
        (signal.SIGTERM, BUILDING),
        (signal.SIGHUP, BUILDING),
        (signal.SIGINT, r"cell/protocol running"),
        (signal.SIGTERM, r"cell/protocol running"),
        (signal.SIGHUP, r"== the process that speaks VRRP"),
    ],
)
def test_a_signal_at_any_time_leaves_nothing(demo: Demo, how: signal.Signals, when: str) -> None:
    if when == BUILDING:
        demo.until_building()
    else:
        demo.read_until(when)
    demo.process.send_signal(how)
    demo.process.send_signal(how)  # impatient
    text = demo.read_until("interrupted, cleaned up")
    assert demo.process.wait(15) == 128 + how, text[-3000:]
    assert "Traceback" not in text
    demo.assert_nothing_is_left()


def test_control_c_reaches_everything_in_front_and_leaves_nothing(demo: Demo) -> None:
    demo.read_until(r"== two routers start")
    os.write(demo.screen, b"\x03")
    assert demo.process.wait(15) == 130
    demo.assert_nothing_is_left()


def test_a_closed_terminal_leaves_nothing(demo: Demo) -> None:
    demo.read_until(r"BACKUP -> MASTER")
    demo.close_terminal()
    assert demo.process.wait(15) in (1, 129)
    demo.assert_nothing_is_left()


def test_a_reader_that_goes_away_leaves_nothing(piped: Demo) -> None:
    piped.read_until(r"== two routers start")
    piped.close_terminal()
    assert piped.process.wait(40) == 1
    piped.assert_nothing_is_left()


def test_the_next_one_clears_up_after_one_that_was_killed(demo: Demo) -> None:
    demo.until_building()
    demo.read_until(r"cell/protocol running")
    demo.process.kill()
    demo.process.wait()
    assert demo.namespaces()
    second = Demo()
    try:
        second.until_building()
        assert not demo.namespaces() and not demo.folder().exists()
        second.process.terminate()
        assert second.process.wait(15) == 143
        second.assert_nothing_is_left()
        assert not any(f"hfdemo{demo.process.pid}-" in each for each in demo.processes())
    finally:
        for each in _ended(second):
            del each
