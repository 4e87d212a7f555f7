"""The kinds of arguments that keywords have: flags, numbers, times, words, addresses, commands, blocks."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any

from holdfast.config.context import Context, MissingWord, Words
from holdfast.config.table import Draft, Keyword, Kind
from holdfast.config.text import UnterminatedQuote, decimal, integer, split_shell_like
from holdfast.config.values import Script

TRUE = ("true", "on", "yes")
FALSE = ("false", "off", "no")


class Value(Kind):
    """A kind that reads one value; None leaves the field as it was."""

    def read(self, words: Words, index: int = 1) -> Any:
        """The value that starts at word `index`, or None after a complaint."""
        raise NotImplementedError

    def take(self, words: Words, keyword: Keyword, draft: Draft) -> None:
        """Reads the value into the keyword's field."""
        value = self.read(words)
        if value is not None:
            draft.values[keyword.field] = value
            draft.lines[keyword.field] = words.line


class Flag(Value):
    """No argument; what stands behind it is ignored, as keepalived does. value: what the field becomes."""

    def __init__(self, value: Any = True) -> None:
        self.value = value

    def read(self, words: Words, index: int = 1) -> Any:
        """The fixed value."""
        return self.value


class Bool(Value):
    """true, on, yes, false, off, no; bare means true."""

    shape = "[true|false]"

    def read(self, words: Words, index: int = 1) -> Any:
        """True, False, or None after a complaint."""
        if len(words) <= index:
            return True
        word = words.items[index]
        if word in TRUE:
            return True
        if word in FALSE:
            return False
        words.error(f"'{words.items[0]}' cannot be '{word}': ignored", "true|on|yes or false|off|no", index=index)
        return None


class Integer(Value):
    """A whole number from low to high. otherwise: what the field becomes when it is not one; None: nothing changes."""

    def __init__(self, low: int, high: int, *, otherwise: int | None = None, unit: str = "") -> None:
        self.low = low
        self.high = high
        self.otherwise = otherwise
        self.shape = f"{low}..{high}{unit and ' ' + unit}"

    def read(self, words: Words, index: int = 1) -> Any:
        """The number, or `otherwise` after a complaint."""
        word = words.word(index)
        number = integer(word)
        # Numbers without sign refuse even -0.
        if number is not None and self.low <= number <= self.high and not (self.low >= 0 and "-" in word):
            return number
        meant = "ignored" if self.otherwise is None else f"{self.otherwise} instead"
        words.error(f"'{words.items[0]}' cannot be '{word}': {meant}", f"a whole number, {self.shape}", index=index)
        return self.otherwise


class Time(Value):
    """A decimal time. low and high in the unit; the value is in `scale` to the unit (us: 1_000_000 to the second).

    places: decimals allowed. zero: what 0 becomes, with a complaint.
    """

    def __init__(
        self,
        low: float,
        high: float,
        *,
        unit: str = "s",
        scale: int = 1_000_000,
        places: int = 6,
        otherwise: float | None = None,
        zero: int | None = None,
    ) -> None:
        self.unit = 10**places
        self.places = places
        self.low = round(low * self.unit)
        self.high = round(high * self.unit)
        self.scale = scale
        self.otherwise = None if otherwise is None else round(otherwise * scale)
        self.zero = zero
        self.shape = f"{low:g}..{high:.7g} {unit}".replace("e+", "e")

    def read(self, words: Words, index: int = 1) -> Any:
        """The time in the scale, or `otherwise` after a complaint."""
        word = words.word(index)
        number = integer(word) if self.places == 0 else decimal(word, self.places)
        if number is None or not self.low <= number <= self.high or (self.places == 0 and "-" in word):
            kind = "a whole number" if self.places == 0 else f"a number with up to {self.places} decimals"
            words.error(f"'{words.items[0]}' cannot be '{word}': ignored", f"{kind}, {self.shape}", index=index)
            return self.otherwise
        if number == 0 and self.zero is not None:
            words.error(f"'{words.items[0]}' cannot be 0: {self.zero} instead", self.shape, index=index)
            number = self.zero * self.unit
        return number * self.scale // self.unit


class Word(Value):
    """Any one word. longest: what is cut off behind it, silently; 0: nothing. optional: it may be missing."""

    def __init__(self, shape: str = "WORD", *, longest: int = 0) -> None:
        self.shape = shape
        self.longest = longest

    def read(self, words: Words, index: int = 1) -> Any:
        """The word."""
        word = words.word(index)
        return word[: self.longest] if self.longest else word


class OptionalWord(Value):
    """A word that may be missing: then the field becomes `default`."""

    def __init__(self, shape: str, default: Any = "") -> None:
        self.shape = f"[{shape}]"
        self.default = default

    def read(self, words: Words, index: int = 1) -> Any:
        """The word or the default."""
        return words.items[index] if len(words) > index else self.default


