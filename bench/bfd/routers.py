"""What the BFD measurements share: one program at each end of a cable, many sessions, the wire watched by the kernel.

Nobody's word is taken: states are read from the packets, times are the kernel's stamps at our end of the cable.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import HOLDFAST, NS, SEARCH, Lab, NetNs, bench_folder, cpu_s, finish, pss_mib, summary, table, tree, wait_until

FRR = Path("/usr/lib/frr")
OWN_REALTIME = ("keepalived", "holdfast")
"""They are asked for it in their configuration; the others, of one process for this, are run by chrt."""
PROGRAMS = ("keepalived", "frr", "bird", "holdfast")
SO_TIMESTAMPNS = 35
SO_RCVBUFFORCE = 33
UP, DOWN = 3, 1


def pairs(count: int) -> list[tuple[str, str]]:
    """(address of A, address of B) of each session."""
    return [(f"10.1.{n // 250}.{n % 250 + 1}", f"10.2.{n // 250}.{n % 250 + 1}") for n in range(count)]


class Program:
    """One program in a namespace with all sessions configured. core: run it on this one only."""

    def __init__(
        self, name: str, namespace: NetNs, sessions: list[tuple[str, str]], ms: float, mult: int, folder: Path
    ) -> None:
        self.name, self.namespace, self.sessions, self.ms, self.mult = name, namespace, sessions, ms, mult
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.folder.chmod(0o755)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.core: int | None = None
        self.realtime = False
        self.more = ""
        """More of a keepalived.conf."""

    def start(self) -> None:
        """Runs it."""
        getattr(self, f"_start_{self.name}")()

    def _run(self, *words: str) -> None:
        before = ["taskset", "-c", str(self.core)] if self.core is not None else []
        if self.realtime and self.name not in OWN_REALTIME:
            before += ["chrt", "-f", "20"]
        with (self.folder / "log").open("ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "cwd": self.folder}
            self.processes.append(self.namespace.popen([*before, *words], **options))

    def _keepalived_conf(self) -> Path:
        blocks = [
            f"bfd_instance b{n} {{\n  source_ip {mine}\n  neighbor_ip {theirs}\n  min_rx {self.ms:g}\n"
            f"  min_tx {self.ms:g}\n  multiplier {self.mult}\n}}\n"
            for n, (mine, theirs) in enumerate(self.sessions)
        ]
        path = self.folder / "keepalived.conf"
        priorities = "  bfd_rt_priority 20\n  vrrp_rt_priority 20\n" if self.realtime else ""
        path.write_text(f"global_defs {{\n  router_id bench\n{priorities}}}\n" + "".join(blocks) + self.more)
        return path

    def _start_keepalived(self) -> None:
        program = shutil.which("keepalived", path=SEARCH) or "keepalived"
        pids = [f"-{letter}{self.folder}/{letter}.pid" for letter in "prcb"]
        self._run(program, "-n", "-l", "-f", str(self._keepalived_conf()), *pids)

    def _start_holdfast(self) -> None:
        settings = self.folder / "holdfast.toml"
        settings.write_text(f'node = "bench"\n[journal]\npath = "{self.folder}/journal.db"\n')
        words = [HOLDFAST, "run", "-n", "-l", "-f", str(self._keepalived_conf()), "--settings", str(settings)]
        self._run(*words, "--run-dir", str(self.folder / "run"))

    def _start_bird(self) -> None:
        text = "router id 10.0.0.9;\nlog stderr all;\nprotocol device {}\nprotocol bfd b {\n"
        text += (
            f' interface "eth0" {{ interval {self.ms * 1000:g} us; idle tx interval 1 s; multiplier {self.mult}; }};\n'
        )
        text += "".join(f' neighbor {theirs} dev "eth0" local {mine};\n' for mine, theirs in self.sessions)
        (self.folder / "bird.conf").write_text(text + "}\n")
        program = shutil.which("bird", path=SEARCH) or "bird"
        self._run(program, "-f", "-c", str(self.folder / "bird.conf"), "-s", str(self.folder / "bird.ctl"))

    def _start_frr(self) -> None:
        shutil.chown(self.folder, "frr", "frr")
        text = ["bfd", " profile p", f"  receive-interval {self.ms:g}", f"  transmit-interval {self.ms:g}"]
        text += [f"  detect-multiplier {self.mult}", " exit"]
        for mine, theirs in self.sessions:
            text += [f" peer {theirs} local-address {mine} interface eth0", "  profile p", " exit"]
        conf = self.folder / "bfdd.conf"
        conf.write_text("\n".join([*text, "exit"]) + "\n")
        shutil.chown(conf, "frr", "frr")
        common = ["-z", f"{self.folder}/z.sock", "--vty_socket", str(self.folder), "-P", "0", "--log", "stdout"]
        self._run(str(FRR / "zebra"), "-i", f"{self.folder}/zebra.pid", *common)
        wait_until((self.folder / "z.sock").exists, what="zebra's socket")
        limits = ["--limit-fds", "20000", "--bfdctl", f"{self.folder}/bfdd.ctl"]
        self._run(str(FRR / "bfdd"), "-i", f"{self.folder}/bfdd.pid", *common, "-f", str(conf), *limits)

    def pids(self) -> list[int]:
        """Every process of it."""
        return [pid for process in self.processes for pid in tree(process.pid)]

    def signal(self, number: int) -> None:
        """To every process of it."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """Ends it for good."""
        self.signal(signal.SIGKILL)
        for process in self.processes:
            process.wait(10)

    def log(self) -> str:
        """The end of what it printed."""
        return (self.folder / "log").read_text(errors="replace")[-2000:]


@dataclass(slots=True)
class Seen:
    """A control packet. sent: A sent it. session: A's address, which tells sessions apart (discriminators change)."""

    at: int
    sent: bool
    state: int
    diagnostic: int
    session: bytes


