"""The whole notify room: real actors on a loop; the bus, programs and time are in memory, FIFOs are real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from fake_programs import FakePrograms, FakeRun

from holdfast.actors.notify.config import (
    Fifo,
    Mail,
    NotifyRoom,
    NotifyScripts,
    NotifyTarget,
    Script,
    ScriptOptions,
)
from holdfast.actors.notify.fifo import Fifo as FifoFile
from holdfast.actors.notify.fifo import FifoError
from holdfast.actors.notify.messages import FifoState, NotifyDone, NotifyProgress
from holdfast.actors.notify.room import Room
from holdfast.actors.runtime.actor import Mailroom
from holdfast.actors.runtime.context import CellContext
from holdfast.actors.vrrp.messages import VrrpGroupChanged, VrrpLowerPriorityHeard, VrrpState, VrrpStateChanged
from holdfast.bus.envelope import Envelope
from holdfast.bus.fake import FakeBus, FakeNetwork
from holdfast.bus.messages import Reason, ReasonKind
from holdfast.config.settings import Settings
from holdfast.kernel.fake import FakeKernel

MASTER, BACKUP, FAULT = VrrpState.MASTER, VrrpState.BACKUP, VrrpState.FAULT
REASON = Reason(kind=ReasonKind.PEER_SILENT, node="lb1", subject="vrrp/VI_1", evidence={"silent_s": 3.6})


class World:
    """A notify cell beside a protocol cell, on one node."""

    def __init__(self, network: FakeNetwork | None = None, restored: list[Envelope] | None = None) -> None:
        self.network = network or FakeNetwork()
        self.protocol = next((cell for cell in self.network.cells if cell.cell == "protocol"), None) or FakeBus(
            "lb1", "protocol", self.network
        )
        self.bus = FakeBus("lb1", "notify", self.network)
        self.kernel = FakeKernel()
        self.programs = FakePrograms(exclusive=False)
        self.failures: list[BaseException] = []
        loop = asyncio.get_running_loop()
        Mailroom(loop, lambda _actor, error: self.failures.append(error)).open()
        self.context = CellContext(
            node="lb1",
            cell="notify",
            run_dir=Path("/nonexistent"),
            bus=self.bus,
            loop=loop,
            timers=self.kernel.timers,  # type: ignore[arg-type]
            settings=Settings(),
            restored=restored,
        )
        self._generation = 0
        self._moment = self.protocol._seq

    async def begin(self, config: NotifyRoom) -> World:
        self.load(config)
        Room(self.context, self.programs)
        await self.turns()
        return self

    def load(self, config: NotifyRoom) -> None:
        self._generation += 1
        self.context.configure("notify", self._generation, {"room": msgspec.msgpack.encode(config)})

    def dies(self) -> list[Envelope]:
        """The notify cell is gone from the bus; what it retained is left."""
        self.network.cells.remove(self.bus)
        return self.bus.retained()

    async def turns(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)
            self.kernel.network.advance(0)
        assert self.failures == []

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(1000):
            await self.turns()
            if condition():
                return
            await asyncio.sleep(0.002)
        raise AssertionError(f"it never happened: {self.commands()}")

    async def runs(self, number: int) -> FakeRun:
        """The `number`th program that was started (from 1), once it is."""
        await self.until(lambda: len(self.programs.runs) >= number)
        return self.programs.runs[number - 1]

    async def advance(self, seconds: float) -> None:
        self.kernel.network.advance(round(seconds * 1e9))
        await self.turns()

    def state(
        self,
        state: VrrpState,
        name: str = "VI_1",
        old: VrrpState | None = None,
        reason: Reason = REASON,
        since: int | None = None,
    ) -> None:
        """A transition, from MASTER to BACKUP, from BACKUP to anything else unless `old` is given."""
        if old is None:
            old = MASTER if state is BACKUP else BACKUP
        self._moment += 1
        event = VrrpStateChanged(
            instance=name,
            old=old,
            state=state,
            priority=150,
            since_mono_ns=self._moment if since is None else since,
            reason=reason,
            vrid=51,
            family=4,
            interface="eth0",
            addresses=(),
        )
        self.protocol.publish(f"vrrp/{name}", "state", event)

    def commands(self) -> list[tuple[str, ...]]:
        """argv of everything that was started, without the path."""
        return [run.program.argv[1:] for run in self.programs.runs]


def play(test: Callable[[], Coroutine[None, None, None]]) -> None:
    async def with_mailroom() -> None:
        try:
            await test()
        finally:
            Mailroom.current().close()

    asyncio.run(with_mailroom())


def script(*words: str) -> Script:
    return Script(argv=("/bin/true", *words))


ANY = NotifyScripts(any=script(), master=script("master"), stop=script("stop"))


def config(*names: str, scripts: NotifyScripts = ANY, **options: object) -> NotifyRoom:
    targets = tuple(NotifyTarget(kind="INSTANCE", name=name, scripts=scripts) for name in names)
    return NotifyRoom(targets=targets, script_options=ScriptOptions(user=_me()), **options)  # type: ignore[arg-type]


def _me() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def test_transitions_run_scripts_in_order_with_their_reason() -> None:
    async def story() -> None:
        world = await World().begin(config("VI_1"))
        world.state(BACKUP, old=VrrpState.INIT)
        world.state(MASTER)
        world.state(BACKUP, old=MASTER)  # three in a moment, before any script has ended
        for number in range(1, 5):
            (await world.runs(number)).end(0)
        await world.turns()
        assert world.commands() == [
            ("INSTANCE", "VI_1", "BACKUP", "150"),
            ("master",),
            ("INSTANCE", "VI_1", "MASTER", "150"),
            ("INSTANCE", "VI_1", "BACKUP", "150"),
        ]
        reason = json.loads(world.programs.runs[0].variables["HOLDFAST_REASON"])
        assert reason == {
            "kind": "peer-silent",
            "node": "lb1",
            "subject": "vrrp/VI_1",
            "evidence": {"silent_s": 3.6},
        }
        done = world.bus.retained_event("notify/instance:VI_1", "done")
        assert isinstance(done, NotifyDone) and (done.word, done.event.seq) == ("BACKUP", 3)

    play(story)


def test_a_slow_script_delays_nobody_else_and_is_ended_at_its_limit() -> None:
    async def story() -> None:
        world = await World().begin(config("VI_1", "VI_2"))
        world.state(BACKUP, "VI_1")
        slow = await world.runs(1)
        world.state(BACKUP, "VI_2")
        (await world.runs(2)).end(0)
        world.state(MASTER, "VI_2")
        (await world.runs(3)).end(0)
        assert not slow.over
        await world.advance(60)
        assert slow.signals == [signal.SIGTERM]
        await world.advance(2)
        assert slow.signals == [signal.SIGTERM, signal.SIGKILL]
        slow.end(None, 9)
        done = world.bus.retained_event("notify/instance:VI_1", "done")
        assert isinstance(done, NotifyDone) and done.timed_out == 1

    play(story)


def test_thousands_of_notifications_wait_in_little_room() -> None:
    async def story() -> None:
        world = await World().begin(config("VI_1"))
        for _ in range(1500):
            world.state(MASTER)
            world.state(BACKUP, old=MASTER)
        await world.runs(1)
        while world.programs.unfinished:
            world.programs.unfinished[0].end(0)
            await world.turns()  # the next one may need more than one turn of the loop
        assert 65 <= len(world.programs.runs) <= 2 * 65
        assert world.commands()[-1] == ("INSTANCE", "VI_1", "BACKUP", "150")  # the newest is never lost
        done = world.bus.retained_event("notify/instance:VI_1", "done")
        assert isinstance(done, NotifyDone) and done.event.seq == 3000
        # How many were started while the others came depends on how many came in a turn of the loop.
        assert 3000 - 2 * 65 <= done.dropped <= 3000 - 65

    play(story)


def test_a_notify_cell_that_died_tells_what_happened_meanwhile_and_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "fifo"

    async def story() -> None:
        setup = config("done", "interrupted", "meanwhile", fifo=Fifo(path=str(path)))
        first = await World().begin(setup)
        for name in ("done", "interrupted", "meanwhile"):
            first.state(BACKUP, name, old=VrrpState.INIT)
        await first.runs(3)
        for run in first.programs.unfinished:
            if run.program.argv[2] != "interrupted":
                run.end(0)
        await first.turns()
        left = first.dies()
        Mailroom.current().close()
        first.state(MASTER, "meanwhile")
        second = await World(first.network, left).begin(setup)
        await second.until(lambda: len(second.programs.runs) == 2)
        assert sorted(second.commands()) == [("INSTANCE", "interrupted", "BACKUP", "150"), ("master",)]
        state = second.bus.retained_event(f"notify/fifo:{path}", "state")
        assert isinstance(state, FifoState) and state.created  # it is still ours to remove
        for run in second.programs.unfinished:  # these two: the next of "meanwhile" begins with their end
            run.end(0)
        await second.runs(3)
        third = await World(second.network, second.dies()).begin(setup)
        (await third.runs(1)).end(0)
        (await third.runs(2)).end(0)
        await third.turns()
        # They had not all ended, so they run again, and nothing else does.
        assert third.commands() == [("master",), ("INSTANCE", "meanwhile", "MASTER", "150")]

    play(story)


def test_a_state_told_anew_is_no_transition() -> None:
    async def story() -> None:
        world = await World().begin(config("VI_1"))
        world.state(MASTER, since=77)
        (await world.runs(1)).end(0)
        (await world.runs(2)).end(0)
        world.protocol.epoch += 1  # the protocol cell crashed and came back
        world.state(MASTER, since=77)
        world.state(MASTER, reason=Reason(kind=ReasonKind.RESTARTED, node="lb1", subject="vrrp/VI_1"))
        reload = Reason(kind=ReasonKind.RELOAD, node="lb1", subject="vrrp/VI_1")
        world.state(MASTER, old=MASTER, reason=reload)
        world.state(MASTER, "NEW", old=MASTER, reason=reload)  # a reload only renamed it
        await world.turns()
        assert len(world.programs.runs) == 2
        world.state(MASTER, since=99)  # it was something else meanwhile
        await world.runs(3)

    play(story)


def test_a_deleted_instance_that_was_in_fault_is_told_as_fault_once_more() -> None:
    async def story() -> None:
        world = await World().begin(config("VI_1"))
        world.state(FAULT)
        (await world.runs(1)).end(0)
        reason = Reason(kind=ReasonKind.RELOAD, node="lb1", subject="vrrp/VI_1", evidence={"deleted": True})
        world.state(FAULT, old=FAULT, reason=reason)
        await world.runs(2)
        assert world.commands()[1] == ("INSTANCE", "VI_1", "FAULT", "150")

    play(story)


def test_a_deleted_instance_is_told_with_the_scripts_it_had() -> None:
    async def story() -> None:
        world = await World().begin(config("VI_1", "VI_2"))
        world.state(MASTER)
        (await world.runs(1)).end(0)
        (await world.runs(2)).end(0)
        world.load(config("VI_2"))  # the notify room hears of the reload first
        world.state(VrrpState.DELETED, old=MASTER)
        world.protocol.forget("vrrp/VI_1", "state")
        (await world.runs(3)).end(0)
        await world.turns()
        assert world.commands()[2] == ("INSTANCE", "VI_1", "FAULT", "150")
        assert world.bus.retained_event("notify/instance:VI_1", "done") is None
        progress = world.bus.retained_event("notify/notify", "progress")
        assert isinstance(progress, NotifyProgress) and progress.words == {}

    play(story)


def test_a_stop_waits_for_the_last_scripts(tmp_path: Path) -> None:
    path = tmp_path / "fifo"

    async def story() -> None:
        world = await World().begin(config("VI_1", fifo=Fifo(path=str(path))))
        world.state(MASTER)
        (await world.runs(1)).end(0)
        (await world.runs(2)).end(0)
        stopping = asyncio.get_running_loop().create_task(world.context.run_stop_hooks())
        await asyncio.sleep(0.05)
        assert not stopping.done()
        world.state(VrrpState.STOP, old=MASTER)
        stop = await world.runs(3)
        assert not stopping.done()
        stop.end(0)
        (await world.runs(4)).end(0)
        await stopping
        assert world.commands()[2:] == [("stop",), ("INSTANCE", "VI_1", "STOP", "150")]
        assert not path.exists()

    play(story)


def test_scripts_of_a_stop_have_one_second() -> None:
    async def story() -> None:
        world = await World().begin(config("VI_1"))
        world.state(VrrpState.STOP)
        stop = await world.runs(1)
        await world.advance(1)
        assert stop.signals == [signal.SIGKILL]
        stop.end(None, 9)
        await world.turns()
        assert len(world.programs.runs) == 1  # the second is over for the other one too

    play(story)


@contextmanager
def reading(path: Path) -> Iterator[Callable[[], list[str]]]:
    """Opens the FIFO for reading; the lines that are in it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def lines() -> list[str]:
        text = b""
        while True:
            try:
                text += os.read(descriptor, 65536)
            except BlockingIOError:
                return text.decode().splitlines()

    try:
        yield lines
    finally:
        os.close(descriptor)


