"""The master is frozen (SIGSTOP to all its processes) at random moments for 0.1 to 10 s: two owners, none, transitions.

    python bench/steady/stop.py [--instances 20] [--advert 1] [--rounds 6] [--seed 1] [--longest 10]

Both programs get the same moments and durations. Seconds are summed over all addresses and divided by their number.
"""

from __future__ import annotations

import argparse
import random
import signal
import time

from place import Plan, Site, finish, shares, table


def measure(program: str, plan: Plan, freezes: list[tuple[float, float]]) -> dict[str, float]:
    """All freezes of one program."""
    two = none = changes = frozen = 0.0
    with Site((program, program), plan) as site:
        site.settle()
        a, observer = site.daemons[0], site.observer
        addresses = [plan.address(index) for index in range(plan.instances)]
        for pause_s, length_s in freezes:
            start = time.time_ns()
            time.sleep(pause_s)
            a.signal_all(signal.SIGSTOP)
            time.sleep(length_s)
            a.signal_all(signal.SIGCONT)
            # Until the first is undisputed again: it waits for its own timer at most once.
            time.sleep(max(1.0, 5 * plan.advert_s))
            until = time.time_ns()
            both, nobody = shares(observer.owned, addresses, start, until)
            two, none, frozen = two + both, none + nobody, frozen + length_s
            changes += sum(each.up and each.side == 1 for each in observer.owned if start <= each.at < until)
    count = plan.instances
    return {"frozen_s": frozen, "two_s": two / count, "none_s": none / count, "taken": changes / count}


def main() -> None:
    """One row for each program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--advert", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=10.0)
    parser.add_argument("--programs", nargs="+", default=["holdfast", "keepalived"])
    parser.add_argument("--json")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    freezes = [
        (options.advert * (0.5 + rng.random()), 0.1 * (options.longest / 0.1) ** rng.random())
        for _ in range(options.rounds)
    ]
    plan = Plan(instances=options.instances, advert_s=options.advert)
    figures = {program: measure(program, plan, freezes) for program in options.programs}
    print(f"{options.instances} instances, advert {options.advert:g} s, {options.rounds} freezes")
    rows = [
        [program, *(f"{found[name]:.2f}" for name in ("frozen_s", "two_s", "none_s", "taken"))]
        for program, found in figures.items()
    ]
    print(table(["program", "frozen, s", "two owners, s", "none, s", "takeovers"], rows))
    finish("steady_stop", dict(figures), options.json)


if __name__ == "__main__":
    main()
