"""How fast changes are told when thousands of sessions change together.

Each costs a message on the bus that wakes other processes, and a line in the log; the packets of those that did not
change come first.
"""

from __future__ import annotations

from collections.abc import Callable

from holdfast.actors.bfd.packet import State
from holdfast.actors.bfd.session_actor import Happened

AT_ONCE = 8
EVERY_S = 0.004
"""So many changes are told at once, and so many every so often."""

GREET_EVERY = 4
"""Losses are told before all others, of which so many have their turn only every fourth time: thousands that come Up
together need the processor for their packets."""


class Telling:
    """Tells a session's actor: at once, or in a moment when very many change together; then the newest counts."""

    def __init__(
        self, tell: Callable[[str, Happened], None], later: Callable[[float, Callable[[], None]], object]
    ) -> None:
        """later: the loop's call_later."""
        self._tell = tell
        self._later = later
        self._losses: dict[str, Happened] = {}
        self._others: dict[str, Happened] = {}
        self._may_tell = AT_ONCE
        self._may_greet = AT_ONCE
        self._turns = 0
        self._turn_ahead = False

    def say(self, name: str, happened: Happened) -> None:
        """A session has changed."""
        self.forget(name)
        lost = happened.changed.old is State.UP and happened.changed.new is not State.UP
        (self._losses if lost else self._others)[name] = happened
        self._tell_some()

    def forget(self, name: str) -> None:
        """Nothing is told of this session that was not told yet."""
        self._losses.pop(name, None)
        self._others.pop(name, None)

    def _tell_some(self) -> None:
        while self._losses and self._may_tell:
            self._tell_first(self._losses)
        while self._others and self._may_tell and self._may_greet:
            self._may_greet -= 1
            self._tell_first(self._others)
        if not self._turn_ahead:
            self._turn_ahead = True
            self._later(EVERY_S, self._next_turn)

    def _tell_first(self, waiting: dict[str, Happened]) -> None:
        self._may_tell -= 1
        name = next(iter(waiting))
        self._tell(name, waiting.pop(name))

    def _next_turn(self) -> None:
        self._turn_ahead = False
        self._turns += 1
        self._may_tell = AT_ONCE
        if self._turns % GREET_EVERY == 0:
            self._may_greet = AT_ONCE
        if self._losses or self._others or self._may_greet < AT_ONCE:
            self._tell_some()
