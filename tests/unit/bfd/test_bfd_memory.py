"""What of the sessions outlives the process."""

from __future__ import annotations

from pathlib import Path

from bfd_play import up

from holdfast.actors.bfd.auth import Authenticator, AuthType, Key
from holdfast.actors.bfd.memory import ENTRY_BYTES, Kept, MemoryStore


def kept(name: str, disabled: bool = False) -> Kept:
    return Kept(name, bytes([10, 0, 0, 2]), False, 50_001, disabled, up().memory)


def authenticator(sequence: int, received: int | None = None) -> Authenticator:
    made = Authenticator(AuthType.METICULOUS_MD5, (Key(1, b"x"),), sequence)
    made.received_sequence = received
    return made


def test_a_successor_finds_the_last_of_everything(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m")
    slot = store.take()
    slot.keep(kept("a"))
    slot.keep_sequences(authenticator(41))
    slot.keep(kept("a", disabled=True))
    slot.keep_sequences(authenticator(42, 0))
    store.take().keep(kept("b"))
    # No close: the process was killed.
    found = MemoryStore(tmp_path / "m").former
    assert set(found) == {"a", "b"}
    assert (found["a"].sequence, found["a"].received_sequence, found["a"].disabled) == (42, 0, True)
    assert (found["b"].sequence, found["b"].received_sequence) == (0, None)
    assert found["a"].memory == up().memory


def test_what_ended_is_not_found(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m")
    slot = store.take()
    slot.keep(kept("a"))
    slot.release()
    assert MemoryStore(tmp_path / "m").former == {}


def test_a_clean_stop_leaves_nothing(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m")
    store.take().keep(kept("a"))
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_many_sessions_get_places_of_their_own(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m")
    for number in range(1000):
        slot = store.take()
        slot.keep(kept(f"b{number}"))
        slot.keep_sequences(authenticator(number * 2))
    found = MemoryStore(tmp_path / "m").former
    assert {name: each.sequence for name, each in found.items()} == {f"b{n}": n * 2 for n in range(1000)}


def test_the_longest_session_has_room(tmp_path: Path) -> None:
    large = Kept("n" * 31, bytes([255] * 16), True, 65_535, True, up(None, my_discriminator=0xFFFFFFFF).memory)
    MemoryStore(tmp_path / "m").take().keep(large)


def test_an_entry_that_was_being_written_is_nothing(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m")
    store.take().keep(kept("a"))
    store.take().keep(kept("b"))
    store.memory[40] ^= 0xFF
    assert set(MemoryStore(tmp_path / "m").former) == {"b"}


def test_a_damaged_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"\x01" * (2 * ENTRY_BYTES + 7))
    assert MemoryStore(tmp_path / "m").former == {}
