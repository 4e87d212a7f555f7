"""A small network with a client, a director and three real servers, each in a namespace, all on one bridge.

    cli 10.2.0.10 --+                      +-- s1 10.3.0.11
                    +-- lb 10.2.0.1       -+-- s2 10.3.0.12
                        lb 10.3.0.1        +-- s3 10.3.0.13      (IPv6: fd02::/64 and fd03::/64 alike)

NAT answers go back through `lb`; answers that carry a virtual address (DR, TUN) go from the server straight to the
client.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from world import Inside, Servers, run

ROOT = Path(__file__).resolve().parents[2]
RUN_DIR = Path("/run/traffic")
VIP4, VIP6 = "10.2.0.100", "fd02::100"
NAMES = ("s1", "s2", "s3")


def real(number: int, family: int) -> str:
    """The address of a real server."""
    return f"10.3.0.1{number}" if family == 4 else f"fd03::1{number}"


_SWITCH = """\
link add br0 type bridge
link set br0 up
"""
_HOST = """\
link set lo up
link set eth0 up
addr add {v4} dev eth0
addr add {v6} dev eth0 nodad
"""
_SERVER = """\
addr add {vip4}/32 dev lo
addr add {vip6}/128 dev lo nodad
link set tunl0 up
link set ip6tnl0 up
route add default via 10.3.0.1
route add default via fd03::1
route add 10.2.0.0/24 dev eth0 table 100
route add fd02::/64 dev eth0 table 100
rule add from {vip4} lookup 100 pref 100
"""
_SYSCTLS = {
    "lb": {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"},
    "server": {
        # Both networks are on one wire: a server that heard of the direct way would not answer through the director.
        "net/ipv4/conf/all/accept_redirects": "0",
        "net/ipv4/conf/eth0/accept_redirects": "0",
        "net/ipv6/conf/all/accept_redirects": "0",
        "net/ipv6/conf/eth0/accept_redirects": "0",
        "net/ipv4/conf/all/arp_ignore": "1",
        "net/ipv4/conf/all/arp_announce": "2",
        "net/ipv4/conf/all/rp_filter": "0",
        "net/ipv4/conf/default/rp_filter": "0",
        "net/ipv4/conf/tunl0/rp_filter": "0",
        "net/ipv4/conf/eth0/rp_filter": "0",
    },
}


class Client(Inside):
    """Asks virtual servers. Every answer begins with the name of the namespace that gave it."""

    def ask(self, address: str, port: int, timeout_s: float = 3.0) -> str:
        """Who answers a new connection, with a reset at its end; an error's class name when nobody does."""
        return str(self.do(self._ask(address, port, timeout_s), timeout_s + 5))

    def answers(self, address: str, port: int, count: int = 6) -> set[str]:
        """Who answers a number of connections."""
        return {self.ask(address, port) for _ in range(count)}

    async def _ask(self, address: str, port: int, timeout_s: float) -> str:
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_connection(address, port)
                try:
                    writer.write(b"hello\n")
                    line = await reader.readline()
                finally:
                    # No TIME_WAIT: the next connection is a new one for the director too.
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.close()
        except (OSError, TimeoutError) as problem:
            return type(problem).__name__
        return line.decode().split(" ", 1)[0]

    def hold(self, address: str, port: int) -> Held:
        """A connection that stays."""
        held = Held(self)
        self.do(held.open(address, port))
        return held


class Held:
    """One long connection. who: the server that has it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.who = ""

    async def open(self, address: str, port: int) -> None:
        """Connects and hears who is there."""
        self._reader, self._writer = await asyncio.open_connection(address, port)
        self.who = (await self._talk()).split(" ", 1)[0]

    async def _talk(self) -> str:
        self._writer.write(b"still there?\n")
        async with asyncio.timeout(5):
            line = await self._reader.readline()
        if not line:
            raise ConnectionResetError("closed by the other side")
        return line.decode()

    def talk(self) -> str:
        """One line there and back."""
        return str(self.client.do(self._talk()))

    def close(self) -> None:
        """Ends it."""
        self.client.loop.call_soon_threadsafe(self._writer.close)

    def reset(self) -> None:
        """Ends it with a reset."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.loop.call_soon_threadsafe(self._writer.transport.abort)


