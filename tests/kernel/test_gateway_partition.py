"""The bus between nodes cut, slow and lossy: VRRP does not care, absence is told, afterwards all views agree."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import PORT, VIP, Cluster, Node, until
from netns import can_make_namespaces

from holdfast.actors.gateway.messages import AddressOwners, OwnersStatus, PeerState, PeerStatus
from holdfast.actors.journal import file as journal
from holdfast.actors.runtime.catalogue import import_messages
from holdfast.actors.vrrp.messages import VrrpStateChanged
from holdfast.bus.client import Client
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import ReasonKind

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.netns,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root and namespaces"),
]

LOSSY = "table inet lossy {\n chain in {\n type filter hook input priority 0;\n tcp dport 7420-7421 LOSS\n }\n}\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    import_messages()
    with Cluster(3) as made:
        made.start()
        made.until_joined()
        until(lambda: all(node.owners().get("owners") == ["lb1"] for node in made.nodes), 25)
        yield made


def retained(here: Node, about: Node) -> dict[str, Any]:
    """What `here` retains of another node's own things: topic -> id. Bookkeeping changes all the time."""
    with Client(here.run_dir) as client:
        events = client.snapshot("", node=about.name).events
    kinds = ("vrrp/", "link/", "script/", "config/", "virtual-address/")
    return {each.topic: each.id for each in events if each.subject.startswith(kinds)}


def until_all_agree(cluster: Cluster, seconds: float = 30) -> None:
    """Until every node has of every other exactly what that one retains itself."""
    for node in cluster.nodes:
        for other in cluster.nodes:
            if other is not node:
                until(
                    lambda node=node, other=other: retained(node, other) == retained(other, other) != {},
                    seconds,
                    f"{node.name} has what {other.name} retains",
                )


def history(node: Node, prefix: str, whose: Node | None = None) -> list[Envelope]:
    """Events of the node's journal."""
    path = journal.find(node.run_dir)
    assert path is not None
    with journal.Journal(path) as kept:
        found = list(kept.events(prefix))
    return [each for each in found if whose is None or each.id.node == whose.name]


def transitions(cluster: Cluster) -> int:
    """Changes of any router so far, as each node's own journal says."""
    return sum(
        isinstance(each.event, VrrpStateChanged) and each.event.old is not each.event.state
        for node in cluster.nodes
        for each in history(node, "vrrp/", node)
    )


def test_a_cut_bus_is_told_within_two_seconds_and_moves_nothing(cluster: Cluster) -> None:
    first, _, third = cluster.nodes
    until_all_agree(cluster)
    before = transitions(cluster)
    with Client(first.run_dir) as client:
        stream = client.follow("node/lb3/")
        client.alive()
        cluster.cut(cluster.bus, third)
        told = stream.until(PeerState, 10)
        while told.event.state is not PeerStatus.UNREACHABLE:  # type: ignore[attr-defined]
            told = stream.until(PeerState, 10)
        reason = told.event.reason  # type: ignore[attr-defined]
        assert reason.kind is ReasonKind.PEER_UNREACHABLE
        assert 1.5 <= reason.evidence["silent_s"] < 2.5
        assert until(lambda: third.states() == {"lb1": "unreachable", "lb2": "unreachable"})
        assert first.states() == {"lb2": "reachable", "lb3": "unreachable"}
        # What happens behind the cut: a script that fails and recovers, and one that fails and stays so.
        (third.folder / "broken").touch()
        until(
            lambda: (
                retained(third, third).get("lb3/script/chk/state") != retained(first, third).get("lb3/script/chk/state")
            )
        )
        until(lambda: "FAULT" in third.command("status", "vrrp").stdout)
        cluster.cut(cluster.bus, third, up=True)
        while told.event.state is not PeerStatus.REACHABLE:  # type: ignore[attr-defined]
            told = stream.until(PeerState, 15)
    until_all_agree(cluster)
    assert "FAULT" in str(first.owners())
    (third.folder / "broken").unlink()
    until(lambda: "FAULT" not in str(first.owners()), 20)
    moved = transitions(cluster) - before
    assert moved == 2, "lb3 alone, into FAULT and out of it, as its script asked for"


