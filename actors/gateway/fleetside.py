"""What the gateway has besides when nodes meet on NATS (`gateway.engine`): the nodes that are heard there, commands.

What comes in goes the same ways as what peers of a mesh tell; the connection itself is fleet.py.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from typing import TYPE_CHECKING

import msgspec

from holdfast.actors.gateway.access import Budget
from holdfast.actors.gateway.fleetpeer import FleetPeer
from holdfast.actors.gateway.messages import Refusal
from holdfast.actors.gateway.peer import carried, failed
from holdfast.actors.gateway.roles import is_opinion, may_command
from holdfast.bus import topics
from holdfast.bus.base import Caller
from holdfast.bus.envelope import Envelope
from holdfast.bus.wire import Answer, Request
from holdfast.config.settings import GatewaySettings, Settings
from holdfast.kernel.timers import monotonic

if TYPE_CHECKING:
    from holdfast.actors.gateway.actor import GatewayActor
    from holdfast.actors.gateway.fleet import Fleet

log = logging.getLogger(__name__)


class FleetSide:
    """Nothing while the engine is another one."""

    def __init__(self, gateway: GatewayActor) -> None:
        self._gateway = gateway
        self._fleet: Fleet | None = None
        self._budgets: dict[str, Budget] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def error(self) -> str:
        """Why there is no connection; empty when there is one, or none is wanted."""
        return f"NATS: {self._fleet.error}" if self._fleet is not None and self._fleet.error else ""

    def join(self, settings: Settings) -> None:
        """holdfast.toml says something else about it than before."""
        gateway = self._gateway
        if self._fleet is not None:
            task = gateway.ctx.loop.create_task(self._fleet.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._fleet = None
            gateway.drop_peers(set(gateway.peers))
        if settings.gateway.engine != "nats":
            return
        gateway.drop_peers(set(gateway.peers))
        try:
            # Only who wants it needs the library.
            module = importlib.import_module("holdfast.actors.gateway.fleet")
        except ImportError as error:
            log.error("gateway.engine nats needs nats-py (pip install holdfast[nats]): %s", error)
            return
        self._fleet = module.Fleet(
            gateway.ctx.loop,
            gateway.ctx.node,
            settings.gateway,
            gateway.bus.counters,
            came=lambda topic, frame: gateway.came(carried(topic, frame)),
            beat=self._lives,
            asked=self._asked,
            caught_up=self._caught_up,
            connected=self._tell_all,
        )

    def _lives(self, name: str) -> None:
        """A sign of life of a node."""
        gateway = self._gateway
        assert self._fleet is not None
        peer = gateway.peers.get(name)
        if peer is None:
            peer = gateway.peers[name] = FleetPeer(
                gateway.ctx.loop, gateway.ctx.timers, self._fleet, name, tell=gateway.tell_peer
            )
        if isinstance(peer, FleetPeer):
            peer.heard()

    def _caught_up(self) -> None:
        for name in self._gateway.bus.relayed_nodes():
            self._gateway.joined(name)

    def _tell_all(self) -> None:
        """All that this node retains, to a stream that may have lost it."""
        store = self._gateway.stream.store
        beginning = topics.quote(self._gateway.ctx.node) + "/"
        for topic, data in store.frames.items():
            if topic.startswith(beginning):
                self.tell(store.entries[topic], data)

    def tell(self, envelope: Envelope, data: bytes | None) -> None:
        """An event of this node, as it travels."""
        if self._fleet is not None and data is not None and not is_opinion(envelope.topic):
            name = envelope.id
            self._fleet.publish(envelope.topic, data, f"{name.node}/{name.cell}/{name.epoch}/{name.seq}")

    async def _asked(self, request: Request, role: str, name: str) -> Answer | None:
        """A command that came over NATS; who asks, and in which role, NATS vouches for."""
        gateway = self._gateway
        now = monotonic()
        budget = self._budgets.get(name)
        if budget is None:
            budget = self._budgets[name] = Budget(now)
        if not budget.take(now):
            gateway.refused("", Refusal.FLOOD, name, request.op)
            return None
        draft = failed(request, "failed", "")
        node = gateway.ctx.node
        if request.op == "ping":
            return msgspec.structs.replace(
                draft, op="pong", node=node, wall_ns=time.time_ns(), mono_ns=time.monotonic_ns()
            )
        if request.op != "command":
            return msgspec.structs.replace(draft, op="error", node=node, text=f"no {request.op} here"[:200])
        if not may_command(role, request.subject, request.type):
            gateway.refused("", Refusal.ROLE, name, f"{request.type} for {request.subject}"[:200])
            return failed(request, "forbidden", f"{name} is a {role} here: no commands for {request.subject}")
        return await gateway.ask_cells(request, Caller(node=name, cell="client", role=role))

    async def close(self) -> None:
        """The cell ends."""
        if self._fleet is not None:
            await self._fleet.close()


def of_fleet(settings: Settings) -> GatewaySettings:
    """What the connection depends on."""
    return msgspec.structs.replace(settings.gateway, listen=(), key_file="")
