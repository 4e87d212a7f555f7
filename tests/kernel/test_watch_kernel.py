"""The watch and notify rooms as a cell starts them, on the real kernel: links in a namespace, inotify, the process
connector, real scripts, a real FIFO."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from netns import Lab

from holdfast.actors.notify import actor as notify
from holdfast.actors.notify.config import Fifo, NotifyRoom, NotifyScripts, NotifyTarget
from holdfast.actors.runtime.actor import Mailroom
from holdfast.actors.runtime.context import CellContext
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged
from holdfast.actors.watch import actor as watch
from holdfast.actors.watch.config import Script, ScriptOptions, TrackFile, TrackProcess, TrackScript, WatchRoom
from holdfast.actors.watch.messages import FileValue, LinkAddresses, LinkState, ProcessQuorum, ScriptResult
from holdfast.bus.fake import FakeBus
from holdfast.bus.messages import Event, Reason, ReasonKind
from holdfast.config.settings import Settings
from holdfast.kernel.timers import DeadlineHeap

pytestmark = pytest.mark.netns

ROOT = ScriptOptions(user="root")


class Cell:
    """A cell with a bus in memory and everything else real."""

    def __init__(self, tmp_path: Path) -> None:
        loop = asyncio.get_running_loop()
        self.failures: list[BaseException] = []
        self.mailroom = Mailroom(loop, lambda _actor, error: self.failures.append(error))
        self.mailroom.open()
        self.bus = FakeBus("lb1", "protocol")
        self.timers = DeadlineHeap(loop)
        self.context = CellContext(
            node="lb1",
            cell="protocol",
            run_dir=tmp_path,
            bus=self.bus,
            loop=loop,
            timers=self.timers,
            settings=Settings(),
        )

    def configure(self, room: str, config: msgspec.Struct, number: int = 1) -> None:
        self.context.configure(room, number, {"room": msgspec.msgpack.encode(config)})

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(2000):
            if condition():
                assert self.failures == []
                return
            await asyncio.sleep(0.005)
        raise AssertionError("it never happened")

    def last(self, subject: str, aspect: str = "state") -> Event | None:
        return self.bus.retained_event(subject, aspect)


@asynccontextmanager
async def a_cell(tmp_path: Path) -> AsyncIterator[Cell]:
    cell = Cell(tmp_path)
    try:
        yield cell
    finally:
        await cell.context.run_stop_hooks()
        cell.timers.close()
        cell.mailroom.close()


def executable(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_links_and_addresses_of_a_namespace(tmp_path: Path) -> None:
    async def story(lab: Lab) -> None:
        ns, far = lab.namespace("a"), lab.namespace("b")
        lab.veth(ns, "eth0", far, "eth0")
        with ns.enter():
            cell = Cell(tmp_path)
            watch.start(cell.context)
        try:
            cell.configure("watch", WatchRoom())
            await cell.until(lambda: isinstance(event := cell.last("link/eth0"), LinkState) and event.up)
            ns.ip("addr add 10.1.2.3/24 dev eth0")
            await cell.until(
                lambda: (
                    isinstance(event := cell.last("link/eth0", "addresses"), LinkAddresses)
                    and "10.1.2.3/24" in event.addresses
                )
            )
            far.ip("link set eth0 down")
            await cell.until(lambda: isinstance(event := cell.last("link/eth0"), LinkState) and not event.up)
            far.ip("link set eth0 up")
            await cell.until(lambda: isinstance(event := cell.last("link/eth0"), LinkState) and event.up)
            ns.ip("link del eth0")
            await cell.until(lambda: cell.last("link/eth0") is None)
            (*_, gone) = (event for event in cell.bus.events(LinkState) if isinstance(event, LinkState))
            assert not gone.exists
            lab.veth(ns, "eth0", far, "eth1")
            await cell.until(lambda: isinstance(event := cell.last("link/eth0"), LinkState) and event.up)
        finally:
            await cell.context.run_stop_hooks()
            cell.timers.close()
            cell.mailroom.close()

    with Lab() as lab:
        asyncio.run(story(lab))


def test_files_processes_and_scripts(tmp_path: Path) -> None:
    """`sleep` under a name of its own is the process that is looked for."""
    value, directory = tmp_path / "d" / "value", tmp_path / "d"
    directory.mkdir()
    program = tmp_path / "hf-looked-for"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    check = executable(tmp_path / "check", f"test -e {tmp_path}/good")

    async def story() -> None:
        async with a_cell(tmp_path) as cell:
            watch.start(cell.context)
            cell.configure(
                "watch",
                WatchRoom(
                    files=(TrackFile(name="f", path=str(value)),),
                    processes=(TrackProcess(name="p", path="hf-looked-for"),),
                    scripts=(
                        TrackScript(
                            name="s", command=Script(argv=(str(check),)), interval_us=50_000, timeout_us=10_000_000
                        ),
                    ),
                    script_options=ROOT,
                ),
            )
            await cell.until(lambda: isinstance(event := cell.last("script/s"), ScriptResult) and not event.ok)
            (tmp_path / "good").touch()
            await cell.until(lambda: isinstance(event := cell.last("script/s"), ScriptResult) and event.ok)

            value.write_text("12")
            await cell.until(lambda: isinstance(event := cell.last("file/f"), FileValue) and event.value == 12)
            (new := directory / "new").write_text("0x10")
            new.rename(value)
            await cell.until(lambda: isinstance(event := cell.last("file/f"), FileValue) and event.value == 16)
            shutil.rmtree(directory)
            await cell.until(lambda: isinstance(event := cell.last("file/f"), FileValue) and not event.readable)
            directory.mkdir()
            value.write_text("3")
            await cell.until(lambda: isinstance(event := cell.last("file/f"), FileValue) and event.value == 3)
            value.write_text("4")
            await cell.until(lambda: isinstance(event := cell.last("file/f"), FileValue) and event.value == 4)

            await cell.until(lambda: isinstance(event := cell.last("process/p"), ProcessQuorum) and not event.achieved)
            process = subprocess.Popen([program, "60"])
            try:
                await cell.until(lambda: isinstance(event := cell.last("process/p"), ProcessQuorum) and event.achieved)
            finally:
                process.kill()
                process.wait()
            await cell.until(lambda: isinstance(event := cell.last("process/p"), ProcessQuorum) and not event.achieved)

    asyncio.run(story())


def test_scripts_and_fifo_hear_of_transitions(tmp_path: Path) -> None:
    log, fifo, heard = tmp_path / "log", tmp_path / "fifo", tmp_path / "heard"
    script = executable(tmp_path / "notify", f'echo "$@" >> {log}')
    reader = executable(tmp_path / "reader", f'exec cat "$1" >> {heard}')

    async def story() -> None:
        async with a_cell(tmp_path) as cell:
            scripts = NotifyScripts(any=Script(argv=(str(script), "own word")))
            room = NotifyRoom(
                targets=(NotifyTarget(kind="INSTANCE", name="VI_1", scripts=scripts),),
                script_options=ROOT,
                fifo=Fifo(path=str(fifo), script=Script(argv=(str(reader),))),
            )
            cell.configure("notify", room)
            notify.start(cell.context)
            states = (VrrpState.BACKUP, VrrpState.MASTER, VrrpState.FAULT, VrrpState.BACKUP)
            for state in states:
                event = VrrpStateChanged(
                    instance="VI_1",
                    old=VrrpState.INIT,
                    state=state,
                    priority=101,
                    since_mono_ns=1,
                    reason=Reason(kind=ReasonKind.PEER_SILENT, node="lb1", subject="vrrp/VI_1"),
                    vrid=1,
                    family=4,
                    interface="eth0",
                    addresses=(),
                )
                cell.bus.publish("vrrp/VI_1", "state", event)
            await cell.until(lambda: log.exists() and log.read_text().count("\n") == 4)
            assert log.read_text().splitlines() == [f"own word INSTANCE VI_1 {state} 101" for state in states]
            await cell.until(lambda: heard.exists() and heard.read_text().count("\n") == 4)
            assert heard.read_text().splitlines() == [f'INSTANCE "VI_1" {state} 101' for state in states]
        assert not fifo.exists()

    asyncio.run(story())


def test_a_real_time_cell_starts_ordinary_programs(tmp_path: Path) -> None:
    """Neither SCHED_RR nor the priority of the cell are inherited, nor what it keeps open."""
    out = tmp_path / "out"
    script = executable(tmp_path / "script", f"ps -o cls=,ni= -p $$ > {out}")
    text = (
        "import asyncio\n"
        "from holdfast.kernel.programs import Program, ProgramRunner\n"
        "async def main():\n"
        "    loop = asyncio.get_running_loop()\n"
        "    runner, done = ProgramRunner(loop), loop.create_future()\n"
        f"    runner.start(Program(path={str(script)!r}, argv=('x',)), done.set_result)\n"
        "    assert (await done).ok\n"
        "    await runner.close()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run(["nice", "-n", "-7", "chrt", "-r", "10", sys.executable, "-c", text], check=True, timeout=60)
    assert out.read_text().split() == ["TS", "0"]
