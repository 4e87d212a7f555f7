"""The BFD engine on real sockets, with a peer made by hand in the namespace next door."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from netns import Lab, NetNs, can_make_namespaces

from holdfast.actors.bfd.auth import Authenticator, AuthType, Key
from holdfast.actors.bfd.engine import Engine
from holdfast.actors.bfd.facts import Changed, SessionConfig
from holdfast.actors.bfd.lane import Lane
from holdfast.actors.bfd.memory import Kept, MemoryStore
from holdfast.actors.bfd.packet import CONTROL_PORT, ControlPacket, PacketError, Reject, State, decode
from holdfast.actors.bfd.profiles import SessionSpec
from holdfast.actors.runtime.machine import Instant
from holdfast.kernel.base import KernelError
from holdfast.kernel.source_filter import byte_choice
from holdfast.kernel.udp_batch import RawUdpSender, UdpReceiver, receivers

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0 or not can_make_namespaces(), reason="needs root and namespaces"),
]
OURS, THEIRS = "10.88.0.1", "10.88.0.2"
PEER_NUMBER = 0x7777


def spec(name: str = "b0", **more: object) -> SessionSpec:
    fields: dict[str, object] = {
        "name": name,
        "neighbor": socket.inet_aton(THEIRS),
        "source": socket.inet_aton(OURS),
        "multihop": False,
        "ttl": 255,
        "min_ttl": 255,
        "interface": "",
        "check_source": True,
        "config": SessionConfig(desired_min_tx_us=50_000, required_min_rx_us=50_000, detect_mult=10),
        "auth_type": None,
        "keys": (),
        "disabled": False,
        "vrrp": True,
        "checker": True,
    }
    return SessionSpec(**{**fields, **more})  # type: ignore[arg-type]


class Listener:
    """Collects what the engine tells; `happened` wakes who waits."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, Changed]] = []
        self.rejects: list[tuple[str, Reject]] = []
        self.faltered: list[str] = []
        self.rehearsed = 0

    def state_changed(self, lane: Lane, changed: Changed) -> None:
        self.changes.append((lane.spec.name, changed))

    def faltering(self, lane: Lane, now: Instant) -> None:
        self.faltered.append(lane.spec.name)

    def rehearse(self, lane: Lane, now: Instant) -> None:
        self.rehearsed += 1

    def rejected(self, lane: Lane | None, error: PacketError, source: bytes) -> None:
        self.rejects.append(("" if lane is None else lane.spec.name, error.reject))


