"""One instance as it stands, for `holdfast status`, the dump and the statistics file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.actors.vrrp.messages import Contribution, InstanceDescription, VrrpState
from holdfast.actors.vrrp.narration import address_texts
from holdfast.actors.vrrp.takeover import subject_of_address

if TYPE_CHECKING:
    from holdfast.actors.vrrp.instance import VrrpActor


def describe(actor: VrrpActor) -> InstanceDescription:
    """Everything about one instance, the kernel's view of its addresses included."""
    machine, instance = actor.machine, actor.instance
    missing = set(actor.takeover.missing())
    everything = {subject_of_address(spec, instance.interface) for spec in actor.takeover.addresses}
    master = machine.state is VrrpState.MASTER
    faults = {
        key: Contribution(subject=reason.subject, fault=True, evidence=reason.evidence)
        for key, reason in machine.faults.items()
    }
    weights = [Contribution(subject=key, value=value) for key, value in machine.contributions.items()]
    return InstanceDescription(
        name=instance.name,
        state=machine.state,
        vrid=instance.vrid,
        version=instance.version,
        family=instance.family,
        interface=instance.interface,
        base=instance.priority,
        effective=machine.priority,
        advert_interval_us=instance.advert_interval_us,
        addresses=address_texts(instance),
        tracked=(*faults.values(), *weights),
        waiting=tuple(sorted(machine.pending)),
        missing=tuple(sorted(missing)) if master else (),
        extra=() if master else tuple(sorted(everything - missing)),
        lease_s=machine.lease_s if master else None,
        source=machine.source,
        master=machine.master,
        master_priority=machine.master_priority,
        group=machine.options.group,
        released=machine.released,
        statistics={name: getattr(machine.statistics, name) for name in machine.statistics.__struct_fields__},
    )


def statistics_text(actor: VrrpActor) -> str:
    """The block of one instance in keepalived's statistics file."""
    count = actor.machine.statistics
    return (
        f"VRRP Instance: {actor.instance.name}\n"
        f"  Advertisements:\n    Received: {count.advert_rcvd}\n    Sent: {count.advert_sent}\n"
        f"  Became master: {count.become_master}\n  Released master: {count.release_master}\n"
        f"  Packet Errors:\n    Length: {count.packet_len_err}\n    TTL: {count.ip_ttl_err}\n"
        f"    Invalid Type: {count.invalid_type_rcvd}\n    Advertisement Interval: {count.advert_interval_err}\n"
        f"    Address List: {count.addr_list_err}\n"
        f"  Authentication Errors:\n    Invalid Type: {count.invalid_authtype}\n"
        f"    Type Mismatch: {count.authtype_mismatch}\n    Failure: {count.auth_failure}\n"
        f"  Priority Zero:\n    Received: {count.pri_zero_rcvd}\n    Sent: {count.pri_zero_sent}\n"
    )


def dump_text(actor: VrrpActor) -> str:
    """The block of one instance in the dump."""
    found = describe(actor)
    lines = [f" VRRP Instance = {found.name}"]
    for name in found.__struct_fields__:
        if name not in ("name", "statistics", "tracked"):
            lines.append(f"   {name.replace('_', ' ').capitalize()} = {getattr(found, name)}")
    for item in found.tracked:
        lines.append(f"   Tracked {item.subject} = {'FAULT' if item.fault else format(item.value, '+d')}")
    return "\n".join(lines) + "\n"
