"""Two network namespaces of a test: `lb` with a daemon in it, and `srv`, where every address of the Internet is local.

The real servers live in a thread of the test that has entered `srv`, so that opening and closing one is instant. The
table is read over netlink while a test waits, and by ipvsadm when it judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from holdfast.kernel.ipvs import Ipvs

RUNS = Path("/run/twins")
SERVERS_SIDE = "10.255.0.1"
DAEMON_SIDE = "10.255.0.2"

_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
_CLONE_NEWNET = 0x40000000

_LB = """\
link set lo up
link add eth0 type veth peer name eth0 netns {srv}
addr add 10.255.0.2/24 dev eth0
addr add fd00:255::2/64 dev eth0 nodad
link set eth0 up
"""
_SRV = """\
link set lo up
addr add 10.255.0.1/24 dev eth0
addr add fd00:255::1/64 dev eth0 nodad
link set eth0 up
route add local 0.0.0.0/0 dev lo
route add local ::/0 dev lo
route add 10.255.0.2/32 dev eth0 table local
route add fd00:255::2/128 dev eth0 table local
"""
_ROUTES = """\
route add default via 10.255.0.1
route add default via fd00:255::1
"""


def run(*words: str, check: bool = True, text: str | None = None) -> str:
    """A command's output."""
    done = subprocess.run(words, check=False, capture_output=True, text=True, input=text)
    if check and done.returncode:
        raise AssertionError(f"{shlex.join(words)}: {done.stderr.strip()}")
    return done.stdout


def enter(namespace: str) -> None:
    """This thread is in the named network namespace from now on."""
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(descriptor)


class Echo(asyncio.DatagramProtocol):
    """Sends every datagram back."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


class Inside(threading.Thread):
    """A thread with a loop that has entered a network namespace."""

    def __init__(self, namespace: str) -> None:
        super().__init__(daemon=True)
        self.namespace = namespace
        self.loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._problem: OSError | None = None

    def run(self) -> None:
        try:
            enter(self.namespace)
        except OSError as problem:
            self._problem = problem
            return
        finally:
            self._ready.set()
        self.loop.run_forever()

    def open(self) -> None:
        """Starts the thread."""
        self.start()
        self._ready.wait()
        if self._problem is not None:
            raise self._problem

    def close(self) -> None:
        """Ends it."""
        if self.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.join(5)

    def do(self, work: Coroutine[Any, Any, Any], timeout_s: float = 10.0) -> Any:
        """Runs it there, waits for its end, returns what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)


class Servers(Inside):
    """Real servers: TCP ones answer each line with `NAMESPACE ADDRESS PORT LINE`, or with a page."""

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace)
        self._open: dict[tuple[str, int, str], Any] = {}
        self._pages: dict[tuple[str, int], tuple[int, bytes]] = {}
        self._connections: dict[tuple[str, int], set[asyncio.StreamWriter]] = {}

    def close(self) -> None:
        """Ends it with all that is open."""
        if self.is_alive():
            for address, port, _ in list(self._open):
                self.do(self._close(address, port))
        super().close()

    def up(self, address: str, port: int) -> None:
        """Accepts connections."""
        self.do(self._listen(address, port))

    def page(self, address: str, port: int, status: int, body: str) -> None:
        """Answers HTTP."""
        self._pages[address, port] = (status, body.encode())
        self.do(self._listen(address, port))

    def udp(self, address: str, port: int) -> None:
        """Answers datagrams."""
        self.do(self._datagrams(address, port))

    def down(self, address: str, port: int) -> None:
        """Refuses connections; those that there are end with a reset."""
        self.do(self._close(address, port))

    async def _datagrams(self, address: str, port: int) -> None:
        made = _socket(address, port, socket.SOCK_DGRAM)
        transport, _ = await self.loop.create_datagram_endpoint(Echo, sock=made)
        self._open[address, port, "udp"] = transport

    async def _listen(self, address: str, port: int) -> None:
        if (address, port, "tcp") in self._open:
            return

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            held = self._connections.setdefault((address, port), set())
            held.add(writer)
            try:
                await self._talk(reader, writer, address, port)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                held.discard(writer)
                writer.close()

        made = _socket(address, port, socket.SOCK_STREAM)
        self._open[address, port, "tcp"] = await asyncio.start_server(talk, sock=made, backlog=512)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, port: int) -> None:
        while line := await reader.readline():
            page = self._pages.get((address, port))
            if page is None:
                writer.write(f"{self.namespace} {address} {port} ".encode() + line)
                await writer.drain()
                continue
            while (await reader.readline()).strip():
                pass
            status, body = page
            head = f"HTTP/1.0 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            return

    async def _close(self, address: str, port: int) -> None:
        self._pages.pop((address, port), None)
        for kind in ("tcp", "udp"):
            found = self._open.pop((address, port, kind), None)
            if found is not None:
                found.close()
        for writer in list(self._connections.get((address, port), ())):
            with contextlib.suppress(OSError):
                writer.transport.abort()


