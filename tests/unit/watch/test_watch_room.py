"""The whole watch room: real actors on a loop; kernel, programs, files, processes and time are in memory."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec
import pytest
from fake_programs import FakePrograms

from holdfast.actors.runtime.actor import Mailroom
from holdfast.actors.runtime.context import CellContext
from holdfast.actors.watch.config import (
    LinkDelay,
    Script,
    ScriptOptions,
    TrackFile,
    TrackProcess,
    TrackScript,
    WatchRoom,
)
from holdfast.actors.watch.file_actor import initialise
from holdfast.actors.watch.messages import FileValue, LinkAddresses, LinkState, ProcessQuorum, ScriptResult
from holdfast.actors.watch.process import Process
from holdfast.actors.watch.process_actor import ProcFileSystem
from holdfast.actors.watch.room import Room, Sources
from holdfast.bus.envelope import Envelope
from holdfast.bus.fake import FakeBus
from holdfast.bus.messages import Event, ReasonKind
from holdfast.config.settings import Settings
from holdfast.kernel.base import KernelError
from holdfast.kernel.fake import FakeKernel


class FakeFiles:
    """inotify in memory. refuse: directories that cannot be watched."""

    def __init__(self) -> None:
        self.calls: dict[str, Callable[[], None]] = {}
        self.refuse = False

    def watch(self, path: str, changed: Callable[[], None]) -> Callable[[], None]:
        if self.refuse:
            raise KernelError("watch", path, 2)
        self.calls[path] = changed

        def end() -> None:
            self.calls.pop(path, None)

        return end


class FakeProcesses:
    """The process connector in memory."""

    def __init__(self) -> None:
        self.refuse = False
        self.followers: list[dict[str, Callable[..., None]]] = []

    def follow(self, **calls: Callable[..., None]) -> Callable[[], None]:
        if self.refuse:
            raise KernelError("follow", "processes", 1)
        self.followers.append(calls)
        return lambda: self.followers.remove(calls)

    def tell(self, what: str, *numbers: int) -> None:
        for calls in self.followers:
            calls[what](*numbers)


class World:
    """One cell with a watch room."""

    def __init__(self, restored: list[Envelope] | None = None) -> None:
        self.kernel = FakeKernel()
        self.bus = FakeBus("lb1", "protocol")
        self.programs = FakePrograms()
        self.files = FakeFiles()
        self.processes = FakeProcesses()
        loop = asyncio.get_running_loop()
        self.failures: list[BaseException] = []
        self.mailroom = Mailroom(loop, lambda _actor, error: self.failures.append(error))
        self.mailroom.open()
        self.context = CellContext(
            node="lb1",
            cell="protocol",
            run_dir=Path("/nonexistent"),
            bus=self.bus,
            loop=loop,
            timers=self.kernel.timers,  # type: ignore[arg-type]
            settings=Settings(),
            restored=restored,
        )
        self.number = 0

    def begin(self) -> World:
        Room(self.context, Sources(self.kernel, self.programs, self.files, self.processes))
        return self

    async def configure(self, **options: object) -> None:
        self.number += 1
        room = WatchRoom(**options)  # type: ignore[arg-type]
        self.context.configure("watch", self.number, {"room": msgspec.msgpack.encode(room)})
        await self.turns()

    async def turns(self) -> None:
        """Whatever is due on the loop, and lookups in threads."""
        for _ in range(20):
            await asyncio.sleep(0)
            self.kernel.network.advance(0)
        assert self.failures == []

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            await self.turns()
            if condition():
                return
            await asyncio.sleep(0.002)
        raise AssertionError("it never happened")

    async def advance(self, seconds: float) -> None:
        self.kernel.network.advance(round(seconds * 1e9))
        await self.turns()

    def last(self, subject: str, aspect: str = "state") -> Event | None:
        return self.bus.retained_event(subject, aspect)


def play(test: Callable[[], Coroutine[None, None, None]]) -> None:
    """Runs a story on a loop of its own."""

    async def with_mailroom() -> None:
        try:
            await test()
        finally:
            Mailroom.current().close()

    asyncio.run(with_mailroom())


def script(name: str = "chk", path: str = "/bin/true", **options: object) -> TrackScript:
    return TrackScript(name=name, command=Script(argv=(path, name), user="root"), **options)  # type: ignore[arg-type]


needs_root = pytest.mark.skipif(Path("/proc/self").stat().st_uid != 0, reason="scripts of root, run by root")


@needs_root
def test_a_script_runs_and_its_results_are_told() -> None:
    async def story() -> None:
        world = World().begin()
        await world.configure(scripts=(script(),))
        await world.until(lambda: len(world.programs.runs) == 1)
        assert world.programs.runs[0].program.argv == ("/bin/true", "chk")
        assert world.last("script/chk") is None  # nothing is said before the first result
        world.programs.runs[0].end(0)
        first = world.last("script/chk")
        assert isinstance(first, ScriptResult) and first.ok and first.runs == 1
        await world.advance(1)
        world.programs.runs[1].end(3)
        second = world.last("script/chk")
        assert isinstance(second, ScriptResult) and (second.ok, second.exit_status) == (False, 3)
        await world.advance(1)
        await world.advance(1)  # too slow
        assert world.programs.runs[2].signals == [signal.SIGTERM]
        await world.advance(2)
        assert world.programs.runs[2].signals == [signal.SIGTERM, signal.SIGKILL]
        world.programs.runs[2].end(None, 9)
        third = world.last("script/chk")
        assert isinstance(third, ScriptResult) and third.timed_out
        assert third.reason.kind is ReasonKind.SCRIPT_TIMEOUT

    play(story)


@needs_root
def test_a_reload_touches_only_what_it_changes() -> None:
    async def story() -> None:
        world = World().begin()
        await world.configure(scripts=(script("a"), script("b"), script("c")))
        await world.until(lambda: len(world.programs.runs) == 3)
        for run in world.programs.runs:
            run.end(0)
        told = len(world.bus.published)
        await world.configure(scripts=(script("a"), script("b", fall=2, interval_us=5_000_000), script("d")))
        await world.until(lambda: len(world.programs.runs) == 5)
        names = [run.program.argv[1] for run in world.programs.runs]
        assert names[3:] == ["b", "d"]
        assert world.last("script/c") is None
        new = world.last("script/d")
        assert isinstance(new, ScriptResult) and new.ok and new.runs == 0  # successful until its next run
        topics = {envelope.topic for envelope in world.bus.published[told:]}
        assert topics == {"lb1/script/c/state", "lb1/script/d/state"}
        # b keeps its verdict: one failure of two changes nothing.
        world.programs.runs[3].end(1)
        kept = world.last("script/b")
        assert isinstance(kept, ScriptResult) and kept.ok

    play(story)


@needs_root
def test_a_script_redefined_while_it_runs_waits_for_the_end_of_the_old_run() -> None:
    async def story() -> None:
        world = World().begin()
        await world.configure(scripts=(script(timeout_us=9_000_000, interval_us=9_000_000),))
        await world.until(lambda: len(world.programs.runs) == 1)
        await world.configure(scripts=(script(timeout_us=8_000_000, interval_us=8_000_000),))
        await world.until(lambda: world.programs.runs[0].signals == [signal.SIGTERM])
        await world.advance(2)
        assert world.programs.runs[0].signals == [signal.SIGTERM, signal.SIGKILL]
        assert len(world.programs.runs) == 1
        world.programs.runs[0].end(None, 9)
        await world.turns()
        assert len(world.programs.runs) == 2
        assert world.last("script/chk") is None

    play(story)


@needs_root
def test_a_script_that_may_not_run_is_said_to_be_disabled() -> None:
    async def story() -> None:
        world = World().begin()
        await world.configure(scripts=(script(path="/no/such/file"),))
        await world.until(lambda: world.last("script/chk") is not None)
        event = world.last("script/chk")
        assert isinstance(event, ScriptResult) and event.disabled and event.ok and not world.programs.runs
        assert event.problem == "Script /no/such/file cannot be accessed - No such file or directory"

    play(story)


@needs_root
def test_a_cell_that_died_goes_on_with_the_verdicts_it_had() -> None:
    async def story() -> None:
        before = World().begin()
        await before.configure(scripts=(script("bad"), script("good", fall=2)))
        await before.until(lambda: len(before.programs.runs) == 2)
        for run in before.programs.runs:
            run.end(1 if run.program.argv[1] == "bad" else 0)
        after = World(before.bus.retained()).begin()
        await after.configure(scripts=(script("bad"), script("good", fall=2)))
        await after.until(lambda: len(after.programs.runs) == 2)
        for name in ("bad", "good"):
            assert after.last(f"script/{name}") == before.last(f"script/{name}")
        for run in after.programs.runs:
            run.end(1)
        bad, good = after.last("script/bad"), after.last("script/good")
        assert isinstance(bad, ScriptResult) and bad == before.last("script/bad")
        assert isinstance(good, ScriptResult) and good.ok

    play(story)


@needs_root
def test_a_stop_asks_scripts_to_end_and_starts_no_more() -> None:
    async def story() -> None:
        world = World().begin()
        await world.configure(scripts=(script(),))
        await world.until(lambda: len(world.programs.runs) == 1)
        await world.context.run_stop_hooks()
        await world.turns()
        assert world.programs.runs[0].signals == [signal.SIGTERM]
        world.programs.runs[0].end(None, 15)
        await world.advance(10)
        assert len(world.programs.runs) == 1 and world.last("script/chk") is None

    play(story)


@needs_root
def test_changed_script_options_are_judged_again_for_all() -> None:
    async def story() -> None:
        world = World().begin()
        plain = TrackScript(name="chk", command=Script(argv=("/bin/true",)))
        await world.configure(scripts=(plain,), script_options=ScriptOptions(user="root"))
        await world.until(lambda: len(world.programs.runs) == 1)
        world.programs.runs[0].end(0)
        await world.configure(scripts=(plain,), script_options=ScriptOptions(user="no-such-user"))
        await world.until(lambda: isinstance(event := world.last("script/chk"), ScriptResult) and event.disabled)

    play(story)


def test_files_are_read_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "weight"

    async def story() -> None:
        world = World().begin()
        path.write_text("5\n")
        await world.configure(files=(TrackFile(name="w", path=str(path)),))
        first = world.last("file/w")
        assert isinstance(first, FileValue) and first.value == 5
        path.write_text("-20")
        world.files.calls[str(path)]()
        second = world.last("file/w")
        assert isinstance(second, FileValue) and second.value == -20
        path.unlink()
        world.files.calls[str(path)]()
        third = world.last("file/w")
        assert isinstance(third, FileValue) and (third.value, third.readable) == (0, False)
        told = len(world.bus.published)
        await world.configure(files=(TrackFile(name="w", path=str(path), weight=3),))
        assert len(world.bus.published) == told
        await world.configure(files=())
        assert world.last("file/w") is None and not world.files.calls

    play(story)


def test_a_file_whose_directory_cannot_be_watched_is_looked_at_every_second(tmp_path: Path) -> None:
    path = tmp_path / "later" / "weight"

    async def story() -> None:
        world = World().begin()
        world.files.refuse = True
        await world.configure(files=(TrackFile(name="w", path=str(path)),))
        path.parent.mkdir()
        path.write_text("7")
        await world.advance(1)
        event = world.last("file/w")
        assert isinstance(event, FileValue) and event.value == 7
        world.files.refuse = False
        await world.advance(1)
        assert str(path) in world.files.calls
        assert world.kernel.timers.next_deadline() is None

    play(story)


def test_init_file_is_for_a_daemon_that_starts(tmp_path: Path) -> None:
    fresh, kept, over = tmp_path / "fresh", tmp_path / "kept", tmp_path / "over"
    kept.write_text("1")
    over.write_text("1")
    files = (
        TrackFile(name="fresh", path=str(fresh), init_value=9),
        TrackFile(name="kept", path=str(kept), init_value=9),
        TrackFile(name="over", path=str(over), init_value=9, init_overwrite=True),
    )

    async def story() -> None:
        world = World().begin()
        await world.configure(files=files)
        assert (fresh.read_text(), kept.read_text(), over.read_text()) == ("9\n", "1", "9\n")
        fresh.unlink()
        await world.configure(files=(*files, TrackFile(name="new", path=str(tmp_path / "new"), init_value=1)))
        assert not fresh.exists() and not (tmp_path / "new").exists()

    play(story)
    initialise(TrackFile(name="x", path=str(tmp_path / "none" / "x"), init_value=1))  # said in the log, no more


class FakeList:
    """Processes in memory, put in place of /proc."""

    def __init__(self, **processes: str) -> None:
        self.processes = {int(pid[1:]): Process(name) for pid, name in processes.items()}

    def all(self, *, with_command: bool) -> list[tuple[int, Process]]:
        return list(self.processes.items())

    def one(self, pid: int, *, with_command: bool) -> Process | None:
        return self.processes.get(pid)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> FakeList:
    """What runs, for the room."""
    found = FakeList(p10="web", p11="web", p12="sh")
    monkeypatch.setattr(ProcFileSystem, "all", lambda _self, *, with_command: found.all(with_command=with_command))
    monkeypatch.setattr(
        ProcFileSystem, "one", lambda _self, pid, *, with_command: found.one(pid, with_command=with_command)
    )
    return found


def test_processes_come_and_go(running: FakeList) -> None:
    async def story() -> None:
        world = World().begin()
        await world.configure(processes=(TrackProcess(name="w", path="web", quorum=2, terminate_delay_us=500_000),))
        await world.until(lambda: world.last("process/w") is not None)
        first = world.last("process/w")
        assert isinstance(first, ProcessQuorum) and (first.achieved, first.count) == (True, 2)
        world.processes.tell("ended", 10)
        await world.advance(0.4)
        assert world.last("process/w") == first
        await world.advance(0.1)
        lost = world.last("process/w")
        assert isinstance(lost, ProcessQuorum) and (lost.achieved, lost.count) == (False, 1)
        world.processes.tell("forked", 11, 13)
        gained = world.last("process/w")
        assert isinstance(gained, ProcessQuorum) and gained.achieved
        running.processes = {11: Process("web"), 13: Process("sh")}
        world.processes.tell("changed", 13)
        await world.advance(0.5)
        assert isinstance(event := world.last("process/w"), ProcessQuorum) and not event.achieved
        running.processes[14] = Process("web")
        world.processes.tell("lost")  # events were lost: everything is counted anew
        await world.until(lambda: isinstance(event := world.last("process/w"), ProcessQuorum) and event.achieved)
        await world.configure(processes=())
        assert world.last("process/w") is None and world.processes.followers == []

    play(story)


def test_without_the_process_connector_they_are_counted_every_second(running: FakeList) -> None:
    async def story() -> None:
        world = World().begin()
        world.processes.refuse = True
        await world.configure(processes=(TrackProcess(name="w", path="web"),))
        await world.until(lambda: world.last("process/w") is not None)
        running.processes = {}
        await world.until(lambda: world.kernel.timers.next_deadline() is not None)
        await world.advance(1)
        await world.until(lambda: isinstance(event := world.last("process/w"), ProcessQuorum) and not event.achieved)

    play(story)


def test_links_and_addresses_are_told() -> None:
    async def story() -> None:
        world = World()
        world.kernel.add_link("eth0", addresses=["10.0.0.1/24"])
        world.begin()
        await world.configure(link_delays=(LinkDelay(interface="eth0", down_us=500_000),))
        first = world.last("link/eth0")
        assert isinstance(first, LinkState) and first.up and first.exists and first.ifindex > 0
        assert world.last("link/eth0", "addresses") == LinkAddresses(interface="eth0", addresses=("10.0.0.1/24",))
        world.kernel.set_link("eth0", up=False)
        await world.turns()
        held = world.last("link/eth0")
        assert isinstance(held, LinkState) and held.up and not held.raw_up
        await world.advance(0.5)
        fell = world.last("link/eth0")
        assert isinstance(fell, LinkState) and not fell.up
        for number in range(2, 50):
            world.kernel.add_address("eth0", f"10.0.0.{number}/32")
        await world.turns()
        told = len(world.bus.events(LinkAddresses))
        await world.advance(0.1)
        assert len(world.bus.events(LinkAddresses)) == told + 1  # one for all of them
        world.kernel.links.drop_link("eth0")
        await world.turns()
        gone = [event for event in world.bus.events(LinkState) if isinstance(event, LinkState)][-1]
        assert not gone.exists and not gone.up and gone.reason.kind is ReasonKind.LINK_MISSING
        assert world.last("link/eth0") is None  # told, and kept no longer
        world.kernel.add_link("eth0")
        await world.turns()
        back = world.last("link/eth0")
        assert isinstance(back, LinkState) and back.up

    play(story)


def test_a_cell_that_died_tells_of_links_that_went_meanwhile() -> None:
    async def story() -> None:
        before = World()
        before.kernel.add_link("eth0")
        before.kernel.add_link("eth1")
        before.begin()
        await before.configure()
        after = World(before.bus.retained())
        after.kernel.add_link("eth0")
        after.begin()
        await after.configure()
        kept = after.last("link/eth0")
        assert isinstance(kept, LinkState) and isinstance(old := before.last("link/eth0"), LinkState)
        assert kept.since_mono_ns == old.since_mono_ns
        gone = [event for event in after.bus.events(LinkState) if isinstance(event, LinkState)]
        assert [event.interface for event in gone if not event.exists] == ["eth1"]

    play(story)
