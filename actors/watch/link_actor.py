"""The shell of all interfaces of this host: tells their state and their addresses. The machine is in `link.py`."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from holdfast.actors.runtime.actor import LoopActor
from holdfast.actors.runtime.machine import MS, Duration, Instant, later
from holdfast.actors.watch.config import LinkDelay
from holdfast.actors.watch.link import GONE, LinkMachine, LinkSeen
from holdfast.actors.watch.messages import LinkAddresses, LinkState
from holdfast.bus.base import Bus
from holdfast.kernel.faces import Links, Timers
from holdfast.kernel.records import AddressChanged, Link, LinkChanged

ADDRESSES_SETTLE = Duration(50 * MS)
"""A takeover of 200 addresses is one event, told when the takeover itself is over."""


class Delays(msgspec.Struct, frozen=True):
    """interface_up_down_delays as configured now."""

    delays: tuple[LinkDelay, ...]


class LinksActor(LoopActor):
    """See the file's first lines. restored: what the former life of this cell published last, by interface."""

    def __init__(self, *, bus: Bus, links: Links, timers: Timers, restored: Iterable[LinkState] = ()) -> None:
        super().__init__()
        self._bus = bus
        self._links = links
        self._timers = timers
        self._restored = {state.interface: state for state in restored}
        self._delays: dict[str, LinkDelay] = {}
        self._machines: dict[str, LinkMachine] = {}
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._dirty: set[str] = set()

    def on_start(self) -> None:
        """Tells everything there is and follows it from now on."""
        self._removals = [self._links.on_link(self._link_changed), self._links.on_address(self._address_changed)]
        for link in self._links.all():
            self._look(link.name, link)
            self._tell_addresses(link.name)
        now = self._timers.now()
        for name in set(self._restored) - set(self._machines):
            # It vanished while nobody looked.
            self._say(LinkMachine(name, node=self._bus.node, before=self._restored[name]).seen(GONE, now))
            self._forget(name)
        self._restored.clear()

    def on_stop(self) -> None:
        """Follows no more."""
        for remove in self._removals:
            remove()
        for name in self._machines:
            self._timers.set((self, name), None, self._settled)
        self._timers.set(self, None, self._settled)

    def on_receive(self, message: object) -> object:
        """Takes `Delays`."""
        assert isinstance(message, Delays)
        self._delays = {delay.interface: delay for delay in message.delays}
        for name, machine in self._machines.items():
            machine.set_delay(self._delays.get(name))
        return None

    def _link_changed(self, change: LinkChanged) -> None:
        if change.old is not None and (change.new is None or change.new.name != change.old.name):
            self._look(change.old.name, None)
        if change.new is not None:
            self._look(change.new.name, change.new)
            if change.old is None or change.old.name != change.new.name:
                self._touched(change.new.name)

    def _look(self, name: str, link: Link | None) -> None:
        now = self._timers.now()
        machine = self._machines.get(name)
        before = None
        if machine is None:
            before = self._restored.get(name)
            machine = self._machines[name] = LinkMachine(
                name, node=self._bus.node, delay=self._delays.get(name), before=before
            )
        seen = GONE if link is None else self._seen(link)
        state = machine.seen(seen, now)
        # What the former life said is said again by this one: it is this cell that retains it now.
        self._say(state or before)
        self._arm(name, machine)
        if link is None:
            self._forget(name)

    @staticmethod
    def _seen(link: Link) -> LinkSeen:
        mac = link.mac.hex(":") if len(link.mac) == 6 else ""
        return LinkSeen(exists=True, raw_up=link.up, ifindex=link.index, mtu=link.mtu, mac=mac)

    def _forget(self, name: str) -> None:
        """Interfaces of containers come and go for ever; what is gone has been told and is kept no longer."""
        machine = self._machines.pop(name, None)
        if machine is not None:
            self._timers.set((self, name), None, self._settled)
        self._addresses.pop(name, None)
        self._dirty.discard(name)
        self._bus.forget(f"link/{name}", "addresses")
        self._bus.forget(f"link/{name}", "state")

    def _arm(self, name: str, machine: LinkMachine) -> None:
        def due(now: Instant) -> None:
            self._say(machine.due(now))

        self._timers.set((self, name), machine.deadline, due)

    def _say(self, state: LinkState | None) -> None:
        if state is not None:
            self._bus.publish(f"link/{state.interface}", "state", state)

    def _address_changed(self, change: AddressChanged) -> None:
        link = self._links.by_index(change.address.ifindex)
        if link is not None:
            self._touched(link.name)

    def _touched(self, name: str) -> None:
        if not self._dirty:
            self._timers.set(self, later(self._timers.now(), ADDRESSES_SETTLE), self._settled)
        self._dirty.add(name)

    def _settled(self, _now: Instant) -> None:
        names, self._dirty = sorted(self._dirty), set()
        for name in names:
            self._tell_addresses(name)

    def _tell_addresses(self, name: str) -> None:
        link = self._links.by_name(name)
        if link is None:
            return
        records = self._links.addresses(link.index)
        addresses = tuple(sorted(f"{record.address}/{record.prefix}" for record in records))
        if self._addresses.get(name) != addresses:
            self._addresses[name] = addresses
            self._bus.publish(f"link/{name}", "addresses", LinkAddresses(interface=name, addresses=addresses))
