"""What a keyword's reader sees: the words of its line, and the configuration as read so far.

`Words` complains with the place of a word; `Context` gathers the blocks of all rooms until they are finished.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.config.diagnostics import Diagnostics, Severity
from holdfast.config.host import Host
from holdfast.config.source import Line, Source
from holdfast.config.table import Draft, Status
from holdfast.config.text import first_brace, split_plain, token_spans

if TYPE_CHECKING:
    from holdfast.config.table import Keyword


class MissingWord(Exception):
    """A keyword lacks a word that it needs."""


class Words:
    """The words of one line; items[0] is the keyword, or the first word of a line in a value block."""

    __slots__ = ("context", "items", "line")

    def __init__(self, context: Context, items: list[str], line: Line) -> None:
        self.context = context
        self.items = items
        self.line = line

    def __len__(self) -> int:
        return len(self.items)

    def word(self, index: int = 1) -> str:
        """The word at `index`; raises `MissingWord`."""
        try:
            return self.items[index]
        except IndexError:
            raise MissingWord from None

    def error(self, text: str, hint: str = "", *, index: int | None = None) -> None:
        """Something written is wrong and is ignored or changed. index: the word in question."""
        self.context.report(Severity.ERROR, self.line, text, hint, index)

    def warning(self, text: str, hint: str = "", *, index: int | None = None) -> None:
        """Something is not as it should be, but takes effect."""
        self.context.report(Severity.WARNING, self.line, text, hint, index)

    def note(self, text: str, hint: str = "", *, index: int | None = None) -> None:
        """Something worth knowing that does not change the verdict."""
        self.context.report(Severity.NOTE, self.line, text, hint, index)


class Context:
    """A configuration being read.

    structs: the slices of rooms that are finished. shared: what a finished room leaves for later ones.
    """

    def __init__(self, source: Source, diagnostics: Diagnostics, host: Host) -> None:
        self.source = source
        self.diagnostics = diagnostics
        self.host = host
        self.braces = 0
        self.open_braces: list[Line] = []
        start = Line("", "", 0, 0)
        self.globals = Draft(start, "global_defs")
        self.root = Draft(start, "(root)")
        self.blocks: dict[str, dict[str, Draft]] = {}
        self.structs: dict[str, dict[str, msgspec.Struct]] = {}
        self.shared: dict[str, list[Any]] = {}
        self.unacted: dict[str, Line] = {}
        # Which processes run scripts, and whether others than root can change one of them.
        self.scripts_seen: dict[str, bool] = {}
        self.missing_interfaces = False
        self.has_services = False
        self.missing: list[tuple[str, Line, str, int | None, Severity]] = []

    # -- blocks --------------------------------------------------------------------------------------------------

    def named(self, kind: str) -> dict[str, Draft]:
        """The blocks of one kind that were read so far, by name, in order."""
        return self.blocks.setdefault(kind, {})

    def value_lines(self, words: Words, *, needs_lines: str = "") -> Iterator[Words]:
        """The lines of a value block, word by word, up to its `}`. needs_lines: the complaint when there are none."""
        if len(words) > 1:
            extra = " ".join(words.items[1:])
            words.error(
                f"'{words.items[0]}' takes no words before its block: '{extra}' ignored", "remove them", index=1
            )
        opened = False
        lines = 0
        while (line := self.source.next_line()) is not None:
            text = line.text
            at = first_brace(text) if "{" in text or "}" in text else -1
            if at == 0:
                if len(text) > 1:
                    self.source.push(line.cut(1))
                if text[0] == "}":
                    self.close_brace(line)
                    break
                self.open_brace(line)
                if opened:
                    self.report(Severity.ERROR, line, "unexpected '{': ignored", "one { for each block")
                opened = True
                continue
            if not opened:
                self.report(Severity.NOTE, line, f"'{words.items[0]}' has no '{{'", "'{' behind the keyword")
                opened = True
            if at > 0:
                self.source.push(line.cut(at))
                line = line.cut(0, at)
            lines += 1
            yield Words(self, split_plain(line.text), line)
        if needs_lines and not lines:
            words.error(needs_lines, "one entry a line")

    def open_brace(self, line: Line) -> None:
        """Counts a `{`."""
        self.braces += 1
        if len(self.open_braces) < 1000:
            self.open_braces.append(line)

    def close_brace(self, line: Line) -> None:
        """Counts a `}`."""
        self.braces -= 1
        if self.braces < 0:
            self.braces = 0
            self.error(line, "extra '}'", "no block is open here")
        if self.open_braces:
            self.open_braces.pop()

    # -- complaints ----------------------------------------------------------------------------------------------

    def report(
        self, severity: Severity, line: Line | None, text: str, hint: str = "", index: int | None = None
    ) -> None:
        """Adds a diagnostic at a line, or at one of its words."""
        if line is None or not line.number:
            self.diagnostics.add(None, severity, text, hint)
            return
        at = 0
        if index is not None:
            spans = token_spans(line.text)
            at = spans[index][0] if index < len(spans) else len(line.text)
        self.diagnostics.add(line.position(at), severity, text, hint)

    def error(self, line: Line | None, text: str, hint: str = "", index: int | None = None) -> None:
        """As `report`, for errors."""
        self.report(Severity.ERROR, line, text, hint, index)

    def used(self, keyword: Keyword, line: Line) -> None:
        """Says what there is to say about the use of a keyword."""
        if keyword.newer:
            self.report(
                Severity.WARNING, line, f"'{keyword.name}' is newer than keepalived 2.2.7", "older ones ignore it", 0
            )
        if keyword.deprecated:
            hint = f"use {keyword.deprecated}"
            severity = Severity.WARNING if keyword.loud else Severity.NOTE
            self.report(severity, line, f"'{keyword.name}' is deprecated", hint, 0)
        if keyword.status is Status.ACCEPTED and keyword.name not in self.unacted:
            self.unacted[keyword.name] = line
            self.report(Severity.NOTE, line, f"'{keyword.name}' is accepted and not yet acted on", "", 0)

    # -- interfaces ----------------------------------------------------------------------------------------------

    def has_interface(
        self, name: str, line: Line, what: str, index: int | None = None, *, severity: Severity = Severity.ERROR
    ) -> bool:
        """Whether an interface exists; a missing one is complained of at the end, without `dynamic_interfaces`."""
        if self.host.interface(name) is not None:
            return True
        self.missing.append((name, line, what, index, severity))
        return False

    def report_missing_interfaces(self) -> None:
        """All of global_defs is known now: complains of interfaces that do not exist and may not come later."""
        if self.globals.get("dynamic_interfaces"):
            return
        for name, line, what, index, severity in self.missing:
            hint = "dynamic_interfaces allows it to come later"
            self.missing_interfaces |= severity is Severity.ERROR
            self.report(severity, line, f"interface '{name}' {what} does not exist", hint, index)
