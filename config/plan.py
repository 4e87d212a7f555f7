"""What a new configuration would change: compares two that were loaded (`holdfast plan`).

Virtual routers are matched as keepalived does it at a reload: by VRID, family, interface and mode (multicast: the
group; unicast: the source), not by name. So a renamed instance keeps its state, and a changed VRID is a removal and an
addition, at which its addresses go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from holdfast.config.loader import Loaded

ADDED = "added"
CHANGED = "changed"
REMOVED = "removed"


class FieldChange(msgspec.Struct, frozen=True, kw_only=True):
    """One field that is another. old and new: as an operator reads them."""

    field: str
    old: str
    new: str


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that would be added, changed or removed. subject: as on the bus (`vrrp/VI_1`, `script/chk`)."""

    kind: str
    subject: str
    fields: tuple[FieldChange, ...] = ()


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """An address that a master would take from its interface, or put on one. event: leaves, comes or moves."""

    address: str
    event: str
    subject: str
    interface: str
    why: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload would do. refused: the new configuration has errors, so a reload would refuse it."""

    changes: tuple[Change, ...] = ()
    moves: tuple[Move, ...] = ()
    process: tuple[FieldChange, ...] = ()
    refused: bool = False

    @property
    def empty(self) -> bool:
        """Whether nothing would change."""
        return not self.changes and not self.process


# Lists of named things, in each room's slice "room": subject prefix and field.
_NAMED = (
    ("vrrp", "vrrp-group", "groups"),
    ("watch", "script", "scripts"),
    ("watch", "file", "files"),
    ("watch", "process", "processes"),
    ("bfd", "bfd", "instances"),
)
_WHOLE = {"vrrp": ("instances", "groups"), "watch": ("scripts", "files", "processes"), "bfd": ("instances",)}


def plan(old: Loaded, new: Loaded) -> Plan:
    """What a reload from old to new would do."""
    changes: list[Change] = []
    moves: list[Move] = []
    _plan_instances(_listed(old, "vrrp", "instances"), _listed(new, "vrrp", "instances"), changes, moves)
    for room, prefix, field in _NAMED:
        before = {item.name: item for item in _listed(old, room, field)}
        after = {item.name: item for item in _listed(new, room, field)}
        changes.extend(_compare(prefix, before, after))
    for room, apart in _WHOLE.items():
        changes.extend(_whole(room, old, new, apart))
    changes.extend(_whole("notify", old, new, ("targets", "services", "servers")))
    changes.extend(_services(old, new))
    for room in ("ipvs", "checkers"):
        fields = _fields(_slice(old, room, "globals"), _slice(new, room, "globals"))
        if fields:
            changes.append(Change(kind=CHANGED, subject=room, fields=fields))
    return Plan(
        changes=tuple(changes),
        moves=tuple(moves),
        process=_fields(old.process, new.process),
        refused=new.has_errors,
    )


def _slice(loaded: Loaded, room: str, name: str = "room") -> Any:
    return loaded.structs.get(room, {}).get(name)


def _listed(loaded: Loaded, room: str, field: str) -> tuple[Any, ...]:
    found: tuple[Any, ...] = getattr(_slice(loaded, room), field, ())
    return found


def _key(instance: Any) -> tuple[object, ...]:
    """What keepalived matches instances by."""
    mode = ("unicast", instance.source) if instance.unicast else ("multicast", instance.mcast_group)
    return (instance.vrid, instance.family, instance.interface, mode, instance.vmac is not None)


def _plan_instances(old: Iterable[Any], new: Iterable[Any], changes: list[Change], moves: list[Move]) -> None:
    before = {_key(instance): instance for instance in old}
    after = {_key(instance): instance for instance in new}
    for key, instance in before.items():
        subject = f"vrrp/{instance.name}"
        successor = after.get(key)
        if successor is None:
            changes.append(Change(kind=REMOVED, subject=subject))
            for spec in _addresses(instance):
                moves.append(_move("leaves", spec, instance, "the instance is removed"))
            continue
        fields = _fields(instance, successor)
        if fields:
            changes.append(Change(kind=CHANGED, subject=subject, fields=fields))
        held = {_place(spec, instance): spec for spec in _addresses(instance)}
        wanted = {_place(spec, successor): spec for spec in _addresses(successor)}
        for place in held.keys() - wanted.keys():
            moves.append(_move("leaves", held[place], instance, "not in the new configuration"))
        for place in wanted.keys() - held.keys():
            moves.append(_move("comes", wanted[place], successor, "new in the configuration"))
    for key, instance in after.items():
        if key not in before:
            changes.append(Change(kind=ADDED, subject=f"vrrp/{instance.name}"))
    _join(moves, after, before)


def _join(moves: list[Move], after: Mapping[Any, Any], before: Mapping[Any, Any]) -> None:
    """An address that leaves one instance and is another's afterwards moves."""
    owners = {
        spec.address: instance for key, instance in after.items() if key not in before for spec in _addresses(instance)
    }
    for index, move in enumerate(moves):
        owner = owners.get(move.address)
        if move.event == "leaves" and owner is not None:
            why = f"{move.why}; it is vrrp/{owner.name}'s then"
            moves[index] = msgspec.structs.replace(move, event="moves", why=why)