class Tap:
    """Every BFD packet at A's end of the cable; not_up: only those whose state is not Up."""

    def __init__(self, namespace: NetNs, *, not_up: bool = False) -> None:
        with namespace.enter():
            # Protocol 0: it hears nothing before its filter is in place.
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        program = b"".join(
            struct.pack("@HBBI", *each)
            for each in (
                (0x28, 0, 0, 12),
                (0x15, 0, 8, 0x0800),
                (0x30, 0, 0, 23),
                (0x15, 0, 6, 17),
                (0x28, 0, 0, 36),
                (0x15, 0, 4, 3784),
                (0x30, 0, 0, 43),
                (0x54, 0, 0, 0xC0),
                (0x15, 1 if not_up else 0, 0, 0xC0),
                (0x06, 0, 0, 128),
                (0x06, 0, 0, 0),
            )
        )
        from holdfast.kernel.udp_batch import attach_filter  # noqa: PLC0415

        attach_filter(self.socket, program)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.bind(("eth0", 3))
        self.socket.settimeout(0.1)
        self.packets: list[Seen] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.is_set():
            try:
                data, control, _, address = self.socket.recvmsg(128, 64)
            except TimeoutError:
                continue
            seconds, nanoseconds = struct.unpack("qq", control[0][2][:16])
            stamp = seconds * NS + nanoseconds
            sent = address[2] == 4
            session = data[26:30] if sent else data[30:34]
            self.packets.append(Seen(stamp, sent, data[43] >> 6, data[42] & 31, session))

    def close(self) -> None:
        self._ended.set()
        self._thread.join(2)
        self.socket.close()


class Cable:
    """Two namespaces, A and B, with the addresses of `count` sessions, and a program at each end."""

    def __init__(self, lab: Lab, program: str, count: int, ms: float, mult: int, folder: Path) -> None:
        self.count = count
        self.a, self.b = lab.namespace("a"), lab.namespace("b")
        lab.veth(self.a, "eth0", self.b, "eth0")
        macs = {1: "02:00:00:00:00:01", 2: "02:00:00:00:00:02"}
        for number, namespace in ((1, self.a), (2, self.b)):
            other = 3 - number
            namespace.ip(f"link set eth0 address {macs[number]}")
            lines = [f"addr add 10.0.0.{number}/8 dev eth0"]
            lines += [f"neigh replace 10.0.0.{other} lladdr {macs[other]} nud permanent dev eth0"]
            lines += [f"addr add {pair[number - 1]}/32 dev eth0" for pair in pairs(count)]
            lines += [f"route add 10.{other}.0.0/16 via 10.0.0.{other} dev eth0"]
            namespace.ip_batch(lines)
            # The kernel looks for the source of each packet among its own addresses: a router has few of them.
            namespace.run(["sysctl", "-qw", "net.ipv4.conf.eth0.accept_local=1"])
        self.first = Program(program, self.a, pairs(count), ms, mult, folder)
        self.second = Program(program, self.b, [(b, a) for a, b in pairs(count)], ms, mult, folder)

    def start(self, limit_s: float) -> bool:
        """Runs both ends until all sessions are Up at both; False if they are not in time."""
        self.second.start()
        self.first.start()
        end = time.monotonic() + limit_s
        due_a_second = 2 * self.count * 1000 / self.first.ms
        while time.monotonic() < end:
            # Nobody says anything but Up for more than a second, and as many packets pass as there should: to watch
            # every packet would cost those who are watched.
            tap = Tap(self.a, not_up=True)
            packets, at = self.counters(), time.monotonic()
            time.sleep(1.2)
            rate = (self.counters() - packets) / (time.monotonic() - at)
            tap.close()
            if not tap.packets and rate >= due_a_second:
                return True
        return False

    def counters(self) -> int:
        """Packets that A sent and received so far."""
        folder = "/sys/class/net/eth0/statistics"
        return sum(map(int, self.a.run(["cat", f"{folder}/tx_packets", f"{folder}/rx_packets"]).split()))

    def stop(self) -> None:
        """Ends both programs."""
        self.first.stop()
        self.second.stop()


def missing() -> set[str]:
    """Programs that are not installed."""
    absent = {name for name in ("keepalived", "bird") if shutil.which(name, path=SEARCH) is None}
    return absent | (set() if (FRR / "bfdd").exists() else {"frr"})


__all__ = [
    "DOWN",
    "PROGRAMS",
    "UP",
    "Cable",
    "Lab",
    "NetNs",
    "Program",
    "Tap",
    "bench_folder",
    "cpu_s",
    "finish",
    "missing",
    "pairs",
    "pss_mib",
    "summary",
    "table",
    "wait_until",
]
