"""From files to lines: includes, comments, conditionals, definitions, generators (keepalived.conf(5)).

`Source.next_line()` gives one line after the other with everything expanded. Braces are the parser's business: what it
cuts off behind a brace it gives back with `push()`, and it is read again as a line of its own. Each line remembers the
file, the line and, through every expansion, the column its text came from.

Everything is bounded: the length of a line, the number of expansions, the depth and number of includes.
"""

from __future__ import annotations

import os
import random
import re
import stat
from collections.abc import Iterator, Mapping

from holdfast.config import include
from holdfast.config.definitions import Definitions, ExpansionError
from holdfast.config.diagnostics import Diagnostics, Position, Severity
from holdfast.config.generators import GeneratorError, is_generator, read_generator
from holdfast.config.text import BLANKS, SPECIAL, strip_comment

MOST_LINE_BYTES = 1023
MOST_EXPANDED_LINES = 3_000_000
MOST_FILE_BYTES = 256 << 20
MOST_FILES = 10_000
MOST_INCLUDE_DEPTH = 64

_CONDITION = re.compile(r"@(\^?)([^ \t\f\n\r\v]*)")
_DEFINITION = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)=")


class Line:
    """One line to be parsed. text: stripped. column: of its first character.

    plain: no quotes, nothing to expand. spans: where pieces of the text came from, as (index in text, column); a
    negative column is that of a definition's use: all characters of the piece stand there.
    """

    __slots__ = ("column", "file", "number", "plain", "spans", "text")

    def __init__(
        self, text: str, file: str, number: int, column: int, spans: tuple[tuple[int, int], ...] | None = None
    ) -> None:
        self.text = text
        self.file = file
        self.number = number
        self.column = column
        self.spans = spans
        self.plain = False

    def column_at(self, index: int) -> int:
        """The column, from 1, of the character at `index`."""
        column = self.column + index
        for start, at in self.spans or ():
            if start > index:
                break
            column = -at if at < 0 else at + index - start
        return column

    def position(self, index: int = 0) -> Position:
        """The place of the character at `index`."""
        return Position(self.file, self.number, self.column_at(index))

    def cut(self, start: int, end: int | None = None) -> Line:
        """The piece from start to end, stripped, with its own place."""
        piece = self.text[start:end]
        start += len(piece) - len(piece.lstrip(BLANKS))
        text = piece.strip(BLANKS)
        if self.spans is None:
            line = Line(text, self.file, self.number, self.column_at(start))
            line.plain = self.plain and not text.startswith("include")
            return line
        spans = [
            (max(at - start, 0), column if column < 0 or at >= start else column + start - at)
            for at, column in self.spans
        ]
        return Line(text, self.file, self.number, self.column_at(start), tuple(spans))


class _OpenFile:
    """A file being read. next: index of the line to come. check: what plain includes in it demand.

    Its lines are cut off one by one: all of a large file at once would be as much memory again.
    """

    __slots__ = ("_at", "_text", "check", "directory", "identity", "name", "next")

    def __init__(self, name: str, directory: str, text: str, identity: tuple[int, int], check: frozenset[str]) -> None:
        self.name = name
        self.directory = directory
        self.next = 0
        self.identity = identity
        self.check = check
        self._text = text
        self._at = 0

    def line(self) -> str | None:
        """The next line as it stands in the file; None at its end."""
        start = self._at
        if start < 0:
            return None
        self.next += 1
        end = self._text.find("\n", start)
        if end < 0:
            self._at = -1
            return self._text[start:]
        self._at = end + 1
        return self._text[start:end]