def _addresses(instance: Any) -> tuple[Any, ...]:
    return (*instance.addresses, *instance.excluded_addresses)


def _place(spec: Any, instance: Any) -> tuple[str, int, str]:
    return (spec.address, spec.prefix, spec.dev or instance.interface)


def _move(event: str, spec: Any, instance: Any, why: str) -> Move:
    return Move(
        address=spec.address,
        event=event,
        subject=f"vrrp/{instance.name}",
        interface=spec.dev or instance.interface,
        why=why,
    )


def _compare(prefix: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Changes of things that are matched by name."""
    changes = [Change(kind=REMOVED, subject=f"{prefix}/{name}") for name in before if name not in after]
    for name, item in after.items():
        if name not in before:
            changes.append(Change(kind=ADDED, subject=f"{prefix}/{name}"))
        elif item != before[name]:
            changes.append(Change(kind=CHANGED, subject=f"{prefix}/{name}", fields=_fields(before[name], item)))
    return changes


def _whole(room: str, old: Loaded, new: Loaded, apart: tuple[str, ...]) -> list[Change]:
    """Changes of a room's own settings, without the things that are compared apart."""
    fields = tuple(found for found in _fields(_slice(old, room), _slice(new, room)) if found.field not in apart)
    return [Change(kind=CHANGED, subject=room, fields=fields)] if fields else []


def _services(old: Loaded, new: Loaded) -> list[Change]:
    """Virtual servers, and in those that stay the real servers and checks."""
    before = {name: item for name, item in old.structs.get("ipvs", {}).items() if name != "globals"}
    after = {name: item for name, item in new.structs.get("ipvs", {}).items() if name != "globals"}
    changes: list[Change] = []
    for change in _compare("vs", before, after):
        if change.kind != CHANGED:
            changes.append(change)
            continue
        name = change.subject.removeprefix("vs/")
        fields = tuple(field for field in change.fields if field.field != "real_servers")
        if fields:
            changes.append(Change(kind=CHANGED, subject=change.subject, fields=fields))
        held = {f"{server.name}@{name}": server for server in getattr(before[name], "real_servers", ())}
        wanted = {f"{server.name}@{name}": server for server in getattr(after[name], "real_servers", ())}
        changes.extend(_compare("rs", held, wanted))
    changes.extend(_compare("check", _checks(old), _checks(new)))
    return changes


def _checks(loaded: Loaded) -> dict[str, Any]:
    return {
        check.name: check
        for name, service in loaded.structs.get("checkers", {}).items()
        if name != "globals"
        for server in getattr(service, "servers", ())
        for check in server.checks
    }


def _fields(old: Any, new: Any) -> tuple[FieldChange, ...]:
    """The fields in which two Structs of one type differ."""
    if old is None or new is None or old == new:
        return ()
    changed = []
    for name in type(new).__struct_fields__:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            changed.append(FieldChange(field=name, old=_shown(before), new=_shown(after)))
    return tuple(changed)


def _shown(value: Any) -> str:
    """A value for people; passwords stay hidden."""
    if isinstance(value, bytes):
        return "********" if value else "none"
    if isinstance(value, msgspec.Struct):
        shown = []
        defaults = zip(value.__struct_fields__, (getattr(value, name) for name in value.__struct_fields__), strict=True)
        for name, item in defaults:
            if item not in (None, (), False, ""):
                shown.append(f"{name}={_shown(item)}")
        return "{" + ", ".join(shown) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)
