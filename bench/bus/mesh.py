"""Many gateways, each a process, on this machine: processor time and memory of each node.

    .venv/bin/python bench/bus/mesh.py [--nodes 10,25,50] [--engine mesh|nats] [--follow all|pair] [--seconds 20]

Each process is the gateway cell of a node without its other cells: all that grows with the number of nodes. They are
forked from one that has imported everything, as cells are. mesh: every node calls every other over the loopback with
CURVE and asks it twice a second. nats: they meet on one nats-server with TLS; `pair` follows one other node, `all` all.
Every node publishes one event each --every seconds. Memory is the proportional share of a process.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from fleet import NatsServer

from holdfast.actors.gateway import fleet as _fleet  # noqa: F401 - before the fork
from holdfast.actors.gateway.actor import GatewayActor
from holdfast.actors.gateway.messages import PeerStatus
from holdfast.actors.runtime.actor import Mailroom
from holdfast.actors.runtime.cell import new_loop
from holdfast.actors.runtime.context import CellContext
from holdfast.bus import keys
from holdfast.bus.cellbus import CellBus
from holdfast.bus.counters import BusCounters
from holdfast.config.settings import GatewaySettings, PeerSettings, Settings
from holdfast.kernel.timers import DeadlineHeap

TICKS = os.sysconf("SC_CLK_TCK")
FIRST_PORT = 21000
NATS_PORT = 20999
JOIN_S = 150.0


def settings_of(folder: Path, number: int, given: argparse.Namespace, count: int) -> tuple[Settings, int]:
    """(holdfast.toml of one node, how many others it is to reach)."""
    name = f"n{number}"
    if given.engine == "nats":
        partner = f"n{number ^ 1}"
        gateway = GatewaySettings(
            engine="nats",
            nats_servers=(f"tls://127.0.0.1:{NATS_PORT}",),
            nats_ca=str(folder / "nats" / "ca.pem"),
            nats_certificate=str(folder / "nats" / f"{name}.pem"),
            nats_key=str(folder / "nats" / f"{name}.key"),
            nats_follow=("*",) if given.follow == "all" else (partner,),
            nats_keep_mb=200.0,
        )
        return msgspec.structs.replace(
            Settings(), node=name, gateway=gateway
        ), count - 1 if given.follow == "all" else 1
    pairs = [keys.read(folder / f"{each}.key") for each in range(count)]
    peers = tuple(
        PeerSettings(
            name=f"n{other}",
            key=pairs[other].public,
            role="operator",
            endpoint=f"tcp://127.0.0.1:{FIRST_PORT + 2 * other}",
        )
        for other in range(count)
        if other != number
    )
    gateway = GatewaySettings(listen=(f"127.0.0.1:{FIRST_PORT + 2 * number}",), key_file=str(folder / f"{number}.key"))
    return msgspec.structs.replace(Settings(), node=name, gateway=gateway, peers=peers), count - 1


async def node(settings: Settings, others: int, run_dir: Path, every_s: float, told: int) -> None:
    """One gateway; says through `told` when it reaches every other, and then each second how many it reaches."""
    run_dir.mkdir()
    loop = asyncio.get_running_loop()
    mailroom = Mailroom(loop)
    mailroom.open()
    bus = CellBus(loop, run_dir, settings.node, "gateway", keep=False)
    context = CellContext(
        node=settings.node,
        cell="gateway",
        run_dir=run_dir,
        bus=bus,
        loop=loop,
        timers=DeadlineHeap(loop),
        settings=settings,
    )
    GatewayActor.start(context)
    (actor,) = mailroom.actors.values()
    assert isinstance(actor, GatewayActor)

    def reached() -> int:
        return sum(peer.machine.state is PeerStatus.REACHABLE for peer in actor.peers.values())

    while reached() < others:
        await asyncio.sleep(0.2)
    os.write(told, b"j")
    event = BusCounters(cell="bench")
    lost = False
    while True:
        bus.publish("bench/tick", "state", event)
        await asyncio.sleep(every_s)
        if not lost and reached() < others:
            lost = True
            os.write(told, b"l")


def figures(pid: int) -> tuple[float, int]:
    """(processor seconds so far, resident kB) of a process."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    resident = next(line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if "Pss:" in line)
    return (int(words[11]) + int(words[12])) / TICKS, int(resident.split()[1])


