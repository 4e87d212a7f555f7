"""Failover times of VRRP beside keepalived: SIGKILL, SIGTERM, link down; start to first advert.

    python bench/vrrp_failover.py [--rounds N] [--event EVENT] [--json FILE]

Two routers of the same program, priorities 200 and 100, advert 1 s, one address. A figure is the time from the event
(or from the dead master's last advert) to the new master's first advert, less the RFC's own timer, in milliseconds.
"""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path
from statistics import median

from lab import NS, Lab, Router, Wire, bench_folder, finish, instance, summary, table, wait_until

DOWN_S = 3 + 156 / 256
SKEW_S = 156 / 256
EVENTS = ("SIGKILL", "SIGTERM", "link down")


class Pair:
    """Two routers on a switch."""

    def __init__(self, lab: Lab, program: str, folder: Path) -> None:
        self.a, self.b = lab.namespace("a"), lab.namespace("b")
        self.switch = lab.switch("sw", [(self.a, "eth0"), (self.b, "eth0")])
        for number, namespace in enumerate((self.a, self.b), 1):
            namespace.ip(f"addr add 10.0.0.{number}/24 dev eth0")
        self.wires = Wire(self.switch, "p0"), Wire(self.switch, "p1")
        self.first = Router(program, self.a, instance("V", 1, 200, ["10.0.0.100/24"]), folder)
        self.second = Router(program, self.b, instance("V", 1, 100, ["10.0.0.100/24"]), folder)

    def start(self) -> float:
        """Both run, the first is MASTER, the second has heard it. Start to first advert of the first, ms."""
        at = self.first.start()
        self.second.start()
        wait_until(lambda: self.wires[0].adverts(at), timeout_s=20, what=f"a master\n{self.first.log()}")
        began = (self.wires[0].adverts(at)[0].at - at) / 1e6
        time.sleep(1.5)
        return began

    def takeover(self, event: int, timer_s: float, *, from_last_advert: bool) -> float:
        """Time beyond the timer until the second's first advert, ms."""
        wait_until(lambda: self.wires[1].adverts(event, above=0), timeout_s=20, what="a takeover")
        first = self.wires[1].adverts(event, above=0)[0].at
        start = (
            max(each.at for each in self.wires[0].adverts() if each.at <= first and each.priority > 0)
            if from_last_advert
            else event
        )
        return (first - start) / 1e6 - timer_s * 1e3

    def close(self) -> None:
        """Ends both."""
        for wire in self.wires:
            wire.close()


def resigned_at(pair: Pair, since: int) -> int:
    """When the first sent its advert of priority 0."""
    wait_until(
        lambda: [each for each in pair.wires[0].adverts(since) if each.priority == 0], timeout_s=10, what="priority 0"
    )
    return next(each.at for each in pair.wires[0].adverts(since) if each.priority == 0)


def measure(program: str, folder: Path, event: str) -> tuple[float, float]:
    """(start to first advert, takeover beyond the timer) of one fresh pair, ms."""
    with Lab() as lab:
        pair = Pair(lab, program, folder)
        try:
            began = pair.start()
            if event == "SIGKILL":
                at = pair.first.kill()
                figure = pair.takeover(at, DOWN_S, from_last_advert=True)
            elif event == "SIGTERM":
                since = pair.first.signal(signal.SIGTERM)
                figure = pair.takeover(resigned_at(pair, since), SKEW_S, from_last_advert=False)
            else:
                at = time.time_ns()
                pair.switch.ip("link set p0 down")
                figure = pair.takeover(at, DOWN_S, from_last_advert=True)
            return began, figure
        finally:
            pair.close()


def main() -> None:
    """Runs the programs in turn, so that a change of the machine's speed hits both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--event", action="append", choices=EVENTS, help="only this one; more than once: these")
    parser.add_argument("--json")
    options = parser.parse_args()
    figures: dict[str, dict[str, list[float]]] = {}
    programs = ("keepalived", "holdfast")
    with bench_folder() as folder:
        for event in options.event or EVENTS:
            for _ in range(options.rounds):
                for program in programs:
                    began, figure = measure(program, folder, event)
                    figures.setdefault(event, {}).setdefault(program, []).append(figure)
                    figures.setdefault("start to first advert", {}).setdefault(program, []).append(began)
    rows = []
    for event, found in figures.items():
        ratio = median(found["holdfast"]) / median(found["keepalived"]) if median(found["keepalived"]) else float("nan")
        rows.append([event, *(summary(found[program]) for program in programs), f"{ratio:.2f}"])
    print(table(["ms beyond the RFC's timer", *programs, "ratio of medians"], rows))
    finish("vrrp_failover", figures, options.json)  # type: ignore[arg-type]


if __name__ == "__main__":
    assert NS
    main()
