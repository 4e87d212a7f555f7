"""How many sessions a program holds on one core without a false Down.

    python bench/bfd/capacity.py [--timer 50x3] [--counts 200,500,1000,2000,3000,5000] [--seconds 20] [--programs ...]

End A runs on core 0, end B (the same program) on core 1, both with SCHED_FIFO unless --ordinary. Counts are tried in
order until one is not held: not all sessions Up in time, or any packet that is not Up within the seconds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from routers import PROGRAMS, Cable, Lab, Tap, bench_folder, cpu_s, finish, missing, table


def held(cable: Cable, seconds: float, limit_s: float) -> tuple[bool, str]:
    """Whether all sessions come and stay Up, and with how much of a core."""
    if not cable.start(limit_s):
        return False, "not all came Up"
    time.sleep(2)
    tap = Tap(cable.a, not_up=True)
    cpu, packets = cpu_s(cable.first.pids()), cable.counters()
    time.sleep(seconds)
    cpu, packets = cpu_s(cable.first.pids()) - cpu, cable.counters() - packets
    tap.close()
    lost = len({each.session for each in tap.packets})
    share = f"{cpu / seconds:.2f} of the core, {packets / seconds:.0f} packets/s"
    return lost == 0, f"{lost} sessions not Up, {share}" if lost else share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timer", default="50x3")
    parser.add_argument("--counts", default="200,500,1000,2000,3000,5000")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--limit", type=float, default=40, help="most seconds until all are Up")
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--ordinary", action="store_true", help="no real-time priority")
    parser.add_argument("--json")
    options = parser.parse_args()
    ms, mult = float(options.timer.split("x")[0]), int(options.timer.split("x")[1])
    rows, figures = [], {}
    for name in options.programs.split(","):
        if name in missing():
            continue
        for count in (int(each) for each in options.counts.split(",")):
            with Lab() as lab, bench_folder() as folder:
                cable = Cable(lab, name, count, ms, mult, Path(folder))
                cable.first.core, cable.second.core = 0, 1
                cable.first.realtime = cable.second.realtime = not options.ordinary
                fine, words = held(cable, options.seconds, options.limit)
                cable.stop()
            rows.append([name, str(count), "held" if fine else "not held", words])
            figures[f"{name} {count}"] = fine
            print(*rows[-1], flush=True)
            if not fine:
                break
    print(table(["program", "sessions", "result", "seen"], rows))
    finish("bfd-capacity", figures, options.json)


if __name__ == "__main__":
    main()
