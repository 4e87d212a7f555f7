"""What the measurements share: routers under test, a wire that is watched from outside, figures.

A router is a program (`keepalived` or `holdfast`) with a configuration in a namespace of its own. The wire is watched
by packet sockets at the switch's ports with the kernel's own time stamps: neither side's word is taken for anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from netns import Lab, NetNs, wait_until
from wire import NS, Seen, Wire

__all__ = ["NS", "Lab", "NetNs", "Seen", "Wire", "wait_until"]

HOLDFAST = str(Path(sys.executable).parent / "holdfast")
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def instance(
    name: str, vrid: int, priority: int, addresses: Sequence[str], *, interface: str = "eth0", advert: float = 1
) -> str:
    """A vrrp_instance of version 3."""
    lines = "\n".join(f"    {address}" for address in addresses)
    return (
        f"vrrp_instance {name} {{\n  interface {interface}\n  version 3\n  virtual_router_id {vrid}\n"
        f"  priority {priority}\n  advert_int {advert:g}\n  virtual_ipaddress {{\n{lines}\n  }}\n}}\n"
    )


class Router:
    """One program in one namespace."""

    def __init__(self, program: str, namespace: NetNs, config: str, folder: Path) -> None:
        self.program = program
        self.namespace = namespace
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.folder.chmod(0o755)
        self.conf = self.folder / "router.conf"
        self.conf.write_text("global_defs {\n  router_id bench\n}\n" + config)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Starts it; the wall clock in ns just before."""
        if self.program == "keepalived":
            pids = [f"-{letter}{self.folder}/{letter}.pid" for letter in "prcb"]
            program = shutil.which("keepalived", path=SEARCH) or "keepalived"
            words = [program, "-n", "-l", "-P", "-f", str(self.conf), *pids]
        else:
            settings = self.folder / "holdfast.toml"
            settings.write_text(f'node = "bench"\n[journal]\npath = "{self.folder}/journal.db"\n')
            run_dir = str(self.folder / "run")
            words = [HOLDFAST, "run", "-n", "-l", "-P", "-f", str(self.conf), "--settings", str(settings)]
            words += ["--run-dir", run_dir]
        with (self.folder / "log").open("ab") as log:
            at = time.time_ns()
            self.process = self.namespace.popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return at

    def pids(self) -> list[int]:
        """The living processes of the program."""
        return tree(self.process.pid) if self.process is not None else []

    def signal(self, number: int, *, all_processes: bool = False) -> int:
        """Sends a signal; the wall clock in ns just before."""
        assert self.process is not None
        targets = self.pids() if all_processes else [self.process.pid]
        at = time.time_ns()
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return at

    def kill(self) -> int:
        """SIGKILL to all its processes, and waits for the end."""
        at = self.signal(signal.SIGKILL, all_processes=True)
        assert self.process is not None
        self.process.wait(10)
        return at

    def log(self) -> str:
        """The end of what it printed."""
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def flush_addresses(self, interface: str, keep: str) -> None:
        """What a killed program left on the interface goes, as a reboot would do."""
        for address in self.namespace.addresses(interface):
            if address != keep and not address.startswith("fe80"):
                self.namespace.ip(f"addr del {address} dev {interface}", check=False)


def tree(root: int) -> list[int]:
    """root and its living descendants."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        children = list(Path(f"/proc/{pid}/task").glob("*/children"))
        if not children:
            continue
        found.append(pid)
        for path in children:
            with contextlib.suppress(OSError):
                todo += [int(child) for child in path.read_text().split()]
    return found


def pss_mib(pids: Iterable[int]) -> float:
    """Proportional set size of a set of processes."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def cpu_s(pids: Iterable[int]) -> float:
    """CPU time used so far, to the nanosecond (schedstat)."""
    total = 0.0
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(path.read_text().split()[0]) / 1e9
    return total


def summary(values: Sequence[float], unit: str = "") -> str:
    """median (min .. max)."""
    if not values:
        return "-"
    return f"{median(values):.2f} ({min(values):.2f} .. {max(values):.2f}){unit}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, *rows]
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def finish(name: str, figures: dict[str, object], json_file: str | None) -> None:
    """Writes the figures for machines when asked."""
    if json_file:
        Path(json_file).write_text(json.dumps({"bench": name, "figures": figures}, indent=1) + "\n")


@contextlib.contextmanager
def bench_folder() -> Iterable[Path]:  # type: ignore[misc]
    """A temporary folder, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
