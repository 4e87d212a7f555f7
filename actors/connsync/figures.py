"""The figures of a peer for events and views, and the limits of holdfast.toml as the machine wants them. Pure."""

from __future__ import annotations

from holdfast.actors.connsync.messages import SyncPeer
from holdfast.actors.connsync.receiver import Receiver
from holdfast.actors.connsync.sender import Limits, Sender
from holdfast.actors.runtime.machine import Instant, S, seconds
from holdfast.config.settings import ConnSyncSettings


def limits_of(settings: ConnSyncSettings) -> Limits:
    """The limits for one peer."""
    return Limits(
        bytes_per_s=settings.bandwidth_kbytes_per_s * 1000,
        compare_every=seconds(settings.compare_every_s),
        lag_alarm=seconds(settings.lag_alarm_s),
        waiting_max=settings.waiting_max,
    )


def peer_figures(name: str, sender: Sender | None, receiver: Receiver | None, error: str, now: Instant) -> SyncPeer:
    """How a peer stands; one of the two sides may not be there yet."""
    sending = sender or Sender(name, Limits())
    receiving = receiver or Receiver(name)
    return SyncPeer(
        node=name,
        phase=sending.phase.value,
        lag_s=round(max(sending.lag, sending.behind(now)) / S, 4),
        late=sending.late,
        waiting=sending.waiting,
        lacking=sending.lacking,
        extra=sending.extra,
        sent=sending.sent,
        sent_bytes=sending.sent_bytes,
        repeated=sending.repeated,
        taken=receiving.taken,
        refused=receiving.refused,
        lost=receiving.lost,
        error=error,
    )
