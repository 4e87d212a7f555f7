"""What a virtual router tells of itself: events and the evidence in reasons. Counterpart: `core.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from holdfast.actors.runtime.machine import Duration, Instant, S
from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.actors.vrrp.facts import AdvertReceived, AdvertRejected
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged, VrrpTrouble
from holdfast.actors.vrrp.packet import Reject
from holdfast.bus.messages import Evidence, Reason, ReasonKind

if TYPE_CHECKING:
    from holdfast.actors.vrrp.core import VrrpCore

_AUTHENTICATION = (Reject.AUTH_TYPE, Reject.AUTH_MISMATCH, Reject.AUTH_FAILURE)


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """Why a master-down timer ran out: what was heard, how long ago, against which limit."""

    now: Instant
    waited: Duration
    limit: Duration
    priority: int
    interval: Duration
    master: str | None
    master_priority: int
    heard_at: Instant | None
    resigned_at: Instant | None
    lower: AdvertReceived | None
    refused: tuple[AdvertRejected, Instant] | None


def seconds_of(duration: Duration) -> float:
    """For evidence: seconds, to the microsecond."""
    return round(duration / S, 6)


def address_texts(instance: VrrpInstance) -> tuple[str, ...]:
    """The virtual addresses, excluded ones too, as `ADDRESS/PREFIX`."""
    return tuple(f"{spec.address}/{spec.prefix}" for spec in (*instance.addresses, *instance.excluded_addresses))


def state_changed(machine: VrrpCore, old: VrrpState, reason: Reason) -> VrrpStateChanged:
    """The event of a transition, from what the machine is now. old equal to the state: told again, nothing moved."""
    instance = machine.instance
    return VrrpStateChanged(
        instance=instance.name,
        old=old,
        state=machine.state,
        priority=machine.priority,
        since_mono_ns=machine.since,
        reason=reason,
        vrid=instance.vrid,
        family=instance.family,
        interface=instance.interface,
        addresses=address_texts(instance),
        master=machine.master,
        group=machine.options.group,
        released=machine.released,
    )


def trouble(name: str, state: VrrpState, reason: Reason) -> VrrpTrouble:
    """The event of something that moved nothing."""
    return VrrpTrouble(instance=name, state=state, reason=reason)


def refused_reason(node: str, instance: VrrpInstance, fact: AdvertRejected) -> Reason:
    """An advert that does not count, as a reason."""
    kind = ReasonKind.AUTH_MISMATCH if fact.reject in _AUTHENTICATION else ReasonKind.ADVERT_MISMATCH
    evidence: Evidence = {"refused": fact.reject.name.lower(), "source": fact.source, **fact.evidence}
    return Reason(kind=kind, node=node, subject=f"vrrp/{instance.name}", evidence=evidence)


def timeout_reason(node: str, instance: VrrpInstance, silence: Silence) -> Reason:
    """Why a backup takes over: the master resigned, is worse than we are, cannot be understood, or is silent."""
    evidence: Evidence = {
        "priority": silence.priority,
        "interval_s": seconds_of(silence.interval),
        "limit_s": seconds_of(silence.limit),
        "waited_s": seconds_of(silence.waited),
        "master": silence.master,
        "master_priority": silence.master_priority if silence.master else None,
    }
    kind = ReasonKind.PEER_SILENT
    if silence.resigned_at is not None:
        kind = ReasonKind.PEER_RESIGNED
        evidence["resigned_s_ago"] = seconds_of(Duration(silence.now - silence.resigned_at))
    elif silence.lower is not None:
        kind = ReasonKind.PEER_LOWER_PRIORITY
        evidence["master"] = silence.lower.source
        evidence["master_priority"] = silence.lower.priority
    elif silence.refused is not None and silence.now - silence.refused[1] <= silence.waited:
        refused, at = silence.refused
        kind = ReasonKind.AUTH_MISMATCH if refused.reject in _AUTHENTICATION else ReasonKind.ADVERT_MISMATCH
        evidence["refused"] = refused.reject.name.lower()
        evidence["refused_from"] = refused.source
        evidence["refused_s_ago"] = seconds_of(Duration(silence.now - at))
    if silence.heard_at is not None:
        evidence["last_advert_s_ago"] = seconds_of(Duration(silence.now - silence.heard_at))
    return Reason(kind=kind, node=node, subject=f"vrrp/{instance.name}", evidence=evidence)
