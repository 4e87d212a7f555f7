"""The words of a line: quotes, escapes, braces, numbers. Pure functions on text; no positions, no files.

Two ways of splitting exist (keepalived.conf(5), "Quoted strings"): the plain one, in which `"` is the only quote and
nothing is escaped, and the shell-like one of keywords that take a command.
"""

from __future__ import annotations

import re

BLANKS = " \t\f\n\r\v"
SPECIAL = re.compile(r'["#!$~@\\\x00\f\r\v\x1c-\x1f]|[^\x00-\x7f]')
"""A line without any of these (and without braces) is split by blanks alone; nearly all lines are like that."""

_TOKEN = re.compile(r'"([^"]*)"?|([^" \t\f\n\r\v]+)')
_QUOTED_OR_BRACE = re.compile(r'"[^"]*"?|[{}]')
MOST_DIGITS = 40
_ESCAPES = {"a": "\a", "b": "\b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_DECIMAL = re.compile(r"\+?([0-9]*)(?:\.([0-9]*))?\Z")


def split_plain(text: str) -> list[str]:
    """Words in the plain way: `"a b"` is one word, and a quote ends the word before it."""
    if SPECIAL.search(text) is None:
        return text.split()
    return [quoted if bare == "" else bare for quoted, bare in _TOKEN.findall(text)]


def token_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every word of `split_plain(text)`, quotes included."""
    return [match.span() for match in _TOKEN.finditer(text)]


def first_brace(text: str) -> int:
    """Index of the first brace outside double quotes, or -1."""
    for match in _QUOTED_OR_BRACE.finditer(text):
        if match.group()[0] != '"':
            return match.start()
    return -1


def plain_brace(text: str) -> int:
    """As `first_brace`, of a text without quotes."""
    opening, closing = text.find("{"), text.find("}")
    return opening if closing < 0 or 0 <= opening < closing else closing


def strip_comment(text: str) -> tuple[str, bool]:
    """The line without its comment, and whether its quotes are closed. `\\#` and `\\!` become plain characters."""
    if '"' not in text and "\\" not in text:
        for mark in "#!":
            at = text.find(mark)
            if at >= 0:
                text = text[:at]
        return text, True
    out: list[str] = []
    quoted = False
    index = 0
    while index < len(text):
        char = text[index]
        if char == '"':
            quoted = not quoted
        elif not quoted:
            if char in "#!":
                break
            if char == "\\" and text[index + 1 : index + 2] in ("#", "!"):
                index += 1
                char = text[index]
        out.append(char)
        index += 1
    return "".join(out), not quoted


class UnterminatedQuote(ValueError):
    """A command's quote is not closed. quote: the character that is missing."""

    def __init__(self, quote: str) -> None:
        super().__init__(quote)
        self.quote = quote


def split_shell_like(text: str) -> list[str]:
    """Words in the way of commands: both quotes, `\\n`, `\\x41`, `\\101`, `\\cX`; raises `UnterminatedQuote`."""
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    index = 0
    while index < len(text):
        char = text[index]
        index += 1
        if char == "\\" and index < len(text):
            decoded, index = _escape(text, index)
            word = [] if word is None else word
            word.append(decoded)
        elif quote:
            if char == quote:
                quote = ""
            else:
                assert word is not None
                word.append(char)
        elif char in "\"'":
            quote = char
            word = [] if word is None else word
        elif char in BLANKS:
            if word is not None:
                words.append("".join(word))
                word = None
        else:
            word = [] if word is None else word
            word.append(char)
    if quote:
        raise UnterminatedQuote(quote)
    if word is not None:
        words.append("".join(word))
    return words


def _escape(text: str, index: int) -> tuple[str, int]:
    """The character after a backslash at index, and where reading goes on."""
    char = text[index]
    if char in _ESCAPES:
        return _ESCAPES[char], index + 1
    if char == "x":
        match = re.compile("[0-9a-fA-F]{1,2}").match(text, index + 1)
        return (chr(int(match.group(), 16)), match.end()) if match else (char, index + 1)
    if char in "01234567":
        match = re.compile("[0-7]{1,3}").match(text, index)
        assert match is not None
        return chr(int(match.group(), 8) & 0xFF), match.end()
    if char == "c" and index + 1 < len(text):
        return chr(ord(text[index + 1].upper()) & 0x1F), index + 2
    return char, index + 1


def integer(text: str) -> int | None:
    """A whole number in decimal (`+5`; `010` is ten; nothing at all is 0), or None."""
    if text.isdigit() and len(text) < 20 and text.isascii():
        return int(text)
    text = text.lstrip(BLANKS)
    if not text:
        return 0
    return int(text) if len(text) <= MOST_DIGITS and _INTEGER.match(text) else None


def decimal(text: str, places: int) -> int | None:
    """A number without sign as an integer of 10**-places units, or None (also for more decimal places than that)."""
    if text.isdigit() and len(text) < 20 and text.isascii():
        return int(text) * int(10**places)
    match = _DECIMAL.match(text.lstrip(BLANKS))
    if match is None or len(text) > MOST_DIGITS:
        return None
    whole, fraction = match.group(1), match.group(2) or ""
    if len(fraction) > places:
        return None
    return int(f"{whole or 0}{fraction.ljust(places, '0')}")
