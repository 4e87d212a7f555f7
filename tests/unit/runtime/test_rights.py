"""Which rights a cell keeps, by its rooms."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.actors.gateway.actor import belongings as gateway_belongings
from holdfast.actors.journal.actor import belongings as journal_belongings
from holdfast.actors.runtime import rights
from holdfast.actors.runtime.placement import DEFAULT
from holdfast.actors.runtime.rights import ROOMS, Account, of_cell
from holdfast.config.settings import ROOMS as PLACED
from holdfast.config.settings import GatewaySettings, JournalSettings, Settings
from holdfast.kernel.privileges import CAPABILITIES


def test_every_room_that_can_be_placed_is_in_the_table() -> None:
    assert set(PLACED) | set(DEFAULT) <= set(ROOMS)


def test_every_name_is_a_capability() -> None:
    for each in ROOMS.values():
        assert each.own <= set(CAPABILITIES)


def test_no_room_can_become_another_user_or_load_what_it_likes_into_the_kernel() -> None:
    for room, each in ROOMS.items():
        assert not each.own & {"setuid", "setgid", "setpcap", "sys_admin", "sys_ptrace"}, room


def test_a_cell_has_the_rights_of_all_its_rooms() -> None:
    found = of_cell(("watch", "vrrp"))
    assert found is not None
    assert found.own == ROOMS["watch"].own | ROOMS["vrrp"].own
    assert found.programs


def test_the_gateway_loses_its_freedom_from_rights_when_it_shares_a_cell() -> None:
    assert of_cell(("gateway", "journal")) == rights.NONE
    assert of_cell(("gateway", "notify")) == ROOMS["notify"]


def test_an_unknown_room_keeps_everything() -> None:
    assert of_cell(("gateway", "someones-own")) is None


def test_in_another_namespace_the_watch_may_go_to_the_first_one() -> None:
    found = of_cell(("watch",), elsewhere=True)
    assert found is not None and {"sys_admin", "sys_ptrace"} <= found.own
    assert of_cell(("gateway",), elsewhere=True) == rights.NONE


def test_what_rooms_without_rights_own() -> None:
    run_dir = Path("/run/holdfast")
    settings = Settings(
        journal=JournalSettings(path="/srv/j/events"), gateway=GatewaySettings(key_file="/etc/holdfast/keys/a")
    )
    journal = journal_belongings(settings, run_dir)
    assert journal.folders == (Path("/srv/j"),)
    assert journal.files == (Path("/srv/j/events"), run_dir / "journal.path")
    assert journal.given == (Path("/srv/j/events-wal"), Path("/srv/j/events-shm"))
    assert gateway_belongings(settings, run_dir).given == (Path("/etc/holdfast/keys/a"),)


class Chowned:
    """os.fchown, told by path."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        monkeypatch.setattr(rights.os, "fchown", self._fchown)

    def _fchown(self, fd: int, uid: int, gid: int) -> None:
        assert (uid, gid) == (7, 8)
        self.paths.append(os.readlink(f"/proc/self/fd/{fd}"))


def test_files_are_handed_over_but_nobody_elses_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chowned = Chowned(monkeypatch)
    (tmp_path / "log").mkdir()  # the operator's own folder, named in holdfast.toml
    (tmp_path / "holdfast").mkdir()
    (tmp_path / "key").touch()
    belongings = rights.Belongings(
        folders=(tmp_path / "log", tmp_path / "holdfast", tmp_path / "made"),
        files=(tmp_path / "made" / "journal",),
        given=(tmp_path / "key", tmp_path / "missing"),
    )
    rights._hand_over(belongings, Account("holdfast", 7, 8))
    wanted = ("holdfast", "made", "made/journal", "key")
    assert chowned.paths == [str(tmp_path / name) for name in wanted]
    assert not (tmp_path / "missing").exists()


def test_nothing_is_handed_over_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chowned = Chowned(monkeypatch)
    (tmp_path / "passwd").touch()
    for name in ("journal", "key"):
        (tmp_path / name).symlink_to(tmp_path / "passwd")
    belongings = rights.Belongings(files=(tmp_path / "journal",), given=(tmp_path / "key",))
    rights._hand_over(belongings, Account("holdfast", 7, 8))
    assert chowned.paths == []


def test_a_log_in_a_folder_that_is_not_ours_any_more_is_compacted_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.bus.store import RetainedStore, read_left

    path = tmp_path / "gateway.log"
    store = RetainedStore("n1", "gateway", 5, path)
    before = path.stat().st_ino

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("holdfast.bus.store.os.open", refuse)
    store.frames["n1/x/state"] = b"frame"
    store.compact()
    monkeypatch.undo()
    left = read_left(path, "n1", "gateway")
    assert left is not None and left.epoch == 5 and left.entries == {"n1/x/state": b"frame"}
    assert path.stat().st_ino == before
    store.close()
