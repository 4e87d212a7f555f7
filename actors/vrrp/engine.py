"""Sockets, the outbox and the spacing of announcements: what all instances of a cell share.

One raw socket per interface and family serves every instance on it: its reader finds the instance by VRID and calls
it. What instances order in one turn of the loop leaves together, in phases that keep the order each of them wants:
adverts (one sendmmsg a socket), then netlink batches, then announcements, then events and log lines, then the kernel's
acks are read. So a thousand instances that fall due together cost a few system calls, and nothing is encoded or
published before the bytes have left.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from holdfast.actors.runtime.machine import MS, Duration, Instant, S
from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.actors.vrrp.leisure import Leisure
from holdfast.actors.vrrp.pacer import Pacer
from holdfast.actors.vrrp.stall import StallWatch
from holdfast.kernel.base import KernelError
from holdfast.kernel.faces import AdvertSocket, Batch, Frames, Kernel, Known, Prepared
from holdfast.kernel.records import Received
from holdfast.kernel.stamps import Stamps

log = logging.getLogger("holdfast.vrrp")

ADVERT_SLOT = Duration(MS)
"""Adverts that fall due within so much time leave together, late by less than that and always by as much."""

RENEWALS_A_TURN = 128
RENEWAL_PAUSE = Duration(2 * MS)
"""Leases of many instances that fall due together are spread: adverts go on between."""

RECEIVE_CHUNK = 256
RECEIVE_LIMIT = 2048
"""Packets taken from one socket before deadlines are looked at again: a flood must not silence a master."""

FLUSH_ADVERTS = 64
"""So many adverts do not wait for the rest of the turn."""

QUIET = Duration(10 * S)
HURRY_PAUSE = Duration(5 * MS)
SOON = Duration(MS)
PATIENCE = Duration(60 * MS)
"""What follows the advert of a takeover waits while more of them come and the next deadline is nearer than the first,
but not longer than the second."""
TOLD_TURN = Duration(4 * MS)


class Receiver(Protocol):
    """What the engine knows of an instance."""

    @property
    def instance(self) -> VrrpInstance:
        """Its configuration."""

    @property
    def stamp(self) -> int:
        """Its slot in the engine's stamps."""

    def packet(self, received: Received, now: Instant) -> None:
        """A packet for its VRID on its socket, and when it came."""

    def kernel_failed(self, error: KernelError) -> None:
        """A netlink request of it was refused."""

    def advert_failed(self, error: KernelError) -> None:
        """Its last advert has left to nobody."""


class Beating(Protocol):
    """Who sends adverts. slot: when the next one is due, in ADVERT_SLOTs."""

    slot: int

    def beat(self, now: Instant) -> None:
        """Its advert is due."""


