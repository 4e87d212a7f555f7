"""Helpers for the tests of the BFD machines: short names, packets, two machines on a wire in virtual time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any, TypeVar

from holdfast.actors.bfd.facts import (
    Answer,
    Changed,
    Disabled,
    EchoHeard,
    Enabled,
    PacketHeard,
    Reconfigured,
    SessionConfig,
    Transmit,
    TransmitEcho,
    jittered,
)
from holdfast.actors.bfd.machine import BfdMachine
from holdfast.actors.bfd.packet import ControlPacket, State, decode
from holdfast.actors.runtime.machine import MS, Action, Deadline, Duration, Fact, Instant, S

PEER = 0x2222
US = 0x1111
Wanted = TypeVar("Wanted", bound=Action)


def at(seconds: float) -> Instant:
    """An instant, a second for a second, an hour after the start of the clock."""
    return Instant(3600 * S + round(seconds * S))


def ms(value: float) -> Duration:
    return Duration(round(value * MS))


def config(tx_ms: float = 50, rx_ms: float = 50, mult: int = 3, **more: Any) -> SessionConfig:
    return SessionConfig(
        desired_min_tx_us=round(tx_ms * 1000), required_min_rx_us=round(rx_ms * 1000), detect_mult=mult, **more
    )


def from_peer(
    state: State, *, yours: int | None = None, tx_ms: float = 50, rx_ms: float = 50, **more: Any
) -> PacketHeard:
    """A packet of the peer. yours: US unless it says Down or AdminDown, then 0."""
    if yours is None:
        yours = US if state > State.DOWN else 0
    fields: dict[str, Any] = {"my_discriminator": PEER, "detect_mult": 3, **more}
    return PacketHeard(
        ControlPacket(
            state=state,
            your_discriminator=yours,
            desired_min_tx_us=round(tx_ms * 1000),
            required_min_rx_us=round(rx_ms * 1000),
            **fields,
        )
    )


def only(actions: list[Action], kind: type[Wanted]) -> Wanted:
    """The one action of this kind."""
    found = [each for each in actions if isinstance(each, kind)]
    assert len(found) == 1, f"{len(found)} {kind.__name__} in {actions}"
    return found[0]


def none_of(actions: list[Action], kind: type[Action]) -> None:
    assert not [each for each in actions if isinstance(each, kind)], actions


def down(settings: SessionConfig | None = None) -> BfdMachine:
    """A session that was started and has heard nothing."""
    machine = BfdMachine(settings or config(), US)
    machine.start(at(0))
    return machine


def sent(machine: BfdMachine) -> ControlPacket:
    """What the machine has being sent periodically now."""
    packet = machine._sent.packet if machine._sent else None
    assert packet is not None
    return packet


def up(settings: SessionConfig | None = None, *, settled: bool = True, **peer: Any) -> BfdMachine:
    """A session that came Up at 1 s. settled: the poll of coming Up is answered and over."""
    machine = down(settings)
    machine.step(from_peer(State.DOWN, **{**peer, "tx_ms": 1000}), at(0.5))
    machine.step(from_peer(State.UP, **peer), at(1))
    assert machine.state is State.UP
    if settled:
        while machine.polling:
            machine.step(from_peer(State.UP, final=True, **peer), at(1))
            machine.step(from_peer(State.UP, **peer), at(1))
    return machine


class End:
    """A machine with its carrier, as engine.py is one, in virtual time."""

    def __init__(self, world: World, name: str, settings: SessionConfig, discriminator: int) -> None:
        self.world = world
        self.name = name
        self.settings = settings
        self.machine = BfdMachine(settings, discriminator)
        self.order: Transmit | None = None
        self.turn = 0
        self.looks_at: Instant | None = None
        self.echo_us = 0
        self.changes: list[tuple[float, Changed]] = []
        self.sent_at: list[tuple[Instant, ControlPacket]] = []
        self.alive = True
        self.paused_until = Instant(0)
        self.waiting: list[ControlPacket] = []

    def start(self) -> None:
        self.do(self.machine.start(self.world.now))

    def tell(self, fact: Fact) -> None:
        self.do(self.machine.step(fact, self.world.now))

    def do(self, actions: list[Action]) -> None:
        world = self.world
        for action in actions:
            if isinstance(action, Transmit):
                slower = self.order is None or action.interval_us != self.order.interval_us
                self.order = action
                if action.at_once:
                    self.send(action.packet)
                if slower or action.at_once:
                    self.schedule()
            elif isinstance(action, Answer):
                self.send(action.packet)
            elif isinstance(action, Changed):
                self.changes.append((world.seconds, action))
            elif isinstance(action, TransmitEcho):
                self.echo_us = action.interval_us
        self.look()

    def look(self) -> None:
        deadline = self.machine.deadline
        if deadline is not None and (self.looks_at is None or deadline < self.looks_at):
            self.looks_at = deadline
            self.world.at(deadline, lambda: self.deadline(deadline))

    def deadline(self, wanted: Instant) -> None:
        if not self.alive or self.looks_at != wanted:
            return
        self.looks_at = None
        if self.world.now < self.paused_until:
            self.looks_at = until = self.paused_until
            self.world.at(until, lambda: self.deadline(until))
            return
        self.drain()
        self.do(self.machine.step(Deadline(), self.world.now))

    def schedule(self) -> None:
        self.turn += 1
        order = self.order
        if order is None or order.packet is None:
            return
        gap = jittered(order.interval_us, self.machine.config.detect_mult, self.world.random.random())
        self.world.at(Instant(self.world.now + gap), lambda turn=self.turn: self.periodic(turn))

    def periodic(self, turn: int) -> None:
        if turn != self.turn or not self.alive or self.order is None:
            return
        if self.world.now < self.paused_until:
            self.world.at(self.paused_until, lambda: self.periodic(turn))
            return
        self.send(self.order.packet)
        self.schedule()

    def send(self, packet: ControlPacket | None) -> None:
        if packet is None or not self.alive:
            return
        self.sent_at.append((self.world.now, packet))
        self.world.carry(self, packet)

    def receive(self, packet: ControlPacket) -> None:
        if not self.alive:
            return
        if self.world.now < self.paused_until:
            self.waiting.append(packet)
            self.world.at(self.paused_until, self.drain)
            return
        yours = packet.your_discriminator
        if yours and yours != self.machine.local_discriminator:
            return
        self.do(self.machine.step(PacketHeard(packet), self.world.now))

    def drain(self) -> None:
        waiting, self.waiting = self.waiting, []
        for packet in waiting:
            self.receive(packet)

    def restart(self, discriminator: int) -> None:
        """Killed and begun anew, with nothing remembered."""
        self.machine = BfdMachine(self.settings, discriminator)
        self.order = None
        self.turn += 1
        self.waiting.clear()
        self.alive = True
        self.start()


class World:
    """Two ends and the wire between them. Everything in it follows from the seed."""

    def __init__(
        self,
        seed: int,
        left: SessionConfig,
        right: SessionConfig,
        *,
        loss: float = 0.0,
        delay_ms: tuple[float, float] = (0.05, 0.5),
    ) -> None:
        self.random = random.Random(seed)
        self.now = at(0)
        self.loss = loss
        self.delay_ms = delay_ms
        self.cut = False
        self.left = End(self, "left", left, 0x10)
        self.right = End(self, "right", right, 0x20)
        self.ends = (self.left, self.right)
        self.checks: list[Callable[[], None]] = []
        self._queue: list[tuple[Instant, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    @property
    def seconds(self) -> float:
        return (self.now - at(0)) / S

    def at(self, when: Instant, call: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._numbers), call))

    def carry(self, sender: End, packet: ControlPacket) -> None:
        """Through the wire form, with loss and delay."""
        if self.cut or self.random.random() < self.loss:
            return
        receiver = self.right if sender is self.left else self.left
        arrived, _ = decode(packet.encode())
        delay = ms(self.random.uniform(*self.delay_ms))
        self.at(Instant(self.now + delay), lambda: receiver.receive(arrived))

    def start(self) -> World:
        for end in self.ends:
            end.start()
        return self

    def run(self, seconds: float) -> World:
        """Virtual seconds; `checks` are looked at after each happening."""
        end = Instant(self.now + round(seconds * S))
        while self._queue and self._queue[0][0] <= end:
            self.now, _, call = heapq.heappop(self._queue)
            call()
            for check in self.checks:
                check()
        self.now = end
        return self

    @property
    def states(self) -> tuple[State, State]:
        return self.left.machine.state, self.right.machine.state


__all__ = [
    "PEER",
    "US",
    "Answer",
    "Disabled",
    "EchoHeard",
    "Enabled",
    "End",
    "Reconfigured",
    "World",
    "at",
    "config",
    "down",
    "from_peer",
    "ms",
    "none_of",
    "only",
    "sent",
    "up",
]