def test_what_was_overtaken_behind_the_cut_is_in_every_journal_afterwards(cluster: Cluster) -> None:
    first, second, third = cluster.nodes
    until_all_agree(cluster)
    cluster.cut(cluster.bus, third)
    until(lambda: first.states().get("lb3") == "unreachable")
    for _ in range(3):
        (third.folder / "broken").touch()
        until(lambda: "FAULT" in third.command("status", "vrrp").stdout)
        (third.folder / "broken").unlink()
        until(lambda: "FAULT" not in third.command("status", "vrrp").stdout, 20)
    cluster.cut(cluster.bus, third, up=True)
    until_all_agree(cluster)
    own = {each.id for each in history(third, "vrrp/", third)}
    assert len(own) >= 12
    for node in (first, second):
        until(lambda node=node: own <= {each.id for each in history(node, "vrrp/", third)}, 20, "nothing is missing")


def test_who_is_not_reachable_is_not_told_as_if_he_were(cluster: Cluster) -> None:
    first, second, third = cluster.nodes
    cluster.cut(cluster.bus, first)
    try:
        until(lambda: second.states().get("lb1") == "unreachable")
        found = until(lambda: second.owners().get("state") == "unknown" and second.owners())
        assert not found["alarm"], "the owner cannot be asked, which is told as that"
        assert {each["node"]: each["reachable"] for each in found["holders"]} == {
            "lb1": False,
            "lb2": True,
            "lb3": True,
        }
        done = second.command("release", "VI_1", "--why", "cut")
        assert done.returncode == 0
        second.command("resume", "VI_1")
    finally:
        cluster.cut(cluster.bus, first, up=True)
    until(lambda: second.owners().get("state") == "one-owner", 20)
    until_all_agree(cluster)
    assert third.states() == {"lb1": "reachable", "lb2": "reachable"}


def test_a_lossy_bus_loses_no_event(cluster: Cluster) -> None:
    first, second, third = cluster.nodes
    for node in cluster.nodes:
        rules = LOSSY.replace("LOSS", "numgen random mod 100 < 20 drop")
        subprocess.run(["ip", "netns", "exec", node.space.name, "nft", "-f", "-"], input=rules.encode(), check=True)
    try:
        before = transitions(cluster)
        for _ in range(3):
            (third.folder / "broken").touch()
            until(lambda: "FAULT" in third.command("status", "vrrp").stdout)
            (third.folder / "broken").unlink()
            until(lambda: "FAULT" not in third.command("status", "vrrp").stdout, 20)
        # The journal writes a moment after the event.
        until(lambda: transitions(cluster) - before >= 6, 15)
        until_all_agree(cluster, 60)
        assert transitions(cluster) - before == 6
    finally:
        for node in cluster.nodes:
            node.space.run("nft delete table inet lossy")
    own = {each.id for each in history(third, "vrrp/", third)}
    until(lambda: own <= {each.id for each in history(first, "vrrp/", third)}, 15, "lb1's journal has all of lb3's")
    until(lambda: own <= {each.id for each in history(second, "vrrp/", third)}, 15, "lb2's journal has all of lb3's")


def test_two_owners_are_an_alarm_and_so_is_none(cluster: Cluster) -> None:
    first, second, _ = cluster.nodes
    with Client(second.run_dir) as client:
        stream = client.follow(f"virtual-address/{VIP}/", node="*")
        client.alive()
        for port in ("p0", "p1", "p2"):  # the routers do not hear each other any more, their links are up
            cluster.lan.ip(f"link set {port} type bridge_slave isolated on")
        try:
            told = _next_owners(stream, OwnersStatus.TWO)
            assert told.alarm
            assert told.reason is not None and told.reason.kind is ReasonKind.PEER_SILENT
            masters = [each for each in history(second, "vrrp/", second) if isinstance(each.event, VrrpStateChanged)]
            assert masters
            assert any("lb1 does not hear lb2" in line for line in told.differences)
            assert "two-owners" in first.command("status", "--cluster").stdout
            assert first.command("status", "--cluster").returncode == 4
        finally:
            for port in ("p0", "p1", "p2"):
                cluster.lan.ip(f"link set {port} type bridge_slave isolated off")
        assert not _next_owners(stream, OwnersStatus.ONE).alarm
    until(lambda: all(node.owners().get("owners") == ["lb1"] for node in cluster.nodes), 20)
    for node in cluster.nodes:
        (node.folder / "broken").touch()
    try:
        found = until(lambda: first.owners().get("state") == "no-owner" and first.owners(), 20)
        assert found["alarm"]
        assert "script" in found["why"]
    finally:
        for node in cluster.nodes:
            (node.folder / "broken").unlink()
    until(lambda: all(node.owners().get("owners") == ["lb1"] for node in cluster.nodes), 30)


