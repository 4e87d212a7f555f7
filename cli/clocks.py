"""How far the other nodes' clocks are from ours, as the gateway has told."""

from __future__ import annotations

from holdfast.actors.gateway.messages import PeerState
from holdfast.bus.client import Client
from holdfast.bus.envelope import Envelope


def clock_offsets(client: Client) -> dict[str, int]:
    """Node -> its wall clock less ours, ns; nodes whose clock is not known are left out."""
    found: dict[str, int] = {}
    for envelope in client.snapshot("node/").events:
        learn_offset(envelope, found, client.node)
    return found


def learn_offset(envelope: Envelope, offsets: dict[str, int], own: str | None) -> None:
    """Notes what an event of our own gateway says about a clock."""
    event = envelope.event
    if isinstance(event, PeerState) and envelope.id.node == own and event.clock_offset_s is not None:
        offsets[event.peer] = round(event.clock_offset_s * 1e9)
