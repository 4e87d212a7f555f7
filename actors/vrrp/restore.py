"""What the former life of this cell says about its instances: `Restored` facts from retained events and the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.actors.runtime.machine import US, Duration, Instant
from holdfast.actors.vrrp.facts import Fact, Restored
from holdfast.actors.vrrp.messages import VrrpMasterSeen, VrrpState, VrrpStateChanged
from holdfast.bus.envelope import Envelope

if TYPE_CHECKING:
    from holdfast.actors.vrrp.instance import VrrpActor
    from holdfast.actors.vrrp.room import Room

_LIVED = (VrrpState.BACKUP, VrrpState.MASTER, VrrpState.FAULT)


def restored_facts(room: Room, actors: list[VrrpActor]) -> dict[str, Fact]:
    """By instance name; an instance that was never anything is not in it and starts anew.

    A MASTER goes on as MASTER only if its addresses are still on the interface: an expired lease has taken them away.
    """
    states: dict[str, tuple[Envelope, VrrpStateChanged]] = {}
    masters: dict[str, VrrpMasterSeen] = {}
    for envelope in room.ctx.restored:
        match envelope.event:
            case VrrpStateChanged() as event:
                states[event.instance] = (envelope, event)
            case VrrpMasterSeen() as heard:
                masters[heard.instance] = heard
    facts: dict[str, Fact] = {}
    for actor in actors:
        found = states.get(actor.instance.name)
        if found is None or found[1].state not in _LIVED:
            continue
        envelope, event = found
        seen = masters.get(event.instance)
        facts[event.instance] = Restored(
            state=event.state,
            since=Instant(event.since_mono_ns),
            reason=event.reason,
            priority=event.priority,
            silent_since=_silent_since(room, actor, event),
            released=event.released,
            master=None if seen is None else seen.address,
            master_priority=0 if seen is None else seen.priority,
            master_interval=None if seen is None else Duration(seen.interval_us * US),
            causes=(envelope.id,),
        )
    return facts


def _silent_since(room: Room, actor: VrrpActor, event: VrrpStateChanged) -> Instant | None:
    """The last advert of which the former life left a stamp. What the supervisor saw is later: a process that stood
    still for long before it died was silent all the time."""
    if event.state is not VrrpState.MASTER or actor.takeover.missing():
        return None
    stamp = room.engine.stamps.left(actor.instance.name)
    return room.died_at() if stamp is None else Instant(stamp)
