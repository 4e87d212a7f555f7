"""Who owns each virtual address, as the nodes together say; two owners or none is an alarm. Pure.

The bus may run over another network than VRRP, so a node learns here what its own VRRP cannot tell it: that another
MASTER is there which it does not hear. An alarm waits a part of an advert interval, so that an ordinary hand-over is
none: half an interval for two owners (the loser hears one advert and yields), a whole one for none (a backup waits
its skew, which is shorter). A backup that has only just begun to listen waits for its master first.

Facts come from the events of all nodes (actor.py); what differs between the owners is put into words in differences.py.
"""

from __future__ import annotations

import ipaddress

import msgspec

from holdfast.actors.gateway.differences import Listening, compare
from holdfast.actors.gateway.messages import AddressOwners, Holder, OwnersStatus
from holdfast.actors.runtime.machine import Action, Deadline, Duration, Fact, Instant, later, seconds
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged
from holdfast.bus.messages import Reason

INTERVAL = seconds(1.0)
"""An advert interval, where none is known."""
HOLD_MIN = seconds(0.1)
DOWN_INTERVALS = 4
"""A backup that began to listen so many intervals ago has either heard a master or become one."""
HEARD_INTERVALS = 3
HEARD_MAX = 64
"""Addresses remembered for one instance: anybody on its link can make up more."""
AGAIN_EVERY = seconds(1.0)
"""An alarm whose particulars change is told again this often at most."""

_ALARMS = (OwnersStatus.TWO, OwnersStatus.NONE)
_ABSENT = (VrrpState.STOP, VrrpState.DELETED)


class Told(Fact, frozen=True):
    """A node says how one of its instances stands. age: how long it has been so."""

    node: str
    event: VrrpStateChanged
    age: Duration


class Gone(Fact, frozen=True):
    """An instance of a node is no more."""

    node: str
    instance: str


class Heard(Fact, frozen=True):
    """An instance heard an advert from this address. interval: of the master it hears, None: of a worse one."""

    node: str
    instance: str
    source: str
    interval: Duration | None = None


class Troubled(Fact, frozen=True):
    """An instance says that something is wrong."""

    node: str
    instance: str
    reason: Reason


class Reach(Fact, frozen=True):
    """A node can be reached, or no more; known: it is in the configuration."""

    node: str
    reachable: bool
    known: bool = True


class TellOwners(Action, frozen=True):
    """Publish it."""

    event: AddressOwners


class ForgetOwners(Action, frozen=True):
    """No node has the address in its configuration any more."""

    address: str


class _Instance(msgspec.Struct):
    """What one node said of one instance."""

    event: VrrpStateChanged
    since: Instant
    listening: Listening
    interval: Duration = INTERVAL
    addresses: set[str] = msgspec.field(default_factory=set)


class _Address(msgspec.Struct):
    """What was told of an address, and since when it is otherwise."""

    told: AddressOwners | None = None
    told_at: Instant = Instant(0)
    differs_since: Instant | None = None


Key = tuple[str, str]
"""(node, instance)."""


