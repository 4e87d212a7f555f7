"""Points and spans of the monotonic clock, as types.

Pure: machines import this file too (by actors/runtime/machine.py).
"""

from __future__ import annotations

from typing import NewType

Instant = NewType("Instant", int)
"""A point of the monotonic clock in nanoseconds; comparable only within one host."""

Duration = NewType("Duration", int)
"""A span in nanoseconds."""
