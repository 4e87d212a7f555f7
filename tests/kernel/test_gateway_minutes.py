"""A bus between nodes that is bad for minutes: late all the time, lossy for one, cut for another.

Three nodes with a virtual router and forty checks each do their work all along. What happens on them meanwhile (scripts
that fail and recover, a server that breaks) is in every journal afterwards.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import PORT, Cluster, Node, until
from netns import can_make_namespaces
from test_gateway_partition import LOSSY, history, transitions, until_all_agree
from test_workers import Servers, pool, verdicts

from holdfast.actors.checkers.messages import CheckStateChanged
from holdfast.actors.runtime.catalogue import import_messages

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.netns,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root and namespaces"),
]

DELAY_S = 0.5
SPAN_S = 60.0
CHECKS = 40
FIRST = 8000


def check_changes(node: Node, port: int = 0) -> int:
    """How often checks of this node changed after their first verdict, by its journal. port: of that server."""
    events = [each.event for each in history(node, "check/", node)]
    return sum(
        isinstance(each, CheckStateChanged)
        and each.old != "UNKNOWN"
        and (not port or any(f":{port}" in target.real_server for target in each.targets))
        for each in events
    )


def busy(cluster: Cluster, seconds: float) -> int:
    """Scripts fail and recover on one node after the other for so long; how many transitions that made."""
    end, made = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for node in cluster.nodes[1:]:
            (node.folder / "broken").touch()
            until(lambda node=node: "FAULT" in node.command("status", "vrrp").stdout, 20)
            (node.folder / "broken").unlink()
            until(lambda node=node: "FAULT" not in node.command("status", "vrrp").stdout, 20)
            made += 2
    return made


def test_minutes_of_a_bad_bus_change_nothing_and_lose_nothing() -> None:
    import_messages()
    with Cluster(3) as cluster:
        words = (sys.executable, str(HERE / "tcp_proxy.py"))
        taps = []
        for place, (here, there) in enumerate((a, b) for a in cluster.nodes for b in cluster.nodes if a is not b):
            listen = 9000 + 10 * place
            cluster.reroute[here.name, there.name] = f"tcp://10.90.2.9:{listen}"
            for step in (0, 1):
                command = [f"10.90.2.9:{listen + step}", f"{there.address}:{PORT + step}", "--delay", str(DELAY_S)]
                taps.append(cluster.outside.popen([*words, *command], stdout=subprocess.PIPE))
        for tap in taps:
            assert tap.stdout is not None
            assert tap.stdout.readline() == b"ready\n"
        servers = Servers(cluster, CHECKS)
        for node in cluster.nodes:
            node.more_config = pool(CHECKS)
        cluster.start()
        cluster.until_joined(60)
        until(lambda: all(node.owners().get("owners") == ["lb1"] for node in cluster.nodes), 40)
        for node in cluster.nodes:
            until(lambda node=node: verdicts(node)[True] == CHECKS, 30)
        before = transitions(cluster)
        expected = busy(cluster, SPAN_S)

        for node in cluster.nodes:
            rules = LOSSY.replace("LOSS", "numgen random mod 100 < 20 drop")
            subprocess.run(["ip", "netns", "exec", node.space.name, "nft", "-f", "-"], input=rules.encode(), check=True)
        expected += busy(cluster, SPAN_S)
        for node in cluster.nodes:
            node.space.run("nft delete table inet lossy")

        third = cluster.nodes[2]
        cluster.cut(cluster.bus, third)
        until(lambda: "unreachable" in third.states().values(), 20)
        expected += busy(cluster, SPAN_S)
        cluster.cut(cluster.bus, third, up=True)

        cluster.until_joined(90)
        assert [check_changes(node) for node in cluster.nodes] == [0, 0, 0]
        (servers.broken / str(FIRST)).touch()
        for node in cluster.nodes:
            until(lambda node=node: check_changes(node, FIRST) == 1, 30, "what really happens is seen")
        until(lambda: transitions(cluster) - before >= expected, 20)
        assert transitions(cluster) - before == expected, "only what the scripts did"
        assert cluster.nodes[0].owners()["owners"] == ["lb1"]
        until_all_agree(cluster, 90)
        for node in cluster.nodes:
            own = {each.id for each in history(node, "vrrp/", node)}
            for other in cluster.nodes:
                until(
                    lambda other=other, node=node, own=own: own <= {e.id for e in history(other, "vrrp/", node)},
                    60,
                    f"{other.name}'s journal has all of {node.name}'s",
                )
        for tap in taps:
            assert tap.stdout is not None
            tap.stdout.close()
