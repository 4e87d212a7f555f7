"""Three nodes with keys, and everyone who should not get in: refused, counted, told, and nothing grows or is late."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from cluster import PORT, Cluster, Node, until
from netns import NetNs, can_make_namespaces

from holdfast.actors.gateway.messages import DescribeGateway, GatewayDescription, GatewayState, Refusal, Refused
from holdfast.actors.runtime.catalogue import import_messages
from holdfast.actors.runtime.messages import CellRestarted, ConfigSlice, RestartCell
from holdfast.bus import keys
from holdfast.bus.base import RequestTimeout
from holdfast.bus.client import Client
from holdfast.bus.keys import KeyPair
from holdfast.bus.messages import Failed, Reply
from holdfast.bus.remote import RemoteClient
from holdfast.bus.wire import Request

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.netns,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root and namespaces"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    import_messages()
    with Cluster(3, {"eye": "viewer", "hand": "operator"}) as made:
        for node in made.nodes:
            node.advert_s = 0.1
            node.more_config = "global_defs {\n  vrrp_rt_priority 50\n}\n"
        made.start()
        made.until_joined()
        yield made


def remote(cluster: Cluster, node: Node, key: KeyPair) -> RemoteClient:
    """A client in the namespace of this thread."""
    return RemoteClient(f"tcp://{node.address}:{PORT}", server_key=node.key.public, key=key)


def count(node: Node, why: Refusal) -> int:
    """How often the node's gateway has refused somebody for this."""
    with Client(node.run_dir) as client:
        reply = client.request("gateway", DescribeGateway(), timeout_s=10)
    assert isinstance(reply, GatewayDescription)
    return reply.gateway.refused.get(why.value, 0)


def until_refused(node: Node, why: Refusal, before: int) -> int:
    """Waits until more than `before` were counted; how many are now."""
    until(lambda: count(node, why) > before, 20, f"{why} counted")
    return count(node, why)


def events_of_refusals(node: Node, action: Callable[[], Any], why: Refusal, seconds: float = 75) -> Refused:
    """The first event about `why` that follows from `action`."""
    with Client(node.run_dir) as client:
        stream = client.follow("gateway/")
        # What it retains comes when the subscription stands; a refusal is not retained and told once a minute.
        stream.until(GatewayState, seconds)
        action()
        end = time.monotonic() + seconds
        while True:
            envelope = stream.until(Refused, end - time.monotonic())
            assert isinstance(envelope.event, Refused)
            if envelope.event.refusal is why:
                return envelope.event


def test_each_node_sees_the_same_cluster(cluster: Cluster) -> None:
    for node in cluster.nodes:
        found = until(lambda node=node: node.owners().get("owners") == ["lb1"] and node.owners(), 20)
        assert found["state"] == "one-owner"
        assert {each["node"]: each["state"] for each in found["holders"]} == {
            "lb1": "MASTER",
            "lb2": "BACKUP",
            "lb3": "BACKUP",
        }
        others = [each for each in node.cluster_view()["nodes"] if each["name"] != node.name]
        assert all(each["hears_us"] for each in others)
        for each in others:
            # One host, one clock: the truth is known.
            assert abs(each["clock_offset_s"]) <= each["clock_error_s"] + 0.001


