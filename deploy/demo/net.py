"""The network of the demo: namespaces, two bridges, veth pairs; all of it gone at the end, also when interrupted."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

SWEEPS_MAX = 50
_NAME = re.compile(r"hfdemo(\d+)-\w+")


def leftovers() -> list[str]:
    """The namespaces of demos whose process is dead (SIGKILL leaves nobody to clean up)."""
    shown = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    names = [line.split()[0] for line in shown.splitlines() if line.strip()]
    found = {name: _NAME.fullmatch(name) for name in names}
    return [name for name, match in found.items() if match and not Path("/proc", match.group(1)).exists()]


def remove(names: list[str]) -> None:
    """Kills whatever runs in the namespaces and removes them."""
    for _ in range(SWEEPS_MAX):
        pids = [pid for name in names for pid in _pids(name)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            break
        time.sleep(0.02)  # until they are gone; a process that was about to fork may have left another one
    for name in reversed(names):
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _pids(name: str) -> list[int]:
    shown = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in shown.split()]


def ip(*words: str) -> None:
    """Runs `ip WORDS`; raises with its own message when it fails."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Net:
    """client -- lan -- r1, r2 -- dmz -- server. Names carry this process's pid, so that demos do not meet."""

    def __init__(self) -> None:
        self.tag = f"hfdemo{os.getpid()}"
        self.processes: list[subprocess.Popen[str]] = []
        self.names: list[str] = []

    def name(self, host: str) -> str:
        """The namespace of a host."""
        return f"{self.tag}-{host}"

    def __enter__(self) -> Net:
        remove(leftovers())
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _build(self) -> None:
        for host in ("sw", "r1", "r2", "client", "server"):
            # Noted first: an interruption in between must not leave it behind.
            self.names.append(self.name(host))
            ip("netns", "add", self.name(host))
            ip("-n", self.name(host), "link", "set", "lo", "up")
        for bridge in ("lan", "dmz"):
            ip(
                "-n",
                self.name("sw"),
                "link",
                "add",
                bridge,
                "type",
                "bridge",
                "mcast_snooping",
                "0",
                "forward_delay",
                "0",
            )
            ip("-n", self.name("sw"), "link", "set", bridge, "up")
        for number, router in enumerate(("r1", "r2"), 1):
            self._plug(router, "lan0", "lan", f"10.77.1.{number}/24")
            self._plug(router, "dmz0", "dmz", f"10.77.2.{number}/24")
            self.run(router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self._plug("client", "eth0", "lan", "10.77.1.10/24")
        self._plug("server", "eth0", "dmz", "10.77.2.10/24")
        ip("-n", self.name("client"), "route", "add", "default", "via", "10.77.1.254")
        ip("-n", self.name("server"), "route", "add", "default", "via", "10.77.2.254")

    def _plug(self, host: str, device: str, bridge: str, address: str) -> None:
        port = f"{host}-{device}"
        switch = self.name("sw")
        ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", device, "netns", self.name(host))
        ip("-n", switch, "link", "set", port, "master", bridge, "up")
        ip("-n", self.name(host), "addr", "add", address, "dev", device)
        ip("-n", self.name(host), "link", "set", device, "up")

    def run(self, host: str, *command: str) -> None:
        """Runs a short command in a host's namespace."""
        subprocess.run(["ip", "netns", "exec", self.name(host), *command], check=True, capture_output=True)

    def start(self, host: str, *command: str, log: Path | None = None, pipe: bool = False) -> subprocess.Popen[str]:
        """Starts a long command in a host's namespace, as a process group of its own."""
        out = subprocess.PIPE if pipe else (log.open("a") if log else subprocess.DEVNULL)
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name(host), *command],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT if log else subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def pull(self, host: str, device: str, *, up: bool) -> None:
        """Pulls the cable out of a host's device at the switch, or puts it in again."""
        ip("-n", self.name("sw"), "link", "set", f"{host}-{device}", "up" if up else "down")

    def close(self) -> None:
        """Ends every process started here and removes the namespaces."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        until = time.monotonic() + 3
        for process in self.processes:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.processes.clear()
        # Those that nobody noted: started in the moment of an interruption, or by a daemon that was killed.
        remove(self.names)
        self.names.clear()
