"""Where an address must not move, or must not stay: stalls of the process, leases, what others remove.

Beyond keepalived. A MASTER that did not run for so long that a backup has taken over is BACKUP before it sends
anything; an address that somebody removes comes back without a transition; one whose lease ran out is put back only
while nobody else can have taken over.
"""

from __future__ import annotations

from holdfast.actors.runtime.machine import Action, Duration, Instant, S
from holdfast.actors.vrrp import narration
from holdfast.actors.vrrp.actions import Log, Publish, Restore, SendAdvert
from holdfast.actors.vrrp.core import NOTHING, VrrpCore
from holdfast.actors.vrrp.facts import AddressFailed, AdvertFailed, Holding, HoldingLost, Stalled
from holdfast.actors.vrrp.messages import VrrpState
from holdfast.actors.vrrp.options import MissingPolicy
from holdfast.actors.vrrp.trackers import Causes
from holdfast.bus.messages import Evidence, ReasonKind

_HOLDINGS = {kind.value: kind for kind in Holding}


class Endurance(VrrpCore):
    """Decides by time that was lost and by things that were."""

    __slots__ = ()

    def _silent_too_long(self, now: Instant) -> bool:
        return now - self._advert_at >= self._limit

    def _stalled(self, fact: Stalled, now: Instant) -> list[Action]:
        """We did not run. Told before the sockets are looked at, so a MASTER that was away too long sends nothing."""
        self.statistics.stalls += 1
        evidence: Evidence = {"stood_still_s": narration.seconds_of(fact.duration), **fact.evidence}
        if self.state is VrrpState.MASTER:
            silent = Duration(now - self._advert_at + fact.unseen)
            if silent >= self._limit:
                return self._yield_stalled(now, silent, evidence, fact.causes)
            evidence["limit_s"] = narration.seconds_of(self._limit)
            self._advert_at = Instant(self._advert_at - fact.unseen)
            self._timer = Instant(self._timer - fact.unseen)
            return self._trouble(self._say(ReasonKind.STALLED, evidence), fact.causes)
        if self.state is VrrpState.BACKUP and fact.unseen:
            # The clock stood still with us, so the timer says nothing about how long the master was silent.
            self._usual = None
            self._wait(now, self._down)
        return NOTHING

    def _advert_failed(self, fact: AdvertFailed, now: Instant) -> list[Action]:
        """Nobody heard that advert: the next try comes soon, with the refresh of the leases that was not carried out.
        A MASTER that is not heard until a backup has taken over is BACKUP."""
        if self.state is not VrrpState.MASTER:
            return NOTHING
        self._advert_at = self._advert_before
        self.statistics.advert_sent -= 1
        evidence: Evidence = {"send_errno": fact.errno, "send_error": fact.text}
        if self._silent_too_long(now):
            return self._yield_stalled(now, evidence=evidence)
        self._timer = Instant(min(self._timer, now + self._interval // 4, self._advert_at + self._limit))
        if self.lease_s is not None:
            self._lease_at = now
            self._lease_lost_at = Instant(min(self._lease_lost_at, self._advert_at + self.lease_s * S))
        return self._trouble(self._say(ReasonKind.STALLED, evidence), subject="send")

    def _yield_stalled(
        self, now: Instant, silent: Duration | None = None, evidence: Evidence | None = None, causes: Causes = ()
    ) -> list[Action]:
        """A backup has taken over by now: BACKUP without a word, and a fair election."""
        told: Evidence = {
            "silent_s": narration.seconds_of(Duration(now - self._advert_at) if silent is None else silent),
            "limit_s": narration.seconds_of(self._limit),
            "interval_s": narration.seconds_of(self._interval),
            **(evidence or {}),
        }
        return self._to_backup(self._say(ReasonKind.STALLED, told), causes, now, self._down)

    def _lease_lost(self, subjects: tuple[str, ...], causes: Causes, now: Instant) -> list[Action]:
        """The kernel took addresses back. If nobody can have taken over, they come back; else we are BACKUP."""
        if self.state is not VrrpState.MASTER:
            return NOTHING
        if now < self._lease_lost_at:
            # Not its time yet: the kernel had another reason (the interface lost its other addresses).
            losses = [
                self._holding_lost(HoldingLost(Holding.ADDRESS, each, "kernel", causes), now) for each in subjects
            ]
            return [action for actions in losses for action in actions]
        silent = Duration(now - self._advert_at)
        evidence: Evidence = {
            "lease_s": self.lease_s,
            "silent_s": narration.seconds_of(silent),
            "limit_s": narration.seconds_of(self._limit),
        }
        reason = self._say(ReasonKind.LEASE_EXPIRED, evidence)
        if silent >= self._limit:
            return self._to_backup(reason, causes, now, self._down)
        if self.lease_s is not None:
            self._renew(now)
        restore = Restore(Holding.ADDRESS, subjects, self.lease_s)
        return [restore, *self._trouble(reason, causes, subject=",".join(subjects))]

    def _holding_lost(self, fact: HoldingLost, now: Instant) -> list[Action]:
        if self.state is not VrrpState.MASTER:
            return NOTHING
        if fact.kind is Holding.ADDRESS and self.lease_s is not None and now >= self._lease_lost_at:
            return self._lease_lost((fact.subject,), fact.causes, now)
        name = self.instance.name
        if self.options.missing is MissingPolicy.RESIGN:
            evidence: Evidence = {"lost": fact.subject, "by": fact.by, "priority": self.priority}
            reason = self._say(ReasonKind.ADDRESS_MISSING, evidence, fact.subject)
            self.statistics.pri_zero_sent += 1
            return self._to_backup(reason, fact.causes, now, self._skew(), [SendAdvert(0)])
        loss = self._restorer.lost(fact.kind, fact.subject, now)
        actions: list[Action] = []
        if loss.at_once:
            actions.append(Restore(fact.kind, (fact.subject,), self.lease_s))
        evidence = {"put_back": loss.at_once, "losses": loss.losses, "fight": loss.fight, "by": fact.by}
        reason = self._say(ReasonKind.ADDRESS_MISSING, evidence, fact.subject)
        actions.append(Publish("trouble", narration.trouble(name, self.state, reason), fact.causes, retain=False))
        who = f" by {fact.by}" if fact.by else ""
        what = f"({name}) {fact.subject} was removed{who}"
        text = f"{what} again and again: put back more slowly" if loss.fight else f"{what}: put back"
        actions.append(Log(text))
        return actions

    def _address_failed(self, fact: AddressFailed, now: Instant) -> list[Action]:
        """The kernel refused something of a MASTER's: told, tried again later; a missing link is a fault by itself."""
        if self.state is not VrrpState.MASTER:
            return NOTHING
        kind = _HOLDINGS.get(fact.subject.partition("/")[0], Holding.ADDRESS)
        pause = self._restorer.failed(kind, fact.subject, now)
        evidence: Evidence = {
            "operation": fact.operation,
            "errno": fact.errno,
            "text": fact.text,
            "retry_s": narration.seconds_of(pause),
        }
        reason = self._say(ReasonKind.ADDRESS_MISSING, evidence, fact.subject)
        return self._trouble(reason, subject=fact.subject)