def _socket(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A bound socket; the address need not be on an interface."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    made.bind((address, port))
    made.setblocking(False)
    return made


class World:
    """The namespaces and servers of one daemon."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lb = f"lb-{name}"
        self.srv = f"srv-{name}"
        self.folder = RUNS / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.servers = Servers(self.srv)
        self._ipvs: Ipvs | None = None
        self._loop = asyncio.new_event_loop()

    def open(self) -> None:
        """Builds the namespaces and starts the servers."""
        run("ip", "-batch", "-", text=f"netns add {self.lb}\nnetns add {self.srv}\n")
        run("ip", "-n", self.lb, "-batch", "-", text=_LB.format(srv=self.srv))
        run("ip", "-n", self.srv, "-batch", "-", text=_SRV)
        run("ip", "-n", self.lb, "-batch", "-", text=_ROUTES)
        self._ipvs = Ipvs(self.lb)
        self.servers.open()

    def close(self) -> None:
        """Takes everything down."""
        self.servers.close()
        if self._ipvs is not None:
            self._ipvs.close()
        self._loop.close()
        for namespace in (self.lb, self.srv):
            for pid in run("ip", "netns", "pids", namespace, check=False).split():
                if int(pid) != os.getpid():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            run("ip", "netns", "del", namespace, check=False)

    def carry_out(self, words: list[str]) -> None:
        """One command of a scenario: up, down, http, udp, silent, heard, vip, write, ipvsadm."""
        match words:
            case ["up", address, port]:
                self.servers.up(address, int(port))
            case ["down", address, port]:
                self.servers.down(address, int(port))
            case ["udp", address, port]:
                self.servers.udp(address, int(port))
            case ["http", address, port, status, *body]:
                self.servers.page(address, int(port), int(status), " ".join(body))
            case ["silent", address]:
                self._route("add", address)
            case ["heard", address]:
                self._route("del", address)
            case ["vip", "add" | "del" as do, address]:
                run("ip", "-n", self.lb, "addr", do, address, "dev", "lo")
            case ["write", name, *text]:
                path = self.folder / name
                part = path.with_suffix(".part")
                part.write_text(" ".join(text) + "\n")
                part.rename(path)
            case ["ipvsadm", *options]:
                run("ip", "netns", "exec", self.lb, "ipvsadm", *options)
            case _:
                raise AssertionError(f"not a command: {words}")

    def _route(self, do: str, address: str) -> None:
        family = ["-6"] if ":" in address else []
        run("ip", "-n", self.srv, *family, "route", do, "blackhole", address, "table", "local")

    def table(self) -> list[str]:
        """What `ipvsadm -Sn` says, sorted."""
        saved = run("ip", "netns", "exec", self.lb, "ipvsadm", "-Sn")
        return sorted(line.strip() for line in saved.splitlines() if line.strip())

    def glance(self) -> object:
        """The table over netlink, which costs no process; good for seeing whether it is still moving."""
        assert self._ipvs is not None
        ipvs = self._ipvs

        async def read() -> object:
            services = await ipvs.services()
            found = []
            for service in services:
                records = await ipvs.destinations(service.spec.key)
                found.append((service.spec, sorted(record.spec for record in records)))
            return sorted(found, key=repr)

        return self._loop.run_until_complete(read())
