"""The AsyncAPI document: every reference leads somewhere, every message is in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.actors.runtime.catalogue import import_messages
from holdfast.bus import asyncapi, schema


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    import_messages()
    made: dict[str, Any] = json.loads(json.dumps(asyncapi.document("1.2.3")))
    return made


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def follow(document: dict[str, Any], reference: str) -> Any:
    found: Any = document
    assert reference.startswith("#/"), reference
    for word in reference[2:].split("/"):
        found = found[word]
    return found


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = list(references(document))
    assert len(found) > 50
    for reference in found:
        assert isinstance(follow(document, reference), dict), reference


def test_every_message_of_the_json_schema_is_in_it(document: dict[str, Any]) -> None:
    known = schema.document()
    messages = document["components"]["messages"]
    for kind in ("events", "commands", "replies"):
        one = {"events": "event", "commands": "command", "replies": "reply"}[kind]
        assert {f"{one}.{tag}" for tag in known[kind]} == {name for name in messages if name.startswith(f"{one}.")}
    assert set(document["channels"]["events"]["messages"]) == {name for name in messages if name.startswith("event.")}


def test_names_are_as_asyncapi_wants_them(document: dict[str, Any]) -> None:
    assert document["asyncapi"] == "3.0.0"
    assert document["info"]["version"] == "1.2.3"
    for kind in ("messages", "schemas", "securitySchemes"):
        for name in document["components"][kind]:
            assert name.replace(".", "").replace("-", "").replace("_", "").isalnum(), name


def test_operations_use_messages_of_their_channel(document: dict[str, Any]) -> None:
    ask = document["operations"]["ask"]
    for each in [*ask["messages"], *ask["reply"]["messages"]]:
        assert each["$ref"].startswith("#/channels/commands/messages/")
    assert any(each["$ref"].endswith("command.vrrp.release") for each in ask["messages"])
