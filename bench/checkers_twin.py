"""CPU per check beside keepalived, in a kernel with IPVS (root, or `python tests/ipvs/guest.py -- python THIS`).

python bench/checkers_twin.py [--checks N] [--interval S] [--seconds N] [--rounds N] [--kinds tcp,http,ssl]
                              [--json FILE]

Each program in turn looks after the same servers; the server counts the connections. CPU: keepalived's checker process,
and ours: a checkers cell's room on the real bus, in a process of its own.

A process that runs when nothing else does keeps the processor awake: a kernel that counts processor time in ticks, and
has none while it sleeps, would not see work that begins with a timer and ends before the next tick.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

import checkers as ours
import uvloop

from holdfast.actors.checkers.actor import raise_descriptor_limit

SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def keepalived_conf(kind: str, count: int, port: int, interval_s: float) -> str:
    """Virtual servers of 10 real servers each, the same addresses as in bench/checkers.py."""
    lines = ["global_defs {", "  script_user root", "}"]
    check = {
        "tcp": "TCP_CHECK {\n connect_timeout 5\n }",
        "http": "HTTP_GET {\n url {\n path /\n status_code 200\n }\n connect_timeout 5\n }",
        "ssl": "SSL_GET {\n url {\n path /\n status_code 200\n }\n connect_timeout 5\n }",
    }[kind]
    for start in range(0, count, 10):
        lines += [f"virtual_server 10.{1 + start // 60000}.{start // 250 % 250}.{1 + start % 250} 80 {{"]
        lines += [f" delay_loop {interval_s:g}", " lb_algo rr", " lb_kind NAT", " protocol TCP"]
        for place in range(start, min(start + 10, count)):
            address = ours.check_of("tcp", place, port, interval_s).connection.address  # type: ignore[attr-defined]
            lines += [f" real_server {address} {port} {{", " weight 1", check, " }"]
        lines += ["}"]
    return "\n".join(lines) + "\n"


def soak() -> None:
    """Runs when nothing else does, so that the processor never sleeps."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while True:
        pass


def children(pid: int) -> list[int]:
    """The child processes."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_s(pid: int) -> float:
    """User and system time so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS_PER_S


def measure_keepalived(kind: str, options: argparse.Namespace, port: int, folder: Path) -> dict[str, float]:
    """CPU and memory of keepalived's checker process."""
    conf = folder / "keepalived.conf"
    conf.write_text(keepalived_conf(kind, options.checks, port, options.interval))
    program = shutil.which("keepalived", path=SEARCH) or "keepalived"
    words = [program, "-n", "-C", "-f", str(conf), "-p", str(folder / "k.pid"), "-c", str(folder / "c.pid")]
    with (folder / "keepalived.log").open("wb") as log:
        process = subprocess.Popen([*words, "-l"], stdout=log, stderr=log)
        try:
            time.sleep(2.5 + options.interval)
            (checker,) = children(process.pid)
            before, at, seen = cpu_s(checker), time.perf_counter(), ours.connections.value
            time.sleep(options.seconds)
            used, took = cpu_s(checker) - before, time.perf_counter() - at
            runs = ours.connections.value - seen
            status = Path(f"/proc/{checker}/status").read_text()
            memory_kib = int(status.partition("VmRSS:")[2].split()[0])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
    return {
        "runs_per_s": runs / took,
        "cpu_us_per_check": used / runs * 1e6,
        "kib_per_check": memory_kib / options.checks,
    }


def measure_ours(kind: str, options: argparse.Namespace, port: int, folder: Path) -> dict[str, float]:
    """CPU of the room, in a process of its own."""

    def run(pipe) -> None:  # type: ignore[no-untyped-def]
        checks = [ours.check_of(kind, n, port, options.interval) for n in range(options.checks)]
        pipe.send(uvloop.run(ours.measure(checks, options.seconds, options.interval, folder)))

    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=run, args=(sender,))
    process.start()
    figures: dict[str, float] = receiver.recv()
    process.join()
    return figures


def main() -> None:
    """Both programs in turn, some rounds; the median counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checks", type=int, default=1000)
    parser.add_argument("--interval", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default="tcp,http")
    parser.add_argument("--json")
    options = parser.parse_args()
    raise_descriptor_limit()
    logging.disable(logging.CRITICAL)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name, ours.servers(Path(name)) as ports:
        multiprocessing.get_context("fork").Process(target=soak, daemon=True).start()
        for kind in options.kinds.split(","):
            rounds: dict[str, list[dict[str, float]]] = {"keepalived": [], "holdfast": []}
            for number in range(options.rounds):
                for program, measure in (("keepalived", measure_keepalived), ("holdfast", measure_ours)):
                    folder = Path(name) / f"{program}-{kind}-{number}"
                    folder.mkdir()
                    rounds[program].append(measure(kind, options, ports[kind], folder))
            for program, rows in rounds.items():
                figures[f"{program} {kind}"] = {key: median(row[key] for row in rows) for key in rows[0]}
                shown = " ".join(f"{key}={value:.4g}" for key, value in figures[f"{program} {kind}"].items())
                print(f"{program:10} {kind:5} {shown}", flush=True)
            ratio = figures[f"holdfast {kind}"]["cpu_us_per_check"] / figures[f"keepalived {kind}"]["cpu_us_per_check"]
            print(f"{kind}: {ratio:.2f} times keepalived's CPU a check", flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
