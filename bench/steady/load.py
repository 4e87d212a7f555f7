"""What keepalived's scheduling keywords do for the adverts while every processor is kept busy by ordinary programs.

    python bench/steady/load.py [--instances 200] [--advert 0.1] [--seconds 10] [--loops 4]

`plain`: as configured by default. `scheduled`: vrrp_rt_priority and vrrp_no_swap. Lateness is how far the distance of
two adverts of an instance is from the interval; taken: instances that the other router took over by mistake.
"""

from __future__ import annotations

import argparse
import time

from place import Plan, Site, busy, finish, gaps, percentile, table

SCHEDULED = Plan().extra_globals


def measure(program: str, plan: Plan, seconds: float, loops: int) -> dict[str, float]:
    """One program with one configuration."""
    with Site((program, program), plan) as site:
        site.settle()
        with busy(loops):
            time.sleep(0.5)
            since = time.time_ns()
            time.sleep(seconds)
            until = time.time_ns()
        adverts = site.observer.since(since, 0, until=until)
        late = [abs(gap - plan.advert_s) * 1e3 for each in gaps(adverts).values() for gap in each]
        return {
            "p50_ms": percentile(late, 0.5),
            "p99_ms": percentile(late, 0.99),
            "max_ms": max(late, default=float("nan")),
            "taken": float(len({each.key for each in site.observer.since(since, 1, until=until)})),
        }


def main() -> None:
    """One row for each program and configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--advert", type=float, default=0.1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--loops", type=int, default=4)
    parser.add_argument("--programs", nargs="+", default=["holdfast", "keepalived"])
    parser.add_argument("--json")
    options = parser.parse_args()
    figures = {}
    for keywords, name in (("", "plain"), (SCHEDULED, "scheduled")):
        plan = Plan(instances=options.instances, cables=4, advert_s=options.advert, extra_globals=keywords)
        for program in options.programs:
            figures[f"{program}, {name}"] = measure(program, plan, options.seconds, options.loops)
    rows = [
        [name, *(f"{found[key]:.2f}" for key in ("p50_ms", "p99_ms", "max_ms", "taken"))]
        for name, found in figures.items()
    ]
    print(f"{options.instances} instances, advert {options.advert:g} s, {options.loops} busy loops")
    print(table(["program", "late p50, ms", "p99", "max", "taken over"], rows))
    finish("steady_load", dict(figures), options.json)


if __name__ == "__main__":
    main()
