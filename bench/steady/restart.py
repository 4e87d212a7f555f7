"""`holdfast restart` beside a restart of keepalived: what the peer and an observer see of it.

    python bench/steady/restart.py [--instances 50] [--advert 0.1] [--rounds 20] [--kill N]

keepalived has no hand-over: it is stopped and started again. --kill: so many hand-overs in which the supervisor is
killed at a random moment and the daemon is started again right away.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import time
from statistics import median

from place import HOLDFAST, NS, OWNER_HEADS, Plan, Site, finish, gaps, owner_words, shares, table


def one(site: Site, kill_after_s: float | None = None) -> dict[str, float]:
    """One restart of the first router."""
    plan, a, observer = site.plan, site.daemons[0], site.observer
    observer.clear()
    start = time.time_ns()
    time.sleep(2 * plan.advert_s)
    if a.program == "keepalived":
        assert a.process is not None
        a.process.send_signal(signal.SIGTERM)
        a.process.wait(10)
        at = a.start()
        site.all_master(0, at, timeout_s=30)
    elif kill_after_s is not None:
        words = ["ip", "netns", "exec", a.namespace.name, HOLDFAST, "restart", "--run-dir", str(a.run_dir)]
        command = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(kill_after_s)
        at = a.kill()
        a.start()
        command.kill()
        command.wait()
        site.all_master(0, at + NS // 50, timeout_s=30)
    else:
        done = a.command("restart")
        assert done.returncode == 0, (done.stdout, done.stderr, a.log())
    time.sleep(max(0.5, 2 * plan.advert_s))
    until = time.time_ns()
    two, none = shares(observer.owned, [plan.address(i) for i in range(plan.instances)], start, until)
    every = [gap for each in gaps(observer.since(start, 0, until=until)).values() for gap in each]
    taken = {each.key for each in observer.since(start, 1, until=until)}
    return {"taken": float(len(taken)), "gap": max(every) / plan.advert_s, "none_s": none, "two_s": two}


def measure(program: str, plan: Plan, rounds: int, kills: int = 0) -> list[dict[str, float]]:
    """All rounds of one program."""
    rng = random.Random(1)
    found = []
    with Site((program, program), plan) as site:
        site.settle()
        for _ in range(kills or rounds):
            found.append(one(site, rng.uniform(0.1, 4.0) if kills else None))
            if found[-1]["taken"]:
                time.sleep(max(1.5, 4 * plan.advert_s))
    return found


def main() -> None:
    """One row for each program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=50)
    parser.add_argument("--advert", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kill", type=int, default=0)
    parser.add_argument("--programs", nargs="+", default=["holdfast", "keepalived"])
    parser.add_argument("--json")
    options = parser.parse_args()
    plan = Plan(instances=options.instances, advert_s=options.advert)
    figures = {}
    for program in options.programs:
        figures[program] = measure(program, plan, options.rounds)
    if options.kill:
        figures["holdfast, killed"] = measure("holdfast", plan, 0, options.kill)
    rows = [
        [
            name,
            str(len(rounds)),
            f"{sum(each['taken'] for each in rounds):.0f}",
            f"{median(each['gap'] for each in rounds):.2f} / {max(each['gap'] for each in rounds):.2f}",
            *owner_words(rounds, plan.instances),
        ]
        for name, rounds in figures.items()
    ]
    print(f"{options.instances} instances, advert {options.advert:g} s")
    print(table(["program", "restarts", "taken over", "gap, intervals (median / max)", *OWNER_HEADS], rows))
    finish("steady_restart", figures, options.json)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
