"""What a director and the nodes that run its checks tell each other.

The director offers: a retained event with the digest of what a worker is to run, and nothing of what it is. The
worker fetches that with a command, which is answered to nobody else, and beats once a second with the digests of what
it runs. Its results are `check.result` events on `WORKER/probe/PROBE/result`.
"""

from __future__ import annotations

import enum

import msgspec

from holdfast.bus.messages import Command, Event, Reason, Reply

NOTHING = ""
"""The digest of an empty share."""


class ShareOffered(Event, frozen=True, kw_only=True, tag="share.offer"):
    """What one worker is to run for a cell of this node. Retained on `NODE/share/WORKER,CELL/offer`.

    digest: names the share; empty: nothing. checks: how many there are in it.
    """

    worker: str
    cell: str
    digest: str
    checks: int


class ShareStatus(enum.StrEnum):
    """How a worker stands with a director. waiting: it has not taken its share yet."""

    WAITING = "waiting"
    RUNNING = "running"
    LOST = "lost"


class ShareState(Event, frozen=True, kw_only=True, tag="share.state"):
    """A worker, as a cell of this node sees it. Retained on `NODE/share/WORKER,CELL/state`.

    checks: how many run there. home: how many of this cell's run on this node because no worker is left.
    reason.kind: worker-lost, started, reload.
    """

    worker: str
    cell: str
    old: ShareStatus
    state: ShareStatus
    checks: int
    home: int
    reason: Reason


class WorkerBeat(Event, frozen=True, kw_only=True, tag="worker.beat"):
    """A worker lives. Not retained; `NODE/worker/current/beat`, once a second and when it has taken a share.

    shares: `NODE/CELL` of a director -> digest of the share that runs here. checks: how many that are, identical ones
    counted once.
    """

    shares: dict[str, str]
    checks: int


class ShareTrouble(Event, frozen=True, kw_only=True, tag="worker.trouble"):
    """A share could not be taken. Retained on `NODE/worker/DIRECTOR,CELL/trouble` until it could."""

    director: str
    cell: str
    digest: str
    text: str


class FetchShare(Command, frozen=True, kw_only=True, tag="share.fetch"):
    """A worker asks for what it is to run. Subject `share/CELL` on the director; nobody but the worker is answered."""

    worker: str


class Share(Reply, frozen=True, kw_only=True, tag="share.fetched"):
    """What a worker is to run. checks: msgpack of a list of `actors.checkers.shares.SharedCheck`."""

    digest: str
    checks: bytes = msgspec.field(default=b"")
