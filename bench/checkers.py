"""CPU of a checkers cell per check, with many real servers in one process: TCP_CHECK, HTTP_GET, SSL_GET, UDP_CHECK.

python bench/checkers.py [--checks N] [--interval S] [--seconds N] [--kinds tcp,http,...] [--loop uvloop|asyncio]
                         [--dead N] [--json FILE]

The servers are another process; its CPU does not count, but the kernel's work for our sockets does. Each check has an
address of its own in 127.0.0.0/8, the room runs on the real bus with nobody listening. --dead: so many more servers
that are silent. Beside the CPU: how late checks start, and the longest time the loop stood still while the
configuration was taken in. SSL_GET is measured with a tenth of the checks: the server's handshakes cost more than ours.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import multiprocessing
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median

import msgspec
import uvloop

from holdfast.actors.checkers.actor import CheckersRoom, raise_descriptor_limit
from holdfast.actors.checkers.config import (
    Check,
    CheckersGlobals,
    Connection,
    HttpCheck,
    HttpUrl,
    ServerChecks,
    ServiceChecks,
    TcpCheck,
    UdpCheck,
)
from holdfast.actors.runtime.actor import Mailroom
from holdfast.actors.runtime.context import CellContext
from holdfast.bus.cellbus import CellBus
from holdfast.config.settings import Settings
from holdfast.kernel.timers import DeadlineHeap

PAGE = b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000


connections = multiprocessing.Value("L", 0, lock=False)
"""What the web server has accepted so far, plain and TLS."""


class Web(asyncio.Protocol):
    """Answers whatever comes with PAGE and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connections.value += 1
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(PAGE)  # type: ignore[attr-defined]
        self.transport.close()


class Echo(asyncio.DatagramProtocol):
    """Sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.transport.sendto(data, address)  # type: ignore[attr-defined]


def serve(folder: Path, ports: dict[str, int], ready: Event) -> None:
    """The process of the servers."""

    async def forever() -> None:
        loop = asyncio.get_running_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "cert.key")
        await loop.create_server(Web, "0.0.0.0", ports["http"], backlog=4096)
        await loop.create_server(Web, "0.0.0.0", ports["ssl"], backlog=4096, ssl=context)
        await loop.create_datagram_endpoint(Echo, ("0.0.0.0", ports["udp"]))
        ready.set()
        await asyncio.Event().wait()

    raise_descriptor_limit()
    uvloop.run(forever())


def free_ports() -> dict[str, int]:
    """One for each kind of server."""
    ports = {}
    with socket.socket() as first, socket.socket() as second, socket.socket(type=socket.SOCK_DGRAM) as third:
        for kind, sock in (("http", first), ("ssl", second), ("udp", third)):
            sock.bind(("0.0.0.0", 0))
            ports[kind] = sock.getsockname()[1]
    ports["tcp"] = ports["http"]
    return ports


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[dict[str, int]]:
    """The process with the servers, and their ports."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(folder / "cert.key"), "-out", str(folder / "cert.pem"), "-subj", "/CN=bench"]
    subprocess.run(command, check=True, capture_output=True)
    ports, ready = free_ports(), multiprocessing.Event()
    server = multiprocessing.Process(target=serve, args=(folder, ports, ready), daemon=True)
    server.start()
    ready.wait(30)
    try:
        yield ports
    finally:
        server.terminate()
        server.join()


def check_of(kind: str, place: int, port: int, interval_s: float) -> Check:
    """One check of an address of its own."""
    address = f"127.{1 + place // 62500}.{place // 250 % 250}.{1 + place % 250}"
    if kind == "udp":
        address = "127.0.0.1"  # where the answer comes from; the payload makes each check another
    target = Connection(address=address, port=port)
    timing = {"name": f"{kind}-{place}", "delay_loop_us": round(interval_s * 1e6), "warmup_us": round(interval_s * 1e6)}
    match kind:
        case "tcp":
            return TcpCheck(connection=target, **timing)  # type: ignore[arg-type]
        case "udp":
            return UdpCheck(connection=target, require_reply=True, payload=b"%d" % place, **timing)  # type: ignore[arg-type]
        case _:
            urls = (HttpUrl(path="/"),)
            return HttpCheck(connection=target, tls=kind == "ssl", urls=urls, **timing)  # type: ignore[arg-type]


def slices_of(checks: list[Check]) -> dict[str, bytes]:
    """Services of 10 servers with a check each."""
    slices = {"globals": msgspec.msgpack.encode(CheckersGlobals())}
    for start in range(0, len(checks), 10):
        servers = tuple(
            ServerChecks(server=f"[{start + place}]:tcp:80", address="127.0.0.1", port=80, weight=1, checks=(check,))  # type: ignore[arg-type]
            for place, check in enumerate(checks[start : start + 10])
        )
        service = ServiceChecks(service=f"vs{start}", protocol="tcp", servers=servers)
        slices[service.service] = msgspec.msgpack.encode(service)
    return slices


