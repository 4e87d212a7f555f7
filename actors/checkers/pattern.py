"""regex, regex_options, regex_min_offset and regex_max_offset of HTTP_GET: PCRE2's own semantics, by PCRE2.

keepalived feeds PCRE2 a buffer at a time with partial matching; here the whole answer (it is bounded) is searched once
at its end, which finds the same matches, and some that its partial matching misses (`$` at the very end).
"""

from __future__ import annotations

import msgspec
import pcre2

from holdfast.actors.checkers.config import Regex

OPTIONS: dict[str, int] = {
    "allow_empty_class": 0x00000001,
    "alt_bsux": 0x00000002,
    "auto_callout": 0,  # callouts call nobody here
    "caseless": 0x00000008,
    "dollar_endonly": 0x00000010,
    "dotall": 0x00000020,
    "dupnames": 0x00000040,
    "extended": 0x00000080,
    "firstline": 0x00000100,
    "match_unset_backref": 0x00000200,
    "multiline": 0x00000400,
    "never_ucp": 0x00000800,
    "never_utf": 0x00001000,
    "no_auto_capture": 0x00002000,
    "no_auto_possess": 0x00004000,
    "no_dotstar_anchor": 0x00008000,
    "no_start_optimize": 0x00010000,
    "ucp": 0x00020000,
    "ungreedy": 0x00040000,
    "utf": 0x00080000,
    "never_backslash_c": 0x00100000,
    "alt_circumflex": 0x00200000,
    "alt_verbnames": 0x00400000,
    "use_offset_limit": 0,  # max_offset is looked at here
}
"""pcre2.h: the compile option of each name."""


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
        flags = 0
        for name in regex.options:
            option = OPTIONS.get(name)
            if option is None:
                raise PatternError(f"unknown option {name}")
            flags |= option
        try:
            # With JIT (regex_stack is about its stack), which falls back to the interpreter by itself.
            self._code = pcre2.compile(regex.pattern.encode("utf-8", "surrogateescape"), flags)
        except (pcre2.PatternError, pcre2.LibraryError) as error:
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
            match = self._code.search(body, self._min_offset)
        except pcre2.LibraryError as error:
            return Found(problem=str(error))
        if match is None:
            return Found()
        start = match.start()
        return Found() if self._max_offset and start > self._max_offset else Found(start)
