"""All message types of all rooms, imported: for the schema, the journal and whoever reads other cells' events."""

from __future__ import annotations

import importlib
import logging
import pkgutil

import holdfast.actors

log = logging.getLogger(__name__)


def import_messages() -> list[str]:
    """Imports the `messages` of every room. Returns the names of the rooms that have one."""
    rooms = []
    importlib.import_module("holdfast.bus.counters")
    for found in pkgutil.iter_modules(holdfast.actors.__path__):
        name = f"holdfast.actors.{found.name}.messages"
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            continue
        rooms.append(found.name)
    return rooms
