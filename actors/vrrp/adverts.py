"""The adverts of one instance as the kernel wants them: made once for each priority, sent as often as wanted."""

from __future__ import annotations

from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.actors.vrrp.packet import AdvertTemplate, destinations_of
from holdfast.kernel.faces import AdvertSocket, Destination, Prepared


class Adverts:
    """Empty until `make`."""

    def __init__(self) -> None:
        self.made: dict[int, tuple[Prepared, ...]] = {}
        """By priority; of what was asked for so far."""
        self._template: AdvertTemplate | None = None
        self._socket: AdvertSocket | None = None
        self._destinations: tuple[Destination, ...] = ()

    def make(self, instance: VrrpInstance, socket: AdvertSocket, source: str, *, old_checksum: bool) -> None:
        """From now on they are of this instance, leave by this socket and come from this address."""
        self.made.clear()
        self._socket = socket
        self._template = AdvertTemplate(instance, source, old_checksum=old_checksum)
        hop_limit = instance.unicast_ttl if instance.unicast else None
        self._destinations = tuple(
            socket.destination(address, source=source, hop_limit=hop_limit)
            if instance.family == 6
            else socket.destination(address)
            for address in destinations_of(instance)
        )

    def of(self, priority: int) -> tuple[Prepared, ...]:
        """One for each destination. The IPv4 id is left to the kernel (0, raw(7))."""
        made = self.made.get(priority)
        template, socket = self._template, self._socket
        if made is None and template is not None and socket is not None:
            made = self.made[priority] = tuple(
                socket.prepare(buffer[:4] + b"\0\0" + buffer[6:] if socket.family == 4 else buffer, to)
                for buffer, to in zip(template.snapshot(priority), self._destinations, strict=True)
            )
        return made or ()
