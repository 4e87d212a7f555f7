"""What the runtime and the bus cost: a tell, a publish, the way to another process, a cell put back, memory at rest.

    python bench/runtime.py [--rounds N]      # needs no root and no network

Cells are forked as the supervisor forks them; their room is empty, so the figures are the runtime's own. For the way
between processes zmq.asyncio stands beside our sockets in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pykka
import uvloop
import zmq
import zmq.asyncio

from holdfast.actors.runtime.actor import LoopActor, actor_ask
from holdfast.actors.runtime.loading import LoadedConfig
from holdfast.actors.runtime.messages import CellStateChanged, CellStatus
from holdfast.actors.runtime.options import Options
from holdfast.actors.runtime.supervisor import run
from holdfast.bus.cellbus import CellBus
from holdfast.bus.client import Client
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Event
from holdfast.config.settings import JournalSettings, Settings


class Stamp(Event, frozen=True, kw_only=True, tag="bench.stamp"):
    """When it was sent."""

    at_ns: int


def show(name: str, values: Sequence[float], unit: str) -> None:
    """Median, 99th percentile and the worst of a series."""
    ordered = sorted(values)
    median, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))]
    print(f"{name:52} median {median:9.1f}  p99 {p99:9.1f}  max {ordered[-1]:9.1f} {unit}")


class Counting(LoopActor):
    """Counts what it is told."""

    count = 0

    def on_receive(self, message: Any) -> Any:
        """One more."""
        Counting.count += 1
        return message


class Threaded(pykka.ThreadingActor):
    """pykka's own, for comparison."""

    def on_receive(self, message: Any) -> Any:
        """Answers."""
        return message


async def actors(rounds: int) -> None:
    """Processor time of a tell and an ask, over a thousand actors."""
    refs = [Counting.start() for _ in range(1000)]
    wanted = rounds * 100
    began = time.process_time()
    for number in range(wanted):
        refs[number % 1000].tell(number)
        if number % 1000 == 999:
            await asyncio.sleep(0)
    while Counting.count < wanted:
        await asyncio.sleep(0)
    spent = time.process_time() - began
    print(f"{'tell, over 1000 actors':52} {spent / wanted * 1e6:.1f} us each, {wanted / spent:.0f} a second")
    began = time.process_time()
    for number in range(rounds):
        await actor_ask(refs[number % 1000], number)
    print(f"{'ask inside the loop':52} {(time.process_time() - began) / rounds * 1e6:.1f} us each")
    for ref in refs:
        ref.stop(block=False)


def threads(rounds: int) -> None:
    """pykka's thread per actor."""
    ref = Threaded.start()
    began = time.perf_counter()
    for number in range(rounds):
        ref.ask(number)
    each_us = (time.perf_counter() - began) / rounds * 1e6
    print(f"{'ask of a pykka ThreadingActor, for comparison':52} {each_us:.1f} us each")
    ref.stop()


async def publish(run_dir: Path, rounds: int) -> None:
    """Processor time of one retained event without a listener."""
    bus = CellBus(asyncio.get_running_loop(), run_dir, "bench", "alone")
    began = time.process_time()
    for number in range(rounds):
        bus.publish("thing/a", "state", Stamp(at_ns=number))
    print(f"{'publish, retained and logged':52} {(time.process_time() - began) / rounds * 1e6:.1f} us each")
    bus.close()


async def latency(run_dir: Path, rounds: int) -> None:
    """From before `publish` in another process until the handler here."""
    loop = asyncio.get_running_loop()
    bus = CellBus(loop, run_dir, "bench", "reader")
    seen: list[float] = []
    done = loop.create_future()

    def heard(envelope: Envelope) -> None:
        assert isinstance(envelope.event, Stamp)
        seen.append((time.monotonic_ns() - envelope.event.at_ns) / 1000)
        if len(seen) == rounds:
            done.set_result(None)

    async def tell() -> None:
        other = CellBus(asyncio.get_running_loop(), run_dir, "bench", "writer")
        await asyncio.sleep(0.5)
        for _ in range(rounds):
            other.publish("thing/a", "state", Stamp(at_ns=time.monotonic_ns()))
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.5)
        other.close()

    bus.subscribe("thing/", heard)
    pid = apart(tell)
    await asyncio.wait_for(done, 60)
    os.waitpid(pid, 0)
    show("publish here, handler in another process", seen, "us")
    bus.close()