class Source:
    """The lines of a configuration, in order.

    config_id: what `@ID` lines are compared with. environment: for `${_ENV NAME}`. seed: of `${_RANDOM}`.
    check_all: every include demands everything (keepalived's --all-config).
    """

    def __init__(
        self,
        diagnostics: Diagnostics,
        *,
        config_id: str,
        environment: Mapping[str, str],
        seed: int | None = None,
        check_all: bool = False,
    ) -> None:
        self.diagnostics = diagnostics
        self.config_id = config_id
        self.definitions = Definitions(config_id, environment, random.Random(seed))
        self.check_all = check_all
        self.files: list[str] = []
        self._open: list[_OpenFile] = []
        # What is to be read, the next on top: files, pieces of lines, the lines of a generator.
        self._stack: list[_OpenFile | Line | Iterator[Line]] = []
        self._expanded = 0

    # -- files ---------------------------------------------------------------------------------------------------

    def open_main(self, pattern: str) -> bool:
        """Opens the file or files of the top level; False when there is none."""
        found = include.matches(pattern, os.getcwd())
        if len(found.paths) > 1:
            text = f"{len(found.paths)} files match '{pattern}': all are read, in order"
            self.diagnostics.add(None, Severity.NOTE, text)
        self._push_files([file for path in found.paths if (file := self._read(path, None, include.NONE)) is not None])
        return bool(found.paths)

    def set_include_check(self, demands: frozenset[str]) -> None:
        """`include_check`: what plain includes of the present file demand from here on."""
        if self._open:
            self._open[-1].check = demands

    @property
    def include_check(self) -> frozenset[str]:
        """What plain includes demand at this place."""
        return self._open[-1].check if self._open else include.NONE

    @property
    def directory(self) -> str:
        """The directory of the file being read."""
        return self._open[-1].directory if self._open else os.getcwd()

    def _push_files(self, files: list[_OpenFile]) -> None:
        """Files to be read next, the first one first."""
        self._stack.extend(reversed(files))

    def _read(self, path: str, line: Line | None, demands: frozenset[str]) -> _OpenFile | None:
        """The file's lines, or None with a complaint."""
        place = line.position() if line else None
        severity = Severity.SECURITY if line is None or include.READ in demands else Severity.NOTE
        try:
            state = os.stat(path)
            if not stat.S_ISREG(state.st_mode) or state.st_mode & 0o111:
                what = "a directory" if stat.S_ISDIR(state.st_mode) else "not a regular file without execute permission"
                self.diagnostics.add(place, severity, f"'{path}' is {what}: skipped", "chmod a-x, or another name")
                return None
            if state.st_size > MOST_FILE_BYTES:
                self.diagnostics.add(place, Severity.ERROR, f"'{path}' is too large: skipped", "at most 256 MB")
                return None
            with open(path, "rb") as file:
                content = file.read(MOST_FILE_BYTES)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.diagnostics.add(place, severity, f"'{path}' cannot be read: {reason}: skipped")
            return None
        identity = (state.st_dev, state.st_ino)
        if any(file.identity == identity for file in self._open):
            self.diagnostics.add(place, Severity.ERROR, f"'{path}' includes itself: skipped")
            return None
        if len(self._open) >= MOST_INCLUDE_DEPTH or len(self.files) >= MOST_FILES:
            self.diagnostics.add(place, Severity.ERROR, f"too many includes: '{path}' skipped", f"at most {MOST_FILES}")
            return None
        self.files.append(path)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
        directory = os.path.dirname(os.path.abspath(path))
        return _OpenFile(path, directory, text, identity, self.include_check)

    # -- lines ---------------------------------------------------------------------------------------------------

    def push(self, line: Line) -> None:
        """Gives a piece of a line back, to be read next."""
        self._stack.append(line)

    def next_line(self) -> Line | None:
        """The next line with text, or None at the end."""
        while (line := self._next_unprocessed()) is not None:
            if line.plain:
                return line
            if SPECIAL.search(line.text) is None and not line.text.startswith("include"):
                line.plain = True
                return line
            if (ready := self._process(line)) is not None:
                return ready
        return None

    def _next_unprocessed(self) -> Line | None:
        """The next line with text, without comment and blanks, nothing expanded; None at the end of all."""
        stack = self._stack
        while stack:
            top = stack[-1]
            if isinstance(top, _OpenFile):
                if top.next == 0:
                    self._open.append(top)
                line = self._next_of_file(top)
                if line is not None:
                    return line
                self._open.pop()
                stack.pop()
            elif isinstance(top, Line):
                stack.pop()
                if top.text:
                    return top
            else:
                line = next(top, None)
                if line is None:
                    stack.pop()
                elif line.text:
                    return line
        return None

    def _next_of_file(self, file: _OpenFile) -> Line | None:
        """The next line with text of one file, or None at its end."""
        search = SPECIAL.search
        while (raw := file.line()) is not None:
            if len(raw) > MOST_LINE_BYTES // 4 and not self._fits(raw, file.name, file.next):
                continue
            if search(raw) is None:
                text = raw.strip()
                if text:
                    line = Line(text, file.name, file.next, raw.index(text[0]) + 1)
                    line.plain = not text.startswith("include")
                    return line
                continue
            line = self._without_comment(raw, file.name, file.next)
            if line.text:
                return line
        return None

    def _without_comment(self, raw: str, name: str, number: int) -> Line:
        """What is left of a line without its comment."""
        if "\0" in raw:
            raw = raw[: raw.index("\0")]
            place = Position(name, number, len(raw) + 1)
            self.diagnostics.add(place, Severity.NOTE, "a NUL byte ends this line", "remove it")
        text, closed = strip_comment(raw)
        if raw.rstrip(BLANKS).endswith("\\"):
            # A backslash at the end counts even behind a comment, and blanks before it do not.
            text = text.rstrip(BLANKS).removesuffix("\\").rstrip(BLANKS) + "\\"
        if not closed:
            place = Position(name, number, text.rindex('"') + 1)
            self.diagnostics.add(place, Severity.ERROR, f"unterminated quote in '{text.strip()}'", 'close it with "')
        column = len(text) - len(text.lstrip(BLANKS)) + 1
        text = text.strip(BLANKS)
        if text[:1] == "#":
            place = Position(name, number, column)
            self.diagnostics.add(place, Severity.NOTE, "a line that starts with '\\#' is a comment too")
            text = ""
        return Line(text, name, number, column)

    def _fits(self, raw: str, name: str, number: int) -> bool:
        """Whether a line is within the limit; one that is only padded with blanks is."""
        size = raw.encode("utf-8", "surrogateescape")
        if len(size) <= MOST_LINE_BYTES or not size[MOST_LINE_BYTES:].strip():
            return True
        place = Position(name, number, MOST_LINE_BYTES + 1)
        self.diagnostics.add(place, Severity.ERROR, "line too long: ignored", f"at most {MOST_LINE_BYTES} bytes")
        return False

    # -- what is done to a line ----------------------------------------------------------------------------------

    def _process(self, line: Line) -> Line | None:
        """Conditions, definitions, generators, expansion, includes: the line to parse, or None when it is used up."""
        conditions = 0
        while line.text[:1] in ("@", "$", "~"):
            if line.text[0] == "@":
                conditions += 1
                if conditions == 2:
                    text = "several @ conditions on one line"
                    self.diagnostics.add(line.position(), Severity.WARNING, text, "keepalived 2.2.7 knows only one")
                kept = self._conditional(line)
                if kept is None:
                    return None
                line = kept
            elif line.text[0] == "$":
                if match := _DEFINITION.match(line.text):
                    self._define(match.group(1), line.cut(match.end()))
                    return None
                expanded = self._expand(line)
                if expanded is None or expanded is line:
                    break
                line = expanded
            elif is_generator(line.text):
                self._generate(line)
                return None
            else:
                break
        if "$" in line.text:
            expanded = self._expand(line)
            if expanded is None:
                return None
            if expanded is not line and expanded.text[:1] in ("#", "!"):
                self.diagnostics.add(line.position(), Severity.NOTE, "the line becomes a comment by its expansion")
                return None
            line = expanded
        if not line.text or (line.text.startswith("include") and self._include(line)):
            return None
        return line

    def _conditional(self, line: Line) -> Line | None:
        """The line behind `@ID`, or None when it is for others."""
        match = _CONDITION.match(line.text)
        assert match is not None
        wanted = (match.group(2) == self.config_id) != bool(match.group(1))
        return line.cut(match.end()) if wanted else None

    def _define(self, name: str, body: Line) -> None:
        """`$NAME=TEXT`, over several lines while they end with a backslash."""
        lines = [body]
        while lines[-1].text.endswith("\\"):
            lines[-1] = lines[-1].cut(0, len(lines[-1].text) - 1)
            following = self._next_of_body()
            if following is None or not following.text:
                break
            if include.read_include(following.text) is not None:
                hint = "keepalived 2.2.7 ends the definition here"
                self.diagnostics.add(following.position(), Severity.WARNING, "an include inside a definition", hint)
            lines.append(following)
        self.definitions.set(name, tuple(line.text for line in lines))

    def _next_of_body(self) -> Line | None:
        """The next line of a definition's body; one without text ends it."""
        top = self._stack[-1] if self._stack else None
        if not isinstance(top, _OpenFile):
            return self._next_unprocessed()
        raw = top.line()
        if raw is None:
            return None
        if not self._fits(raw, top.name, top.next):
            return None
        return self._without_comment(raw, top.name, top.next)

    def _generate(self, line: Line) -> None:
        """`~SEQ`, `~SEQx`, `~LST`: the lines come one after the other, with their variables set."""
        try:
            generator = read_generator(line.text, self.definitions)
        except GeneratorError as error:
            self.diagnostics.add(line.position(), Severity.ERROR, str(error), error.hint)
            return
        body = line.cut(generator.body)

        def lines() -> Iterator[Line]:
            for values in generator.values:
                if not self._count(line):
                    return
                for name, value in zip(generator.names, values, strict=True):
                    self.definitions.set(name, (value,))
                yield body

        self._stack.append(lines())

    def _expand(self, line: Line) -> Line | None:
        """The line with its definitions put in, itself when there are none; further lines are read next."""
        try:
            expansion = self.definitions.expand(line.text, self.directory, MOST_LINE_BYTES)
        except ExpansionError as error:
            self.diagnostics.add(line.position(error.index), Severity.ERROR, str(error), error.hint)
            return None
        for warning in expansion.warnings:
            self.diagnostics.add(line.position(warning.index), Severity.WARNING, str(warning), warning.hint)
        if not expansion.spans:
            return line
        if not self._count(line):
            return None
        spans = tuple(
            (at, -line.column_at(index) if inside else line.column_at(index)) for at, index, inside in expansion.spans
        )
        for text in reversed(expansion.further):
            column = line.column_at(expansion.further_index)
            self.push(Line(text, line.file, line.number, column, ((0, -column),)))
        return Line(expansion.text, line.file, line.number, line.column, spans).cut(0)

    def _count(self, line: Line) -> bool:
        """Counts one more expanded line; False when there have been too many: then the rest is left out."""
        self._expanded += 1
        if self._expanded == MOST_EXPANDED_LINES:
            text = "definitions and generators give too many lines"
            self.diagnostics.add(line.position(), Severity.ERROR, text, f"at most {MOST_EXPANDED_LINES}")
        return self._expanded < MOST_EXPANDED_LINES

    def _include(self, line: Line) -> bool:
        """Opens what an include line names; False when the word is something else."""
        request = include.read_include(line.text)
        if request is None:
            return False
        demands = include.ALL if self.check_all else request.demands
        if demands is None:
            demands = self.include_check
        found = include.matches(request.pattern, self.directory)
        for text, demand in found.problems:
            severity = Severity.SECURITY if demand in demands else Severity.NOTE
            self.diagnostics.add(line.position(request.index), severity, text)
        self._push_files([file for path in found.paths if (file := self._read(path, line, demands)) is not None])
        return True
