"""A mesh of many gateways, each a process, on this machine: processor time and memory for each node.

    .venv/bin/python bench/bus/mesh.py [--nodes 10,25,50] [--seconds 10]

Each process is the gateway cell of a node without its other cells: all that grows with the number of nodes. Every node
calls every other over the loopback with CURVE, asks it twice a second, and publishes one event a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from holdfast.actors.gateway.actor import GatewayActor
from holdfast.actors.gateway.messages import PeerStatus
from holdfast.actors.runtime.actor import Mailroom
from holdfast.actors.runtime.context import CellContext
from holdfast.bus import keys
from holdfast.bus.cellbus import CellBus
from holdfast.bus.counters import BusCounters
from holdfast.config.settings import GatewaySettings, PeerSettings, Settings
from holdfast.kernel.timers import DeadlineHeap

TICKS = os.sysconf("SC_CLK_TCK")
FIRST_PORT = 21000


async def node(folder: Path, number: int, count: int) -> None:
    """One gateway; says `joined` when it reaches every other."""
    name = f"n{number}"
    run_dir = folder / name
    run_dir.mkdir()
    loop = asyncio.get_running_loop()
    mailroom = Mailroom(loop)
    mailroom.open()
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
    settings = msgspec.structs.replace(Settings(), node=name, gateway=gateway, peers=peers)
    bus = CellBus(loop, run_dir, name, "gateway", keep=False)
    context = CellContext(
        node=name, cell="gateway", run_dir=run_dir, bus=bus, loop=loop, timers=DeadlineHeap(loop), settings=settings
    )
    GatewayActor.start(context)
    (actor,) = mailroom.actors.values()
    assert isinstance(actor, GatewayActor)
    while True:
        reached = sum(peer.machine.state is PeerStatus.REACHABLE for peer in actor.peers.values())
        if reached == count - 1:
            break
        await asyncio.sleep(0.2)
    print("joined", flush=True)
    event = BusCounters(cell="bench")
    while True:
        bus.publish("bench/tick", "state", event)
        await asyncio.sleep(1.0)


def figures(pid: int) -> tuple[float, int]:
    """(processor seconds so far, resident kB) of a process."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    resident = next(line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if "Pss:" in line)
    return (int(words[11]) + int(words[12])) / TICKS, int(resident.split()[1])


def mesh(count: int, seconds: float) -> dict[str, float]:
    """One mesh; its figures."""
    with tempfile.TemporaryDirectory(prefix="hf") as text:
        folder = Path(text)
        for number in range(count):
            keys.write(keys.generate(f"n{number}"), folder / f"{number}.key")
        words = [sys.executable, __file__, "--child", str(folder), "--nodes", str(count), "--number"]
        begun = time.monotonic()
        children = [
            subprocess.Popen([*words, str(number)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            for number in range(count)
        ]
        try:
            for child in children:
                assert child.stdout is not None
                assert child.stdout.readline() == b"joined\n"
            joined = time.monotonic() - begun
            time.sleep(3)
            before = [figures(child.pid) for child in children]
            time.sleep(seconds)
            after = [figures(child.pid) for child in children]
        finally:
            for child in children:
                child.send_signal(signal.SIGKILL)
            for child in children:
                child.wait(10)
    used = [(now[0] - then[0]) / seconds for then, now in zip(before, after, strict=True)]
    return {
        "nodes": count,
        "joined_s": round(joined, 1),
        "cpu_percent": round(100 * sum(used) / count, 2),
        "memory_mb": round(sum(each[1] for each in after) / count / 1024, 1),
    }


def main() -> None:
    """Runs the meshes one after the other."""
    words = argparse.ArgumentParser()
    words.add_argument("--nodes", default="10,25,50")
    words.add_argument("--seconds", type=float, default=10.0)
    words.add_argument("--child", type=Path)
    words.add_argument("--number", type=int, default=0)
    given = words.parse_args()
    if given.child is not None:
        asyncio.run(node(given.child, given.number, int(given.nodes)))
        return
    for count in given.nodes.split(","):
        print(json.dumps(mesh(int(count), given.seconds)), flush=True)


if __name__ == "__main__":
    main()
