"""Neighbours for the BFD tests: our daemon, FRR's bfdd, BIRD 2, keepalived, each in a namespace, and the wire.

A peer is asked for its own view of the session, so that both ends have their say.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from netns import Lab, NetNs, wait_until

from holdfast.actors.bfd.messages import BfdSession, BfdSessions, BfdShow
from holdfast.bus.base import BusError
from holdfast.bus.client import Client
from holdfast.bus.messages import Command, Reply

HOLDFAST = str(Path(sys.executable).parent / "holdfast")
FRR = Path("/usr/lib/frr")
MISSING = [
    name
    for name, there in (
        ("frr", (FRR / "bfdd").exists()),
        ("bird", shutil.which("bird", path="/usr/sbin:/usr/bin:/sbin") is not None),
        ("keepalived", shutil.which("keepalived", path="/usr/sbin:/usr/bin:/sbin") is not None),
        ("tshark", shutil.which("tshark") is not None),
    )
    if not there
]


@dataclass
class Link:
    """What both ends of a session are told. mine: our address, theirs: the peer's."""

    family: int = 4
    multihop: bool = False
    ms: int = 100
    mult: int = 5

    @property
    def mine(self) -> str:
        return "10.77.0.1" if self.family == 4 else "fd77::1"

    @property
    def theirs(self) -> str:
        if self.multihop:
            return "10.79.0.2" if self.family == 4 else "fd79::2"
        return "10.77.0.2" if self.family == 4 else "fd77::2"


