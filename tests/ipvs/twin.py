"""keepalived and holdfast side by side: two equal worlds, each with its own IPVS table, servers, scripts and FIFO.

A world (world.py) is two network namespaces: `lb` with the daemon, and `srv`, where every address of the Internet is
local, so that the files of keepalived's own samples work as they are. Scenarios are the TOML files in `scenarios/`:

    title = "..."
    config = '''keepalived.conf; {dir} is a folder of the run, {notify} a program that writes its arguments down'''
    before = ["up 10.1.0.1 80"]           # before the daemon starts
    [[step]]
    title = "..."                          # the first step is the start itself
    do = ["down 10.1.0.1 80"]              # start, reload, stop, kill, wait, or world.World.carry_out
    config = '''...'''                     # a new configuration for `reload`
    settle_s = 2.0                         # at least so long
    expect = ["-a -t ..."]                 # lines that must be in the table (checked for both)
    accepted = "why the two differ here"   # only the tables are compared; docs/load-balancing.md has the difference
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from world import World, run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GRACE_S = 40.0
"""After `settle_s`, how long the two may take to agree."""

STOP_S = 60.0
"""How long a daemon may take to end: seconds when the machine is busy."""

POLL_S = 0.3
"""Between two looks at the tables: the guest has one processor, and looking costs some of it."""

START_S = 180.0
"""How long a daemon may take until its table has something in it."""


class Forked:
    """A daemon that the zygote forked; as much of Popen's face as is used here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """None while it lives."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    def wait(self, timeout: float) -> int:
        """As Popen.wait."""
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("holdfast", timeout)
            time.sleep(0.02)
        return 0

    def send_signal(self, number: int) -> None:
        """As Popen.send_signal."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """As Popen.terminate."""
        self.send_signal(signal.SIGTERM)


class Zygote:
    """Forks holdfast daemons (zygote.py). One for all scenarios, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def fork(self, namespace: str, argv: list[str], log: Path) -> Forked:
        """A daemon in the namespace; it writes to the log."""
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, str(HERE / "zygote.py")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                )
                assert self._answer() == "ready"
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"namespace": namespace, "argv": argv, "log": str(log)}) + "\n")
            self._process.stdin.flush()
            return Forked(int(self._answer()))

    def _answer(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """No daemon after this."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(10)
            self._process = None


ZYGOTE = Zygote()


class Daemon:
    """One of the two, in its world."""

    def __init__(self, kind: str, world: World, config: str) -> None:
        self.kind = kind
        self.world = world
        self.folder = world.folder
        self.config = self.folder / "test.conf"
        self.fifo = self.folder / "fifo"
        self.calls = self.folder / "calls"
        self.calls.touch()
        notify = self.folder / "notify"
        notify.write_text(f'#!/bin/sh\necho "$@" >> {self.calls}\n')
        notify.chmod(0o755)
        self.write(config)
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self.starts = 0
        self.lines: list[str] = []
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read_fifo, daemon=True)

    def write(self, config: str) -> None:
        """The configuration file."""
        text = config.replace("{dir}", str(self.folder)).replace("{notify}", str(self.folder / "notify"))
        self.config.write_text(text)

    def command(self) -> list[str]:
        """How it is started, without the namespace. holdfast: the arguments alone."""
        if self.kind == "keepalived":
            pids = [f"--{name}={self.folder}/{name}" for name in ("pid", "vrrp_pid", "checkers_pid", "bfd_pid")]
            daemon = ["keepalived", "-n", "-l", "-D", "-f", str(self.config), *pids]
        else:
            # Two cells instead of five: many daemons start in a guest with one processor. The one with the notify room
            # ends last, as it does by default.
            rooms = dict.fromkeys(("watch", "vrrp", "bfd", "checkers", "ipvs"), "all")
            rooms.update(notify="last", gateway="last", journal="last")
            settings = self.folder / "holdfast.toml"
            # A guest on a busy machine stands still for seconds: nobody is to be killed for that.
            text = "[cells]\nhung_after_s = 60.0\n[placement]\n"
            settings.write_text(text + "".join(f'{room} = "{cell}"\n' for room, cell in rooms.items()))
            daemon = ["run", "-n", "-l", "-f", str(self.config), "--settings", str(settings)]
            daemon += ["--run-dir", str(self.folder / "run")]
        return daemon

    def start(self) -> None:
        """Starts it, again after `kill`."""
        path = self.folder / "log"
        self.starts += 1
        if self.kind == "holdfast":
            self.process = ZYGOTE.fork(self.world.lb, self.command(), path)
        else:
            command = ["ip", "netns", "exec", self.world.lb, *self.command()]
            with path.open("ab") as log:
                self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
        if not self._reader.is_alive():
            self._reader.start()

    def _read_fifo(self) -> None:
        descriptor, rest = -1, b""
        while not self._ended.is_set():
            if descriptor < 0:
                try:
                    descriptor = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
                except OSError as problem:
                    assert problem.errno == errno.ENOENT, problem
                    time.sleep(0.1)
                    continue
            select.select([descriptor], [], [], 0.1)
            try:
                data = os.read(descriptor, 65536)
            except BlockingIOError:
                continue
            if not data:
                # Nobody writes just now; it may be another FIFO by the time somebody does.
                os.close(descriptor)
                descriptor = -1
                time.sleep(0.1)
                continue
            *lines, rest = (rest + data).split(b"\n")
            self.lines.extend(line.strip(b"\0").decode() for line in lines)
        if descriptor >= 0:
            os.close(descriptor)

    def reload(self, config: str | None) -> None:
        """A new configuration, and SIGHUP."""
        if config is not None:
            self.write(config)
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """SIGTERM, and waits for the end."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired as problem:
            raise AssertionError(f"{self.kind} does not stop:\n{self.log()[-3000:]}") from problem

    def kill(self) -> None:
        """SIGKILL to each of its processes at once."""
        assert self.process is not None
        for pid in run("ip", "netns", "pids", self.world.lb, check=False).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self.process.wait(10)

    def close(self) -> None:
        """No thread after this."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self._ended.set()
        if self._reader.is_alive():
            self._reader.join(5)

    def log(self) -> str:
        """What it wrote."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def glance(self) -> object:
        """All that can be compared, at little cost."""
        return self.world.glance(), sorted(self.lines), sorted(self.calls.read_text().splitlines())

    def seen(self) -> Seen:
        """All that can be compared."""
        return Seen(self.world.table(), sorted(self.lines), sorted(self.calls.read_text().splitlines()))


@dataclass
class Seen:
    """One daemon's effects so far."""

    table: list[str]
    fifo: list[str]
    calls: list[str]


@dataclass
class Step:
    """See the file's first lines."""

    title: str
    do: list[str] = field(default_factory=list)
    config: str | None = None
    settle_s: float = 2.0
    expect: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    accepted: str = ""


@dataclass
class Scenario:
    """See the file's first lines."""

    name: str
    title: str
    config: str
    before: list[str]
    steps: list[Step]


def read_scenario(path: Path) -> Scenario:
    """A scenario file. `sample = NAME` takes keepalived's own sample as the configuration."""
    raw = tomllib.loads(path.read_text())
    if "sample" in raw:
        config = (Path("/usr/share/doc/keepalived/samples") / raw["sample"]).read_text()
        for old, new in raw.get("adapt", []):
            assert old in config, (path.name, old)
            config = config.replace(old, new)
        config = raw.get("prefix", "") + config
    else:
        config = raw["config"]
    steps = [Step(**step) for step in raw.get("step", [])]
    return Scenario(path.stem, raw["title"], config, raw.get("before", []), steps)


def scenarios() -> list[Path]:
    """All of them."""
    return sorted((HERE / "scenarios").glob("*.toml"))


@contextlib.contextmanager
def twins(scenario: Scenario, kinds: tuple[str, ...]) -> Iterator[list[Daemon]]:
    """The daemons in their worlds, not started."""
    worlds: list[World] = []
    daemons: list[Daemon] = []
    try:
        for kind in kinds:
            world = World(f"{scenario.name[:40]}-{kind[0]}")
            worlds.append(world)
            world.open()
            for command in scenario.before:
                world.carry_out(shlex.split(command))
            daemons.append(Daemon(kind, world, scenario.config))
        yield daemons
    finally:
        for daemon in daemons:
            daemon.close()
        for world in worlds:
            world.close()


def carry_out(daemon: Daemon, step: Step) -> None:
    """What a step does to one daemon and its world."""
    for command in step.do:
        words = shlex.split(command)
        match words:
            case ["start"]:
                daemon.start()
            case ["reload"]:
                daemon.reload(step.config)
            case ["stop"]:
                daemon.stop()
            case ["kill"]:
                daemon.kill()
            case ["wait", text]:
                time.sleep(float(text))
            case _:
                daemon.world.carry_out(words)


def play(scenario: Scenario, kinds: tuple[str, ...] = ("keepalived", "holdfast")) -> list[str]:
    """Plays a scenario with both; returns what differs, in words. Raises for what `expect` and `absent` demand."""
    found: list[str] = []
    with twins(scenario, kinds) as daemons:
        for step in [Step("start", ["start"]), *scenario.steps] if not _starts(scenario) else scenario.steps:
            with ThreadPoolExecutor(len(daemons)) as pool:
                list(pool.map(carry_out, daemons, [step] * len(daemons)))
            found.extend(_compare(step, daemons))
        if found:
            found.extend(f"log of {daemon.kind}:\n{daemon.log()[-6000:]}" for daemon in daemons)
    return found


def _starts(scenario: Scenario) -> bool:
    return bool(scenario.steps) and "start" in scenario.steps[0].do


def _compare(step: Step, daemons: list[Daemon]) -> list[str]:
    if "start" in step.do:
        _wait_for_start(daemons)
    time.sleep(step.settle_s)
    deadline = time.monotonic() + GRACE_S
    before: object = None
    while True:
        glances = [daemon.glance() for daemon in daemons]
        late = time.monotonic() > deadline
        # ipvsadm is asked when it may matter: when something moved, or at the end.
        if glances != before or late:
            before = glances
            problems = _judge(step, daemons)
            if not problems or late:
                return problems
        time.sleep(POLL_S)


def _wait_for_start(daemons: list[Daemon]) -> None:
    """Until each has begun with the table, as often as it was started."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if all(daemon.log().count("nitializing ipvs") >= daemon.starts for daemon in daemons):
            return
        time.sleep(POLL_S)


def _judge(step: Step, daemons: list[Daemon]) -> list[str]:
    seen = [daemon.seen() for daemon in daemons]
    problems = _differences(step, daemons, seen)
    for daemon, here in zip(daemons, seen, strict=True):
        missing = [line for line in step.expect if line not in here.table]
        there = [text for text in step.absent if any(text in line for line in here.table)]
        if missing or there:
            problems.append(f"{step.title}: {daemon.kind} lacks {missing}, has {there}: {here.table}")
    return problems


def _differences(step: Step, daemons: list[Daemon], seen: list[Seen]) -> list[str]:
    first, *others = seen
    problems = []
    for daemon, other in zip(daemons[1:], others, strict=True):
        for what in ("table",) if step.accepted else ("table", "fifo", "calls"):
            here, there = getattr(first, what), getattr(other, what)
            if here != there:
                only_first = _without(here, there)
                only_other = _without(there, here)
                names = f"only {daemons[0].kind} {only_first}, only {daemon.kind} {only_other}"
                problems.append(f"{step.title}: {what}: {names}")
    return problems


def _without(some: list[str], others: list[str]) -> list[str]:
    left = list(others)
    rest = []
    for line in some:
        if line in left:
            left.remove(line)
        else:
            rest.append(line)
    return rest
