"""One other node: its events come in, commands go out, its clock and its absence are noticed.

The rules of whether it can be reached are in machine.py, those of its clock in clock.py; how its stream is followed
exactly is the bus's business (bus/source.py, bus/view.py), over tcp as within a node.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

import msgspec
import zmq

from holdfast.actors.gateway.clock import ClockEstimate
from holdfast.actors.gateway.machine import Answered, Ask, Asked, PeerMachine, Tell, pace
from holdfast.actors.gateway.messages import PeerState, PeerStatus, Refusal
from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant
from holdfast.bus import topics
from holdfast.bus.codec import Forgotten, UnknownEvent, encode, tag_of
from holdfast.bus.counters import Counters
from holdfast.bus.envelope import Envelope, Frame
from holdfast.bus.keys import KeyPair
from holdfast.bus.messages import Failed, Reason, ReasonKind
from holdfast.bus.source import Source, request_id
from holdfast.bus.tcp import ANSWER_S, client, command_endpoint
from holdfast.bus.view import View
from holdfast.bus.wire import Answer, Request
from holdfast.config.settings import PeerSettings
from holdfast.kernel.timers import DeadlineHeap, monotonic

log = logging.getLogger(__name__)

FIGURES_EVERY_S = 60.0
FIRST_FIGURES_S = 3.0
RENEW_S = 12.0
RENEW_LAST_S = 60.0
"""A node that is not reached for so long is called with new sockets, which a gateway that refused us needs; each time
after a longer while, since where everybody starts at once new sockets make it worse."""
FORGOTTEN = "bus.forgotten"


class Carried(Envelope, frozen=True):
    """An event on its way through: its body is not read here. frame: as it came."""

    frame: Frame | None = None


def carried(topic: str, frame: Frame) -> Envelope:
    """The envelope of a frame with its body unread."""
    event = Forgotten() if frame.type == FORGOTTEN else UnknownEvent(name=frame.type, raw=b"")
    name, causes = frame.id, tuple(frame.causes)
    return Carried(topic, name, frame.wall_ns, frame.mono_ns, causes, event, frame.n, retain=frame.retain, frame=frame)


class Peer:
    """One node of [[peers]] that has an endpoint.

    came(envelope): an event of it, a `Carried` or `Forgotten`. tell(event): its state is to be published.
    joined(): everything it retains has come.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        timers: DeadlineHeap,
        counters: Counters,
        node: str,
        settings: PeerSettings,
        pair: KeyPair,
        *,
        came: Callable[[Envelope], None],
        tell: Callable[[PeerState], None],
        joined: Callable[[], None],
        refuse: Callable[[str, Refusal, str, str], None],
        others: int = 1,
    ) -> None:
        """others: how many nodes are called in all."""
        self.settings = settings
        self.name = settings.name
        self.beginning = topics.quote(settings.name) + "/"
        self.clock = ClockEstimate()
        self.told: PeerState | None = None
        self._node = node
        self._loop = loop
        self._timers = timers
        self._came = came
        self._tell = tell
        self._joined = joined
        self._refuse = refuse
        self._was_joined = False
        self._misnamed = False
        self._connected_at = loop.time()
        self._renew_s = RENEW_S
        self._questions: dict[int, tuple[int, int]] = {}
        self._forwards: set[asyncio.Future[Answer]] = set()
        self.machine = PeerMachine(monotonic(), pace(others))
        reader = (node, "gateway")
        self._source = Source(
            loop,
            context,
            f"node {self.name}",
            counters,
            self._changed,
            reader,
            client(pair, settings.key),
            carried,
            ANSWER_S,
        )
        self._view = View(self.beginning, self._event)
        self._source.add(self._view)
        self._source.connect(settings.endpoint, command_endpoint(settings.endpoint))
        self._figures_timer = loop.call_later(FIRST_FIGURES_S, self._figures)
        self._carry_out([Tell(PeerStatus.CONNECTING, PeerStatus.CONNECTING, False, None)])
        self._step(Deadline(), monotonic())

    # --- its events ----------------------------------------------------------------------------------------------

    def _event(self, envelope: Envelope) -> None:
        if isinstance(envelope, Carried) and envelope.id.node != self.name and not envelope.gone:
            self._refuse(self.settings.endpoint, Refusal.FOREIGN, self.name, f"an event of {envelope.id.node}"[:100])
            return
        self._came(envelope)

    def _changed(self) -> None:
        if self._source.joined and not self._was_joined:
            self._was_joined = True
            self._joined()

    # --- whether it can be reached -------------------------------------------------------------------------------

    def asked(self) -> None:
        """It asked us something: it hears us."""
        self._step(Asked(), monotonic())

    def _deadline(self, now: Instant) -> None:
        self._step(Deadline(), monotonic())

    def _step(self, fact: Fact, now: Instant) -> None:
        self._carry_out(self.machine.step(fact, now))
        self._timers.set(("peer", self.name), self.machine.deadline, self._deadline)

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Ask():
                    self._ask()
                case Tell():
                    self._say(action)

    def _ask(self) -> None:
        now = self._loop.time()
        if self.machine.state is PeerStatus.REACHABLE:
            self._connected_at, self._renew_s = now, RENEW_S
        elif now - self._connected_at >= self._renew_s:
            self._connected_at = now
            self._renew_s = min(RENEW_LAST_S, self._renew_s * random.uniform(1.5, 2.0))
            self._source.renew()
        channel = self._source.channel
        if channel is None:
            return
        for number in [each for each, (_, at) in self._questions.items() if time.monotonic_ns() - at > 5_000_000_000]:
            del self._questions[number]
            channel.forget(number)
        request = Request(id=request_id(), op="ping", node=self._node, cell="gateway")
        self._questions[request.id] = (time.time_ns(), time.monotonic_ns())
        channel.ask(request, self._answered, lambda: self._questions.pop(request.id, None) and None)

    def _answered(self, answer: Answer) -> None:
        asked = self._questions.pop(answer.id, None)
        if asked is None:
            return
        if answer.node != self.name and not self._misnamed:
            self._misnamed = True
            log.error("node %s of [[peers]] calls itself %s: none of its events are taken", self.name, answer.node)
            self._refuse(self.settings.endpoint, Refusal.FOREIGN, self.name, f"calls itself {answer.node}"[:100])
        self.clock.add(asked[0], time.monotonic_ns() - asked[1], answer.wall_ns)
        self._step(Answered(), monotonic())

    def _say(self, action: Tell) -> None:
        if action.state is not action.old:
            self.clock_if_away(action.state)
        reason = self.told.reason if self.told is not None and action.state is self.told.state else None
        if action.evidence is not None:
            subject = f"node/{self.name}"
            evidence = {**action.evidence, "endpoint": self.settings.endpoint}
            reason = Reason(kind=ReasonKind.PEER_UNREACHABLE, node=self._node, subject=subject, evidence=evidence)
        self._publish(action.old, action.state, action.hears_us, reason)

    def clock_if_away(self, state: PeerStatus) -> None:
        """A node that was away may come back with another clock."""
        if state is PeerStatus.UNREACHABLE:
            self.clock.forget()

    def _publish(self, old: PeerStatus, state: PeerStatus, hears_us: bool, reason: Reason | None) -> None:
        best = self.clock.best
        self.told = PeerState(
            peer=self.name,
            role=self.settings.role,
            endpoint=self.settings.endpoint,
            old=old,
            state=state,
            hears_us=hears_us,
            clock_offset_s=None if best is None else round(best.offset_ns / 1e9, 6),
            clock_error_s=None if best is None else round(best.error_ns / 1e9, 6),
            round_trip_s=None if best is None else round(best.round_trip_ns / 1e9, 6),
            missed=self._view.missed,
            reason=reason,
        )
        self._tell(self.told)

    def _figures(self) -> None:
        """Newer figures of a node that is there."""
        self._figures_timer = self._loop.call_later(FIGURES_EVERY_S, self._figures)
        if self.machine.state is PeerStatus.REACHABLE:
            self._publish(self.machine.state, self.machine.state, self.machine.hears_us, None)

    # --- commands ------------------------------------------------------------------------------------------------

    def forward(self, request: Request, timeout_s: float) -> asyncio.Future[Answer]:
        """Asks the node; the answer says when it cannot be reached."""
        done: asyncio.Future[Answer] = self._loop.create_future()
        channel = self._source.channel
        draft = msgspec.structs.replace(request, id=request_id(), to="", node=self._node, role="")

        def answered(answer: Answer) -> None:
            if not done.done():
                done.set_result(answer)

        def lost(text: str = "is not connected") -> None:
            if not done.done():
                done.set_result(failed(draft, "peer-unreachable", f"node {self.name} {text}"))

        if channel is None or self.machine.state is not PeerStatus.REACHABLE:
            lost("cannot be reached")
            return done
        channel.ask(draft, answered, lost)
        self._loop.call_later(timeout_s, lost, "did not answer in time")
        done.add_done_callback(lambda _: channel.forget(draft.id))
        return done

    def close(self) -> None:
        """Ends it."""
        self._timers.set(("peer", self.name), None, self._deadline)
        self._figures_timer.cancel()
        self._source.close()


def failed(request: Request, code: str, text: str) -> Answer:
    """A reply that says why there is none."""
    reply = Failed(code=code, message=text)
    return Answer(
        id=request.id, op="reply", node="", cell="", epoch=0, seq=0, type=tag_of(reply), body=msgspec.Raw(encode(reply))
    )
