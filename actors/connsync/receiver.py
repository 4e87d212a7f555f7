"""What came from one peer: which of its pushes are missing, and which of its connections we take. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable

import msgspec

from holdfast.actors.connsync.syncproto import RawEntry

MISSING_MAX = 64
"""Numbers named in one answer; a longer gap is left to the comparison of the tables."""


class Taken(msgspec.Struct, frozen=True):
    """What becomes of a push. entries: to be given to the kernel. missing: pushes that the peer should repeat."""

    entries: list[bytes]
    missing: tuple[int, ...]


class Receiver:
    """One peer. taken, refused: connections; lost: pushes whose number was skipped; repaired: those that came yet."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.epoch = 0
        self.highest = 0
        self.taken = 0
        self.refused = 0
        self.lost = 0
        self._missing: set[int] = set()

    def take(
        self, epoch: int, seq: int, settled: int, entries: Iterable[RawEntry], owned: Container[bytes]
    ) -> Taken | None:
        """One push. owned: virtual addresses for which we are MASTER: there we know better than anybody else.

        None: it belongs to a former life of the peer.
        """
        if epoch < self.epoch:
            return None
        if epoch > self.epoch:
            # A new life, or the first we hear of it: whatever it sent before, the comparison has looked at.
            self.epoch, self.highest = epoch, settled - 1
            self._missing.clear()
        if seq > self.highest:
            skipped = range(max(self.highest + 1, settled), seq)
            if len(skipped) <= MISSING_MAX:
                self.lost += len(skipped)
                self._missing.update(skipped)
            self.highest = seq
        self._missing = {each for each in self._missing if each >= settled}
        self._missing.discard(seq)
        kept = []
        for entry in entries:
            if entry.virtual in owned:
                self.refused += 1
            else:
                kept.append(entry.raw)
        self.taken += len(kept)
        missing = tuple(sorted(self._missing)[:MISSING_MAX])
        # Named once: the peer sends their connections again under new numbers.
        self._missing.clear()
        return Taken(kept, missing)