class World:
    """Our namespace, the peer's, a router between them for multihop, a capture of every packet."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.lab = Lab()
        self.folder = Path(tempfile.mkdtemp(prefix="hfbfd"))
        self.folder.chmod(0o755)
        self.us = self.lab.namespace("us")
        self.peer = self.lab.namespace("peer")
        self.capture: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> World:
        try:
            if self.link.multihop:
                self._routed()
            else:
                self.lab.veth(self.us, "eth0", self.peer, "eth0")
                for namespace, number in ((self.us, 1), (self.peer, 2)):
                    namespace.ip(f"addr add 10.77.0.{number}/24 dev eth0")
                    namespace.ip(f"addr add fd77::{number}/64 dev eth0 nodad")
        except BaseException:
            self.close()
            raise
        return self

    def _routed(self) -> None:
        router = self.lab.namespace("router")
        self.lab.veth(self.us, "eth0", router, "left")
        self.lab.veth(router, "right", self.peer, "eth0")
        router.sysctl("net.ipv4.ip_forward", 1)
        router.sysctl("net.ipv6.conf.all.forwarding", 1)
        self.us.ip("addr add 10.77.0.1/24 dev eth0")
        self.us.ip("addr add fd77::1/64 dev eth0 nodad")
        self.peer.ip("addr add 10.79.0.2/24 dev eth0")
        self.peer.ip("addr add fd79::2/64 dev eth0 nodad")
        for dev, v4, v6 in (("left", "10.77.0.9/24", "fd77::9/64"), ("right", "10.79.0.9/24", "fd79::9/64")):
            router.ip(f"addr add {v4} dev {dev}")
            router.ip(f"addr add {v6} dev {dev} nodad")
        self.us.ip("route add default via 10.77.0.9")
        self.us.ip("route add default via fd77::9")
        self.peer.ip("route add default via 10.79.0.9")
        self.peer.ip("route add default via fd79::9")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.lab.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def record(self) -> None:
        """Captures what passes our interface from now on."""
        self.capture = self.us.popen(
            ["tshark", "-q", "-i", "eth0", "-w", str(self.folder / "wire.pcap"), "-f", "udp"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until((self.folder / "wire.pcap").exists, what="tshark to begin")

    def recorded(self) -> list[dict[str, Any]]:
        """Ends the capture; each BFD packet as tshark understands it. Fails if it finds one malformed."""
        assert self.capture is not None
        self.capture.send_signal(signal.SIGINT)
        self.capture.wait(10)
        command = ["tshark", "-r", str(self.folder / "wire.pcap"), "-T", "json", "-o", "udp.check_checksum:TRUE"]
        command += ["-o", "ip.check_checksum:TRUE"]
        done = subprocess.run(command, capture_output=True, check=True)
        packets = [each["_source"]["layers"] for each in json.loads(done.stdout)]
        for layers in packets:
            assert "_ws.malformed" not in layers, layers
            # A peer's checksum is left to its network card, which a veth has not got.
            ours = self.link.mine in str(layers.get("ip", {}).get("ip.src", layers.get("ipv6", {}).get("ipv6.src")))
            assert not ours or layers["udp"]["udp.checksum.status"] == "1", layers
            assert "bfd" in layers or "bfd_echo" in layers or layers["udp"]["udp.dstport"] == "3785", layers
        return [layers for layers in packets if "bfd" in layers]

    def namespace_of(self, side: str) -> NetNs:
        return self.us if side == "us" else self.peer


@dataclass
class Ours:
    """The daemon under test."""

    world: World
    extra: str = ""
    toml: str = ""
    passive: bool = False
    ms: int = 0
    more: str = ""
    process: subprocess.Popen[bytes] | None = None
    folder: Path = field(init=False)
    side: str = "us"

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=self.world.folder))
        self.ms = self.ms or self.world.link.ms

    def write(self) -> None:
        link = self.world.link
        mine, theirs = (link.mine, link.theirs) if self.side == "us" else (link.theirs, link.mine)
        lines = [f"neighbor_ip {theirs}", f"source_ip {mine}", f"min_rx {self.ms}", f"min_tx {self.ms}"]
        lines += [f"multiplier {link.mult}", self.extra]
        if link.multihop:
            lines += ["multihop", "max_hops 255"]
        if self.passive:
            lines.append("passive")
        body = "\n  ".join(lines)
        (self.folder / "holdfast.conf").write_text(f"bfd_instance b0 {{\n  {body}\n}}\n{self.more}")
        (self.folder / "holdfast.toml").write_text(self.toml)

    def start(self) -> Ours:
        self.write()
        log = (self.folder / "log").open("ab")
        command = [HOLDFAST, "run", "-n", "-l", "-f", str(self.folder / "holdfast.conf")]
        command += ["--run-dir", str(self.folder / "run"), "--settings", str(self.folder / "holdfast.toml")]
        self.process = self.world.namespace_of(self.side).popen(command, stdout=log, stderr=log)
        return self

    def reload(self) -> None:
        self.write()
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)

    def request(self, command: Command) -> Reply:
        with Client(self.folder / "run") as client:
            return client.request("bfd", command)

    def session(self, name: str = "b0") -> BfdSession | None:
        with contextlib.suppress(BusError):
            answer = self.request(BfdShow())
            if isinstance(answer, BfdSessions):
                return next((each for each in answer.sessions if each.session == name), None)
        return None

    @property
    def up(self) -> bool:
        session = self.session()
        return session is not None and session.state.value == "Up"

    @property
    def state(self) -> str:
        session = self.session()
        return "" if session is None else session.state.value

    def log(self) -> str:
        return (self.folder / "log").read_text()


class Peer:
    """The other end. interval_ms: of both directions."""

    name = ""

    def __init__(self, world: World, *, ms: int = 0) -> None:
        self.world = world
        self.ms = ms or world.link.ms
        self.folder = Path(tempfile.mkdtemp(dir=world.folder))
        self.folder.chmod(0o755)
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def up(self) -> bool:
        raise NotImplementedError

    def start(self) -> Peer:
        raise NotImplementedError

    def retime(self, ms: int) -> None:
        """Changes both intervals while the session lives."""
        raise NotImplementedError

    def shut(self) -> None:
        """Takes the session away administratively."""
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL: no farewell."""
        for process in self.processes:
            process.kill()
            process.wait(10)
        self.processes.clear()

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        log = (self.folder / "log").open("ab")
        process = self.world.peer.popen(list(command), stdout=log, stderr=log, cwd=self.folder)
        self.processes.append(process)
        return process

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")


