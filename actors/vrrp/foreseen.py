"""A fault foreseen: a BFD session that an instance tracks is about to end, and there are two milliseconds to get ready.

What is to be done then is done beforehand with a machine that is thrown away, as `rehearsal.py` does it for takeovers,
and the advert of priority 0 is made. Nothing is decided and nothing is sent.
"""

from __future__ import annotations

from holdfast.actors.runtime.machine import Deadline, Instant, S
from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.actors.vrrp.facts import LinkChanged, SourceChanged, Start, TrackerKind, TrackerReported
from holdfast.actors.vrrp.machine import VrrpMachine
from holdfast.actors.vrrp.options import MachineOptions
from holdfast.bus.messages import Evidence


def tracks(instance: VrrpInstance, options: MachineOptions, session: str) -> bool:
    """Whether the end of a BFD session concerns the instance."""
    return any(each.name == session for each in (*instance.tracks.bfd, *options.group_tracks.bfd))


def rehearse_fault(instance: VrrpInstance, options: MachineOptions, session: str) -> int:
    """The loss of a session, for a MASTER like this one. Returns how many orders it made."""
    machine = VrrpMachine(instance, options)
    now = Instant(0)
    for name in machine.interfaces:
        machine.step(LinkChanged(name, True), now)
    machine.step(SourceChanged(instance.source or "192.0.2.1"), now)
    for each in (*instance.tracks.bfd, *options.group_tracks.bfd):
        machine.step(TrackerReported(TrackerKind.BFD, each.name, up=bool(each.weight) or not each.reverse), now)
    machine.step(Start(), now)
    machine.step(Deadline(), machine.deadline or now)
    evidence: Evidence = {}
    loss = TrackerReported(TrackerKind.BFD, session, up=False, evidence=evidence)
    return len(machine.step(loss, Instant(now + S)))
