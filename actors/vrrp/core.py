"""What a virtual router is and how it changes its state: the ground that `machine.py` stands on.

Here are its fields, everything that follows from them, and the four transitions with the order of their actions. Who
decides on a transition is elsewhere: `election.py` by adverts and time, `endurance.py` by stalls and losses,
`machine.py` by everything else.
"""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.actors.runtime.machine import MS, US, Action, Duration, Instant, S
from holdfast.actors.vrrp import narration
from holdfast.actors.vrrp.actions import (
    Announce,
    AnnounceSource,
    LetGo,
    Log,
    Publish,
    RefreshLease,
    SendAdvert,
    TakeOver,
    TellGroup,
    Wish,
)
from holdfast.actors.vrrp.announcements import NEVER, AnnouncementSchedule
from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.actors.vrrp.facts import AdvertReceived, AdvertRejected
from holdfast.actors.vrrp.holdings import Restorer
from holdfast.actors.vrrp.messages import VrrpPriorityChanged, VrrpState
from holdfast.actors.vrrp.options import MachineOptions
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
from holdfast.actors.vrrp.trackers import Causes, Tracking
from holdfast.bus.messages import Evidence, Reason, ReasonKind

NOTHING: list[Action] = []
"""What a step without consequences returns: shared, not to be changed."""
_REFRESH_PERIOD = Duration(900 * MS)
"""Leases are refreshed with adverts once a second; adverts of one second may come a little early."""
_ANSWER_PAUSE = Duration(100 * MS)
_AT_ONCE = 1 * US
_TROUBLES_TOLD = 16


class VrrpCore:
    """The fields of one virtual router and its transitions.

    state: INIT until `Start` and until every unweighted script, file and process has reported; STOP at the end.
    deadline: when `step(Deadline(), now)` is wanted. priority: effective, 0..255. advert_actions,
    leased_advert_actions: the very lists that a MASTER's periodic adverts return, the second when its lease is renewed.
    """

    __slots__ = (
        "_advert_at",
        "_advert_before",
        "_announcements",
        "_answer_pause",
        "_answered_at",
        "_best_backup",
        "_delayed",
        "_down",
        "_heard_at",
        "_interval",
        "_lease_at",
        "_lease_lost_at",
        "_limit",
        "_lower",
        "_lower_since",
        "_lower_told_at",
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
        "advert_actions",
        "deadline",
        "instance",
        "lease_s",
        "leased_advert_actions",
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
        self._advert_before = Instant(0)
        self._answered_at = Instant(-S)
        self._lease_at = Instant(0)
        self._lease_lost_at = NEVER
        self._waits_since = Instant(0)
        self._heard_at: Instant | None = None
        self._resigned: Instant | None = None
        self._preempt_at: Instant | None = None
        self._lower: AdvertReceived | None = None
        self._lower_since = Instant(0)
        self._lower_told_at = Instant(-S)
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

    # ---- transitions

    def _to_master(self, reason: Reason, causes: Causes, now: Instant) -> list[Action]:
        old = self.state
        self.state = VrrpState.MASTER
        self.since, self.reason = now, reason
        self.master, self.master_priority = self.source, self.priority
        self.statistics.become_master += 1
        self._forget_waiting()
        self._advert_at = now  # The time of our silence begins here, even if this advert should not leave.
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
        wait = self._initial_wait() if self.instance.priority == OWNER else self._down
        return self._to_backup(reason, causes, now, wait, first)

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

    def _initial_wait(self) -> Duration:
        """Members of a sync group begin as what the group can be: MASTER only if all of them are owners."""
        if self.options.group is not None and not self.options.group_owner:
            return self._down
        if self.instance.priority == OWNER:
            return Duration(_AT_ONCE)
        if self.instance.wants_master and self.options.quick_start:
            return first_wait(self.instance.version, self._interval)
        return self._down

    # ---- what follows from the fields

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
        self.advert_actions: list[Action] = [advert]
        self.leased_advert_actions: list[Action] = [advert]
        if self.lease_s is not None:
            self.leased_advert_actions.append(RefreshLease(self.lease_s))
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

    def _reprioritise(self, reason: Reason, causes: Causes, now: Instant) -> list[Action]:
        """The new value goes out with the next periodic advert; a backup's running timer shifts by what its wait
        changed."""
        old, new = self.priority, self._tracking.priority.effective
        if old == new:
            return []
        self._usual = None
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

    # ---- what is sent and told

    def _send(self, priority: int, now: Instant) -> SendAdvert:
        self._advert_before = self._advert_at
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
