"""Events through one gateway to subscribers on another host: how many, how late, how large.

    .venv/bin/python bench/bus/gateway.py [--subscribers 1,10,100] [--seconds 5]

Two namespaces: a whole daemon in one, all subscribers in the other. A cell of its own publishes (source.py), the
gateway relays with CURVE, the subscribers (subscriber.py) check that none is missing. Everything shares this machine's
processors, the subscribers' decryption too, so with many of them the figure is the machine's and not the gateway's;
beside it stands the gateway's own processor time for each event. Root. Writes docs/bench-bus.md with --write.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from cluster import PORT, Cluster, until  # noqa: E402
from netns import NetNs  # noqa: E402

from holdfast.bus import keys  # noqa: E402

RATES = (500, 1000, 2000, 4000, 8000, 12000, 16000, 24000, 32000)
PER_PROCESS = 25
TICKS = os.sysconf("SC_CLK_TCK")


def processor_s(pid: int) -> float:
    """User and system time of a process so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


def sent_bytes(space: NetNs) -> tuple[int, int]:
    """(bytes, packets) that left over the bus network."""
    text = json.loads(space.ip("-s -j link show dev bus0"))[0]["stats64"]["tx"]
    return int(text["bytes"]), int(text["packets"])


def run(cluster: Cluster, subscribers: int, rate: float, seconds: float) -> dict[str, Any]:
    """One measurement."""
    node = cluster.nodes[0]
    key = cluster.folder / "eye.key"
    shares = [min(PER_PROCESS, subscribers - start) for start in range(0, subscribers, PER_PROCESS)]
    readers = [
        cluster.outside.popen(
            [
                *(sys.executable, str(HERE / "subscriber.py"), f"tcp://{node.address}:{PORT}"),
                *(node.key.public, str(key), str(share), f"{node.name}/bench/"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for share in shares
    ]
    for each in readers:
        assert each.stdout is not None
        assert each.stdout.readline() == b"ready\n"
    words = (sys.executable, str(HERE / "source.py"), str(node.run_dir), node.name, str(rate), str(seconds))
    source = node.space.popen(list(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert source.stdin is not None and source.stdout is not None
    assert source.stdout.readline() == b"ready\n"
    time.sleep(1.0)  # the gateway joins the new cell
    pid = node.pid_of("gateway")
    cpu, (size, packets) = processor_s(pid), sent_bytes(node.space)
    source.stdin.write(b"\n")
    source.stdin.flush()
    sent = int(source.stdout.readline())
    cpu = processor_s(pid) - cpu
    time.sleep(0.5)
    after, packets_after = sent_bytes(node.space)
    figures = []
    for each in readers:
        assert each.stdin is not None and each.stdout is not None
        each.stdin.write(b"\n")
        each.stdin.flush()
        figures.append(json.loads(each.stdout.readline()))
        each.wait(10)
    source.stdin.write(b"\n")
    source.stdin.flush()
    source.wait(10)
    received = sum(each["received"] for each in figures)
    worst = max(figures, key=lambda each: each["p99"] or 0)
    return {
        "subscribers": subscribers,
        "offered": rate,
        "sent": sent,
        "received": received,
        "lost": sent * subscribers - received,
        "cpu_us": cpu / max(sent, 1) * 1e6,
        "frame": figures[0]["frame"],
        "wire": (after - size) / max(received, 1),
        "packets": (packets_after - packets) / max(received, 1),
        **{name: worst[name] for name in ("p50", "p90", "p99", "p999", "max")},
    }


def highest(cluster: Cluster, subscribers: int, seconds: float) -> dict[str, Any]:
    """The highest of RATES at which nobody misses anything."""
    best: dict[str, Any] = {}
    for rate in RATES:
        found = run(cluster, subscribers, rate, seconds)
        print(found, flush=True)
        if found["lost"] or found["sent"] < 0.95 * rate * seconds:
            break
        best = found
    return best


def main() -> None:
    """Measures and prints; --write makes the page."""
    words = argparse.ArgumentParser()
    words.add_argument("--subscribers", default="1,10,100")
    words.add_argument("--seconds", type=float, default=5.0)
    words.add_argument("--write", type=Path)
    given = words.parse_args()
    counts = [int(each) for each in given.subscribers.split(",")]
    with Cluster(1, {"eye": "viewer"}) as cluster:
        keys.write(cluster.clients["eye"][0], cluster.folder / "eye.key")
        cluster.start()
        until(lambda: cluster.nodes[0].cluster_view()["nodes"], 20)
        quiet = [run(cluster, count, 1000, given.seconds) for count in counts]
        for each in quiet:
            print(each, flush=True)
        loud = [highest(cluster, count, given.seconds) for count in counts]
    if given.write:
        given.write.write_text(page(quiet, loud))


def page(quiet: list[dict[str, Any]], loud: list[dict[str, Any]]) -> str:
    """docs/bench-bus.md."""
    cores = os.cpu_count()
    load = os.getloadavg()[0]
    lines = [
        "# The bus, measured",
        "",
        "A whole daemon in one network namespace, subscribers in another, CURVE between them; a cell that publishes",
        "priority changes over a hundred topics. Each subscriber checks the numbers of what it gets.",
        f"{cores} cores ({platform.machine()}), shared by everything here, subscribers and their decryption too;",
        f"load average at the end {load:.1f}.",
        "Made by `.venv/bin/python bench/bus/gateway.py --write docs/bench-bus.md`.",
        "",
        "## At 1,000 events a second",
        "",
        "From the publishing cell to a subscriber on another host, microseconds; of several processes the slowest.",
        "",
        "| subscribers | lost | p50 | p90 | p99 | p99.9 | worst | gateway's processor time for an event |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in quiet:
        times = " | ".join(str(each[name]) for name in ("p50", "p90", "p99", "p999", "max"))
        lines.append(f"| {each['subscribers']} | {each['lost']} | {times} | {each['cpu_us']:.0f} us |")
    lines += [
        "",
        "## As many as go through",
        "",
        f"The highest of the rates {', '.join(str(rate) for rate in RATES)} at which no subscriber missed anything.",
        "",
        "| subscribers | events/s | deliveries/s | gateway's processor time for an event |",
        "|---|---|---|---|",
    ]
    for count, each in zip((each["subscribers"] for each in quiet), loud, strict=True):
        if each:
            rate = int(each["offered"])
            lines.append(f"| {count} | {rate} | {rate * count} | {each['cpu_us']:.0f} us |")
        else:
            lines.append(f"| {count} | under {RATES[0]} | | |")
    first = quiet[0]
    lines += [
        "",
        "## Bytes",
        "",
        f"An event of this kind is {first['frame']:.0f} bytes with its topic; on the wire (CURVE, TCP, Ethernet) "
        f"{first['wire']:.0f} bytes in {first['packets']:.2f} packets at 1,000 a second for one subscriber.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
