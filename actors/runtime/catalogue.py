"""The types of the rooms, imported: for the schema, the journal and whoever reads other cells' events; and made ready
before cells are forked.
"""

from __future__ import annotations

import contextlib
import encodings.ascii  # noqa: F401 - opened files of the kernel name it; once here instead of in every cell
import importlib
import logging
import pkgutil
from collections.abc import Mapping

import msgspec

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


def warm(room: str) -> None:
    """Looks through the types of a room's configuration and messages, so that no cell has to when it is put back.

    msgspec does so when a type is first decoded (10 ms of processor time for VRRP) and remembers it in the type.
    """
    for part in ("config", "messages"):
        name = f"holdfast.actors.{room}.{part}"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            continue
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                # A type that cannot be decoded on its own is not decoded in a cell either.
                with contextlib.suppress(TypeError, NameError):
                    msgspec.msgpack.Decoder(kind)


def prepare(room: str, slices: Mapping[str, bytes]) -> None:
    """Lets a room import what only some configurations need: `holdfast.actors.<room>.actor:prepare(slices)`, if any."""
    ask = getattr(importlib.import_module(f"holdfast.actors.{room}.actor"), "prepare", None)
    if ask is not None:
        ask(slices)
