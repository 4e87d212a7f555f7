"""What the VRRP tests say in few words: instances, adverts, and actions as short lines."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
from play import Play

from holdfast.actors.runtime.machine import Action, Duration, S
from holdfast.actors.vrrp import actions as act
from holdfast.actors.vrrp.config import AddressSpec, VrrpInstance
from holdfast.actors.vrrp.facts import AdvertReceived, LinkChanged, SourceChanged, Start
from holdfast.actors.vrrp.machine import VrrpMachine
from holdfast.actors.vrrp.messages import (
    VrrpGroupChanged,
    VrrpLowerPriorityHeard,
    VrrpMasterSeen,
    VrrpPriorityChanged,
    VrrpStateChanged,
    VrrpTrouble,
)
from holdfast.actors.vrrp.options import LeaseMode, MachineOptions
from holdfast.bus.messages import EventId, Reason, ReasonKind

OURS = "192.0.2.5"
HIGHER = "192.0.2.9"
LOWER = "192.0.2.1"
VIP = "10.0.0.1"
PLAIN = MachineOptions(node="lb1", lease=LeaseMode.OFF)
LEASED = MachineOptions(node="lb1", lease=LeaseMode.AUTO)
CAUSE = EventId("lb1", "protocol", 1, 7)


def instance(**fields: Any) -> VrrpInstance:
    """VI_1 on eth0: v3, priority 100, one address, adverts each second."""
    usual: dict[str, Any] = {
        "name": "VI_1",
        "interface": "eth0",
        "vrid": 51,
        "version": 3,
        "addresses": (AddressSpec(address=VIP, prefix=24),),
    }
    return VrrpInstance(**{**usual, **fields})


def advert(priority: int, source: str = LOWER, interval_s: float | None = 1.0, **fields: Any) -> AdvertReceived:
    """An advert as `validate` would hand it in."""
    interval = None if interval_s is None else Duration(round(interval_s * S))
    return AdvertReceived(source, int(ipaddress.ip_address(source)), priority, interval, **fields)


def reason(kind: ReasonKind = ReasonKind.LINK_DOWN, **evidence: Any) -> Reason:
    """A reason for facts that carry one."""
    return Reason(kind=kind, node="lb1", subject="link/eth0", evidence=evidence)


def tell(action: Action) -> str | None:
    """An action in few words; log lines are left out."""
    match action:
        case act.SendAdvert(priority=priority):
            return f"advert {priority}"
        case act.TakeOver(valid_lft_s=lease):
            return "take over" if lease is None else f"take over for {lease} s"
        case act.LetGo(forced=forced):
            return "let go of leftovers" if forced else "let go"
        case act.RefreshLease(valid_lft_s=lease):
            return f"refresh for {lease} s"
        case act.Announce(repeat=repeat):
            return f"announce x{repeat}"
        case act.AnnounceSource():
            return "announce source"
        case act.Reconcile():
            return "reconcile"
        case act.Restore(kind=kind, subjects=subjects):
            return f"restore {kind.value} {' '.join(subjects)}"
        case act.TellGroup(wish=wish):
            return f"tell group {wish.value}"
        case act.Publish(event=event):
            return tell_event(event)
        case act.Log():
            return None
    return repr(action)


def tell_event(event: object) -> str:
    """An event in few words."""
    match event:
        case VrrpStateChanged(old=old, state=state) if old is state:
            return f"still {state.value}: {event.reason.kind.value}"
        case VrrpStateChanged(state=state):
            return f"{state.value}: {event.reason.kind.value}"
        case VrrpPriorityChanged(effective=effective):
            return f"priority {effective}: {event.reason.kind.value}"
        case VrrpMasterSeen(address=address, priority=priority):
            return f"master {address} {priority}"
        case VrrpLowerPriorityHeard(source=source):
            return f"heard lower {source}"
        case VrrpTrouble():
            return f"trouble: {event.reason.kind.value}"
        case VrrpGroupChanged(state=state):
            return f"group {state.value}: {event.reason.kind.value}"
    return repr(event)


def logs(play: Play[VrrpMachine]) -> list[str]:
    """The log lines of the last step."""
    return [action.text for action in play.last if isinstance(action, act.Log)]


def evidence(play: Play[VrrpMachine]) -> dict[str, Any]:
    """The evidence of the last step's transition, priority change or trouble."""
    for action in play.last:
        if isinstance(action, act.Publish) and hasattr(action.event, "reason"):
            return dict(action.event.reason.evidence)
    raise AssertionError("the last step told no reason")


def fresh(options: MachineOptions = PLAIN, **fields: Any) -> Play[VrrpMachine]:
    """An instance whose links and source address are known, not yet started."""
    play: Play[VrrpMachine] = Play(VrrpMachine(instance(**fields), options), tell)
    for name in play.machine.interfaces:
        play.at(0, LinkChanged(name, up=True))
    source = OURS if fields.get("family", 4) == 4 else "fe80::5"
    play.at(0, SourceChanged(source))
    return play


def backup(options: MachineOptions = PLAIN, **fields: Any) -> Play[VrrpMachine]:
    """A started BACKUP at instant 0."""
    play = fresh(options, **fields)
    told = play.at(0, Start())
    assert told == ["let go of leftovers", "BACKUP: started"], told
    return play


def master(options: MachineOptions = PLAIN, *, heard: int = 0, **fields: Any) -> Play[VrrpMachine]:
    """A MASTER, at the instant it became one; clock goes on from there. heard: a priority it heard before."""
    play = backup(options, **fields)
    if heard:
        play.at(0, advert(heard))
    while play.machine.state != "MASTER":
        assert play.due is not None
        play.until(play.due)
    return play


def changed(play: Play[VrrpMachine], options: MachineOptions | None = None, **fields: Any) -> Any:
    """A `Reconfigured` fact that differs from the present configuration in `fields`."""
    from holdfast.actors.vrrp.facts import Reconfigured

    new = msgspec.structs.replace(play.machine.instance, **fields)
    return Reconfigured(new, options or play.machine.options)
