"""The published schema: JSON Schema of every event, command and reply, for other people's programs.

Made from the types themselves, so it cannot lag. Only what has been imported is known: whoever wants all of it imports
the rooms' `messages` first (actors/runtime/catalogue.py).
"""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from holdfast.bus.codec import COMMANDS, EVENTS, REPLIES, Registry
from holdfast.bus.envelope import VERSION, Frame
from holdfast.bus.messages import ReasonKind
from holdfast.bus.wire import Answer, Hello, Request

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEMPLATE = "#/$defs/{name}"


def document() -> dict[str, Any]:
    """One JSON document: `events`, `commands`, `replies` by tag, the wire's own maps, and the `$defs` they refer to.

    Fields of type bytes are msgpack `bin` on the wire; in the schema, which speaks JSON, they are base64 text.
    """
    kinds = {"events": EVENTS, "commands": COMMANDS, "replies": REPLIES}
    wire: dict[str, type[msgspec.Struct]] = {"frame": Frame, "hello": Hello, "request": Request, "answer": Answer}
    tagged = {name: tagged_types(registry) for name, registry in kinds.items()}
    every = [each for types in tagged.values() for each in types.values()] + list(wire.values())
    schemas, definitions = msgspec.json.schema_components(every, schema_hook=raw_schema, ref_template=_TEMPLATE)
    of = dict(zip(every, schemas, strict=True))
    result: dict[str, Any] = {"$schema": _DIALECT, "title": "holdfast bus", "version": VERSION}
    for name, types in tagged.items():
        result[name] = {tag: {**of[kind], "description": summary(kind)} for tag, kind in sorted(types.items())}
    result["wire"] = {name: of[kind] for name, kind in wire.items()}
    result["reason_kinds"] = [each.value for each in ReasonKind]
    result["$defs"] = dict(sorted(definitions.items()))
    return result


def schema_of(tag: str) -> dict[str, Any] | None:
    """A stand-alone schema of one message, None when no type has this tag."""
    for registry in (EVENTS, COMMANDS, REPLIES):
        kind = tagged_types(registry).get(tag)
        if kind is not None:
            (schema,), definitions = msgspec.json.schema_components(
                [kind], schema_hook=raw_schema, ref_template=_TEMPLATE
            )
            return {"$schema": _DIALECT, **schema, "$defs": definitions}
    return None


def tagged_types(registry: Registry) -> dict[str, type[msgspec.Struct]]:
    """Every type of a registry that travels, by its tag."""
    types = registry.types()
    types.pop("bus.unknown", None)  # a form in memory, never on the wire
    return types


def raw_schema(kind: type) -> dict[str, Any]:
    """What msgspec does not know itself: a body that is still encoded may be anything."""
    if kind is msgspec.Raw:
        return {"description": "any msgpack value"}
    raise NotImplementedError


def summary(kind: type[msgspec.Struct]) -> str:
    """The first line of the type's docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]
