"""When a virtual server has its quorum, and when so many servers fail at once that the checks are doubted."""

from __future__ import annotations

from collections.abc import Iterable

MAX_WEIGHT = 0x7FFFFFFF
"""The kernel keeps a weight in a signed 32 bit number."""


def clamp_weight(weight: int) -> int:
    """A weight as the kernel takes it: 0..2147483647."""
    return min(max(weight, 0), MAX_WEIGHT)


def weight_sum(weights: Iterable[int]) -> int:
    """What the quorum is compared with: the weights of the servers alive, each within the kernel's range."""
    return sum(clamp_weight(weight) for weight in weights)


def quorum_is_up(was_up: bool, alive_weight: int, quorum: int, hysteresis: int) -> bool:
    """Whether the quorum is there now.

    It is gained at quorum + hysteresis and lost below quorum - hysteresis, or when nothing is alive at all: between the
    two it stays what it was. Source: keepalived.conf(5), quorum and hysteresis. A quorum of 0 (every
    weight is 0) is never gained.
    """
    if was_up:
        return alive_weight > 0 and alive_weight >= quorum - hysteresis
    return alive_weight > 0 and alive_weight >= quorum + hysteresis


def is_panic(failed_at_once: int, alive: int, threshold: float) -> bool:
    """Whether more than `threshold` (a share, 0..1; 0 = never) of a pool failed at once.

    alive: how many are left. The pool is those and the ones that just failed; servers that had been down before are not
    part of it.
    """
    pool = failed_at_once + alive
    return threshold > 0 and pool > 0 and failed_at_once > threshold * pool
