"""What the sender of one peer is told (facts) and what it orders (actions). Pure."""

from __future__ import annotations

from holdfast.actors.runtime.machine import Action, Duration, Fact, Instant

# --- facts -----------------------------------------------------------------------------------------------------------


class PeerThere(Fact, frozen=True):
    """A peer takes part. epoch: its life; another one than before may know nothing of our connections."""

    epoch: int


class PeerGone(Fact, frozen=True):
    """The peer cannot be reached, or takes part no more."""


class Changed(Fact, frozen=True):
    """Connections of ours are new or in another state: key -> entry. since: when the kernel told the oldest."""

    entries: dict[bytes, bytes]
    since: Instant


class Sent(Fact, frozen=True):
    """A push is on its way. size: its bytes as they travel."""

    seq: int
    size: int


class Delivered(Fact, frozen=True):
    """The peer has taken a push in. missing: earlier ones that never came to it."""

    seq: int
    missing: tuple[int, ...] = ()


class Undelivered(Fact, frozen=True):
    """No answer to a push, or a refusal."""

    seq: int


class ScopeChanged(Fact, frozen=True):
    """We speak for other virtual addresses than before."""


class Compared(Fact, frozen=True):
    """Both tables have been compared. lacking: key -> entry of what the peer has not. extra: how many it has beyond."""

    number: int
    lacking: dict[bytes, bytes]
    extra: int


class NotCompared(Fact, frozen=True):
    """The comparison came to nothing."""

    number: int


# --- actions ---------------------------------------------------------------------------------------------------------


class Push(Action, frozen=True):
    """Send these entries. settled: no push below this number is waited for any more."""

    seq: int
    settled: int
    entries: tuple[bytes, ...]


class Compare(Action, frozen=True):
    """Compare the tables; answered by `Compared` or `NotCompared` with the same number."""

    number: int


class Tell(Action, frozen=True):
    """The peer's figures changed in a way that is worth an event."""


class LagReached(Action, frozen=True):
    """How far behind the peer was when it had taken a push in."""

    lag: Duration
