"""The gateway: what connects this node with others and with clients over the network.

Inwards it is a cell like any other, and publishes the other nodes' events under their own names: whoever follows
`node="*"` in this node gets them. Outwards it has a door (door.py) and a `Peer` for each node it calls.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import msgspec
import zmq

from holdfast.actors.gateway.access import AccessList, RefusalLog, Told
from holdfast.actors.gateway.door import Door, Stream
from holdfast.actors.gateway.facts import facts_of
from holdfast.actors.gateway.fleetpeer import FleetPeer
from holdfast.actors.gateway.fleetside import FleetSide, of_fleet
from holdfast.actors.gateway.messages import (
    DescribeGateway,
    GatewayDescription,
    GatewayState,
    PeerState,
    PeerStatus,
    Refusal,
    Refused,
)
from holdfast.actors.gateway.owners import ForgetOwners, OwnersMachine, Reach, TellOwners
from holdfast.actors.gateway.peer import Carried, Peer, failed
from holdfast.actors.gateway.roles import is_private
from holdfast.actors.runtime.actor import LoopActor
from holdfast.actors.runtime.cell import CellContext
from holdfast.actors.runtime.machine import Deadline, Duration, Fact
from holdfast.actors.runtime.rights import Belongings
from holdfast.bus import keys, topics
from holdfast.bus.base import BusError, Caller, RequestTimeout, UnknownMessage
from holdfast.bus.cellbus import CellBus
from holdfast.bus.codec import BadFrame
from holdfast.bus.envelope import Envelope
from holdfast.bus.hub import HubSubscription
from holdfast.bus.messages import Command, Failed, Reply
from holdfast.bus.sockets import end_context, new_context
from holdfast.bus.wire import Answer, Request
from holdfast.config.settings import Settings
from holdfast.kernel.timers import monotonic

log = logging.getLogger(__name__)

OPEN_WITHIN_S = 2.0
"""The door opens when every cell has told what it retains, or after this: who joins earlier would see half a node."""
LOOK_EVERY_S = 1.0
RETRY_S = 5.0
FORWARD_S = 130.0
SAY_EVERY_S = 60.0


def start(ctx: CellContext) -> None:
    """Connects this node with the others."""
    GatewayActor.start(ctx)


def belongings(settings: Settings, run_dir: Path) -> Belongings:
    """The keys are the gateway's own: nobody else reads them."""
    gateway = settings.gateway
    own = (gateway.key_file, gateway.nats_key, gateway.nats_credentials)
    return Belongings(given=tuple(Path(each) for each in own if each))