class Frr(Peer):
    """FRR's bfdd, with the zebra that it wants."""

    name = "frr"

    def __init__(self, world: World, *, ms: int = 0, echo: bool = False, passive: bool = False) -> None:
        super().__init__(world, ms=ms)
        self.echo = echo
        self.passive = passive
        shutil.chown(self.folder, "frr", "frr")

    @property
    def _peer(self) -> str:
        link = self.world.link
        text = f"peer {link.mine} local-address {link.theirs}"
        return text.replace(" local", " multihop local") if link.multihop else f"{text} interface eth0"

    def start(self) -> Frr:
        link = self.world.link
        lines = ["bfd", f" {self._peer}", f"  receive-interval {self.ms}", f"  transmit-interval {self.ms}"]
        lines += [f"  detect-multiplier {link.mult}"]
        if link.multihop:
            lines.append("  minimum-ttl 250")
        if self.echo:
            lines += ["  echo transmit-interval 50", "  echo receive-interval 50", "  echo-mode"]
        if self.passive:
            lines.append("  passive-mode")
        lines += ["  no shutdown", " exit", "exit"]
        conf = self.folder / "bfdd.conf"
        conf.write_text("log stdout\ndebug bfd peer\n" + "\n".join(lines) + "\n")
        shutil.chown(conf, "frr", "frr")
        common = ["-z", f"{self.folder}/z.sock", "--vty_socket", str(self.folder), "-P", "0", "--log", "stdout"]
        self._run(str(FRR / "zebra"), "-i", f"{self.folder}/zebra.pid", *common)
        wait_until((self.folder / "z.sock").exists, what="zebra's socket")
        control = ["--bfdctl", f"{self.folder}/bfdd.ctl"]
        self._run(str(FRR / "bfdd"), "-i", f"{self.folder}/bfdd.pid", *common, "-f", str(conf), *control)
        wait_until(lambda: self.view() is not None, what="bfdd to answer")
        return self

    def vtysh(self, *commands: str) -> str:
        arguments = [word for command in commands for word in ("-c", command)]
        done = subprocess.run(
            ["vtysh", "--vty_socket", str(self.folder), "-d", "bfdd", *arguments], capture_output=True, check=False
        )
        return done.stdout.decode()

    def view(self) -> dict[str, Any] | None:
        with contextlib.suppress(ValueError, IndexError):
            peers: list[dict[str, Any]] = json.loads(self.vtysh("show bfd peers json"))
            return peers[0]
        return None

    def counters(self) -> dict[str, Any]:
        peers: list[dict[str, Any]] = json.loads(self.vtysh("show bfd peers counters json"))
        return peers[0]

    @property
    def up(self) -> bool:
        view = self.view()
        return view is not None and view["status"] == "up"

    def _configure(self, *lines: str) -> None:
        self.vtysh("configure", "bfd", self._peer, *lines)

    def retime(self, ms: int) -> None:
        self._configure(f"receive-interval {ms}", f"transmit-interval {ms}")

    def shut(self) -> None:
        self._configure("shutdown")

    def open(self) -> None:
        self._configure("no shutdown")


