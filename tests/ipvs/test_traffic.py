"""Real connections through a real IPVS: NAT, DR and TUN, IPv4 and IPv6, deaths, crashes, persistence, draining."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest
from traffic import NAMES, VIP4, VIP6, Net, real

pytestmark = [pytest.mark.uml, pytest.mark.timeout(120)]

HEALTH = 9000
"""The port that checks look at, so that a server can be ill and still answer its connections."""

NAT, DR, TUN, INHIBIT, STICKY = 80, 81, 82, 83, 84
METHODS = {NAT: "NAT", DR: "DR", TUN: "TUN", INHIBIT: "NAT", STICKY: "NAT"}


def _service(port: int, family: int) -> str:
    vip = VIP4 if family == 4 else VIP6
    extra = ""
    if port == INHIBIT:
        extra = "  inhibit_on_failure\n"
    if port == STICKY:
        extra = f"  persistence_timeout 60\n  quorum 2\n  sorry_server {real(3, family)} {port}\n"
    servers = "".join(
        f"""
  real_server {real(number, family)} {port} {{
    TCP_CHECK {{
      connect_port {HEALTH}
      connect_timeout 1
      retry 0
      warmup 0
    }}
  }}"""
        for number in (1, 2)
    )
    return f"""
virtual_server {vip} {port} {{
  delay_loop 0.5
  lvs_sched rr
  lvs_method {METHODS[port]}
  protocol TCP
{extra}{servers}
}}
"""


CONFIG = "".join(_service(port, family) for port in METHODS for family in (4, 6))


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    net = Net(CONFIG)
    try:
        net.open()
        for number, name in enumerate(NAMES, 1):
            servers = net.servers[name]
            for family in (4, 6):
                servers.up(real(number, family), HEALTH)
                for port, method in METHODS.items():
                    servers.up(real(number, family) if method == "NAT" else (VIP4, VIP6)[family == 6], port)
        net.start()
        net.until(lambda: len(net.table()) == 30, "start", 60)
        time.sleep(2)
        yield net
    finally:
        net.close()


@pytest.mark.parametrize("port", [NAT, DR, TUN])
@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_connections_reach_both_servers(net: Net, vip: str, port: int) -> None:
    assert net.client.answers(vip, port) == {"s1", "s2"}


@pytest.mark.parametrize("family", [4, 6])
def test_a_dead_server_leaves_in_time_and_comes_back(net: Net, family: int) -> None:
    vip = VIP4 if family == 4 else VIP6
    address = real(1, family)
    shown = address if family == 4 else f"[{address}]"
    net.servers["s1"].down(address, HEALTH)
    # delay_loop 0.5 s, refused at once, no retries: less than a second, and the guest's own pace.
    spent_s = net.until(lambda: not net.has(f"-r {shown}:{NAT} "), "leaves")
    assert spent_s < 3
    net.until(lambda: not net.has(f"-r {shown}:{TUN} "), "leaves the others")
    for port in (NAT, DR, TUN):
        assert net.client.answers(vip, port, 4) == {"s2"}
    net.servers["s1"].up(address, HEALTH)
    net.until(lambda: net.has(f"-r {shown}:{NAT} ", f"-r {shown}:{DR} ", f"-r {shown}:{TUN} "), "returns")
    assert net.client.answers(vip, NAT) == {"s1", "s2"}


def test_inhibit_keeps_the_connections_of_an_ill_server(net: Net) -> None:
    held = {}
    while len(held) < 2:
        connection = net.client.hold(VIP4, INHIBIT)
        held[connection.who] = connection
    net.servers["s1"].down(real(1, 4), HEALTH)
    try:
        net.until(lambda: net.has(f"-r {real(1, 4)}:{INHIBIT} -m -w 0"), "weight 0")
        assert net.client.answers(VIP4, INHIBIT, 4) == {"s2"}
        assert held["s1"].talk().startswith("s1 ")
    finally:
        net.servers["s1"].up(real(1, 4), HEALTH)
    net.until(lambda: net.has(f"-r {real(1, 4)}:{INHIBIT} -m -w 1"), "weight 1")
    for connection in held.values():
        assert connection.talk()
        connection.close()


@pytest.mark.parametrize("family", [4, 6])
def test_persistence_then_the_sorry_server(net: Net, family: int) -> None:
    vip = VIP4 if family == 4 else VIP6
    first = net.client.ask(vip, STICKY)
    assert net.client.answers(vip, STICKY, 6) == {first}
    other = "s1" if first == "s2" else "s2"
    number = 1 if other == "s1" else 2
    shown = real(3, family) if family == 4 else f"[{real(3, family)}]"
    net.servers[other].down(real(number, family), HEALTH)
    try:
        net.until(lambda: net.has(f"-r {shown}:{STICKY} -m -w 1"), "the sorry server serves")
        asked = f"-t {vip}:{STICKY} " if family == 4 else f"-t [{vip}]:{STICKY} "
        assert [line for line in net.table() if asked in line and " -r " in line] == [
            f"-a {asked}-r {shown}:{STICKY} -m -w 1"
        ]
    finally:
        net.servers[other].up(real(number, family), HEALTH)
    net.until(lambda: not net.has(f"-r {shown}:{STICKY} "), "the sorry server rests")


def test_what_others_take_away_comes_back(net: Net) -> None:
    before = net.table()
    run_in_lb = ["-d", "-t", f"{VIP4}:{NAT}", "-r", f"{real(1, 4)}:{NAT}"]
    _ipvsadm(net, *run_in_lb)
    _ipvsadm(net, "-D", "-t", f"{VIP4}:{DR}")
    _ipvsadm(net, "-A", "-t", "192.0.2.1:99", "-s", "rr")
    foreign = "-A -t 192.0.2.1:99 -s rr"
    net.until(lambda: net.table() == sorted([*before, foreign]), "repaired", 25)
    _ipvsadm(net, "-D", "-t", "192.0.2.1:99")


def test_drain_lets_connections_end(net: Net) -> None:
    before = net.table()
    held = {}
    while len(held) < 2:
        connection = net.client.hold(VIP4, NAT)
        held[connection.who] = connection
    server, service = f"[{real(1, 4)}]:tcp:{NAT}", f"[{VIP4}]:tcp:{NAT}"
    assert "drains" in net.holdfast("drain", server, "--service", service)
    net.until(lambda: net.has(f"-r {real(1, 4)}:{NAT} -m -w 0"), "weight 0")
    assert net.client.answers(VIP4, NAT, 4) == {"s2"}
    assert held["s1"].talk().startswith("s1 ")
    views = json.loads(net.holdfast("status", "lvs", "--json"))["services"]
    (view,) = [each for each in views if each["name"] == service]
    (drained,) = [each for each in view["servers"] if each["name"] == server]
    assert drained["draining"] and drained["active_connections"] >= 1
    # A reset is forgotten by the kernel after 10 s (timeout of the state CLOSE), and then the server leaves.
    for connection in held.values():
        connection.reset()
    net.until(lambda: not net.has(f"-r {real(1, 4)}:{NAT} "), "drained", 40)
    net.holdfast("drain", server, "--service", service, "--undo")
    net.until(lambda: net.table() == before, "as before")


@pytest.mark.parametrize("victim", ["director", "checkers", "all", "restart"])
def test_sigkill_or_restart_under_traffic(net: Net, victim: str) -> None:
    """No service disappears, no connection is reset, and the table is right within 2 s of the restart."""
    before, director = net.table(), net.cell("director")
    held = [net.client.hold(VIP4, port) for port in (NAT, NAT, DR, DR, TUN, TUN)]
    if victim == "all":
        net.kill()
        assert net.table() == before
        net.start()
    elif victim == "restart":
        net.holdfast("restart")
        assert net.cell("director") != director
    else:
        os.kill(net.cell(victim), signal.SIGKILL)
    until = time.monotonic() + 6
    while time.monotonic() < until:
        assert net.table() == before
        for connection in held:
            assert connection.talk().startswith(connection.who)
        assert net.client.ask(VIP4, NAT) in {"s1", "s2"}
    for connection in held:
        connection.close()
    # It is at work again: a death is seen.
    net.servers["s2"].down(real(2, 4), HEALTH)
    net.until(lambda: not net.has(f"-r {real(2, 4)}:{NAT} "), "at work again", 30)
    net.servers["s2"].up(real(2, 4), HEALTH)
    net.until(lambda: net.table() == before, "as before", 30)


def test_a_death_while_the_director_is_dead_is_caught_up_with(net: Net) -> None:
    before = net.table()
    pid = net.cell("director")
    os.kill(pid, signal.SIGKILL)
    net.servers["s1"].down(real(1, 4), HEALTH)
    net.until(lambda: net.cell("director") != pid, "restarted", 20)
    spent_s = net.until(lambda: not net.has(f"-r {real(1, 4)}:{NAT} "), "right again")
    assert spent_s < 2
    net.servers["s1"].up(real(1, 4), HEALTH)
    net.until(lambda: net.table() == before, "as before")


def test_stop_removes_the_services(net: Net) -> None:
    net.stop()
    assert net.table() == []


def _ipvsadm(net: Net, *options: str) -> None:
    from world import run

    run("ip", "netns", "exec", "lb", "ipvsadm", *options)
