"""BFD with FRR, BIRD and keepalived on a real wire. Both ends are asked, and tshark looks at every packet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from bfd_peers import HOLDFAST, MISSING, Bird, Frr, Keepalived, Link, Ours, World, both_up, stays_up, together
from netns import can_make_namespaces, wait_until

from holdfast.actors.bfd.messages import BfdDisable, BfdDone, BfdEnable

pytestmark = [
    pytest.mark.peer,
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0 or not can_make_namespaces(), reason="needs root and namespaces"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}"),
]

SINGLE = [Link(4), Link(6)]
MULTIHOP = [Link(4, multihop=True), Link(6, multihop=True)]


def name(value: object) -> str | None:
    if isinstance(value, Link):
        return f"ipv{value.family}{'-multihop' if value.multihop else ''}"
    return None


def as_seen(ours: Ours) -> tuple[int, int]:
    """(agreed transmit interval, detection time) in milliseconds."""
    session = ours.session()
    assert session is not None
    return session.transmit_us // 1000, session.detection_us // 1000


@pytest.mark.parametrize(
    ("link", "peer"),
    [(link, peer) for link in SINGLE for peer in ("frr", "bird", "keepalived")]
    # Debian's keepalived has no multihop.
    + [(link, peer) for link in MULTIHOP for peer in ("frr", "bird")],
    ids=name,
)
def test_up_and_clean_on_the_wire(link: Link, peer: str) -> None:
    """They come up, agree on the intervals, stay up, and tshark has nothing to say."""
    # keepalived asks for hop limit 64 of IPv6 packets unless told, and sends that itself.
    with together(link, peer) as (world, ours, other):
        world.record()
        both_up(ours, other)
        wait_until(lambda: as_seen(ours) == (100, 500), what="100 ms, 500 ms")
        stays_up(ours, 1.0)
        packets = world.recorded()
    mine = [each for each in packets if source_of(each) == link.mine]
    theirs = [each for each in packets if source_of(each) == link.theirs]
    assert len(mine) > 8
    assert len(theirs) > 8
    ports = {each["udp"]["udp.srcport"] for each in mine}
    assert len(ports) == 1
    assert 49152 <= int(ports.pop()) <= 65535
    limits = {each["ip"]["ip.ttl"] if "ip" in each else each["ipv6"]["ipv6.hlim"] for each in mine}
    assert limits == {"255"}
    assert {each["udp"]["udp.dstport"] for each in mine} == {"4784" if link.multihop else "3784"}


def source_of(layers: dict[str, dict[str, str]]) -> str:
    return layers["ip"]["ip.src"] if "ip" in layers else layers["ipv6"]["ipv6.src"]


@pytest.mark.parametrize(
    ("words", "toml"),
    [
        ("simple", "simple"),
        ("keyed md5", "md5"),
        ("meticulous keyed md5", "meticulous-md5"),
        ("keyed sha1", "sha1"),
        ("meticulous keyed sha1", "meticulous-sha1"),
    ],
)
def test_authentication_with_bird(words: str, toml: str) -> None:
    """Each of the five kinds comes up and stays up; a wrong secret does not come up and is counted."""
    settings = f'[bfd.sessions.b0]\nauthentication = "{toml}"\nkeys = [{{ id = 7, secret = "correct" }}]\n'
    with together(Link(4), "bird", toml=settings, auth=words, password="correct") as (world, ours, bird):
        world.record()
        both_up(ours, bird)
        stays_up(ours, 1.0)
        world.recorded()
        assert isinstance(bird, Bird)
        bird.password = "wrong"
        bird.retime(100)
        wait_until(lambda: not ours.up, what="the session to end")
        session = ours.session()
        assert session is not None
        assert session.rejected.get("auth-digest", 0) > 0
        bird.password = "correct"
        bird.retime(100)
        both_up(ours, bird)


@pytest.mark.parametrize("peer", ["frr", "bird", "keepalived"])
@pytest.mark.parametrize("link", SINGLE, ids=name)
def test_intervals_change_while_up(link: Link, peer: str) -> None:
    """Slower, then faster, by the peer, then by us: each through a poll, without a loss."""
    with together(link, peer) as (_, ours, other):
        both_up(ours, other)
        wait_until(lambda: as_seen(ours) == (100, 500))
        before = ours.session()
        assert before is not None
        for ms in (200, 40):
            other.retime(ms)
            expected = max(ms, 100)
            wait_until(lambda e=expected: as_seen(ours) == (e, 5 * e), what=f"{ms} ms by the peer")
        for ms in (300, 120):
            ours.ms = ms
            ours.reload()
            wait_until(lambda m=ms: as_seen(ours) == (m, 5 * m), what=f"{ms} ms by us")
            wait_until(lambda: not polling(ours), what="the end of the poll")
        after = ours.session()
        assert after is not None
        assert (after.downs, after.ups) == (before.downs, before.ups), ours.log()
        assert after.local_discriminator == before.local_discriminator
        assert other.up


def polling(ours: Ours) -> bool:
    session = ours.session()
    return session is None or session.polling


def test_admin_down_by_the_peer() -> None:
    """The peer says AdminDown: we go Down, trackers do not, and it comes back. (BIRD and keepalived never say it.)"""
    with together(Link(4), "frr") as (_, ours, other):
        both_up(ours, other)
        assert isinstance(other, Frr)
        other.shut()
        wait_until(lambda: ours.state == "Down", what="our Down")
        session = ours.session()
        assert session is not None
        assert session.tracker_up
        assert session.local_diagnostic == "Neighbor Signaled Session Down"
        other.open()
        both_up(ours, other)


@pytest.mark.parametrize("peer", ["frr", "bird", "keepalived"])
def test_admin_down_by_us(peer: str) -> None:
    """`disable` and `enable`; then a clean stop: the peer goes down at once each time, not by its detection time."""
    with together(Link(4, ms=300, mult=10), peer) as (_, ours, other):
        both_up(ours, other)
        assert isinstance(ours.request(BfdDisable(session="b0")), BfdDone)
        at = time.monotonic()
        wait_until(lambda: not other.up, timeout_s=2.5, every_s=0.02, what="the peer to hear of it")
        assert time.monotonic() - at < 2.5, "that was the detection time of 3 s"
        assert ours.state == "AdminDown"
        ours.request(BfdEnable(session="b0"))
        both_up(ours, other)
        ours.stop()
        wait_until(lambda: not other.up, timeout_s=2.0, every_s=0.02, what="the peer to hear of our stop")


def test_removal_by_reload_is_told() -> None:
    """A session that the configuration has no more says AdminDown."""
    with together(Link(4, ms=300, mult=10), "bird") as (_, ours, other):
        both_up(ours, other)
        (ours.folder / "holdfast.conf").write_text("bfd_instance other {\n neighbor_ip 10.77.0.99\n}\n")
        assert ours.process is not None
        ours.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not other.up, timeout_s=2.5, every_s=0.02, what="the peer to hear of it")


@pytest.mark.parametrize("peer", ["frr", "bird", "keepalived"])
@pytest.mark.parametrize("link", SINGLE, ids=name)
def test_peer_killed_and_restarted(link: Link, peer: str) -> None:
    """Killed: detected. Restarted: Up again, with whatever discriminator it has now."""
    with together(link, peer) as (_, ours, other):
        both_up(ours, other)
        stays_up(ours, 0.5)
        other.kill()
        wait_until(lambda: ours.state == "Down", timeout_s=5)
        session = ours.session()
        assert session is not None
        assert session.local_diagnostic == "Control Detection Time Expired"
        assert not session.tracker_up
        other.start()
        both_up(ours, other)


@pytest.mark.parametrize("link", SINGLE, ids=name)
def test_ttl_254_is_refused(link: Link) -> None:
    """A neighbour behind a router cannot pass for a neighbour: GTSM, by the kernel."""
    with together(link, "bird", extra="hoplimit 255" if link.family == 6 else "") as (world, ours, other):
        both_up(ours, other)
        kind = "ip" if link.family == 4 else "ip6"
        field = "ip ttl" if link.family == 4 else "ip6 hoplimit"
        world.peer.run("nft add table inet t")
        world.peer.run("nft add chain inet t out { type filter hook output priority 0 ; }")
        world.peer.run(f"nft add rule inet t out {kind} daddr {link.mine} udp dport 3784 {field} set 254")
        wait_until(lambda: ours.state == "Down", what="254 to be refused")
        world.peer.run("nft delete table inet t")
        both_up(ours, other)


def test_passive_waits() -> None:
    """We are passive: nothing goes out until BIRD speaks."""
    with World(Link(4)) as world:
        ours = Ours(world, passive=True).start()
        wait_until(lambda: ours.session() is not None)
        stays = time.monotonic() + 1.5
        wait_until(lambda: time.monotonic() > stays, every_s=0.1)
        session = ours.session()
        assert session is not None
        assert session.packets_out == 0
        both_up(ours, Bird(world).start())


def test_passive_frr_hears_us_first() -> None:
    with together(Link(4), "frr", passive=False) as (_, ours, other):
        both_up(ours, other)
        assert isinstance(other, Frr)
        other._configure("passive-mode")
        stays_up(ours, 0.5)


@pytest.mark.parametrize("link", SINGLE, ids=name)
def test_we_loop_the_echoes_of_frr(link: Link) -> None:
    """FRR sends echoes since we allow them; they come back to it, so its session stays up."""
    toml = "[bfd.sessions.b0]\necho_receive_ms = 20\n"
    with together(link, "frr", toml=toml, echo=True) as (_, ours, other):
        assert isinstance(other, Frr)
        both_up(ours, other)
        wait_until(lambda: other.counters().get("echo-packet-input", 0) > 20, what="echoes to come back to FRR")
        stays_up(ours, 1.0)
        assert other.up


@pytest.mark.parametrize("link", SINGLE, ids=name)
def test_frr_loops_our_echoes(link: Link) -> None:
    """We send echoes since FRR allows them; they come back; when they do not, the session ends with diagnostic 2."""
    toml = "[bfd.sessions.b0]\necho_transmit_ms = 50\n"
    with together(link, "frr", toml=toml, echo=True) as (world, ours, other):
        if link.family == 4:
            # IPv4 echoes are looped by the forwarding plane of the other host.
            world.peer.sysctl("net.ipv4.ip_forward", 1)
            world.peer.sysctl("net.ipv4.conf.all.send_redirects", 0)
            world.peer.sysctl("net.ipv4.conf.eth0.send_redirects", 0)
        both_up(ours, other)
        wait_until(lambda: echo_us(ours) == 50_000, what="our echoes")
        stays_up(ours, 1.0)
        # Control packets were slowed to a second, so only echoes can see the next cut in time.
        wait_until(lambda: not polling(ours))
        world.peer.run("nft add table inet t")
        world.peer.run("nft add chain inet t in { type filter hook prerouting priority -300 ; }")
        world.peer.run("nft add rule inet t in udp dport 3785 drop")
        wait_until(lambda: "Echo Function Failed" in ours.log(), timeout_s=1.5, what="lost echoes to be noticed")


def echo_us(ours: Ours) -> int:
    session = ours.session()
    return 0 if session is None else session.echo_us


@pytest.mark.parametrize("auth", ["none", "meticulous-sha1"])
def test_a_killed_cell_is_not_noticed_by_the_peer(auth: str) -> None:
    """kill -9 of the bfd cell: its successor goes on with the same discriminators; at most one short Down."""
    toml, options = "", {}
    if auth != "none":
        toml = f'[bfd.sessions.b0]\nauthentication = "{auth}"\nkeys = [{{ id = 7, secret = "correct" }}]\n'
        options = {"auth": "meticulous keyed sha1", "password": "correct"}
    with together(Link(4, ms=300, mult=5), "bird", toml=toml, **options) as (_, ours, other):
        both_up(ours, other)
        stays_up(ours, 1.5)
        before = ours.session()
        assert before is not None
        assert isinstance(other, Bird)
        downs = other.log().count("to Down")
        os.kill(cell_pid(ours), signal.SIGKILL)
        wait_until(lambda: (session := ours.session()) is not None and session.state.value == "Up", what="its return")
        both_up(ours, other)
        after = ours.session()
        assert after is not None
        assert after.local_discriminator == before.local_discriminator
        assert after.reason is not None
        stays_up(ours, 2.0)
        assert other.log().count("to Down") == downs, other.log()


def cell_pid(ours: Ours) -> int:
    """Of the process that is named hf-bfd among the daemon's children."""
    assert ours.process is not None
    children = subprocess.run(
        ["ps", "--ppid", str(ours.process.pid), "-o", "pid=,comm="], capture_output=True, check=True
    ).stdout.decode()
    for line in children.splitlines():
        pid, comm = line.split()
        if comm == "hf-bfd":
            return int(pid)
    raise AssertionError(children)


