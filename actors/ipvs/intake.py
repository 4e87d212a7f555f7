"""A large virtual server is taken in by and by: decoding ten thousand real servers, and keeping books for each, holds
up the loop for longer than others can wait.
"""

from __future__ import annotations

import asyncio

import msgspec

from holdfast.actors.ipvs.config import RealServer, VirtualServer
from holdfast.actors.ipvs.server import Server

TURN_SERVERS = 128
"""Real servers that are taken in before the loop has its next turn: some milliseconds."""

SMALL_BYTES = 32_768
"""A slice up to this size is decoded in one piece: about a hundred servers."""


class _Rough(VirtualServer, frozen=True, kw_only=True):
    """A virtual server whose real servers are still packed."""

    real_servers: tuple[msgspec.Raw, ...] = ()  # type: ignore[assignment]


_whole = msgspec.msgpack.Decoder(VirtualServer)
_rough = msgspec.msgpack.Decoder(_Rough)
_server = msgspec.msgpack.Decoder(RealServer)
_FIELDS = tuple(field for field in VirtualServer.__struct_fields__ if field != "real_servers")


class Pace:
    """Gives the loop a turn after every so many real servers."""

    def __init__(self) -> None:
        self._servers = 0

    async def after(self, servers: int) -> None:
        """Called after work on so many servers."""
        self._servers += servers
        if self._servers >= TURN_SERVERS:
            self._servers = 0
            await asyncio.sleep(0)


async def decode_service(data: bytes, pace: Pace) -> VirtualServer:
    """One slice of the configuration."""
    if len(data) <= SMALL_BYTES:
        config = _whole.decode(data)
        await pace.after(1 + len(config.real_servers))
        return config
    rough = _rough.decode(data)
    servers = []
    for packed in rough.real_servers:
        servers.append(_server.decode(packed))
        await pace.after(1)
    return VirtualServer(**{field: getattr(rough, field) for field in _FIELDS}, real_servers=tuple(servers))


async def make_servers(config: VirtualServer, pace: Pace) -> dict[str, Server]:
    """The books of the real servers of a new virtual server."""
    servers = {}
    for server in config.real_servers:
        servers[server.name] = Server(server, config.name)
        await pace.after(1)
    return servers
