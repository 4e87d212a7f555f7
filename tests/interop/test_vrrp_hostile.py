"""A stranger on the wire: random and mutated packets at full rate. Counted by kind; nothing moves, nothing grows."""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns import Lab, NetNs, wait_until
from pair import Daemon, Net
from wire import Wire

pytestmark = [pytest.mark.netns]

PACKETS = 100_000
ADVERT_S = 1.0
CONFIG = f"""
vrrp_instance V {{
  interface eth0
  version 3
  virtual_router_id 51
  priority 200
  advert_int {ADVERT_S}
  virtual_ipaddress {{ 10.0.0.100/24 }}
}}
"""


@pytest.fixture
def net(short_folder: Path) -> Iterator[Net]:
    with Lab() as lab:
        yield Net(lab, short_folder)


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def advert(version: int = 3, vrid: int = 51, priority: int = 254, *, seal: bool = True) -> bytes:
    source, group, address = (socket.inet_aton(text) for text in ("10.0.0.66", "224.0.0.18", "10.0.0.100"))
    message = struct.pack("!BBBBHH", version << 4 | 1, vrid, priority, 1, 30, 0) + address
    pseudo = source + group + struct.pack("!BBH", 0, 112, len(message)) if version == 3 else b""
    return message[:6] + struct.pack("!H", checksum(pseudo + message) if seal else 0xDEAD) + message[8:]


def hostile(chance: random.Random) -> tuple[bytes, int]:
    """(message, TTL): wrong checksum, length, version, TTL, authentication, type, or plain noise. Never a valid one."""
    match chance.randrange(8):
        case 0:
            return advert(seal=False), 255
        case 1:
            return advert()[: chance.randrange(1, 12)], 255
        case 2:
            return advert() + chance.randbytes(chance.randrange(40, 100)), 255  # less might be Ethernet padding
        case 3:
            return advert(version=2) + bytes(8), 255
        case 4:
            return advert(), chance.randrange(1, 255)
        case 5:
            return advert(version=chance.choice([0, 1, 4, 9, 15])), 255
        case 6:
            wrong = bytearray(advert())
            wrong[chance.choice([1, 3, 4, 6, 7, 8])] ^= chance.randrange(1, 256)
            return bytes(wrong), 255
        case _:
            return chance.randbytes(chance.randrange(0, 120)), 255


def flood(namespace: NetNs, seed: int) -> float:
    """Sends all of them as fast as this machine can; seconds it took."""
    chance = random.Random(seed)
    packets = [hostile(chance) for _ in range(2000)]
    with namespace.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.0.0.66"))
    ttl = 0
    began = time.monotonic()
    for number in range(PACKETS):
        message, wanted = packets[number % len(packets)]
        if wanted != ttl:
            ttl = wanted
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        sock.sendto(message, ("224.0.0.18", 0))
    sock.close()
    return time.monotonic() - began


def resident_kib(daemon: Daemon) -> int:
    cells = json.loads(daemon.holdfast("status", "cells", "--json"))["cells"]
    pid = next(cell["pid"] for cell in cells if cell["name"] == "protocol")
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def test_a_hundred_thousand_hostile_packets(net: Net) -> None:
    ours = net.ours(CONFIG)
    ours.start()
    wait_until(lambda: ours.has_logged("Entering MASTER STATE"), what="a master")
    net.r2.ip("addr add 10.0.0.66/24 dev eth0")
    wire = Wire(net.switch, "p0")
    flood(net.r2, seed=1)  # what is allocated once is allocated now
    before = resident_kib(ours)
    since = time.time_ns()
    took_s = flood(net.r2, seed=int(os.environ.get("HOSTILE_SEED", "2")))
    time.sleep(2 * ADVERT_S)
    state = json.loads(ours.holdfast("status", "vrrp", "--json"))["vrrp"][0]
    wire.close()
    assert state["state"] == "MASTER"
    assert ours.log().count("Entering") == 2, "BACKUP at the start, then MASTER, and nothing since"
    counts = {
        name: count for name, count in state["statistics"].items() if name.endswith(("err", "mismatch")) and count
    }
    assert {"packet_len_err", "ip_ttl_err", "version_err", "checksum_err"} <= set(counts), counts
    assert resident_kib(ours) - before < 4096
    times = [each.at / 1e9 for each in wire.adverts(since) if each.what == 51]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert len(gaps) > took_s / ADVERT_S / 2
    assert max(gaps) < 2 * ADVERT_S, f"largest gap {max(gaps):.3f} s while {PACKETS / took_s:.0f} packets/s came"
