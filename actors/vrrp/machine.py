"""The whole behaviour of one virtual router: keepalived's semantics over RFC 9568 and RFC 3768 section 6.

    INIT ----Start, trackers have run----> BACKUP <--better advert-- MASTER
      |                                    |   |  ----silence-------->  |
      +---fault--> FAULT <-----fault-------+   +-----------fault--------+--> FAULT;  any --Stop--> STOP

Facts are in `facts.py`, actions in `actions.py`. This file has the steps, the beginning and the end, faults and
weights, sync group, operators and reload; adverts and timers are in `election.py`, stalls and leases in `endurance.py`,
the transitions in `core.py`. Faults and weights are weighed in `trackers.py`, announcements timed in
`announcements.py`, lost addresses in `holdings.py`. A takeover sends its advert first, then takes the addresses,
announces them, and is told last; leaving lets everything go before it is told.
"""

from __future__ import annotations

from holdfast.actors.runtime.machine import US, Action, Deadline, Duration, Fact, Instant
from holdfast.actors.vrrp import narration
from holdfast.actors.vrrp.actions import Announce, LetGo, Log, Reconcile, RefreshLease, SendAdvert, TellGroup, Wish
from holdfast.actors.vrrp.announcements import NEVER
from holdfast.actors.vrrp.core import NOTHING
from holdfast.actors.vrrp.election import Election
from holdfast.actors.vrrp.facts import (
    AddressFailed,
    AdvertFailed,
    AdvertReceived,
    AdvertRejected,
    FaultCleared,
    FaultRaised,
    GroupAnnounce,
    GroupOrder,
    HoldingLost,
    LeaseLost,
    LinkChanged,
    OperatorRelease,
    OperatorResume,
    Reconfigured,
    Restored,
    SourceChanged,
    Stalled,
    Start,
    Stop,
    TrackerReported,
)
from holdfast.actors.vrrp.messages import VrrpState
from holdfast.actors.vrrp.packet import packed
from holdfast.actors.vrrp.trackers import Causes, TrackingFact
from holdfast.bus.messages import Evidence, Reason, ReasonKind


