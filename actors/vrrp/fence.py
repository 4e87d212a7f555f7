"""The firewall of no_accept instances stays: what another program takes out of it is put back and reported."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from holdfast.actors.runtime.machine import Instant
from holdfast.actors.vrrp import narration
from holdfast.actors.vrrp.facts import Holding
from holdfast.actors.vrrp.holdings import Restorer
from holdfast.bus.messages import Event, Evidence, Reason, ReasonKind
from holdfast.kernel.faces import Kernel

if TYPE_CHECKING:
    from holdfast.actors.vrrp.instance import VrrpActor

log = logging.getLogger("holdfast.vrrp")

SUBJECT = "firewall/holdfast"
TOLD_MOST = 16
"""One event for each instance that is concerned, but not a thousand."""


class Fence:
    """Of all instances of a room. masters: those that hold addresses now."""

    def __init__(
        self,
        kernel: Kernel,
        node: str,
        masters: Callable[[], Iterable[VrrpActor]],
        publish: Callable[[str, Event], object],
    ) -> None:
        """publish: an event that is not retained, about a subject."""
        self._kernel = kernel
        self._node = node
        self._masters = masters
        self._publish = publish
        self._restorer = Restorer()
        kernel.firewall.on_lost(self._lost)

    def begin(self) -> None:
        """A daemon that had addresses before us may have left its table: ours replaces it."""
        self._kernel.firewall.restore()

    def _lost(self, by: str | None) -> None:
        now = self._kernel.timers.now()
        loss = self._restorer.lost(Holding.FIREWALL, SUBJECT, now)
        if loss.at_once:
            self._kernel.firewall.restore()
        else:
            self._kernel.timers.set(self, self._restorer.deadline, self._put_back)
        evidence: Evidence = {"put_back": loss.at_once, "losses": loss.losses, "fight": loss.fight, "by": by}
        reason = Reason(kind=ReasonKind.ADDRESS_MISSING, node=self._node, subject=SUBJECT, evidence=evidence)
        fenced = [actor for actor in self._masters() if not actor.instance.accept]
        for actor in fenced[:TOLD_MOST]:
            name = actor.instance.name
            self._publish(f"vrrp/{name}", narration.trouble(name, actor.machine.state, reason))
        what = f"the firewall of {len(fenced)} no_accept instances was changed" + (f" by {by}" if by else "")
        log.warning("%s%s", what, " again and again: put back more slowly" if loss.fight else ": put back")

    def _put_back(self, now: Instant) -> None:
        if self._restorer.due(now):
            self._kernel.firewall.restore()