def test_source_address_comes_and_goes() -> None:
    """Our source vanishes: we are silent, and nobody sends from it any more; it returns: Up again."""
    with together(Link(4), "bird") as (world, ours, other):
        both_up(ours, other)
        world.us.ip("addr del 10.77.0.1/24 dev eth0")
        wait_until(lambda: ours.state == "Down")
        session = ours.session()
        assert session is not None
        assert session.source == ""
        world.us.ip("addr add 10.77.0.1/24 dev eth0")
        both_up(ours, other)


def test_an_interface_that_goes_down_ends_its_session_at_once() -> None:
    toml = '[bfd.sessions.b0]\ninterface = "eth0"\n'
    with together(Link(4, ms=1000, mult=10), "bird", toml=toml) as (world, ours, other):
        both_up(ours, other)
        world.us.ip("link set eth0 down")
        wait_until(lambda: ours.state == "Down", timeout_s=8.0)
        session = ours.session()
        assert session is not None
        assert session.local_diagnostic == "Path Down"
        world.us.ip("link set eth0 up")
        both_up(ours, other)


def test_keepalived_stays_up_when_we_reload_nothing() -> None:
    with together(Link(4), "keepalived") as (_, ours, other):
        both_up(ours, other)
        assert isinstance(other, Keepalived)
        ours.reload()
        stays_up(ours, 1.0)
        assert Path(ours.folder / "log").read_text().count("Entering Up") == 1


