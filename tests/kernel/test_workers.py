"""Checks that run on other nodes: what happens to them when those die, and how three directors share one set."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import PORT, Cluster, Node, until
from netns import can_make_namespaces

from holdfast.actors.checkers.messages import CheckResult, CheckState, CheckStateChanged
from holdfast.actors.runtime.catalogue import import_messages
from holdfast.actors.worker.messages import FetchShare, ShareState, ShareStatus
from holdfast.bus.client import Client
from holdfast.bus.messages import Failed
from holdfast.bus.remote import RemoteClient

pytestmark = [
    pytest.mark.netns,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root and namespaces"),
]

HERE = Path(__file__).parent
SERVERS = "10.90.1.9"
FIRST = 8000
INTERVAL_S = 3


class Servers:
    """The real servers, in the namespace outside."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.number = number
        self.log = cluster.folder / "servers.log"
        self.broken = cluster.folder / "broken"
        self.broken.mkdir()
        words = [SERVERS, str(FIRST), str(number), str(self.log), str(self.broken)]
        script = str(HERE / "probe_servers.py")
        process = cluster.outside.popen([sys.executable, script, *words], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"

    def probes(self, since: float, end: float | None = None) -> list[tuple[float, int, str]]:
        """(when, port, who) since then."""
        found = []
        for line in self.log.read_text().splitlines():
            when, port, who = line.split()
            if since <= float(when) < (end or float("inf")):
                found.append((float(when), int(port), who))
        return found

    def asked(self, since: float, who: str | None = None) -> set[int]:
        """Which servers were asked since then."""
        return {port for _, port, peer in self.probes(since) if who is None or peer == who}


def pool(number: int, interval_s: int = INTERVAL_S) -> str:
    """A virtual server with so many real servers and an HTTP check each."""
    servers = "\n".join(
        f"  real_server {SERVERS} {port} {{\n    HTTP_GET {{ url {{ path / status_code 200 }} }}\n  }}"
        for port in range(FIRST, FIRST + number)
    )
    return (
        f"virtual_server 10.90.1.200 80 {{\n  delay_loop {interval_s}\n  lb_algo rr\n  lb_kind NAT\n  protocol TCP\n"
        f"  retry 1\n  delay_before_retry 1\n{servers}\n}}\n"
    )


def states(node: Node) -> dict[str, ShareState]:
    """How the workers of a node stand with it."""
    with Client(node.run_dir) as client:
        found = [each.event for each in client.snapshot("share/").events]
    return {each.worker: each for each in found if isinstance(each, ShareState)}


def until_running(node: Node, *workers: str, seconds: float = 30) -> None:
    def all_run() -> bool:
        found = states(node)
        return all(name in found and found[name].state is ShareStatus.RUNNING for name in workers)

    until(all_run, seconds, f"{', '.join(workers)} run the checks of {node.name}")


def verdicts(node: Node) -> Counter[bool | None]:
    """How many checks of a node say what."""
    with Client(node.run_dir) as client:
        events = client.snapshot("check/").events
    return Counter(each.event.up for each in events if isinstance(each.event, CheckResult))


def changes(node: Node, since_wall_ns: int) -> list[CheckStateChanged]:
    """Checks whose state is not from before."""
    with Client(node.run_dir) as client:
        events = client.snapshot("check/").events
    return [each.event for each in events if isinstance(each.event, CheckStateChanged) and each.wall_ns > since_wall_ns]


NUMBER = 300
Shared = tuple[Cluster, Servers]


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """A director and two workers, and the servers that they look at."""
    import_messages()
    with Cluster(3, {"eye": "viewer", "hand": "operator"}) as made:
        director, *workers = made.nodes
        director.more_config = pool(NUMBER)
        director.more_settings = (
            '[placement]\ncheckers = "@lb2 @lb3"\n[checks]\nlost_after_s = 2.0\nreturn_after_s = 2.0\n'
        )
        for worker in workers:
            director.roles[worker.name] = "worker"
            worker.roles[director.name] = "viewer"
            worker.more_settings = '[checks]\nrun_for = ["lb1"]\n'
        servers = Servers(made, NUMBER)
        made.start()
        made.until_joined()
        until_running(director, "lb2", "lb3")
        yield made, servers


def test_the_workers_ask_all_servers_and_the_director_none(shared: Shared) -> None:
    cluster, servers = shared
    director = cluster.nodes[0]
    until(lambda: verdicts(director)[True] == NUMBER, 20, "all servers are known to be up")
    since = time.monotonic()
    until(lambda: len(servers.asked(since)) == NUMBER, 3 * INTERVAL_S + 5, "all are asked")
    assert servers.asked(since, "10.90.1.1") == set()
    by_second, by_third = servers.asked(since, "10.90.1.2"), servers.asked(since, "10.90.1.3")
    assert not by_second & by_third, "each server is asked by one"
    assert len(by_second) > 90 and len(by_third) > 90


def test_a_server_that_fails_is_told_by_whoever_looks(shared: Shared) -> None:
    cluster, servers = shared
    director = cluster.nodes[0]
    with Client(director.run_dir) as client:
        stream = client.follow("check/")
        (servers.broken / str(FIRST + 7)).touch()

        def next_state() -> CheckStateChanged:
            while True:
                event = stream.until(CheckStateChanged, 30).event
                assert isinstance(event, CheckStateChanged)
                if any(f":{FIRST + 7}" in target.real_server for target in event.targets):
                    return event

        while (event := next_state()).state is not CheckState.DOWN:
            pass
        assert event.reason.evidence["node"] in ("lb2", "lb3")
        (servers.broken / str(FIRST + 7)).unlink()
        while (event := next_state()).state is not CheckState.UP:
            pass


def test_slices_go_to_the_worker_they_are_for_and_to_nobody_else(shared: Shared) -> None:
    cluster, _ = shared
    director = cluster.nodes[0]
    for name in ("eye", "hand"):
        key, _ = cluster.clients[name]
        with (
            cluster.outside.enter(),
            RemoteClient(f"tcp://{director.address}:{PORT}", server_key=director.key.public, key=key) as client,
        ):
            for worker in (name, "lb2", "lb1"):
                reply = client.request("share/checkers", FetchShare(worker=worker), timeout_s=15)
                assert isinstance(reply, Failed) and reply.code == "forbidden", (name, worker)
            offers = client.snapshot("share/", timeout_s=15)
            assert offers and not any(SERVERS in str(each.event) for each in offers)
    # A worker is told its own share only.
    with Client(cluster.nodes[1].run_dir) as client:
        reply = client.request("share/checkers", FetchShare(worker="lb3"), node="lb1", timeout_s=15)
        assert isinstance(reply, Failed) and reply.code == "forbidden"
        other = client.request("supervisor", FetchShare(worker="lb2"), node="lb1", timeout_s=15)
        assert isinstance(other, Failed) and other.code == "forbidden"


def killed(cluster: Cluster, servers: Servers, victim: Node) -> None:
    """A worker dies; all servers are asked again within three intervals, and nothing changes."""
    director = cluster.nodes[0]
    until(lambda: verdicts(director)[True] == NUMBER, 20)
    wall_ns = time.time_ns()
    victim.kill()
    since = time.monotonic()
    until(lambda: len(servers.asked(since)) == NUMBER, 30, "all servers are asked again")
    when = {}
    for at, port, _ in servers.probes(since):
        when.setdefault(port, at - since)
    print(f"{victim.name} killed: the last server was asked after {max(when.values()):.2f} s")
    assert max(when.values()) <= 3 * INTERVAL_S
    until(lambda: states(director)[victim.name].state is ShareStatus.LOST)
    mark = time.monotonic()
    until(lambda: len(servers.asked(mark)) == NUMBER, 30, "and they go on")
    assert changes(director, wall_ns) == []
    assert verdicts(director) == {True: NUMBER}


def test_when_one_dies_the_other_takes_over_and_nothing_changes(shared: Shared) -> None:
    cluster, servers = shared
    killed(cluster, servers, cluster.nodes[2])
    mark = time.monotonic()
    until(lambda: len(servers.asked(mark, "10.90.1.2")) == NUMBER, 30)


def test_when_all_are_dead_the_checks_come_home(shared: Shared) -> None:
    cluster, servers = shared
    killed(cluster, servers, cluster.nodes[1])
    mark = time.monotonic()
    until(lambda: len(servers.asked(mark, "10.90.1.1")) == NUMBER, 30)


def test_they_go_back_when_the_workers_do(shared: Shared) -> None:
    cluster, servers = shared
    director = cluster.nodes[0]
    wall_ns = time.time_ns()
    for worker in cluster.nodes[1:]:
        worker.start()
    until_running(director, "lb2", "lb3")

    def away() -> bool:
        since = time.monotonic()
        until(lambda: len(servers.asked(since)) == NUMBER, 30)
        return not servers.asked(since, "10.90.1.1")

    until(away, 60, "nothing is asked from the director any more")
    assert changes(director, wall_ns) == []


def test_a_cut_bus_moves_the_checks_and_changes_nothing(shared: Shared) -> None:
    cluster, servers = shared
    director, second, _ = cluster.nodes
    wall_ns = time.time_ns()
    cluster.cut(cluster.bus, second)
    try:
        until(lambda: states(director)["lb2"].state is ShareStatus.LOST, 15)
        since = time.monotonic()
        until(lambda: len(servers.asked(since, "10.90.1.3")) == NUMBER, 3 * INTERVAL_S + 10)
    finally:
        cluster.cut(cluster.bus, second, up=True)
    until_running(director, "lb2", seconds=45)
    since = time.monotonic()
    until(lambda: len(servers.asked(since)) == NUMBER, 30)
    assert changes(director, wall_ns) == []


def test_a_worker_cell_that_is_killed_goes_on_from_what_it_knew(shared: Shared) -> None:
    cluster, servers = shared
    director, second, _ = cluster.nodes
    wall_ns = time.time_ns()
    pid = second.pid_of("worker")
    subprocess.run(["kill", "-9", str(pid)], check=True)
    until(lambda: second.pid_of("worker") not in (0, pid))
    until_running(director, "lb2", "lb3")
    since = time.monotonic()
    until(lambda: len(servers.asked(since)) == NUMBER, 30)
    assert changes(director, wall_ns) == []


def sharing(points: int) -> str:
    placed = '[placement]\ncheckers = "@lb1 @lb2 @lb3"\n'
    return placed + f'[checks]\nvantage_points = {points}\nrun_for = ["lb1", "lb2", "lb3"]\n'


def test_three_directors_share_their_checks_and_a_majority_decides() -> None:
    """One set of probes for three directors; then three points of view, of which one is wrong."""
    import_messages()
    number, span_s = 60, 20.0
    with Cluster(3) as cluster:
        servers = Servers(cluster, number)
        for node in cluster.nodes:
            node.more_config = pool(number)
        cluster.start()
        cluster.until_joined()
        for node in cluster.nodes:
            until(lambda node=node: verdicts(node)[True] == number, 30)

        def rate() -> float:
            since = time.monotonic()
            time.sleep(span_s)
            return len(servers.probes(since, since + span_s)) / span_s

        alone = rate()
        reload(cluster, 1)
        for node in cluster.nodes:
            until_running(node, "lb1", "lb2", "lb3")
        together = rate()
        print(f"{number} servers, every {INTERVAL_S} s, three directors: {alone:.1f} probes/s, shared {together:.1f}")
        assert together == pytest.approx(alone / 3, rel=0.15)
        for node in cluster.nodes:
            assert verdicts(node) == {True: number}
        reload(cluster, 3)
        for node in cluster.nodes:
            until_running(node, "lb1", "lb2", "lb3")
        since = time.monotonic()
        until(lambda: all(len(servers.asked(since, f"10.90.1.{each}")) == number for each in (1, 2, 3)), 30)
        wall_ns = time.time_ns()
        (servers.broken / "10.90.1.3").touch()  # all that lb3 sees is broken
        since = time.monotonic()
        until(lambda: Counter(who for _, _, who in servers.probes(since))["10.90.1.3"] > 3 * number, 60)
        for node in cluster.nodes:
            assert changes(node, wall_ns) == [], "one of three is no majority"
        (servers.broken / "10.90.1.2").touch()
        for node in cluster.nodes:
            until(lambda node=node: verdicts(node) == {False: number}, 60, "two of three are")


def reload(cluster: Cluster, points: int) -> None:
    for node in cluster.nodes:
        node.more_settings = sharing(points)
        node.write(cluster)
        done = node.command("reload")
        assert done.returncode == 0, done.stdout + done.stderr