class Peer:
    """A neighbour made by hand: it says what the test wants."""

    def __init__(self, namespace: NetNs, address: str = THEIRS) -> None:
        with namespace.enter():
            self.hearing = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.saying = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.hearing.bind((address, CONTROL_PORT))
        self.hearing.setblocking(False)
        self.saying.bind((address, 50_123))
        self.ttl = 255

    def say(
        self,
        state: State,
        yours: int = 0,
        *,
        auth: Authenticator | None = None,
        raw: bytes | None = None,
        to: str = OURS,
        **more: object,
    ) -> None:
        fields: dict[str, object] = {
            "my_discriminator": PEER_NUMBER,
            "detect_mult": 100,
            "desired_min_tx_us": 50_000,
            "required_min_rx_us": 50_000,
            "authenticated": auth is not None,
            **more,
        }
        packet = ControlPacket(state=state, your_discriminator=yours, **fields)  # type: ignore[arg-type]
        self.saying.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, self.ttl)
        data = raw if raw is not None else packet.encode() if auth is None else auth.seal(packet)
        self.saying.sendto(data, (to, CONTROL_PORT))

    async def hear(self, wanted: Callable[[ControlPacket], bool] = lambda packet: True) -> tuple[ControlPacket, int]:
        """The next packet that is wanted, and its source port."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(5):
            while True:
                data, source = await loop.sock_recvfrom(self.hearing, 200)
                packet, _ = decode(data)
                if wanted(packet):
                    return packet, source[1]

    def close(self) -> None:
        self.hearing.close()
        self.saying.close()


@pytest.fixture
def wire() -> Iterator[tuple[NetNs, NetNs]]:
    with Lab() as lab:
        us, peer = lab.namespace("us"), lab.namespace("peer")
        lab.veth(us, "eth0", peer, "eth0")
        us.ip(f"addr add {OURS}/24 dev eth0")
        peer.ip(f"addr add {THEIRS}/24 dev eth0")
        yield us, peer


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


Story = Callable[[Engine, Listener, Peer], Awaitable[None]]


def play(wire: tuple[NetNs, NetNs], story: Story, *, memory: MemoryStore | None = None) -> None:
    """Runs a story with an engine in our namespace and a peer in the other."""
    us, peer_namespace = wire

    async def run() -> None:
        listener = Listener()
        engine = Engine(asyncio.get_running_loop(), listener, random.Random(5), memory=memory)
        peer = Peer(peer_namespace)
        try:
            await story(engine, listener, peer)
        finally:
            engine.close()
            peer.close()

    with us.enter():
        asyncio.run(run())


async def bring_up(lane: Lane, peer: Peer, **more: object) -> None:
    number = lane.machine.local_discriminator
    peer.say(State.DOWN, **more)  # type: ignore[arg-type]
    await until(lambda: lane.machine.state is State.INIT)
    peer.say(State.UP, number, **more)  # type: ignore[arg-type]
    await until(lambda: lane.machine.state is State.UP)
    peer.say(State.UP, number, final=True, **more)  # type: ignore[arg-type]
    await until(lambda: not lane.machine.polling)
    peer.say(State.UP, number, **more)  # type: ignore[arg-type]
    await until(lambda: lane.machine.settled)


def test_found_by_addresses_first_and_discriminator_then(wire: tuple[NetNs, NetNs]) -> None:
    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        lane = engine.add(spec())
        packet, port = await peer.hear()
        assert (packet.state, packet.your_discriminator) == (State.DOWN, 0)
        assert port == lane.source_port
        peer.say(State.DOWN)
        packet, _ = await peer.hear(lambda each: each.state is State.INIT)
        assert packet.your_discriminator == PEER_NUMBER
        peer.say(State.UP, packet.my_discriminator)
        packet, _ = await peer.hear(lambda each: each.state is State.UP)
        assert packet.poll
        assert [change.new for _, change in listener.changes] == [State.DOWN, State.INIT, State.UP]

    play(wire, story)


def test_every_session_has_a_source_port_of_its_own(wire: tuple[NetNs, NetNs]) -> None:
    wire[0].ip_batch([f"addr add 10.88.1.{number}/32 dev eth0" for number in range(1, 101)])
    wire[1].ip("route add 10.88.1.0/24 dev eth0")

    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        for number in range(1, 101):
            engine.add(spec(f"b{number}", source=bytes([10, 88, 1, number])))
        heard: dict[int, int] = {}
        while len(heard) < 100:
            packet, port = await peer.hear()
            heard[packet.my_discriminator] = port
        assert len(set(heard.values())) == 100
        assert all(49152 <= port <= 65535 for port in heard.values())

    play(wire, story)


def test_what_comes_again_takes_the_short_way(wire: tuple[NetNs, NetNs]) -> None:
    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        lane = engine.add(spec())
        await bring_up(lane, peer)
        heard, kept = lane.machine.heard, lane.machine.memory
        assert lane.known
        for _ in range(50):
            peer.say(State.UP, lane.machine.local_discriminator)
        await until(lambda: lane.machine.heard == heard + 50)
        assert lane.machine.memory == kept
        # A packet that differs in anything takes the long way, and the short way is the new one's from then on.
        peer.say(State.UP, lane.machine.local_discriminator, required_min_rx_us=70_000)
        await until(lambda: lane.machine.transmit_interval_us == 70_000)
        peer.say(State.UP, lane.machine.local_discriminator)
        await until(lambda: lane.machine.transmit_interval_us == 50_000)
        peer.say(State.DOWN, lane.machine.local_discriminator)
        await until(lambda: lane.machine.state is State.DOWN)
        assert not lane.known
        peer.say(State.UP, lane.machine.local_discriminator)
        await until(lambda: lane.machine.remote_state is State.UP)
        assert lane.machine.state is State.DOWN

    play(wire, story)


def test_what_is_for_nobody_is_counted(wire: tuple[NetNs, NetNs]) -> None:
    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        lane = engine.add(spec())
        await asyncio.sleep(0)
        peer.say(State.UP, 12345)
        peer.say(State.DOWN, raw=b"\x20\x40")
        await until(lambda: sum(engine.rejected.values()) == 2)
        assert engine.rejected == {Reject.NO_SESSION: 1, Reject.LENGTH: 1}
        assert lane.machine.state is State.DOWN
        assert lane.machine.heard == 0

    play(wire, story)


def test_strangers_are_kept_out_by_the_kernel(wire: tuple[NetNs, NetNs]) -> None:
    wire[1].ip("addr add 10.88.0.66/24 dev eth0")

    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        lane = engine.add(spec())
        await bring_up(lane, peer)
        stranger = Peer(wire[1], "10.88.0.66")
        for _ in range(20):
            stranger.say(State.DOWN, lane.machine.local_discriminator)
        peer.ttl = 254
        peer.say(State.DOWN, lane.machine.local_discriminator)
        peer.ttl = 255
        heard = lane.machine.heard
        peer.say(State.UP, lane.machine.local_discriminator)
        await until(lambda: lane.machine.heard > heard)
        stranger.close()
        assert lane.machine.state is State.UP
        assert not engine.rejected
        assert not lane.rejected

    play(wire, story)


def test_a_session_may_ask_for_more_than_its_socket(wire: tuple[NetNs, NetNs]) -> None:
    wire[1].ip("addr add 10.88.0.3/24 dev eth0")

    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        strict = engine.add(spec("strict"))
        lax = engine.add(spec("lax", neighbor=bytes([10, 88, 0, 3]), min_ttl=100))
        other = Peer(wire[1], "10.88.0.3")
        other.ttl = 120
        await asyncio.sleep(0)
        await bring_up(strict, peer)
        await bring_up(lax, other)
        number = strict.machine.local_discriminator
        heard = strict.machine.heard
        for _ in range(10):
            peer.say(State.UP, number)
        await until(lambda: strict.machine.heard == heard + 10)
        peer.ttl = 254
        peer.say(State.UP, number)
        await until(lambda: strict.rejected)
        assert strict.rejected == {Reject.HOP_LIMIT: 1}
        assert strict.machine.heard == heard + 10
        other.close()

    play(wire, story)


def test_another_sender_with_the_right_number_is_no_neighbour(wire: tuple[NetNs, NetNs]) -> None:
    wire[1].ip("addr add 10.88.0.3/24 dev eth0")

    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        one = engine.add(spec("one"))
        engine.add(spec("two", neighbor=bytes([10, 88, 0, 3])))
        await bring_up(one, peer)
        # A neighbour, so the kernel lets it in, but not of this session.
        other = Peer(wire[1], "10.88.0.3")
        other.say(State.DOWN, one.machine.local_discriminator)
        await until(lambda: one.rejected)
        assert one.rejected == {Reject.SOURCE: 1}
        assert one.machine.state is State.UP
        other.close()

    play(wire, story)


def test_authentication_is_asked_for_and_not_suffered(wire: tuple[NetNs, NetNs], tmp_path: Path) -> None:
    keys = (Key(1, b"secret"),)

    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        bare = spec()
        lane = engine.add(bare)
        peer.say(State.DOWN, auth=Authenticator(AuthType.KEYED_MD5, keys, 7))
        await until(lambda: lane.rejected)
        assert lane.rejected == {Reject.AUTH_UNEXPECTED: 1}
        config = SessionConfig(desired_min_tx_us=50_000, required_min_rx_us=50_000, detect_mult=10, authenticated=True)
        engine.change(spec(auth_type=AuthType.METICULOUS_SHA1, keys=keys, config=config))
        peer.say(State.DOWN)
        await until(lambda: Reject.AUTH_MISSING in lane.rejected)
        await bring_up(lane, peer, auth=Authenticator(AuthType.METICULOUS_SHA1, keys, 7))

    play(wire, story, memory=MemoryStore(tmp_path / "m"))


@pytest.mark.parametrize("kind", list(AuthType))
def test_our_sequence_numbers_are_what_the_peer_expects(
    wire: tuple[NetNs, NetNs], kind: AuthType, tmp_path: Path
) -> None:
    keys = (Key(9, b"secret"),)
    config = SessionConfig(desired_min_tx_us=20_000, required_min_rx_us=50_000, detect_mult=3, authenticated=True)

    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        engine.add(spec(auth_type=kind, keys=keys, config=config))
        theirs = Authenticator(kind, keys, 1)
        peer.say(State.DOWN, auth=theirs)
        loop = asyncio.get_running_loop()
        numbers = []
        async with asyncio.timeout(10):
            while len(numbers) < 40:
                data = await loop.sock_recv(peer.hearing, 200)
                packet, section = decode(data)
                theirs.check(data, packet, section, recent=True)
                numbers.append(theirs.received_sequence or 0)
                if packet.state is not State.DOWN:
                    yours = packet.my_discriminator
                    peer.say(State.UP, yours, auth=theirs, final=packet.poll, required_min_rx_us=20_000)
        if kind.meticulous:
            assert [number - numbers[0] for number in numbers] == list(range(40))

    play(wire, story, memory=MemoryStore(tmp_path / "m"))


def test_a_poll_is_answered_between_periodic_packets(wire: tuple[NetNs, NetNs]) -> None:
    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        lane = engine.add(spec())
        await bring_up(lane, peer)
        peer.say(State.UP, lane.machine.local_discriminator, poll=True)
        answer, _ = await peer.hear(lambda each: each.final)
        assert not answer.poll
        after, _ = await peer.hear()
        assert not after.final

    play(wire, story)


def test_removed_says_admin_down(wire: tuple[NetNs, NetNs]) -> None:
    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        lane = engine.add(spec())
        await bring_up(lane, peer)
        engine.remove("b0")
        packet, _ = await peer.hear(lambda each: each.state is State.ADMIN_DOWN)
        assert packet.diagnostic == 7
        changes = len(listener.changes)
        # What comes in for it now is heard by nobody.
        peer.say(State.UP, packet.my_discriminator)
        peer.say(State.DOWN)
        await until(lambda: engine.rejected[Reject.NO_SESSION] == 1)
        assert len(listener.changes) == changes

    play(wire, story)


def test_a_new_session_takes_the_place_of_a_leaving_one(wire: tuple[NetNs, NetNs]) -> None:
    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        lane = engine.add(spec())
        await bring_up(lane, peer)
        engine.remove("b0")
        fresh = engine.add(spec("renamed"))
        await bring_up(fresh, peer)
        assert fresh.machine.local_discriminator != lane.machine.local_discriminator
        assert lane.group is None

    play(wire, story)


def test_a_restored_session_keeps_its_numbers(wire: tuple[NetNs, NetNs]) -> None:
    kept: list[Kept] = []

    async def first(engine: Engine, listener: Listener, peer: Peer) -> None:
        lane = engine.add(spec())
        await bring_up(lane, peer)
        kept.append(Kept("b0", lane.spec.neighbor, False, lane.source_port, False, lane.machine.memory))

    async def second(engine: Engine, listener: Listener, peer: Peer) -> None:
        engine.add(spec(), kept[0])
        packet, port = await peer.hear()
        memory = kept[0].memory
        assert (packet.state, packet.my_discriminator) == (State.UP, memory.local_discriminator)
        assert (packet.your_discriminator, port) == (PEER_NUMBER, kept[0].source_port)

    play(wire, first)
    play(wire, second)


def test_silence_is_noticed_in_time(wire: tuple[NetNs, NetNs]) -> None:
    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        lane = engine.add(spec())
        await bring_up(lane, peer, detect_mult=3)
        await until(lambda: lane.machine.state is State.DOWN)
        changed = listener.changes[-1][1]
        assert changed.silent is not None
        assert changed.silent >= changed.detection == 150_000_000
        packet, _ = await peer.hear(lambda each: each.diagnostic == 1)
        assert (packet.state, packet.your_discriminator) == (State.DOWN, 0)

    play(wire, story)


def test_a_dead_address_is_not_sent_from(wire: tuple[NetNs, NetNs]) -> None:
    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        lane = engine.add(spec())
        await bring_up(lane, peer)
        wire[0].ip(f"addr del {OURS}/24 dev eth0")
        engine.address_removed(socket.inet_aton(OURS))
        assert lane.path is None
        assert lane.group is None
        wire[0].ip(f"addr add {OURS}/24 dev eth0")
        engine.address_added()
        assert lane.path is not None
        await peer.hear()

    play(wire, story)


def test_no_two_engines_on_one_port(wire: tuple[NetNs, NetNs]) -> None:
    from holdfast.kernel.base import KernelError

    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        engine.add(spec())
        other = Engine(asyncio.get_running_loop(), listener, random.Random(6))
        with pytest.raises(KernelError):
            other.add(spec())
        other.close()

    play(wire, story)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_batches_arrive_whole_and_with_their_origin(family: socket.AddressFamily) -> None:
    """kernel/udp_batch.py alone, on the loopback of a namespace."""
    from holdfast.kernel.udp_batch import Path as WirePath
    from holdfast.kernel.udp_batch import Rows, SendGroup

    text = "127.0.0.1" if family == socket.AF_INET else "::1"
    address = socket.inet_pton(family, text)
    with Lab() as lab:
        namespace = lab.namespace("lo")
        with namespace.enter():
            receiver = UdpReceiver(family, 4000, batch=16)
            sender = RawUdpSender(family)
            loopback = socket.if_nametoindex("lo")
        rows, group = Rows(), SendGroup(40)
        sizes = [24 if number % 3 else 25 + number for number in range(40)]
        for number, size in enumerate(sizes):
            row = rows.take(WirePath(address, address, 50_000 + number, 4000, hop_limit=100 + number))
            row.write(
                WirePath(address, address, 50_000 + number, 4000, hop_limit=100 + number).packet(b"%c" % number * size)
            )
            group.put(number, row)
        group.count = 40
        assert sender.send(group) == []
        heard = []
        while count := receiver.receive():
            if count == 16:
                assert receiver.all_of_24_bytes(count) is None
            for index in range(count):
                source, port = receiver.source(index)
                destination, interface, hop_limit = receiver.arrival(index)
                assert (source, destination, interface) == (address, address, loopback)
                heard.append((receiver.payload(index), port, hop_limit))
            receiver.recycle(count)
        assert heard == [(b"%c" % number * size, 50_000 + number, 100 + number) for number, size in enumerate(sizes)]
        receiver.close()
        sender.close()


def test_one_that_the_kernel_refuses_does_not_hold_the_others_up() -> None:
    from holdfast.kernel.udp_batch import Path as WirePath
    from holdfast.kernel.udp_batch import Rows, SendGroup

    with Lab() as lab:
        namespace = lab.namespace("lo")
        with namespace.enter():
            receiver = UdpReceiver(socket.AF_INET, 4000)
            sender = RawUdpSender(socket.AF_INET)
        here, nowhere = bytes([127, 0, 0, 1]), bytes([192, 0, 2, 1])
        rows, group = Rows(), SendGroup(5)
        for number in range(5):
            path = WirePath(here, nowhere if number in (1, 3) else here, 50_000, 4000)
            row = rows.take(path)
            row.write(path.packet(struct.pack("!I", number) * 6))
            group.put(number, row)
        group.count = 5
        failed = sender.send(group)
        assert [index for index, _ in failed] == [1, 3]
        count = receiver.receive()
        assert [receiver.payload(index)[:4] for index in range(count)] == [bytes(4), b"\0\0\0\2", b"\0\0\0\4"]
        receiver.close()
        sender.close()


def test_a_busy_port_is_polled_and_a_quiet_one_waited_for(wire: tuple[NetNs, NetNs]) -> None:
    """What arrives is heard in both ways, to the packet; silence is measured by the kernel's stamps."""

    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        lane = engine.add(spec())
        await bring_up(lane, peer)
        port = next(iter(engine._hearing._ports.values()))
        sent = lane.machine.heard
        async with asyncio.timeout(10):
            while not port.polled:
                peer.say(State.UP, lane.machine.local_discriminator)
                sent += 1
                await asyncio.sleep(0.001)
        for _ in range(100):
            peer.say(State.UP, lane.machine.local_discriminator)
            sent += 1
            await asyncio.sleep(0.001)
        await until(lambda: lane.machine.heard == sent)
        await until(lambda: not port.polled)
        peer.say(State.UP, lane.machine.local_discriminator)
        await until(lambda: lane.machine.heard == sent + 1)
        assert lane.machine.state is State.UP

    play(wire, story)


