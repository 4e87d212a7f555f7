"""holdfast on r1 and Debian's keepalived on r2, one switch, the wire captured: for the interop tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from netns import Lab, NetNs, wait_until

SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
HOLDFAST = str(Path(sys.executable).parent / "holdfast")


def program(name: str) -> str:
    """The path of a peer's program; the test fails when it is missing."""
    found = shutil.which(name, path=SEARCH)
    assert found, f"{name} is missing: `make test` installs it"
    return found


class Daemon:
    """One daemon in one namespace, with its log."""

    def __init__(self, kind: str, namespace: NetNs, config: str, folder: Path) -> None:
        self.kind = kind
        self.namespace = namespace
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.conf = folder / "daemon.conf"
        self.conf.write_text(config)
        self.run_dir = folder / "run"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        """Starts it."""
        if self.kind == "keepalived":
            pids = [f"-{letter}{self.folder}/{letter}.pid" for letter in "prcb"]
            words = [program("keepalived"), "-n", "-l", "-D", "-f", str(self.conf), *pids, *more]
        else:
            settings = self.folder / "holdfast.toml"
            if not settings.exists():
                settings.write_text(f'node = "r1"\n[journal]\npath = "{self.folder}/journal.db"\n')
            words = [HOLDFAST, "run", "-n", "-l", "-D", "-f", str(self.conf), "--settings", str(settings)]
            words += ["--run-dir", str(self.run_dir), *more]
        with (self.folder / "log").open("ab") as log:
            self.process = self.namespace.popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self) -> None:
        """SIGTERM, and waits."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(10)

    def kill(self) -> None:
        """SIGKILL to the whole group, and waits."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def reload(self, config: str) -> None:
        """A new configuration and SIGHUP."""
        assert self.process is not None
        self.conf.write_text(config)
        self.process.send_signal(signal.SIGHUP)

    def log(self) -> str:
        """Everything it has printed."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def has_logged(self, text: str, times: int = 1) -> bool:
        """Whether a line with `text` came at least so often."""
        return self.log().count(text) >= times

    def holdfast(self, *words: str, check: bool = True) -> str:
        """A `holdfast` command against this daemon; its standard output."""
        done = subprocess.run(
            [HOLDFAST, *words, "--run-dir", str(self.run_dir)], capture_output=True, text=True, check=False, timeout=60
        )
        assert not check or done.returncode in (0, 4), f"holdfast {' '.join(words)}: {done.stderr}"
        return done.stdout


class Net:
    """Two routers on a switch."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.r1, self.r2 = lab.namespace("r1"), lab.namespace("r2")
        self.switch = lab.switch("sw", [(self.r1, "eth0"), (self.r2, "eth0")])
        for number, router in enumerate((self.r1, self.r2), 1):
            router.sysctl("net.ipv6.conf.eth0.accept_dad", 0)
            router.ip(f"addr add 10.0.0.{number}/24 dev eth0")
            router.ip(f"-6 addr add fd00::{number}/64 dev eth0 nodad")
        self.capture: subprocess.Popen[bytes] | None = None

    def ours(self, config: str) -> Daemon:
        """holdfast on r1, not started."""
        return Daemon("holdfast", self.r1, config, self.folder / "ours")

    def theirs(self, config: str) -> Daemon:
        """keepalived on r2, not started."""
        return Daemon("keepalived", self.r2, config, self.folder / "theirs")

    def record(self) -> None:
        """Captures what r1 sends, until `wrong_packets`."""
        file = self.folder / "wire.pcap"
        words = [program("tcpdump"), "-i", "p0", "-Q", "in", "-U", "-w", str(file), "proto 112 or arp or icmp6"]
        self.capture = self.switch.popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: file.exists() and file.stat().st_size >= 24, what="the capture's header")

    def dissect(self, *words: str) -> list[str]:
        """Lines of tshark over what was captured."""
        if self.capture is not None:
            self.capture.terminate()
            self.capture.wait(5)
            self.capture = None
        command = [program("tshark"), "-r", str(self.folder / "wire.pcap"), "-o", "ip.check_checksum:TRUE", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    def wrong_packets(self) -> list[str]:
        """What tshark finds malformed, with a bad checksum or length in r1's packets."""
        wrong = "_ws.malformed or vrrp.checksum.status == 0 or ip.checksum.status == 0 or icmpv6.checksum.status == 0"
        return self.dissect("-Y", f"({wrong} or _ws.expert.severity >= 0x600000)")