def test_fifos_get_the_lines_that_belong_to_them(tmp_path: Path) -> None:
    both, own, lvs = tmp_path / "all", tmp_path / "vrrp", tmp_path / "lvs"

    async def story() -> None:
        room = config(
            "VI_1",
            scripts=NotifyScripts(),
            fifo=Fifo(path=str(both)),
            vrrp_fifo=Fifo(path=str(own)),
            lvs_fifo=Fifo(path=str(lvs)),
        )
        world = await World().begin(room)
        assert stat.S_IMODE(both.stat().st_mode) == 0o600
        world.state(BACKUP, old=VrrpState.INIT)
        world.state(MASTER)
        world.protocol.publish(
            "vrrp-group/G",
            "state",
            VrrpGroupChanged(group="G", old=BACKUP, state=MASTER, reason=REASON, members=("VI_1",)),
        )
        heard = VrrpLowerPriorityHeard(instance="VI_1", source="10.0.0.2", priority=1, own_priority=150)
        world.protocol.publish("vrrp/VI_1", "heard", heard, retain=False)
        await world.turns()
        expected = [
            'INSTANCE "VI_1" BACKUP 150',
            'INSTANCE "VI_1" MASTER 150',
            'GROUP "G" MASTER 0',
            'INSTANCE "VI_1" MASTER_RX_LOWER_PRI 150',
        ]
        with reading(both) as lines, reading(own) as own_lines, reading(lvs) as lvs_lines:
            assert (lines(), own_lines(), lvs_lines()) == (expected, expected, [])
        world.load(config("VI_1", scripts=NotifyScripts(), vrrp_fifo=Fifo(path=str(own))))
        await world.turns()
        assert not both.exists() and own.exists() and not lvs.exists()
        await world.context.run_stop_hooks()
        assert not own.exists()

    play(story)