def test_a_polled_port_notices_silence_in_time(wire: tuple[NetNs, NetNs]) -> None:
    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        lane = engine.add(spec())
        await bring_up(lane, peer, detect_mult=3)
        port = next(iter(engine._hearing._ports.values()))
        before = after = 0
        async with asyncio.timeout(10):
            while not port.polled:
                before = time.monotonic_ns()
                peer.say(State.UP, lane.machine.local_discriminator, detect_mult=3)
                after = time.monotonic_ns()
                await asyncio.sleep(0.001)
        await until(lambda: lane.machine.state is State.DOWN)
        changed = listener.changes[-1][1]
        assert changed.silent is not None
        heard_at = lane.last_change_at - changed.silent
        # Not the instant of the look, which may have been 25 ms later.
        assert before - 1_000_000 < heard_at < after + 1_000_000

    play(wire, story)


def test_a_polled_port_hears_at_once_what_is_no_ordinary_packet(wire: tuple[NetNs, NetNs]) -> None:
    """A poll is answered and a Down is heard although nobody looks at what may wait; what came before it is heard
    before it."""

    async def story(engine: Engine, listener: Listener, peer: Peer) -> None:
        lane = engine.add(spec())
        await bring_up(lane, peer)
        port = next(iter(engine._hearing._ports.values()))
        async with asyncio.timeout(10):
            while not port.polled:
                peer.say(State.UP, lane.machine.local_discriminator)
                await asyncio.sleep(0.001)
        port.next_read = time.monotonic_ns() + 3600 * 10**9
        port.window_until = port.next_read
        engine._hearing.drain()
        heard = lane.machine.heard
        peer.say(State.UP, lane.machine.local_discriminator, required_min_rx_us=70_000)
        assert lane.machine.heard == heard
        peer.say(State.UP, lane.machine.local_discriminator, required_min_rx_us=80_000, poll=True)
        await until(lambda: lane.machine.heard == heard + 2)
        assert lane.machine.transmit_interval_us == 80_000
        packet, _ = await peer.hear()
        while not packet.final:
            packet, _ = await peer.hear()
        peer.say(State.UP, lane.machine.local_discriminator, required_min_rx_us=80_000)
        peer.say(State.DOWN, lane.machine.local_discriminator)
        await until(lambda: lane.machine.state is State.DOWN)
        assert lane.machine.heard == heard + 4
        assert lane.machine.remote_state is State.DOWN

    play(wire, story)


def test_a_shared_port_is_no_other_programs(wire: tuple[NetNs, NetNs]) -> None:
    """The kernel chooses among our two sockets by the payload; who has the port without sharing it keeps it."""
    with wire[0].enter():
        first, second = receivers(socket.AF_INET, 4000, byte_choice(1, 0xF0, 0xC0))
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with pytest.raises(KernelError):
            UdpReceiver(socket.AF_INET, 4000)
        with pytest.raises(KernelError):
            receivers(socket.AF_INET, 4000, byte_choice(1, 0xF0, 0xC0))
    for payload in (b"\x20\xc0a", b"\x20\xe0b", b"\x20\xcfc", b"\x20\x40d", b"\x20\xd0e", b"f"):
        sender.sendto(payload, (OURS, 4000))
    heard = [[receiver.payload(index)[-1:] for index in range(receiver.receive())] for receiver in (first, second)]
    assert heard == [[b"a", b"c", b"f"], [b"b", b"d", b"e"]]
    for each in (first, second, sender):
        each.close()
