"""Rooms to cells: the default table, holdfast.toml over it, and the division of the checkers."""

from __future__ import annotations

from holdfast.actors.runtime.children import Backoff
from holdfast.actors.runtime.placement import Slices, digest, plan
from holdfast.config.settings import CellSettings, ChecksSettings, GatewaySettings, JournalSettings, Settings

QUIET = JournalSettings(enabled=False)
ALL: Slices = {room: {"room": b"x"} for room in ("watch", "vrrp", "bfd", "checkers", "ipvs", "notify")}


def rooms(slices: Slices, settings: Settings) -> dict[str, tuple[str, ...]]:
    return {name: each.rooms for name, each in plan(slices, settings).items()}


def test_the_default_table() -> None:
    assert rooms(ALL, Settings()) == {
        "protocol": ("watch", "vrrp"),
        "bfd": ("bfd",),
        "checkers": ("checkers",),
        "director": ("ipvs",),
        "notify": ("notify",),
        "gateway": ("journal",),
    }


def test_only_cells_with_something_to_do_run() -> None:
    assert rooms({"vrrp": {"room": b"x"}, "bfd": {}}, Settings(journal=QUIET)) == {"protocol": ("vrrp",)}
    listening = Settings(journal=QUIET, gateway=GatewaySettings(listen=("*:1",)))
    assert rooms({}, listening) == {"gateway": ("gateway",)}
    assert rooms({}, Settings(journal=QUIET)) == {}


def test_holdfast_toml_moves_rooms() -> None:
    settings = Settings(placement=dict.fromkeys((*ALL, "journal"), "one"))
    assert rooms(ALL, settings) == {"one": ("watch", "vrrp", "bfd", "checkers", "ipvs", "notify", "journal")}


def test_who_runs_checks_for_others_has_a_cell_for_them() -> None:
    assert rooms({}, Settings(journal=QUIET, checks=ChecksSettings(run_for=("lb1",)))) == {"worker": ("worker",)}
    shared = Settings(node="lb1", journal=QUIET, placement={"checkers": "@lb1 @lb2"})
    assert rooms({"checkers": {"v": b"x"}}, shared) == {"checkers": ("checkers",), "worker": ("worker",)}
    away = Settings(node="lb1", journal=QUIET, placement={"checkers": "@lb2"})
    assert rooms({"checkers": {"v": b"x"}}, away) == {"checkers": ("checkers",)}


def test_checkers_are_divided_and_stay_where_they_are_when_a_cell_is_added() -> None:
    slices: Slices = {"checkers": {"globals": b"g", **{f"vs{number}": b"x" for number in range(600)}}}

    def owners(cells: int) -> dict[str, str]:
        plans = plan(slices, Settings(journal=QUIET, cells=CellSettings(checkers=cells)))
        assert len(plans) == cells
        assert all(each.slices["checkers"]["globals"] == b"g" for each in plans.values())
        return {name: cell for cell, each in plans.items() for name in each.slices["checkers"] if name != "globals"}

    two, three = owners(2), owners(3)
    assert set(two) == set(three) == {f"vs{number}" for number in range(600)}
    moved = [name for name in two if two[name] != three[name]]
    assert all(three[name] == "checkers-3" for name in moved)
    assert 120 < len(moved) < 280
    assert set(owners(1).values()) == {"checkers"}
    # By their number: one cell for a few, more for many.
    assert list(plan(slices, Settings(journal=QUIET))) == ["checkers"]
    many: Slices = {"checkers": {f"vs{number}": b"x" for number in range(1000)}}
    assert len(plan(many, Settings(journal=QUIET))) == 2


def test_a_share_without_a_server_has_no_cell() -> None:
    slices: Slices = {"checkers": {"globals": b"g", "vs1": b"x"}}
    assert len(plan(slices, Settings(journal=QUIET, cells=CellSettings(checkers=4)))) == 1


def test_digests_tell_versions_apart() -> None:
    assert digest(b"a") == digest(b"a") != digest(b"b")


def test_backoff_answers_the_first_death_at_once_and_then_more_slowly() -> None:
    backoff = Backoff(0.05, 10.0, 1.0)
    assert [backoff.died(0.1) for _ in range(10)] == [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0]
    assert backoff.died(0.9) == 10.0
    assert backoff.died(1.0) == 0.0
    assert backoff.died(0.1) == 0.05