class GatewayActor(LoopActor):
    """Owns the door and the peers of this node."""

    def __init__(self, ctx: CellContext) -> None:
        super().__init__()
        assert isinstance(ctx.bus, CellBus)
        self.ctx = ctx
        self.bus: CellBus = ctx.bus
        self.stream = Stream(ctx.node)
        self.peers: dict[str, Peer | FleetPeer] = {}
        self._fleet = FleetSide(self)
        self.door: Door | None = None
        self.refusals = RefusalLog()
        self._settings = Settings()
        self._access = AccessList()
        self._pair: keys.KeyPair | None = None
        self._context = new_context()
        self._error = ""
        self._said: GatewayState | None = None
        self._said_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._retry_at = 0.0
        self._owners = OwnersMachine(ctx.node)
        self._subscription: HubSubscription

    def on_start(self) -> None:
        """Follows this node's cells; the sockets come when those have answered."""
        ctx = self.ctx
        self.bus.serve_foreign(self._from_here)
        self.bus.serve("gateway", self._serve)
        self._subscription = self.bus.subscribe("", self._local)
        ctx.on_stop(self._close)
        ctx.on_statistics(self._statistics)
        self._open_by = ctx.loop.time() + OPEN_WITHIN_S
        self._forget_strangers()
        self._wait_for_cells()

    def _wait_for_cells(self) -> None:
        views = self._subscription.views
        names = self.bus.hub.cell_names()
        there = bool(names) and all(name in views and views[name].joined for name in names)
        if there or self.ctx.loop.time() >= self._open_by:
            self._look()
        else:
            self._timer = self.ctx.loop.call_later(0.02, self._wait_for_cells)

    # --- settings ------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Once a second: new settings after a reload, a door that could not be opened, refusals to be told."""
        self._timer = self.ctx.loop.call_later(LOOK_EVERY_S, self._look)
        settings = self.ctx.settings
        if settings is not self._settings:
            self._configure(settings)
        elif self._error and self.ctx.loop.time() >= self._retry_at:
            self._open(settings)
        for told in self.refusals.due(monotonic()):
            self._tell_refused(told)
        self._say()

    def _configure(self, settings: Settings) -> None:
        before, self._settings = self._settings, settings
        access = AccessList(settings.peers)
        gone = self._access.lost(access)
        self._access = access
        again = (
            before.gateway.listen != settings.gateway.listen
            or before.gateway.key_file != settings.gateway.key_file
            # ZeroMQ cannot end one connection: when somebody may do less than before, everyone comes in anew.
            or bool(gone)
        )
        if self.door is not None:
            self.door.access = access
        if again or (self._pair is None and self._wants_key(settings)):
            self._open(settings)
        if of_fleet(before) != of_fleet(settings):
            self._fleet.join(settings)
        self._call_peers(settings, gone)

    @staticmethod
    def _wants_key(settings: Settings) -> bool:
        """Nodes that meet on NATS and let nobody in have no use for one."""
        return bool(settings.gateway.listen) or settings.gateway.engine == "mesh"

    def _open(self, settings: Settings) -> None:
        """(Re)opens the door, when there is to be one."""
        self._retry_at = self.ctx.loop.time() + RETRY_S
        if self.door is not None:
            self.door.close()
            self.door = None
        if not self._wants_key(settings):
            self._error = ""
            return
        try:
            pair = keys.read(Path(settings.gateway.key_file))
            if self._pair is not None and pair != self._pair:
                self.drop_peers(set(self.peers))
            self._pair = pair
            if settings.gateway.listen:
                self.door = Door(
                    self.ctx.loop,
                    self.stream,
                    self.bus.counters,
                    pair,
                    settings.gateway.listen,
                    self._access,
                    refuse=self.refused,
                    foreign=self._from_outside,
                    asked=self._asked,
                )
        except keys.KeyProblem as error:
            self._fail(str(error))
            return
        except zmq.ZMQError as error:
            self._fail(f"{', '.join(settings.gateway.listen)}: {error.strerror}")
            return
        if self._error:
            self._error = ""
            log.info("the gateway listens at %s", ", ".join(settings.gateway.listen))
        self._call_peers(settings, set())

    def _fail(self, text: str) -> None:
        if text != self._error:
            log.error("the gateway does not listen: %s", text)
        self._error = text

    def _call_peers(self, settings: Settings, changed: set[str]) -> None:
        """A `Peer` for each node with an endpoint; those that are no longer wanted end."""
        if settings.gateway.engine == "nats":
            return
        wanted = {each.name: each for each in settings.peers if each.endpoint and each.name != self.ctx.node}
        self.drop_peers(
            {name for name, peer in self.peers.items() if wanted.get(name) != peer.settings or name in changed}
        )
        for node in self.bus.relayed_nodes() - set(wanted):
            self._forget_node(node)
        if self._pair is None:
            return
        for name, each in wanted.items():
            if name not in self.peers:
                self.peers[name] = Peer(
                    self.ctx.loop,
                    self._context,
                    self.ctx.timers,
                    self.bus.counters,
                    self.ctx.node,
                    each,
                    self._pair,
                    came=self.came,
                    tell=self.tell_peer,
                    joined=lambda name=name: self.joined(name),  # type: ignore[misc]
                    refuse=self.refused,
                    others=len(wanted),
                )

    def drop_peers(self, names: set[str]) -> None:
        for name in names:
            self.peers.pop(name).close()
            self.bus.forget(f"node/{name}", "state")

    def _forget_node(self, node: str) -> None:
        for topic in list(self.bus.relayed(node)):
            self.bus.forget_relayed(topic)
        self.stream.forget_node(topics.quote(node) + "/")
        self._weigh(Reach(node, False, known=False))

    def _forget_strangers(self) -> None:
        """After a restart: what is retained of nodes goes out again, as the last that was heard of them."""
        for node in self.bus.relayed_nodes():
            for envelope in list(self.bus.relayed(node).values()):
                self.stream.publish(envelope)
                self._consider(envelope)

    # --- events --------------------------------------------------------------------------------------------------

    def _local(self, envelope: Envelope) -> None:
        """An event of this node, on its way out."""
        if not is_private(envelope.topic):
            self._fleet.tell(envelope, self.stream.publish(envelope))
            self._consider(envelope)

    def came(self, envelope: Envelope) -> None:
        """An event of another node, on its way in, and out to those who follow the cluster through this node."""
        topic = envelope.topic
        if is_private(topic):
            return
        if not isinstance(envelope, Carried) or envelope.frame is None or envelope.gone:
            self.bus.forget_relayed(topic)
            self.stream.forget(topic)
            self._consider(envelope)
            return
        known = self.bus.store.entries.get(topic)
        if known is not None and known.id == envelope.id:
            self.bus.store.restored.discard(topic)  # a former life of this cell has told it already
            return
        try:
            told = self.bus.relay(topic, envelope.frame)
        except BadFrame as error:
            self.bus.counters.count_bad(error, f"node {envelope.id.node}")
            return
        self.stream.publish(told, envelope.frame)
        self._consider(told)

    def joined(self, name: str) -> None:
        """All that the node retains has come: what a former life of this cell retained besides is gone there."""
        beginning = topics.quote(name) + "/"
        for topic in [each for each in self.bus.store.restored if each.startswith(beginning)]:
            self.bus.forget_relayed(topic)
            self.stream.forget(topic)

    def tell_peer(self, state: PeerState) -> None:
        if state.state is not state.old:
            level = logging.WARNING if state.state is PeerStatus.UNREACHABLE else logging.INFO
            log.log(level, "node %s is %s", state.peer, state.state)
        self.bus.publish(f"node/{state.peer}", "state", state)
        if state.state is not PeerStatus.CONNECTING:
            self._weigh(Reach(state.peer, state.state is PeerStatus.REACHABLE))

    # --- who owns what -------------------------------------------------------------------------------------------

    def _consider(self, envelope: Envelope) -> None:
        """An event of any node, for the owners of virtual addresses."""
        for fact in facts_of(envelope, self._age(envelope)):
            self._weigh(fact)

    def _age(self, envelope: Envelope) -> Duration:
        """How long ago an event was sent, by our clock and what is known of the other's."""
        peer = self.peers.get(envelope.id.node)
        best = None if peer is None else peer.clock.best
        offset = 0 if best is None else best.offset_ns
        return Duration(max(0, time.time_ns() + offset - envelope.wall_ns))

    def _weigh(self, fact: Fact) -> None:
        for action in self._owners.step(fact, monotonic()):
            match action:
                case TellOwners(event=event):
                    if event.alarm and event.state is not event.old:
                        log.warning("%s: %s: %s", event.address, event.state, "; ".join(event.differences))
                    self.bus.publish(f"virtual-address/{event.address}", "owners", event)
                case ForgetOwners(address=address):
                    self.bus.forget(f"virtual-address/{address}", "owners")
        self.ctx.timers.set("owners", self._owners.deadline, lambda _: self._weigh(Deadline()))

    # --- commands ------------------------------------------------------------------------------------------------

    def _from_here(self, request: Request, caller: Caller) -> asyncio.Future[Answer]:
        """A command of this node for another one."""
        peer = self.peers.get(request.to)
        if peer is not None:
            return peer.forward(request, FORWARD_S)
        done: asyncio.Future[Answer] = self.ctx.loop.create_future()
        done.set_result(failed(request, "no-such-node", f"{self.ctx.node} knows no node {request.to}"))
        return done

    def _from_outside(self, request: Request, caller: Caller) -> asyncio.Future[Answer]:
        """A command that came through the door; the caller's role has been looked at."""
        if request.to in ("", self.ctx.node):
            return self.ctx.loop.create_task(self.ask_cells(request, caller))
        done: asyncio.Future[Answer] = self.ctx.loop.create_future()
        asker, peer = self._access.by_name(caller.node), self.peers.get(request.to)
        if peer is None:
            done.set_result(failed(request, "no-such-node", f"{self.ctx.node} knows no node {request.to}"))
        elif asker is not None and asker.endpoint:
            # Every node calls every other itself; a command that wanders could wander in a circle.
            done.set_result(failed(request, "no-transit", f"ask {request.to} yourself"))
        else:
            return peer.forward(request, FORWARD_S)
        return done

    async def ask_cells(self, request: Request, caller: Caller) -> Answer:
        try:
            return await self.bus.forward(request, caller, timeout_s=FORWARD_S)
        except UnknownMessage as error:
            draft = failed(request, "unserved", str(error))
            return msgspec.structs.replace(draft, op="unserved", text=str(error), node=self.ctx.node)
        except RequestTimeout as error:
            return failed(request, "timeout", str(error))
        except (BusError, BadFrame) as error:
            return failed(request, "failed", str(error))

    def _asked(self, name: str) -> None:
        peer = self.peers.get(name)
        if peer is not None:
            peer.asked()

    # --- refusals and figures ------------------------------------------------------------------------------------

    def refused(self, address: str, refusal: Refusal, peer: str, text: str) -> None:
        told = self.refusals.add(address or peer, refusal, monotonic(), peer=peer, text=text)
        if told is not None:
            self._tell_refused(told)

    def _tell_refused(self, told: Told) -> None:
        log.warning(
            "refused %s%s: %s (%s), %d time(s)",
            told.address,
            f" as {told.peer}" if told.peer and told.peer != told.address else "",
            told.refusal.value,
            told.text,
            told.count,
        )
        event = Refused(address=told.address, refusal=told.refusal, count=told.count, peer=told.peer, text=told.text)
        self.bus.publish("gateway/current", "refused", event, retain=False)

    def _serve(self, command: Command, caller: Caller) -> Reply:
        if isinstance(command, DescribeGateway):
            peers = tuple(peer.told for peer in self.peers.values() if peer.told is not None)
            return GatewayDescription(gateway=self._state(), peers=peers)
        return Failed(code="unknown-command", message=f"the gateway does not know {type(command).__name__}")

    def _state(self) -> GatewayState:
        door = self.door
        return GatewayState(
            events=() if door is None else door.events,
            commands=() if door is None else door.commands,
            key="" if self._pair is None else self._pair.public,
            error=self._error or self._fleet.error,
            refused=dict(self.refusals.counts),
            connections=0 if door is None else door.connections,
        )

    def _say(self) -> None:
        state = self._state()
        now = self.ctx.loop.time()
        same = self._said is not None and _lasting(state) == _lasting(self._said)
        if state == self._said or (same and now - self._said_at < SAY_EVERY_S):
            return
        self._said, self._said_at = state, now
        self.bus.publish("gateway/current", "state", state)

    def _statistics(self) -> str:
        refused = ", ".join(f"{why} {count}" for why, count in self.refusals.counts.items()) or "none"
        lines = [f"gateway: refused: {refused}\n"]
        for peer in self.peers.values():
            lines.append(f"  node {peer.name}: {peer.machine.state}\n")
        return "".join(lines)

    async def _close(self) -> None:
        self._subscription.close()
        if self._timer is not None:
            self._timer.cancel()
        await self._fleet.close()
        for peer in self.peers.values():
            peer.close()
        self.peers.clear()
        if self.door is not None:
            self.door.close()
            self.door = None
        end_context(self._context)


def _lasting(state: GatewayState) -> GatewayState:
    """What is worth an event when it changes."""
    return msgspec.structs.replace(state, refused={}, connections=0)
