"""holdfast beside Debian's keepalived: who is MASTER in turn, in every mode; tshark judges our packets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns import Lab, wait_until
from pair import Net

pytestmark = [pytest.mark.netns, pytest.mark.peer]


@pytest.fixture
def net(short_folder: Path) -> Iterator[Net]:
    with Lab() as lab:
        yield Net(lab, short_folder)


MODES = {
    "v2": ("version 2\n advert_int 1", "10.0.0.100/24", {}),
    "v2-password": (
        "version 2\n advert_int 1\n authentication {\n auth_type PASS\n auth_pass s3same!\n }",
        "10.0.0.100/24",
        {},
    ),
    "v3": ("version 3\n advert_int 0.3", "10.0.0.100/24", {}),
    "v3-ipv6": ("version 3\n advert_int 0.3", "fe80::100\n fd00::100/64", {}),
    "v2-unicast": ("version 2\n advert_int 1", "10.0.0.100/24", {"r1": "10.0.0.1", "r2": "10.0.0.2"}),
    "v3-unicast": ("version 3\n advert_int 0.3", "10.0.0.100/24", {"r1": "10.0.0.1", "r2": "10.0.0.2"}),
    "v3-unicast-ipv6": ("version 3\n advert_int 0.3", "fe80::100\n fd00::100/64", {"r1": "fd00::1", "r2": "fd00::2"}),
}


def config(mode: str, router: str, priority: int, more: str = "") -> str:
    options, addresses, unicast = MODES[mode]
    if unicast:
        other = "r2" if router == "r1" else "r1"
        options += f"\n unicast_src_ip {unicast[router]}\n unicast_peer {{\n {unicast[other]}\n }}"
    return (
        f"global_defs {{\n router_id {router}\n vrrp_garp_master_delay 1\n}}\n"
        f"vrrp_instance V {{\n state BACKUP\n interface eth0\n virtual_router_id 51\n priority {priority}\n"
        f" {options}\n {more}\n virtual_ipaddress {{\n {addresses}\n }}\n}}\n"
    )


def owns(net: Net, router: str, mode: str) -> bool:
    addresses = MODES[mode][1]
    text = addresses.split("\n", maxsplit=1)[0].split("/")[0]
    namespace = net.r1 if router == "r1" else net.r2
    return any(address.split("/")[0] == text for address in namespace.addresses("eth0"))


def only_owner(net: Net, router: str, mode: str) -> None:
    other = "r2" if router == "r1" else "r1"
    wait_until(
        lambda: owns(net, router, mode) and not owns(net, other, mode),
        timeout_s=12,
        what=f"{router} alone has the address",
    )


@pytest.mark.parametrize("mode", MODES)
def test_each_side_is_master_in_turn(net: Net, mode: str) -> None:
    net.record()
    theirs = net.theirs(config(mode, "r2", 150))
    ours = net.ours(config(mode, "r1", 200))
    theirs.start()
    only_owner(net, "r2", mode)
    ours.start()  # better: takes over from keepalived
    only_owner(net, "r1", mode)
    ours.stop()  # priority 0: keepalived follows within its skew time
    resigned = time.monotonic()
    only_owner(net, "r2", mode)
    assert time.monotonic() - resigned < 1.5
    ours.start()
    only_owner(net, "r1", mode)
    theirs.stop()
    ours.reload(config(mode, "r1", 100))
    theirs.start()  # now keepalived is better
    only_owner(net, "r2", mode)
    theirs.stop()  # its priority 0
    only_owner(net, "r1", mode)
    assert net.wrong_packets() == [], ours.log()[-3000:]


def test_nopreempt_waits_for_the_peer_to_die(net: Net) -> None:
    theirs, ours = net.theirs(config("v3", "r2", 150)), net.ours(config("v3", "r1", 200, "nopreempt"))
    theirs.start()
    only_owner(net, "r2", "v3")
    ours.start()
    wait_until(lambda: ours.has_logged("Entering BACKUP STATE"), what="our start")
    time.sleep(2)  # five times our master-down time: nothing may happen
    only_owner(net, "r2", "v3")
    theirs.kill()
    wait_until(lambda: owns(net, "r1", "v3"), what="our takeover")


def test_the_killed_master_is_followed_by_keepalived(net: Net) -> None:
    theirs, ours = net.theirs(config("v3", "r2", 150)), net.ours(config("v3", "r1", 200))
    theirs.start()
    ours.start()
    only_owner(net, "r1", "v3")
    ours.kill()
    only_owner(net, "r2", "v3")  # the lease has taken the address away from r1, nobody else did


def test_why_names_the_silent_peer(net: Net) -> None:
    theirs, ours = net.theirs(config("v3", "r2", 200)), net.ours(config("v3", "r1", 100))
    theirs.start()
    only_owner(net, "r2", "v3")
    ours.start()
    wait_until(lambda: ours.has_logged("Entering BACKUP STATE"), what="our start")
    time.sleep(1)
    theirs.kill()
    wait_until(lambda: owns(net, "r1", "v3"), what="our takeover")
    told = ours.holdfast("why", "V", "--limit", "1")
    assert "became MASTER on r1" in told
    assert "10.0.0.2 fell silent" in told


def test_status_tells_the_owner_and_the_kernel_agrees(net: Net) -> None:
    ours = net.ours(config("v3", "r1", 200))
    ours.start()
    wait_until(lambda: owns(net, "r1", "v3"), what="our takeover")
    wait_until(lambda: "MASTER" in ours.holdfast("status", "vrrp"), what="status")
    ours.stop()
    assert not owns(net, "r1", "v3")
