"""Takeover and release with 1, 20 and 200 addresses beside keepalived.

    python bench/vrrp_takeover.py [--rounds N] [--json FILE]

One instance against an observer that resigns and appears as a better master: from the new master's first advert to the
last address's first gratuitous ARP (taken), and from the observer's better advert until the kernel has none of the
addresses any more (released), in milliseconds.
"""

from __future__ import annotations

import argparse
import socket
import struct
import time
from pathlib import Path
from statistics import median

from lab import Lab, NetNs, Router, Wire, bench_folder, finish, instance, summary, table, wait_until

COUNTS = (1, 20, 200)


def better_master(namespace: NetNs, addresses: list[str], seconds: float) -> int:
    """Advertises priority 254 for a while; the wall clock in ns at the first advert."""
    with namespace.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        own = socket.inet_aton("10.0.0.9")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
    body = b"".join(socket.inet_aton(address) for address in addresses)
    packet = struct.pack("!BBBBHH", 0x31, 1, 254, len(addresses), 100, 0) + body
    pseudo = own + socket.inet_aton("224.0.0.18") + struct.pack("!BBH", 0, 112, len(packet))
    total = sum(struct.unpack(f"!{(len(pseudo) + len(packet)) // 2}H", pseudo + packet))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    packet = packet[:6] + struct.pack("!H", ~total & 0xFFFF) + packet[8:]
    at = time.time_ns()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sock.sendto(packet, ("224.0.0.18", 0))
        time.sleep(0.3)
    sock.close()
    return at


def measure(program: str, folder: Path, count: int) -> tuple[float, float]:
    """(taken, released) in ms."""
    addresses = [f"10.0.{1 + number // 250}.{1 + number % 250}" for number in range(count)]
    with Lab() as lab:
        router, observer = lab.namespace("r"), lab.namespace("o")
        switch = lab.switch("sw", [(router, "eth0"), (observer, "eth0")])
        router.ip("addr add 10.0.0.1/24 dev eth0")
        observer.ip("addr add 10.0.0.9/24 dev eth0")
        wire = Wire(switch, "p0")
        daemon = Router(program, router, instance("V", 1, 100, [f"{address}/32" for address in addresses]), folder)
        try:
            since = daemon.start()
            wait_until(
                lambda: len({each.what for each in wire.garps(since)}) == count, timeout_s=30, what="all announced"
            )
            first = wire.adverts(since)[0].at
            firsts: dict[object, int] = {}
            for each in wire.garps(since):
                firsts.setdefault(each.what, each.at)
            taken = (max(firsts.values()) - first) / 1e6
            time.sleep(1.0)
            removed = watch_removals(router, count, lambda: better_master(observer, addresses, 2.0))
            return taken, removed
        finally:
            wire.close()


def watch_removals(namespace: NetNs, count: int, trigger: object) -> float:
    """From the trigger's instant until the kernel has told the removal of `count` addresses, ms."""
    import threading  # noqa: PLC0415

    with namespace.enter():
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        sock.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)
        sock.bind((0, 0x10))  # RTMGRP_IPV4_IFADDR
    sock.settimeout(10)
    started: list[int] = []
    thread = threading.Thread(target=lambda: started.append(trigger()))  # type: ignore[operator]
    thread.start()
    gone = 0
    at = 0
    while gone < count:
        data = sock.recv(65536)
        at = time.time_ns()
        offset = 0
        while offset + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, offset)
            gone += kind == 21  # RTM_DELADDR
            offset += (length + 3) & ~3
    thread.join()
    sock.close()
    return (at - started[0]) / 1e6


def main() -> None:
    """The programs in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args()
    programs = ("keepalived", "holdfast")
    figures: dict[str, dict[str, list[float]]] = {}
    with bench_folder() as folder:
        for count in COUNTS:
            for _ in range(options.rounds):
                for program in programs:
                    taken, released = measure(program, folder, count)
                    figures.setdefault(f"{count} taken", {}).setdefault(program, []).append(taken)
                    figures.setdefault(f"{count} released", {}).setdefault(program, []).append(released)
    rows = []
    for what, found in figures.items():
        ratio = median(found["holdfast"]) / median(found["keepalived"])
        rows.append([what, *(summary(found[program]) for program in programs), f"{ratio:.3f}"])
    print(table(["addresses, ms", *programs, "ratio of medians"], rows))
    finish("vrrp_takeover", figures, options.json)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
