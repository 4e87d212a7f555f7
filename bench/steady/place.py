"""Two routers with many instances on several cables, and an observer who believes neither of them.

The observer reads packet sockets in the first router's namespace with the kernel's own time stamps (every advert of
both sides, when it crossed the cable), and the kernel's address notifications in both namespaces (who owns what, from
when to when).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from lab import HOLDFAST, NS, SEARCH, Lab, NetNs, cpu_s, finish, pss_mib, table, tree, wait_until  # noqa: E402

__all__ = ["HOLDFAST", "NS", "Lab", "NetNs", "cpu_s", "finish", "pss_mib", "table", "tree"]

SO_TIMESTAMPNS = 35
SO_RCVBUFFORCE = 33
PACKET_OUTGOING = 4
FILTER = [
    (0x28, 0, 0, 12),
    (0x15, 0, 3, 0x800),
    (0x30, 0, 0, 23),
    (0x15, 0, 1, 112),
    (0x06, 0, 0, 0x40000),
    (6, 0, 0, 0),
]
"""A kernel filter: IPv4 and protocol 112, nothing else wakes us."""


class Advert(NamedTuple):
    """at: kernel's wall clock in ns. side: 0 the first router, 1 the second. key: (cable, VRID)."""

    at: int
    side: int
    key: tuple[int, int]
    priority: int


class Owned(NamedTuple):
    """An address came to (up) or left a side's interface; wall clock in ns, as soon as we were told."""

    at: int
    side: int
    address: str
    up: bool


class Plan(NamedTuple):
    """How many instances on how many cables, and their timers."""

    instances: int = 50
    cables: int = 1
    advert_s: float = 1.0
    priorities: tuple[int, int] = (200, 100)
    extra_globals: str = "  vrrp_rt_priority 40\n  vrrp_rlimit_rttime 1000000\n  vrrp_no_swap\n"

    def address(self, index: int) -> str:
        """The virtual address of an instance."""
        return f"10.{index % self.cables + 1}.{index // 200}.{index % 200 + 10}"

    def key(self, index: int) -> tuple[int, int]:
        """Cable and VRID of an instance."""
        return index % self.cables, index // self.cables + 1

    def config(self, side: int, *, names: str = "V", advert_s: float | None = None) -> str:
        """keepalived.conf of one side."""
        parts = [f"global_defs {{\n  router_id steady\n{self.extra_globals}}}\n"]
        for index in range(self.instances):
            cable, vrid = self.key(index)
            parts.append(
                f"vrrp_instance {names}{index} {{\n  interface eth{cable}\n  version 3\n  virtual_router_id {vrid}\n"
                f"  priority {self.priorities[side]}\n  advert_int {advert_s or self.advert_s:g}\n"
                f"  virtual_ipaddress {{\n    {self.address(index)}/32\n  }}\n}}\n"
            )
        return "".join(parts)


