"""What is wrong with a configuration, where, and what would be right: gathered, and shown all at once.

Exit codes are those of `keepalived -t` (Debian's 2.2.7): 0 nothing to say, 4 fatal, 5 something ignored, changed,
deprecated or unknown, 6 script security and includes that had to exist.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

EXIT_OK = 0
EXIT_FATAL = 4
EXIT_CONFIGURATION = 5
EXIT_SECURITY = 6

MOST_DIAGNOSTICS = 10_000
"""More than this are counted and not kept: a file of noise must not fill the memory."""


class Severity(enum.StrEnum):
    """How bad: a NOTE leaves the verdict alone; a WARNING counts, but all that is written takes effect; an ERROR means
    that something written was ignored or changed; SECURITY is about scripts and includes."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"
    FATAL = "fatal"
    SECURITY = "security"


_CODES = {
    Severity.NOTE: EXIT_OK,
    Severity.WARNING: EXIT_CONFIGURATION,
    Severity.ERROR: EXIT_CONFIGURATION,
    Severity.FATAL: EXIT_FATAL,
    Severity.SECURITY: EXIT_SECURITY,
}


class Position(msgspec.Struct, frozen=True, order=True):
    """A place in a file. line and column count from 1; of expanded text the place where the expansion stands."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """One complaint. text names the offending words; hint says what would be right, or is empty."""

    position: Position | None
    severity: Severity
    text: str
    hint: str = ""

    @property
    def exit_code(self) -> int:
        """What this one alone would make the verdict."""
        return _CODES[self.severity]

    def __str__(self) -> str:
        place = f"{self.position}: " if self.position else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.severity.value}: {self.text}{hint}"


def exit_code(diagnostics: Iterable[Diagnostic]) -> int:
    """The verdict: security (6) wins over everything, then the general error (5), then fatal (4) alone."""
    codes = {diagnostic.exit_code for diagnostic in diagnostics}
    for code in (EXIT_SECURITY, EXIT_CONFIGURATION, EXIT_FATAL):
        if code in codes:
            return code
    return EXIT_OK


class Diagnostics:
    """Gathers diagnostics in the order in which they are found; `listed()` sorts those of one file by place."""

    def __init__(self) -> None:
        self.kept: list[Diagnostic] = []
        self.dropped = 0

    def add(self, position: Position | None, severity: Severity, text: str, hint: str = "") -> None:
        """Keeps one more, unless there are already too many."""
        diagnostic = Diagnostic(position=position, severity=severity, text=text, hint=hint)
        if len(self.kept) >= MOST_DIAGNOSTICS:
            self.dropped += 1
        elif not self.kept or self.kept[-1] != diagnostic:
            self.kept.append(diagnostic)

    def listed(self) -> tuple[Diagnostic, ...]:
        """All of them by place, and a last one that says how many more there were."""
        files: dict[str, int] = {}
        for diagnostic in self.kept:
            if diagnostic.position is not None:
                files.setdefault(diagnostic.position.file, len(files))

        def place(diagnostic: Diagnostic) -> tuple[int, int]:
            position = diagnostic.position
            return (len(files), 0) if position is None else (files[position.file], position.line)

        listed = sorted(self.kept, key=place)
        if self.dropped:
            more = f"and {self.dropped} more like these"
            listed.append(Diagnostic(position=None, severity=Severity.ERROR, text=more))
        return tuple(listed)
