"""What a keyword is: declared as data beside the Struct fields that it fills.

A room lists its keywords as `Keyword(name, kind, ...)`. The kind (config/kinds.py) reads the words behind the keyword
and fills a field of the block's `Draft`. Parser, checker, documentation and completion all come from these lists.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.config.source import Line

if TYPE_CHECKING:
    from holdfast.config.context import Context, Words


class Status(enum.StrEnum):
    """ACTED: holdfast does what it says. ACCEPTED: read and checked, without effect yet. NEVER: keepalived needs it,
    holdfast works without (the reason is in the keyword's doc)."""

    ACTED = "acted on"
    ACCEPTED = "accepted, not yet acted on"
    NEVER = "accepted, not needed"


class Draft:
    """A block being read: field names and their values, with the lines that set them."""

    __slots__ = ("line", "lines", "name", "parent", "values")

    def __init__(self, line: Line, name: str = "", parent: Draft | None = None) -> None:
        self.line = line
        self.name = name
        self.parent = parent
        self.values: dict[str, Any] = {}
        self.lines: dict[str, Line] = {}

    def get(self, field: str, default: Any = None) -> Any:
        """The value of a field, or the default when no keyword set it."""
        return self.values.get(field, default)

    def put(self, field: str, value: Any, line: Line) -> None:
        """Sets a field; a later keyword wins."""
        self.values[field] = value
        self.lines[field] = line

    def append(self, field: str, value: Any) -> None:
        """Adds to a field that is a list."""
        self.values.setdefault(field, []).append(value)

    def line_of(self, field: str) -> Line:
        """The line that set a field, or the block's own."""
        return self.lines.get(field, self.line)

    def has(self, field: str) -> bool:
        """Whether a keyword set the field."""
        return field in self.values


class Kind:
    """Reads what stands behind a keyword. shape: how that is written, for documentation and messages."""

    shape = ""
    block: tuple[Keyword, ...] = ()

    def take(self, words: Words, keyword: Keyword, draft: Draft) -> None:
        """Reads the words and fills the draft; complains through `words`."""
        raise NotImplementedError


class Keyword:
    """One keyword of one block.

    field: what it fills (its own name unless given). newer: unknown to keepalived 2.2.7, whose verdict is then 5.
    deprecated: what to write instead; loud: keepalived 2.2.7 complains of it too, which makes its verdict 5.
    """

    __slots__ = ("deprecated", "doc", "field", "kind", "loud", "name", "newer", "plain", "status")

    def __init__(
        self,
        name: str,
        kind: Kind,
        doc: str,
        *,
        field: str = "",
        status: Status = Status.ACTED,
        newer: bool = False,
        deprecated: str = "",
        loud: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.doc = doc
        self.field = field or name.replace("-", "_")
        self.status = status
        self.newer = newer
        self.deprecated = deprecated
        self.loud = loud
        # Whether there is nothing to say about its use.
        self.plain = not newer and not deprecated and status is not Status.ACCEPTED


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One keyword as data: what documentation, completion and tests look at."""

    path: str
    keyword: str
    shape: str
    status: str
    newer: bool
    deprecated: str
    doc: str
    room: str
    block: bool


Finish = Callable[["Context"], Mapping[str, msgspec.Struct]]


class Room:
    """The keywords of one room: root: outside of all blocks. globals: in global_defs. finish: makes the room's slices
    of what was read, once everything is read; rooms are finished in the order of the tables."""

    def __init__(
        self,
        name: str,
        *,
        root: Iterable[Keyword] = (),
        global_defs: Iterable[Keyword] = (),
        finish: Finish | None = None,
    ) -> None:
        self.name = name
        self.root = tuple(root)
        self.global_defs = tuple(global_defs)
        self.finish = finish


Tables = tuple[Room, ...]


def index(keywords: Iterable[Keyword]) -> dict[str, Keyword]:
    """Keywords by name; two of one name in one block are our own mistake."""
    table: dict[str, Keyword] = {}
    for keyword in keywords:
        assert keyword.name not in table, keyword.name
        table[keyword.name] = keyword
    return table


def rows(tables: Tables) -> list[Row]:
    """Every keyword of all rooms, sorted by path and name."""
    listed: list[Row] = []
    for room in tables:
        listed.extend(_rows(room.name, "(root)", room.root))
        listed.extend(_rows(room.name, "global_defs", room.global_defs))
    return sorted(listed, key=lambda row: (row.path != "(root)", row.path, row.keyword))


def _rows(room: str, path: str, keywords: Iterable[Keyword]) -> Iterator[Row]:
    for keyword in keywords:
        inner = keyword.kind.block
        yield Row(
            path=path,
            keyword=keyword.name,
            shape=keyword.kind.shape,
            status=keyword.status.value,
            newer=keyword.newer,
            deprecated=keyword.deprecated,
            doc=keyword.doc,
            room=room,
            block=bool(inner) or keyword.name == "global_defs",
        )
        if inner and keyword.name != "global_defs":
            yield from _rows(room, keyword.name if path == "(root)" else f"{path}/{keyword.name}", inner)
