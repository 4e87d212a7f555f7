"""The bus as an AsyncAPI 3.0 document, for generators of code and documentation of other people's programs.

The types are those of the JSON Schema (schema.py); this adds where they travel: servers, channels, operations. The
words of the wire protocol itself are in docs/bus.md.
"""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.bus.codec import COMMANDS, EVENTS, REPLIES
from holdfast.bus.envelope import VERSION, Frame
from holdfast.bus.schema import raw_schema, summary, tagged_types
from holdfast.bus.wire import Answer, Hello, Request

_TEMPLATE = "#/components/schemas/{name}"
_WIRE: dict[str, type[msgspec.Struct]] = {"Frame": Frame, "Hello": Hello, "Request": Request, "Answer": Answer}


def document(version: str) -> dict[str, Any]:
    """The whole document. version: of the program that made it."""
    kinds = {"event": EVENTS, "command": COMMANDS, "reply": REPLIES}
    tagged = {name: tagged_types(registry) for name, registry in kinds.items()}
    every = [each for types in tagged.values() for each in types.values()] + list(_WIRE.values())
    schemas, definitions = msgspec.json.schema_components(every, schema_hook=raw_schema, ref_template=_TEMPLATE)
    of = dict(zip(every, schemas, strict=True))
    messages = {
        f"{name}.{tag}": {
            "name": tag,
            "title": kind.__name__,
            "summary": summary(kind),
            "contentType": "application/msgpack",
            "payload": of[kind],
        }
        for name, types in tagged.items()
        for tag, kind in sorted(types.items())
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "holdfast bus",
            "version": version,
            "description": (
                "Events, commands and replies of a holdfast cluster over ZeroMQ (ZMTP 3.1, CURVE). An event is two"
                " message parts: the topic, and a msgpack map (Frame) whose `body` is the payload given here. A"
                f" command travels as the `body` of a Request, its reply as the `body` of an Answer. Format {VERSION}."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/msgpack",
        "servers": _servers(),
        "channels": {
            "events": {
                "address": "{node}/{kind}/{name}/{aspect}",
                "title": "Events",
                "description": "Published by every node under its own name; subscribed to by prefix.",
                "servers": [{"$ref": "#/servers/events"}],
                "parameters": {
                    "node": {"description": "The node it happened on, quoted as one word."},
                    "kind": {"description": "vrrp, link, script, bfd, vs, rs, check, cell, node ..."},
                    "name": {"description": "Which of them, quoted as one word; the empty name is `%`."},
                    "aspect": {"description": "state, priority, master, trouble ..."},
                },
                "messages": {name: _message(name) for name in messages if name.startswith("event.")},
            },
            "commands": {
                "address": None,
                "title": "Commands",
                "description": "Requests to one subject each, answered once. Needs a role that allows it.",
                "servers": [{"$ref": "#/servers/commands"}],
                "messages": {name: _message(name) for name in messages if not name.startswith("event.")},
            },
        },
        "operations": {
            "follow": {
                "action": "receive",
                "channel": {"$ref": "#/channels/events"},
                "summary": "Follow what happens; roles viewer, operator, replica, worker.",
            },
            "ask": {
                "action": "send",
                "channel": {"$ref": "#/channels/commands"},
                "summary": "Have something done; role operator, for connection synchronisation replica.",
                "messages": [_used(name) for name in messages if name.startswith("command.")],
                "reply": {
                    "channel": {"$ref": "#/channels/commands"},
                    "messages": [_used(name) for name in messages if name.startswith("reply.")],
                },
            },
        },
        "components": {
            "messages": messages,
            "schemas": {
                **dict(sorted(definitions.items())),
                **{f"Wire{name}": of[kind] for name, kind in _WIRE.items()},
            },
            "securitySchemes": {
                "curve": {
                    "type": "asymmetricEncryption",
                    "description": "CurveZMQ; the client's public key is listed in the gateway's holdfast.toml.",
                }
            },
        },
    }


def _servers() -> dict[str, Any]:
    secured = {
        "protocol": "zmq",
        "protocolVersion": "3.1",
        "security": [{"$ref": "#/components/securitySchemes/curve"}],
    }
    port = {"port": {"default": "7420", "description": "The port in `listen` of the gateway."}}
    return {
        "events": {
            "host": "{host}:{port}",
            "description": "XPUB: connect a SUB socket.",
            "variables": {"host": {"description": "A node of the cluster."}, **port},
            **secured,
        },
        "commands": {
            "host": "{host}:{next_port}",
            "description": "ROUTER: connect a DEALER or REQ socket.",
            "variables": {
                "host": {"description": "A node of the cluster."},
                "next_port": {"default": "7421", "description": "One above the port of the events."},
            },
            **secured,
        },
    }


def _message(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/messages/{name}"}


def _used(name: str) -> dict[str, str]:
    return {"$ref": f"#/channels/commands/messages/{name}"}
