"""`~SEQ`, `~SEQx` and `~LST`: one line repeated with variables set (keepalived.conf(5), "Sequence blocks")."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from holdfast.config.definitions import Definitions

_HEAD = re.compile(r"~(SEQx?|LST)[ \t]*\(")
_NUMBER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+)\Z")
_GROUP = re.compile(r"\s*\{([^{}]*)\}\s*(?:,|\Z)")
_DIGIT = "[0-9]"


class GeneratorError(ValueError):
    """A generator that cannot be read. hint: how it is written."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


class Generator(msgspec.Struct, frozen=True):
    """names: the variables. values: what they become, a tuple for each repetition. body: where the text starts."""

    names: tuple[str, ...]
    values: Iterable[tuple[str, ...]]
    body: int


def is_generator(text: str) -> bool:
    """Whether a line starts with a generator."""
    return _HEAD.match(text) is not None


def read_generator(text: str, definitions: Definitions) -> Generator:
    """Reads the generator a line starts with; raises `GeneratorError`."""
    head = _HEAD.match(text)
    assert head is not None
    end = text.find(")", head.end())
    if end < 0:
        raise GeneratorError(f"'{text}' has no ')'", "~SEQ(var, start, step, end) TEXT")
    inside = definitions.expand(text[head.end() : end], ".", 4096).text
    if head.group(1) == "LST":
        return _list(text, inside, end + 1)
    return _sequence(text, inside, end + 1, hexadecimal=head.group(1) == "SEQx")


def _sequence(text: str, inside: str, body: int, *, hexadecimal: bool) -> Generator:
    words = [word for word in re.split(r"[\s,]+", inside) if word]
    hint = "~SEQ(var, start, step, end) TEXT, with whole numbers"
    if not 2 <= len(words) <= 4 or not all(_NUMBER.match(word) and len(word) < 20 for word in words[1:]):
        raise GeneratorError(f"invalid ~SEQ '{text}'", hint)
    numbers = [_c_number(word) for word in words[1:]]
    if len(numbers) == 1:
        end = numbers[0]
        start, step = (-1 if end < 0 else 1), (-1 if end < 1 else 1)
    elif len(numbers) == 2:
        start, end = numbers
        step = 1 if start <= end else -1
    else:
        start, step, end = numbers
    if step == 0 or (end - start) * step < 0:
        raise GeneratorError(f"~SEQ '{text}' never reaches its end", "a step from start towards end")
    if hexadecimal and (start < 0 or end < 0):
        raise GeneratorError(f"~SEQx is for numbers from 0: '{text}'", hint)
    values = range(start, end + (1 if step > 0 else -1), step)
    shape = "x" if hexadecimal else "d"
    return Generator((words[0],), ((format(value, shape),) for value in values), body)


def _c_number(text: str) -> int:
    """A number in C's notation: 0x.. hexadecimal, 0.. octal."""
    sign = -1 if text[0] == "-" else 1
    digits = text.lstrip("+-")
    if digits[:2].lower() == "0x":
        return sign * int(digits, 16)
    if len(digits) > 1 and digits[0] == "0" and not set(digits) & {"8", "9"}:
        return sign * int(digits, 8)
    return sign * int(digits)


def _list(text: str, inside: str, body: int) -> Generator:
    hint = "~LST(var, v1, v2) TEXT or ~LST({a, b}, {a1, b1}, {a2, b2}) TEXT"
    if "{" not in inside:
        words = [word.strip() for word in inside.split(",")]
        if len(words) < 2 or not words[0]:
            raise GeneratorError(f"invalid ~LST '{text}'", hint)
        return Generator((words[0],), [(word,) for word in words[1:]], body)
    groups = list(_groups(inside, text, hint))
    names = groups[0]
    if len(groups) < 2 or not all(names):
        raise GeneratorError(f"invalid ~LST '{text}'", hint)
    if any(len(group) > len(names) for group in groups[1:]):
        raise GeneratorError(f"~LST has more values than variables: '{text}'", hint)
    return Generator(names, [(*group, *[""] * (len(names) - len(group))) for group in groups[1:]], body)


def _groups(inside: str, text: str, hint: str) -> Iterator[tuple[str, ...]]:
    at = 0
    while at < len(inside):
        match = _GROUP.match(inside, at)
        if match is None:
            raise GeneratorError(f"invalid ~LST '{text}'", hint)
        yield tuple(word.strip() for word in match.group(1).split(","))
        at = match.end()