def apart(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Runs a coroutine in a forked process, on a loop of its own. Returns its pid."""
    pid = os.fork()
    if pid == 0:
        asyncio.set_event_loop(None)
        uvloop.run(work())
        os._exit(0)
    return pid


async def plain_zmq(directory: Path, rounds: int) -> None:
    """The same way with zmq.asyncio and nothing else."""
    endpoint = f"ipc://{directory}/plain"

    async def tell() -> None:
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.PUB)
        socket.bind(endpoint)
        await asyncio.sleep(0.5)
        for _ in range(rounds):
            await socket.send_multipart([b"t", b"%d" % time.monotonic_ns()])
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.5)
        context.destroy(0)

    pid = apart(tell)
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.SUB)
    socket.connect(endpoint)
    socket.subscribe(b"")
    seen = []
    for _ in range(rounds - 10):
        _, data = await asyncio.wait_for(socket.recv_multipart(), 60)
        seen.append((time.monotonic_ns() - int(data)) / 1000)
    context.destroy(0)
    os.waitpid(pid, 0)
    show("the same with zmq.asyncio alone", seen, "us")


def pss_kb(pid: int) -> int:
    """Proportional share of memory of one process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def processor_ms(pid: int) -> int:
    """Processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 10


def cells(directory: Path, kills: int) -> None:
    """A supervisor with two empty cells: how fast a killed one is back, and what all of them need at rest."""
    settings = Settings(node="bench", journal=JournalSettings(enabled=False))
    loaded = LoadedConfig({"vrrp": {"room": b""}, "notify": {"room": b""}}, "", 0, settings)
    options = Options(
        run_dir=directory / "run",
        load=lambda: loaded,
        starters={"vrrp": lambda context: None, "notify": lambda context: None},
    )
    pid = os.fork()
    if pid == 0:
        os._exit(run(options))
    back, whole = [], []
    with Client(options.run_dir) as client:
        states = client.follow("cell/protocol/state")

        def until(status: CellStatus) -> Envelope:
            while True:
                envelope = states.until(CellStateChanged, 30)
                if isinstance(envelope.event, CellStateChanged) and envelope.event.status is status:
                    return envelope

        running = until(CellStatus.RUNNING)
        for _ in range(kills):
            time.sleep(1.1)
            assert isinstance(running.event, CellStateChanged)
            killed_ns = time.monotonic_ns()
            os.kill(running.event.pid, signal.SIGKILL)
            running = until(CellStatus.RUNNING)
            assert isinstance(running.event, CellStateChanged)
            back.append(running.event.start_ms or 0.0)
            whole.append((running.mono_ns - killed_ns) / 1e6)
        show("a killed cell: from its death until it runs again", back, "ms")
        show("the same from the kill on", whole, "ms")
        children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        before = {each: processor_ms(each) for each in (pid, *children)}
        time.sleep(10)
        for each in (pid, *children):
            name = Path(f"/proc/{each}/comm").read_text().strip()
            print(f"{name:52} PSS {pss_kb(each)} kB, {processor_ms(each) - before[each]} ms of processor time in 10 s")
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # a killed cell is what is asked for
    directory = Path(tempfile.mkdtemp(prefix="holdfast-bench", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        cells(directory, arguments.kills)
        uvloop.run(actors(arguments.rounds))
        threads(arguments.rounds)
        uvloop.run(publish(directory / "alone", arguments.rounds))
        uvloop.run(latency(directory / "pair", arguments.rounds))
        uvloop.run(plain_zmq(directory, arguments.rounds))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
