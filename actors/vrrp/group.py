"""A sync group: instances that are MASTER together or not at all (keepalived.conf(5), vrrp_sync_group).

Pure coordination: members say what they wish (`TellGroup` of their machines, as `MemberWish`), the group answers with
what each must do (`Tell`, a fact for that member's machine). It has no timer: the members' own timers drive it.
"""

from __future__ import annotations

import msgspec

from holdfast.actors.runtime.machine import Action, Fact, Instant
from holdfast.actors.vrrp.actions import Log, Publish, Wish
from holdfast.actors.vrrp.facts import GroupAnnounce, GroupOrder
from holdfast.actors.vrrp.messages import VrrpGroupChanged, VrrpState
from holdfast.bus.messages import EventId, Evidence, Reason, ReasonKind

Causes = tuple[EventId, ...]


class MemberWish(Fact, frozen=True):
    """What `member` told by `TellGroup`."""

    member: str
    wish: Wish
    reason: Reason
    causes: Causes = ()


class GroupReconfigured(Fact, frozen=True):
    """A reload: the members are these now. Members that are new tell READY or FAULT when they start; a renamed one has
    its old name in `renamed` (new name: old name)."""

    members: tuple[str, ...]
    renamed: dict[str, str] = msgspec.field(default_factory=dict)
    causes: Causes = ()


class GroupStop(Fact, frozen=True):
    """The end; told after the members have stopped."""

    causes: Causes = ()


class Tell(Action, frozen=True):
    """Step `member`'s machine with `fact`, at once; the tells of one list in their order."""

    member: str
    fact: GroupOrder | GroupAnnounce