def test_a_fifo_nobody_reads_loses_lines_and_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "fifo"

    async def story() -> None:
        world = await World().begin(config("VI_1", scripts=NotifyScripts(), fifo=Fifo(path=str(path))))
        for _ in range(4000):
            world.state(MASTER)
        await world.turns()
        await world.turns()
        await world.until(
            lambda: (
                isinstance(state := world.bus.retained_event(f"notify/fifo:{path}", "state"), FifoState) and state.lost
            )
        )
        with reading(path) as lines:
            kept = len(lines())
            assert 1000 < kept < 4000
            await world.until(lambda: not world.protocol.network._queue)
            await world.turns()
            world.state(BACKUP, old=MASTER)
            await world.until(lambda: 'INSTANCE "VI_1" BACKUP 150' in lines())
        await world.advance(60)
        state = world.bus.retained_event(f"notify/fifo:{path}", "state")
        assert isinstance(state, FifoState) and state.written + state.lost >= 4000

    play(story)


def test_the_script_of_a_fifo_gets_its_path_and_is_started_once(tmp_path: Path) -> None:
    path = tmp_path / "fifo"

    async def story() -> None:
        world = await World().begin(
            config("VI_1", fifo=Fifo(path=str(path), script=Script(argv=("/bin/true", "a"), user=_me())))
        )
        run = await world.runs(1)
        assert run.program.argv == ("/bin/true", "a", str(path))
        world.load(
            config("VI_1", "VI_2", fifo=Fifo(path=str(path), script=Script(argv=("/bin/true", "a"), user=_me())))
        )
        await world.turns()
        assert len(world.programs.runs) == 1 and run.signals == []
        world.load(config("VI_1"))
        await world.turns()
        assert run.signals == [signal.SIGTERM]

    play(story)


