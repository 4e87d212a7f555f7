"""What each role may do. Pure.

| role | events | commands | slices |
|---|---|---|---|
| viewer | all, past ones too | none | - |
| operator | all | all | - |
| replica | all | those of connection synchronisation | - |
| worker | all | `share`: fetch the checks that it is to run | those |

Slices of the configuration hold passwords: they never travel as events. A worker fetches what it is to run, and whoever
gives it out looks once more who asks (actors/checkers/sharing.py).
"""

from __future__ import annotations

from holdfast.config.settings import Role

PRIVATE = ("slice/",)
"""Topics, without their node, that stay on their node."""

_COMMANDS: dict[Role, tuple[str, ...]] = {
    "viewer": (),
    "operator": ("",),
    "replica": ("connsync",),
    "worker": ("share",),
}


_READING = frozenset({("journal", "journal.read")})
"""Commands that only tell past events: whoever may follow events may send them."""


def may_command(role: str, subject: str, command: str = "") -> bool:
    """Whether `role` may send commands to `subject`, or this one (the tag of its type)."""
    if role in _COMMANDS and (subject, command) in _READING:
        return True
    kinds = _COMMANDS.get(role, ())  # type: ignore[call-overload]
    return any(kind in ("", subject.partition("/")[0]) for kind in kinds)


def is_opinion(topic: str) -> bool:
    """Whether an event is what its node thinks of another one: in a fleet of hundreds that stays with who thinks it."""
    return topic.partition("/")[2].startswith("node/")


def is_private(topic: str) -> bool:
    """Whether events under `topic` (with its node) stay on their node."""
    return topic.partition("/")[2].startswith(PRIVATE)