class Daemon:
    """One program in one namespace, run as an administrator would run it."""

    def __init__(self, program: str, namespace: NetNs, config: str, settings: str = "") -> None:
        self.program = program
        self.namespace = namespace
        self.folder = Path(tempfile.mkdtemp(prefix="hf"))
        self.folder.chmod(0o755)
        self.conf = self.folder / "conf"
        self.conf.write_text(config)
        self.run_dir = self.folder / "r"
        (self.folder / "toml").write_text(f'node = "n"\n{settings}[journal]\nenabled = false\n')
        self.process: subprocess.Popen[bytes] | None = None

    def words(self) -> list[str]:
        """The command line."""
        if self.program == "keepalived":
            pids = [f"-{letter}{self.folder}/{letter}.pid" for letter in "prcb"]
            return [shutil.which("keepalived", path=SEARCH) or "keepalived", "-nlP", f"-f{self.conf}", *pids]
        words = [HOLDFAST, "run", "-n", "-l", "-G", "-P", "-f", str(self.conf), "--settings", str(self.folder / "toml")]
        return [*words, "--run-dir", str(self.run_dir)]

    def start(self) -> int:
        """Starts it; the wall clock in ns just before."""
        with (self.folder / "log").open("ab") as log:
            at = time.time_ns()
            self.process = self.namespace.popen(self.words(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return at

    @property
    def pid(self) -> int:
        """Of the first process."""
        assert self.process is not None
        return self.process.pid

    def pids(self) -> list[int]:
        """All living processes."""
        return tree(self.pid)

    def cell(self, name: str) -> int:
        """The pid of one of our cells, or of keepalived's VRRP process."""
        if self.program == "keepalived":
            return self.pids()[-1]
        for pid in self.pids():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == f"hf-{name}"[:15]:
                    return pid
        return 0

    def signal_all(self, number: int) -> int:
        """To every process; the wall clock in ns just before."""
        pids = self.pids()
        at = time.time_ns()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return at

    def kill(self) -> int:
        """SIGKILL to all, and their end awaited."""
        pids = self.pids()
        at = self.signal_all(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)
        wait_until(lambda: not any(_lives(pid) for pid in pids), timeout_s=10, what="the end of all processes")
        return at

    def command(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """`holdfast WORDS --run-dir ...` in the namespace."""
        line = ["ip", "netns", "exec", self.namespace.name, HOLDFAST, *words, "--run-dir", str(self.run_dir)]
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=timeout_s)

    def log(self, characters: int = 3000) -> str:
        """The end of what it printed."""
        return (self.folder / "log").read_text(errors="replace")[-characters:]

    def close(self) -> None:
        """Ends it and its folder."""
        if self.process is not None and self.process.poll() is None:
            self.signal_all(signal.SIGCONT)
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Observer:
    """See the file's first lines."""

    def __init__(self, namespaces: tuple[NetNs, NetNs], cables: int) -> None:
        self.adverts: list[Advert] = []
        self.owned: list[Owned] = []
        self._open = True
        self._wires: dict[int, tuple[int, socket.socket]] = {}
        for cable in range(cables):
            with namespaces[0].enter():
                wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
                wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
                wire.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
                _filter(wire)
                wire.bind((f"eth{cable}", 3))
            wire.setblocking(False)
            self._wires[wire.fileno()] = cable, wire
        self._links: dict[int, tuple[int, socket.socket]] = {}
        for side, namespace in enumerate(namespaces):
            with namespace.enter():
                link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
                link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
                link.bind((0, 0x10))
            link.setblocking(False)
            self._links[link.fileno()] = side, link
        self._known: set[tuple[int, str]] = set()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        poll = select.poll()
        for descriptor in (*self._wires, *self._links):
            poll.register(descriptor, select.POLLIN)
        while self._open:
            ready = poll.poll(200)
            links = [fd for fd, _ in ready if fd in self._links]
            for descriptor in links:
                self._addresses(*self._links[descriptor])
            for descriptor, _ in ready:
                if descriptor in self._wires:
                    self._packets(*self._wires[descriptor])
            # Packets carry their own time: a nap after each look makes this thread cheap. Owners are stamped here.
            if not links:
                time.sleep(0.002)

    def _packets(self, cable: int, wire: socket.socket) -> None:
        adverts = self.adverts
        for _ in range(5000):
            try:
                data, control, _, address = wire.recvmsg(64, 64)
            except BlockingIOError:
                return
            seconds, nanoseconds = struct.unpack_from("qq", control[0][2])
            start = 14 + (data[14] & 15) * 4
            side = 0 if address[2] == PACKET_OUTGOING else 1
            adverts.append(Advert(seconds * NS + nanoseconds, side, (cable, data[start + 1]), data[start + 2]))

    def _addresses(self, side: int, link: socket.socket) -> None:
        while True:
            try:
                data = link.recv(65536)
            except BlockingIOError:
                return
            at = time.time_ns()
            offset = 0
            while offset + 16 <= len(data):
                length, kind = struct.unpack_from("=IH", data, offset)
                if kind in (20, 21):
                    self._address(at, side, kind == 20, data, offset + 24, offset + length)
                offset += (length + 3) & ~3

    def _address(self, at: int, side: int, up: bool, data: bytes, offset: int, end: int) -> None:
        while offset + 4 <= end:
            length, kind = struct.unpack_from("=HH", data, offset)
            if kind == 2:
                name = socket.inet_ntoa(data[offset + 4 : offset + 8])
                if up != ((side, name) in self._known):
                    (self._known.add if up else self._known.discard)((side, name))
                    self.owned.append(Owned(at, side, name, up))
                return
            offset += (length + 3) & ~3

    def since(self, at: int, side: int | None = None, *, above: int = 0, until: int = 1 << 62) -> list[Advert]:
        """Adverts in a span of time, with a priority above `above`."""
        return [
            each
            for each in list(self.adverts)
            if at <= each.at < until and each.priority > above and (side is None or each.side == side)
        ]

    def count(self, side: int) -> int:
        """How many addresses a side has now."""
        return sum(owner == side for owner, _ in list(self._known))

    def clear(self) -> None:
        """Forgets the adverts so far."""
        self.adverts.clear()

    def close(self) -> None:
        """No more."""
        self._open = False
        self._thread.join(2)
        for _, sock in (*self._wires.values(), *self._links.values()):
            sock.close()


def _filter(sock: socket.socket) -> None:
    import ctypes  # noqa: PLC0415

    code = b"".join(struct.pack("HBBI", *each) for each in FILTER)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP" if struct.calcsize("P") == 8 else "HxxP", len(FILTER), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, 26, program)


class Site:
    """Two namespaces, their cables, two daemons that are not started yet, and the observer."""

    def __init__(self, programs: tuple[str, str], plan: Plan, settings: str = "") -> None:
        self.plan = plan
        self.lab = Lab()
        self.namespaces = self.lab.namespace("a"), self.lab.namespace("b")
        for cable in range(plan.cables):
            self.lab.veth(self.namespaces[0], f"eth{cable}", self.namespaces[1], f"eth{cable}")
            for side, namespace in enumerate(self.namespaces, 1):
                namespace.ip(f"addr add 10.{cable + 1}.255.{side}/16 dev eth{cable}")
        self.daemons = tuple(
            Daemon(program, namespace, plan.config(side), settings)
            for side, (program, namespace) in enumerate(zip(programs, self.namespaces, strict=True))
        )
        self.observer = Observer(self.namespaces, plan.cables)

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self.daemons:
            daemon.close()
        self.observer.close()
        self.lab.close()

    def all_master(self, side: int, since: int, timeout_s: float = 60.0) -> float:
        """Waits until every instance of a side has sent an advert; seconds from `since` to the last one's first."""
        end = time.monotonic() + timeout_s
        while True:
            first: dict[tuple[int, int], int] = {}
            for each in self.observer.since(since, side):
                first.setdefault(each.key, each.at)
            if len(first) == self.plan.instances:
                return (max(first.values()) - since) / NS
            if time.monotonic() > end:
                raise AssertionError(f"{len(first)} of {self.plan.instances} MASTER\n{self.daemons[side].log()}")
            time.sleep(0.1)

    def settle(self) -> float:
        """Starts the first, then the second; both know each other. Returns the first's time to all MASTER."""
        at = self.daemons[0].start()
        took = self.all_master(0, at)
        self.daemons[1].start()
        wait_until(lambda: self.daemons[1].cell("protocol") != 0, timeout_s=60, what="the second router")
        time.sleep(max(2.0, 2.5 * self.plan.advert_s) + self.plan.instances / 500)
        return took


def gaps(adverts: Iterable[Advert]) -> dict[tuple[int, int], list[float]]:
    """Seconds between the adverts of each instance."""
    last: dict[tuple[int, int], int] = {}
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for each in adverts:
        if each.key in last:
            found[each.key].append((each.at - last[each.key]) / NS)
        last[each.key] = each.at
    return found


OWNER_HEADS = ("no owner, s (all / worst round)", "two owners, s (all / worst round)")


def owner_words(rounds: list[dict[str, float]], addresses: int) -> list[str]:
    """What OWNER_HEADS announces, of an address."""
    return [
        f"{sum(each[name] for each in rounds) / addresses:.3f} / {max(each[name] for each in rounds) / addresses:.3f}"
        for name in ("none_s", "two_s")
    ]


def shares(owned: Iterable[Owned], addresses: Iterable[str], since: int, until: int) -> tuple[float, float]:
    """Seconds with two owners and with none, over all addresses, between two instants."""
    wanted = set(addresses)
    history: dict[str, list[Owned]] = defaultdict(list)
    for each in owned:
        if each.address in wanted:
            history[each.address].append(each)
    two = none = 0.0
    for address in wanted:
        owners: set[int] = set()
        at = since
        for each in [*history[address], Owned(until, -1, address, True)]:
            if each.at > at:
                span = (min(each.at, until) - at) / NS
                two += span if len(owners) > 1 else 0
                none += span if not owners else 0
                at = min(each.at, until)
            if each.side >= 0:
                (owners.add if each.up else owners.discard)(each.side)
    return two, none


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


@contextlib.contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many processes that do nothing but count."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for each in others:
            each.kill()
            each.wait()