def _next_owners(stream: Any, status: OwnersStatus) -> AddressOwners:
    while True:
        told: AddressOwners = stream.until(AddressOwners, 20).event
        if told.state is status:
            return told


def test_another_vrid_for_the_same_address_is_told_as_that(cluster: Cluster) -> None:
    _, second, _ = cluster.nodes
    second.vrid = 77
    second.write(cluster)
    assert second.command("reload").returncode == 0
    try:
        found = until(lambda: (view := cluster.nodes[0].owners()).get("alarm") and view, 20)
        assert any(line.startswith("VRID: ") and "lb2 77" in line for line in found["differences"])
    finally:
        second.vrid = 51
        second.write(cluster)
        second.command("reload")
    until(lambda: all(node.owners().get("owners") == ["lb1"] for node in cluster.nodes), 30)


def test_a_gateway_that_is_killed_is_forgotten_by_nobody(cluster: Cluster) -> None:
    first, second, _ = cluster.nodes
    until_all_agree(cluster)
    with Client(second.run_dir) as client:
        stream = client.follow("vrrp/", node="lb1")
        client.alive()
        pid = first.pid_of("gateway")
        subprocess.run(["kill", "-KILL", str(pid)], check=True)
        until(lambda: first.pid_of("gateway") not in (0, pid))
        until(lambda: first.states() == {"lb2": "reachable", "lb3": "reachable"}, 20)
        until_all_agree(cluster)
        gone = [each.topic for each in list(stream._events) if each.gone]
        assert gone == [], "nothing of lb1 was gone for a moment"


def test_a_node_that_is_removed_is_forgotten(cluster: Cluster) -> None:
    first, _, third = cluster.nodes
    text = (first.folder / "toml").read_text()
    at = text.index('[[peers]]\nname = "lb3"')
    (first.folder / "toml").write_text(text[:at])
    assert first.command("reload").returncode == 0
    until(lambda: set(first.states()) == {"lb2"}, 15)
    until(lambda: retained(first, third) == {}, 15)
    until(lambda: third.states() == {"lb1": "unreachable", "lb2": "reachable"}, 15, "its key is let in no longer")
    (first.folder / "toml").write_text(text)
    assert first.command("reload").returncode == 0
    cluster.until_joined()
    until_all_agree(cluster)


def test_half_a_second_of_delay_changes_nothing() -> None:
    import_messages()
    with Cluster(2) as cluster:
        first, second = cluster.nodes
        words = (sys.executable, str(HERE / "tcp_proxy.py"))
        ports = {("lb1", "lb2"): 8000, ("lb2", "lb1"): 8010}
        taps = []
        for (here, there), listen in ports.items():
            node = next(each for each in cluster.nodes if each.name == there)
            cluster.reroute[here, there] = f"tcp://10.90.2.9:{listen}"
            for step in (0, 1):
                target = f"{node.address}:{PORT + step}"
                command = [*words, f"10.90.2.9:{listen + step}", target, "--delay", "0.5"]
                taps.append(cluster.outside.popen(command, stdout=subprocess.PIPE))
        for tap in taps:
            assert tap.stdout is not None
            assert tap.stdout.readline() == b"ready\n"
        cluster.start()
        cluster.until_joined(40)
        until(lambda: all(node.owners().get("owners") == ["lb1"] for node in cluster.nodes), 25)
        before = transitions(cluster)
        (second.folder / "broken").touch()
        until(lambda: "FAULT" in str(first.owners()), 20)
        (second.folder / "broken").unlink()
        until(lambda: "FAULT" not in str(first.owners()), 20)
        until_all_agree(cluster)
        assert transitions(cluster) - before == 2
        lost = [
            each
            for node in cluster.nodes
            for each in history(node, "node/", node)
            if isinstance(each.event, PeerState)
            and each.event.state is PeerStatus.UNREACHABLE
            and each.event.old is PeerStatus.REACHABLE
        ]
        assert lost == [], "the first contact takes some round trips; after it nobody is lost"
        (other,) = (each for each in first.cluster_view()["nodes"] if each["name"] == "lb2")
        assert 0.9 < other["round_trip_s"] < 3
        assert abs(other["clock_offset_s"]) <= other["clock_error_s"]
        for tap in taps:
            assert tap.stdout is not None
            tap.stdout.close()
