"""The sync groups of a cell: carries members' wishes to their group's machine and its orders back. Decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.actors.runtime.machine import Action, Instant
from holdfast.actors.vrrp.actions import Log, Publish, TellGroup
from holdfast.actors.vrrp.config import SyncGroup, VrrpInstance
from holdfast.actors.vrrp.group import GroupMachine, GroupReconfigured, GroupStop, MemberWish, Tell

if TYPE_CHECKING:
    from holdfast.actors.vrrp.instance import VrrpActor
    from holdfast.actors.vrrp.room import Room

log = logging.getLogger("holdfast.vrrp")

OWNER_PRIORITY = 255


class Group:
    """One vrrp_sync_group and its machine."""

    __slots__ = ("config", "machine")

    def __init__(self, config: SyncGroup, node: str) -> None:
        self.config = config
        self.machine = GroupMachine(config.name, config.members, node)


class Groups:
    """All groups, by name and by member."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._groups: dict[str, Group] = {}
        self._by_member: dict[str, Group] = {}
        self._instances: dict[str, VrrpInstance] = {}

    def configure(
        self, groups: Sequence[SyncGroup], instances: Sequence[VrrpInstance], renamed: dict[str, str]
    ) -> None:
        """The groups are these now. renamed: new name of an instance -> old name."""
        self._instances = {instance.name: instance for instance in instances}
        now = self._room.kernel.timers.now()
        before, self._groups = self._groups, {}
        for config in groups:
            group = before.pop(config.name, None)
            if group is None:
                group = Group(config, self._room.node)
            elif group.config != config or renamed:
                group.config = config
                mine = {new: old for new, old in renamed.items() if new in config.members}
                self._carry_out(group, group.machine.step(GroupReconfigured(config.members, mine), now), now)
            self._groups[config.name] = group
        for name in before:
            self._room.ctx.bus.forget(f"vrrp-group/{name}", "state")
        self._by_member = {member: group for group in self._groups.values() for member in group.config.members}

    def of(self, instance: str) -> Group | None:
        """The group of an instance."""
        return self._by_member.get(instance)

    def all_owners(self, group: Group) -> bool:
        """Every member is `state MASTER` with priority 255."""
        members = [self._instances[name] for name in group.config.members if name in self._instances]
        return all(member.wants_master and member.priority == OWNER_PRIORITY for member in members)

    def members_with(self, actor: VrrpActor) -> list[VrrpActor]:
        """The actor and the other members of its group."""
        group = self.of(actor.instance.name)
        if group is None:
            return [actor]
        return [self._room.actors[name] for name in group.config.members if name in self._room.actors]

    def wish(self, actor: VrrpActor, told: TellGroup, now: Instant) -> None:
        """A member told its group something."""
        group = self.of(actor.instance.name)
        if group is not None:
            wish = MemberWish(actor.instance.name, told.wish, told.reason, told.causes)
            self._carry_out(group, group.machine.step(wish, now), now)

    def stop(self) -> None:
        """The end, after all members have stopped."""
        now = self._room.kernel.timers.now()
        for group in self._groups.values():
            self._carry_out(group, group.machine.step(GroupStop(), now), now)

    def _carry_out(self, group: Group, orders: list[Action], now: Instant) -> None:
        for order in orders:
            match order:
                case Tell(member=member, fact=fact):
                    actor = self._room.find(member)
                    if actor is not None:
                        actor.take(fact, now)
                case Publish():
                    self._publish(group.config.name, order)
                case Log():
                    self._log(order.text)

    def _log(self, text: str) -> None:
        self._room.engine.afterwards(lambda: log.info("%s", text))

    def _publish(self, name: str, order: Publish) -> None:
        room = self._room
        room.engine.afterwards(
            lambda: room.publish(f"vrrp-group/{name}", order.aspect, order.event, order.causes, order.retain)
        )
