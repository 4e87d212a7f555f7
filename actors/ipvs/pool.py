"""The pool of one virtual server: who stands in it, what the kernel is to have, quorum and sorry server.

Pure: the building blocks of the machine in `service.py`, which decides when to use them.
"""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.actors.ipvs.config import VirtualServer
from holdfast.actors.ipvs.facts import CheckReported, Drop, Log, Options, Publish, Put
from holdfast.actors.ipvs.messages import RealServerChanged, VirtualServerChanged, service_subject
from holdfast.actors.ipvs.plan import Table, destination_spec, service_specs, wanted_table
from holdfast.actors.ipvs.quorum import quorum_is_up
from holdfast.actors.ipvs.server import Server
from holdfast.actors.runtime.machine import Action
from holdfast.bus.messages import EventId, Evidence, Reason, ReasonKind
from holdfast.kernel.ipvs_types import DestinationSpec, ServiceKey, ServiceSpec

_FAILED = {"BFD_CHECK": ReasonKind.BFD_DOWN, "FILE_CHECK": ReasonKind.FILE_VALUE}
_SUCCEEDED = {"BFD_CHECK": ReasonKind.BFD_UP, "FILE_CHECK": ReasonKind.FILE_VALUE}


class Pool:
    """The state of a virtual server and what can be done with it."""

    __slots__ = (
        "_alive",
        "_options",
        "_specs",
        "_sum",
        "config",
        "panic",
        "quorum_up",
        "servers",
        "sorry_active",
    )

    def __init__(self, config: VirtualServer, options: Options, servers: dict[str, Server] | None = None) -> None:
        """servers: those of the configuration, where somebody has made them already."""
        if servers is None:
            servers = {server.name: Server(server, config.name) for server in config.real_servers}
        self.config = config
        self._options = options
        self._specs = service_specs(config)
        self.servers = servers
        self.quorum_up = False
        self.sorry_active = False
        self.panic = False
        self._sum = 0
        self._alive = 0

    @property
    def weight_sum(self) -> int:
        """What the quorum is compared with."""
        return self._sum

    @property
    def subject(self) -> str:
        """Of this virtual server's events."""
        return service_subject(self.config.name)

    def specs(self) -> list[ServiceSpec]:
        """The kernel services of this virtual server."""
        return self._specs

    def kernel_keys(self) -> list[ServiceKey]:
        """Their keys."""
        return [spec.key for spec in self._specs]

    def wanted(self) -> Table:
        """What the kernel should have for this virtual server."""
        return wanted_table(self._specs, self.wanted_destinations())

    def _change(
        self, server: Server, *, alive: bool | None = None, weight: int | None = None, suspected: bool | None = None
    ) -> None:
        """Books a change; the sums follow."""
        self._sum -= server.contribution()
        self._alive -= server.alive
        if alive is not None:
            server.alive = alive
        if weight is not None:
            server.weight = weight
        if suspected is not None:
            server.suspected = suspected
        self._sum += server.contribution()
        self._alive += server.alive

    def _recount(self) -> None:
        self._sum = sum(server.contribution() for server in self.servers.values())
        self._alive = sum(server.alive for server in self.servers.values())

    def _is_sorry(self, server: Server) -> bool:
        """Whether this server's place in the kernel is taken by the sorry server just now."""
        return self.sorry_active and self._shares_place(server)

    def _shares_place(self, server: Server) -> bool:
        """Whether the sorry server is this very server (keepalived allows it)."""
        sorry = self.config.sorry_server
        return sorry is not None and (server.config.address, server.config.port) == (sorry.address, sorry.port)

    def _note_placement(self, server: Server) -> None:
        weight = server.placement(sorry_active=self.sorry_active)
        server.in_pool = weight is not None or self._is_sorry(server)
        server.kernel_weight = weight or 0

    def _place(self, server: Server) -> list[Action]:
        """The order that puts the server where it belongs, if it is not there."""
        if self._is_sorry(server):
            return []
        weight = server.placement(sorry_active=self.sorry_active)
        if weight is None:
            if not server.in_pool:
                return []
            server.in_pool = False
            server.kernel_weight = 0
            sorry = self.config.sorry_server
            if sorry is not None and sorry.inhibit and self._shares_place(server):
                return [Put("", destination_spec(sorry, 0))]
            return [Drop(server.name, destination_spec(server.config, 0))]
        if server.in_pool and server.kernel_weight == weight:
            return []
        server.in_pool = True
        server.kernel_weight = weight
        return [Put(server.name, destination_spec(server.config, weight))]

    def wanted_destinations(self) -> Iterator[DestinationSpec]:
        """What `wanted` has in each service, in its order. Whoever pauses in between sees what has changed since."""
        sorry = self.config.sorry_server
        # Later ones win: a resting sorry server must not overwrite a real server at its address, a serving one must.
        if sorry is not None and sorry.inhibit and not self.sorry_active:
            yield destination_spec(sorry, 0)
        for server in list(self.servers.values()):
            weight = server.placement(sorry_active=self.sorry_active)
            if weight is not None:
                yield destination_spec(server.config, weight)
        if sorry is not None and self.sorry_active:
            yield destination_spec(sorry, 1)

    def _swap_sorry(self, active: bool) -> Iterator[Action]:
        """The sorry server comes in for all others, or goes."""
        sorry = self.config.sorry_server
        assert sorry is not None
        name = self.config.name
        if active:
            yield Log(f"{'Enabling' if sorry.inhibit else 'Adding'} sorry server {sorry.name} to VS {name}")
            yield Log(f"Removing alive servers from the pool for VS {name}")
            self.sorry_active = True
            yield Put("", destination_spec(sorry, 1))
            for server in self.servers.values():
                yield from self._place(server)
            return
        yield Log(f"{'Disabling' if sorry.inhibit else 'Removing'} sorry server {sorry.name} from VS {name}")
        yield Log(f"Adding alive servers to the pool for VS {name}")
        taken = [server for server in self.servers.values() if self._is_sorry(server)]
        self.sorry_active = False
        for server in taken:
            # The kernel has the sorry server at this place: whatever belongs there now is a change.
            server.in_pool, server.kernel_weight = True, -1
        for server in self.servers.values():
            yield from self._place(server)
        if not taken:
            if sorry.inhibit:
                yield Put("", destination_spec(sorry, 0))
            else:
                yield Drop("", destination_spec(sorry, 0))

    def _update_quorum(
        self, *, cause: EventId | None = None, starting: bool = False, settled: bool = False
    ) -> list[Action]:
        """Looks whether the quorum was gained or lost, and does what follows.

        starting: also a service that has been without quorum all along gets its sorry server. settled: the kernel gets
        all of it afterwards in one piece, so the pool's orders are left out.
        """
        config = self.config
        up = quorum_is_up(self.quorum_up, self._sum, config.quorum, config.hysteresis)
        sorry = config.sorry_server
        down_from_start = starting and not up and sorry is not None and not self.sorry_active
        if up == self.quorum_up and not down_from_start:
            return []
        old = None if starting and not self.quorum_up else self.quorum_up
        self.quorum_up = up
        actions: list[Action] = []
        kind = ReasonKind.QUORUM_GAINED if up else ReasonKind.QUORUM_LOST
        if up:
            limit = config.quorum + config.hysteresis
            comparison = f"{config.quorum}+{config.hysteresis}={limit} <= {self._sum} for VS {config.name}"
            actions.append(Log(f"Gained quorum {comparison}"))
        else:
            limit = config.quorum - config.hysteresis
            words = "Starting with quorum down" if down_from_start and old is None else "Lost quorum"
            comparison = f"{config.quorum}-{config.hysteresis}={limit} > {self._sum} for VS {config.name}"
            actions.append(Log(f"{words} {comparison}"))
        if sorry is not None and self.sorry_active == up:
            swap = list(self._swap_sorry(not up))
            actions.extend(action for action in swap if isinstance(action, Log) or not settled)
        reason = self._reason(
            kind, weight_sum=self._sum, quorum=config.quorum, hysteresis=config.hysteresis, limit=limit
        )
        actions.append(self._service_event(old, reason, announce=True, starting=starting, cause=cause, follows=True))
        return actions

    # -- events -----------------------------------------------------------------------------------------------------

    def _reason(self, kind: ReasonKind, **evidence: int | float | str | bool | None) -> Reason:
        return Reason(kind=kind, node=self._options.node, subject=self.subject, evidence=evidence)

    def _check_reason(self, server: Server, fact: CheckReported) -> Reason:
        check = server.checks[fact.check]
        if fact.up or (fact.up is None and fact.ok):
            kind = _SUCCEEDED.get(check.ref.kind, ReasonKind.CHECK_OK)
        else:
            kind = _FAILED.get(check.ref.kind, ReasonKind.CHECK_FAILED)
        evidence: Evidence = {"check": check.ref.kind, "text": fact.text, "latency_s": fact.latency_us / 1e6}
        if not fact.up:
            evidence["attempts"] = fact.attempt
        return Reason(kind=kind, node=self._options.node, subject=f"check/{fact.runs_as}", evidence=evidence)

    def _server_event(
        self,
        server: Server,
        old_up: bool | None,
        reason: Reason,
        *,
        announce: bool = False,
        final: bool = False,
        cause: EventId | None = None,
    ) -> Publish:
        script = server.config.notify_up if server.alive else server.config.notify_down
        event = RealServerChanged(
            virtual_server=self.config.name,
            real_server=server.name,
            up=server.alive,
            old_up=old_up,
            announce=announce,
            final=final,
            in_pool=server.in_pool,
            weight=server.kernel_weight,
            effective_weight=server.weight,
            inhibited=server.config.inhibit_on_failure and server.in_pool and not server.counts,
            draining=server.drain is not None,
            suspected=server.suspected and not server.leaving,
            failed_checks=server.failed_checks(),
            script=script.argv if announce and script is not None else (),
            fifo_line=f"RS {server.name} {self.config.name} {'UP' if server.alive else 'DOWN'}" if announce else "",
            reason=reason,
        )
        return Publish(server.subject, event, server.name, cause)

    def _service_event(
        self,
        old_up: bool | None,
        reason: Reason,
        *,
        announce: bool = False,
        final: bool = False,
        starting: bool = False,
        cause: EventId | None = None,
        follows: bool = False,
    ) -> Publish:
        config = self.config
        script = config.quorum_up if self.quorum_up else config.quorum_down
        event = VirtualServerChanged(
            virtual_server=config.name,
            up=self.quorum_up,
            old_up=old_up,
            announce=announce,
            final=final,
            starting=starting,
            quorum=config.quorum,
            hysteresis=config.hysteresis,
            weight_sum=self._sum,
            alive=self._alive,
            servers=len(config.real_servers),
            sorry_server=config.sorry_server.name if config.sorry_server is not None else None,
            sorry_active=self.sorry_active,
            panic=self.panic,
            script=script.argv if announce and script is not None else (),
            fifo_line=f"VS {config.name} {'UP' if self.quorum_up else 'DOWN'}" if announce else "",
            reason=reason,
        )
        return Publish(self.subject, event, "", cause, follows)
