"""`holdfast why` over hosts: lb2 became MASTER, and the reason is something that happened to lb1."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from cluster import Cluster, Node, until
from netns import can_make_namespaces

from holdfast.actors.runtime.catalogue import import_messages

pytestmark = [
    pytest.mark.netns,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root and namespaces"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    import_messages()
    with Cluster(2) as made:
        made.start()
        made.until_joined()
        yield made


@pytest.fixture(autouse=True)
def settled(cluster: Cluster) -> Iterator[None]:
    """Each story begins with lb1 MASTER and both in touch."""
    first, second = cluster.nodes
    until(
        lambda: second.owners().get("owners") == ["lb1"] and set(second.states().values()) == {"reachable"},
        40,
        "lb1 is MASTER again",
    )
    yield
    (first.folder / "broken").unlink(missing_ok=True)


def why(node: Node, limit: int = 1) -> list[dict[str, Any]]:
    """The newest explanations."""
    found: list[dict[str, Any]] = json.loads(node.command("why", "VI_1", "--json", "--limit", str(limit)).stdout)
    return found


def moved(node: Node) -> dict[str, Any]:
    """Waits until `node` is MASTER; why it became it."""
    until(lambda: node.owners().get("owners") == [node.name], 25)
    # The other node's side of it is on its way.
    return next(each for each in why(node, 3) if each["node"] == node.name and each["to"] == "MASTER")


def kinds(explanation: dict[str, Any]) -> list[tuple[str, str]]:
    """(node, kind) of the chain."""
    return [(reason["node"], reason["kind"]) for reason in explanation["chain"]]


def until_root(node: Node, kind: str) -> dict[str, Any]:
    """The explanation of the newest takeover, once the chain reaches lb1's own story."""

    def look() -> dict[str, Any] | None:
        found = moved(node)
        return found if ("lb1", kind) in kinds(found) else None

    explanation: dict[str, Any] = until(look, 15, f"the chain reaches {kind} on lb1")
    return explanation


def test_its_script_failed(cluster: Cluster) -> None:
    first, second = cluster.nodes
    (first.folder / "broken").touch()
    found = until_root(second, "script-failed")
    assert found["reason"]["kind"] in ("peer-resigned", "peer-silent")
    assert (found["root"]["node"], found["root"]["subject"]) == ("lb1", "script/chk")
    assert "lb1 says: the script chk failed" in second.command("why", "VI_1", "--limit", "1").stdout


def test_an_operator_released_it(cluster: Cluster) -> None:
    first, second = cluster.nodes
    assert first.command("release", "VI_1", "--why", "new disk").returncode == 0
    found = until_root(second, "operator-release")
    assert found["root"]["evidence"]["why"] == "new disk"
    first.command("resume", "VI_1")


def test_its_link_went_down(cluster: Cluster) -> None:
    first, second = cluster.nodes
    cluster.cut(cluster.lan, first)
    try:
        found = until_root(second, "link-down")
        assert found["reason"]["kind"] == "peer-silent"
        assert found["root"]["subject"] == "link/lan0"
    finally:
        cluster.cut(cluster.lan, first, up=True)


def test_its_process_was_not_scheduled(cluster: Cluster) -> None:
    first, second = cluster.nodes
    pid = first.pid_of("protocol")
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: _state(second) == "MASTER", 20)
    finally:
        os.kill(pid, signal.SIGCONT)

    def story() -> dict[str, Any] | None:
        for each in why(second, 4):
            if each["node"] == "lb2" and each["to"] == "MASTER" and ("lb1", "stalled") in kinds(each):
                return each
        return None

    found = until(story, 15, "lb1 tells that it stood still")
    assert found["reason"]["kind"] == "peer-silent"


def _state(node: Node) -> str:
    """Of its router, asked without a detour over lb1, which stands still."""
    (router,) = json.loads(node.command("status", "vrrp", "--json").stdout)["vrrp"]
    return str(router["state"])


def test_it_was_stopped(cluster: Cluster) -> None:
    first, second = cluster.nodes
    first.stop()
    try:
        found = until_root(second, "stopped")
        assert found["root"]["node"] == "lb1"
    finally:
        first.start()


def test_all_of_it_was_killed(cluster: Cluster) -> None:
    first, second = cluster.nodes
    first.kill()
    try:

        def story() -> dict[str, Any] | None:
            found = moved(second)
            return found if ("lb2", "peer-unreachable") in kinds(found) else None

        found = until(story, 15, "nothing came from lb1, and that is told")
        assert found["reason"]["kind"] == "peer-silent"
        assert found["root"]["subject"] == "node/lb1"
    finally:
        first.start()
