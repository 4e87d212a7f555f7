"""The faces of the kernel: what a shell may ask of Linux, as protocols.

`linux.py` has the real thing, `fake.py` the same in memory; a shell takes a `Kernel` and cannot tell them apart.
All calls are made on the thread of the cell's loop. Nothing here blocks for longer than the kernel needs to carry
an order out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from holdfast.kernel.base import AddressSpec, KernelError, RouteSpec, RuleSpec
from holdfast.kernel.instant import Instant
from holdfast.kernel.records import (
    AddressChanged,
    AddressRecord,
    Link,
    LinkChanged,
    Received,
    RouteChanged,
    RouteRecord,
    RuleChanged,
    RuleRecord,
)

Unsubscribe = Callable[[], None]


class Timers(Protocol):
    """Deadlines of a whole cell (timers.DeadlineHeap)."""

    def set(self, key: object, at: Instant | None, call: Callable[[Instant], None]) -> None:
        """`call(now)` once, at `at` or right after. Replaces what `key` had; None removes it."""

    def before_firing(self, hook: Callable[[], None]) -> Unsubscribe:
        """`hook()` before due deadlines are looked at: sockets are drained there."""

    def next_deadline(self) -> Instant | None:
        """The earliest deadline there is."""

    def now(self) -> Instant:
        """The clock these deadlines are on."""


class Batch(Protocol):
    """Encoded netlink requests in order, to be sent as one buffer, as often as wanted (netlink.RequestBatch)."""

    def address(self, spec: AddressSpec, ifindex: int, *, remove: bool = False, valid_lft_s: int | None = None) -> None:
        """Appends: put the address on the interface (or renew its lifetime), or remove it."""

    def route(self, spec: RouteSpec, *, remove: bool = False) -> None:
        """Appends: set the route, or remove it. KernelError(ENODEV) when an interface it names is not there."""

    def rule(self, spec: RuleSpec, *, remove: bool = False) -> None:
        """Appends: set the rule, or remove it."""

    def __len__(self) -> int: ...


class Requests(Protocol):
    """rtnetlink (netlink.Netlink)."""

    @property
    def port(self) -> int:
        """Our port: a change that carries it was made by us."""

    def batch(self) -> Batch:
        """A new empty batch."""

    def send(self, batch: Batch) -> None:
        """Hands the batch to the kernel, which carries it out before this returns; acks are read later by `collect`."""

    def send_together(self, batches: Sequence[Batch]) -> None:
        """`send` for many batches in few system calls; each of them is collected afterwards."""

    def collect(self, batch: Batch) -> list[KernelError]:
        """Reads the acks of the last `send`:

        what failed, each naming its subject. Removing what is gone is no failure.
        """

    def run(self, batch: Batch) -> list[KernelError]:
        """`send` and `collect`."""

    def addresses(self) -> list[AddressRecord]:
        """Every address of this network namespace as the kernel has it."""

    def routes(self, protocol: int = 18) -> list[RouteRecord]:
        """The routes of one protocol number, all tables."""

    def rules(self) -> list[RuleRecord]:
        """All policy rules, IPv4 and IPv6."""


class Links(Protocol):
    """Interfaces and what is on them, kept current (links.LinkTable)."""

    def by_name(self, name: str) -> Link | None: ...

    def by_index(self, ifindex: int) -> Link | None: ...

    def all(self) -> Collection[Link]: ...

    def ifindex(self, name: str) -> int:
        """KernelError(ENODEV) when there is no such interface."""

    def addresses(self, ifindex: int, family: int | None = None) -> list[AddressRecord]:
        """In the kernel's order: the first of a subnet is its primary. family: 4, 6 or None for both."""

    def has_address(self, ifindex: int, address: str, prefix: int | None = None) -> bool: ...

    def on_link(self, call: Callable[[LinkChanged], None]) -> Unsubscribe: ...

    def on_address(self, call: Callable[[AddressChanged], None], *, refreshes: bool = False) -> Unsubscribe:
        """refreshes: also when only a lifetime was renewed."""

    def on_route(self, call: Callable[[RouteChanged], None]) -> Unsubscribe: ...

    def on_rule(self, call: Callable[[RuleChanged], None]) -> Unsubscribe: ...

    def on_resync(self, call: Callable[[], None]) -> Unsubscribe:
        """After an overrun everything was read anew; differences have been told by the other callbacks before."""

    def drain(self) -> None:
        """Takes in what the kernel has told so far, now."""


class Destination(Protocol):
    """Where a message goes, packed beforehand. Made by the socket it is used with."""

    @property
    def address(self) -> str: ...