class GroupMachine:
    """One sync group. state: INIT until every member has started, then what all members are."""

    __slots__ = ("_faulty", "_masters", "_ready", "_wants", "members", "name", "node", "reason", "since", "state")

    def __init__(self, name: str, members: tuple[str, ...], node: str = "") -> None:
        self.name = name
        self.members = members
        self.node = node
        self.state = VrrpState.INIT
        self.since = Instant(0)
        self.reason: Reason | None = None
        self._ready: set[str] = set()
        self._masters: set[str] = set()
        self._faulty: set[str] = set()
        self._wants: dict[str, tuple[Reason, Causes]] = {}

    def step(self, fact: Fact, now: Instant) -> list[Action]:
        """Takes one fact and returns what the members must do, in order, and what is told."""
        match fact:
            case MemberWish():
                return self._wish(fact, now) if fact.member in self.members else []
            case GroupReconfigured():
                return self._reconfigure(fact, now)
            case GroupStop():
                reason = self._say(ReasonKind.STOPPED, {"members": len(self.members)})
                return self._become(VrrpState.STOP, reason, fact.causes, now)
        raise AssertionError(f"no fact of a sync group: {fact!r}")

    def _wish(self, fact: MemberWish, now: Instant) -> list[Action]:
        member = fact.member
        match fact.wish:
            case Wish.READY:
                self._ready.add(member)
                if self.state is VrrpState.INIT:
                    return self._begin(fact, now)
                return self._join(fact)
            case Wish.IS_MASTER:
                self._ready.add(member)
                self._masters.add(member)
                if self.state is VrrpState.INIT:
                    return self._begin(fact, now)
                return [] if self.state is VrrpState.MASTER else self._join(fact)
            case Wish.MASTER:
                self._wants[member] = (fact.reason, fact.causes)
                return self._elect(fact, now)
            case Wish.BACKUP:
                self._wants.pop(member, None)
                self._masters.discard(member)
                if self.state is VrrpState.INIT:
                    # Restored too late to go on as MASTER.
                    self._ready.add(member)
                    return self._begin(fact, now)
                if self.state is not VrrpState.MASTER:
                    return []
                return self._order_others(VrrpState.BACKUP, fact, now)
            case Wish.FAULT:
                self._faulty.add(member)
                self._ready.add(member)
                if self.state is VrrpState.INIT:
                    return self._begin(fact, now)
                if self.state is VrrpState.FAULT:
                    return []
                return self._order_fault(fact, now)
            case Wish.WELL:
                self._faulty.discard(member)
                if self.state is VrrpState.INIT:
                    return self._begin(fact, now)
                return self._leave_fault(fact, now)
            case Wish.LOWER_PRIORITY_HEARD:
                return [Tell(other, GroupAnnounce(self.name)) for other in self.members if other != member]

    def _begin(self, fact: MemberWish, now: Instant) -> list[Action]:
        """All members have started: the group begins as FAULT if one is faulty, as MASTER if all were restored as that,
        else as BACKUP."""
        if not self._ready.issuperset(self.members):
            return []
        if self._faulty:
            return self._order_fault(fact, now)
        if self._masters.issuperset(self.members):
            return self._become(VrrpState.MASTER, fact.reason, fact.causes, now)
        reason = self._say(ReasonKind.STARTED, {"members": len(self.members)})
        orders = self._tell_all(VrrpState.BACKUP, fact.reason, fact.causes)
        self._masters.clear()
        return [*orders, *self._become(VrrpState.BACKUP, reason, fact.causes, now)]

    def _join(self, fact: MemberWish) -> list[Action]:
        """A member that comes later (a reload, one restored alone) begins as what the group is, but not as MASTER."""
        if self.state is VrrpState.FAULT:
            reason = self._member_reason(fact)
            return [Tell(fact.member, GroupOrder(self.name, VrrpState.FAULT, reason, causes=fact.causes))]
        return [Tell(fact.member, GroupOrder(self.name, VrrpState.BACKUP, fact.reason, causes=fact.causes))]

    def _elect(self, fact: MemberWish, now: Instant) -> list[Action]:
        """MASTER needs every member's wish; until then the one that asks waits another round (its machine does)."""
        if self.state is VrrpState.MASTER:
            # A member that joined a MASTER group has nobody to wait for.
            self._masters.add(fact.member)
            return [Tell(fact.member, GroupOrder(self.name, VrrpState.MASTER, fact.reason, causes=fact.causes))]
        if self.state is not VrrpState.BACKUP or not self._wants.keys() >= set(self.members):
            return []
        orders: list[Action] = []
        # The one whose timer ran out last has the shortest way to its own reason; all have their own.
        for member in sorted(self.members, key=lambda name: name != fact.member):
            reason, causes = self._wants[member]
            orders.append(Tell(member, GroupOrder(self.name, VrrpState.MASTER, reason, causes=causes)))
        self._masters = set(self.members)
        self._wants.clear()
        return [*orders, *self._become(VrrpState.MASTER, fact.reason, fact.causes, now)]

    def _order_others(self, state: VrrpState, fact: MemberWish, now: Instant) -> list[Action]:
        reason = self._member_reason(fact)
        # keepalived's members leave without a word; for a release the others' peers need not wait for silence.
        resign = fact.reason.kind is ReasonKind.OPERATOR_RELEASE
        orders: list[Action] = [
            Tell(other, GroupOrder(self.name, state, reason, causes=fact.causes, resign=resign))
            for other in self.members
            if other != fact.member
        ]
        self._masters.clear()
        self._wants.clear()
        return [*orders, *self._become(state, reason, fact.causes, now)]

    def _order_fault(self, fact: MemberWish, now: Instant) -> list[Action]:
        """Every member, the faulty one too, has the group's fault until all are well."""
        self._wants.clear()
        self._masters.clear()
        reason = self._member_reason(fact)
        orders = self._tell_all(VrrpState.FAULT, reason, fact.causes)
        return [*orders, *self._become(VrrpState.FAULT, reason, fact.causes, now)]

    def _leave_fault(self, fact: MemberWish, now: Instant) -> list[Action]:
        if self.state is not VrrpState.FAULT or self._faulty:
            return []
        reason = self._member_reason(fact)
        orders: list[Action] = []
        for member in self.members:
            why = fact.reason if member == fact.member else reason
            order = GroupOrder(self.name, VrrpState.FAULT, why, cleared=True, causes=fact.causes)
            orders.append(Tell(member, order))
        return [*orders, *self._become(VrrpState.BACKUP, reason, fact.causes, now)]

    def _reconfigure(self, fact: GroupReconfigured, now: Instant) -> list[Action]:
        for new, old in fact.renamed.items():
            for names in (self._ready, self._masters, self._faulty):
                if old in names:
                    names.discard(old)
                    names.add(new)
            if old in self._wants:
                self._wants[new] = self._wants.pop(old)
        kept = set(fact.members)
        self.members = fact.members
        self._ready &= kept
        self._masters &= kept
        was_faulty = bool(self._faulty)
        self._faulty &= kept
        self._wants = {member: wish for member, wish in self._wants.items() if member in kept}
        if self.state is VrrpState.FAULT and was_faulty and not self._faulty and self.members:
            # The faulty member left the group.
            reason = self._say(ReasonKind.RELOAD, {"members": len(self.members)})
            wish = MemberWish(self.members[0], Wish.WELL, reason, fact.causes)
            return self._leave_fault(wish, now)
        return []

    def _tell_all(self, state: VrrpState, reason: Reason, causes: Causes) -> list[Action]:
        return [Tell(member, GroupOrder(self.name, state, reason, causes=causes)) for member in self.members]

    def _member_reason(self, fact: MemberWish) -> Reason:
        evidence: Evidence = {"group": self.name, "member": fact.member, "because": fact.reason.kind.value}
        evidence.update({key: value for key, value in fact.reason.evidence.items() if key not in evidence})
        return self._say(ReasonKind.SYNC_GROUP, evidence)

    def _say(self, kind: ReasonKind, evidence: Evidence) -> Reason:
        return Reason(kind=kind, node=self.node, subject=f"vrrp-group/{self.name}", evidence=evidence)

    def _become(self, state: VrrpState, reason: Reason, causes: Causes, now: Instant) -> list[Action]:
        old, self.state = self.state, state
        if old is state:
            return []
        self.since, self.reason = now, reason
        event = VrrpGroupChanged(group=self.name, old=old, state=state, reason=reason, members=self.members)
        actions: list[Action] = [Publish("state", event, causes)]
        if state is not VrrpState.STOP and old is not VrrpState.INIT:
            actions.append(Log(f"VRRP_Group({self.name}) Syncing instances to {state.value} state"))
        return actions
