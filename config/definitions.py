"""`$NAME=TEXT` definitions and their expansion (keepalived.conf(5), "Definitions").

Substitution is late: a body keeps the names in it until it is used. So a definition gets "parameters" by setting
others before its use.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

import msgspec

MOST_SUBSTITUTIONS = 2_000

_USE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)((?:[ \t][^{}]*)?)\}|([A-Za-z_][A-Za-z0-9_]*)(?=[ \t\f\r\v,)]|$))")


class ExpansionError(ValueError):
    """A line cannot be expanded. index: where in the line; hint: what would be right."""

    def __init__(self, text: str, index: int, hint: str) -> None:
        super().__init__(text)
        self.index = index
        self.hint = hint


class ExpansionWarning(msgspec.Struct, frozen=True):
    """Something to say about an expansion that worked."""

    text: str
    index: int
    hint: str

    def __str__(self) -> str:
        return self.text


class Expansion(msgspec.Struct, frozen=True):
    """What became of a line. spans: (index in the result, index in the line, from a definition?) of each piece; none
    when nothing was replaced. further: more lines, which come from the use at further_index."""

    text: str
    spans: tuple[tuple[int, int, bool], ...] = ()
    further: tuple[str, ...] = ()
    further_index: int = 0
    warnings: tuple[ExpansionWarning, ...] = ()


class Definitions:
    """The definitions that are in force at a place of the configuration."""

    def __init__(self, config_id: str, environment: Mapping[str, str], chance: random.Random) -> None:
        self._bodies: dict[str, tuple[str, ...]] = {}
        self._config_id = config_id
        self._environment = environment
        self._chance = chance

    def seed(self, seed: int) -> None:
        """`random_seed`: what `${_RANDOM}` gives from here on."""
        self._chance.seed(seed)

    def set(self, name: str, body: tuple[str, ...]) -> None:
        """Defines or redefines a name; several lines make a multi-line definition."""
        self._bodies[name] = body

    def expand(self, text: str, directory: str, most_bytes: int) -> Expansion:
        """The text with all known names replaced, again and again; raises `ExpansionError`."""
        # Pieces still to be looked at, the next on top: (text, index in the line, from a definition?).
        todo = [(text, 0, False)]
        out: list[str] = []
        spans: list[tuple[int, int, bool]] = []
        warnings: list[ExpansionWarning] = []
        further: tuple[str, ...] = ()
        further_index = 0
        size = 0
        replaced = 0
        while todo:
            piece, origin, inside = todo.pop()
            match = _USE.search(piece)
            value = None
            while match is not None:
                value = self._value(match, directory, origin + (0 if inside else match.start()), warnings)
                if value is not None:
                    break
                match = _USE.search(piece, match.end())
            head = piece if match is None else piece[: match.start()]
            if head:
                spans.append((size, origin, inside))
                out.append(head)
                size += len(head)
            if match is None or value is None:
                continue
            replaced += 1
            at = origin if inside else origin + match.start()
            if replaced > MOST_SUBSTITUTIONS or size + sum(len(part[0]) for part in todo) > 4 * most_bytes:
                raise ExpansionError(f"the expansion of '{match.group()}' never ends", at, "a definition uses itself")
            tail = piece[match.end() :]
            if len(value) > 1:
                if tail.strip() or any(part[0].strip() for part in todo):
                    hint = "several lines can only stand at the end of a line"
                    raise ExpansionError(f"'{match.group()}' has several lines", at, hint)
                further = (*value[1:], *further)
                further_index = at
            if tail:
                todo.append((tail, origin if inside else origin + match.end(), inside))
            if value[0]:
                todo.append((value[0], at, True))
        result = "".join(out)
        if not replaced:
            return Expansion(text, (), (), 0, tuple(warnings))
        if len(result) > most_bytes and len(result.encode("utf-8", "surrogateescape")) > most_bytes:
            raise ExpansionError("line too long after expansion: ignored", 0, f"at most {most_bytes} bytes")
        return Expansion(result, tuple(spans) or ((0, 0, True),), further, further_index, tuple(warnings))

    def _value(
        self, use: re.Match[str], directory: str, index: int, warnings: list[ExpansionWarning]
    ) -> tuple[str, ...] | None:
        """The lines that a use stands for, or None when it stays as it is."""
        name = use.group(1) or use.group(3)
        words = (use.group(2) or "").split()
        body = self._bodies.get(name)
        if body is not None:
            return body if not words else None
        if name == "_RANDOM" and use.group(1):
            return self._random(words)
        if name == "_ENV" and len(words) == 1:
            text = f"'{use.group()}': keepalived 2.2.7 does not know ${{_ENV}}"
            warnings.append(ExpansionWarning(text, index, "works here and in newer ones"))
            return (self._environment.get(words[0], ""),)
        if words:
            return None
        predefined = {"_PWD": directory, "_INSTANCE": self._config_id, "_HASH": "#", "_BANG": "!"}.get(name)
        return None if predefined is None or not use.group(1) else (predefined,)

    def _random(self, words: list[str]) -> tuple[str, ...] | None:
        """`${_RANDOM [MIN [MAX]]}`."""
        if len(words) > 2 or not all(re.fullmatch("[0-9]{1,10}", word) for word in words):
            return None
        low = int(words[0]) if words else 0
        high = int(words[1]) if len(words) > 1 else 32767
        return (str(self._chance.randint(low, high) if low <= high else low),)
