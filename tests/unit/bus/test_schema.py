"""The published schema is made of the types and fits what travels."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest

from holdfast.actors.runtime.catalogue import import_messages
from holdfast.actors.vrrp.messages import Release, VrrpMasterSeen
from holdfast.bus.codec import COMMANDS, EVENTS, REPLIES
from holdfast.bus.schema import document, schema_of


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    assert {"runtime", "journal", "vrrp", "watch"} <= set(import_messages())
    return document()


def test_it_is_a_json_schema_and_has_every_message(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(json.dumps(schema)))
    declared = {tag for tag, kind in EVENTS.types().items() if kind.__module__.startswith("holdfast.")}
    assert declared - {"bus.unknown"} <= set(schema["events"])
    assert set(COMMANDS.types()) == set(schema["commands"])
    assert set(REPLIES.types()) == set(schema["replies"])
    assert set(schema["wire"]) == {"frame", "hello", "request", "answer"}
    assert "peer-silent" in schema["reason_kinds"]


def test_every_message_is_described(schema: dict[str, Any]) -> None:
    for kind in ("events", "commands", "replies"):
        for tag, each in schema[kind].items():
            if not tag.startswith(("test.", "toy.")):
                assert each["description"], tag


@pytest.mark.parametrize(
    "message",
    [
        VrrpMasterSeen(instance="VI_1", address="10.0.0.1", priority=100, interval_us=1_000_000),
        Release(instance="VI_1", why="kernel update"),
    ],
)
def test_what_travels_fits(message: msgspec.Struct) -> None:
    found = schema_of(str(message.__struct_config__.tag))
    assert found is not None
    sent = msgspec.to_builtins(message)
    jsonschema.validate(sent, found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**sent, "instance": 5}, found)


def test_an_unknown_tag_has_none() -> None:
    assert schema_of("no.such.message") is None
