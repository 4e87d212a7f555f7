"""A thousand instances on four cables: cost of an advert, memory, jitter, start, failover, reload.

    python bench/steady/scale.py [--instances 1000] [--advert 0.1] [--seconds 20] [--pairs holdfast/holdfast ...]

A pair is FIRST/SECOND, the first one MASTER. CPU is what the first's VRRP process used over the time divided by the
adverts that crossed the cables; the second's by those it received.
"""

from __future__ import annotations

import argparse
import signal
import time
from statistics import median

from place import NS, Plan, Site, cpu_s, finish, gaps, percentile, pss_mib, table


def measure(first: str, second: str, plan: Plan, seconds: float) -> dict[str, float]:
    """The figures of one pair."""
    found: dict[str, float] = {}
    with Site((first, second), plan) as site:
        observer, (a, b) = site.observer, site.daemons
        found["start_s"] = site.settle()
        workers = [a.cell("protocol")], [b.cell("protocol")]
        before = [cpu_s(each) for each in workers]
        observer.clear()
        since = time.time_ns()
        time.sleep(seconds)
        until = time.time_ns()
        after = [cpu_s(each) for each in workers]
        adverts = observer.since(since, 0, until=until)
        found["false"] = len({each.key for each in observer.since(since, 1, until=until)})
        found["sent"] = len(adverts)
        found["sent_us"] = (after[0] - before[0]) / max(1, len(adverts)) * 1e6
        found["received_us"] = (after[1] - before[1]) / max(1, len(adverts)) * 1e6
        late = [abs(gap - plan.advert_s) * 1e3 for each in gaps(adverts).values() for gap in each]
        found["jitter_p50_ms"], found["jitter_p99_ms"] = percentile(late, 0.5), percentile(late, 0.99)
        found["jitter_max_ms"] = max(late, default=float("nan"))
        found["pss_mib"] = pss_mib(a.pids())
        found["pss_vrrp_mib"] = pss_mib(workers[0])
        found |= reload(site)
        found |= failover(site)
    return found


def reload(site: Site) -> dict[str, float]:
    """Every instance of the first router gets another priority: the largest gap, false takeovers."""
    plan, a, observer = site.plan, site.daemons[0], site.observer
    observer.clear()
    since = time.time_ns()
    time.sleep(1.2 * plan.advert_s)
    changed = plan._replace(priorities=(plan.priorities[0] - 1, plan.priorities[1]))
    a.conf.write_text(changed.config(0))
    a.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    time.sleep(4 + 5 * plan.advert_s)
    adverts = observer.since(since, 0)
    new = {each.key for each in adverts if each.priority == changed.priorities[0]}
    worst = max((gap for each in gaps(adverts).values() for gap in each), default=float("nan"))
    return {
        "reload_gap_intervals": worst / plan.advert_s,
        "reload_taken": len(new),
        "reload_false": len({each.key for each in observer.since(since, 1)}),
    }


def failover(site: Site) -> dict[str, float]:
    """All of the first router's processes die: how long beyond its timer each instance of the second needs."""
    plan, observer = site.plan, site.observer
    time.sleep(2 * plan.advert_s)
    since = time.time_ns()
    site.daemons[0].kill()
    down_s = (3 + (256 - plan.priorities[1]) / 256) * plan.advert_s
    try:
        site.all_master(1, since)
    except AssertionError:
        return {"failed_over": float(len({each.key for each in observer.since(since, 1)}))}
    last: dict[tuple[int, int], int] = {}
    for each in observer.since(0, 0):
        last[each.key] = each.at
    first: dict[tuple[int, int], int] = {}
    for each in observer.since(since, 1):
        first.setdefault(each.key, each.at)
    beyond = [(first[key] - last[key]) / NS * 1e3 - down_s * 1e3 for key in first if key in last]
    time.sleep(1.0)
    taken = [each for each in observer.owned if each.side == 1 and each.up and each.at >= since]
    all_there = max((each.at for each in taken), default=0)
    return {
        "failover_p50_ms": median(beyond),
        "failover_max_ms": max(beyond),
        "failover_addresses_ms": (all_there - max(first.values())) / 1e6,
        "failover_addresses": float(len(taken)),
    }


def main() -> None:
    """One column for each pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--cables", type=int, default=4)
    parser.add_argument("--advert", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--pairs", nargs="+", default=["holdfast/holdfast", "keepalived/keepalived"])
    parser.add_argument("--json")
    options = parser.parse_args()
    plan = Plan(instances=options.instances, cables=options.cables, advert_s=options.advert)
    columns = {pair: measure(*pair.split("/"), plan, options.seconds) for pair in options.pairs}
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    rows = [[name, *(f"{figures.get(name, float('nan')):.2f}" for figures in columns.values())] for name in names]
    print(table([f"{options.instances} instances, advert {options.advert:g} s", *columns], rows))
    finish("steady_scale", dict(columns), options.json)


if __name__ == "__main__":
    main()
