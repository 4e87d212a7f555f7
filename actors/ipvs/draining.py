"""Real servers that finish their connections before they leave the pool. Pure; a part of the machine, `service.py`."""

from __future__ import annotations

from holdfast.actors.ipvs.config import VirtualServer
from holdfast.actors.ipvs.facts import ConnectionsCounted, DrainAsked, Forget, Log, Options
from holdfast.actors.ipvs.pool import Pool
from holdfast.actors.ipvs.server import Drain, Server
from holdfast.actors.runtime.machine import Action, Instant, later, seconds
from holdfast.bus.messages import ReasonKind

COUNT_EVERY = seconds(1.0)
"""How often a draining server's connections are counted."""


class DrainingPool(Pool):
    """A pool that servers leave by and by. _count_at: when connections are to be counted again."""

    __slots__ = ("_count_at",)

    def __init__(self, config: VirtualServer, options: Options, servers: dict[str, Server] | None = None) -> None:
        super().__init__(config, options, servers)
        self._count_at: Instant | None = None

    def _drain_asked(self, fact: DrainAsked, now: Instant) -> list[Action]:
        server = self.servers.get(fact.server)
        if server is None or server.leaving:
            return []
        if fact.undo:
            if server.drain is None:
                return []
            server.drain = None
            reason = self._reason(ReasonKind.OPERATOR_RESUME)
            line = f"Service {server.name} of VS {self.config.name} takes connections again"
        else:
            timeout_s = self._options.drain_command_timeout_s if fact.timeout_s is None else fact.timeout_s
            server.drain = Drain(later(now, seconds(timeout_s)) if fact.remove else None, fact.remove)
            reason = self._reason(ReasonKind.OPERATOR_RELEASE, timeout_s=timeout_s)
            line = f"Draining service {server.name} of VS {self.config.name}"
            if fact.remove:
                self._count_at = self._count_at or later(now, COUNT_EVERY)
        self._recount()
        actions: list[Action] = [Log(line), *self._place(server)]
        actions.append(self._server_event(server, server.alive, reason))
        actions.extend(self._update_quorum())
        return actions

    def _draining(self) -> list[Server]:
        return [
            server
            for server in self.servers.values()
            if server.drain is not None and server.drain.remove and not server.drain.over
        ]

    def _counted(self, fact: ConnectionsCounted, now: Instant) -> list[Action]:
        server = self.servers.get(fact.server)
        if server is None or server.drain is None or server.drain.over or not server.drain.remove:
            return []
        expired = server.drain.until is not None and now >= server.drain.until
        if fact.connections > 0 and not expired:
            return []
        server.drain.over = True
        ended = "time is over" if fact.connections else "no connection left"
        kind = ReasonKind.RELOAD if server.leaving else ReasonKind.OPERATOR_RELEASE
        reason = self._reason(kind, connections=fact.connections)
        actions: list[Action] = [Log(f"Drained service {server.name} of VS {self.config.name}: {ended}")]
        actions.extend(self._place(server))
        actions.append(self._server_event(server, server.alive, reason, final=server.leaving))
        if server.leaving:
            self.servers.pop(server.name)
            actions.append(Forget(server.subject))
        return actions
