"""One other node of a fleet: whether it lives, its clock, and the way for commands to it.

The face is that of `Peer` (peer.py), which calls its node itself; here both stand on the same connection to NATS.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from holdfast.actors.gateway.clock import ClockEstimate
from holdfast.actors.gateway.machine import Answered, Ask, PeerMachine, Tell
from holdfast.actors.gateway.messages import PeerState, PeerStatus
from holdfast.actors.gateway.peer import failed
from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant, seconds
from holdfast.bus.codec import BadFrame
from holdfast.bus.messages import Reason, ReasonKind
from holdfast.bus.source import request_id
from holdfast.bus.wire import Answer, Request
from holdfast.config.settings import PeerSettings
from holdfast.kernel.timers import DeadlineHeap, monotonic

if TYPE_CHECKING:
    from holdfast.actors.gateway.fleet import Fleet

PING_EVERY = seconds(30.0)
"""For the clocks; whether a node lives its own beats tell."""
SILENT = seconds(3.0)
HEARS_US = seconds(75.0)
PING_S = 5.0


class FleetPeer:
    """One node that was heard on NATS."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timers: DeadlineHeap,
        fleet: Fleet,
        name: str,
        tell: Callable[[PeerState], None],
    ) -> None:
        self.name = name
        self.settings = PeerSettings(name=name, key="")
        self.clock = ClockEstimate()
        self.told: PeerState | None = None
        self._loop = loop
        self._timers = timers
        self._fleet = fleet
        self._tell = tell
        self._tasks: set[asyncio.Task[None]] = set()
        self.machine = PeerMachine(monotonic(), PING_EVERY, SILENT, HEARS_US)
        self._carry_out([Tell(PeerStatus.CONNECTING, PeerStatus.CONNECTING, False, None)])
        self._step(Deadline())

    def heard(self) -> None:
        """It lives."""
        self._step(Answered())

    def asked(self) -> None:
        """Nothing follows from it: whoever is on NATS is heard by all."""

    def _deadline(self, _now: Instant) -> None:
        self._step(Deadline())

    def _step(self, fact: Fact) -> None:
        self._carry_out(self.machine.step(fact, monotonic()))
        self._timers.set(("peer", self.name), self.machine.deadline, self._deadline)

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Ask():
                    if self.machine.state is PeerStatus.REACHABLE:
                        self._spawn(self._ping())
                case Tell():
                    self._say(action)

    def _say(self, action: Tell) -> None:
        if action.state is PeerStatus.UNREACHABLE:
            self.clock.forget()
        elif action.state is PeerStatus.REACHABLE and action.old is not PeerStatus.REACHABLE:
            self._spawn(self._ping())
        reason = None
        if action.evidence is not None:
            reason = Reason(
                kind=ReasonKind.PEER_UNREACHABLE,
                node=self._fleet.node,
                subject=f"node/{self.name}",
                evidence={**action.evidence, "endpoint": "nats"},
            )
        best = self.clock.best
        self.told = PeerState(
            peer=self.name,
            role="",
            endpoint="nats",
            old=action.old,
            state=action.state,
            hears_us=action.state is PeerStatus.REACHABLE,
            clock_offset_s=None if best is None else round(best.offset_ns / 1e9, 6),
            clock_error_s=None if best is None else round(best.error_ns / 1e9, 6),
            round_trip_s=None if best is None else round(best.round_trip_ns / 1e9, 6),
            missed=self._fleet.missed,
            reason=reason,
        )
        self._tell(self.told)

    async def _ping(self) -> None:
        first = self.clock.best is None
        wall_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        try:
            request = Request(id=request_id(), op="ping", node=self._fleet.node, cell="gateway")
            answer = await self._fleet.ask(self.name, request, PING_S)
        except (TimeoutError, ConnectionError, BadFrame):
            return
        self.clock.add(wall_ns, time.monotonic_ns() - mono_ns, answer.wall_ns)
        if first and self.machine.state is PeerStatus.REACHABLE:
            self._say(Tell(PeerStatus.REACHABLE, PeerStatus.REACHABLE, True, None))

    def forward(self, request: Request, timeout_s: float) -> asyncio.Future[Answer]:
        """As Peer.forward."""
        draft = msgspec.structs.replace(request, id=request_id(), to="", node=self._fleet.node, role="")
        return self._loop.create_task(self._forward(draft, timeout_s))

    async def _forward(self, draft: Request, timeout_s: float) -> Answer:
        if self.machine.state is PeerStatus.UNREACHABLE:
            return failed(draft, "peer-unreachable", f"node {self.name} cannot be reached")
        try:
            answer = await self._fleet.ask(self.name, draft, timeout_s)
        except TimeoutError:
            return failed(draft, "peer-unreachable", f"node {self.name} did not answer in time")
        except ConnectionError as error:
            return failed(draft, "peer-unreachable", f"node {self.name}: {error}")
        except BadFrame as error:
            return failed(draft, "failed", str(error))
        return answer if answer.op in ("reply", "unserved") else failed(draft, "failed", answer.text)

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Ends it."""
        self._timers.set(("peer", self.name), None, self._deadline)
        for task in self._tasks:
            task.cancel()
