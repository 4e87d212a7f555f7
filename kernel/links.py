"""Interfaces and what is on them, kept current by rtnetlink's multicast groups.

The kernel drops notifications when our receive buffer is full and says so (ENOBUFS): then everything is read anew and
compared, so no change is ever lost; what came and went in between is. Debounce and judgement are the consumer's. The
counterpart in memory is `fake.FakeLinks`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Collection, Iterable
from typing import Final, TypeVar

from holdfast.kernel import bpf
from holdfast.kernel.base import KernelError
from holdfast.kernel.netlink import Netlink, open_netlink
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
)
from holdfast.kernel.rtdecode import (
    UNREADABLE,
    decode_address,
    decode_link,
    decode_route,
    decode_rule,
    messages,
    without_lifetime,
)
from holdfast.kernel.rtencode import canonical

_NEWLINK: Final = 16
_DELLINK: Final = 17
_NEWADDR: Final = 20
_DELADDR: Final = 21
_NEWROUTE: Final = 24
_DELROUTE: Final = 25
_NEWRULE: Final = 32
_DELRULE: Final = 33
_NLM_F_REPLACE: Final = 0x100

_GROUPS: Final = 0x1 | 0x10 | 0x100 | 0x40 | 0x400 | 0x80 | (1 << (19 - 1))
"""RTMGRP_ LINK, IPV4_IFADDR, IPV6_IFADDR, IPV4_ROUTE, IPV6_ROUTE, IPV4_RULE, and RTNLGRP_IPV6_RULE (19)."""
_RECEIVES_A_TURN: Final = 2000
"""A flood must not keep the loop from its deadlines: the rest waits for the next turn."""
_REFRESHED_KEPT: Final = 8192
_REREAD: Final = -1
"""The port of changes that were found by re-reading."""

AddressKey = tuple[str, int, str | None]
Event = TypeVar("Event")


class Callbacks:
    """Who wants to know. One that fails is told to the loop and the others are still called."""

    def __init__(self, report: Callable[[Exception], None]) -> None:
        self._report = report
        self._link: list[Callable[[LinkChanged], None]] = []
        self._address: list[tuple[Callable[[AddressChanged], None], bool]] = []
        self._route: list[Callable[[RouteChanged], None]] = []
        self._rule: list[Callable[[RuleChanged], None]] = []
        self._resync: list[Callable[[], None]] = []

    def on_link(self, call: Callable[[LinkChanged], None]) -> Callable[[], None]:
        """See faces.Links."""
        return _added(self._link, call)

    def on_address(self, call: Callable[[AddressChanged], None], *, refreshes: bool = False) -> Callable[[], None]:
        """See faces.Links."""
        return _added(self._address, (call, refreshes))

    def on_route(self, call: Callable[[RouteChanged], None]) -> Callable[[], None]:
        """See faces.Links."""
        return _added(self._route, call)

    def on_rule(self, call: Callable[[RuleChanged], None]) -> Callable[[], None]:
        """See faces.Links."""
        return _added(self._rule, call)

    def on_resync(self, call: Callable[[], None]) -> Callable[[], None]:
        """See faces.Links."""
        return _added(self._resync, call)

    @property
    def _listens_to_refreshes(self) -> bool:
        return any(refreshes for _, refreshes in self._address)

    def tell(self, event: LinkChanged | AddressChanged | RouteChanged | RuleChanged) -> None:
        """Calls whoever asked for this kind."""
        match event:
            case AddressChanged():
                refreshed = event.change is Change.REFRESHED
                for call, refreshes in tuple(self._address):
                    if refreshes or not refreshed:
                        self._guarded(call, event)
            case LinkChanged():
                for link_call in tuple(self._link):
                    self._guarded(link_call, event)
            case RouteChanged():
                for route_call in tuple(self._route):
                    self._guarded(route_call, event)
            case RuleChanged():
                for rule_call in tuple(self._rule):
                    self._guarded(rule_call, event)

    def tell_resync(self) -> None:
        """Everything was read anew."""
        for call in tuple(self._resync):
            try:
                call()
            except Exception as error:
                self._report(error)

    def _guarded(self, call: Callable[[Event], None], event: Event) -> None:
        try:
            call(event)
        except Exception as error:
            self._report(error)


class LinkTable(Callbacks):
    """The interfaces, addresses, routes and rules of one network namespace. Not shared between threads."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        route_protocols: Iterable[int] = (18,),
        receive_buffer_bytes: int = 4 * 1024 * 1024,
        force_buffer: bool = True,
    ) -> None:
        """Reads everything at once;

        the monitor listens before, so nothing falls between. loop None: `drain` is called.
        """
        super().__init__(self._failed)
        self._loop = loop
        self.route_protocols = tuple(route_protocols)
        self._links: dict[int, Link] = {}
        self._names: dict[str, int] = {}
        self._addresses: dict[int, dict[AddressKey, AddressRecord]] = {}
        self._routes: list[RouteRecord] = []
        self._rules: list[RuleRecord] = []
        self.overruns = 0
        """How often everything had to be read anew."""
        self.unreadable = 0
        """Messages that a decoder could make nothing of."""
        self._refreshed: dict[bytes, tuple[int, AddressKey, AddressRecord]] = {}
        self._draining = False
        self._buffer = bytearray(256 * 1024)
        self._view = memoryview(self._buffer)
        self._netlink = Netlink(name_of=self.name)
        self._monitor = open_netlink(_GROUPS, buffer_bytes=receive_buffer_bytes, force=force_buffer)
        self._monitor.setblocking(False)
        bpf.attach(self._monitor, bpf.only_route_protocols(self.route_protocols))
        self._reread()
        if loop is not None:
            loop.add_reader(self._monitor.fileno(), self.drain)

    def name(self, ifindex: int) -> str | None:
        """The name of an interface, None when it is gone."""
        link = self._links.get(ifindex)
        return None if link is None else link.name

    def by_name(self, name: str) -> Link | None:
        """None when there is none."""
        index = self._names.get(name)
        return None if index is None else self._links[index]

    def by_index(self, ifindex: int) -> Link | None:
        """None when there is none."""
        return self._links.get(ifindex)

    def all(self) -> Collection[Link]:
        """Every interface."""
        return tuple(self._links.values())

    def ifindex(self, name: str) -> int:
        """KernelError(ENODEV) when there is no such interface."""
        index = self._names.get(name)
        if index is None:
            raise KernelError("find interface", f"link/{name}", errno.ENODEV)
        return index

    def addresses(self, ifindex: int, family: int | None = None) -> list[AddressRecord]:
        """In the kernel's order: the first of a subnet is its primary. family: 4, 6 or None for both."""
        found = [
            record for record in self._addresses.get(ifindex, {}).values() if family is None or record.family == family
        ]
        # A promoted secondary keeps its place here, while the kernel puts all primaries first.
        found.sort(key=lambda record: record.secondary)
        return found

    def has_address(self, ifindex: int, address: str, prefix: int | None = None) -> bool:
        """Whether the interface has it. prefix None: with any prefix length."""
        known = self._addresses.get(ifindex)
        if not known:
            return False
        if prefix is not None and (address, prefix, None) in known:
            return True
        if ":" in address:
            address = canonical(address)
        return any(key[0] == address and (prefix is None or key[1] == prefix) for key in known)

    def routes(self) -> tuple[RouteRecord, ...]:
        """The routes of the followed protocols."""
        return tuple(self._routes)

    def rules(self) -> tuple[RuleRecord, ...]:
        """All policy rules."""
        return tuple(self._rules)

    def drain(self) -> None:
        """Takes in what the kernel has told so far and calls whoever wants to know."""
        if self._draining or self._monitor.fileno() < 0:
            return
        self._draining = True
        try:
            for _ in range(_RECEIVES_A_TURN):
                try:
                    length = self._monitor.recv_into(self._buffer)
                except BlockingIOError:
                    return
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise KernelError("receive", "netlink", error.errno or 0) from error
                    self._overrun()
                    continue
                view = self._view[:length]
                for kind, flags, _, port, body, end in messages(view):
                    try:
                        self._message(view, kind, flags, port, body, end)
                    except UNREADABLE:
                        self.unreadable += 1
        finally:
            self._draining = False

    def close(self) -> None:
        """Stops following; harmless twice."""
        if self._monitor.fileno() >= 0:
            if self._loop is not None:
                self._loop.remove_reader(self._monitor.fileno())
            self._monitor.close()
            self._netlink.close()

    def _message(self, view: memoryview, kind: int, flags: int, port: int, body: int, end: int) -> None:
        if kind == _NEWADDR:
            # A renewed lifetime is the same message with another lifetime: a thousand leases are renewed every second,
            # and each is told here.
            key = without_lifetime(view, body, end)
            seen = self._refreshed.get(key)
            if seen is not None and self._addresses.get(seen[0], {}).get(seen[1]) is seen[2]:
                if self._listens_to_refreshes:
                    self.tell(AddressChanged(Change.REFRESHED, decode_address(view, body, end) or seen[2], port))
                return
            record = decode_address(view, body, end)
            if record is not None:
                self._address_message(record, True, port)
                if len(self._refreshed) >= _REFRESHED_KEPT:
                    self._refreshed.clear()
                self._refreshed[key] = record.ifindex, (record.address, record.prefix, record.peer), record
        elif kind == _DELADDR:
            record = decode_address(view, body, end)
            if record is not None:
                self._address_message(record, False, port)
        elif kind in {_NEWLINK, _DELLINK}:
            # Bridge ports and the like send RTM_NEWLINK of their own family: of those only AF_UNSPEC speaks of the
            # link.
            if view[body] == socket.AF_UNSPEC:
                self._link_message(decode_link(view, body, end), kind == _NEWLINK)
        elif kind in {_NEWROUTE, _DELROUTE}:
            route = decode_route(view, body, end, self.name)
            if route is not None and route.spec.protocol in self.route_protocols:
                self._route_message(route, kind == _NEWROUTE, bool(flags & _NLM_F_REPLACE), port)
        elif kind in {_NEWRULE, _DELRULE}:
            rule = decode_rule(view, body, end)
            if rule is not None:
                self._rule_message(rule, kind == _NEWRULE, port)

    def _link_message(self, link: Link, there: bool) -> None:
        old = self._links.get(link.index)
        if there:
            if old == link:
                return
            if old is not None and old.name != link.name and self._names.get(old.name) == link.index:
                del self._names[old.name]
            self._links[link.index] = link
            self._names[link.name] = link.index
            self.tell(LinkChanged(old, link))
        elif old is not None:
            self._forget_link(old)

    def _forget_link(self, link: Link) -> None:
        # The kernel does not always list the addresses that go with an interface.
        for record in tuple(self._addresses.pop(link.index, {}).values()):
            self.tell(AddressChanged(Change.REMOVED, record, 0))
        del self._links[link.index]
        if self._names.get(link.name) == link.index:
            del self._names[link.name]
        self.tell(LinkChanged(link, None))

    def _address_message(self, record: AddressRecord, there: bool, port: int) -> None:
        known = self._addresses.setdefault(record.ifindex, {})
        key = (record.address, record.prefix, record.peer)
        if not there:
            if known.pop(key, None) is not None:
                self.tell(AddressChanged(Change.REMOVED, record, port))
            return
        old = known.get(key)
        known[key] = record
        if old is None:
            change = Change.ADDED
        elif old.flags == record.flags and old.label == record.label and old.scope == record.scope:
            change = Change.REFRESHED
        else:
            change = Change.CHANGED
        self.tell(AddressChanged(change, record, port))

    def _route_message(self, route: RouteRecord, there: bool, replaces: bool, port: int) -> None:
        alike = [known for known in self._routes if known.key == route.key]
        # An IPv6 route with several hops is one route to us and several to the kernel, and IPv4 can have several
        # with the same key: what a message means for those is not worth working out.
        if len(alike) > 1 or any(known.spec.next_hops for known in alike) or (alike and there and not replaces):
            self._reread_routes(port)
            return
        if there:
            if alike:
                self._routes[self._routes.index(alike[0])] = route
            else:
                self._routes.append(route)
            self.tell(RouteChanged(Change.CHANGED if alike else Change.ADDED, route, port))
        elif alike:
            self._routes.remove(alike[0])
            self.tell(RouteChanged(Change.REMOVED, alike[0], port))

    def _rule_message(self, rule: RuleRecord, there: bool, port: int) -> None:
        if there:
            self._rules.append(rule)
            self.tell(RuleChanged(Change.ADDED, rule, port))
        elif rule in self._rules:
            self._rules.remove(rule)
            self.tell(RuleChanged(Change.REMOVED, rule, port))

    def _overrun(self) -> None:
        self.overruns += 1
        # What is queued is older than what will be read now. (What comes in meanwhile is applied after it and ends
        # right.)
        for _ in range(_RECEIVES_A_TURN * 10):
            try:
                self._monitor.recv_into(self._buffer)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError("receive", "netlink", error.errno or 0) from error
        self._reread()
        self.tell_resync()

    def _reread(self) -> None:
        links = {link.index: link for link in self._netlink.links()}
        for old in tuple(self._links.values()):
            if old.index not in links:
                self._forget_link(old)
        for link in links.values():
            self._link_message(link, True)
        self._reread_addresses()
        self._reread_routes(_REREAD)
        self._reread_rules()

    def _reread_addresses(self) -> None:
        there: dict[int, dict[AddressKey, AddressRecord]] = {}
        for record in self._netlink.addresses():
            there.setdefault(record.ifindex, {})[record.address, record.prefix, record.peer] = record
        for ifindex, known in tuple(self._addresses.items()):
            for key, record in tuple(known.items()):
                if key not in there.get(ifindex, {}):
                    self._address_message(record, False, _REREAD)
        for ifindex, records in there.items():
            for key, record in records.items():
                old = self._addresses.get(ifindex, {}).get(key)
                if old != record:
                    self._address_message(record, True, _REREAD)
            known = self._addresses[ifindex]
            self._addresses[ifindex] = {key: known[key] for key in records if key in known}

    def _reread_routes(self, port: int) -> None:
        there = [route for protocol in self.route_protocols for route in self._netlink.routes(protocol)]
        old, self._routes = self._routes, there
        for route in old:
            if route not in there:
                self.tell(RouteChanged(Change.REMOVED, route, port))
        for route in there:
            if route not in old:
                self.tell(RouteChanged(Change.ADDED, route, port))

    def _reread_rules(self) -> None:
        there = self._netlink.rules()
        old, self._rules = self._rules, there
        for rule in old:
            if rule not in there:
                self.tell(RuleChanged(Change.REMOVED, rule, _REREAD))
        for rule in there:
            if rule not in old:
                self.tell(RuleChanged(Change.ADDED, rule, _REREAD))

    def _failed(self, error: Exception) -> None:
        if self._loop is None:
            raise error
        self._loop.call_exception_handler(
            {"message": f"a follower of the interfaces failed: {error!r}", "exception": error}
        )


def _added(calls: list[Event], call: Event) -> Callable[[], None]:
    calls.append(call)

    def remove() -> None:
        if call in calls:
            calls.remove(call)

    return remove
