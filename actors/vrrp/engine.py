"""Sockets, the outbox and the spacing of announcements: what all instances of a cell share.

One raw socket per interface and family serves every instance on it: its reader finds the instance by VRID and calls
it. What instances order in one turn of the loop leaves together, in phases that keep the order each of them wants:
adverts (one sendmmsg a socket), then netlink batches, then announcements, then events and log lines, then the kernel's
acks are read. So a thousand instances that fall due together cost a few system calls, and nothing is encoded or
published before the bytes have left.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Protocol

from holdfast.actors.runtime.machine import MS, US, Duration, Instant, S
from holdfast.actors.vrrp.config import GarpGroup, VrrpInstance
from holdfast.kernel.base import KernelError
from holdfast.kernel.faces import AdvertSocket, Batch, Destination, Frames, Kernel
from holdfast.kernel.records import Received

log = logging.getLogger("holdfast.vrrp")

RECEIVE_CHUNK = 256
RECEIVE_LIMIT = 2048
"""Packets taken from one socket before deadlines are looked at again: a flood must not silence a master."""

FLUSH_ADVERTS = 64
"""So many adverts do not wait for the rest of the turn."""

QUIET = Duration(10 * S)
STALL_TICK = Duration(100 * MS)
STALL_LEAST = Duration(150 * MS)
"""A pause of this process shorter than this is no stall, only a delay (it stands in the cell's histogram)."""


class Receiver(Protocol):
    """What the engine knows of an instance."""

    @property
    def instance(self) -> VrrpInstance:
        """Its configuration."""

    def packet(self, received: Received) -> None:
        """A packet for its VRID on its socket."""

    def kernel_failed(self, error: KernelError) -> None:
        """A netlink request of it was refused."""

    def advert_failed(self, error: KernelError) -> None:
        """Its last advert has left to nobody."""


class Line:
    """One socket and the instances on it."""

    __slots__ = ("adverts", "groups", "members", "quiet_until", "rejects", "senders", "socket")

    def __init__(self, socket: AdvertSocket) -> None:
        self.socket = socket
        self.members: dict[int, list[Receiver]] = {}
        self.groups: Counter[str] = Counter()
        self.adverts: list[tuple[bytes, Destination]] = []
        self.senders: list[Receiver] = []
        self.rejects: Counter[str] = Counter()
        self.quiet_until = Instant(0)


class Engine:
    """See the file's first lines. Everything is called on the cell's loop."""

    def __init__(
        self,
        kernel: Kernel,
        soon: Callable[[Callable[[], None]], object],
        *,
        suspended_ns: Callable[[], int] | None = None,
    ) -> None:
        """soon: the loop's call_soon. suspended_ns: how long the machine has been suspended since it booted.

        Virtual time brings its own of both.
        """
        self.kernel = kernel
        self._soon = soon
        self._suspended_ns = suspended_ns or _suspended_ns
        self._lines: dict[tuple[str | None, int], Line] = {}
        self._dirty: list[Line] = []
        self._queued = 0
        self._requests: list[tuple[Batch, object, object | None]] = []
        self._announcements: list[tuple[Frames, int, Receiver]] = []
        self._afterwards: list[Callable[[], object]] = []
        self._acks: deque[tuple[Batch, object]] = deque()
        self._unsent: list[tuple[Receiver, KernelError]] = []
        self._scheduled = False
        self.pacer = Pacer(kernel)
        self.log_unknown_vrids = False
        self.unknown_vrids: Counter[tuple[str, int]] = Counter()
        self._on_stall: Callable[[Duration, Duration], None] | None = None
        self._tick_at: Instant | None = None
        self._suspended_before = 0
        self._remove_hook = kernel.timers.before_firing(self.drain)

    # ------------------------------------------------------------ lines

    def attach(self, member: Receiver, *, receive_buffer_bytes: int | None = None) -> Line:
        """The line of an instance; its socket is opened if it is the first on it. Raises KernelError."""
        instance = member.instance
        key = (instance.interface or None, instance.family)
        line = self._lines.get(key)
        if line is None:
            socket = self.kernel.advert_socket(*key, receive_buffer_bytes=receive_buffer_bytes)
            line = self._lines[key] = Line(socket)
            socket.on_readable(lambda: self._readable(line))
        if not instance.unicast:
            if not line.groups[instance.mcast_group]:
                line.socket.join(instance.mcast_group)
            line.groups[instance.mcast_group] += 1
        line.members.setdefault(instance.vrid, []).append(member)
        self._filter(line)
        return line

    def detach(self, member: Receiver, line: Line) -> None:
        """Ends `attach`; the last one closes the socket."""
        instance = member.instance
        members = line.members.get(instance.vrid, [])
        if member not in members:
            return
        members.remove(member)
        if not members:
            del line.members[instance.vrid]
        if not instance.unicast:
            line.groups[instance.mcast_group] -= 1
            if not line.groups[instance.mcast_group] and line.members:
                try:
                    line.socket.leave(instance.mcast_group)
                except KernelError as error:
                    log.debug("%s", error)  # the interface is gone, and its memberships with it
        if line.members:
            self._filter(line)
            return
        self.flush()
        line.socket.close()
        self._lines = {key: other for key, other in self._lines.items() if other is not line}

    def lines_of(self, interface: str) -> list[Line]:
        """The lines on an interface, both families."""
        return [line for (name, _), line in self._lines.items() if name == interface]

    def _filter(self, line: Line) -> None:
        line.socket.accept_vrids(None if self.log_unknown_vrids else line.members)

    # ------------------------------------------------------------ receiving

    def drain(self) -> None:
        """Hears everything that has arrived: done before any deadline is looked at (a process that stood still hears
        the adverts that waited for it before it decides that its peer is dead)."""
        self.check_stall()
        self.kernel.links.drain()
        for line in tuple(self._lines.values()):
            self._receive(line)

    def _readable(self, line: Line) -> None:
        self.check_stall()
        self._receive(line)

    def _receive(self, line: Line) -> None:
        left = RECEIVE_LIMIT
        while left > 0:
            packets = line.socket.receive(RECEIVE_CHUNK)
            for received in packets:
                self._dispatch(line, received)
            if len(packets) < RECEIVE_CHUNK:
                return
            left -= len(packets)

    def _dispatch(self, line: Line, received: Received) -> None:
        payload = received.payload
        if len(payload) < 2:
            line.rejects["packet_len_err"] += 1
            return
        members = line.members.get(payload[1])
        if members is None:
            self._unknown(line, received)
            return
        if len(members) == 1:
            members[0].packet(received)
            return
        # Unicast instances may share a VRID: the one that has the sender as its peer; all of them if nobody has.
        known = [m for m in members if any(peer.address == received.source for peer in m.instance.peers)]
        for member in known or list(members):
            member.packet(received)

    def _unknown(self, line: Line, received: Received) -> None:
        line.rejects["unknown_vrid"] += 1
        key = (line.socket.interface or "any", received.payload[1])
        if len(self.unknown_vrids) < 512:
            self.unknown_vrids[key] += 1
        if self.log_unknown_vrids and self.unknown_vrids[key] in (1, 100, 10_000):
            log.info("Unknown VRID(%d) received on interface(%s). ignoring...", key[1], key[0])

    # ------------------------------------------------------------ the outbox

    def advert(self, line: Line, sender: Receiver, messages: Iterable[tuple[bytes, Destination]]) -> None:
        """Queues the adverts of one instance (one for each of its destinations)."""
        if not line.adverts:
            self._dirty.append(line)
        for message in messages:
            line.adverts.append(message)
            line.senders.append(sender)
            self._queued += 1
        if self._queued >= FLUSH_ADVERTS:
            self._send_adverts(None)
        self._schedule()

    def request(self, batch: Batch, owner: object, *, if_sent: object | None = None) -> None:
        """Queues a netlink batch. owner: gets `kernel_failed`. if_sent: only if no advert of that sender failed."""
        if len(batch):
            self._requests.append((batch, owner, if_sent))
            self._schedule()

    def announce(self, frames: Frames, repeat: int, owner: Receiver) -> None:
        """Queues `repeat` rounds of announcements."""
        if len(frames) and repeat > 0:
            self._announcements.append((frames, repeat, owner))
            self._schedule()

    def afterwards(self, call: Callable[[], object]) -> None:
        """Queues what people are told: run after the bytes have left, in order."""
        self._afterwards.append(call)
        self._schedule()

    def drop_announcements(self, owner: object) -> None:
        """Announcements of an instance that lets its addresses go are not sent any more."""
        self._announcements = [item for item in self._announcements if item[2] is not owner]
        self.pacer.drop(owner)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._soon(self.flush)

    def flush(self) -> None:
        """Sends everything that is queued."""
        self._scheduled = False
        failed: set[int] = set()
        if self._dirty:
            self._send_adverts(failed)
        if self._unsent:
            unsent, self._unsent = self._unsent, []
            for sender, refused in unsent:
                sender.advert_failed(refused)
        if self._requests:
            requests, self._requests = self._requests, []
            for batch, owner, if_sent in requests:
                if if_sent is not None and id(if_sent) in failed:
                    continue
                try:
                    self.kernel.requests.send(batch)
                except KernelError as refused:
                    self._tell(owner, refused)
                    continue
                self._acks.append((batch, owner))
        if self._announcements:
            announcements, self._announcements = self._announcements, []
            for frames, repeat, owner in announcements:
                self.pacer.send(frames, repeat, owner)
        if self._afterwards:
            calls, self._afterwards = self._afterwards, []
            for call in calls:
                call()
        while self._acks:
            batch, owner = self._acks.popleft()
            for error in self.kernel.requests.collect(batch):
                self._tell(owner, error)

    def _send_adverts(self, failed: set[int] | None) -> None:
        lines, self._dirty = self._dirty, []
        self._queued = 0
        for line in lines:
            messages, line.adverts = line.adverts, []
            senders, line.senders = line.senders, []
            errors = line.socket.send_many(messages)
            if not errors:
                continue
            self._say_unsent(line, errors[0], len(errors), len(messages))
            if failed is not None:
                # Which of them failed matters only for leases: none of this socket's is renewed on a doubt.
                failed.update(id(sender) for sender in senders)
            if len(errors) == len(messages):
                self._unsent += [(sender, errors[0]) for sender in dict.fromkeys(senders)]

    def _say_unsent(self, line: Line, error: KernelError, failed: int, of: int) -> None:
        """At most every ten seconds a line: a link that is down refuses every advert."""
        now = self.kernel.timers.now()
        if now >= line.quiet_until:
            line.quiet_until = Instant(now + QUIET)
            log.warning("%d of %d adverts on %s were not sent: %s", failed, of, line.socket.interface, error)

    def _tell(self, owner: object, error: KernelError) -> None:
        tell = getattr(owner, "kernel_failed", None)
        if tell is not None:
            tell(error)
        else:
            log.warning("%s", error)

    # ------------------------------------------------------------ stalls

    def watch_stalls(self, call: Callable[[Duration, Duration], None]) -> None:
        """`call(duration, unseen)` when this process finds that it did not run, before it does anything else."""
        self._on_stall = call
        self._suspended_before = self._suspended_ns()
        self._tick(self.kernel.timers.now())

    def _tick(self, now: Instant) -> None:
        self._tick_at = Instant(now + STALL_TICK)
        self.kernel.timers.set(self, self._tick_at, self._tick)

    def check_stall(self) -> None:
        """Cheap; called first whenever this process wakes."""
        due = self._tick_at
        if due is None:
            return
        now = self.kernel.timers.now()
        suspended = self._suspended_ns()
        unseen = suspended - self._suspended_before
        if now - due < STALL_LEAST and unseen < STALL_LEAST:
            return
        self._suspended_before = suspended
        self._tick(now)
        if self._on_stall is not None:
            self._on_stall(Duration(max(0, now - due) + STALL_TICK + unseen), Duration(unseen))

    def close(self) -> None:
        """Sends what is queued and closes every socket."""
        self.flush()
        self._remove_hook()
        self.kernel.timers.set(self, None, self._tick)
        self.pacer.close()
        for line in self._lines.values():
            line.socket.close()
        self._lines.clear()


def _suspended_ns() -> int:
    """The monotonic clock stands still during a suspend, the boot clock does not."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()


class Pacer:
    """Announcements with a gap between packets of an interface (garp_interval, gna_interval, garp_group)."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._gaps: dict[int, Duration] = {4: Duration(0), 6: Duration(0)}
        self._groups: dict[tuple[str, int], tuple[object, Duration]] = {}
        self._queues: dict[object, deque[tuple[Frames, int, object]]] = {}

    def configure(self, garp_gap_us: int, gna_gap_us: int, groups: Iterable[GarpGroup]) -> None:
        """The gaps between packets of one interface, for ARP and for neighbour advertisements, and the interfaces that
        share a gap."""
        self._gaps = {4: Duration(garp_gap_us * US), 6: Duration(gna_gap_us * US)}
        self._groups = {}
        for number, group in enumerate(groups):
            gaps = {4: Duration(group.garp_interval_us * US), 6: Duration(group.gna_interval_us * US)}
            for name in group.interfaces:
                for family, gap in gaps.items():
                    self._groups[(name, family)] = ((number, family), gap)

    def send(self, frames: Frames, repeat: int, owner: Receiver) -> None:
        """`repeat` rounds: at once without a gap, else one packet each gap."""
        interface, family = owner.instance.interface, owner.instance.family
        key, gap = self._groups.get((interface, family), ((interface, family), self._gaps[family]))
        if gap == 0:
            for _ in range(repeat):
                for error in self._kernel.announcer.send(frames):
                    log.debug("announcement: %s", error)
            return
        queue = self._queues.get(key)
        idle = not queue
        if queue is None:
            queue = self._queues[key] = deque()
        for _ in range(repeat):
            queue.extend((frames, index, owner) for index in range(len(frames)))
        if idle:
            self._next(key, gap, self._kernel.timers.now())

    def _next(self, key: object, gap: Duration, now: Instant) -> None:
        queue = self._queues.get(key)
        if not queue:
            self._queues.pop(key, None)
            return
        frames, index, _ = queue.popleft()
        for error in self._kernel.announcer.send(frames, index, 1):
            log.debug("announcement: %s", error)
        self._kernel.timers.set((self, key), Instant(now + gap), lambda at: self._next(key, gap, at))

    def drop(self, owner: object) -> None:
        """Forgets what is queued for an instance."""
        for key, queue in self._queues.items():
            self._queues[key] = deque(item for item in queue if item[2] is not owner)

    def close(self) -> None:
        """Nothing more is sent."""
        for key in self._queues:
            self._kernel.timers.set((self, key), None, lambda _: None)
        self._queues.clear()
