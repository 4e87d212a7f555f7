"""How trackers move a priority: contributions with names, a sum without limits, a result within 1 to 254.

The rules are keepalived's (keepalived.conf(5), track_script and the others). Counterpart: `trackers.py`.
"""

from __future__ import annotations

OWNER = 255
LEAST = 1
MOST = 254
FILE_FAULT = -254
"""A file whose value times weight is this or less is a fault."""
FILE_LIMIT = 253


def contribution_of_state(weight: int, reverse: bool, up: bool) -> int | None:
    """What an interface, script, process or BFD session adds to the priority; None: it is a fault.

    weight above 0 adds while up, below 0 subtracts while down; 0: down is a fault. reverse turns the sign, and with
    weight 0 makes up the fault.
    """
    if weight == 0:
        return None if up == reverse else 0
    if (weight > 0) == up:
        return -weight if reverse else weight
    return 0


def contribution_of_value(weight: int, reverse: bool, value: int) -> int | None:
    """What the number in a file adds: value times weight, at most 253; None: a fault, at -254 or less.

    weight 0: any value but 0 is a fault (reverse: 0 is).
    """
    if weight == 0:
        return None if (value == 0) == reverse else 0
    product = -value * weight if reverse else value * weight
    if product <= FILE_FAULT:
        return None
    return min(product, FILE_LIMIT)


class Priority:
    """A base and what trackers add to it."""

    __slots__ = ("_base", "_parts", "effective")

    def __init__(self, base: int) -> None:
        self._base = base
        self._parts: dict[str, int] = {}
        self.effective = 0
        """What goes into adverts: 1..254, or 255 for an address owner, whom no weight moves."""
        self._settle()

    @property
    def base(self) -> int:
        """As configured."""
        return self._base

    @base.setter
    def base(self, value: int) -> None:
        self._base = value
        self._settle()

    @property
    def total(self) -> int:
        """The sum without limits: a change outside 1..254 is remembered, not seen."""
        return self._base + sum(self._parts.values())

    @property
    def parts(self) -> dict[str, int]:
        """Who adds how much; without zeros."""
        return {key: value for key, value in self._parts.items() if value}

    def put(self, key: str, value: int) -> None:
        """`key` adds `value` from now on."""
        self._parts[key] = value
        self._settle()

    def drop(self, key: str) -> None:
        """`key` adds nothing any more."""
        if self._parts.pop(key, None) is not None:
            self._settle()

    def _settle(self) -> None:
        self.effective = OWNER if self._base == OWNER else min(MOST, max(LEAST, self.total))
