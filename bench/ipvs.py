"""Large tables beside keepalived, in one guest kernel.

Start to the complete table, reload without a change, from a server's death to the change of the table, memory.

    python bench/ipvs.py                     # 1,000 and 10,000 real servers
    python bench/ipvs.py --large             # also 2,277 virtual servers with 37,205 real ones

Boots the guest of tests/ipvs and runs itself inside. Every real server has a TCP check and is alive.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "ipvs"))

from guest import run_in_guest  # noqa: E402 - found by the line above
from world import Inside, World  # noqa: E402

from holdfast.kernel.ipvs import Ipvs  # noqa: E402
from holdfast.kernel.ipvs_types import ServiceKey  # noqa: E402

RUN = Path("/run/bench")


WATCHED = """\
virtual_server 10.99.0.1 80 {
  delay_loop 0.5
  lvs_sched rr
  lvs_method DR
  protocol TCP
  real_server 10.98.0.1 80 {
    TCP_CHECK {
      connect_port 8080
      connect_timeout 1
      retry 0
      warmup 0
    }
  }
}
"""
"""One service that is looked at closely: how soon a death is seen."""


def configuration(services: int, servers: int) -> str:
    """A file with so many virtual servers, and so many real servers spread over them."""
    text = []
    made = 0
    for number in range(services):
        vip = f"10.{100 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        text.append(f"virtual_server {vip} 80 {{\n  delay_loop 60\n  lvs_sched wlc\n  lvs_method DR\n  protocol TCP\n")
        count = (servers - made) // (services - number)
        for _ in range(count):
            address = f"10.{1 + (made >> 16)}.{made >> 8 & 255}.{made & 255}"
            text.append(
                f"  real_server {address} 80 {{\n    TCP_CHECK {{\n      connect_timeout 3\n      retry 0\n"
                f"      warmup 20\n    }}\n  }}\n"
            )
            made += 1
        text.append("}\n")
    text.append(WATCHED)
    return "".join(text)


def processes(namespace: str) -> list[int]:
    """Pids in the namespace, without ours."""
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in found.split() if int(pid) != os.getpid()]


def memory_mb(namespace: str) -> float:
    """Proportional set size of everything that runs there: what is shared by its processes counts once."""
    total = 0
    for pid in processes(namespace):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def cpu_s(namespace: str) -> float:
    """Processor time of everything that runs there, so far."""
    ticks = 0
    for pid in processes(namespace):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def until(condition: Callable[[], bool], limit_s: float, every_s: float = 0.02) -> float:
    """Seconds until it holds. Looking takes a tenth of the one processor at most."""
    started = time.monotonic()
    while True:
        looked = time.monotonic()
        if condition():
            return looked - started
        now = time.monotonic()
        if now - started > limit_s:
            raise TimeoutError(f"not within {limit_s} s")
        time.sleep(max(every_s, 9 * (now - looked)))


def measure(kind: str, services: int, servers: int, limit_s: float, *, only_start: bool = False) -> dict[str, object]:
    """One daemon with one configuration. only_start: without deaths, reload and a clean stop."""
    shutil.rmtree("/run/twins", ignore_errors=True)
    world = World(f"b{kind[0]}{servers}")
    world.open()
    result: dict[str, object] = {"daemon": kind, "virtual": services, "real": servers}
    daemon: subprocess.Popen[bytes] | None = None
    table = Ipvs(world.lb)
    log = RUN / f"{kind}-{servers}.log"
    try:
        world.servers.up("0.0.0.0", 80)
        world.servers.up("10.98.0.1", 8080)
        config = RUN / f"{servers}.conf"
        config.write_text(configuration(services, servers))
        if kind == "keepalived":
            pids = [f"--{name}={RUN}/{name}" for name in ("pid", "vrrp_pid", "checkers_pid", "bfd_pid")]
            command = ["keepalived", "-n", "-l", "-D", "-f", str(config), *pids]
        else:
            program = str(Path(sys.executable).parent / "holdfast")
            command = [program, "run", "-n", "-l", "-f", str(config), "--run-dir", str(RUN / "hf")]
        counts = _Counts(world.lb)
        with log.open("wb") as output:
            started = time.monotonic()
            daemon = subprocess.Popen(["ip", "netns", "exec", world.lb, *command], stdout=output, stderr=output)
        until(lambda: counts.first() is not None, limit_s)
        result["first_service_s"] = round(time.monotonic() - started, 2)
        until(lambda: counts.total() == (services + 1, servers + 1), limit_s)
        result["complete_s"] = round(time.monotonic() - started, 2)
        time.sleep(25)
        result["memory_mb"] = round(memory_mb(world.lb), 1)
        result["start_cpu_s"] = round(cpu_s(world.lb), 2)
        if only_start:
            return result
        # A death.
        watched = ServiceKey(4, 6, "10.99.0.1", 80)
        spans = []
        for _ in range(5):
            world.servers.down("10.98.0.1", 8080)
            spans.append(until(lambda: not asyncio.run(table.destinations(watched)), 20, 0.005))
            world.servers.up("10.98.0.1", 8080)
            until(lambda: bool(asyncio.run(table.destinations(watched))), 20, 0.005)
        result["death_to_table_s"] = round(sorted(spans)[2], 3)
        # A reload without a change.
        before = cpu_s(world.lb)
        begun = time.monotonic()
        # Both by signal, until the program says in its log that the new configuration is in force.
        said = "Activating BFD healthchecker" if kind == "keepalived" else " is in force"
        done = log.read_text(errors="replace").count(said)
        daemon.send_signal(signal.SIGHUP)
        until(lambda: log.read_text(errors="replace").count(said) > done, limit_s, 0.05)
        result["reload_s"] = round(time.monotonic() - begun, 2)
        result["reload_cpu_s"] = round(cpu_s(world.lb) - before, 2)
        begun = time.monotonic()
        daemon.terminate()
        daemon.wait(limit_s)
        result["stop_s"] = round(time.monotonic() - begun, 2)
        result["left"] = counts.total()[0]
    except (TimeoutError, subprocess.TimeoutExpired) as problem:
        result["failed"] = f"{problem}: {log.read_text(errors='replace')[-600:]}"
    finally:
        if daemon is not None and daemon.poll() is None:
            for pid in processes(world.lb):
                os.kill(pid, signal.SIGKILL)
            daemon.wait()
        table.close()
        world.close()
    return result


class _Counts:
    """How many services and destinations the kernel has, from /proc inside the namespace (cheap)."""

    def __init__(self, namespace: str) -> None:
        self._inside = Inside(namespace)
        self._inside.open()

    async def _read(self) -> str:
        # The thread's own view: /proc/self is the process, whose namespace is another one.
        return Path("/proc/thread-self/net/ip_vs").read_text()

    def total(self) -> tuple[int, int]:
        """(services, destinations)."""
        lines = self._inside.do(self._read(), 60).splitlines()[3:]
        destinations = sum(line.lstrip().startswith("->") for line in lines)
        return len(lines) - destinations, destinations

    def first(self) -> int | None:
        """How many services, None for none."""
        return self.total()[0] or None


def inside(sizes: list[tuple[int, int]], options: argparse.Namespace) -> None:
    """In the guest: every size with both daemons; a line of JSON each."""
    RUN.mkdir(exist_ok=True)
    # The real servers are in this process: thousands of connections may come at once.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for services, servers in sizes:
        for kind in options.programs.split(","):
            found = measure(kind, services, servers, options.limit, only_start=options.only_start)
            print(json.dumps(found), flush=True)


def main() -> int:
    """Boots the guest, or works in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--sizes", help="VIRTUALxREAL,... instead of the usual ones")
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--programs", default="keepalived,holdfast")
    parser.add_argument("--only-start", action="store_true", help="no deaths, no reload, no clean stop")
    options = parser.parse_args()
    if options.sizes:
        sizes = [(int(a), int(b)) for a, _, b in (size.partition("x") for size in options.sizes.split(","))]
    else:
        sizes = [(10, 1_000), (100, 10_000)] + ([(2_277, 37_205)] if options.large else [])
    if os.environ.get("HOLDFAST_GUEST") == "1":
        inside(sizes, options)
        return 0
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        words = ",".join(f"{a}x{b}" for a, b in sizes)
        command = [sys.executable, str(Path(__file__).resolve()), "--sizes", words, "--limit", str(options.limit)]
        command += ["--programs", options.programs, *(["--only-start"] if options.only_start else [])]
        return run_in_guest(command, folder=Path(folder), timeout_s=len(sizes) * 4 * options.limit, memory="6G")


if __name__ == "__main__":
    sys.exit(main())
