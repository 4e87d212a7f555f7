"""What a director that died left behind, read from its retained events."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.actors.ipvs.facts import Former, FormerServer
from holdfast.actors.ipvs.messages import DirectorState, RealServerChanged, VirtualServerChanged
from holdfast.bus.envelope import Envelope


def formers(restored: Iterable[Envelope]) -> tuple[dict[str, Former], DirectorState | None]:
    """The former state by virtual server, and the director's own. Virtual servers that ended properly are left out."""
    services: dict[str, VirtualServerChanged] = {}
    servers: dict[str, dict[str, FormerServer]] = {}
    director: DirectorState | None = None
    for envelope in restored:
        match envelope.event:
            case VirtualServerChanged() as service if not service.final:
                services[service.virtual_server] = service
            case RealServerChanged() as server if not server.final:
                servers.setdefault(server.virtual_server, {})[server.real_server] = FormerServer(
                    up=server.up,
                    effective_weight=server.effective_weight,
                    failed_checks=server.failed_checks,
                    draining=server.draining,
                    in_pool=server.in_pool,
                    suspected=server.suspected,
                )
            case DirectorState() as state:
                director = state
    found = {
        name: Former(
            quorum_up=service.up,
            sorry_active=service.sorry_active,
            panic=service.panic,
            servers=servers.get(name, {}),
        )
        for name, service in services.items()
    }
    return found, director
