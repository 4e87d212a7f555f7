"""A takeover rehearsed on a machine that is thrown away: the interpreter specialises code only after it has run.

A takeover is rare, and its first run took twice as long as its tenth. The machine is pure, so nobody notices.
"""

from __future__ import annotations

from holdfast.actors.runtime.machine import Deadline, Instant, S
from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.actors.vrrp.facts import AdvertReceived, LinkChanged, SourceChanged, Start
from holdfast.actors.vrrp.machine import VrrpMachine
from holdfast.actors.vrrp.options import MachineOptions

ROUNDS = 12
_LONG = 1000


def rehearse(instance: VrrpInstance, rounds: int = ROUNDS) -> int:
    """Runs `rounds` takeovers of an instance like this one. Returns how many orders they made."""
    orders = 0
    for number in range(rounds):
        machine = VrrpMachine(instance, MachineOptions(node="rehearsal"))
        now = Instant(number * _LONG * S)
        for name in machine.interfaces:
            machine.step(LinkChanged(name, True), now)
        machine.step(SourceChanged(instance.source or "192.0.2.1"), now)
        machine.step(Start(), now)
        advert = AdvertReceived("192.0.2.2", 0xC0000202, 254)
        for _ in range(3):
            machine.step(advert, now)
        orders += len(machine.step(Deadline(), machine.deadline or now))
    return orders
