"""What stands behind two owners of one address, or none: in words, and as a reason. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.actors.gateway.messages import Holder, OwnersStatus
from holdfast.actors.runtime.machine import Instant
from holdfast.actors.vrrp.messages import VrrpStateChanged
from holdfast.bus.messages import Evidence, Reason, ReasonKind

_TELLING = (
    ReasonKind.AUTH_MISMATCH,
    ReasonKind.ADVERT_MISMATCH,
    ReasonKind.DUPLICATE_VRID,
    ReasonKind.ONE_WAY_LOSS,
)
"""Troubles that explain two owners, the most telling first."""


class Listening:
    """What one instance hears. address: its own, once it was MASTER; master: of the master it hears or
    heard last; heard: when from which address.
    """

    __slots__ = ("address", "heard", "master", "troubles")

    def __init__(self) -> None:
        self.address = ""
        self.master = ""
        self.heard: dict[str, Instant] = {}
        self.troubles: dict[ReasonKind, Reason] = {}

    def trouble(self, reason: Reason, now: Instant) -> None:
        """It said that something is wrong."""
        if reason.kind in _TELLING:
            self.troubles[reason.kind] = reason


Part = tuple[Holder, VrrpStateChanged, Listening]


def compare(node: str, address: str, status: OwnersStatus, parts: Sequence[Part]) -> tuple[tuple[str, ...], Reason]:
    """What differs, for people, and the reason. node: who says so. parts: the nodes that can be reached."""
    if status is OwnersStatus.NONE:
        return _none(node, address, parts)
    owners = [part for part in parts if part[0].state == "MASTER"]
    lines = _configuration(owners) + _hearing(owners)
    for kind in _TELLING:
        for holder, _, listening in owners:
            found = listening.troubles.get(kind)
            if found is not None:
                lines.append(f"{holder.node}: {_evidence(found)}")
    return tuple(dict.fromkeys(lines)), _two(node, address, owners)


def _two(node: str, address: str, owners: Sequence[Part]) -> Reason:
    for kind in _TELLING:
        for _, _, listening in owners:
            found = listening.troubles.get(kind)
            if found is not None:
                return found
    subject = f"virtual-address/{address}"
    vrids = {f"vrid_{holder.node}": holder.vrid for holder, _, _ in owners}
    if len(set(vrids.values())) > 1:
        return Reason(kind=ReasonKind.ADVERT_MISMATCH, node=node, subject=subject, evidence={**vrids})
    evidence: Evidence = {f"{holder.node}_hears": ",".join(holder.hears) or None for holder, _, _ in owners}
    hearing = [bool(holder.hears) for holder, _, _ in owners]
    kind = ReasonKind.ONE_WAY_LOSS if any(hearing) and not all(hearing) else ReasonKind.PEER_SILENT
    return Reason(kind=kind, node=node, subject=subject, evidence=evidence)


def _configuration(owners: Sequence[Part]) -> list[str]:
    lines = []
    vrids = {holder.node: holder.vrid for holder, _, _ in owners}
    if len(set(vrids.values())) > 1:
        lines.append("VRID: " + ", ".join(f"{name} {vrid}" for name, vrid in vrids.items()))
    sets = {holder.node: frozenset(event.addresses) for holder, event, _ in owners}
    common = frozenset.intersection(*sets.values()) if sets else frozenset()
    for name, addresses in sets.items():
        if addresses - common:
            lines.append(f"only {name} has {', '.join(sorted(addresses - common))}")
    priorities = {holder.node: holder.priority for holder, _, _ in owners}
    if len(priorities) > 1 and len(set(priorities.values())) == 1:
        lines.append(f"priority: {next(iter(priorities.values()))} on all of them")
    return lines


def _hearing(owners: Sequence[Part]) -> list[str]:
    lines = []
    for holder, _, _ in owners:
        for other, _, _ in owners:
            if other.node != holder.node:
                verb = "hears" if other.node in holder.hears else "does not hear"
                lines.append(f"{holder.node} {verb} {other.node}")
    return lines


def _none(node: str, address: str, parts: Sequence[Part]) -> tuple[tuple[str, ...], Reason]:
    """Who could own it, and why he does not: whoever had it last tells it best."""
    lines = [
        f"{holder.node}: {holder.state} ({event.reason.kind.value} {event.reason.subject})"
        for holder, event, _ in parts
    ]
    ranked = sorted(parts, key=lambda part: (str(part[1].old) != "MASTER", part[0].state != "FAULT", part[0].node))
    if ranked:
        return tuple(lines), ranked[0][1].reason
    # Every node that has the address is away.
    return (), Reason(kind=ReasonKind.PEER_UNREACHABLE, node=node, subject=f"virtual-address/{address}")


def _evidence(reason: Reason) -> str:
    shown = ", ".join(f"{key} {value}" for key, value in reason.evidence.items() if value is not None)
    return f"{reason.kind.value} ({shown})" if shown else reason.kind.value
