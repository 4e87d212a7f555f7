"""Which instances a sync group has: known ones, each in one group only (keepalived.conf(5), "vrrp_sync_group")."""

from __future__ import annotations

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
