"""Include lines: which files a pattern names, and which problems count (keepalived.conf(5), "include").

A pattern is a glob with brace alternatives, relative to the directory of the including file.
"""

from __future__ import annotations

import glob
import os
import re

import msgspec

READ = "read"
MATCH = "match"
WILDCARD_MATCH = "wildcard_match"
BRACE_MATCH = "brace_match"

NONE: frozenset[str] = frozenset()
ALL = frozenset((READ, MATCH, WILDCARD_MATCH, BRACE_MATCH))
CHECK_TYPES = (READ, MATCH, WILDCARD_MATCH, BRACE_MATCH)

_DEMANDS = {
    "include": None,
    "includer": frozenset((READ,)),
    "includem": frozenset((READ, MATCH)),
    "includew": frozenset((READ, MATCH, WILDCARD_MATCH)),
    "includeb": frozenset((READ, BRACE_MATCH)),
    "includea": ALL,
}
_INCLUDE = re.compile(r"(include[rmwba]?)[ \t\f\r\v]+(.+)")
_WILDCARD = re.compile(r"[*?\[]")
MOST_ALTERNATIVES = 1_000


class Request(msgspec.Struct, frozen=True):
    """An include line. index: where its pattern starts. demands None: as `include_check` says."""

    pattern: str
    index: int
    demands: frozenset[str] | None


class Found(msgspec.Struct, frozen=True):
    """paths: the files, in order. problems: what did not match, with the kind of demand that it fails."""

    paths: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]


def read_include(text: str) -> Request | None:
    """The include of a line, or None when it is none."""
    match = _INCLUDE.match(text)
    if match is None:
        return None
    return Request(match.group(2), match.start(2), _DEMANDS[match.group(1)])


def matches(pattern: str, directory: str) -> Found:
    """The files that a pattern names, each alternative's sorted by name."""
    alternatives = expand_braces(pattern)
    paths: list[str] = []
    problems: list[tuple[str, str]] = []
    unmatched = 0
    for alternative in alternatives:
        path = os.path.join(directory, alternative)
        if "\0" in path:
            found: list[str] = []
        elif _WILDCARD.search(alternative):
            found = sorted(glob.glob(path))
        else:
            found = [path] if os.path.exists(path) else []
        paths.extend(found)
        unmatched += not found
    if not paths:
        wild = _WILDCARD.search(pattern) is not None
        text = f"no file matches '{pattern}'" if wild else f"'{pattern}' does not exist"
        problems.append((text, WILDCARD_MATCH if wild else MATCH))
    if unmatched and len(alternatives) > 1:
        problems.append((f"some alternatives of '{pattern}' match no file", BRACE_MATCH))
    return Found(tuple(paths), tuple(problems))


def expand_braces(pattern: str) -> list[str]:
    """The alternatives of `{a,b}` in a pattern, left to right, nested ones too; itself without braces."""
    done: list[str] = []
    todo = [pattern]
    while todo and len(done) + len(todo) <= MOST_ALTERNATIVES:
        current = todo.pop(0)
        split = _first_group(current)
        if split is None:
            done.append(current)
        else:
            head, parts, tail = split
            todo[:0] = [head + part + tail for part in parts]
    return done


def _first_group(pattern: str) -> tuple[str, list[str], str] | None:
    """What is before, in, and behind the first complete brace group."""
    start = pattern.find("{")
    while start >= 0:
        depth = 0
        parts: list[str] = []
        begin = start + 1
        for index in range(start, len(pattern)):
            char = pattern[index]
            if char == "{":
                depth += 1
            elif char == "," and depth == 1:
                parts.append(pattern[begin:index])
                begin = index + 1
            elif char == "}":
                depth -= 1
                if depth == 0:
                    return pattern[:start], [*parts, pattern[begin:index]], pattern[index + 1 :]
        start = pattern.find("{", start + 1)
    return None
