"""Which instances can be together: members of sync groups, and VRIDs on an interface (keepalived.conf(5))."""

from __future__ import annotations

from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.config.context import Context
from holdfast.config.table import Draft


class GroupPlan:
    """A sync group with the members it keeps."""

    def __init__(self, draft: Draft, members: tuple[str, ...]) -> None:
        self.draft = draft
        self.name = draft.name
        self.members = members
        self.keeps_weights = bool(draft.get("tracking_weight"))


def plan_groups(context: Context) -> list[GroupPlan]:
    """All groups, also those left without a member; complains of members that are unknown or already taken."""
    instances = context.named("vrrp_instance")
    taken: dict[str, str] = {}
    plans: list[GroupPlan] = []
    for draft in context.named("vrrp_sync_group").values():
        members: list[str] = []
        listed = draft.get("members", [])
        for name, line in listed:
            if name not in instances:
                text = f"{draft.name}: there is no vrrp_instance '{name}': ignored"
                context.error(line, text, f"vrrp_instance {name} {{ ... }}")
            elif name in taken:
                text = f"{draft.name}: '{name}' is in sync group '{taken[name]}' already: ignored"
                context.error(line, text, "one group for each instance")
            else:
                taken[name] = draft.name
                members.append(name)
        if not members:
            context.error(draft.line, f"sync group '{draft.name}' has no member: dropped", "group { INSTANCE ... }")
        elif len(members) == 1:
            text = f"sync group '{draft.name}' has only one member, '{members[0]}'"
            context.error(draft.line, text, "two or more")
        plans.append(GroupPlan(draft, tuple(members)))
    return plans


class VridRegister:
    """Finds VRIDs that are used twice on an interface, in a family and mode."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._multicast: dict[tuple[object, ...], str] = {}
        self._peers: dict[tuple[object, ...], list[tuple[str | None, str]]] = {}

    def accept(self, instance: VrrpInstance, draft: Draft) -> bool:
        """Whether the instance can be used beside those before it."""
        key = (instance.vrid, instance.family, instance.interface)
        if not instance.unicast:
            other = self._multicast.setdefault((*key, instance.mcast_group), instance.name)
            if other == instance.name:
                return True
            self._complain(draft, instance, other, "dropped")
            return False
        # Unicast instances may share a VRID when they have no peer in common, or different sources.
        for peer in instance.peers:
            others = self._peers.setdefault((*key, peer.address), [])
            for source, other in others:
                if other != instance.name and (instance.source is None or source in (None, instance.source)):
                    self._complain(draft, instance, other, f"with peer {peer.address}")
                    break
            others.append((instance.source, instance.name))
        return True

    def _complain(self, draft: Draft, instance: VrrpInstance, other: str, what: str) -> None:
        both = f"'{other}' and '{instance.name}' both use VRID {instance.vrid}"
        text = f"{both} with IPv{instance.family} on {instance.interface}: {what}"
        self._context.error(draft.line_of("vrid"), text, "another virtual_router_id", 1)
