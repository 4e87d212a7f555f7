"""A cell in a process of its own for the bus's tests: `bus_child.py RUN_DIR NAME [KEEP]`.

Reads one JSON list a line from standard input, `[method, arguments...]`, and answers with one JSON value a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from holdfast.bus import rundir
from holdfast.bus.base import Caller, Subscription
from holdfast.bus.cellbus import CellBus
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Command, Event, Failed, Reply
from holdfast.bus.store import read_left


class Told(Event, frozen=True, kw_only=True, tag="test.bus.told"):
    value: int
    filling: str = ""


class Double(Command, frozen=True, kw_only=True, tag="test.bus.double"):
    value: int


class Nobody(Command, frozen=True, kw_only=True, tag="test.bus.nobody"):
    pass


class Doubled(Reply, frozen=True, kw_only=True, tag="test.bus.doubled"):
    value: int
    pid: int
    caller: str


class Child:
    """What the lines on standard input call."""

    def __init__(self, loop: asyncio.AbstractEventLoop, run_dir: Path, name: str) -> None:
        self.loop = loop
        left = read_left(rundir.state_path(run_dir, name), "n", name)
        self.bus = CellBus(loop, run_dir, "n", name, left=left)
        self.bus.serve("double", self.double)
        self.bus.serve("slow", self.slow)
        self.bus.serve("broken", self.broken)
        self.bus.serve(f"own/{name}", self.double)
        self.subscription: Subscription | None = None
        self.values: list[int] = []
        self.state: dict[str, int] = {}

    def double(self, command: Command, caller: Caller) -> Reply:
        if not isinstance(command, Double):
            return Failed(code="what", message=str(command))
        return Doubled(value=2 * command.value, pid=os.getpid(), caller=f"{caller.node}/{caller.cell}")

    async def slow(self, command: Command, caller: Caller) -> Reply:
        assert isinstance(command, Double)
        await asyncio.sleep(command.value)
        return self.double(command, caller)

    def broken(self, command: Command, caller: Caller) -> Reply:
        raise RuntimeError("broken on purpose")

    def publish(self, subject: str, aspect: str, first: int, last: int, filling: int = 0, retain: bool = True) -> int:
        for value in range(first, last):
            self.bus.publish(subject, aspect, Told(value=value, filling="x" * filling), retain=retain)
        return last

    def many(self, count: int) -> int:
        for number in range(count):
            self.bus.publish(f"thing/{number}", "state", Told(value=number))
        return count

    def forget(self, subject: str, aspect: str) -> None:
        self.bus.forget(subject, aspect)

    def follow(self, prefix: str) -> None:
        self.subscription = self.bus.subscribe(prefix, self.handle)

    def handle(self, envelope: Envelope) -> None:
        if envelope.gone:
            self.state.pop(envelope.topic, None)
        elif isinstance(envelope.event, Told):
            self.values.append(envelope.event.value)
            self.state[envelope.topic] = envelope.event.value

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def report(self) -> dict[str, Any]:
        counters = self.bus.counters
        return {
            "state": self.state,
            "values": len(self.values),
            "last": self.values[-1] if self.values else None,
            "missed": self.subscription.missed if self.subscription is not None else 0,
            "dropped": counters.dropped,
            "slow": counters.slow,
            "bad": counters.bad,
            "errors": counters.handler_errors,
            "rss_kb": _status_kb("VmRSS"),
            "peak_kb": _status_kb("VmHWM"),
        }

    def close(self, removed: bool = False) -> None:
        self.bus.close(removed=removed)
        self.loop.call_soon(self.loop.stop)


def _status_kb(name: str) -> int:
    """Of this process since its exec (ru_maxrss would be inherited from the test runner)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise AssertionError(name)


def main() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    child = Child(loop, Path(sys.argv[1]), sys.argv[2])

    def call(line: str) -> None:
        method, *arguments = json.loads(line)
        print(json.dumps(getattr(child, method)(*arguments)), flush=True)

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(call, line)
        os._exit(0)  # the test is over

    threading.Thread(target=read, daemon=True).start()
    print(json.dumps(os.getpid()), flush=True)
    loop.run_forever()


if __name__ == "__main__":
    main()