class Prepared(Protocol):
    """A message ready to be sent (mmsg.PreparedMessage)."""


Known = Callable[[Instant], None]
"""What is to be done about a packet that says what one before it said."""


def said(packet: bytes) -> bytes:
    """All of an IPv4 packet but its id and header checksum: packets that are equal in this say the same."""
    return packet[:4] + packet[6:10] + packet[12:]


class AdvertSocket(Protocol):
    """Raw VRRP on one interface and family (packets.VrrpSocket)."""

    @property
    def interface(self) -> str | None: ...

    @property
    def family(self) -> int: ...

    def destination(self, address: str, *, source: str | None = None, hop_limit: int | None = None) -> Destination:
        """source, hop_limit: IPv6 only (pktinfo); with IPv4 both are in the header that the sender built."""

    def send_many(self, messages: Sequence[tuple[bytes | bytearray, Destination]]) -> list[KernelError]:
        """One system call for all.

        IPv4: bytes begin with the IP header; IPv6: with the VRRP message. Returns what failed.
        """

    def prepare(self, data: bytes, destination: Destination) -> Prepared:
        """A message that will be sent many times; its bytes as for `send_many`."""

    def send_prepared(self, messages: Sequence[Prepared]) -> list[KernelError]:
        """As `send_many`."""

    def probe(self, messages: Sequence[Prepared]) -> None:
        """As `send_prepared`, but nothing is sent: it warms the way for what will be sent in a moment."""

    def waited_ns(self) -> int:
        """How long the packet that was received last had waited; 0 when nobody knows."""

    def receive_known(self, limit: int, known: Mapping[bytes, Known]) -> list[Received | Known]:
        """As `receive`; a packet that `known` has by its `said` may be given as what `known` has for it."""

    def receive(self, limit: int = 256) -> list[Received]:
        """What has arrived, until empty or `limit`."""

    def join(self, group: str) -> None: ...

    def leave(self, group: str) -> None: ...

    def accept_vrids(self, vrids: Iterable[int] | None) -> None:
        """A kernel filter: others do not reach us. None: all do."""

    def on_readable(self, call: Callable[[], None] | None) -> None:
        """`call()` on the loop when something has arrived."""

    def close(self) -> None: ...


class Frames(Protocol):
    """Pre-built frames in order (announce.FrameBatch)."""

    def __len__(self) -> int: ...


class Announcer(Protocol):
    """Gratuitous ARP and unsolicited neighbour advertisements (announce.Announcer)."""

    def prepare(self, frames: Sequence[tuple[int, bytes]]) -> Frames:
        """frames: (ifindex, whole Ethernet frame); see announce.arp_frame and announce.advertisement_frame."""

    def send(self, frames: Frames, first: int = 0, count: int | None = None) -> list[KernelError]:
        """Sends them (or `count` from `first` on) in one system call per thousand."""

    def close(self) -> None: ...


class Firewall(Protocol):
    """Drops traffic to virtual addresses in no_accept mode (firewall.Nftables)."""

    def block(self, addresses: Sequence[AddressSpec]) -> None:
        """Traffic to these is dropped from now on, except neighbour discovery. Returns at once; order is kept."""

    def unblock(self, addresses: Sequence[AddressSpec]) -> None: ...

    def restore(self) -> None:
        """Everything that should be there is put there anew."""

    def on_lost(self, call: Callable[[str | None], None]) -> None:
        """`call(by)` when another program has removed something of it. by: which, if that is known."""

    async def settle(self) -> list[KernelError]:
        """Waits until all orders so far are carried out; what failed since the last call."""


class Kernel(Protocol):
    """Everything a protocol shell needs of Linux, made for one loop in one network namespace."""

    @property
    def timers(self) -> Timers: ...

    @property
    def links(self) -> Links: ...

    @property
    def requests(self) -> Requests: ...

    @property
    def announcer(self) -> Announcer: ...

    @property
    def firewall(self) -> Firewall: ...

    def advert_socket(
        self,
        interface: str | None,
        family: int,
        *,
        groups: Iterable[str] = (),
        receive_buffer_bytes: int | None = None,
        priority: int | None = 6,
    ) -> AdvertSocket:
        """interface None: any (unicast instances without one). KernelError when it cannot be made."""

    def sysctl_get(self, name: str) -> str | None:
        """`net/ipv4/conf/eth0/arp_ignore`; None when there is none."""

    def sysctl_set(self, name: str, value: str | int) -> bool:
        """True when it now has the value."""

    def close(self) -> None: ...
