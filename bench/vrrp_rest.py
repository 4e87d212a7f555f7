"""Memory and CPU at rest with 1 and 100 instances beside keepalived (advert 1 s, one address each, all MASTER).

python bench/vrrp_rest.py [--seconds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from lab import Lab, Router, Wire, bench_folder, cpu_s, finish, instance, pss_mib, table, wait_until


def measure(program: str, folder: Path, count: int, seconds: float) -> tuple[float, float, int]:
    """(PSS in MiB, CPU in percent of a core, processes)."""
    config = "".join(instance(f"V{n}", n, 100, [f"10.0.1.{n}/32"]) for n in range(1, count + 1))
    with Lab() as lab:
        router, other = lab.namespace("r"), lab.namespace("o")
        switch = lab.switch("sw", [(router, "eth0"), (other, "eth0")])
        router.ip("addr add 10.0.0.1/24 dev eth0")
        wire = Wire(switch, "p0")
        daemon = Router(program, router, config, folder)
        try:
            since = daemon.start()
            wait_until(
                lambda: len({each.what for each in wire.adverts(since)}) == count, timeout_s=30, what="all MASTER"
            )
            time.sleep(6)
            pids = daemon.pids()
            before = cpu_s(pids)
            time.sleep(seconds)
            used = cpu_s(pids) - before
            return pss_mib(pids), 100 * used / seconds, len(pids)
        finally:
            wire.close()


def main() -> None:
    """The programs in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--json")
    options = parser.parse_args()
    rows = []
    figures: dict[str, object] = {}
    with bench_folder() as folder:
        for count in (1, 100):
            for program in ("keepalived", "holdfast"):
                pss, cpu, processes = measure(program, folder, count, options.seconds)
                figures[f"{program} {count}"] = {"pss_mib": pss, "cpu_percent": cpu, "processes": processes}
                rows.append([str(count), program, f"{pss:.1f}", f"{cpu:.2f}", str(processes)])
    print(table(["instances", "program", "PSS, MiB", "CPU, % of a core", "processes"], rows))
    finish("vrrp_rest", figures, options.json)


if __name__ == "__main__":
    main()
