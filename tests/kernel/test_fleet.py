"""Nodes that meet on NATS: a real server with JetStream and TLS, who may do what there, and what outlives what."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, Node, until
from fleet import NatsServer
from netns import can_make_namespaces
from test_workers import Servers, pool, until_running, verdicts

from holdfast.actors.checkers.messages import CheckResult
from holdfast.actors.gateway.messages import PeerState, PeerStatus
from holdfast.actors.runtime.catalogue import import_messages
from holdfast.actors.runtime.messages import CellRestarted, RestartCell
from holdfast.actors.vrrp.messages import VrrpStateChanged
from holdfast.bus.client import Client
from holdfast.bus.messages import Failed

pytestmark = [
    pytest.mark.netns,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root and namespaces"),
]

HERE = Path(__file__).parent
CHECKS = 20
House = tuple[Cluster, NatsServer]


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Three nodes on one NATS server outside of them."""
    assert shutil.which("nats-server") or Path("/usr/sbin/nats-server").exists(), "deploy/setup.sh test installs it"
    import_messages()
    with Cluster(3) as cluster:
        names = [node.name for node in cluster.nodes]
        clients = ("eye:viewer", "hand:operator")
        server = NatsServer(cluster.folder / "nats", cluster.outside, "10.90.2.9", names, clients)
        server.start()
        for node in cluster.nodes:
            node.gateway = server.gateway_lines(node.name)
        Servers(cluster, CHECKS)
        cluster.nodes[0].more_config = pool(CHECKS)
        cluster.nodes[0].more_settings = '[placement]\ncheckers = "@lb2"\n'
        cluster.nodes[1].more_settings = '[checks]\nrun_for = ["lb1"]\n'
        cluster.start()
        cluster.until_joined()
        until(lambda: all(node.owners().get("owners") == ["lb1"] for node in cluster.nodes), 30)
        yield cluster, server


