"""What a reload would change, and which addresses would move."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_corpus import CorpusHost

from holdfast.actors.registry import TABLES
from holdfast.config.plan import Plan, plan

BASE = """
vrrp_instance VI_1 {
 interface eth0
 virtual_router_id 51
 authentication {
  auth_type PASS
  auth_pass secret
 }
 virtual_ipaddress {
  10.0.0.9/24
  10.0.0.10/24
 }
}
bfd_instance b {
 neighbor_ip 192.0.2.2
}
virtual_server 10.1.0.1 80 {
 lvs_sched rr
 lvs_method NAT
 protocol TCP
 real_server 10.1.0.2 80 {
  TCP_CHECK {
  }
 }
}
"""


@pytest.fixture
def planned(tmp_path: Path):
    from holdfast.config.loader import load

    def compare(old: str, new: str) -> Plan:
        loaded = []
        for name, text in (("old", old), ("new", new)):
            path = tmp_path / f"{name}.conf"
            path.write_text(text)
            loaded.append(load(path, TABLES, host=CorpusHost(), config_id="lb1", environment={}))
        return plan(*loaded)

    return compare


def changes(found: Plan) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(change.kind, change.subject, tuple(field.field for field in change.fields)) for change in found.changes]


def moves(found: Plan) -> list[tuple[str, str]]:
    return sorted((move.event, move.address) for move in found.moves)


def test_nothing_changes(planned) -> None:
    found = planned(BASE, "# a comment\n" + BASE)
    assert found.empty
    assert (found.moves, found.refused) == ((), False)


def test_a_changed_priority_moves_nothing(planned) -> None:
    found = planned(BASE, BASE.replace("interface eth0", "interface eth0\n priority 90"))
    assert changes(found) == [("changed", "vrrp/VI_1", ("priority",))]
    assert moves(found) == []


def test_a_renamed_instance_is_the_same_one(planned) -> None:
    found = planned(BASE, BASE.replace("VI_1", "VI_A"))
    assert ("changed", "vrrp/VI_1", ("name",)) in changes(found)
    assert moves(found) == []


def test_another_vrid_is_another_instance_and_its_addresses_move(planned) -> None:
    found = planned(BASE, BASE.replace("51", "52"))
    assert ("removed", "vrrp/VI_1", ()) in changes(found)
    assert ("added", "vrrp/VI_1", ()) in changes(found)
    assert moves(found) == [("moves", "10.0.0.10"), ("moves", "10.0.0.9")]


def test_addresses_come_and_leave(planned) -> None:
    found = planned(BASE, BASE.replace("10.0.0.10/24", "10.0.0.11/24"))
    assert changes(found) == [("changed", "vrrp/VI_1", ("addresses",))]
    assert moves(found) == [("comes", "10.0.0.11"), ("leaves", "10.0.0.10")]


def test_passwords_are_not_shown(planned) -> None:
    found = planned(BASE, BASE.replace("secret", "other"))
    (change,) = found.changes
    assert [(field.field, field.old, field.new) for field in change.fields] == [("auth_pass", "********", "********")]


def test_sessions_servers_and_checks(planned) -> None:
    new = BASE.replace("192.0.2.2", "192.0.2.2\n multiplier 3").replace(
        "TCP_CHECK {", "weight 7\n TCP_CHECK {\n retry 5"
    )
    assert changes(planned(BASE, new)) == [
        ("changed", "bfd/b", ("multiplier",)),
        ("changed", "rs/[10.1.0.2]:tcp:80@[10.1.0.1]:tcp:80", ("weight",)),
        ("changed", "check/TCP_CHECK-1@[10.1.0.2]:tcp:80@[10.1.0.1]:tcp:80", ("retry",)),
    ]


def test_services_come_and_go(planned) -> None:
    service = BASE[BASE.index("virtual_server") :]
    found = planned(BASE, BASE + service.replace("10.1.0.1 80", "fwmark 3").replace(" protocol TCP\n", ""))
    assert ("added", "vs/FWM 3", ()) in changes(found)
    found = planned(BASE, BASE.replace(service, ""))
    assert ("removed", "vs/[10.1.0.1]:tcp:80", ()) in changes(found)


def test_an_erroneous_configuration_is_refused(planned) -> None:
    assert planned(BASE, BASE + "foo\n").refused
    assert not planned(
        BASE, BASE.replace("vrrp_instance VI_1 {", "vrrp_instance VI_1 {\n owner_ignore_adverts")
    ).refused


def test_process_options_are_compared(planned) -> None:
    found = planned(BASE, "global_defs {\n router_id x\n}\n" + BASE)
    assert [field.field for field in found.process] == ["router_id"]
