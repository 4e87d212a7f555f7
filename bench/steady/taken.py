"""Addresses that others delete: one by one, all at once (ip addr flush), by a script that keeps deleting.

    python bench/steady/taken.py [--instances 20] [--advert 1] [--rounds 5]

Seconds without an owner are summed over all addresses and divided by the number of deletions.
"""

from __future__ import annotations

import argparse
import time

from place import Plan, Site, finish, shares, table


def delete_one(site: Site, round_number: int) -> int:
    """One address. Returns how many went."""
    site.namespaces[0].ip(f"addr del {site.plan.address(round_number)}/32 dev eth0", check=False)
    return 1


def flush(site: Site, _: int) -> int:
    """All virtual ones of the interface in one command."""
    site.namespaces[0].ip("addr flush dev eth0 to 10.1.0.0/17", check=False)
    return site.plan.instances


def fight(site: Site, round_number: int) -> int:
    """The same address ten times within half a second."""
    for _ in range(10):
        site.namespaces[0].ip(f"addr del {site.plan.address(round_number)}/32 dev eth0", check=False)
        time.sleep(0.05)
    return 10


KINDS = {"one deleted": delete_one, "all flushed": flush, "ten times in a row": fight}


def measure(program: str, plan: Plan, rounds: int) -> dict[str, dict[str, float]]:
    """All kinds with one program."""
    found: dict[str, dict[str, float]] = {}
    with Site((program, program), plan) as site:
        site.settle()
        addresses = [plan.address(index) for index in range(plan.instances)]
        for kind, act in KINDS.items():
            none = two = gone = changes = 0.0
            for number in range(rounds):
                start = time.time_ns()
                gone += act(site, number)
                time.sleep(max(1.5, 4.5 * plan.advert_s))
                until = time.time_ns()
                both, nobody = shares(site.observer.owned, addresses, start, until)
                none, two = none + nobody, two + both
                changes += len({each.key for each in site.observer.since(start, 1, until=until)})
            found[kind] = {"none_ms": none / gone * 1e3, "two_ms": two / gone * 1e3, "taken": changes}
    return found


def main() -> None:
    """One row for each program and kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--advert", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--programs", nargs="+", default=["holdfast", "keepalived"])
    parser.add_argument("--json")
    options = parser.parse_args()
    plan = Plan(instances=options.instances, advert_s=options.advert)
    figures = {program: measure(program, plan, options.rounds) for program in options.programs}
    rows = [
        [program, kind, *(f"{figure[name]:.1f}" for name in ("none_ms", "two_ms", "taken"))]
        for program, kinds in figures.items()
        for kind, figure in kinds.items()
    ]
    print(f"{options.instances} instances, advert {options.advert:g} s, {options.rounds} rounds")
    print(table(["program", "deletion", "none, ms each", "two, ms each", "taken over"], rows))
    finish("steady_taken", dict(figures), options.json)


if __name__ == "__main__":
    main()