class Line:
    """One socket and the instances on it."""

    __slots__ = ("adverts", "groups", "known", "members", "quiet_until", "rejects", "senders", "socket")

    def __init__(self, socket: AdvertSocket) -> None:
        self.socket = socket
        self.members: dict[int, list[Receiver]] = {}
        self.groups: Counter[str] = Counter()
        self.known: dict[bytes, Known] = {}
        """What a packet says (faces.said) -> what to do when it is said again."""
        self.adverts: list[Prepared] = []
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
        stamps: Stamps | None = None,
    ) -> None:
        """soon: the loop's call_soon. suspended_ns: how long the machine has been suspended since it booted. stamps:
        where the instant of each instance's last advert is kept.

        Virtual time brings its own of both.
        """
        self.kernel = kernel
        self._soon = soon
        self._lines: dict[tuple[str | None, int], Line] = {}
        self._dirty: list[Line] = []
        self._queued = 0
        self._requests: list[tuple[Batch, object]] = []
        self._renewals: deque[tuple[Batch, object]] = deque()
        self._slots: dict[int, list[Beating]] = {}
        self._failed: set[int] = set()
        self._sent = False
        self._watchers: list[Callable[[], None]] = []
        self._filters: dict[int, Line] = {}
        self.stamps = stamps if stamps is not None else Stamps(None)
        self._announcements: list[tuple[Frames, int, Receiver]] = []
        self._afterwards: deque[Callable[[], object]] = deque()
        self._rests: list[Callable[[], None]] = []
        self.leisure = Leisure(kernel.timers)
        self._waits_since: Instant | None = None
        self._rests_before = 0
        self._unsent: list[tuple[Receiver, KernelError]] = []
        self._scheduled = False
        self._hurried_until = Instant(0)
        self.wake_early = Duration(0)
        """How much before its time a backup's timer wakes; not in virtual time, where busy waiting would never end."""
        self.pacer = Pacer(kernel)
        self.log_unknown_vrids = False
        self.unknown_vrids: Counter[tuple[str, int]] = Counter()
        self.stalls = StallWatch(kernel.timers, suspended_ns)
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
        line.known.clear()
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
        self._filters.pop(id(line), None)
        line.socket.close()
        self._lines = {key: other for key, other in self._lines.items() if other is not line}

    def lines_of(self, interface: str) -> list[Line]:
        """The lines on an interface, both families."""
        return [line for (name, _), line in self._lines.items() if name == interface]

    def _filter(self, line: Line) -> None:
        """Once for all that join and leave in one turn."""
        self._filters[id(line)] = line
        self._schedule()

    # ------------------------------------------------------------ receiving

    def drain(self) -> None:
        """Hears everything that has arrived: done before any deadline is looked at (a process that stood still hears
        the adverts that waited for it before it decides that its peer is dead)."""
        self.stalls.check()
        self.kernel.links.drain()
        for line in tuple(self._lines.values()):
            self._receive(line)

    def _readable(self, line: Line) -> None:
        self.stalls.check()
        self._receive(line)

    def _receive(self, line: Line) -> None:
        left = RECEIVE_LIMIT
        socket, known = line.socket, line.known
        while left > 0:
            packets = socket.receive_known(RECEIVE_CHUNK, known)
            # One instant for all that have waited together, that of the last one's arrival: their deadlines move
            # together, and not later because this process woke up late.
            now = Instant(self.kernel.timers.now() - socket.waited_ns())
            for each in packets:
                if type(each) is Received:
                    self._dispatch(line, each, now)
                else:
                    each(now)  # type: ignore[operator]
            if len(packets) < RECEIVE_CHUNK:
                return
            left -= len(packets)

    def _dispatch(self, line: Line, received: Received, now: Instant) -> None:
        payload = received.payload
        if len(payload) < 2:
            line.rejects["packet_len_err"] += 1
            return
        members = line.members.get(payload[1])
        if members is None:
            self._unknown(line, received)
            return
        if len(members) == 1:
            members[0].packet(received, now)
            return
        # Unicast instances may share a VRID: the one that has the sender as its peer; all of them if nobody has.
        known = [m for m in members if any(peer.address == received.source for peer in m.instance.peers)]
        for member in known or list(members):
            member.packet(received, now)

    def _unknown(self, line: Line, received: Received) -> None:
        line.rejects["unknown_vrid"] += 1
        key = (line.socket.interface or "any", received.payload[1])
        if len(self.unknown_vrids) < 512:
            self.unknown_vrids[key] += 1
        if self.log_unknown_vrids and self.unknown_vrids[key] in (1, 100, 10_000):
            log.info("Unknown VRID(%d) received on interface(%s). ignoring...", key[1], key[0])

    # ------------------------------------------------------------ the outbox

    def beat(self, member: Beating, at: Instant) -> None:
        """`member.beat` at this instant or up to an ADVERT_SLOT later, instead of what it asked for before."""
        slot = -(-at // ADVERT_SLOT)
        member.slot = slot
        waiting = self._slots.get(slot)
        if waiting is None:
            self._slots[slot] = [member]
            due = Instant(slot * ADVERT_SLOT)
            self.kernel.timers.set(("adverts", slot), due, lambda now: self._beats(slot, now))
        else:
            waiting.append(member)

    def _beats(self, slot: int, now: Instant) -> None:
        for member in self._slots.pop(slot):
            if member.slot == slot:
                member.beat(now)

    def advert(self, line: Line, sender: Receiver, messages: Sequence[Prepared]) -> None:
        """Queues the adverts of one instance (one for each of its destinations)."""
        if not line.adverts:
            self._dirty.append(line)
        if len(messages) == 1:
            line.adverts.append(messages[0])
            line.senders.append(sender)
        else:
            line.adverts += messages
            line.senders += [sender] * len(messages)
        self._queued += len(messages)
        if self._queued >= FLUSH_ADVERTS:
            self._send_adverts()
        if not self._scheduled:
            self._schedule()

    def hurry(self) -> None:
        """A takeover: its advert does not wait for the end of the turn. When hundreds take over together only the
        first leaves alone, the others in batches."""
        now = self.kernel.timers.now()
        if now >= self._hurried_until:
            self._hurried_until = Instant(now + HURRY_PAUSE)
            self._send_adverts()

    def rest(self, call: Callable[[], None]) -> None:
        """Queues what a takeover does after its advert: when hundreds take over, all their adverts come first."""
        self._rests.append(call)
        self._schedule()

    def request(self, batch: Batch, owner: object) -> None:
        """Queues a netlink batch. owner: gets `kernel_failed`."""
        if len(batch):
            self._requests.append((batch, owner))
            self._schedule()

    def renew(self, batches: Iterable[Batch], sender: object) -> None:
        """Queues renewals of leases. They are dropped when an advert of that sender does not leave: a MASTER whom
        nobody hears must lose its addresses."""
        self._renewals.extend((batch, sender) for batch in batches if len(batch))
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

    def when_sent(self, call: Callable[[], None]) -> None:
        """`call()` once, right after adverts have left the next time."""
        self._watchers.append(call)

    def drop_announcements(self, owner: object) -> None:
        """Announcements and renewals of an instance that lets its addresses go are not sent any more."""
        self._announcements = [item for item in self._announcements if item[2] is not owner]
        self.pacer.drop(owner)
        if self._renewals:
            # A renewal that came after the removal would be a new address.
            self._renewals = deque(item for item in self._renewals if item[1] is not owner)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._soon(self._turn)

    def _turn(self) -> None:
        """The end of a turn of the loop: everything, or only the adverts while others are due in a moment."""
        if self._rests and self._others_are_due():
            self._scheduled = False
            if self._dirty:
                self._send_adverts()
            self._schedule()
            return
        self._flush(in_turns=True)

    def _others_are_due(self) -> bool:
        """Whether what follows a takeover's advert had better wait. Not in virtual time, where no waiting ends."""
        if not self.wake_early:
            return False
        now, at = self.kernel.timers.now(), self.kernel.timers.next_deadline()
        more, self._rests_before = len(self._rests) > self._rests_before, len(self._rests)
        if not more or at is None or at > now + SOON:
            return False
        if self._waits_since is None:
            self._waits_since = now
        return now - self._waits_since < PATIENCE

    def flush(self) -> None:
        """Sends everything that is queued, and everything is told."""
        self._flush(in_turns=False)

    def _flush(self, *, in_turns: bool) -> None:
        self._scheduled = False
        self._waits_since, self._rests_before = None, 0
        if self._filters:
            filters, self._filters = self._filters, {}
            for line in filters.values():
                line.socket.accept_vrids(None if self.log_unknown_vrids else line.members)
        if self._dirty:
            self._send_adverts()
        if self._unsent:
            unsent, self._unsent = self._unsent, []
            for unheard, refusal in unsent:
                unheard.advert_failed(refusal)
        if self._rests:
            rests, self._rests = self._rests, []
            for rest in rests:
                rest()
        requests, self._requests = self._requests, []
        if self._renewals:
            self._take_renewals(requests)
        if requests:
            try:
                self.kernel.requests.send_together([batch for batch, _ in requests])
            except KernelError as refused:
                log.error("%s", refused)
        if self._announcements:
            announcements, self._announcements = self._announcements, []
            for frames, repeat, announcer in announcements:
                self.pacer.send(frames, repeat, announcer)
        if self._afterwards:
            self._tell_people(in_turns=in_turns)
        for batch, owner in requests:
            for error in self.kernel.requests.collect(batch):
                self._tell(owner, error)
        if self._watchers and self._sent:
            watchers, self._watchers = self._watchers, []
            for watcher in watchers:
                watcher()
        self._sent = False

    def _tell_people(self, *, in_turns: bool) -> None:
        """In turns: a thousand takeovers are told while their next adverts leave."""
        until = self.kernel.timers.now() + TOLD_TURN
        while self._afterwards:
            self._afterwards.popleft()()
            if in_turns and self._afterwards and self.kernel.timers.now() >= until:
                self._schedule()
                return

    def _take_renewals(self, requests: list[tuple[Batch, object]]) -> None:
        if self._failed:
            failed = self._failed
            self._renewals = deque(item for item in self._renewals if id(item[1]) not in failed)
            self._failed = set()
        room = RENEWALS_A_TURN
        while self._renewals and room > 0:
            requests.append(self._renewals.popleft())
            room -= len(requests[-1][0])
        if self._renewals:
            later = Instant(self.kernel.timers.now() + RENEWAL_PAUSE)
            self.kernel.timers.set((self, "renewals"), later, lambda _: self._schedule())

    def _send_adverts(self) -> None:
        lines, self._dirty = self._dirty, []
        self._queued = 0
        self._sent = True
        for line in lines:
            messages, line.adverts = line.adverts, []
            senders, line.senders = line.senders, []
            errors = line.socket.send_prepared(messages)
            if not errors:
                now, view = self.kernel.timers.now(), self.stamps.view
                for sender in senders:
                    view[sender.stamp] = now
                continue
            self._say_unsent(line, errors[0], len(errors), len(messages))
            # Which of them failed matters only for leases: none of this socket's is renewed on a doubt.
            self._failed.update(id(sender) for sender in senders)
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

    def close(self) -> None:
        """Sends what is queued, tells what happened, and closes every socket."""
        self.flush()
        self._remove_hook()
        self.stalls.close()
        self.kernel.timers.set((self, "renewals"), None, lambda _: None)
        self.leisure.close()
        self.pacer.close()
        for line in self._lines.values():
            line.socket.close()
        self._lines.clear()