def test_a_reload_of_holdfast_toml_alone_reaches_the_sessions() -> None:
    """[bfd] changes, keepalived.conf does not; a mistake in it changes nothing."""
    with together(Link(4), "bird") as (_, ours, other):
        both_up(ours, other)
        ours.toml = "[bfd.sessions.b0]\nmin_rx_ms = 300.0\nmin_tx_ms = 300.0\n"
        ours.reload()
        wait_until(lambda: as_seen(ours) == (300, 1500), what="the new intervals")
        ours.toml = "[bfd.sessions.b0]\nmultiplier = 0\n"
        ours.reload()
        wait_until(lambda: "multiplier: from 1 to 255" in ours.log(), what="the complaint")
        stays_up(ours, 1.0)
        assert as_seen(ours) == (300, 1500)


VRRP = (
    "vrrp_instance V {\n  interface eth0\n  version 3\n  virtual_router_id 9\n  priority 200\n  advert_int 0.3\n"
    "  virtual_ipaddress {\n    10.77.0.99/24\n  }\n  track_bfd {\n    b0\n  }\n}\n"
)


def said_by(ours: Ours, *words: str) -> str:
    """What `holdfast ...` prints about our daemon."""
    command = [HOLDFAST, *words, "--run-dir", str(ours.folder / "run")]
    return subprocess.run(command, capture_output=True, check=False, text=True, timeout=60).stdout


