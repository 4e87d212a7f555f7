"""What the journal tells the world: about itself, the events of others are its content."""

from __future__ import annotations

from holdfast.bus.messages import Event


class JournalState(Event, frozen=True, kw_only=True, tag="journal.state"):
    """The journal writes, or an alarm: it does not. Retained on `NODE/journal/current/state`.

    error: why it stopped (a full disk, a damaged file). lost: events it could not keep since it started. first_wall_ns:
    of the oldest event it still has, None when it has none.
    """

    writing: bool
    path: str
    error: str = ""
    lost: int = 0
    events: int = 0
    size_bytes: int = 0
    first_wall_ns: int | None = None
