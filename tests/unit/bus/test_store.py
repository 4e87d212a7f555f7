"""What a cell retains survives it, record by record."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.bus import store as store_module
from holdfast.bus.envelope import Envelope, pack
from holdfast.bus.messages import Event, EventId
from holdfast.bus.store import Left, RetainedStore, envelopes, read_left


class Kept(Event, frozen=True, kw_only=True, tag="test.store.kept"):
    value: str


def put(store: RetainedStore, topic: str, value: str, seq: int = 1) -> Envelope:
    envelope = Envelope(topic, EventId("n", "c", store.epoch, seq), 1, 2, (), Kept(value=value), store.count(topic))
    store.put(envelope, pack(envelope))
    return envelope


def left(path: Path) -> Left:
    found = read_left(path, "n", "c")
    assert found is not None
    return found


def test_the_successor_reads_exactly_what_was_retained(tmp_path: Path) -> None:
    path = tmp_path / "state" / "c.log"
    store = RetainedStore("n", "c", 5, path)
    put(store, "n/a/x/state", "old")
    second = put(store, "n/a/y/state", "y")
    third = put(store, "n/a/x/state", "new")
    put(store, "n/a/z/state", "gone")
    assert store.drop("n/a/z/state")
    assert not store.drop("n/a/z/state")
    # No close: the writer was killed.
    found = left(path)
    assert found.epoch == 5
    assert envelopes(found) == [second, third]
    successor = RetainedStore("n", "c", 6)
    successor.keep_in(path)
    assert successor.restore(found) == [second, third]
    assert successor.counts == {"n/a/y/state": 1, "n/a/x/state": 2}
    assert successor.restored == {"n/a/x/state", "n/a/y/state"}
    put(successor, "n/a/x/state", "newest")
    assert successor.restored == {"n/a/y/state"}
    assert [each.event for each in envelopes(left(path))] == [Kept(value="y"), Kept(value="newest")]


def test_a_torn_end_costs_what_was_torn_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    store = RetainedStore("n", "c", 5, path)
    for number in range(10):
        put(store, f"n/a/{number}/state", "x" * 50)
    data = path.read_bytes()
    whole = [each.topic for each in envelopes(left(path))]
    for length in range(len(data) - 1, 100, -7):
        path.write_bytes(data[:length])
        topics = [each.topic for each in envelopes(left(path))]
        assert topics == whole[: len(topics)]
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 0xFF
    path.write_bytes(damaged)
    topics = [each.topic for each in envelopes(left(path))]
    assert topics == whole[: len(topics)]
    assert len(topics) < 10


def test_what_is_not_ours_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.log"
    put(RetainedStore("n", "c", 5, path), "n/a/x/state", "x")
    assert read_left(path, "other", "c") is None
    assert read_left(path, "n", "other") is None
    assert read_left(tmp_path / "none.log", "n", "c") is None
    monkeypatch.setattr(store_module, "boot_id", lambda: "another boot")
    assert read_left(path, "n", "c") is None
    for content in (b"", b"\xff" * 100, b"\0" * 100):
        path.write_bytes(content)
        assert read_left(path, "n", "c") is None


def test_an_event_that_cannot_be_read_any_more_is_left_out() -> None:
    good = Envelope("n/a/x/state", EventId("n", "c", 1, 1), 1, 2, (), Kept(value="x"), 1)
    assert envelopes(Left(1, {"n/a/w/state": b"\xc1", "n/a/x/state": pack(good)})) == [good]


def test_the_log_does_not_grow_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "COMPACT_ABOVE_BYTES", 10_000)
    path = tmp_path / "c.log"
    store = RetainedStore("n", "c", 5, path)
    largest = 0
    for number in range(3000):
        put(store, f"n/a/{number % 5}/state", f"{number} {'x' * 100}")
        if store.wants_compacting:
            store.compact()
        largest = max(largest, path.stat().st_size)
    assert largest < 20_000
    assert [each.event for each in envelopes(left(path))] == [Kept(value=f"{n} {'x' * 100}") for n in range(2995, 3000)]


def test_a_log_that_is_compacted_by_and_by_has_what_happens_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "COMPACT_AT_ONCE", 2)
    path = tmp_path / "c.log"
    store = RetainedStore("n", "c", 5, path)
    for round_ in range(3):
        for number in range(10):
            put(store, f"n/a/{number}/state", f"{number} {round_}")
    before = path.stat().st_size
    # After one step 0 and 1 are written anew, the others are not.
    steps = store.compacting()
    next(steps)
    put(store, "n/a/0/state", "0 new")
    put(store, "n/a/9/state", "9 new")
    store.drop("n/a/1/state")
    store.drop("n/a/8/state")
    put(store, "n/a/10/state", "10 new")
    wanted = {topic: envelope.event for topic, envelope in store.entries.items()}
    assert {each.topic: each.event for each in envelopes(left(path))} == wanted, "killed now, nothing is lost"
    for _ in steps:
        pass
    assert {each.topic: each.event for each in envelopes(left(path))} == wanted
    assert path.stat().st_size < before
    put(store, "n/a/11/state", "11")
    assert "n/a/11/state" in {each.topic for each in envelopes(left(path))}
    # One that ends in the middle of it leaves nothing behind.
    steps = store.compacting()
    next(steps)
    store.close(remove=True)
    assert list(steps) == []
    assert list(tmp_path.iterdir()) == []


def test_a_clean_end_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    store = RetainedStore("n", "c", 5, path)
    put(store, "n/a/x/state", "x")
    store.close(remove=True)
    assert not path.exists()


def test_a_place_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = RetainedStore("n", "c", 5, tmp_path / "file" / "state" / "c.log")
    put(store, "n/a/x/state", "x")
    assert store.entries
