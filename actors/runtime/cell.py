"""A cell: one process, one asyncio loop, several rooms."""

from __future__ import annotations

from holdfast.actors.runtime.context import CellContext, Generation

__all__ = ["CellContext", "Generation"]
