"""What an event of any node means for the owners of virtual addresses. Pure."""

from __future__ import annotations

from holdfast.actors.gateway.owners import Gone, Heard, Told, Troubled
from holdfast.actors.runtime.machine import US, Duration, Fact
from holdfast.actors.vrrp.messages import VrrpLowerPriorityHeard, VrrpMasterSeen, VrrpStateChanged, VrrpTrouble
from holdfast.bus import topics
from holdfast.bus.envelope import Envelope

_LATELY = Duration(10_000_000_000)
"""Older events of the moment (a gateway that starts reads some) say nothing about now."""
_TELLING = (VrrpStateChanged, VrrpMasterSeen, VrrpLowerPriorityHeard, VrrpTrouble)


def facts_of(envelope: Envelope, age: Duration) -> list[Fact]:
    """The facts in an event. age: how long ago it was sent."""
    if not envelope.gone and not isinstance(envelope.event, _TELLING):
        return []
    node, subject, aspect = topics.split(envelope.topic)
    if envelope.gone:
        if subject.startswith("vrrp/") and aspect == "state":
            return [Gone(node, subject.partition("/")[2])]
        return []
    match envelope.event:
        case VrrpStateChanged() as event:
            lasts = Duration(age + max(0, envelope.mono_ns - event.since_mono_ns))
            return [Told(node, event, lasts)]
        case VrrpMasterSeen() as seen:
            return [Heard(node, seen.instance, seen.address, Duration(seen.interval_us * US))]
        case VrrpLowerPriorityHeard() as heard if age < _LATELY:
            return [Heard(node, heard.instance, heard.source)]
        case VrrpTrouble() as trouble if age < _LATELY:
            return [Troubled(node, trouble.instance, trouble.reason)]
    return []
