"""The shell around the machine of one virtual server: facts in, orders to the writer, events to the bus."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from holdfast.actors.ipvs.facts import (
    CountConnections,
    Drop,
    Forget,
    Log,
    OrderRefused,
    Publish,
    Put,
    RemoveServices,
    Settle,
)
from holdfast.actors.ipvs.service import ServiceMachine
from holdfast.actors.ipvs.writer import Intent, Writer
from holdfast.actors.runtime.actor import LoopActor
from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant
from holdfast.bus.base import Bus
from holdfast.bus.messages import EventId
from holdfast.kernel.base import KernelError
from holdfast.kernel.ipvs_types import DestinationSpec, Method, ServiceKey

log = logging.getLogger("holdfast.ipvs")

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Timers(Protocol):
    """Of the cell (kernel/timers.py)."""

    def set(self, key: object, at: Instant | None, call: Callable[[Instant], None]) -> None:
        """`call(now)` once at `at`; None: never."""


class Surroundings(Protocol):
    """What the room gives to its actors."""

    bus: Bus
    writer: Writer
    timers: Timers

    def now(self) -> Instant:
        """The clock of the timers."""

    def count_connections(self, actor: ServiceActor, action: CountConnections) -> None:
        """Asks the kernel; the answers come as ConnectionsCounted."""


class ServiceActor(LoopActor):
    """One virtual server. Messages are the facts of `facts.py`."""

    def __init__(self, machine: ServiceMachine, around: Surroundings) -> None:
        super().__init__()
        self.machine = machine
        self._around = around
        self._keys = machine.kernel_keys()
        self._ids: list[EventId] = []

    def on_receive(self, message: Fact) -> None:
        """One fact."""
        now = self._around.now()
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s >> %s", self.machine.config.name, message)
        self._carry_out(self.machine.step(message, now))
        self._around.timers.set(self, self.machine.deadline, self._due)

    def on_stop(self) -> None:
        """No deadline after this."""
        self._around.timers.set(self, None, self._due)

    def _due(self, now: Instant) -> None:
        self._carry_out(self.machine.step(Deadline(), now))
        self._around.timers.set(self, self.machine.deadline, self._due)

    # -- the writer's owner -----------------------------------------------------------------------------------------

    def refused(self, server: str, destination: DestinationSpec | None, error: KernelError) -> None:
        """The kernel did not take a destination, or the service."""
        name = server or self._server_at(destination)
        self.actor_ref.tell(OrderRefused(server=name, text=str(error), errno=error.errno))

    def service_lost(self, key: ServiceKey) -> None:
        """Somebody else took the service away: it is put back with all that belongs into it."""
        log.warning("%s was removed by somebody else", key)
        self._settle()

    def _server_at(self, destination: DestinationSpec | None) -> str:
        if destination is None:
            return ""
        for server in self.machine.servers.values():
            # The port of a DR or TUN destination is its service's.
            same_port = server.config.port == destination.port or destination.method != Method.NAT
            if server.config.address == destination.address and same_port:
                return server.name
        return ""

    # -- actions ----------------------------------------------------------------------------------------------------

    def _carry_out(self, actions: list[Action]) -> None:
        latest: dict[str, Intent] = {}
        self._ids = []
        ids = self._ids
        writer = self._around.writer
        for action in actions:
            match action:
                case Put():
                    latest[action.server] = writer.put(self, action.server, self._keys, action.destination)
                case Drop():
                    latest[action.server] = writer.drop(self, action.server, self._keys, action.destination)
                case Publish():
                    self._tell(action, latest.get(action.server), ids)
                case Log():
                    log.log(_LEVELS[action.level], "%s", action.text)
                case Settle():
                    self._settle()
                case RemoveServices():
                    writer.remove(self, self._keys)
                case Forget():
                    self._forget(action.subject)
                case CountConnections():
                    self._around.count_connections(self, action)
                case _:
                    raise AssertionError(action)

    def _settle(self) -> None:
        old, self._keys = self._keys, self.machine.kernel_keys()
        self._around.writer.settle(self, self.machine, old)

    def _tell(self, action: Publish, intent: Intent | None, ids: list[EventId]) -> None:
        def publish() -> None:
            if action.server and intent is not None and intent.refused:
                # It did not happen. The machine hears of the refusal and says what is true.
                return
            causes = [] if action.cause is None else [action.cause]
            if action.follows:
                causes = [*ids, *causes]
            ids.append(self._around.bus.publish(action.subject, "state", action.event, causes=causes))
            del ids[:-8]

        self._around.writer.then(publish)

    def _forget(self, subject: str) -> None:
        self._around.writer.then(lambda: self._around.bus.forget(subject, "state"))
