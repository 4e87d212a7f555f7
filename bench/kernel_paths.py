"""What the paths to the kernel cost: netlink batches, packets, announcements, deadlines.

    python bench/kernel_paths.py [--rounds N]          # as root; makes two namespaces and removes them

Prints the median and 99th percentile of each. For comparison stand beside them what asyncio's own timers, plain
`sendto` and pyroute2's one call an address do on the same machine in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from netns import Lab

from holdfast.kernel.announce import Announcer, advertisement_frame, arp_frame
from holdfast.kernel.base import AddressSpec
from holdfast.kernel.instant import Instant
from holdfast.kernel.links import LinkTable
from holdfast.kernel.netlink import Netlink
from holdfast.kernel.packets import VrrpSocket
from holdfast.kernel.timers import DeadlineHeap, monotonic

ADDRESSES = 200
PACKETS = 64
MAC = bytes.fromhex("020000000001")


def show(what: str, values: Sequence[float], unit: str) -> None:
    """One line: median and p99."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    print(f"{what:58} {statistics.median(ordered):10.2f} {p99:10.2f}  {unit}", flush=True)


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def specs(family: int) -> list[AddressSpec]:
    """The virtual addresses of the measurement."""
    if family == 4:
        return [AddressSpec(address=f"10.9.{n >> 8}.{n & 255}", prefix=32) for n in range(1, ADDRESSES + 1)]
    return [AddressSpec(address=f"fd00:9::{n:x}", prefix=128) for n in range(1, ADDRESSES + 1)]


def measure_addresses(netlink: Netlink, links: LinkTable, ifindex: int, family: int, rounds: int) -> None:
    """Encode, add, renew, remove, and take the notifications in."""
    wanted = specs(family)
    encode: list[float] = []
    for _ in range(rounds):
        batch = netlink.batch()

        def fill(batch: object = batch) -> None:
            for spec in wanted:
                batch.address(spec, ifindex)  # type: ignore[attr-defined]

        encode.append(timed(fill) / ADDRESSES * 1e6)
    add, renew, remove = netlink.batch(), netlink.batch(), netlink.batch()
    for spec in wanted:
        add.address(spec, ifindex, valid_lft_s=60)
        renew.address(spec, ifindex, valid_lft_s=60)
        remove.address(spec, ifindex, remove=True)
    figures: dict[str, list[float]] = {name: [] for name in ("add", "acks", "renew", "remove", "events")}
    for _ in range(rounds):
        figures["add"].append(timed(lambda: netlink.send(add)) * 1e3)
        figures["acks"].append(timed(lambda: _none(netlink.collect(add))) * 1e3)
        figures["events"].append(timed(links.drain) / ADDRESSES * 1e6)
        figures["renew"].append(timed(lambda: _none(netlink.run(renew))) * 1e3)
        links.drain()
        figures["remove"].append(timed(lambda: _none(netlink.run(remove))) * 1e3)
        links.drain()
    show(f"IPv{family}: encode one address", encode, "us")
    show(f"IPv{family}: {ADDRESSES} addresses put on the interface", figures["add"], "ms")
    show(f"IPv{family}: their acks read", figures["acks"], "ms")
    show(f"IPv{family}: {ADDRESSES} leases renewed", figures["renew"], "ms")
    show(f"IPv{family}: {ADDRESSES} addresses removed", figures["remove"], "ms")
    show(f"IPv{family}: one address notification taken in", figures["events"], "us")


