"""Lines as keepalived's users know them."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.actors.runtime import log


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = list(root.handlers), root.level, logging.raiseExceptions
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.raiseExceptions = raising


def test_console_lines_have_ctime_and_a_colon(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("console")
    logging.getLogger("room").info("(%s) Entering MASTER STATE", "VI_1")
    logging.getLogger("room").debug("not shown")
    try:
        raise ValueError("inside")
    except ValueError:
        logging.getLogger("room").exception("failed")
    lines = capsys.readouterr().err.splitlines()
    stamp = r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}: "
    assert all(re.match(stamp, line) for line in lines)
    texts = [line[26:] for line in lines]
    assert texts[:2] == ["(VI_1) Entering MASTER STATE", "failed"]
    assert texts[-1] == "ValueError: inside"


def test_syslog_gets_one_line_with_name_pid_and_facility(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(path))
    server.settimeout(5)
    monkeypatch.setattr(log, "_DEV_LOG", str(path))
    log.configure("syslog", facility="local3", name="Holdfast")
    logging.getLogger("room").warning("two\nlines")
    text = server.recv(1000).decode()
    assert re.fullmatch(r"<156>Holdfast\[\d+\]: two \| lines", text)
    # Nobody listens any more: the line is lost and nothing else.
    server.close()
    path.unlink()
    logging.getLogger("room").warning("lost")


def test_without_syslog_lines_go_to_the_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "_DEV_LOG", str(tmp_path / "none"))
    log.configure("syslog")
    logging.getLogger("room").info("here")
    assert capsys.readouterr().err.endswith(": here\n")


def test_sampled_lines_tell_what_was_held_back() -> None:
    sampled = log.Sampled(60)
    second = 1_000_000_000
    assert sampled.allows(0)
    assert sampled.suffix == ""
    assert not any(sampled.allows(number * second) for number in range(1, 60))
    assert sampled.allows(60 * second)
    assert sampled.suffix == " (59 more since the last line)"
    assert sampled.allows(121 * second)
    assert sampled.suffix == ""
