"""What the notify room tells of its own work: what has been notified, what was lost, what cannot be reached."""

from __future__ import annotations

import msgspec

from holdfast.bus.messages import Event, EventId


class NotifyDone(Event, frozen=True, kw_only=True, tag="notify.done"):
    """All scripts of one target are done up to an event. Retained on `NODE/notify/TARGET/done`.

    target: `instance:VI_1`, `group:G1`, `vs:...`, `rs:...`. event: the newest one whose scripts have ended (or were
    dropped). word: its state in keepalived's words. dropped, timed_out, failed: of this target, since the start.
    """

    target: str
    event: EventId
    word: str = ""
    dropped: int = 0
    timed_out: int = 0
    failed: int = 0


class NotifyProgress(Event, frozen=True, kw_only=True, tag="notify.progress"):
    """How far the room has come in what others told. Retained on `NODE/notify/CELL/progress`.

    A notify cell that died goes on from here: nothing is told twice, and what happened meanwhile is told.
    told: by `KIND@CELL` (`vrrp@protocol`) the newest event whose FIFO lines are written and whose scripts and mails are
    under way. words: by target the state that was told last; since: when an instance entered it.
    """

    told: dict[str, EventId] = msgspec.field(default_factory=dict)
    words: dict[str, str] = msgspec.field(default_factory=dict)
    since: dict[str, int] = msgspec.field(default_factory=dict)


class FifoState(Event, frozen=True, kw_only=True, tag="notify.fifo"):
    """A notify FIFO. Retained on `NODE/notify/fifo:PATH/state`; sent when it opens, and when lines are being lost.

    created: we made it, so we remove it at the end. lost: lines that did not fit because nobody reads, since the start.
    problem: why it cannot be used.
    """

    path: str
    opened: bool
    created: bool = False
    written: int = 0
    lost: int = 0
    problem: str | None = None


class MailState(Event, frozen=True, kw_only=True, tag="notify.mail"):
    """How mail gets on. Retained on `NODE/notify/mail/state`; sent when a mail fails for good and when one gets through
    again. waiting: mails not yet delivered. dropped: given up, since the start."""

    server: str
    ok: bool
    waiting: int = 0
    sent: int = 0
    dropped: int = 0
    problem: str | None = None
