"""What each role may do. Pure.

| role | events | commands | slices |
|---|---|---|---|
| viewer | all | none | - |
| operator | all | all | - |
| replica | all | those of connection synchronisation | - |
| worker | all | none | its own |

Slices of the configuration hold passwords: they never travel as events.
"""

from __future__ import annotations

from holdfast.config.settings import Role

PRIVATE = ("slice/",)
"""Topics, without their node, that stay on their node."""

_COMMANDS: dict[Role, tuple[str, ...]] = {
    "viewer": (),
    "operator": ("",),
    "replica": ("connsync",),
    "worker": (),
}


def may_command(role: str, subject: str) -> bool:
    """Whether `role` may send commands to `subject`."""
    kinds = _COMMANDS.get(role, ())  # type: ignore[call-overload]
    return any(kind in ("", subject.partition("/")[0]) for kind in kinds)


def is_private(topic: str) -> bool:
    """Whether events under `topic` (with its node) stay on their node."""
    return topic.partition("/")[2].startswith(PRIVATE)
