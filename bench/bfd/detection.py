"""How much later than the detection time a dead neighbour is noticed: the first Down packet on the wire.

    python bench/bfd/detection.py [--timers 50x3,10x3,3.3x3] [--sessions 1] [--cuts 10] [--programs ...] [--realtime]

The far end (the same program) is frozen with SIGSTOP. A figure is: first packet with state Down and diagnostic 1, less
the last packet that came for that session, less multiplier x interval; in milliseconds.
"""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path

from routers import DOWN, PROGRAMS, UP, Cable, Lab, Tap, bench_folder, finish, missing, summary, table


def notice(cable: Cable, limit_ns: int) -> list[float]:
    """Freezes the far end once; the lateness of each session."""
    tap = Tap(cable.a)
    time.sleep(0.3)
    cable.second.signal(signal.SIGSTOP)
    frozen = time.time_ns()
    end = time.monotonic() + limit_ns / 1e9 + 2
    while time.monotonic() < end:
        time.sleep(0.02)
        downs = {each.session for each in list(tap.packets) if each.sent and each.state == DOWN and each.at > frozen}
        if len(downs) >= cable.count:
            break
    last: dict[bytes, int] = {}
    first: dict[bytes, int] = {}
    for each in tap.packets:
        if not each.sent:
            last[each.session] = each.at
        elif each.state == DOWN and each.diagnostic == 1 and each.at > frozen:
            first.setdefault(each.session, each.at)
    cable.second.signal(signal.SIGCONT)
    back = time.monotonic() + 15
    begun = time.time_ns()
    while time.monotonic() < back:
        time.sleep(0.05)
        ups = {each.session for each in list(tap.packets) if each.at > begun and each.state == UP and each.sent}
        heard = {each.session for each in list(tap.packets) if each.at > begun and each.state == UP and not each.sent}
        if min(len(ups), len(heard)) >= cable.count:
            break
    time.sleep(0.5)
    tap.close()
    return [(first[number] - last[number] - limit_ns) / 1e6 for number in first if number in last]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timers", default="50x3,10x3,3.3x3")
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--realtime", action="store_true", help="every program with SCHED_FIFO 20")
    parser.add_argument("--json")
    options = parser.parse_args()
    rows, figures = [], {}
    for timer in options.timers.split(","):
        ms, mult = float(timer.split("x")[0]), int(timer.split("x")[1])
        for name in options.programs.split(","):
            if name in missing() or (name == "frr" and ms < 10):
                rows.append([timer, name, "not possible", ""])
                continue
            with Lab() as lab, bench_folder() as folder:
                cable = Cable(lab, name, options.sessions, ms, mult, Path(folder))
                cable.first.realtime = cable.second.realtime = options.realtime
                late: list[float] = []
                if cable.start(20):
                    time.sleep(1)
                    for _ in range(options.cuts):
                        late += notice(cable, int(ms * mult * 1e6))
                cable.stop()
            rows.append([timer, name, summary(late), str(len(late))])
            figures[f"{timer} {name}"] = late
            print(*rows[-1], flush=True)
    print(table(["timer", "program", "late, ms: median (min .. max)", "n"], rows))
    finish("bfd-detection", figures, options.json)


if __name__ == "__main__":
    main()
