"""One event as one line for people, for `holdfast tail`."""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.bus.codec import UnknownEvent, tag_of
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Event, Reason
from holdfast.cli.explain import clock, old_and_new, phrase

_QUIET = ("reason", "type", "since_mono_ns", "since_wall_ns", "addresses", "members")


def line(envelope: Envelope, *, node: bool = False) -> str:
    """`10:31:07.412 vrrp/VI_1 BACKUP -> MASTER: lb1 fell silent ...`. node: with the node's name before the subject."""
    event = envelope.event
    where = f"{envelope.id.node}/{envelope.subject}" if node else envelope.subject
    head = f"{clock(envelope.wall_ns)} {where}"
    if envelope.gone:
        return f"{head} {envelope.aspect} is gone"
    if isinstance(event, UnknownEvent):
        return f"{head} {event.name} (unknown to this version)"
    reason = getattr(event, "reason", None)
    states = old_and_new(event)
    if isinstance(reason, Reason):
        told = phrase(reason, envelope.wall_ns)
        if states is not None and states[0] != states[1]:
            return f"{head} {states[0]} -> {states[1]}: {told}"
        if states is not None:
            return f"{head} is {states[1]} (as before): {told}"
        status = getattr(event, "status", None)
        return f"{head} {status if status is not None else _short(event, envelope.subject)}: {told}"
    return f"{head} {_short(event, envelope.subject)}"


def _short(event: Event, subject: str) -> str:
    """The event's name and its fields that are set and say something new."""
    fields: dict[str, Any] = msgspec.to_builtins(event)
    name = subject.partition("/")[2]
    shown = [
        f"{key}={value}"
        for key, value in fields.items()
        if key not in _QUIET and value not in (None, "", 0, {}, [], ()) and value != name
    ]
    return f"{tag_of(event)} {' '.join(shown)}" if shown else tag_of(event)


def as_json(envelope: Envelope) -> dict[str, Any]:
    """The event for other programs: the map on the wire (docs/bus.md) with its topic."""
    event = envelope.event
    body = msgspec.msgpack.decode(event.raw) if isinstance(event, UnknownEvent) else msgspec.to_builtins(event)
    return {
        "topic": envelope.topic,
        "id": msgspec.to_builtins(envelope.id),
        "wall_ns": envelope.wall_ns,
        "mono_ns": envelope.mono_ns,
        "type": event.name if isinstance(event, UnknownEvent) else tag_of(event),
        "causes": [msgspec.to_builtins(cause) for cause in envelope.causes],
        "body": body,
    }
