"""How far another node's wall clock is from ours, by question and answer. Pure.

Cristian's rule: the answer's clock was read somewhere between our question and its arrival, so the middle is wrong by
half the round trip at most. The sample with the shortest round trip of the last ones says most; samples age out, so
a clock that is set is followed.
"""

from __future__ import annotations

from collections import deque

import msgspec

SAMPLES = 32


class Sample(msgspec.Struct, frozen=True):
    """offset_ns: their clock less ours. round_trip_ns: from question to answer, on our monotonic clock."""

    offset_ns: int
    round_trip_ns: int

    @property
    def error_ns(self) -> int:
        """How far the offset may be wrong."""
        return self.round_trip_ns // 2


class ClockEstimate:
    """The newest samples of one node's clock."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    def add(self, asked_wall_ns: int, round_trip_ns: int, their_wall_ns: int) -> None:
        """One answer: our wall clock when we asked, how long it took, what their clock said."""
        middle = asked_wall_ns + round_trip_ns // 2
        sample = Sample(their_wall_ns - middle, round_trip_ns)
        best = self.best
        # A clock that was set: no sample of before can be true beside this one.
        if best is not None and abs(sample.offset_ns - best.offset_ns) > sample.error_ns + best.error_ns + 1_000_000:
            self._samples.clear()
        self._samples.append(sample)

    @property
    def best(self) -> Sample | None:
        """The sample to believe; None before the first."""
        return min(self._samples, key=lambda each: each.round_trip_ns, default=None)

    def forget(self) -> None:
        """The node was away: its clock may be another."""
        self._samples.clear()