class OwnersMachine:
    """All virtual addresses of the cluster, as one node sees them. Only addresses that a fact touches are judged."""

    def __init__(self, node: str) -> None:
        self.node = node
        self._instances: dict[Key, _Instance] = {}
        self._holders: dict[str, set[Key]] = {}
        self._unreachable: set[str] = set()
        self._addresses: dict[str, _Address] = {}
        self._waiting: dict[str, Instant] = {}

    @property
    def deadline(self) -> Instant | None:
        """When an address is to be looked at again."""
        return min(self._waiting.values(), default=None)

    def step(self, fact: Fact, now: Instant) -> list[Action]:
        """Takes one fact. The order of the actions is by address."""
        touched: set[str] = set()
        match fact:
            case Told():
                touched = self._told(fact, now)
            case Gone():
                touched = self._drop((fact.node, fact.instance))
            case Heard():
                touched = self._heard(fact, now)
            case Troubled():
                found = self._instances.get((fact.node, fact.instance))
                if found is not None:
                    found.listening.trouble(fact.reason, now)
                    touched = found.addresses
            case Reach():
                touched = self._reach(fact)
            case Deadline():
                touched = {address for address, at in self._waiting.items() if at <= now}
        return [action for address in sorted(touched) for action in self._judge(address, now)]

    def _told(self, fact: Told, now: Instant) -> set[str]:
        key = (fact.node, fact.event.instance)
        if fact.event.state in _ABSENT:
            return self._drop(key)
        since = Instant(now - fact.age)
        found = self._instances.get(key)
        if found is None:
            found = self._instances[key] = _Instance(fact.event, since, Listening())
        before = found.addresses
        found.event, found.since = fact.event, since
        found.addresses = {plain(text) for text in fact.event.addresses}
        for address in before - found.addresses:
            self._holders[address].discard(key)
        for address in found.addresses - before:
            self._holders.setdefault(address, set()).add(key)
        if fact.event.state is VrrpState.MASTER and fact.event.master:
            found.listening.address = fact.event.master
        elif fact.event.state is VrrpState.BACKUP and fact.event.master:
            found.listening.master = fact.event.master
        return before | found.addresses

    def _drop(self, key: Key) -> set[str]:
        found = self._instances.pop(key, None)
        if found is None:
            return set()
        for address in found.addresses:
            self._holders[address].discard(key)
        return found.addresses

    def _heard(self, fact: Heard, now: Instant) -> set[str]:
        found = self._instances.get((fact.node, fact.instance))
        if found is None:
            return set()
        heard = found.listening.heard
        heard[fact.source] = now
        if len(heard) > HEARD_MAX:
            del heard[min(heard, key=lambda source: heard[source])]
        if fact.interval is not None:
            found.interval = fact.interval
            found.listening.master = fact.source
        return found.addresses

    def _reach(self, fact: Reach) -> set[str]:
        keys = [key for key in self._instances if key[0] == fact.node]
        touched = {address for key in keys for address in self._instances[key].addresses}
        if fact.reachable or not fact.known:
            self._unreachable.discard(fact.node)
        else:
            self._unreachable.add(fact.node)
        if not fact.known:
            for key in keys:
                self._drop(key)
        return touched

    # --- judging -------------------------------------------------------------------------------------------------

    def _judge(self, address: str, now: Instant) -> list[Action]:
        self._waiting.pop(address, None)
        keys = sorted(self._holders.get(address, ()))
        if not keys:
            self._holders.pop(address, None)
            known = self._addresses.pop(address, None)
            return [ForgetOwners(address)] if known is not None and known.told is not None else []
        state = self._addresses.setdefault(address, _Address())
        status = self._status(keys)
        told = state.told
        if told is not None and told.state is status:
            state.differs_since = None
            return self._again(address, keys, state, now)
        if state.differs_since is None:
            state.differs_since = now
        if status in _ALARMS:
            due = self._due(status, keys, state.differs_since)
            if now < due:
                self._waiting[address] = due
                return []
        return [self._tell(address, keys, status, state, now)]

    def _due(self, status: OwnersStatus, keys: list[Key], since: Instant) -> Instant:
        """When the alarm is to be told."""
        interval = max(self._instances[key].interval for key in keys)
        if status is OwnersStatus.TWO:
            return later(since, Duration(max(HOLD_MIN, interval // 2)))
        due = later(since, Duration(max(HOLD_MIN, interval)))
        for key in keys:
            found = self._instances[key]
            if found.event.state in (VrrpState.BACKUP, VrrpState.INIT) and found.event.old is not VrrpState.MASTER:
                due = max(due, later(found.since, Duration(DOWN_INTERVALS * found.interval)))
        return due

    def _again(self, address: str, keys: list[Key], state: _Address, now: Instant) -> list[Action]:
        """The same status with other particulars: told when it is new, an alarm once a second at most."""
        told = state.told
        assert told is not None
        event = self._event(address, keys, told.state, told.state, now)
        if _particulars(event) == _particulars(told):
            return []
        due = later(state.told_at, AGAIN_EVERY)
        if told.alarm and now < due:
            self._waiting[address] = due
            return []
        state.told, state.told_at = event, now
        return [TellOwners(event)]

    def _tell(self, address: str, keys: list[Key], status: OwnersStatus, state: _Address, now: Instant) -> TellOwners:
        old = status if state.told is None else state.told.state
        event = self._event(address, keys, old, status, now)
        state.told, state.told_at, state.differs_since = event, now, None
        return TellOwners(event)

    def _status(self, keys: list[Key]) -> OwnersStatus:
        there = [key for key in keys if key[0] not in self._unreachable]
        owners = {key[0] for key in there if self._instances[key].event.state is VrrpState.MASTER}
        if len(owners) > 1:
            return OwnersStatus.TWO
        if owners:
            return OwnersStatus.ONE
        if self._outside(there):
            return OwnersStatus.UNKNOWN
        away = [key for key in keys if key[0] in self._unreachable]
        if any(self._instances[key].event.state is VrrpState.MASTER for key in away):
            return OwnersStatus.UNKNOWN
        return OwnersStatus.NONE

    def _outside(self, keys: list[Key]) -> str:
        """The address of a master that a backup hears and that no node of the cluster is."""
        ours = {found.listening.address for found in self._instances.values()}
        for key in keys:
            found = self._instances[key]
            master = found.listening.master
            if found.event.state is VrrpState.BACKUP and master and master not in ours:
                return master
        return ""

    def _event(
        self, address: str, keys: list[Key], old: OwnersStatus, status: OwnersStatus, now: Instant
    ) -> AddressOwners:
        holders = tuple(self._holder(key, keys, now) for key in keys)
        alarm = status in _ALARMS
        differences: tuple[str, ...] = ()
        reason = None
        if alarm:
            parts = [
                (holder, self._instances[key].event, self._instances[key].listening)
                for holder, key in zip(holders, keys, strict=True)
                if holder.reachable
            ]
            differences, reason = compare(self.node, address, status, parts)
        return AddressOwners(
            address=address,
            old=old,
            state=status,
            alarm=alarm,
            holders=holders,
            differences=differences,
            outside=self._outside(keys) if status is OwnersStatus.UNKNOWN else "",
            reason=reason,
        )

    def _holder(self, key: Key, keys: list[Key], now: Instant) -> Holder:
        found = self._instances[key]
        hears = []
        for other in keys:
            address = self._instances[other].listening.address
            if other[0] != key[0] and address and self._hears(found, address, now):
                hears.append(other[0])
        event = found.event
        return Holder(
            node=key[0],
            instance=event.instance,
            state=str(event.state),
            priority=event.priority,
            vrid=event.vrid,
            interface=event.interface,
            reachable=key[0] not in self._unreachable,
            hears=tuple(dict.fromkeys(hears)),
        )

    def _hears(self, found: _Instance, address: str, now: Instant) -> bool:
        if found.event.state is VrrpState.BACKUP:
            return found.listening.master == address
        at = found.listening.heard.get(address)
        # A MASTER tells each worse advert it hears, so it heard it lately or does not hear it.
        return at is not None and now - at <= HEARD_INTERVALS * max(found.interval, INTERVAL)


def _particulars(event: AddressOwners) -> tuple[object, ...]:
    kind = None if event.reason is None else (event.reason.kind, event.reason.node, event.reason.subject)
    return event.holders, event.differences, kind


def plain(text: str) -> str:
    """The address alone, in its usual spelling: `10.0.0.1/24 dev eth0` is `10.0.0.1`."""
    word = text.split(maxsplit=1)[0].partition("/")[0]
    try:
        return str(ipaddress.ip_address(word))
    except ValueError:
        return word
