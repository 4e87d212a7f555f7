"""CPU for 1,000 packets and memory for a session, at 10, 100, 500 and 2,000 sessions.

    python bench/bfd/cost.py [--sessions 10,100,500,2000] [--timer 50x3] [--seconds 5] [--programs ...] [--realtime]

Both ends run the same program; the figures are those of end A with all its processes: CPU time (schedstat) over
packets sent and received, sessions that were not Up on the wire in that time, proportional memory (PSS).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from routers import PROGRAMS, Cable, Lab, Tap, bench_folder, cpu_s, finish, missing, pss_mib, table


def measure(cable: Cable, seconds: float) -> dict[str, float]:
    """Over so many seconds of steady traffic."""
    time.sleep(1.5)
    tap = Tap(cable.a, not_up=True)
    cpu, packets, at = cpu_s(cable.first.pids()), cable.counters(), time.monotonic()
    time.sleep(seconds)
    cpu, packets, wall = (
        cpu_s(cable.first.pids()) - cpu,
        cable.counters() - packets,
        time.monotonic() - at,
    )
    tap.close()
    return {
        "ms_per_1000": cpu * 1e6 / packets if packets else 0.0,
        "cores": cpu / wall,
        "packets_per_s": packets / wall,
        "sessions_not_up": float(len({each.session for each in tap.packets})),
        "pss_mib": pss_mib(cable.first.pids()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", default="10,100,500,2000")
    parser.add_argument("--timer", default="50x3")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--realtime", action="store_true", help="every program with SCHED_FIFO 20")
    parser.add_argument("--json")
    options = parser.parse_args()
    ms, mult = float(options.timer.split("x")[0]), int(options.timer.split("x")[1])
    rows, figures = [], {}
    for count in (int(each) for each in options.sessions.split(",")):
        for name in options.programs.split(","):
            if name in missing():
                continue
            with Lab() as lab, bench_folder() as folder:
                cable = Cable(lab, name, count, ms, mult, Path(folder))
                cable.first.realtime = cable.second.realtime = options.realtime
                up = cable.start(10 + count / 100)
                found = measure(cable, options.seconds)
                cable.stop()
            figures[f"{count} {name}"] = found
            rows.append(
                [
                    str(count),
                    name if up else f"{name} (not all came Up)",
                    f"{found['ms_per_1000']:.1f}",
                    f"{found['cores']:.3f}",
                    f"{found['packets_per_s']:.0f}",
                    f"{found['sessions_not_up']:.0f}",
                    f"{found['pss_mib']:.1f}",
                ]
            )
            print(*rows[-1], flush=True)
    print(table(["sessions", "program", "CPU ms / 1,000 packets", "cores", "packets/s", "not Up", "PSS MiB"], rows))
    finish("bfd-cost", figures, options.json)


if __name__ == "__main__":
    main()