class Choice(Value):
    """One of some words."""

    def __init__(self, choices: Iterable[str], *, otherwise: str | None = None) -> None:
        self.choices = tuple(choices)
        self.otherwise = otherwise
        self.shape = "|".join(self.choices)

    def read(self, words: Words, index: int = 1) -> Any:
        """The word, or `otherwise` after a complaint."""
        word = words.word(index)
        if word in self.choices:
            return word
        meant = "ignored" if self.otherwise is None else f"{self.otherwise} instead"
        words.error(f"'{words.items[0]}' cannot be '{word}': {meant}", self.shape, index=index)
        return self.otherwise


class Interface(Value):
    """The name of an interface. check: it has to exist."""

    shape = "INTERFACE"

    def __init__(self, *, check: bool = True) -> None:
        self.check = check

    def read(self, words: Words, index: int = 1) -> Any:
        """The name."""
        name = words.word(index)
        if self.check:
            words.context.has_interface(name, words.line, f"of '{words.items[0]}'", index)
        return name


def address(word: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address without prefix, or None."""
    try:
        return ipaddress.ip_address(word) if "%" not in word else None
    except ValueError:
        return None


def host_address(word: str) -> tuple[str, int] | None:
    """An IP address in its usual form, and its family; a prefix length behind it is ignored, as keepalived does for
    servers. None: it is none. Large configurations have tens of thousands of these."""
    text = word.partition("/")[0]
    try:
        if ":" not in text:
            socket.inet_pton(socket.AF_INET, text)
            return text, 4
        return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, text)), 6
    except (OSError, UnicodeError, ValueError):
        return None


class Command(Value):
    """A command line in quotes, and whom it runs as: "PROGRAM ARGUMENTS" [USER [GROUP]].

    Without quotes only the first word is the command. optional: may be missing, then the field is not set.
    """

    shape = '"PROGRAM [ARGUMENTS]" [USER [GROUP]]'

    def __init__(self, *, users: bool = True, whole_line: bool = False) -> None:
        self.users = users
        self.whole_line = whole_line

    def read(self, words: Words, index: int = 1) -> Any:
        """The `Script`, or None after a complaint."""
        try:
            items = split_shell_like(words.line.text)
        except UnterminatedQuote as error:
            words.error(f"unterminated {error.quote} in '{words.line.text}': ignored", f"close it with {error.quote}")
            return None
        if len(items) <= index:
            raise MissingWord
        try:
            argv = split_shell_like(items[index])
        except UnterminatedQuote as error:
            words.error(f"unterminated {error.quote} in the command '{items[index]}': ignored", "", index=index)
            return None
        user = items[index + 1] if self.users and len(items) > index + 1 else None
        group = items[index + 2] if self.users and len(items) > index + 2 else None
        return Script(argv=tuple(argv), user=user, group=group)


class Custom(Kind):
    """A kind whose reader is the room's own function: reader(words, draft)."""

    def __init__(self, reader: Callable[[Words, Draft], None], shape: str = "") -> None:
        self.reader = reader
        self.shape = shape

    def take(self, words: Words, keyword: Keyword, draft: Draft) -> None:
        """Calls the reader."""
        self.reader(words, draft)


class Lines(Kind):
    """A value block: each line goes to reader(words, draft). empty: the complaint when there is no line."""

    def __init__(self, reader: Callable[[Words, Draft], None], shape: str, *, empty: str = "") -> None:
        self.reader = reader
        self.shape = f"{{ {shape} ... }}"
        self.empty = empty

    def take(self, words: Words, keyword: Keyword, draft: Draft) -> None:
        """Reads the block line by line."""
        for line in words.context.value_lines(words, needs_lines=self.empty):
            try:
                self.reader(line, draft)
            except MissingWord:
                line.error(f"'{line.items[-1]}' lacks a word", "", index=len(line) - 1)


class Block(Kind):
    """A keyword with keywords of its own.

    opener(words, parent) gives the draft that they fill, or None when the block is to be skipped; closer(draft,
    context) is called at its end.
    """

    def __init__(
        self,
        keywords: Iterable[Keyword],
        opener: Callable[[Words, Draft], Draft | None],
        closer: Callable[[Draft, Context], None] | None = None,
        shape: str = "",
    ) -> None:
        self.block = tuple(keywords)
        self._opener = opener
        self._closer = closer
        self.shape = shape

    def open(self, words: Words, parent: Draft) -> Draft | None:
        """The draft for a new block."""
        return self._opener(words, parent)

    def close(self, draft: Draft, context: Context) -> None:
        """The block is complete."""
        if self._closer is not None:
            self._closer(draft, context)


def named_block(kind: str, *, unique: bool = True) -> Callable[[Words, Draft], Draft | None]:
    """An opener for blocks with a name: `vrrp_instance NAME {`. They are gathered in `context.named(kind)`."""

    def opener(words: Words, parent: Draft) -> Draft | None:
        if len(words) != 2:
            words.error(f"'{kind}' must have one name: block skipped", f"{kind} NAME {{")
            return None
        name = words.items[1]
        gathered = words.context.named(kind)
        if name in gathered and unique:
            first = gathered[name].line
            words.error(f"{kind} '{name}' is already defined: block skipped", f"first in line {first.number}", index=1)
            return None
        draft = Draft(words.line, name, parent)
        gathered[name] = draft
        return draft

    return opener
