"""Who may come in: keys, requests a second, and what is said about those who may not. Pure: `now` is an argument.

Its counterpart is `door.py`, which has the sockets.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from holdfast.actors.gateway.messages import Refusal
from holdfast.actors.runtime.machine import Duration, Instant, seconds
from holdfast.config.settings import PeerSettings

REQUESTS_PER_S = 200.0
REQUESTS_BURST = 400.0
"""One client's requests; a mesh peer sends two a second, a client that joins a handful."""
TELL_EVERY = seconds(60.0)
TOLD_MAX = 1024
"""Addresses that are told apart; more share one line."""
OTHERS = "others"


class AccessList:
    """Public key -> who it is."""

    def __init__(self, peers: Iterable[PeerSettings] = ()) -> None:
        self._by_key = {peer.key: peer for peer in peers}
        self._by_name = {peer.name: peer for peer in self._by_key.values()}

    def by_key(self, key: str) -> PeerSettings | None:
        """Whose key this is."""
        return self._by_key.get(key)

    def by_name(self, name: str) -> PeerSettings | None:
        """The peer of that name."""
        return self._by_name.get(name)

    def lost(self, newer: AccessList) -> set[str]:
        """Names that may not do there what they may do here: gone, another key, another role."""
        return {
            name
            for name, peer in self._by_name.items()
            if (now := newer.by_name(name)) is None or (now.key, now.role) != (peer.key, peer.role)
        }


class Budget:
    """How many requests one client may still send. A bucket that fills with REQUESTS_PER_S."""

    __slots__ = ("_at", "_left")

    def __init__(self, now: Instant) -> None:
        self._left = REQUESTS_BURST
        self._at = now

    def take(self, now: Instant) -> bool:
        """Takes one; False: there is none."""
        self._left = min(REQUESTS_BURST, self._left + (now - self._at) / 1e9 * REQUESTS_PER_S)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Told(msgspec.Struct, frozen=True):
    """What is to be said now about refusals."""

    address: str
    refusal: Refusal
    count: int
    peer: str
    text: str


class _Unsaid(msgspec.Struct):
    count: int
    said_at: Instant
    peer: str
    text: str


class RefusalLog:
    """Counts everything, and says each address and why at once and then once in `every`: a flood is one event."""

    def __init__(self, every: Duration = TELL_EVERY) -> None:
        self.counts: dict[str, int] = {}
        self._every = every
        self._unsaid: dict[tuple[str, Refusal], _Unsaid] = {}

    def add(self, address: str, refusal: Refusal, now: Instant, *, peer: str = "", text: str = "") -> Told | None:
        """One more. Returns what is to be said of it now."""
        self.counts[refusal.value] = self.counts.get(refusal.value, 0) + 1
        key = (address, refusal)
        known = self._unsaid.get(key)
        if known is None and len(self._unsaid) >= TOLD_MAX:
            self._forget_old(now)
            if len(self._unsaid) >= TOLD_MAX:
                key = (OTHERS, refusal)
                known = self._unsaid.get(key)
        if known is None:
            self._unsaid[key] = _Unsaid(0, now, peer, text)
            return Told(key[0], refusal, 1, peer, text)
        known.count += 1
        known.peer, known.text = peer, text
        if now - known.said_at < self._every:
            return None
        return self._say(key, known, now)

    def due(self, now: Instant) -> list[Told]:
        """What was counted and not said, and whose time has come; called now and then."""
        found = []
        for key, known in list(self._unsaid.items()):
            if now - known.said_at < self._every:
                continue
            if known.count:
                found.append(self._say(key, known, now))
            else:
                del self._unsaid[key]
        return found

    def _say(self, key: tuple[str, Refusal], known: _Unsaid, now: Instant) -> Told:
        told = Told(key[0], key[1], known.count, known.peer, known.text)
        known.count, known.said_at = 0, now
        return told

    def _forget_old(self, now: Instant) -> None:
        for key, known in list(self._unsaid.items()):
            if not known.count and now - known.said_at >= self._every:
                del self._unsaid[key]