def test_why_follows_a_failover_back_to_the_last_packet_of_the_session() -> None:
    """The neighbour dies, the instance that tracks it lets go: its story ends at the session and what was missed."""
    with World(Link(4)) as world:
        ours = Ours(world, more=VRRP)
        ours.toml = f'[journal]\npath = "{ours.folder}/journal.db"\n'
        ours.start()
        other = Bird(world).start()
        both_up(ours, other)
        wait_until(lambda: "MASTER" in said_by(ours, "status", "vrrp"), every_s=0.3, what="a MASTER")
        figures = json.loads(said_by(ours, "status", "bfd", "--json"))["bfd"][0]
        assert (figures["transmit_us"], figures["receive_us"], figures["detection_us"]) == (100_000, 100_000, 500_000)
        assert figures["packets_in"] > 0
        assert figures["packets_out"] > 0
        assert 0 < figures["longest_gap_s"] < 5
        assert "OUT/IN" in said_by(ours, "status", "bfd")
        other.kill()
        wait_until(lambda: "FAULT" in said_by(ours, "status", "vrrp"), every_s=0.3, what="FAULT")
        wait_until(lambda: "FAULT" in said_by(ours, "why", "V"), every_s=0.3, what="the journal to have it")
        newest = json.loads(said_by(ours, "why", "V", "--json"))[0]
        assert (newest["subject"], newest["from"], newest["to"]) == ("vrrp/V", "MASTER", "FAULT")
        root = newest["root"]
        assert (root["kind"], root["subject"]) == ("bfd-down", "bfd/b0")
        evidence = root["evidence"]
        assert evidence["cause"] == "detection time expired"
        assert evidence["last_packet_s"] >= evidence["detection_s"] == 0.5
        assert evidence["missed"] >= 5
        assert "BFD session b0" in said_by(ours, "why", "V")