async def measure(checks: list[Check], seconds: float, interval_s: float, folder: Path) -> dict[str, float]:
    """The room with these checks for that long."""
    loop = asyncio.get_running_loop()
    mailroom = Mailroom(loop)
    mailroom.open()
    timers = DeadlineHeap(loop)
    bus = CellBus(loop, folder, "bench", "checkers")
    context = CellContext(
        node="bench", cell="checkers", run_dir=folder, bus=bus, loop=loop, timers=timers, settings=Settings()
    )
    room = CheckersRoom(context)
    context.slices("checkers", room.apply)
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    context.configure("checkers", 1, slices_of(checks))
    longest_s = 0.0
    task = asyncio.ensure_future(room.settled())
    while not task.done():
        turn = time.thread_time()
        await asyncio.sleep(0)
        longest_s = max(longest_s, time.thread_time() - turn)
    taken_in_s = time.perf_counter() - started
    memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mib
    await asyncio.sleep(1.2 + interval_s)  # the second after the start, and the warm-up
    gc.collect()
    gc.freeze()
    runs, cpu, at = count(room), resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    await asyncio.sleep(seconds)
    after = resource.getrusage(resource.RUSAGE_SELF)
    done, took = count(room) - runs, time.perf_counter() - at
    user, system = after.ru_utime - cpu.ru_utime, after.ru_stime - cpu.ru_stime
    used = user + system
    late = timers.late_us_log2
    down = [each.last.text for each in actors(room) if each.last is not None and not each.last.up]
    await room.stop()
    timers.close()
    mailroom.close()
    await asyncio.sleep(0)
    return {
        "checks": len(checks),
        "runs_per_s": done / took,
        "cpu_us_per_check": used / done * 1e6,
        "user_us_per_check": user / done * 1e6,
        "cpu_percent": used / took * 100,
        "down": len(down),
        "late_median_ms": quantile(late, 0.5),
        "late_p99_ms": quantile(late, 0.99),
        "taken_in_s": taken_in_s,
        "longest_turn_ms": longest_s * 1000,
        "kib_per_check": memory_mib * 1024 / len(checks),
    }


def actors(room: CheckersRoom):  # type: ignore[no-untyped-def]
    """The actors of the room, by pykka's own book."""
    for running in room.running.values():
        actor = room_actors(running.ref)
        if actor is not None:
            yield actor


def room_actors(ref):  # type: ignore[no-untyped-def]
    """The actor behind a reference."""
    return Mailroom.current().actors.get(ref.actor_urn)


def count(room: CheckersRoom) -> int:
    """Runs so far."""
    return sum(each.machine.runs for each in actors(room))


def quantile(histogram: list[int], share: float) -> float:
    """Upper bound in ms of that share of a log2 histogram of microseconds."""
    wanted, seen = sum(histogram) * share, 0
    for index, number in enumerate(histogram):
        seen += number
        if seen >= wanted:
            return float(2**index) / 1000
    return 0.0


def main() -> None:
    """Each kind in turn, three times; the median counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checks", type=int, default=1000)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default="tcp,http,ssl,udp")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    parser.add_argument("--dead", type=int, default=0)
    parser.add_argument("--json")
    options = parser.parse_args()
    raise_descriptor_limit()
    logging.disable(logging.CRITICAL)
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        ports = stack.enter_context(servers(folder))
        run = uvloop.run if options.loop == "uvloop" else asyncio.run
        with silent_port() as dead_port:
            for kind in options.kinds.split(","):
                rows = []
                for number in range(options.rounds):
                    number_of_checks = options.checks // 10 if kind == "ssl" else options.checks
                    checks = [check_of(kind, n, ports[kind], options.interval) for n in range(number_of_checks)]
                    checks += [check_of("tcp", n + 100_000, dead_port, options.interval) for n in range(options.dead)]
                    place = folder / f"{kind}-{number}"
                    place.mkdir()
                    rows.append(run(measure(checks, options.seconds, options.interval, place)))
                figures[kind] = {key: median(row[key] for row in rows) for key in rows[0]}
                print(kind, " ".join(f"{key}={value:.4g}" for key, value in figures[kind].items()), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2))
    sys.stdout.flush()


class silent_port:
    """A listener whose queue is full: what comes more is not answered."""

    def __enter__(self) -> int:
        self.sockets = [socket.socket()]
        listener = self.sockets[0]
        listener.bind(("0.0.0.0", 0))
        listener.listen(0)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", listener.getsockname()[1]))
            self.sockets.append(filler)
        return int(listener.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        for sock in self.sockets:
            sock.close()


if __name__ == "__main__":
    main()