def client(house: House, name: str, role: str, order: str, *words: str, check: bool = True) -> list[Any]:
    """What the client prints, a JSON value a line."""
    cluster, server = house
    done = cluster.outside.popen(
        [*_client_command(server, name, role, order), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, errors = done.communicate(timeout=60)
    assert not check or done.returncode == 0, errors.decode()
    return [json.loads(line) for line in out.decode().splitlines() if line.startswith("[")]


def _client_command(server: NatsServer, name: str, role: str, order: str) -> list[str]:
    keys = [str(server.folder / each) for each in ("ca.pem", f"{name}.pem", f"{name}.key")]
    return [sys.executable, str(HERE / "fleet_client.py"), server.url, *keys, name, role, order]


def fault(node: Node, *, on: bool) -> None:
    """The script of a node fails, or is well again; until the node says so."""
    broken = node.folder / "broken"
    broken.touch() if on else broken.unlink()
    until(lambda: ("FAULT" in node.command("status", "vrrp").stdout) is on, 20)


def test_nodes_see_each_other_and_agree(house: House) -> None:
    cluster, _ = house
    for node in cluster.nodes:
        found = until(lambda node=node: node.owners().get("owners") == ["lb1"] and node.owners(), 20)
        assert {each["node"]: each["state"] for each in found["holders"]} == {
            "lb1": "MASTER",
            "lb2": "BACKUP",
            "lb3": "BACKUP",
        }
        others = [each for each in node.cluster_view()["nodes"] if each["name"] != node.name]
        until(
            lambda node=node: all(
                each["clock_offset_s"] is not None for each in node.cluster_view()["nodes"] if each["name"] != node.name
            ),
            15,
            "clocks are compared",
        )
        assert len(others) == 2


def test_a_change_reaches_the_others(house: House) -> None:
    cluster, _ = house
    second, third = cluster.nodes[1:]
    with Client(second.run_dir) as local:
        stream = local.follow("vrrp/", node="lb3")
        stream.until(VrrpStateChanged, 10)
        fault(third, on=True)
        told = stream.until(VrrpStateChanged, 10)
        assert isinstance(told.event, VrrpStateChanged) and told.event.state == "FAULT"
        fault(third, on=False)


def test_checks_run_on_another_node(house: House) -> None:
    cluster, _ = house
    director = cluster.nodes[0]
    until_running(director, "lb2")
    until(lambda: verdicts(director) == {True: CHECKS}, 30)
    with Client(director.run_dir) as local:
        results = [each.event for each in local.snapshot("check/").events if isinstance(each.event, CheckResult)]
    assert {each.detail.get("node") for each in results} == {"lb2"}


def test_a_command_reaches_another_node_from_the_shell(house: House) -> None:
    cluster, _ = house
    with Client(cluster.nodes[1].run_dir) as local:
        reply = local.request("supervisor", RestartCell(cell="notify"), node="lb3", timeout_s=10)
        # There may be nothing to notify: then it says so, from there.
        assert isinstance(reply, CellRestarted) or (isinstance(reply, Failed) and reply.code == "no-such-cell")
        stranger = local.request("supervisor", RestartCell(cell="notify"), node="lb9", timeout_s=10)
        assert isinstance(stranger, Failed) and stranger.code == "no-such-node"


def test_a_viewer_sees_all_and_may_do_nothing(house: House) -> None:
    cluster, _ = house
    state = client(house, "eye", "viewer", "state")
    subjects = {line[0] for line in state}
    for name in ("lb1", "lb2", "lb3"):
        assert f"holdfast.event.{name}.vrrp.VI_1.state" in subjects
    assert not [each for each in subjects if ".slice." in each], "the configuration stays at home"
    pid = cluster.nodes[2].pid_of("gateway")
    kind, body, _ = client(
        house, "eye", "viewer", "command", "lb3", "supervisor", "supervisor.restart-cell", '{"cell": "gateway"}'
    )[0]
    assert kind == "failed" and body["code"] == "forbidden", "the node refuses him"
    kind, problems, _ = client(
        house, "eye", "operator", "command", "lb3", "supervisor", "supervisor.restart-cell", '{"cell": "gateway"}'
    )[0]
    assert kind == "none" and "permissions violation" in str(problems).lower(), "NATS refuses another role"
    (problems,) = client(house, "eye", "viewer", "forge", "holdfast.event.lb1.vrrp.VI_1.state")
    assert "permissions violation" in str(problems).lower(), "nor may he speak for others"
    (problems,) = client(house, "eye", "viewer", "listen", "_INBOX_lb1.>", "holdfast.command.>")
    assert len(problems) == 2, "nor listen to what others ask and are answered"
    assert cluster.nodes[2].pid_of("gateway") == pid
    told = [line for line in cluster.nodes[2].log().splitlines() if "refused eye" in line]
    assert told


def test_an_operator_commands(house: House) -> None:
    cluster, _ = house
    node = cluster.nodes[2]
    pid = node.pid_of("protocol")
    kind, body, _ = client(
        house, "hand", "operator", "command", "lb3", "supervisor", "supervisor.restart-cell", '{"cell": "protocol"}'
    )[0]
    assert kind == "supervisor.restart-cell.reply" and body["pid"] == pid
    until(lambda: node.pid_of("protocol") not in (0, pid))


def test_strangers_are_refused(house: House) -> None:
    cluster, server = house
    server.stranger("hand")
    try:
        assert client(house, "hand", "operator", "state", check=False) == []
    finally:
        server.certificate("hand", "ca")
    plain = [
        *(sys.executable, "-c"),
        f"import socket; s = socket.create_connection(('{server.address}', {server.port})); s.recv(4096);"
        " s.sendall(b'CONNECT {\"verbose\": false}\\r\\nSUB > 1\\r\\nPING\\r\\n'); s.settimeout(5)\n"
        "try:\n    data = s.recv(4096)\nexcept OSError:\n    data = b''\n"
        "print(b'PONG' in data)",
    ]
    assert cluster.outside.run(plain).strip() == "False", "without TLS nobody is talked to"


def test_a_server_that_dies_moves_nothing_and_loses_nothing(house: House) -> None:
    cluster, server = house
    first, _, third = cluster.nodes
    before = {node.name: node.owners()["owners"] for node in cluster.nodes}
    server.kill()
    with Client(first.run_dir) as local:
        until(lambda: first.states().get("lb3") == "unreachable", 20, "nobody is heard without it")
        stream = local.follow("vrrp/", node="lb3")
        fault(third, on=True)
        fault(third, on=False)
        server.start()
        seen: list[str] = []
        while "FAULT" not in seen or seen[-1] != "BACKUP":
            event = stream.until(VrrpStateChanged, 30).event
            assert isinstance(event, VrrpStateChanged)
            seen.append(str(event.state))
    assert seen.count("FAULT") == 1, "what happened meanwhile came, in order"
    for node in cluster.nodes:
        until(lambda node=node: set(node.states().values()) == {"reachable"}, 30)
    assert {node.name: node.owners()["owners"] for node in cluster.nodes} == before


def test_a_node_that_was_away_is_brought_up_to_date(house: House) -> None:
    """Its line to the server is cut for a while; what the others did then comes in order when it is back."""
    cluster, _ = house
    first, second, _ = cluster.nodes
    cluster.cut(cluster.bus, first)
    try:
        until(lambda: second.states().get("lb1") == "unreachable", 20)
        with Client(first.run_dir) as local:
            stream = local.follow("vrrp/", node="lb2")
            stream.until(VrrpStateChanged, 10)
            fault(second, on=True)
            fault(second, on=False)
            cluster.cut(cluster.bus, first, up=True)
            seen: list[str] = []
            while not seen or seen[-1] != "BACKUP":
                event = stream.until(VrrpStateChanged, 60).event
                assert isinstance(event, VrrpStateChanged)
                seen.append(str(event.state))
            assert "FAULT" in seen
    finally:
        cluster.cut(cluster.bus, first, up=True)
    until(lambda: second.states().get("lb1") == "reachable", 30)


def test_a_dead_node_is_told_and_its_events_outlive_it(house: House) -> None:
    cluster, _ = house
    first, _, third = cluster.nodes
    fault(third, on=True)
    with Client(first.run_dir) as local:
        stream = local.follow("node/")
        began = time.monotonic()
        third.kill()
        told = stream.until(PeerState, 10)
        while not (isinstance(told.event, PeerState) and told.event.state is PeerStatus.UNREACHABLE):
            told = stream.until(PeerState, 10)
        took_s = time.monotonic() - began
    print(f"a node that was killed is told after {took_s:.2f} s")
    shutil.rmtree(third.run_dir, ignore_errors=True)
    history = client(house, "eye", "viewer", "history")
    states = [line[3]["state"] for line in history if line[0] == "holdfast.event.lb3.vrrp.VI_1.state"]
    assert states[-1] == "FAULT" and "BACKUP" in states, "who comes now can read what it did"
    newest = {line[0]: line[3] for line in client(house, "eye", "viewer", "state")}
    assert newest["holdfast.event.lb3.vrrp.VI_1.state"]["state"] == "FAULT"
    (third.folder / "broken").unlink()
    third.start()
    until(lambda: first.states().get("lb3") == "reachable", 30)
    until(lambda: "BACKUP" in str([each for each in first.owners()["holders"] if each["node"] == "lb3"]), 30)
