"""The whole behaviour of one virtual router: keepalived's semantics over RFC 9568 and RFC 3768 section 6.

    INIT ----Start, trackers have run----> BACKUP <--better advert-- MASTER
      |                                    |   |  ----silence-------->  |
      +---fault--> FAULT <-----fault-------+   +-----------fault--------+--> FAULT;  any --Stop--> STOP

Facts are in `facts.py`, actions in `actions.py`; faults and weights are weighed in `trackers.py`, the instants of
announcements in `announcements.py`, what is put back in `holdings.py`. A takeover sends its advert first, then takes
the addresses, announces them, and is told last; leaving lets everything go before it is told.

Beyond keepalived, because an address should move only when it must and never have two owners: a MASTER that did not run
for so long that a backup has taken over (`Stalled`, or `now` says so) is BACKUP before it sends anything; a restored
MASTER goes on; what somebody removes is put back; addresses are leased.
"""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.actors.runtime.machine import MS, US, Action, Deadline, Duration, Fact, Instant
from holdfast.actors.vrrp import narration
from holdfast.actors.vrrp.actions import (
    Announce,
    AnnounceSource,
    LetGo,
    Log,
    Publish,
    Reconcile,
    RefreshLease,
    Restore,
    SendAdvert,
    TakeOver,
    TellGroup,
    Wish,
)
from holdfast.actors.vrrp.announcements import NEVER, AnnouncementSchedule
from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.actors.vrrp.facts import (
    AddressFailed,
    AdvertReceived,
    AdvertRejected,
    FaultCleared,
    FaultRaised,
    GroupAnnounce,
    GroupOrder,
    Holding,
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
from holdfast.actors.vrrp.holdings import Restorer
from holdfast.actors.vrrp.messages import VrrpLowerPriorityHeard, VrrpMasterSeen, VrrpPriorityChanged, VrrpState
from holdfast.actors.vrrp.options import MachineOptions, MissingPolicy
from holdfast.actors.vrrp.packet import Reject, packed
from holdfast.actors.vrrp.priority import OWNER
from holdfast.actors.vrrp.statistics import Statistics
from holdfast.actors.vrrp.timing import (
    STRONGEST_BACKUP,
    first_wait,
    lease_seconds,
    master_down_interval,
    skew_time,
    takeover_limit,
)
from holdfast.actors.vrrp.trackers import Causes, Tracking, TrackingFact
from holdfast.bus.messages import Reason, ReasonKind

NOTHING: list[Action] = []
"""What a step without consequences returns: shared, not to be changed."""
_REFRESH_PERIOD = Duration(900 * MS)
"""Leases are refreshed with adverts once a second; adverts of one second may come a little early."""
_ANSWER_PAUSE = Duration(100 * MS)
_AT_ONCE = 1 * US
_TROUBLES_TOLD = 16
_HOLDINGS = {kind.value: kind for kind in Holding}

Evidence = dict[str, int | float | str | bool | None]


class VrrpMachine:
    """One virtual router. Not shared between threads.

    state: INIT until `Start` and until every unweighted script, file and process has reported; STOP at the end.
    deadline: when `step(Deadline(), now)` is wanted. priority: effective, 0..255. The lists that `step` returns are
    shared: they must not be changed, nor kept beyond the next step.
    """

    __slots__ = (
        "_advert_actions",
        "_advert_at",
        "_announcements",
        "_answer_pause",
        "_best_backup",
        "_delayed",
        "_down",
        "_heard_at",
        "_interval",
        "_lease_at",
        "_lease_lost_at",
        "_leased_advert_actions",
        "_limit",
        "_lower",
        "_lower_since",
        "_master_interval",
        "_preempt_at",
        "_rare",
        "_refused",
        "_resigned",
        "_restorer",
        "_source_value",
        "_started",
        "_timer",
        "_told",
        "_tracking",
        "_usual",
        "_waits_since",
        "_wishing",
        "deadline",
        "instance",
        "lease_s",
        "master",
        "master_priority",
        "options",
        "priority",
        "reason",
        "released",
        "since",
        "source",
        "state",
        "statistics",
    )

    def __init__(self, instance: VrrpInstance, options: MachineOptions) -> None:
        self.instance = instance
        self.options = options
        self.state = VrrpState.INIT
        self.since = Instant(0)
        self.reason: Reason | None = None
        self.released = False
        self.deadline: Instant | None = None
        self.statistics = Statistics()
        self.source: str | None = None
        self.master: str | None = None
        self.master_priority = 0
        self.lease_s: int | None = None
        self._tracking = Tracking(instance, options)
        self.priority = self._tracking.priority.effective
        self._announcements = AnnouncementSchedule(instance.garp)
        self._restorer = Restorer()
        self._source_value = 0
        self._started = False
        self._delayed = False
        self._wishing = False
        self._timer = NEVER
        self._rare = NEVER
        self._advert_at = Instant(0)
        self._lease_at = Instant(0)
        self._lease_lost_at = NEVER
        self._waits_since = Instant(0)
        self._heard_at: Instant | None = None
        self._resigned: Instant | None = None
        self._preempt_at: Instant | None = None
        self._lower: AdvertReceived | None = None
        self._lower_since = Instant(0)
        self._usual: AdvertReceived | None = None
        self._refused: tuple[AdvertRejected, Instant] | None = None
        self._told: set[tuple[str, str]] = set()
        self._best_backup = 0
        self._interval = Duration(instance.advert_interval_us * US)
        self._master_interval = self._interval
        self._derive()

    # ---- what the shell and `status` look at

    @property
    def interfaces(self) -> tuple[str, ...]:
        """The interfaces whose `LinkChanged` it wants; known before `Start`, new after `Reconfigured`."""
        return self._tracking.interfaces

    @property
    def faults(self) -> dict[str, Reason]:
        """What keeps it in FAULT, by name."""
        return {key: reason for key, (reason, _) in self._tracking.faults.items()}

    @property
    def pending(self) -> frozenset[str]:
        """The trackers it waits for in INIT."""
        return frozenset(self._tracking.pending)

    @property
    def contributions(self) -> dict[str, int]:
        """Who adds how much to the base priority."""
        return self._tracking.priority.parts

    @property
    def master_interval(self) -> Duration:
        """The advert interval of the master we hear, ours until we have heard one."""
        return self._master_interval

    @property
    def last_advert(self) -> Instant | None:
        """When we last sent an advert as MASTER, else when we last accepted one."""
        return self._advert_at if self.state is VrrpState.MASTER else self._heard_at

    @property
    def takeover_limit(self) -> Duration:
        """Our own silence after which the best backup we know of is MASTER."""
        return self._limit

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
                self._advert_at = now
                self.deadline = timer if timer < self._rare else self._rare
                self.statistics.advert_sent += 1
                if now < self._lease_at:
                    return self._advert_actions
                self._renew(now)
                return self._leased_advert_actions
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

    def _initial_wait(self) -> Duration:
        if self.instance.priority == OWNER:
            return Duration(_AT_ONCE)
        if self.instance.wants_master and self.options.quick_start:
            return first_wait(self.instance.version, self._interval)
        return self._down

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
        if fact.state is VrrpState.BACKUP or alive:
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

    # ---- time

    def _deadline(self, now: Instant) -> list[Action]:
        if self.state is VrrpState.MASTER:
            if self._silent_too_long(now):
                return self._yield_stalled(now)
            actions: list[Action] = []
            if self._timer <= now:
                self._timer = Instant(now + self._interval)
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
        limit = Duration(self._timer - self._waits_since)
        return narration.timeout_reason(
            self.options.node,
            self.instance,
            narration.Silence(
                now=now,
                waited=Duration(now - self._waits_since),
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

    # ---- adverts

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
        if now - self._lower_since < 0 or self._lower is None or self._lower.source != fact.source:
            self._lower_since = now
        if not self._may_answer(now):
            self._lower = fact
            return NOTHING
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
        if self._heard_at is not None and now - self._heard_at > 3 * self._interval:
            self._lower_since = now
        elif lasts > 2 * self._interval:
            # It has had two of our adverts and still thinks it is MASTER: it does not hear us.
            evidence["lasts_s"] = narration.seconds_of(lasts)
            actions += self._trouble(self._say(ReasonKind.ONE_WAY_LOSS, evidence))
        self._lower = fact
        self._heard_at = now
        return actions

    def _heard_myself(self, fact: AdvertReceived) -> list[Action]:
        text = "WARNING - equal priority advert received from remote host with our IP address."
        evidence: Evidence = {"source": fact.source, "priority": fact.priority, "vrid": self.instance.vrid}
        trouble = self._trouble(self._say(ReasonKind.DUPLICATE_VRID, evidence))
        return [*trouble, Log(f"({self.instance.name}) {text}")] if trouble else NOTHING

    def _heard_higher(self, fact: AdvertReceived, now: Instant) -> list[Action]:
        """Somebody better is MASTER: we give way, nopreempt or not."""
        first: list[Action] = []
        if self.instance.higher_prio_send_advert and self._may_answer(now):
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

    def _advert_rejected(self, fact: AdvertRejected, now: Instant) -> list[Action]:
        """Counted, remembered for the reason of what may follow, told once. Timers are never touched: a stream of
        wrong packets must not move the adverts of a MASTER."""
        self.statistics.reject(fact.reject)
        if fact.reject in (Reject.VRID, Reject.OWNER):
            return NOTHING
        self._refused = (fact, now)
        return self._trouble(narration.refused_reason(self.options.node, self.instance, fact), subject=fact.source)

    def _may_answer(self, now: Instant) -> bool:
        """Answers are kept apart by a tenth of an interval, or a storm of adverts would be answered by another."""
        return now - self._advert_at >= self._answer_pause

    def _note(self, priority: int) -> None:
        """Remembers the best router that could be our backup; the lease follows from it."""
        if self._best_backup < priority < OWNER:
            self._best_backup = priority
            self._derive()

    def _count(self, fact: AdvertReceived) -> None:
        self.statistics.advert_rcvd += 1
        if fact.address_mismatch:
            self.statistics.addr_list_err += 1

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
                return [*actions, *self._leave_fault(reason, causes, now)]
            if self.options.group is not None and own != was_own:
                return [*actions, TellGroup(Wish.FAULT if own else Wish.WELL, reason, causes)]
        return actions or NOTHING

    def _reprioritise(self, reason: Reason, causes: Causes, now: Instant) -> list[Action]:
        """The new value goes out with the next periodic advert; a backup's running timer shifts by what its wait
        changed."""
        old, new = self.priority, self._tracking.priority.effective
        if old == new:
            return []
        before = self._down
        self.priority = new
        self._derive()
        if self.state is VrrpState.BACKUP and self._timer != NEVER and not self._delayed:
            self._timer = Instant(max(now, self._timer + self._down - before))
        changed = VrrpPriorityChanged(
            instance=self.instance.name,
            state=self.state,
            base=self.instance.priority,
            effective=new,
            old=old,
            reason=reason,
        )
        text = f"({self.instance.name}) Changing effective priority from {old} to {new}"
        return [Publish("priority", changed, causes), Log(text)]

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
            return self._to_backup(fact.reason, fact.causes, now, self._down)
        self._wishing = False
        return NOTHING

    def _group_announce(self, now: Instant) -> list[Action]:
        if self.state is not VrrpState.MASTER:
            return NOTHING
        rounds = self._announcements.lower_priority(now)
        return [Announce(rounds)] if rounds else NOTHING

    # ---- transitions

    def _to_master(self, reason: Reason, causes: Causes, now: Instant) -> list[Action]:
        old = self.state
        self.state = VrrpState.MASTER
        self.since, self.reason = now, reason
        self.master, self.master_priority = self.source, self.priority
        self.statistics.become_master += 1
        self._forget_waiting()
        actions: list[Action] = [self._send(self.priority, now)]
        self._timer = Instant(now + self._interval)
        if self.lease_s is not None:
            self._renew(now)
        actions.append(TakeOver(self.lease_s))
        rounds = self._announcements.begin(now)
        if rounds:
            actions.append(Announce(rounds))
        actions.append(self._publish_state(old, causes))
        name = self.instance.name
        if old is VrrpState.BACKUP:
            actions.append(Log(f"({name}) Receive advertisement timeout", detail=True))
        actions.append(Log(f"({name}) Entering MASTER STATE"))
        return actions

    def _to_backup(
        self, reason: Reason, causes: Causes, now: Instant, wait: Duration, first: Sequence[Action] = ()
    ) -> list[Action]:
        """first: what leaves before anything else, as long as we are MASTER. The last action is the log line."""
        old = self.state
        actions: list[Action] = list(first)
        if old is VrrpState.MASTER:
            actions.append(LetGo())
            self.statistics.release_master += 1
            if self.master == self.source:
                self.master, self.master_priority = None, 0
        self._leave_master()
        self.state = VrrpState.BACKUP
        self.since, self.reason = now, reason
        self._forget_waiting()
        self._wait(now, wait)
        actions.append(self._publish_state(old, causes))
        if old is VrrpState.MASTER and self.options.group is not None:
            actions.append(TellGroup(Wish.BACKUP, reason, causes))
        actions.append(Log(f"({self.instance.name}) Entering BACKUP STATE"))
        return actions

    def _to_fault(self, reason: Reason, causes: Causes, now: Instant) -> list[Action]:
        old = self.state
        actions: list[Action] = []
        if old is VrrpState.MASTER:
            # keepalived resigns twice, from the change of state and from the release, and counts it once.
            resign = SendAdvert(0)
            actions += [resign, resign, LetGo()]
            self.statistics.pri_zero_sent += 1
            self.statistics.release_master += 1
        self._leave_master()
        self.state = VrrpState.FAULT
        self.since, self.reason = now, reason
        self.master, self.master_priority = None, 0
        self._forget_waiting()
        self._timer = NEVER
        actions.append(self._publish_state(old, causes))
        if self.options.group is not None and self._tracking.own_faults:
            actions.append(TellGroup(Wish.FAULT, reason, causes))
        name = self.instance.name
        if old is VrrpState.INIT:
            actions.append(Log(f"({name}) Entering FAULT STATE (init)"))
        else:
            actions.append(Log(f"({name}) Entering FAULT STATE"))
        return actions

    def _leave_fault(self, reason: Reason, causes: Causes, now: Instant) -> list[Action]:
        """An owner is MASTER again at once, others wait a full master-down time; what was learnt is forgotten."""
        self._master_interval = self._interval
        self._derive()
        first: list[Action] = []
        if self.instance.unicast:
            first.append(AnnounceSource())
        if self.instance.priority == OWNER and self.options.group is None and not self.released:
            return [*first, *self._to_master(reason, causes, now)]
        return self._to_backup(reason, causes, now, self._initial_wait() if self._owner() else self._down, first)

    def _owner(self) -> bool:
        return self.instance.priority == OWNER

    def _leave_master(self) -> None:
        self._announcements.stop()
        self._restorer.stop()
        self._lease_lost_at = NEVER

    def _forget_waiting(self) -> None:
        """What belonged to the state that ends."""
        self._usual = None
        self._preempt_at = None
        self._lower = None
        self._resigned = None
        self._wishing = False
        self._delayed = False if self.state is not VrrpState.BACKUP else self._delayed
        self._heard_at = None
        self._told.clear()

    def _wait(self, now: Instant, wait: Duration) -> bool:
        """Sets the master-down timer; a released instance has none. Returns whether it waits."""
        self._waits_since = now
        self._timer = NEVER if self.released else Instant(now + wait)
        return not self.released

    # ---- stalls and leases

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
        text = f"{what} again and again: put back once a second" if loss.fight else f"{what}: put back"
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
        return self._faults_changed(was_own, reason, fact.causes, now, actions)

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

    # ---- small things

    def _derive(self) -> None:
        """Everything that follows from configuration, priority and what was learnt, computed once."""
        instance = self.instance
        adverts = instance.down_timer_adverts
        self._down = master_down_interval(instance.version, self.priority, self._master_interval, adverts)
        best = instance.timer_expired_backup or self._best_backup or STRONGEST_BACKUP
        self._limit = takeover_limit(instance.version, best, self._interval, adverts)
        self._answer_pause = Duration(min(_ANSWER_PAUSE, self._interval // 10))
        self.lease_s = lease_seconds(self.options, self._limit)
        advert = SendAdvert(self.priority)
        self._advert_actions: list[Action] = [advert]
        self._leased_advert_actions: list[Action] = [advert]
        if self.lease_s is not None:
            self._leased_advert_actions.append(RefreshLease(self.lease_s))
            self._lease_at = Instant(min(self._lease_at, NEVER - 1))
        else:
            self._lease_at = NEVER
            self._lease_lost_at = NEVER

    def _settle(self) -> None:
        timer = self._timer
        if self.state is VrrpState.MASTER:
            self._rare = min(self._announcements.deadline, self._restorer.deadline)
            timer = min(timer, self._rare)
        self.deadline = None if timer == NEVER else timer

    def _skew(self) -> Duration:
        return skew_time(self.instance.version, self.priority, self._master_interval)

    def _send(self, priority: int, now: Instant) -> SendAdvert:
        self._advert_at = now
        self.statistics.advert_sent += 1
        return SendAdvert(priority)

    def _send_and_refresh(self, now: Instant) -> list[Action]:
        actions: list[Action] = [self._send(self.priority, now)]
        if self.lease_s is not None and now >= self._lease_at:
            self._renew(now)
            actions.append(RefreshLease(self.lease_s))
        return actions

    def _renew(self, now: Instant) -> None:
        """The addresses get their lifetime anew."""
        assert self.lease_s is not None
        self._lease_at = Instant(now + _REFRESH_PERIOD)
        self._lease_lost_at = Instant(now + self.lease_s * 1_000_000_000)

    def _say(self, kind: ReasonKind, evidence: Evidence, subject: str | None = None) -> Reason:
        about = f"vrrp/{self.instance.name}" if subject is None else subject
        return Reason(kind=kind, node=self.options.node, subject=about, evidence=evidence)

    def _publish_state(self, old: VrrpState, causes: Causes) -> Publish:
        assert self.reason is not None
        return Publish("state", narration.state_changed(self, old, self.reason), causes)

    def _trouble(self, reason: Reason, causes: Causes = (), subject: str = "") -> list[Action]:
        """Told once for each kind and subject until the state or the master changes, and not without end."""
        key = (reason.kind.value, subject)
        if key in self._told or len(self._told) >= _TROUBLES_TOLD:
            return NOTHING
        self._told.add(key)
        event = narration.trouble(self.instance.name, self.state, reason)
        return [Publish("trouble", event, causes, retain=False)]
