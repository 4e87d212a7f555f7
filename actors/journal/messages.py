"""What the journal tells the world: about itself, the events of others are its content."""

from __future__ import annotations

from holdfast.bus.messages import Command, Event, Reply


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


class ReadJournal(Command, frozen=True, kw_only=True, tag="journal.read"):
    """Asks for past events of this node, oldest first. Subject `journal`; every role may.

    node: whose events, empty for all that the journal has. after: go on after this event of the page before.
    """

    node: str = ""
    since_wall_ns: int = 0
    limit: int = 500
    after: int = 0


class JournalPage(Reply, frozen=True, kw_only=True, tag="journal.page"):
    """The answer to `ReadJournal`. events: (topic, frame). next: what `after` is for the next page, 0: no more."""

    events: tuple[tuple[str, bytes], ...]
    next: int = 0
