"""Two directors with VRRP, gateway and connection sync between a client and a server, all on one wire.

    cli 10.2.0.10 --+-- lb1 10.2.0.1, 10.3.0.1 --+-- srv 10.3.0.11 (default route: 10.3.0.254)
                    +-- lb2 10.2.0.2, 10.3.0.2 --+

Virtual: 10.2.0.100 (the service, NAT) and 10.3.0.254 (the way back), owned by one VRRP instance that does not preempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from twin import ZYGOTE, Forked
from world import Inside, Servers, run

from holdfast.actors.connsync.messages import SUBJECT, ConnSyncDescription, DescribeConnSync
from holdfast.bus import keys
from holdfast.bus.base import BusError
from holdfast.bus.client import Client

FOLDER = Path("/run/directors")
VIP, PORT = "10.2.0.100", 80
REAL = "10.3.0.11"
GATEWAY_PORT = 7420

CONFIG = """\
global_defs {{
  router_id {name}
}}
vrrp_instance VI_1 {{
  state BACKUP
  nopreempt
  interface eth0
  version 3
  virtual_router_id 51
  priority {priority}
  advert_int 0.5
  virtual_ipaddress {{
    {vip}/24
    10.3.0.254/24
  }}
}}
virtual_server {vip} {port} {{
  lvs_sched rr
  lvs_method NAT
  protocol TCP
  real_server {real} {port} {{
    weight 1
  }}
}}
"""
_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/eth0/send_redirects": "0",
}


class Director:
    """One director: its namespace, files and daemon. `boot` makes all of it anew, `die` is the end of the host."""

    def __init__(self, pair: Directors, number: int) -> None:
        self.pair = pair
        self.number = number
        self.name = f"lb{number}"
        self.folder = FOLDER / self.name
        self.run_dir = self.folder / "run"
        self.key = keys.generate(self.name)
        self.process: Forked | None = None

    def boot(self) -> None:
        """A namespace with an empty connection table, and the daemon in it."""
        name = self.name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        run("ip", "netns", "add", name)
        run("ip", "-n", "sw", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "-n", "sw", "link", "set", name, "up", "master", "br0")
        for words in (
            "link set lo up",
            "link set eth0 up",
            f"addr add 10.2.0.{self.number}/24 dev eth0",
            f"addr add 10.3.0.{self.number}/24 dev eth0",
        ):
            run("ip", "-n", name, *words.split())
        script = "".join(f"echo {value} > /proc/sys/{key}\n" for key, value in _SYSCTLS.items())
        run("ip", "netns", "exec", name, "sh", "-e", text=script)
        keys.write(self.key, self.folder / "key")
        text = CONFIG.format(name=name, priority=200 - self.number, vip=VIP, port=PORT, real=REAL)
        (self.folder / "conf").write_text(text + self.pair.extra_config)
        self.write_settings()
        self.start()

    def write_settings(self) -> None:
        """holdfast.toml with the other one as a peer."""
        other = next(each for each in self.pair.directors if each is not self)
        (self.folder / "toml").write_text(
            f"""\
node = "{self.name}"
[gateway]
listen = ["10.2.0.{self.number}:{GATEWAY_PORT}"]
key_file = "{self.folder}/key"
[[peers]]
name = "{other.name}"
key = "{other.key.public}"
role = "replica"
endpoint = "tcp://10.2.0.{other.number}:{GATEWAY_PORT}"
[journal]
enabled = false
[connsync]
enabled = {"true" if self.pair.connsync else "false"}
compare_every_s = 5.0
"""
        )

    def start(self) -> None:
        """The daemon alone."""
        words = ["run", "-n", "-l", "-f", str(self.folder / "conf"), "--settings", str(self.folder / "toml")]
        self.process = ZYGOTE.fork(self.name, [*words, "--run-dir", str(self.run_dir)], self.folder / "log")

    def die(self) -> None:
        """SIGKILL to all of it, and its cable is pulled: the host is dead. Its namespace goes with its table."""
        self.kill()
        run("ip", "-n", "sw", "link", "del", self.name, check=False)
        run("ip", "netns", "del", self.name, check=False)

    def kill(self) -> None:
        """SIGKILL to every process in the namespace at once."""
        for pid in run("ip", "netns", "pids", self.name, check=False).split():
            if int(pid) != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        if self.process is not None:
            self.process.wait(20)
            self.process = None

    def log(self) -> str:
        """What the daemon wrote."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def inside(self, *words: str, check: bool = True) -> str:
        """A command in the namespace."""
        return run("ip", "netns", "exec", self.name, *words, check=check)

    def status(self) -> dict[str, Any]:
        """What its connection sync says of itself; {} while nothing answers. The bus is a folder: no namespace."""
        try:
            with Client(self.run_dir) as client:
                answer = client.request(SUBJECT, DescribeConnSync(), timeout_s=5.0)
        except (BusError, OSError):
            return {}
        return dict(msgspec.to_builtins(answer.state)) if isinstance(answer, ConnSyncDescription) else {}

    def peer(self) -> dict[str, Any]:
        """How the other director stands with this one; {} while it does not."""
        return dict(next(iter(self.status().get("peers", [])), {}))

    def is_master(self) -> bool:
        """Whether the virtual address is here."""
        return VIP in self.inside("ip", "-4", "addr", "show", "dev", "eth0", check=False)

    def count(self) -> int:
        """How many connections its kernel has."""
        words = self.inside("wc", "-l", "/proc/net/ip_vs_conn_sync", check=False).split()
        return int(words[0]) - 1 if words else 0

    def connections(self, state: str = "ESTABLISHED") -> list[list[str]]:
        """Lines of the kernel's table in that state, as words."""
        lines = self.inside("cat", "/proc/net/ip_vs_conn_sync", check=False).splitlines()
        return [words for words in map(str.split, lines) if len(words) == 10 and words[7] == state]