def measure_pyroute2(ifindex: int, rounds: int) -> None:
    """The ordinary way: one call an address."""
    from pyroute2 import IPRoute  # noqa: PLC0415 - 150 ms, and only for this

    values = []
    with IPRoute() as route:
        for _ in range(max(1, rounds // 10)):
            for spec in specs(4)[:50]:
                start = time.perf_counter()
                route.addr("add", index=ifindex, address=spec.address, prefixlen=32)
                values.append((time.perf_counter() - start) * 1e6)
            for spec in specs(4)[:50]:
                route.addr("delete", index=ifindex, address=spec.address, prefixlen=32)
    show("pyroute2, one call an address", values, "us")


def measure_packets(out: VrrpSocket, into: VrrpSocket, rounds: int) -> None:
    """Adverts sent and received in batches, and sent one by one."""
    message = bytes((0x31, 7, 100, 1, 0, 100, 0, 0, 10, 0, 0, 9))
    source, group = socket.inet_aton("10.0.0.1"), socket.inet_aton("224.0.0.18")
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0xC0, 20 + len(message), 1, 0, 255, 112, 0, source, group)
    destination = out.destination("224.0.0.18")
    messages = [(header + message, destination)] * PACKETS
    sent, heard = [], []
    for _ in range(rounds * 5):
        sent.append(timed(lambda: _none(out.send_many(messages))) / PACKETS * 1e6)
        heard.append(timed(into.receive) / PACKETS * 1e6)
    show(f"advert sent, {PACKETS} a call (with delivery on the same CPU)", sent, "us")
    show(f"advert received, {PACKETS} a call", heard, "us")
    plain = socket.socket(fileno=socket.dup(out.fileno()))
    single = []
    for _ in range(rounds):
        single.append(
            timed(lambda: [plain.sendto(header + message, ("224.0.0.18", 0)) for _ in range(PACKETS)]) / PACKETS * 1e6
        )
        into.receive()
    show("advert sent, sendto one by one", single, "us")
    plain.close()


def measure_announcements(announcer: Announcer, ifindex: int, rounds: int) -> None:
    """Gratuitous ARPs and neighbour advertisements."""
    arp = announcer.prepare([(ifindex, arp_frame(MAC, spec.address)) for spec in specs(4)])
    advertisements = [(ifindex, advertisement_frame(MAC, spec.address, router=False)) for spec in specs(6)]
    neighbours = announcer.prepare(advertisements)
    for what, frames in (("gratuitous ARPs", arp), ("neighbour advertisements", neighbours)):
        values = []
        for _ in range(rounds):
            start = time.perf_counter()
            errors = announcer.send(frames)
            values.append((time.perf_counter() - start) * 1e3)
            _none(errors)
        show(f"{ADDRESSES} {what} in one call", values, "ms")


async def lateness(heap: bool, waits: int, interval_s: float = 0.0073) -> list[float]:
    """Microseconds after a timer's instant, by the cell's heap or by the loop's own timer."""
    loop = asyncio.get_running_loop()
    deadlines = DeadlineHeap(loop)
    late: list[float] = []
    for _ in range(waits):
        done = loop.create_future()
        at = monotonic() + round(interval_s * 1e9)

        def fire(_: object = None, at: int = at, done: asyncio.Future[None] = done) -> None:
            late.append((monotonic() - at) / 1000)
            done.set_result(None)

        if heap:
            deadlines.set("timer", Instant(at), fire)
        else:
            loop.call_at(loop.time() + interval_s, fire)
        await done
    deadlines.close()
    return late


def measure_deadlines(rounds: int) -> None:
    """The lateness of a timer of 7.3 ms, and what moving a deadline costs."""
    waits = rounds * 8
    for name, make in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
        for heap in (False, True):
            loop = make()
            values = loop.run_until_complete(lateness(heap, waits))
            loop.close()
            show(f"a timer of 7.3 ms is late: {name}, {'timerfd heap' if heap else 'call_at'}", values, "us")
    loop = asyncio.new_event_loop()
    deadlines = DeadlineHeap(loop)

    def nothing(_: Instant) -> None:
        """Never due here."""

    base = monotonic() + 3600 * 10**9
    for key in range(10_000):
        deadlines.set(key, Instant(base + key), nothing)

    def move() -> None:
        for key in range(10_000):
            deadlines.set(key, Instant(base + key + 10**9), nothing)

    show("moving one of 10,000 deadlines", [timed(move) / 10_000 * 1e6 for _ in range(rounds)], "us")
    deadlines.close()
    loop.close()


def _none(errors: Sequence[object]) -> None:
    assert not errors, errors[:3]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="repetitions of each measurement")
    rounds: int = parser.parse_args().rounds
    gc.collect()
    gc.freeze()
    gc.disable()
    print(f"{'':58} {'median':>10} {'p99':>10}")
    with Lab() as lab:
        a, b = lab.namespace("a"), lab.namespace("b")
        lab.veth(a, "eth0", b, "eth0")
        a.ip("addr add 10.0.0.1/24 dev eth0")
        b.ip("addr add 10.0.0.2/24 dev eth0")
        with b.enter():
            into = VrrpSocket("eth0", 4, groups=["224.0.0.18"])
        with a.enter():
            links = LinkTable()
            netlink = Netlink(links.ifindex, links.name)
            out = VrrpSocket("eth0", 4)
            ifindex = links.ifindex("eth0")
            for family in (4, 6):
                measure_addresses(netlink, links, ifindex, family, rounds)
            measure_pyroute2(ifindex, rounds)
            measure_packets(out, into, rounds)
            measure_announcements(Announcer(), ifindex, rounds)
    measure_deadlines(rounds)


if __name__ == "__main__":
    main()