class Bird(Peer):
    """BIRD 2. auth: its words, `meticulous keyed sha1` and so on."""

    name = "bird"

    def __init__(self, world: World, *, ms: int = 0, auth: str = "", password: str = "") -> None:
        super().__init__(world, ms=ms)
        self.auth = auth
        self.password = password

    def _configure(self) -> None:
        link = self.world.link
        options = f"interval {self.ms} ms; idle tx interval 1 s; multiplier {link.mult};"
        if self.auth:
            options += f' authentication {self.auth}; password "{self.password}" {{ id 7; }};'
        if link.multihop:
            text = f" multihop {{ {options} }};\n neighbor {link.mine} local {link.theirs} multihop yes;\n"
        else:
            text = f' interface "eth0" {{ {options} }};\n neighbor {link.mine} dev "eth0" local {link.theirs};\n'
        head = "router id 10.0.0.9;\nlog stderr all;\nprotocol device {}\nprotocol direct { ipv4; ipv6; }\n"
        head += "protocol static { ipv4; }\n"
        (self.folder / "bird.conf").write_text(f"{head}protocol bfd b {{\n debug {{ states, events }};\n{text}}}\n")

    def start(self) -> Bird:
        self._configure()
        bird = shutil.which("bird", path="/usr/sbin:/usr/bin:/sbin") or "bird"
        self._run(bird, "-f", "-c", f"{self.folder}/bird.conf", "-s", f"{self.folder}/bird.ctl")
        wait_until((self.folder / "bird.ctl").exists, what="BIRD's socket")
        return self

    def birdc(self, command: str) -> str:
        birdc = shutil.which("birdc", path="/usr/sbin:/usr/bin:/sbin") or "birdc"
        done = subprocess.run([birdc, "-s", f"{self.folder}/bird.ctl", command], capture_output=True, check=False)
        return done.stdout.decode()

    def view(self) -> list[str] | None:
        """[address, interface, state, since, interval, timeout]."""
        for line in self.birdc("show bfd sessions").splitlines():
            if line.startswith(self.world.link.mine):
                return line.split()
        return None

    @property
    def up(self) -> bool:
        view = self.view()
        return view is not None and view[2] == "Up"

    def retime(self, ms: int) -> None:
        self.ms = ms
        self._configure()
        self.birdc("configure")

    def shut(self) -> None:
        self.birdc("disable b")

    def open(self) -> None:
        self.birdc("enable b")


class Keepalived(Peer):
    """keepalived: its view is its log."""

    name = "keepalived"

    def _configure(self) -> None:
        link = self.world.link
        lines = [f"neighbor_ip {link.mine}", f"source_ip {link.theirs}", f"min_rx {self.ms}", f"min_tx {self.ms}"]
        lines.append(f"multiplier {link.mult}")
        body = "\n  ".join(lines)
        (self.folder / "k.conf").write_text(f"global_defs {{\n router_id k\n}}\nbfd_instance k0 {{\n  {body}\n}}\n")

    def start(self) -> Keepalived:
        self._configure()
        program = shutil.which("keepalived", path="/usr/sbin:/usr/bin:/sbin") or "keepalived"
        pids = [word for letter in "prcb" for word in (f"-{letter}", f"{self.folder}/{letter}.pid")]
        self._run(program, "-n", "-l", "-D", "-f", f"{self.folder}/k.conf", *pids)
        return self

    @property
    def up(self) -> bool:
        states = re.findall(r"\(k0\) Entering (\w+) state", self.log())
        return bool(states) and states[-1] == "Up"

    def retime(self, ms: int) -> None:
        self.ms = ms
        self._configure()
        self.processes[0].send_signal(signal.SIGHUP)


KINDS: dict[str, type[Peer]] = {"frr": Frr, "bird": Bird, "keepalived": Keepalived}


@contextlib.contextmanager
def together(link: Link, peer: str, **options: Any) -> Iterator[tuple[World, Ours, Peer]]:
    """A world with our daemon and a peer, both started, not yet Up."""
    with World(link) as world:
        ours = Ours(
            world, **{key: value for key, value in options.items() if key in ("extra", "toml", "passive", "more")}
        )
        rest = {key: value for key, value in options.items() if key not in ("extra", "toml", "passive", "more")}
        ours.start()
        other = KINDS[peer](world, **rest).start()
        yield world, ours, other


def both_up(ours: Ours, peer: Peer, timeout_s: float = 15.0) -> None:
    """Waits until both ends say so; their logs on failure."""
    try:
        wait_until(lambda: ours.up and peer.up, timeout_s=timeout_s, every_s=0.1, what="both ends Up")
    except AssertionError as error:
        raise AssertionError(f"{error}\n--- ours\n{ours.log()}\n{ours.session()}\n--- peer\n{peer.log()}") from None


def stays_up(ours: Ours, seconds: float) -> None:
    """Nothing goes down within these seconds: watched by the counter of losses, not by looking often."""
    before = ours.session()
    assert before is not None
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, timeout_s=seconds + 1, every_s=0.1)
    after = ours.session()
    assert after is not None
    assert (after.state.value, after.downs) == ("Up", before.downs), ours.log()
