"""The base of everything that travels on the bus: events, commands, replies, reasons.

Rooms declare their own events in their `messages.py` as subclasses of `Event` with a `tag`; the registry here finds
them by that tag. Every message is one msgpack map on the wire (docs/bus.md).
"""

from __future__ import annotations

import enum

import msgspec


class ReasonKind(enum.StrEnum):
    """Why something changed. The vocabulary is part of the published schema: a new kind is a schema change."""

    STARTED = "started"
    STOPPED = "stopped"
    KILLED = "killed"
    RESTARTED = "restarted"
    RELOAD = "reload"
    OPERATOR_RELEASE = "operator-release"
    OPERATOR_RESUME = "operator-resume"
    PEER_SILENT = "peer-silent"
    PEER_RESIGNED = "peer-resigned"
    PEER_HIGHER_PRIORITY = "peer-higher-priority"
    PEER_LOWER_PRIORITY = "peer-lower-priority"
    LINK_DOWN = "link-down"
    LINK_UP = "link-up"
    LINK_MISSING = "link-missing"
    ADDRESS_MISSING = "address-missing"
    SCRIPT_FAILED = "script-failed"
    SCRIPT_TIMEOUT = "script-timeout"
    SCRIPT_OK = "script-ok"
    FILE_VALUE = "file-value"
    PROCESS_QUORUM = "process-quorum"
    BFD_DOWN = "bfd-down"
    BFD_UP = "bfd-up"
    SYNC_GROUP = "sync-group"
    PRIORITY_CHANGED = "priority-changed"
    STALLED = "stalled"
    LEASE_EXPIRED = "lease-expired"
    ONE_WAY_LOSS = "one-way-loss"
    DUPLICATE_VRID = "duplicate-vrid"
    AUTH_MISMATCH = "auth-mismatch"
    ADVERT_MISMATCH = "advert-mismatch"
    CHECK_FAILED = "check-failed"
    CHECK_OK = "check-ok"
    CHECK_OVERDUE = "check-overdue"
    QUORUM_LOST = "quorum-lost"
    QUORUM_GAINED = "quorum-gained"
    WORKER_LOST = "worker-lost"
    PEER_UNREACHABLE = "peer-unreachable"


class EventId(msgspec.Struct, frozen=True, order=True):
    """The name of one event: unique over nodes, cells and restarts.

    epoch: grows with each start of the cell. seq: 1, 2, 3 ... within one epoch.
    """

    node: str
    cell: str
    epoch: int
    seq: int


Evidence = dict[str, int | float | str | bool | None]


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why a transition happened.

    kind: the fixed vocabulary. node and subject: whom it speaks of (`vrrp/VI_1`, `link/eth0`, `script/chk_http`).
    evidence: numbers and names that were seen; durations in seconds end in `_s`.
    """

    kind: ReasonKind
    node: str
    subject: str
    evidence: Evidence = {}


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A fact that an actor publishes about the thing it owns. Subclass it with `tag="room.name"`."""


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A request to one actor, answered by one `Reply`. Subclass it with `tag="room.verb"`."""


class Reply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """The answer to a command. Subclass it with `tag="room.verb.reply"`."""


class Failed(Reply, frozen=True, kw_only=True, tag="failed"):
    """The command could not be carried out. code: a stable word; message: what an operator reads."""

    code: str
    message: str
