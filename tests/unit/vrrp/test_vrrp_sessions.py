"""Recorded sessions: the machine of today does what it did when they were recorded. A bug in the field begins here."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from holdfast.actors.runtime.machine import Deadline, Instant, S
from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.actors.vrrp.facts import LinkChanged, SourceChanged, Start
from holdfast.actors.vrrp.options import MachineOptions
from holdfast.actors.vrrp.record import SessionError, record_of, replay
from holdfast.cli.main import main

SESSIONS = sorted((Path(__file__).resolve().parents[2] / "sessions").glob("*.jsonl"))


def test_there_are_sessions() -> None:
    assert SESSIONS


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_a_recorded_session_repeats_itself(path: Path) -> None:
    for step in replay(path.read_bytes()):
        assert step.got == step.wanted, f"{step.fact} at {step.at}"


def session() -> bytes:
    instance = VrrpInstance(name="V", interface="eth0", vrid=1)
    facts = [(LinkChanged("eth0", True), 0), (SourceChanged("10.0.0.1"), 0), (Start(), 0), (Deadline(), 10)]
    return record_of([(fact, Instant(at * S)) for fact, at in facts], instance, MachineOptions(node="n"))


def test_what_is_recorded_can_be_replayed() -> None:
    steps = list(replay(session()))
    assert [step.state for step in steps] == ["INIT", "INIT", "BACKUP", "MASTER"]
    assert all(step.same for step in steps)


@pytest.mark.parametrize("data", [b"", b"noise\n", b'{"instance": 1}\n', session()[:-40]])
def test_a_file_that_is_no_session_names_the_line(data: bytes) -> None:
    with pytest.raises(SessionError, match=r"line \d+|empty"):
        list(replay(data))


def test_the_command_shows_facts_and_orders_and_tells_a_difference(tmp_path: Path) -> None:
    file = tmp_path / "session.jsonl"
    file.write_bytes(session())
    fine = CliRunner().invoke(main, ["replay", str(file)])
    assert fine.exit_code == 0
    assert ">> Start()" in fine.output
    assert "<< TakeOver(" in fine.output
    file.write_bytes(session().replace(b'"TakeOver"', b'"GiveUp"'))
    other = CliRunner().invoke(main, ["replay", str(file)])
    assert other.exit_code == 4
    assert "1 steps differ" in other.output
