"""Who is MASTER: adverts and silence (RFC 9568 section 6.4, with keepalived's differences, each named where it is)."""

from __future__ import annotations

from holdfast.actors.runtime.machine import MS, US, Action, Duration, Instant
from holdfast.actors.vrrp import narration
from holdfast.actors.vrrp.actions import Announce, Log, Publish, Restore, TellGroup, Wish
from holdfast.actors.vrrp.core import NOTHING
from holdfast.actors.vrrp.endurance import Endurance
from holdfast.actors.vrrp.facts import AdvertReceived, AdvertRejected
from holdfast.actors.vrrp.messages import VrrpLowerPriorityHeard, VrrpMasterSeen, VrrpState
from holdfast.actors.vrrp.packet import Reject
from holdfast.actors.vrrp.priority import OWNER
from holdfast.bus.messages import Evidence, Reason, ReasonKind

_TELL_PAUSE = Duration(900 * MS)
"""Somebody of lower priority who goes on is told of, and announced against, once a second; adverts may come early."""


class Election(Endurance):
    """Decides by adverts and by the timers that wait for them."""

    __slots__ = ()

    # ---- time

    def _deadline(self, now: Instant) -> list[Action]:
        if self.state is VrrpState.MASTER:
            if self._silent_too_long(now):
                return self._yield_stalled(now)
            actions: list[Action] = []
            if self._timer <= now:
                due = self._timer + self._interval
                self._timer = Instant(due if due > now else now + self._interval)
                actions += self._send_and_refresh(now)
            rounds = self._announcements.due(now)
            if rounds:
                actions.append(Announce(rounds))
            for kind, subjects in self._restorer.due(now).items():
                actions.append(Restore(kind, subjects, self.lease_s))
            return actions
        if self.state is not VrrpState.BACKUP or now < self._timer:
            return NOTHING
        if self._delayed:
            self._delayed = False
            self._wait(now, self._initial_wait())
            return [Log("VRRP startup delay expired", detail=True)]
        return self._timed_out(now)

    def _timed_out(self, now: Instant) -> list[Action]:
        """The master-down timer ran out: MASTER, or in a sync group the wish for it and another round of waiting."""
        reason = self._timeout_reason(now)
        if self.options.group is not None:
            self._wishing = True
            self._usual = None
            self._timer = Instant(now + self._down)
            return [TellGroup(Wish.MASTER, reason)]
        return self._to_master(reason, (), now)

    def _timeout_reason(self, now: Instant) -> Reason:
        # The wait began with what was heard last: an accepted advert moves the timer and nothing else.
        since = max(self._waits_since, self._heard_at or self._waits_since, self._resigned or self._waits_since)
        limit = Duration(self._timer - since)
        return narration.timeout_reason(
            self.options.node,
            self.instance,
            narration.Silence(
                now=now,
                waited=Duration(now - since),
                limit=limit,
                priority=self.priority,
                interval=self._master_interval,
                master=self.master,
                master_priority=self.master_priority,
                heard_at=self._heard_at,
                resigned_at=self._resigned,
                lower=self._lower,
                refused=self._refused,
            ),
        )

    # ---- adverts as BACKUP

    def _advert_received(self, fact: AdvertReceived, now: Instant) -> list[Action]:
        if self.state is VrrpState.BACKUP:
            return self._backup_advert(fact, now)
        if self.state is not VrrpState.MASTER:
            return NOTHING
        if self._silent_too_long(now):
            # What waited while we did not run is heard as BACKUP: answering it as MASTER would be a second owner.
            return [*self._yield_stalled(now), *self._backup_advert(fact, now)]
        return self._master_advert(fact, now)

    def _backup_advert(self, fact: AdvertReceived, now: Instant) -> list[Action]:
        if self._delayed:
            return NOTHING  # vrrp_startup_delay: packets are thrown away.
        self._count(fact)
        if fact.priority == 0:
            # RFC 9568 6.4.2: the master resigns, so only the skew time is waited.
            self.statistics.pri_zero_rcvd += 1
            self._usual = None
            self._resigned = now
            self._heard_at = now
            if self._wait(now, self._skew()):
                return [Log(f"({self.instance.name}) Backup received priority 0 advertisement", detail=True)]
            return NOTHING
        self._note(fact.priority)
        lower = fact.priority < self.priority
        if lower and not self._accepts_lower(now):
            if self._lower is fact:
                return NOTHING
            self._lower = fact
            text = f"received lower priority ({fact.priority}) advert from {fact.source} - discarding"
            return [Log(f"({self.instance.name}) {text}")]
        actions = self._preempt_delay(lower, now)
        actions += self._learn(fact)
        self._heard_at = now
        self._resigned = None
        self._lower = None
        self._wait(now, self._down)
        if self._wishing:
            self._wishing = False
            evidence: Evidence = {"master": fact.source, "master_priority": fact.priority}
            actions.append(TellGroup(Wish.BACKUP, self._say(ReasonKind.PEER_HIGHER_PRIORITY, evidence)))
        if not (lower or self.released or fact.address_mismatch):
            self._usual = fact
        return actions or NOTHING

    def _accepts_lower(self, now: Instant) -> bool:
        """A backup obeys a master of lower priority with nopreempt, during preempt_delay, and while it is released."""
        if self.instance.nopreempt or self.released:
            return True
        return self.instance.preempt_delay_us > 0 and (self._preempt_at is None or now < self._preempt_at)

    def _preempt_delay(self, lower: bool, now: Instant) -> list[Action]:
        """The first lower advert starts the delay, an equal or higher one ends it."""
        delay = Duration(self.instance.preempt_delay_us * US)
        if not delay or self.instance.nopreempt or self.released:
            return []
        if not lower:
            if self._preempt_at is None:
                return []
            self._preempt_at = None
            return [Log(f"({self.instance.name}) stop preempt delay", detail=True)]
        if self._preempt_at is not None:
            return []
        self._preempt_at = Instant(now + delay)
        return [Log(f"({self.instance.name}) start preempt delay ({narration.seconds_of(delay):.6f})")]

    def _learn(self, fact: AdvertReceived) -> list[Action]:
        """Who is master, and (v3) at which interval it sends: our timers follow it (RFC 9568 6.4.2)."""
        actions: list[Action] = []
        name = self.instance.name
        interval = self._master_interval
        if fact.interval is not None and fact.interval != interval and fact.interval > 0:
            old, new = interval // MS, fact.interval // MS
            text = f"advertisement interval updated from {old}ms to {new}ms by master"
            actions.append(Log(f"({name}) {text}", detail=True))
            self._master_interval = interval = fact.interval
            self._derive()
        elif fact.source == self.master and fact.priority == self.master_priority:
            return actions
        if fact.source != self.master:
            text = (
                f"master changed from {self.master} to {fact.source}" if self.master else f"master set to {fact.source}"
            )
            actions.append(Log(f"({name}) {text}", detail=True))
            self._told.clear()
        self.master, self.master_priority = fact.source, fact.priority
        seen = VrrpMasterSeen(instance=name, address=fact.source, priority=fact.priority, interval_us=interval // US)
        actions.append(Publish("master", seen))
        return actions

    # ---- adverts as MASTER

    def _master_advert(self, fact: AdvertReceived, now: Instant) -> list[Action]:
        self._count(fact)
        if fact.priority == 0:
            # RFC 9568 6.4.3: answered at once, so that the others need not wait.
            self.statistics.pri_zero_rcvd += 1
            if not self._may_answer(now):
                return NOTHING
            self._timer = Instant(now + self._interval)
            log = Log(f"({self.instance.name}) Master received priority 0 message", detail=True)
            return [*self._send_and_refresh(now), log]
        self._note(fact.priority)
        if fact.priority < self.priority:
            return self._heard_lower(fact, now)
        if fact.priority == self.priority:
            # The tie-break exists only here: the higher source address stays (RFC 9568 6.4.3).
            if fact.source_value < self._source_value:
                return self._heard_lower(fact, now)
            if fact.source_value == self._source_value:
                return self._heard_myself(fact)
        return self._heard_higher(fact, now)

    def _heard_lower(self, fact: AdvertReceived, now: Instant) -> list[Action]:
        """RFC 9568 would drop it. keepalived answers and announces again: someone believed to be MASTER, and switches
        may have learnt its port. lower_prio_no_advert asks for the RFC's silence."""
        self.statistics.lower_priority_rcvd += 1
        name = self.instance.name
        before, since = self._lower, self._heard_at
        if before is None or before.source != fact.source or since is None or now - since > 3 * self._interval:
            self._lower_since = now
        self._lower, self._heard_at = fact, now
        if not self._may_answer(now):
            return NOTHING
        if before is not None and before.source == fact.source and now - self._lower_told_at < _TELL_PAUSE:
            # Hundreds of instances may hear this ten times a second: what matters is that our adverts leave.
            if self.instance.lower_prio_no_advert:
                return NOTHING
            self._timer = Instant(now + self._interval)
            return self._send_and_refresh(now)
        self._lower_told_at = now
        actions: list[Action] = []
        text = f"Received advert from {fact.source} with lower priority {fact.priority}, ours {self.priority}"
        if not self.instance.lower_prio_no_advert:
            self._timer = Instant(now + self._interval)
            actions += self._send_and_refresh(now)
            text += ", forcing new election"
        rounds = self._announcements.lower_priority(now)
        if rounds:
            actions.append(Announce(rounds))
        heard = VrrpLowerPriorityHeard(
            instance=name, source=fact.source, priority=fact.priority, own_priority=self.priority
        )
        actions.append(Publish("heard", heard, retain=False))
        actions.append(Log(f"({name}) {text}"))
        evidence: Evidence = {"peer": fact.source, "peer_priority": fact.priority, "priority": self.priority}
        reason = self._say(ReasonKind.PEER_LOWER_PRIORITY, evidence)
        if self.options.group is not None:
            actions.append(TellGroup(Wish.LOWER_PRIORITY_HEARD, reason))
        lasts = Duration(now - self._lower_since)
        if lasts > 2 * self._interval:
            # It has had two of our adverts and still thinks it is MASTER: it does not hear us.
            evidence["lasts_s"] = narration.seconds_of(lasts)
            actions += self._trouble(self._say(ReasonKind.ONE_WAY_LOSS, evidence))
        return actions

    def _heard_myself(self, fact: AdvertReceived) -> list[Action]:
        text = "WARNING - equal priority advert received from remote host with our IP address."
        evidence: Evidence = {"source": fact.source, "priority": fact.priority, "vrid": self.instance.vrid}
        trouble = self._trouble(self._say(ReasonKind.DUPLICATE_VRID, evidence))
        return [*trouble, Log(f"({self.instance.name}) {text}")] if trouble else NOTHING

    def _heard_higher(self, fact: AdvertReceived, now: Instant) -> list[Action]:
        """Somebody better is MASTER: we give way, nopreempt or not."""
        first: list[Action] = []
        if self.instance.higher_prio_send_advert:
            first.append(self._send(self.priority, now))
        same = fact.priority == self.priority
        evidence: Evidence = {
            "master": fact.source,
            "master_priority": fact.priority,
            "priority": self.priority,
            "source": self.source,
        }
        reason = self._say(ReasonKind.PEER_HIGHER_PRIORITY, evidence)
        detail = "same priority" if same else "higher priority"
        what = f"{fact.priority} but higher IP address than ours" if same else f"{fact.priority}, ours {self.priority}"
        text = f"({self.instance.name}) Master received advert from {fact.source} with {detail} {what}"
        learned = self._learn(fact)
        actions = self._to_backup(reason, (), now, self._down, first)
        self._heard_at = now
        self._usual = None if self.released or fact.address_mismatch else fact
        return [*actions, *learned, Log(text)]

    def _may_answer(self, now: Instant) -> bool:
        """Answers are kept apart by a tenth of an interval, or a storm of adverts would be answered by another."""
        if now - self._answered_at < self._answer_pause:
            return False
        self._answered_at = now
        return True

    # ---- in any state

    def _advert_rejected(self, fact: AdvertRejected, now: Instant) -> list[Action]:
        """Counted, remembered for the reason of what may follow, told once. Timers are never touched: a stream of
        wrong packets must not move the adverts of a MASTER."""
        self.statistics.reject(fact.reject)
        if fact.reject in (Reject.VRID, Reject.OWNER):
            return NOTHING
        self._refused = (fact, now)
        return self._trouble(narration.refused_reason(self.options.node, self.instance, fact), subject=fact.source)

    def _note(self, priority: int) -> None:
        """Remembers the best router that could be our backup; the lease follows from it."""
        if self._best_backup < priority < OWNER:
            self._best_backup = priority
            self._derive()

    def _count(self, fact: AdvertReceived) -> None:
        self.statistics.advert_rcvd += 1
        if fact.address_mismatch:
            self.statistics.addr_list_err += 1
