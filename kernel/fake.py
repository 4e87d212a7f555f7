"""The kernel in memory: the faces of faces.py without root, without sockets, in virtual time.

    network = FakeNetwork()
    a, b = FakeKernel(network), FakeKernel(network)
    a.add_link("eth0", segment="lan")
    b.add_link("eth0", segment="lan")
    ...                                   # shells are built on `a` and `b`
    network.run_until(seconds(3.61))

Deliveries and deadlines happen only inside `run_until`, `advance` or `settle`, in a fixed order. `Segment.drop` decides
which packets are lost; `FakeRequests.refuse` which orders fail.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from holdfast.kernel.base import AddressSpec, KernelError
from holdfast.kernel.faces import Destination, Frames, Known, Prepared, said
from holdfast.kernel.fake_links import FakeLinks, FakeTimers
from holdfast.kernel.fake_requests import FakeRequests
from holdfast.kernel.instant import Instant
from holdfast.kernel.records import (
    IFF_LOOPBACK,
    IFF_MULTICAST,
    IFF_RUNNING,
    IFF_UP,
    AddressRecord,
    Link,
    Received,
)
from holdfast.kernel.rtencode import pack_address

_S = 1_000_000_000


class FakeDestination:
    """faces.Destination in plain values."""

    __slots__ = ("address", "hop_limit", "source")

    def __init__(self, address: str, source: str | None, hop_limit: int | None) -> None:
        self.address = address
        self.source = source
        self.hop_limit = hop_limit


class FakePrepared:
    """faces.Prepared in plain values."""

    __slots__ = ("data", "destination")

    def __init__(self, data: bytes, destination: Destination) -> None:
        self.data = data
        self.destination = destination


class FakeAdvertSocket:
    """faces.AdvertSocket on a segment of the network."""

    def __init__(self, kernel: FakeKernel, interface: str | None, family: int, groups: Iterable[str]) -> None:
        self._kernel = kernel
        self.interface = interface
        self.family = family
        self.ifindex = kernel.links.ifindex(interface) if interface is not None else 0
        self.groups = set(groups)
        self.vrids: frozenset[int] | None = None
        self.waiting: deque[Received] = deque()
        self.closed = False
        self.waits_ns = 0
        self._call: Callable[[], None] | None = None

    def destination(self, address: str, *, source: str | None = None, hop_limit: int | None = None) -> FakeDestination:
        """See faces.AdvertSocket."""
        return FakeDestination(address, source, hop_limit)

    def send_many(self, messages: Sequence[tuple[bytes | bytearray, Destination]]) -> list[KernelError]:
        """See faces.AdvertSocket. Fails with ENETDOWN while the interface is down."""
        errors = []
        for data, destination in messages:
            assert isinstance(destination, FakeDestination), destination
            number = self._kernel.transmit(self, bytes(data), destination)
            if number:
                subject = f"vrrp-socket/{self.interface or 'any'}/ipv{self.family}/{destination.address}"
                errors.append(KernelError("send", subject, number))
        return errors

    def prepare(self, data: bytes, destination: Destination) -> FakePrepared:
        """See faces.AdvertSocket."""
        return FakePrepared(data, destination)

    def send_prepared(self, messages: Sequence[Prepared]) -> list[KernelError]:
        """See faces.AdvertSocket."""
        pairs = []
        for message in messages:
            assert isinstance(message, FakePrepared), message
            pairs.append((message.data, message.destination))
        return self.send_many(pairs)

    def probe(self, messages: Sequence[Prepared]) -> None:
        """There is nothing to warm."""

    def waited_ns(self) -> int:
        """See faces.AdvertSocket: what a test says."""
        return self.waits_ns

    def receive_known(self, limit: int, known: Mapping[bytes, Known]) -> list[Received | Known]:
        """See faces.AdvertSocket."""
        found = self.receive(limit)
        return [known.get(said(each.packet), each) if self.family == 4 else each for each in found]

    def receive(self, limit: int = 256) -> list[Received]:
        """See faces.AdvertSocket."""
        return [self.waiting.popleft() for _ in range(min(limit, len(self.waiting)))]

    def join(self, group: str) -> None:
        """See faces.AdvertSocket."""
        self.groups.add(group)

    def leave(self, group: str) -> None:
        """See faces.AdvertSocket."""
        self.groups.discard(group)

    def accept_vrids(self, vrids: Iterable[int] | None) -> None:
        """See faces.AdvertSocket."""
        self.vrids = None if vrids is None else frozenset(vrids)

    def on_readable(self, call: Callable[[], None] | None) -> None:
        """See faces.AdvertSocket; called while the network settles."""
        self._call = call

    def deliver(self, received: Received) -> None:
        """A packet has arrived on our interface."""
        if self.closed or (self.vrids is not None and received.payload[1:2] and received.payload[1] not in self.vrids):
            return
        self.waiting.append(received)
        if self._call is not None:
            self._kernel.network.soon(self._readable)

    def close(self) -> None:
        """See faces.AdvertSocket."""
        self.closed = True
        self._call = None
        self.waiting.clear()
        if self in self._kernel.sockets:
            self._kernel.sockets.remove(self)

    def _readable(self) -> None:
        if self._call is not None and self.waiting:
            self._call()


class FakeFrames:
    """faces.Frames as a list."""

    def __init__(self, frames: Sequence[tuple[int, bytes]]) -> None:
        self.frames = list(frames)

    def __len__(self) -> int:
        return len(self.frames)


class FakeAnnouncer:
    """faces.Announcer: keeps what was sent, with the instant."""

    def __init__(self, network: FakeNetwork) -> None:
        self._network = network
        self.sent: list[tuple[Instant, int, bytes]] = []

    def prepare(self, frames: Sequence[tuple[int, bytes]]) -> FakeFrames:
        """See faces.Announcer."""
        return FakeFrames(frames)

    def send(self, frames: Frames, first: int = 0, count: int | None = None) -> list[KernelError]:
        """See faces.Announcer."""
        assert isinstance(frames, FakeFrames), frames
        end = len(frames) if count is None else first + count
        self.sent += [(self._network.now, ifindex, frame) for ifindex, frame in frames.frames[first:end]]
        return []

    def close(self) -> None:
        """Nothing to close."""


class FakeFirewall:
    """faces.Firewall: keeps what is blocked."""

    def __init__(self) -> None:
        self.blocked: list[str] = []
        self.restored = 0
        self.lost: Callable[[str | None], None] | None = None

    def restore(self) -> None:
        """See faces.Firewall."""
        self.restored += 1

    def on_lost(self, call: Callable[[str | None], None]) -> None:
        """See faces.Firewall: a test calls `lost`."""
        self.lost = call

    def block(self, addresses: Sequence[AddressSpec]) -> None:
        """See faces.Firewall."""
        self.blocked += [spec.address for spec in addresses]

    def unblock(self, addresses: Sequence[AddressSpec]) -> None:
        """See faces.Firewall."""
        for spec in addresses:
            if spec.address in self.blocked:
                self.blocked.remove(spec.address)

    async def settle(self) -> list[KernelError]:
        """Nothing is ever left."""
        return []


class FakeKernel:
    """faces.Kernel of one host on a FakeNetwork."""

    def __init__(self, network: FakeNetwork | None = None, label: str = "host") -> None:
        self.network = network or FakeNetwork()
        self.label = label
        self.timers = FakeTimers(self.network)
        self.links = FakeLinks(self.network.soon)
        self.requests = FakeRequests(self)
        self.announcer = FakeAnnouncer(self.network)
        self.firewall = FakeFirewall()
        self.sockets: list[FakeAdvertSocket] = []
        self.sysctls: dict[str, str] = {}
        self.segments: dict[int, Segment] = {}
        self.running = True
        """False: the host stands still (frozen or dead): its deadlines do not fire, what arrives waits."""
        self._leases: dict[tuple[int, str], Instant] = {}
        self.network.kernels.append(self)

    def add_link(
        self,
        name: str,
        *,
        segment: str | None = None,
        addresses: Iterable[str] = (),
        mac: bytes | None = None,
        up: bool = True,
    ) -> Link:
        """An Ethernet interface. segment: what it is plugged into; addresses: ADDR/LEN."""
        flags = IFF_MULTICAST | (IFF_UP | IFF_RUNNING if up else 0)
        number = len(self.network.kernels) * 256 + len(self.links.all()) + 1
        link = self.links.put_link(
            Link(
                index=0,
                name=name,
                flags=flags | (IFF_LOOPBACK if name == "lo" else 0),
                mac=mac if mac is not None else b"\x02\x00" + number.to_bytes(4, "big"),
                broadcast=b"\xff" * 6,
            )
        )
        if segment is not None:
            self.segments[link.index] = self.network.segment(segment)
        for text in addresses:
            self.add_address(name, text)
        return link

    def set_link(self, name: str, *, up: bool) -> None:
        """The carrier comes or goes."""
        link = self.links.by_index(self.links.ifindex(name))
        assert link is not None
        fields = {field: getattr(link, field) for field in link.__struct_fields__}
        flags = link.flags | IFF_UP | IFF_RUNNING if up else link.flags & ~IFF_RUNNING
        self.links.put_link(Link(**{**fields, "flags": flags}))

    def add_address(self, interface: str, text: str) -> None:
        """Somebody adds ADDR/LEN."""
        address, _, prefix = text.partition("/")
        length = int(prefix) if prefix else (128 if ":" in address else 32)
        self.links.put_address(AddressRecord(ifindex=self.links.ifindex(interface), address=address, prefix=length))

    def remove_address(self, interface: str, address: str) -> bool:
        """Somebody else removes it."""
        return self.links.drop_address(self.links.ifindex(interface), address)

    def lease(self, ifindex: int, address: str, valid_lft_s: int | None) -> None:
        """The address leaves by itself after this many seconds; None: it stays."""
        if valid_lft_s is None:
            self._leases.pop((ifindex, address), None)
        else:
            self._leases[ifindex, address] = Instant(self.network.now + valid_lft_s * _S)

    def next_lease(self) -> Instant | None:
        """When the next address leaves by itself."""
        return min(self._leases.values(), default=None)

    def expire(self) -> None:
        """Addresses whose lifetime has ended leave, also while the host's processes stand still."""
        for (ifindex, address), at in tuple(self._leases.items()):
            if at <= self.network.now:
                del self._leases[ifindex, address]
                self.links.drop_address(ifindex, address)

    def advert_socket(
        self,
        interface: str | None,
        family: int,
        *,
        groups: Iterable[str] = (),
        receive_buffer_bytes: int | None = None,
        priority: int | None = 6,
    ) -> FakeAdvertSocket:
        """See faces.Kernel."""
        socket = FakeAdvertSocket(self, interface, family, groups)
        self.sockets.append(socket)
        return socket

    def sysctl_get(self, name: str) -> str | None:
        """What was set, None without."""
        return self.sysctls.get(name)

    def sysctl_set(self, name: str, value: str | int) -> bool:
        """Always succeeds."""
        self.sysctls[name] = str(value)
        return True

    def transmit(self, sender: FakeAdvertSocket, data: bytes, destination: FakeDestination) -> int:
        """Puts a packet on the wire. Returns an errno, 0 when it left."""
        if sender.closed:
            return errno.EBADF
        interfaces = [sender.ifindex] if sender.ifindex else list(self.segments)
        for ifindex in interfaces:
            link = self.links.by_index(ifindex)
            if link is None:
                return errno.ENODEV
            if not link.up:
                return errno.ENETDOWN
            segment = self.segments.get(ifindex)
            if segment is not None:
                segment.carry(self, ifindex, sender.family, data, destination)
        return 0

    def close(self) -> None:
        """Leaves the network."""
        for socket in tuple(self.sockets):
            socket.close()
        if self in self.network.kernels:
            self.network.kernels.remove(self)