class Talk:
    """One connection that never stops: a line there and back, each checked. error: what ended it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.rounds = 0
        self.longest_s = 0.0
        self.error = ""

    async def go_on(self, pause_s: float, stop: asyncio.Event, ready: asyncio.Semaphore) -> None:
        """Until it is stopped or broken."""
        try:
            async with ready:
                reader, writer = await asyncio.wait_for(asyncio.open_connection(VIP, PORT), 30)
            while not stop.is_set():
                text = f"{self.number} {self.rounds}\n".encode()
                asked = time.monotonic()
                writer.write(text)
                line = await asyncio.wait_for(reader.readline(), 60)
                if not line.endswith(text):
                    raise ConnectionResetError(f"{line!r} instead of {text!r}")
                self.rounds += 1
                self.longest_s = max(self.longest_s, time.monotonic() - asked)
                await asyncio.sleep(pause_s)
            writer.close()
        except (OSError, TimeoutError) as error:
            self.error = f"{type(error).__name__}: {error}"


class Crowd(Inside):
    """Many connections of the client at once."""

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace)
        self.talks: list[Talk] = []
        self._halt: asyncio.Event | None = None

    def begin(self, count: int, pause_s: float = 1.0) -> None:
        """Opens so many, twenty at a time."""
        self.do(self._begin(count, pause_s))

    async def _begin(self, count: int, pause_s: float) -> None:
        self._halt = asyncio.Event()
        ready = asyncio.Semaphore(20)
        self.talks = [Talk(number) for number in range(count)]
        self._tasks = [self.loop.create_task(each.go_on(pause_s, self._halt, ready)) for each in self.talks]

    def finish(self) -> None:
        """Closes all of them."""
        if self._halt is not None:
            self.loop.call_soon_threadsafe(self._halt.set)
            self.do(self._ended(), 90)

    async def _ended(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def errors(self) -> list[str]:
        """Of those that broke."""
        return [each.error for each in self.talks if each.error]

    def rounds(self) -> list[int]:
        """How often each has been answered."""
        return [each.rounds for each in self.talks]


class Directors:
    """`with Directors() as pair:`; both run when it begins, and everything is gone at the end."""

    def __init__(self, *, connsync: bool = True, extra_config: str = "") -> None:
        self.connsync = connsync
        self.extra_config = extra_config
        self.directors = [Director(self, 1), Director(self, 2)]
        self.crowd = Crowd("cli")
        self.server = Servers("srv")

    def __enter__(self) -> Directors:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        # Both ends of every connection are in this process.
        resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))
        for name in ("sw", "cli", "srv"):
            run("ip", "netns", "add", name)
        run("ip", "-n", "sw", "link", "add", "br0", "type", "bridge")
        run("ip", "-n", "sw", "link", "set", "br0", "up")
        for name, address in (("cli", "10.2.0.10/24"), ("srv", f"{REAL}/24")):
            run("ip", "-n", "sw", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "-n", "sw", "link", "set", name, "up", "master", "br0")
            for words in ("link set lo up", "link set eth0 up", f"addr add {address} dev eth0"):
                run("ip", "-n", name, *words.split())
            off = "echo 0 > /proc/sys/net/ipv4/conf/all/accept_redirects\n"
            off += "echo 0 > /proc/sys/net/ipv4/conf/eth0/accept_redirects\n"
            run("ip", "netns", "exec", name, "sh", "-e", text=off)
        run("ip", "-n", "srv", "route", "add", "default", "via", "10.3.0.254")
        self.crowd.open()
        self.server.open()
        self.server.up(REAL, PORT)
        for director in self.directors:
            director.boot()
        self.until(lambda: any(each.is_master() for each in self.directors), "a master", 60)

    @property
    def master(self) -> Director:
        """Who has the virtual address."""
        return next(each for each in self.directors if each.is_master())

    @property
    def backup(self) -> Director:
        """The other one."""
        return next(each for each in self.directors if not each.is_master())

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> float:
        """Waits for it; returns how long it took."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > timeout_s:
                logs = "\n".join(f"--- {each.name}\n{each.log()[-3000:]}" for each in self.directors)
                raise AssertionError(f"{what}: not within {timeout_s} s\n{logs}")
            time.sleep(0.1)
        return time.monotonic() - started

    def close(self) -> None:
        """Takes everything down."""
        # Before the directors: a connection that nobody carries would be waited for.
        with contextlib.suppress(Exception):
            self.crowd.finish()
        for director in self.directors:
            director.die()
        self.crowd.close()
        self.server.close()
        for name in ("cli", "srv", "sw"):
            run("ip", "netns", "del", name, check=False)
