"""Events from one node to others over one nats-server with JetStream and TLS: how late, how many, how large.

    .venv/bin/python bench/bus/fleet_events.py [--nodes 1,10] [--rates 1000,2000,4000] [--seconds 5]

One process publishes at a steady rate as a gateway does (acknowledged, in batches), each other node follows it in a
process of its own. Latency is from the making of the frame to the follower's handler; all share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from fleet import NatsServer

from holdfast.actors.gateway.fleet import Fleet
from holdfast.actors.runtime.cell import new_loop
from holdfast.bus.counters import BusCounters, Counters
from holdfast.bus.envelope import Envelope, Frame, pack
from holdfast.bus.messages import EventId
from holdfast.bus.wire import Answer, Request
from holdfast.config.settings import GatewaySettings

PORT = 20998
TICKS = os.sysconf("SC_CLK_TCK")


async def nobody(_request: Request, _role: str, _name: str) -> Answer | None:
    """No commands here."""
    return None


def fleet_of(folder: Path, name: str, follow: str, came: object, joined: asyncio.Event) -> Fleet:
    """A connection."""
    settings = GatewaySettings(
        engine="nats",
        nats_servers=(f"tls://127.0.0.1:{PORT}",),
        nats_ca=str(folder / "ca.pem"),
        nats_certificate=str(folder / f"{name}.pem"),
        nats_key=str(folder / f"{name}.key"),
        nats_follow=(follow,),
        nats_keep_mb=200.0,
    )
    return Fleet(
        asyncio.get_running_loop(),
        name,
        settings,
        Counters("bench"),
        came=came,  # type: ignore[arg-type]
        beat=lambda _: None,
        asked=nobody,
        caught_up=joined.set,
        connected=lambda: None,
    )


async def follower(folder: Path, name: str, count: int, told: int, limit_s: float) -> None:
    """Takes so many events and tells how late they were."""
    late: list[int] = []
    joined, done = asyncio.Event(), asyncio.Event()

    def came(_topic: str, frame: Frame) -> None:
        late.append(time.time_ns() - frame.wall_ns)
        if len(late) >= count:
            done.set()

    fleet_of(folder, name, "n0", came, joined)
    await joined.wait()
    os.write(told, b"j\n")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), limit_s)
    late.sort()
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    found = {key: late[min(len(late) - 1, int(len(late) * at))] // 1000 for key, at in places.items()} if late else {}
    os.write(told, json.dumps({"received": len(late), **found}).encode() + b"\n")


async def publisher(folder: Path, rate: float, count: int) -> dict[str, float]:
    """Publishes at that rate; what it cost."""
    joined = asyncio.Event()
    fleet = fleet_of(folder, "n0", "n0", lambda *_: None, joined)
    await joined.wait()
    await asyncio.sleep(0.5)
    before, began, size = time.process_time(), time.monotonic(), 0
    for number in range(count):
        wait_s = began + number / rate - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        topic = f"n0/bench/t{number % 100}/state"
        envelope = Envelope(
            topic, EventId("n0", "bench", 1, number + 1), time.time_ns(), 0, (), BusCounters(cell="bench")
        )
        data = pack(envelope)
        size = len(data) + len(topic)
        fleet.publish(topic, data, f"{rate}/{number}")
    took = time.monotonic() - began
    while fleet._waiting:
        await asyncio.sleep(0.01)
    used = time.process_time() - before
    await fleet.close()
    return {"sent_per_s": round(count / took), "cpu_us": round(used / count * 1e6), "bytes": size}


def child(work: Callable[[], Coroutine[None, None, None]]) -> int:
    """Runs what it makes in a process of its own; its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        loop = new_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(work())
        os._exit(0)
    finally:
        os._exit(1)


def lines(fd: int, count: int) -> list[str]:
    """So many lines of a pipe."""
    data = b""
    while data.count(b"\n") < count:
        data += os.read(fd, 65536)
    return data.decode().splitlines()


def measure(nodes: int, rate: float, seconds: float) -> dict[str, object]:
    """One measurement with a server of its own."""
    count = int(rate * seconds)
    with tempfile.TemporaryDirectory(prefix="hf") as text:
        folder = Path(text) / "nats"
        names = [f"n{number}" for number in range(nodes + 1)]
        server = NatsServer(folder, None, "127.0.0.1", names, (), PORT)
        server.start()
        reading, writing = os.pipe()
        gc.freeze()
        pids = [child(partial(follower, folder, name, count, writing, seconds + 15)) for name in names[1:]]
        try:
            assert lines(reading, nodes) == ["j"] * nodes
            stat = f"/proc/{server.process.pid}/stat"  # type: ignore[union-attr]
            before = Path(stat).read_text().rpartition(")")[2].split()
            made = asyncio.run(publisher(folder, rate, count))
            found = [json.loads(line) for line in lines(reading, nodes)]
            after = Path(stat).read_text().rpartition(")")[2].split()
        finally:
            for pid in pids:
                os.waitpid(pid, 0)
            server.kill()
    used = sum(int(after[place]) - int(before[place]) for place in (11, 12)) / TICKS
    worst = max(found, key=lambda each: each.get("p99", 0))
    lost = sum(count - each["received"] for each in found)
    return {
        "nodes": nodes,
        "rate": rate,
        "lost": lost,
        **made,
        "server_cpu_us": round(used / count * 1e6),
        **{key: worst.get(key) for key in ("p50", "p90", "p99", "p999", "max")},
    }


def main() -> None:
    """A line for each."""
    words = argparse.ArgumentParser()
    words.add_argument("--nodes", default="1,10")
    words.add_argument("--rates", default="1000,2000,4000")
    words.add_argument("--seconds", type=float, default=5.0)
    given = words.parse_args()
    for nodes in given.nodes.split(","):
        for rate in given.rates.split(","):
            print(json.dumps(measure(int(nodes), float(rate), given.seconds)), flush=True)


if __name__ == "__main__":
    main()
