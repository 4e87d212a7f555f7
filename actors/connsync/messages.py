"""What connection sync tells the world, and what two directors say to each other.

Connections travel as commands from node to node (`PushConnections`), not as events: they are for their peer alone, whom
its key gives the role `replica` or `operator`, each is answered, and no follower or journal has to carry them.
"""

from __future__ import annotations

import msgspec

from holdfast.bus.messages import Command, Event, Reply

SUBJECT = "connsync"
PROTOCOL_VERSION = 1


class SyncPeer(msgspec.Struct, frozen=True, kw_only=True):
    """Another director, as we supply it. phase: away, joining (gets what it lacks) or following.

    lag_s: how far behind it was at its last answer; late: it is further behind than lag_alarm_s. waiting: connections
    it has not confirmed. lacking, extra: what it had not, and had beyond ours, at the last comparison; -1: none yet.
    taken, refused: connections of it that we took and did not take; lost: its pushes that never came.
    """

    node: str
    phase: str
    lag_s: float = 0.0
    late: bool = False
    waiting: int = 0
    lacking: int = -1
    extra: int = -1
    sent: int = 0
    sent_bytes: int = 0
    repeated: int = 0
    taken: int = 0
    refused: int = 0
    lost: int = 0
    error: str = ""

    @property
    def equal(self) -> bool:
        """Whether both tables were the same at the last comparison."""
        return self.lacking == 0 and self.extra == 0


class ConnSyncState(Event, frozen=True, kw_only=True, tag="connsync.state"):
    """Connection sync of a node. Retained on `NODE/connsync/current/state`; sent when a peer's phase, equality or lag
    alarm changes, and now and then.

    epoch: of this life; peers that see another one compare their tables. connections: ours at the last reading.
    from_kernel: connections the kernel told us; error: why the kernel's side does not work.
    """

    epoch: int
    version: int = PROTOCOL_VERSION
    connections: int = 0
    from_kernel: int = 0
    to_kernel: int = 0
    malformed: int = 0
    kernel_lost: int = 0
    read_s: float = 0.0
    error: str = ""
    peers: tuple[SyncPeer, ...] = ()


class PushConnections(Command, frozen=True, kw_only=True, tag="connsync.push"):
    """Connections of the caller. epoch: of its life; seq: 1, 2, 3 ...; settled: no number below it will come any more.

    entries: those of sync messages one after the other without padding, encoded as `encoding` says (`plain`, `zlib`).
    """

    epoch: int
    seq: int
    settled: int
    encoding: str
    entries: bytes


class Pushed(Reply, frozen=True, kw_only=True, tag="connsync.pushed"):
    """A push was taken in. missing: numbers that never came. epoch: of the life that answers."""

    epoch: int
    missing: tuple[int, ...] = ()


class CompareTables(Command, frozen=True, kw_only=True, tag="connsync.compare"):
    """Asks for what differs. owned: virtual addresses (hexadecimal, as in /proc) of which the caller has all
    connections; shared: those where it has some. digest: 1024 sums of 8 bytes.
    """

    epoch: int
    owned: tuple[str, ...]
    shared: tuple[str, ...]
    digest: bytes


class TablesCompared(Reply, frozen=True, kw_only=True, tag="connsync.compared"):
    """buckets: indexes of the sums that differ; numbers: of all connections there, 8 bytes each."""

    epoch: int
    connections: int
    buckets: tuple[int, ...]
    numbers: bytes


class DescribeConnSync(Command, frozen=True, kw_only=True, tag="connsync.describe"):
    """Asks for the figures of this moment. Subject `connsync`."""


class ConnSyncDescription(Reply, frozen=True, kw_only=True, tag="connsync.description"):
    """The answer to `DescribeConnSync`."""

    state: ConnSyncState
