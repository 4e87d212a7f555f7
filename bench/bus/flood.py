"""What a flood on a gateway's ports does to its node's VRRP adverts.

    .venv/bin/python bench/bus/flood.py [--rounds 4] [--seconds 15]

Three nodes; a stranger sends random bytes and half greetings at full rate to both ports of the master from four
processes. How late each advert is against the one before, by the kernel's time: when it leaves the node's interface,
and when it arrives at another host (the way there is two virtual cables and a bridge on the same processors). Quiet
and flooded in turn, with and without `vrrp_rt_priority`. Flood, gateway and protocol share this machine. Root.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "kernel")]

from cluster import PORT, Cluster, until  # noqa: E402
from netns import NetNs  # noqa: E402
from test_gateway_strangers import FLOOD  # noqa: E402

ADVERT_S = 0.1


class Watch:
    """Adverts of the master, as they pass an interface in one namespace."""

    def __init__(self, space: NetNs) -> None:
        script = str(ROOT / "tests" / "kernel" / "advert_times.py")
        self.process = space.popen([sys.executable, script, "lan0", "10.90.1.1"], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def late_ms(self) -> list[float]:
        """How much later than an interval after the one before each came; ends the watch."""
        self.process.terminate()
        out, _ = self.process.communicate(timeout=10)
        times = [int(line) for line in out.split()]
        return [(after - before) / 1e6 - ADVERT_S * 1000 for before, after in itertools.pairwise(times)]


def watched_ms(cluster: Cluster, seconds: float) -> tuple[list[float], list[float]]:
    """(when they leave, when they arrive) for so long."""
    leaving, arriving = Watch(cluster.nodes[0].space), Watch(cluster.outside)
    time.sleep(seconds)
    return leaving.late_ms(), arriving.late_ms()


def flooded_ms(cluster: Cluster, seconds: float) -> tuple[tuple[list[float], list[float]], int]:
    """The same under a flood; bytes that the flood got rid of."""
    node = cluster.nodes[0]
    floods = [
        cluster.outside.popen(
            [sys.executable, "-c", FLOOD, node.address, str(port), str(seconds + 2), kind], stdout=subprocess.PIPE
        )
        for port in (PORT, PORT + 1)
        for kind in ("noise", "greeting")
    ]
    time.sleep(0.5)
    late = watched_ms(cluster, seconds)
    return late, sum(int(each.communicate(timeout=30)[0].split()[1]) for each in floods)


def shown(values: list[float]) -> dict[str, float]:
    """Percentiles."""
    ordered = sorted(values)
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "worst": 1.0}
    found = {name: round(ordered[min(len(ordered) - 1, int(len(ordered) * at))], 3) for name, at in places.items()}
    return {"adverts": len(ordered), **found}


def main() -> None:
    """Prints a line for each setting."""
    words = argparse.ArgumentParser()
    words.add_argument("--rounds", type=int, default=4)
    words.add_argument("--seconds", type=float, default=15.0)
    given = words.parse_args()
    for realtime in (True, False):
        with Cluster(3) as cluster:
            for node in cluster.nodes:
                node.advert_s = ADVERT_S
                node.more_config = "global_defs {\n vrrp_rt_priority 50\n}\n" if realtime else ""
            cluster.start()
            cluster.until_joined()
            until(lambda made=cluster: made.nodes[0].owners().get("owners") == ["lb1"], 20)
            found: dict[str, list[float]] = {}
            sent = 0
            for _ in range(given.rounds):
                calm = watched_ms(cluster, given.seconds)
                loud, size = flooded_ms(cluster, given.seconds)
                sent += size
                for name, pair in (("quiet", calm), ("flood", loud)):
                    found.setdefault(f"{name}_leaving_ms", []).extend(pair[0])
                    found.setdefault(f"{name}_arriving_ms", []).extend(pair[1])
            line = {"realtime": realtime, "flood_mb": sent // 10**6}
            print(json.dumps({**line, **{name: shown(values) for name, values in found.items()}}), flush=True)


if __name__ == "__main__":
    main()
