"""The whole behaviour of one virtual router: keepalived's semantics over RFC 9568 and RFC 3768 section 6."""

from __future__ import annotations

from holdfast.actors.runtime.machine import Action, Fact, Instant
from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.actors.vrrp.messages import VrrpState
from holdfast.actors.vrrp.options import MachineOptions


class VrrpMachine:
    """One virtual router. Not shared between threads.

    state: INIT until `Start` and until every unweighted script has run; STOP at the end.
    deadline: when `step(Deadline(), now)` is wanted.
    """

    state: VrrpState
    deadline: Instant | None
    priority: int
    """Effective, 0..255."""
    interfaces: tuple[str, ...]
    """The interfaces whose `LinkChanged` it wants before `Start`."""

    def __init__(self, instance: VrrpInstance, options: MachineOptions) -> None:
        raise NotImplementedError

    def step(self, fact: Fact, now: Instant) -> list[Action]:
        """Takes one fact and returns what is to be done, in order. The list must not be changed."""
        raise NotImplementedError
