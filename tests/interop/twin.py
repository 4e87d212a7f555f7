"""Twin runs: one scenario under keepalived and under holdfast, in identical namespaces, at the same time.

A scenario is a TOML file in `twins/`: a configuration for router r1 (the twin), optionally one for router r2 (always
keepalived), and a timed list of what happens. What r1 did is its trace: FIFO lines with times, notify calls with
arguments in order, virtual addresses on its interfaces after each step. Times count from the first FIFO line.

    title = "the link goes down and comes back"
    length_s = 9.0
    config = '''vrrp_instance V { ... }'''      # {dir} is the run's folder; {global} the usual global_defs
    peer_config = '''...'''
    [files]                                      # made executable in {dir}
    "check.sh" = "#!/bin/sh\\nexit 0\\n"
    [[step]]
    at = 4.0
    do = "link-down eth0"

tolerance_s: how far apart the times may be; more than the default where they hang on the phase of the peer's adverts.
Steps: link-down IF, carrier-down IF, carrier-up IF, write FILE TEXT, run COMMAND (in r1), peer-run COMMAND (in r2),
peer-stop, peer-kill, peer-freeze, peer-thaw, peer-start, reload NAME (the text `[configs] NAME`), signal NAME, stop.
A scenario in which holdfast differs on purpose says so in `[difference]`: `reason` and the lines wanted instead.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOLERANCE_S = 0.6
START_LIMIT_S = 15.0
HOLDFAST = str(Path(sys.executable).parent / "holdfast")
OWN_ADDRESS = re.compile(r"(10\.66\.\d+\.1/24|fd66:(\d+:)?:1/64)$")
KERNEL_RULE = re.compile(r"(0|32766|32767):\s")
KEEPALIVED = shutil.which("keepalived", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "keepalived"

GLOBAL = """global_defs {
  router_id twin
  enable_script_security
  script_user root
  vrrp_notify_fifo {dir}/fifo
  vrrp_garp_master_delay 1
}
"""
NOTIFY = '#!/bin/sh\nprintf \'%s %s\\n\' "$(date +%s.%N)" "$*" >> {dir}/notify.log\n'


@dataclass
class Trace:
    """What one router did. Times in seconds from its first FIFO line."""

    fifo: list[tuple[float, str]] = field(default_factory=list)
    notify: list[tuple[float, str]] = field(default_factory=list)
    addresses: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    log: str = ""

    def show(self) -> str:
        """The trace for people."""
        lines = [f"  fifo   {at:7.3f} {text}" for at, text in self.fifo]
        lines += [f"  notify {at:7.3f} {text}" for at, text in self.notify]
        lines += [f"  after {step}: {' '.join(found) or '-'}" for step, found in self.addresses]
        return "\n".join(lines)


def ip(*words: str) -> str:
    """Runs `ip`; its output."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Pair:
    """Two routers on one bridge, in namespaces named after `tag`; r1 runs `program`, r2 keepalived."""

    def __init__(self, scenario: dict[str, Any], program: str, tag: str, folder: Path) -> None:
        self.scenario = scenario
        self.program = program
        self.tag = tag
        self.folder = folder
        self.interfaces: list[str] = scenario.get("interfaces", ["eth0"])
        self.trace = Trace()
        self.twin: subprocess.Popen[bytes] | None = None
        self.peer: subprocess.Popen[bytes] | None = None
        self.names: list[str] = []
        self._t0: float | None = None
        self._first = threading.Event()
        self._ended = threading.Event()
        self._raw_fifo: list[tuple[float, str]] = []

    def run(self) -> Trace:
        """The whole scenario; cleans up whatever happens."""
        reader = threading.Thread(target=self._read_fifo, daemon=True)
        try:
            self._build()
            self._files()
            if "peer_config" in self.scenario:
                self._start_peer()
                time.sleep(self.scenario.get("peer_ahead_s", 0.0))
            reader.start()
            self._start_twin()
            end = time.monotonic() + START_LIMIT_S
            while not self._first.wait(0.1):
                ended = self.twin is not None and self.twin.poll() is not None
                if ended or time.monotonic() > end:
                    raise AssertionError(f"{self.program}: no FIFO line (ended: {ended})\n{self._log()}")
            assert self._t0 is not None
            for step in self.scenario.get("step", []):
                self._sleep_until(step["at"])
                self.trace.addresses.append((f"{step['at']} {step['do']}", self._addresses()))
                self._do(step["do"])
            self._sleep_until(self.scenario["length_s"])
            self.trace.addresses.append(("the end", self._addresses()))
            self._finish()
        finally:
            self._close()
            self._ended.set()
            if reader.ident is not None:
                reader.join(2)
        self._collect()
        return self.trace

    # ------------------------------------------------------------ network and files

    def _ns(self, host: str) -> str:
        return f"{self.tag}-{host}"

    def _build(self) -> None:
        for host in ("sw", "r1", "r2"):
            ip("netns", "add", self._ns(host))
            self.names.append(self._ns(host))
            ip("-n", self._ns(host), "link", "set", "lo", "up")
        for number, device in enumerate(self.interfaces):
            bridge = f"br{number}"
            switch = self._ns("sw")
            ip("-n", switch, "link", "add", bridge, "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
            ip("-n", switch, "link", "set", bridge, "up")
            for last, host in ((1, "r1"), (2, "r2")):
                port = f"{host}-{device}"
                namespace = self._ns(host)
                ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", device, "netns", namespace)
                ip("-n", switch, "link", "set", port, "master", bridge, "up")
                exec_ = ["ip", "netns", "exec", namespace, "sysctl", "-qw", f"net.ipv6.conf.{device}.accept_dad=0"]
                subprocess.run(exec_, check=True, capture_output=True)
                ip("-n", namespace, "addr", "add", f"10.66.{number}.{last}/24", "dev", device)
                ip("-n", namespace, "-6", "addr", "add", f"fd66:{number}::{last}/64", "dev", device, "nodad")
                ip("-n", namespace, "link", "set", device, "up")

    def _files(self) -> None:
        self.folder.mkdir(mode=0o755, parents=True)
        self.folder.parent.chmod(0o755)
        for name, text in {"notify.sh": NOTIFY, **self.scenario.get("files", {})}.items():
            path = self.folder / name
            path.write_text(self._fill(text))
            path.chmod(0o755 if text.startswith("#!") else 0o644)
        (self.folder / "twin.conf").write_text(self._fill(self.scenario["config"]))
        if "peer_config" in self.scenario:
            (self.folder / "peer").mkdir()
            (self.folder / "peer.conf").write_text(self._fill(self.scenario["peer_config"], "peer"))

    def _fill(self, text: str, sub: str = "") -> str:
        folder = str(self.folder / sub) if sub else str(self.folder)
        return text.replace("{global}", GLOBAL).replace("{dir}", folder)

    # ------------------------------------------------------------ processes

    def _start(self, host: str, words: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as out:
            return subprocess.Popen(
                ["ip", "netns", "exec", self._ns(host), *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _keepalived(self, conf: str, sub: str) -> list[str]:
        folder = self.folder / sub
        folder.mkdir(exist_ok=True)
        pids = [f"-{letter}{folder}/{letter}.pid" for letter in "prcb"]
        return [KEEPALIVED, "-n", "-l", "-D", "-P", "-f", str(self.folder / conf), *pids]

    def _start_twin(self) -> None:
        if self.program == "keepalived":
            words = self._keepalived("twin.conf", "ka")
        else:
            settings = self.folder / "holdfast.toml"
            settings.write_text(f'node = "r1"\n{self.scenario.get("settings", "")}\n')
            words = [HOLDFAST, "run", "-n", "-l", "-D", "-P", "-f", str(self.folder / "twin.conf")]
            words += ["--settings", str(settings), "--run-dir", str(self.folder / "run")]
        self.twin = self._start("r1", words, "twin.log")

    def _start_peer(self) -> None:
        self.peer = self._start("r2", self._keepalived("peer.conf", "peer-pids"), "peer.log")

    def _signal(self, process: subprocess.Popen[bytes] | None, number: int, *, tree: bool = False) -> None:
        assert process is not None
        if tree:
            os.killpg(process.pid, number)
            for pid in _tree(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        else:
            os.kill(process.pid, number)

    # ------------------------------------------------------------ steps

    def _do(self, order: str) -> None:
        verb, _, rest = order.partition(" ")
        if verb in ("carrier-down", "carrier-up"):
            ip("-n", self._ns("sw"), "link", "set", f"r1-{rest}", verb.removeprefix("carrier-"))
        elif verb in ("link-down", "link-up"):
            ip("-n", self._ns("r1"), "link", "set", rest, verb.removeprefix("link-"))
        elif verb == "write":
            name, _, text = rest.partition(" ")
            (self.folder / name).write_text(text + "\n")
        elif verb in ("run", "peer-run"):
            host = "r2" if verb == "peer-run" else "r1"
            words = ["ip", "netns", "exec", self._ns(host), "sh", "-c", self._fill(rest)]
            subprocess.run(words, check=True, capture_output=True)
        elif verb.startswith("peer-"):
            self._do_peer(verb.removeprefix("peer-"))
        elif verb == "reload":
            (self.folder / "twin.conf").write_text(self._fill(self.scenario["configs"][rest]))
            self._signal(self.twin, signal.SIGHUP)
        elif verb == "signal":
            self._signal(self.twin, getattr(signal, f"SIG{rest}"))
        elif verb == "stop":
            self._finish()
        else:
            raise ValueError(f"unknown step {order!r}")

    def _do_peer(self, verb: str) -> None:
        if verb == "start":
            self._start_peer()
            return
        assert self.peer is not None
        number = {"stop": signal.SIGTERM, "kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "thaw": signal.SIGCONT}[
            verb
        ]
        self._signal(self.peer, number, tree=verb != "stop")
        if verb in ("stop", "kill"):
            self.peer.wait(8)

    def _finish(self) -> None:
        if self.twin is not None and self.twin.poll() is None:
            self._signal(self.twin, signal.SIGTERM)
            self.twin.wait(10)
            time.sleep(0.3)  # the last notify scripts are not awaited by keepalived

    # ------------------------------------------------------------ the trace

    def _addresses(self) -> tuple[str, ...]:
        found = []
        namespace = self._ns("r1")
        for line in ip("-n", namespace, "-o", "addr", "show").splitlines():
            words = line.split()
            if words[1] == "lo" or words[3].startswith("fe80") or OWN_ADDRESS.match(words[3]):
                continue
            found.append(f"{words[3]}@{words[1]}")
        for family in ("-4", "-6"):
            routes = ip("-n", namespace, family, "route", "show", "table", "all", "proto", "18").splitlines()
            found += [f"route {' '.join(line.split())}" for line in routes]
            rules = ip("-n", namespace, family, "rule", "show").splitlines()
            found += [f"rule {' '.join(rule.split())}" for rule in rules if not KERNEL_RULE.match(rule)]
        return tuple(sorted(found))

    def _read_fifo(self) -> None:
        """Follows the FIFO by its path: keepalived makes a new one at each reload."""
        path = self.folder / "fifo"
        handle, inode, left, ended = -1, 0, b"", 0
        while ended < 2:  # once more after the end: what was written last
            ended += self._ended.is_set()
            with contextlib.suppress(OSError):
                if path.stat().st_ino != inode:
                    fresh = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                    left = self._take(handle, left)
                    if handle >= 0:
                        os.close(handle)
                    handle, inode = fresh, os.fstat(fresh).st_ino
            if handle < 0:
                time.sleep(0.005)
                continue
            if select.select([handle], [], [], 0.05)[0]:
                before = len(self._raw_fifo)
                left = self._take(handle, left)
                if len(self._raw_fifo) == before:
                    time.sleep(0.02)  # nobody has it open for writing
        if handle >= 0:
            os.close(handle)

    def _take(self, handle: int, left: bytes) -> bytes:
        """Reads what is there; returns the unfinished line."""
        while handle >= 0:
            try:
                data = os.read(handle, 65536)
            except BlockingIOError:
                break
            if not data:
                break
            now = time.time()
            *lines, left = (left + data).split(b"\n")
            self._raw_fifo += [(now, line.decode()) for line in lines]
            if self._raw_fifo and self._t0 is None:
                self._t0 = self._raw_fifo[0][0]
                self._first.set()
        return left

    def _sleep_until(self, at: float) -> None:
        assert self._t0 is not None
        time.sleep(max(0.0, self._t0 + at - time.time()))

    def _log(self, size: int = 4000) -> str:
        path = self.folder / "twin.log"
        return path.read_text(errors="replace")[-size:] if path.exists() else ""

    def _collect(self) -> None:
        t0 = self._t0 or 0.0
        self.trace.fifo = [(at - t0, line) for at, line in self._raw_fifo]
        log = self.folder / "notify.log"
        if log.exists():
            lines = [line.partition(" ") for line in log.read_text().splitlines()]
            self.trace.notify = sorted((float(at) - t0, text) for at, _, text in lines)
        self.trace.log = self._log(9000)

    def _close(self) -> None:
        for process in (self.twin, self.peer):
            if process is None:
                continue
            for pid in _tree(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)
        for name in self.names:
            for pid in ip("netns", "pids", name).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _tree(root: int) -> list[int]:
    """root and its living descendants."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                todo += [int(child) for child in task.read_text().split()]
    return found


# ---------------------------------------------------------------- comparing


def load(path: Path) -> dict[str, Any]:
    """The scenario of a file."""
    return tomllib.loads(path.read_text())


class Stillness:
    """How long this machine itself kept a thread waiting beyond its time: such a run measures nothing."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            self._ended.wait(0.02)
            self.longest_s = max(self.longest_s, time.monotonic() - began - 0.02)

    def end(self) -> float:
        """The longest, in seconds."""
        self._ended.set()
        self._thread.join()
        return self.longest_s


def run_twins(path: Path, folder: Path) -> tuple[Trace, Trace]:
    """The traces of keepalived and of holdfast, run side by side."""
    scenario = load(path)
    pairs = [
        Pair(scenario, program, f"tw{os.getpid()}{letter}{abs(hash(path.stem)) % 9973}", folder / program)
        for program, letter in (("keepalived", "k"), ("holdfast", "h"))
    ]
    failures: list[BaseException] = []

    def one(pair: Pair) -> None:
        try:
            pair.run()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(pair,)) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return pairs[0].trace, pairs[1].trace


def differences(scenario: dict[str, Any], theirs: Trace, ours: Trace) -> list[str]:
    """What differs beyond what the scenario accepts; empty when the twins are alike."""
    wanted = scenario.get("difference", {})
    found = []
    for name in ("fifo", "notify"):
        left, right = getattr(theirs, name), getattr(ours, name)
        if name in wanted:
            lines = [line for _, line in right]
            if lines != wanted[name]:
                found.append(f"{name}: wanted (on purpose unlike keepalived) {wanted[name]}, got {lines}")
            continue
        tolerance_s = 99.0 if wanted.get("times") else scenario.get("tolerance_s", TOLERANCE_S)
        found += _differ(name, left, right, tolerance_s)
    if "addresses" in wanted:
        got = [list(addresses) for _, addresses in ours.addresses]
        if got != wanted["addresses"]:
            found.append(f"addresses: wanted (on purpose unlike keepalived) {wanted['addresses']}, got {got}")
    else:
        for (step, left), (_, right) in zip(theirs.addresses, ours.addresses, strict=True):
            if left != right:
                found.append(f"addresses before {step!r}: keepalived {left}, holdfast {right}")
    return found


def _differ(name: str, left: list[tuple[float, str]], right: list[tuple[float, str]], tolerance_s: float) -> list[str]:
    """Differences of two timed lists of lines, subject by subject: what two subjects do at once has no order."""
    found = []
    subjects = sorted({_subject(line) for _, line in left + right})
    for subject in subjects:
        a = [(at, line) for at, line in left if _subject(line) == subject]
        b = [(at, line) for at, line in right if _subject(line) == subject]
        if [line for _, line in a] != [line for _, line in b]:
            found.append(f"{name} of {subject}: keepalived {[x for _, x in a]}, holdfast {[x for _, x in b]}")
            continue
        for (at_a, line), (at_b, _) in zip(a, b, strict=True):
            if abs(at_a - at_b) > tolerance_s:
                found.append(f"{name} {line!r}: keepalived at {at_a:.3f} s, holdfast at {at_b:.3f} s")
    return found


def _subject(line: str) -> str:
    """`INSTANCE "V"` of a FIFO line; the first two words of a notify call, or its one label."""
    words = line.split() or ["(no arguments)"]
    return " ".join(words[:2]) if words[0] in ("INSTANCE", "GROUP") else words[0].split(":")[0]
