"""Two directors in memory: their kernels are lists, the bus is a fake, everything between them is the real thing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from holdfast.actors.connsync.messages import ConnSyncDescription, ConnSyncState, DescribeConnSync, PushConnections
from holdfast.actors.connsync.reader import TableReader
from holdfast.actors.connsync.room import ConnSyncActor
from holdfast.actors.connsync.syncproto import Entry, decode_entry, encode, split
from holdfast.actors.connsync.table import Services, parse, table_word
from holdfast.actors.runtime.actor import Mailroom
from holdfast.actors.runtime.context import CellContext
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged
from holdfast.bus.base import Caller
from holdfast.bus.fake import FakeBus, FakeNetwork
from holdfast.bus.messages import Failed, Reason, ReasonKind
from holdfast.config.settings import ConnSyncSettings, Settings
from holdfast.kernel.base import KernelError
from holdfast.kernel.fake_ipvs import FakeIpvs
from holdfast.kernel.timers import DeadlineHeap

VIP, REAL = bytes((10, 2, 0, 100)), bytes((10, 3, 0, 11))


def connection(port: int, state: int = 1) -> Entry:
    """An established TCP connection."""
    return Entry(
        protocol=6,
        client=bytes((10, 2, 0, 10)),
        client_port=port,
        virtual=VIP,
        virtual_port=80,
        destination=REAL,
        destination_port=80,
        state=state,
        timeout_s=900,
    )


class Kernel:
    """A connection table, and the pipe into it."""

    def __init__(self) -> None:
        self.table: dict[int, tuple[int, bool]] = {}
        self.told: list[bytes] = []
        self.closed = False
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)

    def open(self, interface: str, address: str, refresh_s: int) -> Kernel:
        """As SyncPipe."""
        return self

    def fileno(self) -> int:
        return self._read_end

    def connect(self, *ports: int, silent: bool = False) -> None:
        """Clients connect; silent: the kernel holds its message back."""
        for port in ports:
            self.table[port] = (1, False)
        if not silent:
            self.told += encode([connection(port) for port in ports], 81)
            os.write(self._write_end, b"x")

    def read(self, most: int = 4096) -> Iterator[bytes]:
        os.read(self._read_end, 100)
        waiting, self.told = self.told, []
        yield from waiting

    def write(self, messages: Iterator[bytes]) -> int:
        for message in messages:
            for raw in split(message):
                entry = decode_entry(raw.raw)
                self.table[entry.client_port] = (entry.state, True)
        return 1

    def count_lost(self) -> int:
        return 0

    def pieces(self) -> Iterator[bytes]:
        """/proc/net/ip_vs_conn_sync."""
        words = (table_word(connection(1).client), table_word(VIP), table_word(REAL))
        for port, (state, by_sync) in list(self.table.items()):
            name, origin = {1: b"ESTABLISHED", 4: b"FIN_WAIT"}[state], b"SYNC" if by_sync else b"LOCAL"
            yield b"TCP %s %04X %s 0050 %s 0050 %s %s 900\n" % (words[0], port, words[1], words[2], name, origin)

    def close(self) -> None:
        self.closed = True
        os.close(self._read_end)
        os.close(self._write_end)


class Node:
    """One director."""

    def __init__(self, name: str, network: FakeNetwork, tmp_path: Path, **settings: object) -> None:
        loop = asyncio.get_running_loop()
        self.kernel = Kernel()
        self.bus = FakeBus(name, "director", network)
        self.timers = DeadlineHeap(loop)
        self.ctx = CellContext(
            node=name,
            cell="director",
            run_dir=tmp_path,
            bus=self.bus,
            loop=loop,
            timers=self.timers,
            settings=Settings(connsync=ConnSyncSettings(enabled=True, **settings)),  # type: ignore[arg-type]
        )
        self.reader = TableReader(self.kernel.pieces, FakeIpvs)

    def start(self) -> None:
        ConnSyncActor.start(self.ctx, self.kernel.open, self.reader)

    def vrrp(self, state: VrrpState) -> None:
        """Its VRRP instance tells its state."""
        reason = Reason(kind=ReasonKind.STARTED, node=self.bus.node, subject="vrrp/VI_1")
        event = VrrpStateChanged(
            instance="VI_1",
            old=VrrpState.INIT,
            state=state,
            priority=100,
            since_mono_ns=0,
            reason=reason,
            vrid=1,
            family=4,
            interface="eth0",
            addresses=("10.2.0.100/24",),
        )
        self.bus.publish("vrrp/VI_1", "state", event)

    async def state(self) -> ConnSyncState:
        reply = await self.bus.request("connsync", DescribeConnSync())
        assert isinstance(reply, ConnSyncDescription)
        return reply.state

    async def stop(self) -> None:
        await self.ctx.run_stop_hooks()
        self.timers.close()


class World:
    """Two nodes; the first is MASTER."""

    def __init__(self, tmp_path: Path, **settings: object) -> None:
        self.network = FakeNetwork()
        self.one = Node("lb1", self.network, tmp_path, **settings)
        self.two = Node("lb2", self.network, tmp_path, **settings)
        self.one.vrrp(VrrpState.MASTER)
        self.two.vrrp(VrrpState.BACKUP)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)

    async def following(self) -> None:
        """The second has everything that the first announces."""
        async with asyncio.timeout(20):
            while True:
                await asyncio.sleep(0.01)
                peers = (await self.one.state()).peers
                if peers and peers[0].phase == "following" and not peers[0].lacking and not peers[0].waiting:
                    return

    async def stop(self) -> None:
        await self.one.stop()
        await self.two.stop()


def play(story: Callable[[World], Coroutine[Any, Any, None]], tmp_path: Path, **settings: object) -> None:
    """Runs a story on a loop of its own."""

    async def work() -> None:
        room = Mailroom(asyncio.get_running_loop())
        room.open()
        world = World(tmp_path, **settings)
        try:
            await story(world)
        finally:
            await world.stop()
            room.close()

    asyncio.run(work())


def test_a_newcomer_gets_the_table_and_then_every_change(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.one.kernel.connect(*range(1, 3001))
        world.one.kernel.table[4000] = (4, False)
        world.one.start()
        world.two.start()
        await world.until(lambda: len(world.two.kernel.table) == 3001)
        await world.following()
        # Data may still flow in a connection that is closing.
        assert world.two.kernel.table[4000] == (4, True)
        world.one.kernel.connect(5000)
        await world.until(lambda: 5000 in world.two.kernel.table)

    play(story, tmp_path)


def test_a_connection_that_the_kernel_holds_back_is_found_in_the_table(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.one.start()
        world.two.start()
        await world.following()
        await asyncio.sleep(0.3)
        world.one.kernel.connect(77, silent=True)
        await world.until(lambda: 77 in world.two.kernel.table)

    play(story, tmp_path)


def test_a_connection_that_got_lost_is_found_by_comparing(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.one.kernel.connect(*range(1, 101))
        world.one.start()
        world.two.start()
        await world.following()
        del world.two.kernel.table[50]
        await world.until(lambda: 50 in world.two.kernel.table)

    play(story, tmp_path, compare_every_s=0.2)


def test_after_a_failover_the_new_master_announces_what_it_took_over(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.one.kernel.connect(*range(1, 101))
        world.one.start()
        world.two.start()
        await world.following()
        world.one.vrrp(VrrpState.BACKUP)
        world.two.vrrp(VrrpState.MASTER)
        # All of the second came by sync; the first loses its own.
        world.one.kernel.table.clear()
        await world.until(lambda: len(world.one.kernel.table) == 100)
        assert all(by_sync for _, by_sync in world.one.kernel.table.values())

    play(story, tmp_path, compare_every_s=0.2)


def test_a_backup_does_not_push_and_a_master_does_not_take(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.two.kernel.connect(*range(1, 11))
        world.one.start()
        world.two.start()
        await world.following()
        world.two.kernel.connect(99)
        await asyncio.sleep(0.3)
        assert world.one.kernel.table == {}
        # Two masters: neither takes the other one's.
        world.two.vrrp(VrrpState.MASTER)
        world.two.kernel.connect(100)
        async with asyncio.timeout(10):
            while (await world.one.state()).peers[0].refused == 0:
                await asyncio.sleep(0.01)
        assert world.one.kernel.table == {}

    play(story, tmp_path)


def test_a_viewer_cannot_give_us_connections_and_nonsense_is_counted(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.one.start()
        await world.until(lambda: world.one.bus.retained_event("connsync/current", "state") is not None)
        serve = world.one.bus.server_of("connsync")
        assert serve is not None
        push = PushConnections(epoch=1, seq=1, settled=1, encoding="plain", entries=b"nonsense")
        refused = await serve(push, Caller(node="x", cell="x", role="viewer"))  # type: ignore[misc]
        assert isinstance(refused, Failed)
        assert refused.code == "forbidden"
        malformed = await serve(push, Caller(node="x", cell="x", role="replica"))  # type: ignore[misc]
        assert isinstance(malformed, Failed)
        assert malformed.code == "malformed"
        assert (await world.one.state()).malformed == 1
        assert world.one.kernel.table == {}

    play(story, tmp_path)


def test_a_kernel_whose_daemons_are_taken_is_told_and_others_are_not_met(tmp_path: Path) -> None:
    def refuse(interface: str, address: str, refresh_s: int) -> Kernel:
        raise KernelError("connection sync", interface, 16, "a sync daemon runs on eth0 already")

    async def story(world: World) -> None:
        world.one.kernel.open = refuse  # type: ignore[method-assign]
        world.one.start()
        await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            while not (await world.one.state()).error:
                await asyncio.sleep(0.01)
        assert "already" in (await world.one.state()).error

    play(story, tmp_path)


def test_the_stop_takes_the_pipe_back(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.one.start()
        await world.until(lambda: world.one.bus.retained_event("connsync/current", "state") is not None)
        await world.one.ctx.run_stop_hooks()
        assert world.one.kernel.closed
        assert world.one.bus.retained_event("connsync/current", "state") is None

    play(story, tmp_path)


def test_lines_of_the_fake_are_lines_of_the_kernel() -> None:
    kernel = Kernel()
    kernel.table = {0xB482: (1, True)}
    (line,) = parse(b"".join(kernel.pieces()))
    entry = Services().entry(line)
    kernel.close()
    assert entry is not None
    assert entry == connection(0xB482)
