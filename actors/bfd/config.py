"""The BFD room's configuration (keepalived.conf(5): bfd_instance). One `BfdRoom` is the whole slice of this room.

What keepalived has no word for (authentication, echo, demand, profiles) comes from holdfast.toml.
"""

from __future__ import annotations

import msgspec


class BfdInstance(msgspec.Struct, frozen=True, kw_only=True):
    """One BFD session. Intervals in microseconds as on the wire.

    ttl: TTL or hop limit sent, 1..255. max_hops: hops a received packet may have made; None: not checked.
    vrrp, checker: who is told of its events.
    """

    name: str
    neighbor: str
    source: str | None = None
    min_rx_us: int = 10_000
    min_tx_us: int = 10_000
    idle_tx_us: int = 1_000_000
    multiplier: int = 5
    passive: bool = False
    ttl: int = 255
    max_hops: int | None = 0
    multihop: bool = False
    weight: int = 0
    reverse: bool = False
    vrrp: bool = True
    checker: bool = True

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.neighbor else 4


class BfdRoom(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the BFD room is told."""

    instances: tuple[BfdInstance, ...] = ()