def test_a_viewer_sees_the_whole_cluster_and_may_do_nothing(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    key, _ = cluster.clients["eye"]
    with cluster.outside.enter(), remote(cluster, node, key) as client:
        until(
            lambda: {each.id.node for each in client.snapshot("vrrp/", timeout_s=15)} == {"lb1", "lb2", "lb3"},
            15,
            "one node tells of all",
        )

        def ask() -> Reply:
            return client.request("supervisor", RestartCell(cell="notify"), timeout_s=15)

        replies: list[Reply] = []
        told = events_of_refusals(node, lambda: replies.append(ask()), Refusal.ROLE)
    assert isinstance(replies[0], Failed) and replies[0].code == "forbidden"
    assert told.peer == "eye"
    assert "supervisor" in told.text


def test_slices_of_the_configuration_reach_no_client(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    with Client(node.run_dir) as local:
        assert any(isinstance(each.event, ConfigSlice) for each in local.snapshot("slice/").events)
        assert not [each for each in local.snapshot("slice/", node="*").events if each.id.node != node.name]
    key, _ = cluster.clients["hand"]
    with cluster.outside.enter(), remote(cluster, node, key) as client:
        assert client.snapshot("vrrp/", timeout_s=15)
        assert client.snapshot("slice/", timeout_s=15) == []
        stream = client.follow("")
        client.request("supervisor", RestartCell(cell="notify"), timeout_s=15)
        seen = []
        while not any(each.startswith("lb1/cell/notify/state") for each in seen):
            seen.append(stream.next(15).topic)
        assert not [each for each in seen if "/slice/" in each]


def test_an_operator_commands_every_node_through_one(cluster: Cluster) -> None:
    key, _ = cluster.clients["hand"]
    with cluster.outside.enter(), remote(cluster, cluster.nodes[0], key) as client:
        for node in ("", "lb3"):
            reply = client.request("supervisor", RestartCell(cell="notify"), node=node, timeout_s=15)
            assert isinstance(reply, CellRestarted)
        missing = client.request("supervisor", RestartCell(cell="notify"), node="lb9", timeout_s=15)
        assert isinstance(missing, Failed) and missing.code == "no-such-node"


def test_a_command_reaches_another_node_from_the_shell(cluster: Cluster) -> None:
    with Client(cluster.nodes[1].run_dir) as client:
        reply = client.request("supervisor", RestartCell(cell="notify"), node="lb3", timeout_s=10)
        assert isinstance(reply, CellRestarted)
        stranger = client.request("supervisor", RestartCell(cell="notify"), node="lb9", timeout_s=10)
        assert isinstance(stranger, Failed) and stranger.code == "no-such-node"


def test_a_strangers_key_is_refused_and_told_with_its_address(cluster: Cluster) -> None:
    node = cluster.nodes[0]

    def knock() -> None:
        stranger = keys.generate("nobody")
        with cluster.outside.enter(), remote(cluster, node, stranger) as client, pytest.raises(RequestTimeout):
            client.snapshot("", timeout_s=2)

    told = events_of_refusals(node, knock, Refusal.KEY)
    assert told.address == "10.90.2.9"


PLAIN_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + bytes(1) + bytes(31)


@pytest.mark.parametrize("port", [PORT, PORT + 1])
def test_plain_tcp_is_refused(cluster: Cluster, port: int) -> None:
    node = cluster.nodes[1]
    before = count(node, Refusal.PLAIN)
    with cluster.outside.enter(), socket.create_connection((node.address, port), 5) as plain:
        plain.settimeout(10)
        plain.sendall(PLAIN_GREETING)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := plain.recv(4096):
                answer += chunk
    assert len(answer) <= 64, "a greeting at most, then the end"
    assert until_refused(node, Refusal.PLAIN, before) > before


@pytest.mark.parametrize("port", [PORT, PORT + 1])
def test_a_client_without_keys_gets_nothing(cluster: Cluster, port: int) -> None:
    node = cluster.nodes[1]
    # A ZeroMQ client that sees our greeting first goes without having said that it does not encrypt.
    reasons = (Refusal.PLAIN, Refusal.HANDSHAKE)
    before = sum(count(node, why) for why in reasons)
    with cluster.outside.enter():
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        plain = context.socket(zmq.SUB if port == PORT else zmq.DEALER)
        plain.setsockopt(zmq.LINGER, 0)
        if port == PORT:
            plain.setsockopt(zmq.SUBSCRIBE, b"")
        plain.connect(f"tcp://{node.address}:{port}")
        if port != PORT:
            plain.send(b"\x81\xa2op\xa5hello")
        until(lambda: sum(count(node, why) for why in reasons) > before, 20, "refused and counted")
        assert not plain.poll(1500)
        plain.close()
        context.term()


def test_a_client_that_trusts_another_key_does_not_talk_to_us(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    key, _ = cluster.clients["eye"]
    with cluster.outside.enter():
        wrong = RemoteClient(f"tcp://{node.address}:{PORT}", server_key=keys.generate("x").public, key=key)
        with wrong, pytest.raises(RequestTimeout):
            wrong.snapshot("", timeout_s=2)


class Tap:
    """tests/kernel/tcp_proxy.py between the outside and a port of a node."""

    def __init__(self, space: NetNs, listen: int, node: Node, port: int, *words: str) -> None:
        command = [sys.executable, str(HERE / "tcp_proxy.py"), f"10.90.2.9:{listen}", f"{node.address}:{port}", *words]
        self.process = space.popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_a_recorded_session_played_back_does_nothing(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.nodes[2]
    record = tmp_path / "session"
    key, _ = cluster.clients["hand"]
    taps = [
        Tap(cluster.outside, 9000, node, PORT),
        Tap(cluster.outside, 9001, node, PORT + 1, "--record", str(record)),
    ]
    try:
        with cluster.outside.enter():
            client = RemoteClient("tcp://10.90.2.9:9000", server_key=node.key.public, key=key)
            with client:
                assert isinstance(client.request("supervisor", RestartCell(cell="notify"), timeout_s=15), CellRestarted)
    finally:
        for tap in taps:
            tap.close()
    data = record.read_bytes()
    assert len(data) > 200
    pid = until(lambda: node.pid_of("notify"))
    before = count(node, Refusal.HANDSHAKE)
    with cluster.outside.enter():
        for size in (len(data), len(data), 64, 65, 200, len(data) // 2, len(data) - 1):
            with socket.create_connection((node.address, PORT + 1), 5) as played:
                played.sendall(data[:size])
                played.settimeout(0.5)
                answers = b""
                try:
                    while chunk := played.recv(65536):
                        answers += chunk
                except OSError:
                    pass
            assert len(answers) < 1024, "a greeting and a welcome at most"
    assert until_refused(node, Refusal.HANDSHAKE, before) > before
    assert node.pid_of("notify") == pid, "the command in the recording was not carried out again"


def test_a_session_that_is_cut_in_the_middle_of_frames_leaves_nothing_behind(cluster: Cluster) -> None:
    node = cluster.nodes[2]
    key, _ = cluster.clients["hand"]
    pid = node.pid_of("notify")
    for cut in (70, 300, 420, 470):
        taps = [
            Tap(cluster.outside, 9100, node, PORT, "--cut-after", str(cut)),
            Tap(cluster.outside, 9101, node, PORT + 1, "--cut-after", str(cut)),
        ]
        try:
            with cluster.outside.enter():
                client = RemoteClient("tcp://10.90.2.9:9100", server_key=node.key.public, key=key)
                with client, pytest.raises(RequestTimeout):
                    client.request("supervisor", RestartCell(cell="notify"), timeout_s=1)
        finally:
            for tap in taps:
                tap.close()
    assert node.pid_of("notify") == pid
    assert all(each == "reachable" for each in node.states().values())


def test_an_operator_who_sends_nonsense_is_counted_and_others_are_served(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    key, _ = cluster.clients["hand"]
    with Client(node.run_dir) as local:

        def bad() -> int:
            (told,) = local.snapshot("cell/gateway/bus").events
            return sum(told.event.bad.values())  # type: ignore[attr-defined]

        before = bad()
        with cluster.outside.enter():
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            rude = context.socket(zmq.DEALER)
            rude.curve_serverkey = node.key.public.encode()
            rude.curve_publickey, rude.curve_secretkey = key.public.encode(), key.secret.encode()
            rude.setsockopt(zmq.LINGER, 1000)
            rude.connect(f"tcp://{node.address}:{PORT + 1}")
            for _ in range(500):
                rude.send(os.urandom(300))
            rude.send_multipart([b"x"] * 10)
            until(lambda: bad() >= before + 501, 20, "every wrong message is counted")
            eye, _ = cluster.clients["eye"]
            with remote(cluster, node, eye) as client:
                assert client.snapshot("vrrp/", timeout_s=15)
            rude.close()
            context.term()


def test_too_many_requests_are_refused(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    key, _ = cluster.clients["eye"]
    before = count(node, Refusal.FLOOD)
    with cluster.outside.enter(), remote(cluster, node, key) as client:
        client.snapshot("vrrp/", timeout_s=15)
        channel = client._client._source.channel
        assert channel is not None
        for number in range(5000):
            channel.report(Request(id=10**6 + number, op="hello"))
        assert until_refused(node, Refusal.FLOOD, before) > before
    assert all(each == "reachable" for each in cluster.nodes[1].states().values())


FLOOD = """
import os, socket, sys, time
host, port, seconds, kind = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
data = os.urandom(1 << 20)
greeting = b"\\xff" + bytes(8) + b"\\x7f\\x03\\x00CURVE" + bytes(15) + bytes(1) + bytes(31)
end = time.monotonic() + seconds
sent = connections = 0
while time.monotonic() < end:
    try:
        with socket.create_connection((host, port), 2) as s:
            connections += 1
            s.settimeout(1)
            if kind == "greeting":
                s.sendall(greeting)
            while time.monotonic() < end:
                sent += s.send(data)
    except OSError:
        pass
print(connections, sent)
"""


def _adverts(cluster: Cluster, seconds: float) -> list[int]:
    command = [sys.executable, str(HERE / "advert_times.py"), "lan0", "10.90.1.1"]
    process = cluster.outside.popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    end = time.monotonic() + seconds
    times: list[int] = []
    while time.monotonic() < end:
        times.append(int(process.stdout.readline()))
    process.kill()
    process.wait(10)
    process.stdout.close()
    return times


def _most(values: list[float]) -> float:
    """Nine of ten are not above it."""
    return sorted(values)[len(values) * 9 // 10]


def _late_ms(times: list[int], interval_s: float) -> list[float]:
    """How much longer than it should each interval was."""
    return [(after - before) / 1e6 - interval_s * 1000 for before, after in itertools.pairwise(times)]


def _resident_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def test_random_bytes_at_full_rate_on_both_ports_disturb_nobody(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    until(lambda: node.owners().get("owners") == ["lb1"], 20)
    gateway = node.pid_of("gateway")
    before = count(node, Refusal.HANDSHAKE)

    def flood(seconds: float) -> tuple[list[int], list[tuple[int, int]]]:
        floods = [
            cluster.outside.popen(
                [sys.executable, "-c", FLOOD, node.address, str(port), str(seconds), kind], stdout=subprocess.PIPE
            )
            for port in (PORT, PORT + 1)
            for kind in ("noise", "greeting")
        ]
        times = _adverts(cluster, seconds - 1.0)
        figures = []
        for each in floods:
            out, _ = each.communicate(timeout=30)
            connections, sent = out.split()
            figures.append((int(connections), int(sent)))
        return times, figures

    quiet = _late_ms(_adverts(cluster, 6), node.advert_s)
    flood(4)  # what is allocated once is allocated now
    resident = _resident_kb(gateway)
    times, figures = flood(9)
    loud = _late_ms(times, node.advert_s)
    grown = _resident_kb(gateway) - resident
    print(
        f"{sum(connections for connections, _ in figures)} connections, {sum(sent for _, sent in figures)} bytes; "
        f"adverts late by median {statistics.median(quiet):.3f} -> {statistics.median(loud):.3f} ms, "
        f"nine of ten within {_most(quiet):.3f} -> {_most(loud):.3f} ms, "
        f"worst {max(quiet):.3f} -> {max(loud):.3f} ms; gateway grew by {grown} kB"
    )
    assert node.pid_of("gateway") == gateway, "the same process all along"
    assert len(loud) > 30
    assert statistics.median(loud) <= statistics.median(quiet) + 5.0
    assert _most(loud) <= _most(quiet) + 5.0
    assert grown < 8 * 1024
    assert count(node, Refusal.HANDSHAKE) > before
    until(lambda: set(node.states().values()) == {"reachable"}, 10)
    for other in cluster.nodes[1:]:
        assert set(other.states().values()) == {"reachable"}
    told = [line for line in node.log().splitlines() if "refused 10.90.2.9: handshake" in line]
    assert len(told) <= 3, "a flood is a line a minute"
