"""Deadlines, links, addresses, routes and rules in memory: the half of fake.py that needs no network."""

from __future__ import annotations

import errno
import heapq
from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

from holdfast.kernel.base import KernelError, RouteSpec
from holdfast.kernel.instant import Instant
from holdfast.kernel.links import Callbacks
from holdfast.kernel.records import (
    AddressChanged,
    AddressRecord,
    Change,
    Link,
    LinkChanged,
    RouteChanged,
    RouteRecord,
    RuleChanged,
    RuleRecord,
    route_key,
)

Happened = LinkChanged | AddressChanged | RouteChanged | RuleChanged


class Clock(Protocol):
    """Whoever keeps virtual time."""

    now: Instant


class FakeTimers:
    """faces.Timers in virtual time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[object, tuple[Instant, int, Callable[[Instant], None]]] = {}
        self._heap: list[tuple[Instant, int, object]] = []
        self._hooks: list[Callable[[], None]] = []
        self._sequence = 0

    def now(self) -> Instant:
        """Virtual time."""
        return self._clock.now

    def set(self, key: object, at: Instant | None, call: Callable[[Instant], None]) -> None:
        """See faces.Timers."""
        if at is None:
            self._entries.pop(key, None)
            return
        self._sequence += 1
        self._entries[key] = (at, self._sequence, call)
        heapq.heappush(self._heap, (at, self._sequence, _Key(key)))

    def remove(self, key: object) -> None:
        """Forgets what `key` had."""
        self._entries.pop(key, None)

    def deadline(self, key: object) -> Instant | None:
        """When `key` is due."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def before_firing(self, hook: Callable[[], None]) -> Callable[[], None]:
        """See faces.Timers."""
        self._hooks.append(hook)

        def remove() -> None:
            if hook in self._hooks:
                self._hooks.remove(hook)

        return remove

    def next_deadline(self) -> Instant | None:
        """The earliest, None without any."""
        while self._heap:
            at, sequence, key = self._heap[0]
            entry = self._entries.get(key.value) if isinstance(key, _Key) else None
            if entry is not None and entry[:2] == (at, sequence):
                return at
            heapq.heappop(self._heap)
        return None

    def fire(self) -> int:
        """Hooks, then everything due, with one `now`. Returns how many."""
        for hook in tuple(self._hooks):
            hook()
        now = self._clock.now
        fired = 0
        due: list[tuple[object, tuple[Instant, int, Callable[[Instant], None]]]] = []
        while True:
            at = self.next_deadline()
            if at is None or at > now:
                break
            key = heapq.heappop(self._heap)[2]
            assert isinstance(key, _Key)
            due.append((key.value, self._entries[key.value]))
        for value, entry in due:
            if self._entries.get(value) is entry:
                del self._entries[value]
                fired += 1
                entry[2](now)
        return fired