def test_states_are_written_again_on_a_reload_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "fifo"

    async def story() -> None:
        room = config("VI_1", scripts=NotifyScripts(), fifo=Fifo(path=str(path)), write_states_on_reload=True)
        world = await World().begin(room)
        world.state(MASTER)
        await world.turns()
        world.load(config("VI_1", "X", scripts=NotifyScripts(), fifo=Fifo(path=str(path)), write_states_on_reload=True))
        await world.turns()
        with reading(path) as lines:
            assert lines() == ['INSTANCE "VI_1" MASTER 150'] * 2

    play(story)


def test_what_stands_in_the_place_of_a_fifo_is_not_touched(tmp_path: Path) -> None:
    me = {"uid": os.geteuid(), "gid": os.getegid()}
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(FifoError, match="not a FIFO"):
        FifoFile(str(file), **me)
    assert file.read_text() == "x"
    link = tmp_path / "link"
    os.mkfifo(tmp_path / "real")
    link.symlink_to(tmp_path / "real")
    with pytest.raises(FifoError, match="not a FIFO"):
        FifoFile(str(link), **me)
    with pytest.raises(FifoError, match="belongs to"):
        FifoFile(str(tmp_path / "real"), uid=me["uid"] + 1, gid=me["gid"])
    with pytest.raises(FifoError, match="No such file"):
        FifoFile(str(tmp_path / "none" / "fifo"), **me)
    theirs = FifoFile(str(tmp_path / "real"), **me)
    assert not theirs.created
    theirs.close()
    assert (tmp_path / "real").exists()
    ours = FifoFile(str(tmp_path / "ours"), **me, umask=0o022)
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == 0o644
    assert ours.write("a\n")
    ours.close()
    assert not (tmp_path / "ours").exists()


def test_an_unusable_fifo_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")

    async def story() -> None:
        world = await World().begin(config("VI_1", fifo=Fifo(path=str(path))))
        state = world.bus.retained_event(f"notify/fifo:{path}", "state")
        assert isinstance(state, FifoState) and not state.opened and state.problem is not None
        world.state(MASTER)
        await world.runs(1)

    play(story)


def test_mail_configuration_without_server_sends_nothing() -> None:
    async def story() -> None:
        scripts = NotifyScripts(smtp_alert=True)
        world = await World().begin(config("VI_1", scripts=scripts, mail=Mail(recipients=("a@b",))))
        world.state(MASTER)
        await world.turns()
        assert world.bus.retained_event("notify/mail", "state") is None

    play(story)
