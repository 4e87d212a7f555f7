"""A daemon of toy rooms for the supervisor's tests: `toy_daemon.py RUN_DIR CONFIG.json`.

The configuration: {"rooms": {room: {slice: text}}, "settings": {...}, "diagnostics": "", "exit_code": 0}.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from holdfast.actors.runtime.cell import CellContext, Generation
from holdfast.actors.runtime.loading import LoadedConfig
from holdfast.actors.runtime.options import Options
from holdfast.actors.runtime.supervisor import run
from holdfast.bus.base import Caller
from holdfast.bus.messages import Command, Event, Failed, Reply
from holdfast.config.settings import Settings


class ToyState(Event, frozen=True, kw_only=True, tag="toy.state"):
    room: str
    pid: int
    number: int
    slices: dict[str, str]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    initial: bool
    restored: int


class ToyCount(Event, frozen=True, kw_only=True, tag="toy.count"):
    count: int


class ToyOrder(Command, frozen=True, kw_only=True, tag="toy.order"):
    what: str


class ToyDone(Reply, frozen=True, kw_only=True, tag="toy.done"):
    pid: int
    value: int = 0


class ToyRoom:
    """Tells its configuration, counts on request, and breaks in several ways when asked to."""

    def __init__(self, ctx: CellContext, room: str) -> None:
        self.ctx = ctx
        self.room = room
        self.count = 0
        restored = [each for each in ctx.restored if each.subject == f"toy/{room}"]
        for envelope in restored:
            if isinstance(envelope.event, ToyCount):
                self.count = envelope.event.count
        self.restored = len(restored)
        ctx.slices(room, self.apply)
        ctx.bus.serve(f"toy/{room}", self.serve)
        ctx.on_stop(self.stop)
        ctx.on_dump(lambda: f"toy {room} counts {self.count}")
        ctx.on_statistics(lambda: f"statistics of toy {room}")

    def apply(self, generation: Generation) -> None:
        slices = {name: data.decode() for name, data in generation.slices.items()}
        if "die" in slices:
            os._exit(9)
        if "bad" in generation.changed and not generation.initial:
            raise ValueError("cannot take this")
        event = ToyState(
            room=self.room,
            pid=os.getpid(),
            number=generation.number,
            slices=slices,
            changed=tuple(sorted(generation.changed)),
            removed=tuple(sorted(generation.removed)),
            initial=generation.initial,
            restored=self.restored,
        )
        self.ctx.bus.publish(f"toy/{self.room}", "state", event)

    def serve(self, command: Command, caller: Caller) -> Reply:
        assert isinstance(command, ToyOrder)
        match command.what:
            case "count":
                self.count += 1
                self.ctx.bus.publish(f"toy/{self.room}", "count", ToyCount(count=self.count))
            case "hang":
                self.ctx.loop.call_later(0.1, time.sleep, 60)
            case "freeze":
                self.ctx.loop.call_later(0.1, os.kill, os.getpid(), signal.SIGSTOP)
            case "assert":
                self.ctx.loop.call_later(0.1, self.broken)
            case "lease":
                self.ctx.bus.publish(f"lease/{self.room}", "state", ToyCount(count=1))
            case "slow-stop":
                self.ctx.on_stop(lambda: asyncio.sleep(30))
            case _:
                return Failed(code="what", message=command.what)
        return ToyDone(pid=os.getpid(), value=self.count)

    def broken(self) -> None:
        raise AssertionError("an invariant")

    def stop(self) -> None:
        (self.ctx.run_dir.parent / f"stopped-{self.room}").write_text(f"{time.monotonic_ns()}")


def load(path: Path) -> LoadedConfig:
    raw = json.loads(path.read_text())
    if raw.get("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if raw.get("slow_s"):
        time.sleep(raw["slow_s"])
    settings = msgspec.convert({"node": "n1", "journal": {"enabled": False}, **raw.get("settings", {})}, Settings)
    slices = {room: {name: text.encode() for name, text in own.items()} for room, own in raw["rooms"].items()}
    return LoadedConfig(slices, raw.get("diagnostics", ""), raw.get("exit_code", 0), settings, str(path))


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(process)d %(name)s: %(message)s")
    run_dir, config = Path(sys.argv[1]), Path(sys.argv[2])
    rooms = ("vrrp", "notify", "ipvs", "bfd", "checkers", "watch")
    starters = {room: lambda ctx, room=room: ToyRoom(ctx, room) and None for room in rooms}
    options = Options(
        run_dir=run_dir,
        load=lambda: load(config),
        pid_file=run_dir.parent / "pid",
        data_file=run_dir.parent / "data",
        statistics_file=run_dir.parent / "stats",
        starters=starters,
    )
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
