"""Which cell gets which of keepalived's scheduling keywords, and what the surroundings of a daemon are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.actors.runtime import scheduling, surroundings
from holdfast.config.values import ProcessOptions
from holdfast.config.values import Scheduling as Wanted
from holdfast.kernel.scheduling import Scheduling

OPTIONS = ProcessOptions(
    protocol=Wanted(nice=-10, rt_priority=50, rlimit_rttime_us=20_000, cpu_affinity=(1,), no_swap=True),
    checkers=Wanted(nice=5),
    bfd=Wanted(rt_priority=60),
    net_namespace_ipvs="lvs",
    max_auto_priority=90,
    min_auto_priority_delay_us=5000,
)


@pytest.mark.parametrize(
    ("rooms", "own"),
    [
        (
            ("watch", "vrrp"),
            Scheduling(nice=-10, realtime_priority=50, realtime_limit_us=20_000, lock_memory=True, cpus=(1,)),
        ),
        (("watch",), Scheduling(nice=-10, realtime_priority=50, realtime_limit_us=20_000, lock_memory=True, cpus=(1,))),
        (("bfd",), Scheduling(realtime_priority=60)),
        (("vrrp", "bfd"), scheduling.of_cell(("vrrp",), OPTIONS).own),
        (("checkers",), Scheduling(nice=5)),
        (("ipvs",), Scheduling(nice=5)),
        (("notify",), Scheduling()),
        (("gateway", "journal"), Scheduling()),
    ],
)
def test_each_cell_has_the_keywords_of_its_most_urgent_room(rooms: tuple[str, ...], own: Scheduling) -> None:
    assert scheduling.of_cell(rooms, OPTIONS).own == own


def test_the_rttime_limit_is_nothing_without_real_time() -> None:
    options = ProcessOptions(protocol=Wanted(rlimit_rttime_us=10_000))
    assert scheduling.of_cell(("vrrp",), options).own == Scheduling()


def test_only_the_cell_of_ipvs_is_in_its_namespace() -> None:
    assert scheduling.of_cell(("ipvs", "connsync"), OPTIONS).namespace == "lvs"
    assert scheduling.of_cell(("vrrp",), OPTIONS).namespace is None


def test_automatic_priorities_reach_the_cell() -> None:
    wanted = scheduling.of_cell(("vrrp",), OPTIONS)
    assert (wanted.auto_most, wanted.auto_delay_us) == (90, 5000)
    assert scheduling.of_cell(("vrrp",), ProcessOptions(max_auto_priority=-1)).auto_most == 0


def test_who_puts_cells_back_is_as_urgent_as_the_first_of_them() -> None:
    assert scheduling.of_supervisor(OPTIONS) == Scheduling(nice=-10, realtime_priority=50, lock_memory=True)
    only_bfd = ProcessOptions(bfd=Wanted(rt_priority=3))
    assert scheduling.of_supervisor(only_bfd) == Scheduling(nice=0, realtime_priority=3)
    assert scheduling.of_supervisor(ProcessOptions(checkers=Wanted(nice=10))) == Scheduling()


def test_names_of_processes() -> None:
    named = ProcessOptions(process_names=True, instance="east", bfd=Wanted(process_name="my-bfd"))
    assert scheduling.of_cell(("vrrp",), named).name == "keepalived_vrrp_east"
    assert scheduling.of_cell(("checkers",), named).name == "keepalived_checker_east"
    assert scheduling.of_cell(("bfd",), named).name == "my-bfd"
    assert scheduling.of_cell(("vrrp",), ProcessOptions()).name is None


def test_a_late_cell_raises_itself_step_by_step_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(scheduling.scheduling, "set_realtime", asked.append)
    place = scheduling.ProcessPlace("cell protocol")
    place.wanted = scheduling.CellScheduling(auto_most=2, auto_delay_us=1000)
    for late_us in (999, 1000, 5000, 5000):
        place.called_late(late_us)
    assert asked == [1, 2]


def test_without_the_keyword_a_late_cell_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling.scheduling, "set_realtime", lambda _: pytest.fail("raised"))
    place = scheduling.ProcessPlace("cell protocol")
    place.called_late(10_000_000)
    assert place.raised == 0


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (ProcessOptions(), ""),
        (ProcessOptions(instance="east"), "east"),
        (ProcessOptions(net_namespace="red"), "red"),
        (ProcessOptions(instance="east", net_namespace="/run/netns/red"), "-run-netns-red_east"),
    ],
)
def test_each_instance_has_its_own_run_directory(options: ProcessOptions, name: str) -> None:
    default = Path("/run/holdfast")
    assert surroundings.run_directory(default, options) == default / name
