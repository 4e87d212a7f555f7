"""Sequence numbers that outlive the process."""

from __future__ import annotations

from pathlib import Path

from holdfast.actors.bfd.auth import Authenticator, AuthType, Key
from holdfast.actors.bfd.sequences import SequenceStore


def authenticator(sequence: int) -> Authenticator:
    return Authenticator(AuthType.METICULOUS_MD5, (Key(1, b"x"),), sequence)


def test_a_successor_finds_the_last_numbers(tmp_path: Path) -> None:
    store = SequenceStore(tmp_path / "s")
    ours = authenticator(41)
    slot = store.take(7)
    slot.store(ours)
    ours.sequence, ours.received_sequence = 42, 0
    slot.store(ours)
    store.take(8).store(authenticator(5))
    # No close: the process was killed.
    assert SequenceStore(tmp_path / "s").former == {7: (42, 0), 8: (5, None)}


def test_what_ended_is_not_found(tmp_path: Path) -> None:
    store = SequenceStore(tmp_path / "s")
    slot = store.take(7)
    slot.store(authenticator(41))
    slot.release()
    assert SequenceStore(tmp_path / "s").former == {}


def test_many_sessions_get_places_of_their_own(tmp_path: Path) -> None:
    store = SequenceStore(tmp_path / "s")
    for number in range(1, 1001):
        store.take(number).store(authenticator(number * 2))
    assert SequenceStore(tmp_path / "s").former == {number: (number * 2, None) for number in range(1, 1001)}


def test_a_damaged_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"\x01" * 21)
    assert len(SequenceStore(tmp_path / "s").former) == 1