def spawn(folder: Path, number: int, given: argparse.Namespace, count: int, told: int) -> int:
    """Forks one node; its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        settings, others = settings_of(folder, number, given, count)
        loop = new_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(node(settings, others, folder / settings.node, given.every, told))
    finally:
        os._exit(1)


def until_told(told: int, count: int, seconds: float) -> int:
    """Until so many have said that they have joined; how many did."""
    os.set_blocking(told, False)
    end, joined = time.monotonic() + seconds, 0
    while joined < count and time.monotonic() < end:
        try:
            joined += os.read(told, 4096).count(b"j")
        except BlockingIOError:
            time.sleep(0.05)
    return joined


def measure(count: int, given: argparse.Namespace) -> dict[str, object]:
    """One mesh or fleet; its figures."""
    with tempfile.TemporaryDirectory(prefix="hf") as text:
        folder = Path(text)
        server = None
        if given.engine == "nats":
            server = NatsServer(
                folder / "nats", None, "127.0.0.1", [f"n{number}" for number in range(count)], (), NATS_PORT
            )
            server.start()
        else:
            for number in range(count):
                keys.write(keys.generate(f"n{number}"), folder / f"{number}.key")
        reading, writing = os.pipe()
        begun = time.monotonic()
        gc.freeze()
        children: list[int] = []
        try:
            for number in range(count):
                # Machines do not start in the same instant; here they would share two cores for their handshakes.
                children.append(spawn(folder, number, given, count, writing))
                time.sleep(given.stagger)
            joined = until_told(reading, count, JOIN_S)
            joined_s = time.monotonic() - begun
            time.sleep(5)
            until_told(reading, count, 0.1)
            pids = [*children, *([server.process.pid] if server is not None and server.process is not None else [])]
            before, began = [figures(pid) for pid in pids], time.monotonic()
            time.sleep(given.seconds)
            after, span = [figures(pid) for pid in pids], time.monotonic() - began
            try:
                lost = os.read(reading, 4096).count(b"l")
            except BlockingIOError:
                lost = 0
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
            for child in children:
                os.waitpid(child, 0)
            if server is not None:
                server.kill()
    used = [(now[0] - then[0]) / span for then, now in zip(before, after, strict=True)]
    found: dict[str, object] = {
        "nodes": count,
        "engine": given.engine,
        "follow": given.follow,
        "joined": joined,
        "joined_s": round(joined_s, 1),
        "missed_somebody": lost,
        "cpu_percent": round(100 * sum(used[:count]) / count, 2),
        "memory_mb": round(sum(each[1] for each in after[:count]) / count / 1024, 1),
    }
    if server is not None:
        found |= {"server_cpu_percent": round(100 * used[-1], 1), "server_memory_mb": round(after[-1][1] / 1024, 1)}
    return found


def main() -> None:
    """One after the other."""
    words = argparse.ArgumentParser()
    words.add_argument("--nodes", default="10,25,50")
    words.add_argument("--engine", choices=("mesh", "nats"), default="mesh")
    words.add_argument("--follow", choices=("all", "pair"), default="all")
    words.add_argument("--seconds", type=float, default=20.0)
    words.add_argument("--stagger", type=float, default=0.2)
    words.add_argument("--every", type=float, default=1.0)
    given = words.parse_args()
    for count in given.nodes.split(","):
        print(json.dumps(measure(int(count), given)), flush=True)


if __name__ == "__main__":
    main()