class _Key:
    """Any object as the last member of a heap tuple: never compared, the number before it is unique."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class FakeLinks(Callbacks):
    """faces.Links over dictionaries.

    As with the real one, what changed is told a little later, never inside an order.
    """

    def __init__(self, soon: Callable[[Callable[[], None]], None]) -> None:
        """soon: runs a call when the world settles."""
        super().__init__(_raise)
        self._soon = soon
        self._untold: deque[Happened] = deque()
        self._links: dict[int, Link] = {}
        self._addresses: dict[int, list[AddressRecord]] = {}
        self._routes: list[RouteRecord] = []
        self._rules: list[RuleRecord] = []
        self._next_index = 1

    def name(self, ifindex: int) -> str | None:
        """The name of an interface."""
        link = self._links.get(ifindex)
        return None if link is None else link.name

    def by_name(self, name: str) -> Link | None:
        """None when there is none."""
        return next((link for link in self._links.values() if link.name == name), None)

    def by_index(self, ifindex: int) -> Link | None:
        """None when there is none."""
        return self._links.get(ifindex)

    def all(self) -> Collection[Link]:
        """Every interface."""
        return tuple(self._links.values())

    def ifindex(self, name: str) -> int:
        """KernelError(ENODEV) when there is no such interface."""
        link = self.by_name(name)
        if link is None:
            raise KernelError("find interface", f"link/{name}", errno.ENODEV)
        return link.index

    def addresses(self, ifindex: int, family: int | None = None) -> list[AddressRecord]:
        """In the order they came."""
        return [record for record in self._addresses.get(ifindex, []) if family is None or record.family == family]

    def has_address(self, ifindex: int, address: str, prefix: int | None = None) -> bool:
        """Whether the interface has it."""
        return any(
            record.address == address and (prefix is None or record.prefix == prefix)
            for record in self._addresses.get(ifindex, [])
        )

    def routes(self) -> tuple[RouteRecord, ...]:
        """What was set."""
        return tuple(self._routes)

    def rules(self) -> tuple[RuleRecord, ...]:
        """What was set."""
        return tuple(self._rules)

    def drain(self) -> None:
        """Tells what has changed so far."""
        while self._untold:
            self.tell(self._untold.popleft())

    def _later(self, event: Happened) -> None:
        self._untold.append(event)
        self._soon(self.drain)

    def put_link(self, link: Link) -> Link:
        """Appears or changes. index 0: the next free one."""
        if link.index == 0:
            fields = {name: getattr(link, name) for name in link.__struct_fields__}
            link = Link(**{**fields, "index": self._next_index})
            self._next_index += 1
        old = self._links.get(link.index)
        self._links[link.index] = link
        if old != link:
            self._later(LinkChanged(old, link))
        return link

    def drop_link(self, name: str) -> None:
        """Vanishes with its addresses."""
        link = self._links.pop(self.ifindex(name))
        for record in self._addresses.pop(link.index, []):
            self._later(AddressChanged(Change.REMOVED, record, 0))
        self._later(LinkChanged(link, None))

    def put_address(self, record: AddressRecord, port: int = 0) -> None:
        """Is added, or has its lifetime renewed."""
        if record.ifindex not in self._links:
            raise KernelError("add", f"address/{record.address}", errno.ENODEV)
        known = self._addresses.setdefault(record.ifindex, [])
        for place, old in enumerate(known):
            if (old.address, old.prefix) == (record.address, record.prefix):
                known[place] = record
                self._later(AddressChanged(Change.REFRESHED, record, port))
                return
        known.append(record)
        self._later(AddressChanged(Change.ADDED, record, port))

    def drop_address(self, ifindex: int, address: str, port: int = 0) -> bool:
        """False: it was not there."""
        for record in self._addresses.get(ifindex, []):
            if record.address == address:
                self._addresses[ifindex].remove(record)
                self._later(AddressChanged(Change.REMOVED, record, port))
                return True
        return False

    def put_route(self, record: RouteRecord, port: int = 0) -> None:
        """Replaces one with the same key."""
        alike = [known for known in self._routes if known.key == record.key]
        for known in alike:
            self._routes.remove(known)
        self._routes.append(record)
        self._later(RouteChanged(Change.CHANGED if alike else Change.ADDED, record, port))

    def drop_route(self, spec: RouteSpec, port: int = 0) -> bool:
        """False: it was not there."""
        for record in self._routes:
            if record.key == route_key(spec):
                self._routes.remove(record)
                self._later(RouteChanged(Change.REMOVED, record, port))
                return True
        return False

    def put_rule(self, record: RuleRecord, port: int = 0) -> bool:
        """False: it is there already."""
        if record in self._rules:
            return False
        self._rules.append(record)
        self._later(RuleChanged(Change.ADDED, record, port))
        return True

    def drop_rule(self, record: RuleRecord, port: int = 0) -> bool:
        """False: it was not there."""
        if record not in self._rules:
            return False
        self._rules.remove(record)
        self._later(RuleChanged(Change.REMOVED, record, port))
        return True


def _raise(error: Exception) -> None:
    raise error
