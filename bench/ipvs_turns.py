"""How long the director's and the checkers' cells stand still while a configuration of any size is taken in.

The two rooms run in this process on a table in memory (orders are encoded for netlink all the same) and a real bus;
every turn of the loop is timed, in processor time: what other programs take of the machine does not count. Start, a
reload of the same, one with every real server replaced, and back.

    python bench/ipvs_turns.py                       # one service with 10,000 servers; 2,277 with 37,205
    python bench/ipvs_turns.py --sizes 10x1000
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast.actors.checkers.actor import CheckersRoom
from holdfast.actors.ipvs.room import Room
from holdfast.actors.registry import TABLES
from holdfast.actors.runtime.actor import Mailroom
from holdfast.actors.runtime.context import CellContext
from holdfast.bus.cellbus import CellBus
from holdfast.config.loader import load
from holdfast.config.settings import Settings
from holdfast.kernel import ipvs_codec
from holdfast.kernel.fake_ipvs import FakeIpvs
from holdfast.kernel.ipvs_types import Order, Refusal
from holdfast.kernel.timers import DeadlineHeap

Slices = Mapping[str, Mapping[str, bytes]]


class Table(FakeIpvs):
    """A table in memory that encodes what it is told."""

    def apply(self, orders: Sequence[Order]) -> list[Refusal]:
        """Carries them out."""
        for order in orders:
            ipvs_codec.order_bytes(30, order, 1, ack=False)
        return super().apply(orders)


class Turns:
    """Times every callback that the loop runs."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        plain = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            started = time.thread_time()
            plain(handle)
            self.longest_s = max(self.longest_s, time.thread_time() - started)

        asyncio.Handle._run = timed

    def take(self) -> float:
        """The longest since the last call, milliseconds."""
        longest_s, self.longest_s = self.longest_s, 0.0
        return longest_s * 1000


def slices_of(text: str) -> Slices:
    """The rooms' parts of a configuration."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(text)
        file.flush()
        return load(file.name, TABLES).rooms


async def measure(first: Slices, second: Slices) -> None:
    """Both rooms through a start and three reloads."""
    loop = asyncio.get_running_loop()
    turns = Turns()
    Mailroom(loop).open()
    for name in ("ipvs", "checkers"):
        with tempfile.TemporaryDirectory(prefix="holdfast-turns-") as folder:
            bus = CellBus(loop, Path(folder), "lb1", name)
            context = CellContext(
                node="lb1",
                cell=name,
                run_dir=Path(folder),
                bus=bus,
                loop=loop,
                timers=DeadlineHeap(loop),
                settings=Settings(node="lb1"),
            )
            if name == "ipvs":
                director = Room(context, lambda namespace: Table())
                settled = director.settled
            else:
                checkers = CheckersRoom(context)
                context.slices("checkers", checkers.apply)
                settled = checkers.settled
            # As a cell does (runtime/cell.py).
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 50)
            await asyncio.sleep(0)  # this turn was the collection's
            for number, (what, slices) in enumerate(
                (("start", first), ("the same", first), ("every server replaced", second), ("and back", first)), 1
            ):
                turns.take()
                started = time.perf_counter()
                context.configure(name, number, dict(slices[name]))
                await settled()
                took_s = time.perf_counter() - started
                print(f"  {name:9} {what:22} {took_s:7.3f} s, longest turn {turns.take():6.1f} ms", flush=True)
            await context.run_stop_hooks() if name == "ipvs" else await checkers.stop()
            bus.close()


def main() -> None:
    """Every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1x10000,2277x37205", help="VIRTUALxREAL,...")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    spec = importlib.util.spec_from_file_location("ipvs_bench", Path(__file__).with_name("ipvs.py"))
    assert spec is not None and spec.loader is not None
    large = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(large)
    for size in options.sizes.split(","):
        services, _, servers = size.partition("x")
        text = large.configuration(int(services), int(servers))
        print(f"{services} virtual, {servers} real servers", flush=True)
        asyncio.run(measure(slices_of(text), slices_of(text.replace("real_server 10.", "real_server 11."))))


if __name__ == "__main__":
    main()
