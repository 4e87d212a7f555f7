"""regex, regex_options, regex_min_offset and regex_max_offset of HTTP_GET, with PCRE2's own semantics (pcre2.py).

keepalived feeds PCRE2 a buffer at a time with partial matching; here the whole answer (it is bounded) is searched once
at its end, which finds the same matches, and some that its partial matching misses (`$` at the very end).
"""

from __future__ import annotations

import msgspec

from holdfast.actors.checkers import pcre2
from holdfast.actors.checkers.config import Regex

_NO_EFFECT = pcre2.OPTIONS["auto_callout"] | pcre2.OPTIONS["use_offset_limit"]
"""Callouts call nobody here, and max_offset is looked at after the match."""


class PatternError(ValueError):
    """The pattern or an option is not PCRE2's."""


class Found(msgspec.Struct, frozen=True):
    """Where a pattern matched. start -1: nowhere. problem: it could not be searched (match limit, not UTF-8)."""

    start: int = -1
    problem: str = ""


class Pattern:
    """A compiled regex of one url."""

    def __init__(self, regex: Regex) -> None:
        """Raises PatternError."""
        options = 0
        for name in regex.options:
            option = pcre2.OPTIONS.get(name)
            if option is None:
                raise PatternError(f"unknown option {name}")
            options |= option
        try:
            # Without JIT (regex_stack is about its stack): the interpreter keeps what it must remember on the heap.
            self._code = pcre2.Code(regex.pattern.encode("utf-8", "surrogateescape"), options & ~_NO_EFFECT)
        except pcre2.Pcre2Error as error:
            raise PatternError(str(error)) from None
        self._min_offset = regex.min_offset
        self._max_offset = regex.max_offset
        self.no_match = regex.no_match

    def search(self, body: bytes) -> Found:
        """The first match that starts at min_offset or later and not after max_offset.

        The time is bounded by PCRE2's match limit (well under a second even for a pattern that explodes).
        """
        if self._min_offset > len(body):
            return Found()
        try:
            start = self._code.search(body, self._min_offset)
        except pcre2.Pcre2Error as error:
            return Found(problem=str(error))
        return Found() if self._max_offset and start > self._max_offset else Found(start)
