"""Blocks and keywords: from lines to filled drafts.

The parser knows braces and where a keyword may stand; what is behind a keyword is its kind's business. A complaint
never stops it: an unknown keyword costs its line, or its block when it has one.
"""

from __future__ import annotations

import difflib

from holdfast.config.context import Context, MissingWord, Words
from holdfast.config.diagnostics import Severity
from holdfast.config.kinds import Block
from holdfast.config.source import Line
from holdfast.config.table import Draft, Keyword, Tables, index
from holdfast.config.text import first_brace, plain_brace, split_plain

MOST_SUGGESTIONS = 200


class _Level:
    """An open block: its keywords, what they fill, where it was opened. keywords None: it is skipped."""

    __slots__ = ("block", "draft", "keywords", "line", "opened", "path")

    def __init__(
        self, keywords: dict[str, Keyword] | None, draft: Draft, block: Block | None, line: Line, path: str
    ) -> None:
        self.keywords = keywords
        self.draft = draft
        self.block = block
        self.line = line
        self.path = path
        self.opened = False


class Parser:
    """Reads one configuration into a `Context`."""

    def __init__(self, context: Context, tables: Tables) -> None:
        self.context = context
        self.source = context.source
        roots = [keyword for room in tables for keyword in room.root]
        top = _Level(index(roots), context.root, None, context.root.line, "")
        top.opened = True
        self._stack = [top]
        self._indexed: dict[int, dict[str, Keyword]] = {}
        self._suggestions = 0
        # The last line was an unknown keyword: the block it may open is skipped without another word.
        self._unknown_before = False

    def run(self) -> None:
        """Reads all lines."""
        context = self.context
        source = self.source
        while (line := source.next_line()) is not None:
            text = line.text
            level = self._stack[-1]
            opens = False
            if "{" in text or "}" in text:
                at = first_brace(text) if not line.plain else plain_brace(text)
                if at == 0:
                    if len(text) > 1:
                        source.push(line.cut(1))
                    if text[0] == "{":
                        self._open(level, line)
                    else:
                        self._close(line)
                    continue
                if at > 0:
                    # The usual `keyword words {`: the brace need not go round through the source.
                    opens = at == len(text) - 1 and text[at] == "{"
                    if not opens:
                        source.push(line.cut(at))
                    if line.spans is None:
                        line.text = text[:at].rstrip()
                    else:
                        line = line.cut(0, at)
            if not level.opened:
                level.opened = True
                context.error(line, f"'{level.path.rpartition('/')[2]}' has no '{{'", "'{' behind the keyword")
            if level.keywords is None:
                if opens:
                    self._open(level, line)
                continue
            self._keyword(level, line.text.split() if line.plain else split_plain(line.text), line, opens)
        self._end()

    def _keyword(self, level: _Level, items: list[str], line: Line, opens: bool) -> None:
        """One keyword with its words. opens: a `{` ends the line."""
        assert level.keywords is not None
        keyword = level.keywords.get(items[0]) if items else None
        self._unknown_before = keyword is None
        if keyword is None:
            self._unknown(level, items, line)
            if opens:
                self._open(self._stack[-1], line)
            return
        if not keyword.plain:
            self.context.used(keyword, line)
        words = Words(self.context, items, line)
        kind = keyword.kind
        try:
            if isinstance(kind, Block):
                self._enter(kind, words, keyword, level)
                if opens:
                    self._open(self._stack[-1], line)
                return
            if opens:
                self.source.push(Line("{", line.file, line.number, line.column_at(len(line.text))))
            kind.take(words, keyword, level.draft)
        except MissingWord:
            shape = kind.shape
            words.error(f"'{keyword.name}' lacks a word", f"{keyword.name} {shape}" if shape else "", index=len(items))

    def _enter(self, kind: Block, words: Words, keyword: Keyword, level: _Level) -> None:
        """A keyword with keywords of its own."""
        draft = kind.open(words, level.draft)
        path = f"{level.path}/{keyword.name}" if level.path else keyword.name
        if draft is None:
            self._stack.append(_Level(None, level.draft, None, words.line, path))
            return
        keywords = self._indexed.get(id(kind))
        if keywords is None:
            keywords = self._indexed[id(kind)] = index(kind.block)
        self._stack.append(_Level(keywords, draft, kind, words.line, path))

    def _open(self, level: _Level, line: Line) -> None:
        self.context.open_brace(line)
        if level.keywords is None and level.opened:
            # Inside of what is skipped, blocks are only counted.
            inner = _Level(None, level.draft, None, line, level.path)
            inner.opened = True
            self._stack.append(inner)
        elif level.opened:
            if not self._unknown_before:
                hint = "a keyword that has a block before it"
                self.context.error(line, "unexpected '{': what it opens is skipped", hint)
            skipped = _Level(None, level.draft, None, line, level.path)
            skipped.opened = True
            self._stack.append(skipped)
        else:
            level.opened = True

    def _close(self, line: Line) -> None:
        if len(self._stack) == 1:
            self.context.error(line, "extra '}'", "no block is open here")
            return
        self.context.close_brace(line)
        level = self._stack.pop()
        if not level.opened:
            self.context.error(line, f"'{level.path.rpartition('/')[2]}' has no '{{'", "'{' behind the keyword")
        self._finish(level)

    def _finish(self, level: _Level) -> None:
        if level.block is not None:
            level.block.close(level.draft, self.context)

    def _unknown(self, level: _Level, items: list[str], line: Line) -> None:
        name = items[0] if items else ""
        hint = ""
        self._suggestions += 1
        if self._suggestions <= MOST_SUGGESTIONS:
            close = difflib.get_close_matches(name, level.keywords or (), 1)
            hint = f"did you mean '{close[0]}'?" if close else ""
        where = f" in {level.path}" if level.path else ""
        self.context.report(Severity.ERROR, line, f"unknown keyword '{name}'{where}", hint)

    def _end(self) -> None:
        """The end of the last file: what is still open is closed."""
        context = self.context
        missing = context.braces
        if missing > 0:
            first = context.open_braces[0] if context.open_braces else None
            text = f"{missing} missing '}}'" if missing > 1 else "a missing '}'"
            opened = (self._stack[1].path if len(self._stack) > 1 else "") or "a block"
            context.error(first, f"{text}: {opened} is never closed", "one } for each {")
        elif len(self._stack) > 1:
            level = self._stack[-1]
            context.report(Severity.NOTE, level.line, f"{level.path} is never closed", "one } for each {")
        while len(self._stack) > 1:
            self._finish(self._stack.pop())