class Net:
    """All of it, with a holdfast in `lb`."""

    def __init__(self, config: str) -> None:
        self.client = Client("cli")
        self.servers = {name: Servers(name) for name in NAMES}
        self.config = RUN_DIR / "test.conf"
        self.daemon: subprocess.Popen[bytes] | None = None
        RUN_DIR.mkdir(exist_ok=True)
        self.config.write_text(config)

    def open(self) -> None:
        """Builds the network; the daemon is not started."""
        hosts = ("cli", "lb", *NAMES)
        run("ip", "-batch", "-", text="".join(f"netns add {name}\n" for name in ("sw", *hosts)))
        switch = _SWITCH
        for name in hosts:
            switch += f"link add {name} type veth peer name eth0 netns {name}\n"
            switch += f"link set {name} up master br0\n"
        run("ip", "-n", "sw", "-batch", "-", text=switch)
        run("ip", "-n", "cli", "-batch", "-", text=_HOST.format(v4="10.2.0.10/24", v6="fd02::10/64"))
        lb = _HOST.format(v4="10.2.0.1/24", v6="fd02::1/64") + "addr add 10.3.0.1/24 dev eth0\n"
        lb += f"addr add fd03::1/64 dev eth0 nodad\naddr add {VIP4}/32 dev lo\naddr add {VIP6}/128 dev lo nodad\n"
        run("ip", "-n", "lb", "-batch", "-", text=lb)
        self._sysctls("lb", _SYSCTLS["lb"])
        for number, name in enumerate(NAMES, 1):
            host = _HOST.format(v4=f"{real(number, 4)}/24", v6=f"{real(number, 6)}/64")
            run("ip", "-n", name, "-batch", "-", text=host + _SERVER.format(vip4=VIP4, vip6=VIP6))
            run("ip", "-n", name, "-6", "rule", "add", "from", VIP6, "lookup", "100", "pref", "100")
            self._sysctls(name, _SYSCTLS["server"])
        # The client finds the virtual IPv6 address at the director: servers have it on lo and must not answer for it.
        mac = run("ip", "netns", "exec", "lb", "cat", "/sys/class/net/eth0/address").strip()
        run("ip", "-n", "cli", "-6", "neigh", "add", VIP6, "lladdr", mac, "dev", "eth0", "nud", "permanent")
        run("ip", "-n", "cli", "neigh", "add", VIP4, "lladdr", mac, "dev", "eth0", "nud", "permanent")
        self.client.open()
        for servers in self.servers.values():
            servers.open()

    def _sysctls(self, namespace: str, values: dict[str, str]) -> None:
        script = "".join(f"echo {value} > /proc/sys/{name}\n" for name, value in values.items())
        run("ip", "netns", "exec", namespace, "sh", "-e", text=script)

    def start(self) -> None:
        """Starts the daemon and waits for its table."""
        program = str(Path(sys.executable).parent / "holdfast")
        command = [program, "run", "-n", "-l", "-f", str(self.config), "--run-dir", str(RUN_DIR / "hf")]
        with (RUN_DIR / "log").open("ab") as log:
            self.daemon = subprocess.Popen(
                ["ip", "netns", "exec", "lb", *command], stdout=log, stderr=log, cwd=ROOT, start_new_session=True
            )

    def stop(self) -> None:
        """A clean stop."""
        assert self.daemon is not None
        if self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(20)

    def kill(self) -> None:
        """SIGKILL to the whole daemon at once."""
        assert self.daemon is not None
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.daemon.wait(10)

    def processes(self) -> list[int]:
        """Pids in the director's namespace."""
        return [int(pid) for pid in run("ip", "netns", "pids", "lb", check=False).split() if int(pid) != os.getpid()]

    def cell(self, name: str) -> int:
        """The pid of a cell of the daemon, from its log."""
        lines = self.log().splitlines()
        found = [line for line in lines if f"cell {name} runs as pid" in line]
        assert found, self.log()[-2000:]
        return int(found[-1].split("as pid ")[1].split()[0])

    def log(self) -> str:
        """What the daemon wrote."""
        path = RUN_DIR / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def holdfast(self, *words: str) -> str:
        """The command line, in the director's namespace."""
        program = str(Path(sys.executable).parent / "holdfast")
        return run("ip", "netns", "exec", "lb", program, *words, "--run-dir", str(RUN_DIR / "hf"))

    def table(self) -> list[str]:
        """`ipvsadm -Sn`, sorted."""
        saved = run("ip", "netns", "exec", "lb", "ipvsadm", "-Sn")
        return sorted(line.strip() for line in saved.splitlines())

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 15.0) -> float:
        """Waits for it; returns how long it took."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > timeout_s:
                raise AssertionError(f"{what}: not within {timeout_s} s\n{self.table()}\n{self.log()[-3000:]}")
            time.sleep(0.05)
        return time.monotonic() - started

    def has(self, *texts: str) -> bool:
        """Whether each text is in some line of the table."""
        table = "\n".join(self.table())
        return all(text in table for text in texts)

    def close(self) -> None:
        """Takes everything down."""
        if self.daemon is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
            if self.daemon.poll() is None:
                self.kill()
        self.client.close()
        for servers in self.servers.values():
            servers.close()
        for name in ("cli", "lb", *NAMES, "sw"):
            run("ip", "netns", "del", name, check=False)
