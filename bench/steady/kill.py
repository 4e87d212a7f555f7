"""SIGKILL of a cell and of the whole daemon: what the peer and an observer see of it.

    python bench/steady/kill.py [--instances 50] [--advert 1] [--rounds 10] [--programs holdfast keepalived]

`worker`: our protocol cell, keepalived's VRRP process; their parents put them back. `all`: every process at once, and
the program is started again right away, as systemd's Restart=always would. The peer is always the same program.
Per round: instances that the peer took over, the largest gap between two adverts of an instance in intervals, seconds
without an owner and with two, of an address: in all rounds, and in the worst.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from statistics import median

from place import NS, OWNER_HEADS, Plan, Site, finish, gaps, owner_words, shares, table


def one(site: Site, what: str, rng: random.Random) -> dict[str, float]:
    """One death."""
    plan, a, observer = site.plan, site.daemons[0], site.observer
    observer.clear()
    start = time.time_ns()
    time.sleep(plan.advert_s * (1.5 + rng.random()))
    if what == "all":
        at = a.kill()
        a.start()
    else:
        at = time.time_ns()
        os.kill(a.cell(what), signal.SIGKILL)
    site.all_master(0, at + int(0.02 * NS), timeout_s=30)
    time.sleep(max(1.0, 2 * plan.advert_s))
    until = time.time_ns()
    two, none = shares(observer.owned, [plan.address(i) for i in range(plan.instances)], start, until)
    every = [gap for each in gaps(observer.since(start, 0, until=until)).values() for gap in each]
    return {
        "taken": float(len({each.key for each in observer.since(at, 1, until=until)})),
        "gap": max(every) / plan.advert_s,
        "none_s": none,
        "two_s": two,
    }


def measure(
    program: str, plan: Plan, whats: list[str], rounds: int, settings: str
) -> dict[str, list[dict[str, float]]]:
    """All rounds of one program."""
    rng = random.Random(1)
    found: dict[str, list[dict[str, float]]] = {what: [] for what in whats}
    with Site((program, program), plan, settings) as site:
        site.settle()
        for _ in range(rounds):
            for what in whats:
                found[what].append(one(site, what, rng))
                if found[what][-1]["taken"] or what == "all":
                    # Until the first is undisputed again.
                    time.sleep(max(1.0, 4 * plan.advert_s))
    return found


def main() -> None:
    """One row for each program and kind of death."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=50)
    parser.add_argument("--advert", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--programs", nargs="+", default=["holdfast", "keepalived"])
    parser.add_argument("--whats", nargs="+", default=["protocol", "notify", "all"])
    parser.add_argument("--json")
    options = parser.parse_args()
    plan = Plan(instances=options.instances, advert_s=options.advert)
    rows, figures = [], {}
    for program in options.programs:
        whats = [what for what in options.whats if program == "holdfast" or what != "notify"]
        found = measure(program, plan, whats, options.rounds, "[cells]\nstable_after_s = 0.5\n")
        for what, rounds in found.items():
            figures[f"{program} {what}"] = rounds
            rows.append(
                [
                    program,
                    "worker" if what == "protocol" else what,
                    str(len(rounds)),
                    f"{sum(each['taken'] for each in rounds):.0f}",
                    f"{median(each['gap'] for each in rounds):.2f} / {max(each['gap'] for each in rounds):.2f}",
                    *owner_words(rounds, plan.instances),
                ]
            )
    head = ["program", "SIGKILL of", "rounds", "taken over", "gap, intervals (median / max)", *OWNER_HEADS]
    print(f"{options.instances} instances, advert {options.advert:g} s")
    print(table(head, rows))
    finish("steady_kill", figures, options.json)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
