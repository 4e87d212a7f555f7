"""The door of the worker: this node runs other nodes' checks.

All of it is the checkers' own (actors/checkers/hosting.py): the same checks, with other people to tell. It is a room
by itself because it has a cell of its own: what other nodes order must not be in the way of this node's checks.
"""

from __future__ import annotations

from holdfast.actors.checkers.hosting import start

__all__ = ["start"]
