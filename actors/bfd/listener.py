"""Whom the engine tells: room.py in the daemon, a list in a test."""

from __future__ import annotations

from typing import Protocol

from holdfast.actors.bfd.facts import Changed
from holdfast.actors.bfd.lane import Lane
from holdfast.actors.bfd.packet import PacketError
from holdfast.actors.runtime.machine import Instant


class Listener(Protocol):
    """See the file's first line."""

    def state_changed(self, lane: Lane, changed: Changed) -> None:
        """The session has another state, or was started."""

    def faltering(self, lane: Lane, now: Instant) -> None:
        """The session ends within lane.lead unless its neighbour is heard. Not told of each when many do."""

    def rehearse(self, lane: Lane, now: Instant) -> None:
        """The session ends right now, perhaps: what is to be told then may be made and thrown away."""

    def rejected(self, lane: Lane | None, error: PacketError, source: bytes) -> None:
        """A packet was discarded. lane None: it belongs to no session."""
