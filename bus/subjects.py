"""Topics as NATS subjects, and what each role may do there. Pure.

Where nodes meet on NATS instead of calling each other, an event travels under

    holdfast.event.NODE.KIND.NAME.ASPECT      lb1/vrrp/VI_1/state -> holdfast.event.lb1.vrrp.VI_1.state

with the same words; what has a meaning to NATS (`.`, `*`, `>`) is written %XX as well. Payloads are the frames and
requests of the bus. The caller's role and name stand in the subject of a command, and NATS lets each user publish
under its own only: what a node reads there it can believe.
"""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.bus import topics

STREAM = "HOLDFAST"
EVENTS = "holdfast.event"
BEATS = "holdfast.beat"
COMMANDS = "holdfast.command"
ROLES = ("viewer", "operator", "replica", "worker")

_SPECIAL = {".": "%2E", "*": "%2A", ">": "%3E"}


def token(word: str) -> str:
    """A word of a topic (quoted) as one token of a subject."""
    for character, code in _SPECIAL.items():
        if character in word:
            word = word.replace(character, code)
    return word


def name_token(name: str) -> str:
    """A node's or client's name as one token."""
    return token(topics.quote(name))


def subject_of(topic: str) -> str:
    """Where an event of this topic is published."""
    return f"{EVENTS}.{'.'.join(token(word) for word in topic.split('/'))}"


def topic_of(subject: str) -> str:
    """The topic of an event's subject. Raises topics.BadTopic."""
    words = subject.split(".")
    if len(words) != 6 or ".".join(words[:2]) != EVENTS:
        raise topics.BadTopic(f"{subject!r} is no event's subject")
    for character, code in _SPECIAL.items():
        words = [word.replace(code, character) for word in words]
    topic = "/".join(words[2:])
    topics.split(topic)
    return topic


def events_of(node: str) -> str:
    """All events of one node; `*`: of all."""
    return f"{EVENTS}.>" if node == "*" else f"{EVENTS}.{name_token(node)}.>"


def beat_of(node: str) -> str:
    """A node's signs of life; `*`: of all."""
    return f"{BEATS}.{'*' if node == '*' else name_token(node)}"


def command_of(role: str, node: str, caller: str) -> str:
    """Where `caller`, in its role, asks a node."""
    return f"{COMMANDS}.{role}.{name_token(node)}.{name_token(caller)}"


def commands_for(node: str) -> str:
    """All that a node is asked."""
    return f"{COMMANDS}.*.{name_token(node)}.*"


def caller_of(subject: str) -> tuple[str, str]:
    """(role, name) of who asks. Raises topics.BadTopic."""
    words = subject.split(".")
    if len(words) != 5 or words[2] not in ROLES:
        raise topics.BadTopic(f"{subject!r} is no command's subject")
    name = words[4]
    for character, code in _SPECIAL.items():
        name = name.replace(code, character)
    return words[2], topics.unquote(name)


def inbox_of(name: str) -> str:
    """Where answers to this user go: nobody else may listen there."""
    return f"_INBOX_{name_token(name)}"


def permissions(name: str, role: str, *, node: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(may publish, may subscribe) of one user. node: it is a node of the fleet, not a client."""
    api = "$JS.API"
    publish = [
        f"{COMMANDS}.{role}.*.{name_token(name)}",
        f"{api}.STREAM.INFO.{STREAM}",
        f"{api}.CONSUMER.CREATE.{STREAM}",
        f"{api}.CONSUMER.CREATE.{STREAM}.>",
        f"$JS.FC.{STREAM}.>",
    ]
    subscribe = [f"{inbox_of(name)}.>", f"{BEATS}.*"]
    if node:
        publish += [f"{EVENTS}.{name_token(name)}.>", beat_of(name), f"{api}.STREAM.CREATE.{STREAM}"]
        subscribe += [commands_for(name)]
    return tuple(publish), tuple(subscribe)


def server_config(users: Iterable[tuple[str, str, bool]]) -> str:
    """The account for nats-server.conf. users: (name, role, whether it is a node), known by their TLS certificates."""
    lines = ["accounts {", "  HOLDFAST {", "    jetstream: enabled", "    users: ["]
    for name, role, node in users:
        publish, subscribe = permissions(name, role, node=node)
        lines += [
            f"      # {'node' if node else 'client'} {name}, {role}",
            f'      {{ user: "CN={name}"',
            "        permissions {",
            f"          publish {{ allow: [{_words(publish)}] }}",
            f"          subscribe {{ allow: [{_words(subscribe)}] }}",
        ]
        if node:
            lines.append('          allow_responses { max: 1, expires: "130s" }')
        lines.append("        } }")
    lines += ["    ]", "  }", "}"]
    return "\n".join(lines) + "\n"


def _words(words: Iterable[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)