class VrrpMachine(Election):
    """One virtual router. Not shared between threads.

    The lists that `step` returns are shared: they must not be changed, nor kept beyond the next step.
    """

    __slots__ = ()

    # ---- the steps

    def step(self, fact: Fact, now: Instant) -> list[Action]:
        """Takes one fact and returns what is to be done, in order."""
        kind = type(fact)
        if kind is AdvertReceived:
            if fact is self._usual:
                # BACKUP, the very advert that was accepted last, and nothing has changed since: only the timer moves.
                self._heard_at = now
                self._timer = self.deadline = Instant(now + self._down)
                self.statistics.advert_rcvd += 1
                return NOTHING
        elif kind is Deadline and self.state is VrrpState.MASTER:
            timer = self._timer
            if timer <= now < self._rare and now - self._advert_at < self._limit:
                # The next advert is due one interval after this one was, so that lateness does not add up.
                due = timer + self._interval
                self._timer = timer = Instant(due if due > now else now + self._interval)
                self._advert_before = self._advert_at
                self._advert_at = now
                self.deadline = timer if timer < self._rare else self._rare
                self.statistics.advert_sent += 1
                if now < self._lease_at:
                    return self.advert_actions
                self._renew(now)
                return self.leased_advert_actions
        actions = self._dispatch(fact, now)
        self._settle()
        return actions

    def _dispatch(self, fact: Fact, now: Instant) -> list[Action]:
        if self.state is VrrpState.STOP:
            return NOTHING
        match fact:
            case Deadline():
                return self._deadline(now)
            case AdvertReceived():
                return self._advert_received(fact, now)
            case AdvertRejected():
                return self._advert_rejected(fact, now)
            case LinkChanged() | SourceChanged() | TrackerReported() | FaultRaised() | FaultCleared():
                return self._tracked(fact, now)
            case GroupOrder():
                return self._group_order(fact, now)
            case GroupAnnounce():
                return self._group_announce(now)
            case Stalled():
                return self._stalled(fact, now)
            case AdvertFailed():
                return self._advert_failed(fact, now)
            case HoldingLost():
                return self._holding_lost(fact, now)
            case LeaseLost():
                return self._lease_lost(fact.subjects, fact.causes, now)
            case AddressFailed():
                return self._address_failed(fact, now)
            case OperatorRelease():
                return self._release(fact, now)
            case OperatorResume():
                return self._resume(fact, now)
            case Reconfigured():
                return self._reconfigure(fact, now)
            case Start():
                return self._start(fact, now)
            case Restored():
                return self._restore(fact, now)
            case Stop():
                return self._stop(fact, now)
        raise AssertionError(f"no fact of a virtual router: {fact!r}")

    # ---- beginning

    def _start(self, fact: Start, now: Instant) -> list[Action]:
        assert not self._started
        self._started = True
        self.since = self._waits_since = now
        self._tracking.weigh_all()
        self.priority = self._tracking.priority.effective
        self._derive()
        # Whatever an earlier life left on the interface goes, before anything is said about this one.
        actions: list[Action] = [LetGo(forced=True)]
        if not self._tracking.pending:
            actions += self._begin(self._say(ReasonKind.STARTED, self._start_evidence(now)), fact.causes, now)
        return actions

    def _begin(self, reason: Reason, causes: Causes, now: Instant) -> list[Action]:
        """All trackers have run: FAULT, or BACKUP (in a sync group when all members are there)."""
        if self._tracking.faults:
            fault, fault_causes = self._tracking.first_fault()
            return self._to_fault(fault, fault_causes, now)
        if self.options.group is not None:
            return [TellGroup(Wish.READY, reason, causes)]
        return self._first_backup(reason, causes, now)

    def _first_backup(self, reason: Reason, causes: Causes, now: Instant) -> list[Action]:
        if self.options.startup_delay_us:
            self._delayed = True
            wait = Duration(self.options.startup_delay_us * US)
        else:
            wait = self._initial_wait()
        actions = self._to_backup(reason, causes, now, wait)
        actions[-1] = Log(f"({self.instance.name}) Entering BACKUP STATE (init)")
        return actions

    def _start_evidence(self, now: Instant) -> Evidence:
        evidence: Evidence = {"priority": self.priority, "interval_s": narration.seconds_of(self._interval)}
        if now > self._waits_since:
            evidence["waited_s"] = narration.seconds_of(Duration(now - self._waits_since))
        return evidence

    def _restore(self, fact: Restored, now: Instant) -> list[Action]:
        """The cell died. A MASTER whose peers cannot have missed it goes on: an advert at once, addresses untouched."""
        assert not self._started
        self._started = True
        self.released = fact.released
        self.since = self._waits_since = now
        self.master, self.master_priority = fact.master, fact.master_priority
        if fact.master_interval is not None:
            self._master_interval = fact.master_interval
        self._tracking.weigh_all()
        silent = None if fact.silent_since is None else Duration(now - fact.silent_since)
        alive = fact.state is VrrpState.MASTER and silent is not None and silent < self._limit
        if fact.state in (VrrpState.BACKUP, VrrpState.MASTER):
            self._tracking.go_on_with(fact.priority)
        self.priority = self._tracking.priority.effective
        self._derive()
        if self._tracking.pending:
            return [LetGo(forced=True)]
        if self._tracking.faults:
            if not alive:
                return [LetGo(forced=True), *self._begin(fact.reason, fact.causes, now)]
            self.state = VrrpState.MASTER
            fault, causes = self._tracking.first_fault()
            return self._to_fault(fault, causes, now)
        if alive:
            self.state = VrrpState.MASTER
            self.since, self.reason = fact.since, fact.reason
            self.master = self.source
            self._advert_at = fact.silent_since or now
            actions: list[Action] = [self._send(self.priority, now)]
            self._timer = Instant(now + self._interval)
            if self.lease_s is not None:
                self._renew(now)
                actions.append(RefreshLease(self.lease_s))
            self._announcements.resume(now)
            actions.append(Reconcile(self.lease_s))
            actions.append(self._publish_state(VrrpState.MASTER, fact.causes))
            pause = narration.seconds_of(silent or Duration(0))
            trouble = self._say(ReasonKind.RESTARTED, {"silent_s": pause, "limit_s": narration.seconds_of(self._limit)})
            actions += self._trouble(trouble, fact.causes)
            if self.options.group is not None:
                actions.append(TellGroup(Wish.IS_MASTER, fact.reason, fact.causes))
            return actions
        if fact.state is VrrpState.BACKUP:
            self.state, self.since, self.reason = VrrpState.BACKUP, fact.since, fact.reason
            self._wait(now, self._down)
            actions = [LetGo(forced=True), self._publish_state(VrrpState.BACKUP, fact.causes)]
            if self.options.group is not None:
                actions.append(TellGroup(Wish.READY, fact.reason, fact.causes))
            return actions
        evidence: Evidence = {"was": fact.state.value, "limit_s": narration.seconds_of(self._limit)}
        if silent is not None:
            evidence["silent_s"] = narration.seconds_of(silent)
        if fact.state is VrrpState.MASTER:
            # Somebody else may be MASTER by now: nothing is sent, and the addresses go if they are still there.
            self.state = VrrpState.MASTER
            reason = self._say(ReasonKind.RESTARTED, evidence)
            return self._to_backup(reason, fact.causes, now, self._down)
        return [LetGo(forced=True), *self._begin(self._say(ReasonKind.RESTARTED, evidence), fact.causes, now)]

    # ---- trackers, faults, sync group

    def _tracked(self, fact: TrackingFact, now: Instant) -> list[Action]:
        if isinstance(fact, SourceChanged):
            self.source = fact.address
            self._source_value = 0 if fact.address is None else int.from_bytes(packed(fact.address), "big")
            self._usual = None
            if self.state is VrrpState.MASTER:
                self.master = fact.address
        was_own = self._tracking.own_faults
        was_waiting = bool(self._tracking.pending)
        self._tracking.take(fact)
        if not self._started:
            self.priority = self._tracking.priority.effective
            self._derive()
            return NOTHING
        reason, causes = self._tracking.reason_of(fact)
        if self.state is VrrpState.INIT:
            self.priority = self._tracking.priority.effective
            self._derive()
            if self._tracking.pending:
                return NOTHING
            if was_waiting:
                return self._begin(self._say(ReasonKind.STARTED, self._start_evidence(now)), causes, now)
        actions = self._reprioritise(reason, causes, now)
        return self._faults_changed(was_own, reason, causes, now, actions)

    def _faults_changed(
        self, was_own: bool, reason: Reason, causes: Causes, now: Instant, actions: list[Action]
    ) -> list[Action]:
        if self._tracking.faults and self.state is not VrrpState.FAULT:
            fault, fault_causes = self._tracking.first_fault()
            if self.state is VrrpState.INIT and self.options.group is not None and not self._tracking.own_faults:
                return [*actions, *self._to_fault(reason, causes, now)]
            return [*actions, *self._to_fault(fault, fault_causes, now)]
        own = self._tracking.own_faults
        if self.state is VrrpState.FAULT:
            if not self._tracking.faults:
                left = self._leave_fault(reason, causes, now)
                if was_own and self.options.group is not None:
                    # The group had not begun yet, so it has not ordered a fault of its own.
                    left.append(TellGroup(Wish.WELL, reason, causes))
                return [*actions, *left]
            if self.options.group is not None and own != was_own:
                return [*actions, TellGroup(Wish.FAULT if own else Wish.WELL, reason, causes)]
        return actions or NOTHING

    def _group_order(self, fact: GroupOrder, now: Instant) -> list[Action]:
        if fact.state is VrrpState.FAULT:
            was_own = self._tracking.own_faults
            self._tracking.take(fact)
            if not self._started:
                return NOTHING
            return self._faults_changed(was_own, fact.reason, fact.causes, now, [])
        if fact.state is VrrpState.MASTER:
            if self.state is not VrrpState.BACKUP or self.released:
                return NOTHING
            return self._to_master(fact.reason, fact.causes, now)
        if self.state is VrrpState.INIT and self._started and not self._tracking.pending:
            return self._first_backup(fact.reason, fact.causes, now)
        if self.state is VrrpState.MASTER:
            first: list[Action] = []
            if fact.resign:
                first.append(SendAdvert(0))
                self.statistics.pri_zero_sent += 1
            return self._to_backup(fact.reason, fact.causes, now, self._down, first)
        self._wishing = False
        return NOTHING

    def _group_announce(self, now: Instant) -> list[Action]:
        if self.state is not VrrpState.MASTER:
            return NOTHING
        rounds = self._announcements.lower_priority(now)
        return [Announce(rounds)] if rounds else NOTHING

    # ---- operators, reload, end

    def _release(self, fact: OperatorRelease, now: Instant) -> list[Action]:
        """Maintenance: a priority-0 advert if MASTER, then out of every election until `OperatorResume`, even if nobody
        else is there. What is heard is still recorded."""
        if self.released:
            return NOTHING
        self.released = True
        evidence: Evidence = {"why": fact.why, "priority": self.priority}
        reason = self._say(ReasonKind.OPERATOR_RELEASE, evidence)
        if self.state is VrrpState.MASTER:
            self.statistics.pri_zero_sent += 1
            return self._to_backup(reason, fact.causes, now, self._down, [SendAdvert(0)])
        self.reason = reason
        actions: list[Action] = [self._publish_state(self.state, fact.causes)]
        if self.state is VrrpState.BACKUP:
            self._usual = None
            self._timer = NEVER
            if self._wishing:
                self._wishing = False
                actions.append(TellGroup(Wish.BACKUP, reason, fact.causes))
        return actions

    def _resume(self, fact: OperatorResume, now: Instant) -> list[Action]:
        if not self.released:
            return NOTHING
        self.released = False
        self.reason = self._say(ReasonKind.OPERATOR_RESUME, {"priority": self.priority})
        if self.state is VrrpState.BACKUP:
            self._wait(now, self._down)
        return [self._publish_state(self.state, fact.causes)]

    def _reconfigure(self, fact: Reconfigured, now: Instant) -> list[Action]:
        """A reload: the state goes on, timers move by what changed, nothing is sent for it. New trackers that have not
        reported count as good."""
        renamed = fact.instance.name != self.instance.name
        was_own = self._tracking.own_faults
        joins = fact.options.group is not None and fact.options.group != self.options.group
        addresses_before = narration.address_texts(self.instance)
        before = self._down
        follows = self._master_interval == self._interval
        old_interval = self._interval
        self.instance, self.options = fact.instance, fact.options
        self._interval = Duration(fact.instance.advert_interval_us * US)
        if follows or self.instance.version == 2:
            self._master_interval = self._interval
        self._usual = None
        self._announcements.timing = fact.instance.garp
        self._tracking.configure(fact.instance, fact.options)
        reason = self._say(ReasonKind.RELOAD, {"priority": self.priority})
        if not self._started:
            self.priority = self._tracking.priority.effective
            self._derive()
            return NOTHING
        actions: list[Action] = []
        if self.state is VrrpState.MASTER:
            self._derive()
            self._announcements.resume(now)
            if self._interval != old_interval:
                self._timer = Instant(max(now, min(self._timer, self._advert_at + self._interval)))
            if self.lease_s is not None:
                self._renew(now)
            actions.append(Reconcile(self.lease_s))
        else:
            self._derive()
            if self.state is VrrpState.BACKUP and self._timer != NEVER and not self._delayed:
                self._timer = Instant(max(now, self._timer + self._down - before))
        actions += self._reprioritise(reason, fact.causes, now)
        if renamed or addresses_before != narration.address_texts(self.instance):
            actions.append(self._publish_state(self.state, fact.causes))
        if self.state is VrrpState.INIT:
            return [*actions, *self._begin(reason, fact.causes, now)]
        if joins:
            actions.append(TellGroup(self._standing(), reason, fact.causes))
        return self._faults_changed(was_own, reason, fact.causes, now, actions)

    def _standing(self) -> Wish:
        """What a sync group that is joined by a reload must know."""
        if self.state is VrrpState.MASTER:
            return Wish.IS_MASTER
        return Wish.FAULT if self._tracking.own_faults else Wish.READY

    def _stop(self, fact: Stop, now: Instant) -> list[Action]:
        """The end: priority 0 if MASTER, everything gone, then STOP is told. keep leaves the addresses and is silent
        on the wire; deleted by a reload is told as FAULT, or DELETED where notify_deleted is set (keepalived's way)."""
        old = self.state
        actions: list[Action] = []
        kind = ReasonKind.RELOAD if fact.deleted else ReasonKind.STOPPED
        self.reason = self._say(kind, {"priority": self.priority, "deleted": fact.deleted})
        if old is VrrpState.MASTER and not fact.keep:
            actions += [SendAdvert(0), LetGo()]
            self.statistics.pri_zero_sent += 1
            self.statistics.release_master += 1
        self._leave_master()
        self.since = now
        told = VrrpState.STOP
        if fact.deleted:
            told = VrrpState.DELETED if self.instance.notify.notify_deleted else VrrpState.FAULT
        self.state = told
        self._timer = NEVER
        self._usual = None
        actions.append(self._publish_state(old, fact.causes))
        self.state = VrrpState.STOP
        if actions and isinstance(actions[0], SendAdvert):
            actions.append(Log(f"({self.instance.name}) sent 0 priority", detail=True))
        return actions
