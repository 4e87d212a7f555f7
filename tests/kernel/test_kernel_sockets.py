"""VRRP sockets and announcements on a real wire."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from netns import Lab, NetNs, wait_until
from scapy.layers.inet6 import ICMPv6ND_NA
from scapy.layers.l2 import ARP, Ether

from holdfast.kernel.announce import Announcer, advertisement_frame, arp_frame
from holdfast.kernel.base import KernelError
from holdfast.kernel.packets import VrrpSocket
from holdfast.kernel.records import Received

pytestmark = pytest.mark.netns

MAC = bytes.fromhex("020000000001")


def advert4(source: str, destination: str, vrid: int, ttl: int = 255) -> bytes:
    message = bytes((0x31, vrid, 100, 1, 0, 100, 0, 0, 10, 0, 0, 9))
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0xC0,
        20 + len(message),
        1,
        0,
        ttl,
        112,
        0,
        socket.inet_aton(source),
        socket.inet_aton(destination),
    )
    return header + message


def advert6(vrid: int) -> bytes:
    return bytes((0x31, vrid, 100, 1, 0, 100, 0, 0)) + socket.inet_pton(socket.AF_INET6, "fe80::99")


class Wire:
    """Two namespaces with eth0 on one cable, and a second pair on another."""

    def __init__(self, lab: Lab) -> None:
        self.a, self.b = lab.namespace("a"), lab.namespace("b")
        lab.veth(self.a, "eth0", self.b, "eth0")
        lab.veth(self.a, "eth1", self.b, "eth1")
        for number, ns in enumerate((self.a, self.b), 1):
            ns.ip_batch(
                [
                    f"addr add 10.0.0.{number}/24 dev eth0",
                    f"addr add 10.0.1.{number}/24 dev eth1",
                    f"addr add fd00::{number}/64 dev eth0 nodad",
                    f"addr add fe80::{number}/64 dev eth0 nodad",
                ]
            )


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with Lab() as lab:
        yield Wire(lab)


def opened(ns: NetNs, *arguments: object, **options: object) -> VrrpSocket:
    with ns.enter():
        return VrrpSocket(*arguments, **options)  # type: ignore[arg-type]


def received(sock: VrrpSocket, count: int) -> list[Received]:
    found: list[Received] = []
    wait_until(lambda: found.extend(sock.receive()) or len(found) >= count, what=f"{count} packets")
    return found


def test_ipv4_multicast_and_unicast(wire: Wire) -> None:
    out = opened(wire.a, "eth0", 4, groups=["224.0.0.18"])
    into = opened(wire.b, "eth0", 4, groups=["224.0.0.18"], receive_buffer_bytes=1 << 20)
    group, peer = out.destination("224.0.0.18"), out.destination("10.0.0.2")
    messages = [(advert4("10.0.0.1", "224.0.0.18", vrid), group) for vrid in range(1, 150)]
    messages.append((advert4("10.0.0.1", "10.0.0.2", 200, ttl=77), peer))
    assert out.send_many(messages) == []
    found = received(into, 150)
    assert [packet.payload[1] for packet in found] == [*range(1, 150), 200]
    first, last = found[0], found[-1]
    assert (first.source, first.destination, first.ttl) == ("10.0.0.1", "224.0.0.18", 255)
    assert (first.protocol, first.total_length, first.ifindex) == (112, 32, into.ifindex)
    assert first.packet[20:] == first.payload and len(first.payload) == 12
    assert (last.destination, last.ttl) == ("10.0.0.2", 77)
    assert out.receive() == []  # we do not hear ourselves
    assert into.receive() == []
    for sock in (out, into):
        sock.close()
        sock.close()
    assert into.receive() == []
    assert [error.errno for error in out.send_many(messages[:2])] == [errno.EBADF, errno.EBADF]


def test_ipv6_with_source_hop_limit_and_checksum(wire: Wire) -> None:
    out = opened(wire.a, "eth0", 6, groups=["ff02::12"])
    into = opened(wire.b, "eth0", 6, groups=["ff02::12"])
    messages = [
        (advert6(7), out.destination("ff02::12", source="fe80::1")),
        (advert6(8), out.destination("fd00::2", source="fd00::1", hop_limit=33)),
        (advert6(9), out.destination("fe80::2%eth0")),
        (advert6(10), out.destination("fd00::2", source="fd00::77")),
    ]
    errors = out.send_many(messages)
    assert [(error.errno, "fd00::2" in error.subject) for error in errors] == [(errno.EINVAL, True)]
    found = received(into, 3)
    assert [(packet.source, packet.destination, packet.ttl) for packet in found] == [
        ("fe80::1", "ff02::12", 255),
        ("fd00::1", "fd00::2", 33),
        ("fe80::1", "fe80::2", 255),
    ]
    assert all(packet.payload[6:8] != b"\0\0" for packet in found)  # the kernel's checksum
    assert {packet.ifindex for packet in found} == {into.ifindex}
    out.close()
    into.close()


@pytest.mark.parametrize("family", [4, 6])
def test_how_long_a_packet_waited_is_known(wire: Wire, family: int) -> None:
    group = "224.0.0.18" if family == 4 else "ff02::12"
    out, into = opened(wire.a, "eth0", family), opened(wire.b, "eth0", family, groups=[group])
    assert into.waited_ns() == 0  # nothing was received
    data = advert4("10.0.0.1", group, 7) if family == 4 else advert6(7)

    def waited(pause_s: float) -> tuple[int, int]:
        """What the socket says of a packet that we leave there so long, and the longest it can have been."""
        sent_at = time.monotonic_ns()
        assert out.send_many([(data, out.destination(group))]) == []
        select.select([into], [], [], 5)
        time.sleep(pause_s)
        assert len(into.receive_known(64, {})) == 1
        return into.waited_ns(), time.monotonic_ns() - sent_at

    found = [waited(0.001) for _ in range(20)]
    assert all(wait <= most for wait, most in found)
    assert any(wait >= 1_000_000 for wait, _ in found)
    assert waited(0.05)[0] == 0  # this process did not run, and that is not the packet's affair
    out.close()
    into.close()


@pytest.mark.parametrize("family", [4, 6])
def test_a_probe_sends_nothing(wire: Wire, family: int) -> None:
    group = "224.0.0.18" if family == 4 else "ff02::12"
    out, into = opened(wire.a, "eth0", family), opened(wire.b, "eth0", family, groups=[group])
    first = out.prepare(advert4("10.0.0.1", group, 1) if family == 4 else advert6(1), out.destination(group))
    second = out.prepare(advert4("10.0.0.1", group, 2) if family == 4 else advert6(2), out.destination(group))
    for _ in range(100):
        out.probe([first])
    assert out.send_prepared([second]) == []
    assert [packet.payload[1] for packet in received(into, 1)] == [2]
    out.close()
    into.close()


def test_groups_interfaces_and_filters_keep_packets_away(wire: Wire) -> None:
    out, out1 = opened(wire.a, "eth0", 4), opened(wire.a, "eth1", 4)
    into, deaf = opened(wire.b, "eth0", 4), opened(wire.b, "eth1", 4, groups=["224.0.0.18"])
    group = out.destination("224.0.0.18")

    def send(*vrids: int) -> None:
        assert out.send_many([(advert4("10.0.0.1", "224.0.0.18", vrid), group) for vrid in vrids]) == []

    send(1)
    into.join("224.0.0.18")
    into.join("224.0.0.18")
    send(2)
    into.accept_vrids({4, 5, 6, 9})
    send(*range(1, 12))
    into.accept_vrids(None)
    send(3)
    assert [packet.payload[1] for packet in received(into, 6)] == [2, 4, 5, 6, 9, 3]
    into.leave("224.0.0.18")
    send(10)
    assert out1.send_many([(advert4("10.0.1.1", "224.0.0.18", 77), group)]) == []
    assert [packet.payload[1] for packet in received(deaf, 1)] == [77]
    assert into.receive() == []
    with pytest.raises(KernelError):
        into.leave("224.0.0.18")
    for sock in (out, out1, into, deaf):
        sock.close()


def test_a_socket_on_any_interface_hears_unicast(wire: Wire) -> None:
    out, into = opened(wire.a, None, 4), opened(wire.b, None, 4)
    assert out.send_many([(advert4("10.0.1.1", "10.0.1.2", 5), out.destination("10.0.1.2"))]) == []
    (packet,) = received(into, 1)
    assert (packet.source, packet.ifindex) == ("10.0.1.1", 0)
    out.close()
    into.close()


def test_the_limit_of_one_reading_leaves_the_rest(wire: Wire) -> None:
    out = opened(wire.a, "eth0", 4)
    into = opened(wire.b, "eth0", 4, groups=["224.0.0.18"])
    group = out.destination("224.0.0.18")
    out.send_many([(advert4("10.0.0.1", "224.0.0.18", vrid), group) for vrid in range(1, 201)])
    found: list[Received] = []
    wait_until(lambda: len(into.receive(0)) == 0)
    part = into.receive(64)
    assert len(part) == 64
    found += part
    wait_until(lambda: found.extend(into.receive(64)) or len(found) == 200)
    out.close()
    into.close()


def test_a_missing_interface_is_named() -> None:
    with pytest.raises(KernelError) as caught:
        VrrpSocket("no-such-if", 4)
    assert "no-such-if" in caught.value.subject
    assert caught.value.errno in {errno.ENODEV, errno.ENXIO}


def test_an_interface_that_goes_fails_the_sends(wire: Wire) -> None:
    with Lab() as lab:
        ns = lab.namespace("c")
        ns.ip("link add d0 type veth peer name d1")
        ns.ip_batch(["link set d0 up", "link set d1 up", "addr add 10.4.0.1/24 dev d0"])
        sock = opened(ns, "d0", 4, groups=["224.0.0.18"])
        message = [(advert4("10.4.0.1", "224.0.0.18", 1), sock.destination("224.0.0.18"))]
        assert sock.send_many(message * 3) == []
        ns.ip("link set d0 down")
        assert {error.errno for error in sock.send_many(message)} <= {errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV}
        ns.ip("link delete d0")
        errors = sock.send_many(message * 3)
        assert len(errors) == 3
        assert "224.0.0.18" in errors[0].subject
        sock.close()


def test_readable_is_told_on_the_loop(wire: Wire) -> None:
    async def work() -> None:
        into = opened(wire.b, "eth0", 4, groups=["224.0.0.18"], loop=asyncio.get_running_loop())
        out = opened(wire.a, "eth0", 4)
        heard: asyncio.Queue[Received] = asyncio.Queue()

        def readable() -> None:
            for packet in into.receive():
                heard.put_nowait(packet)

        into.on_readable(readable)
        out.send_many([(advert4("10.0.0.1", "224.0.0.18", 5), out.destination("224.0.0.18"))])
        packet = await asyncio.wait_for(heard.get(), 5)
        assert packet.payload[1] == 5
        into.on_readable(None)
        into.close()
        out.close()

    asyncio.run(work())


def frames_on(ns: NetNs, interface: str) -> tuple[socket.socket, Callable[[], list[bytes]]]:
    with ns.enter():
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sniffer.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE: it must not lose any itself
        sniffer.bind((interface, 3))
    sniffer.setblocking(False)

    def read() -> list[bytes]:
        found = []
        while True:
            try:
                found.append(sniffer.recv(2048))
            except BlockingIOError:
                return found

    return sniffer, read


def test_announcements_leave_in_order_on_their_interfaces(wire: Wire) -> None:
    with wire.a.enter():
        announcer = Announcer()
        eth0, eth1 = socket.if_nametoindex("eth0"), socket.if_nametoindex("eth1")
    first, read0 = frames_on(wire.b, "eth0")
    second, read1 = frames_on(wire.b, "eth1")
    frames = announcer.prepare(
        [(eth0, arp_frame(MAC, f"10.9.{n >> 8}.{n & 255}")) for n in range(300)]
        + [(eth1, advertisement_frame(MAC, f"fd00:9::{n:x}", router=False)) for n in range(50)]
    )
    assert announcer.send(frames) == []
    seen0: list[str] = []
    seen1: list[str] = []

    def arrived() -> bool:
        seen0.extend(Ether(data)[ARP].psrc for data in read0() if data[12:14] == b"\x08\x06" and data[6:12] == MAC)
        seen1.extend(Ether(data)[ICMPv6ND_NA].tgt for data in read1() if data[6:12] == MAC)
        return len(seen0) >= 300 and len(seen1) >= 50

    wait_until(arrived)
    assert seen0 == [f"10.9.{n >> 8}.{n & 255}" for n in range(300)]
    assert seen1 == [socket.inet_ntop(10, socket.inet_pton(10, f"fd00:9::{n:x}")) for n in range(50)]
    assert announcer.send(frames, 299, 2) == []
    seen0.clear()
    seen1.clear()
    wait_until(lambda: arrived() or (len(seen0), len(seen1)) == (1, 1))
    # A frame for an interface that is gone fails alone.
    mixed = announcer.prepare([(9999, arp_frame(MAC, "10.9.0.1")), (eth0, arp_frame(MAC, "10.9.0.2"))])
    assert [(error.subject, error.errno) for error in announcer.send(mixed)] == [("link/#9999", errno.ENXIO)]
    assert announcer.send(announcer.prepare([])) == []
    announcer.close()
    first.close()
    second.close()


def test_a_neighbour_learns_the_new_owner(wire: Wire) -> None:
    """What announcements are for: the peer's entry changes at once."""
    wire.b.ip("neigh replace 10.0.0.50 lladdr 02:00:00:00:00:99 nud stale dev eth0")
    with wire.a.enter():
        announcer = Announcer()
        eth0 = socket.if_nametoindex("eth0")
    announcer.send(announcer.prepare([(eth0, arp_frame(MAC, "10.0.0.50"))]))
    wait_until(lambda: "02:00:00:00:00:01" in wire.b.ip("neigh show 10.0.0.50"), what="the neighbour entry")
    wire.b.ip("neigh replace fd00::50 lladdr 02:00:00:00:00:99 nud stale dev eth0")
    announcer.send(announcer.prepare([(eth0, advertisement_frame(MAC, "fd00::50", router=False))]))
    wait_until(lambda: "02:00:00:00:00:01" in wire.b.ip("neigh show fd00::50"), what="the neighbour entry")
    announcer.close()
