"""The rooms this installation has: whoever speaks of all messages imports them all."""

from __future__ import annotations

import importlib
import importlib.util

from holdfast.config.settings import ROOMS


def import_messages() -> list[str]:
    """Imports `messages` of every room, so that the registry of types is complete. Returns the modules' names."""
    found = []
    for room in ("runtime", *ROOMS):
        name = f"holdfast.actors.{room}.messages"
        try:
            if importlib.util.find_spec(name) is None:
                continue
        except ModuleNotFoundError:
            continue
        importlib.import_module(name)
        found.append(name)
    importlib.import_module("holdfast.bus.counters")
    return found
