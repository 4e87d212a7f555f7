"""Which room runs in which cell, and which slices of the configuration each cell gets. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from holdfast.config.settings import ROOMS, Settings, workers_of

DEFAULT: Mapping[str, str] = {
    "watch": "protocol",
    "vrrp": "protocol",
    "bfd": "bfd",
    "checkers": "checkers",
    "ipvs": "director",
    "connsync": "director",
    "notify": "notify",
    "worker": "worker",
    "journal": "gateway",
    "gateway": "gateway",
}
"""Room -> cell, where holdfast.toml says nothing else."""

GLOBALS = "globals"
"""The slice that every share of a divided room gets."""

SERVERS_PER_CHECKER_CELL = 400
CHECKER_CELLS_MAX = 8

Slices = dict[str, dict[str, bytes]]
"""Room -> slice name -> msgpack."""


class CellPlan(msgspec.Struct, frozen=True):
    """One cell: its rooms in the order in which they start, and their slices."""

    name: str
    rooms: tuple[str, ...]
    slices: Slices


def plan(slices: Slices, settings: Settings) -> dict[str, CellPlan]:
    """The cells that have something to do, by name.

    A room takes part when it has slices; the journal when it is switched on, the gateway when it is to listen or has
    peers to call, connection sync when it is switched on, the worker when it is to run other nodes' checks. The
    checkers are divided over as many cells as holdfast.toml says, or as their number asks for.
    """
    wanted: Slices = {room: dict(own) for room, own in slices.items() if own}
    if settings.journal.enabled:
        wanted.setdefault("journal", {})
    if settings.gateway.listen or settings.gateway.nats_servers or any(peer.endpoint for peer in settings.peers):
        wanted.setdefault("gateway", {})
    if settings.connsync.enabled:
        wanted.setdefault("connsync", {})
    if settings.checks.run_for or settings.node in workers_of(settings):
        wanted.setdefault("worker", {})
    cells: dict[str, Slices] = {}
    for room in sorted(wanted, key=start_order):
        cell = settings.placement.get(room) or DEFAULT.get(room, room)
        if cell.startswith("@"):
            cell = DEFAULT[room]  # the room itself stays here, and has others look for it
        for name, share in _shares(room, cell, wanted[room], settings).items():
            cells.setdefault(name, {})[room] = share
    return {name: CellPlan(name, tuple(rooms), rooms) for name, rooms in cells.items()}


def start_order(room: str) -> int:
    """Rooms that others listen to start first."""
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)


def _shares(room: str, cell: str, own: dict[str, bytes], settings: Settings) -> dict[str, dict[str, bytes]]:
    """Cell name -> its part of one room's slices. Only the checkers are ever divided."""
    count = _checker_cells(len(own), settings) if room == "checkers" else 1
    if count == 1:
        return {cell: own}
    names = [cell, *(f"{cell}-{number}" for number in range(2, count + 1))]
    shares: dict[str, dict[str, bytes]] = {name: {} for name in names}
    for slice_name, data in own.items():
        if slice_name == GLOBALS:
            for share in shares.values():
                share[slice_name] = data
        else:
            shares[_owner(slice_name, names)][slice_name] = data
    return {name: share for name, share in shares.items() if set(share) - {GLOBALS}}


def _checker_cells(servers: int, settings: Settings) -> int:
    if settings.cells.checkers:
        return settings.cells.checkers
    return max(1, min(CHECKER_CELLS_MAX, servers // SERVERS_PER_CHECKER_CELL))


def _owner(slice_name: str, names: list[str]) -> str:
    """Rendezvous hashing: one more cell moves only the share it takes."""
    return max(names, key=lambda name: hashlib.blake2b(f"{name}\0{slice_name}".encode(), digest_size=8).digest())


def digest(data: bytes) -> str:
    """What tells two versions of a slice apart."""
    return hashlib.blake2b(data, digest_size=12).hexdigest()