class Segment:
    """What interfaces are plugged into. drop(sender label, receiver label, packet): whether a packet is lost."""

    def __init__(self, network: FakeNetwork, name: str) -> None:
        self._network = network
        self.name = name
        self.drop: Callable[[str, str, bytes], bool] | None = None
        self.seen: list[tuple[Instant, str, bytes]] = []
        """Every packet that was put on the wire: when, by whom, its bytes as sent."""

    def carry(self, sender: FakeKernel, ifindex: int, family: int, data: bytes, destination: FakeDestination) -> None:
        """Hands a packet to every other interface of the segment."""
        self.seen.append((self._network.now, sender.label, data))
        for kernel in self._network.kernels:
            for index, segment in kernel.segments.items():
                link = kernel.links.by_index(index)
                if segment is not self or (kernel is sender and index == ifindex) or link is None or not link.up:
                    continue
                if self.drop is not None and self.drop(sender.label, kernel.label, data):
                    continue
                received = _received(sender, ifindex, index, family, data, destination)
                for socket in tuple(kernel.sockets):
                    if socket.family == family and socket.ifindex in {0, index} and _hears(kernel, socket, destination):
                        socket.deliver(received)


class FakeNetwork:
    """Virtual time and wires for a number of kernels."""

    def __init__(self, start: Instant = Instant(1000 * _S)) -> None:  # noqa: B008 - a plain number
        self.now = start
        self.kernels: list[FakeKernel] = []
        self._segments: dict[str, Segment] = {}
        self._soon: deque[Callable[[], None]] = deque()

    def segment(self, name: str) -> Segment:
        """Made when first asked for."""
        if name not in self._segments:
            self._segments[name] = Segment(self, name)
        return self._segments[name]

    def soon(self, call: Callable[[], None]) -> None:
        """`call()` while settling, after what was asked for before."""
        self._soon.append(call)

    def settle(self) -> None:
        """Delivers until nothing is on its way."""
        while self._soon:
            self._soon.popleft()()

    def next_event(self) -> Instant | None:
        """The earliest deadline or end of a lease of any kernel."""
        instants = [kernel.next_lease() for kernel in self.kernels]
        instants += [kernel.timers.next_deadline() for kernel in self.kernels if kernel.running]
        return min((at for at in instants if at is not None), default=None)

    def run_until(self, end: Instant) -> None:
        """Everything that happens up to and including `end`."""
        self.settle()
        while True:
            at = self.next_event()
            if at is None or at > end:
                break
            self.now = max(self.now, at)
            self.step()
        self.now = max(self.now, end)

    def advance(self, by_ns: int) -> None:
        """`run_until` this much later."""
        self.run_until(Instant(self.now + by_ns))

    def step(self) -> None:
        """What is due now on every kernel, and what follows from it."""
        for kernel in tuple(self.kernels):
            kernel.expire()
        for kernel in tuple(self.kernels):
            at = kernel.timers.next_deadline()
            if kernel.running and at is not None and at <= self.now:
                kernel.timers.fire()
            self.settle()


def _hears(kernel: FakeKernel, socket: FakeAdvertSocket, destination: FakeDestination) -> bool:
    packed = pack_address(destination.address.partition("%")[0])
    multicast = packed[0] == 0xFF if len(packed) == 16 else packed[0] & 0xF0 == 0xE0
    if multicast:
        return destination.address in socket.groups
    return any(kernel.links.has_address(link.index, destination.address) for link in kernel.links.all())


def _received(
    sender: FakeKernel, ifindex: int, index: int, family: int, data: bytes, destination: FakeDestination
) -> Received:
    if family == 4:
        header = (data[0] & 0x0F) * 4
        source = ".".join(str(byte) for byte in data[12:16])
        target = ".".join(str(byte) for byte in data[16:20])
        return Received(data, data[header:], source, target, data[8], index, data[9], int.from_bytes(data[2:4], "big"))
    source = destination.source or next(
        (
            record.address
            for record in sender.links.addresses(ifindex, 6)
            if record.address.startswith("fe80") or not destination.address.startswith("ff")
        ),
        "::",
    )
    limit = 255 if destination.hop_limit is None else destination.hop_limit
    return Received(data, data, source, destination.address, limit, index, 112, len(data))
