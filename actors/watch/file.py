"""The number in a track_file: how it is read, and when it is worth telling. Pure; `actor.py` reads the files.

Behaviour: keepalived.conf(5), track_file. What value * weight does to an instance is decided in actors/vrrp.
"""

from __future__ import annotations

from holdfast.actors.runtime.machine import Instant
from holdfast.actors.watch.config import TrackFile
from holdfast.actors.watch.messages import FileValue
from holdfast.bus.messages import Evidence, Reason, ReasonKind

READ_LIMIT_BYTES = 127
"""More of a file is not looked at."""

LOWEST, HIGHEST = -(2**31), 2**31 - 1

_SPACE = b" \t\n\v\f\r"
_DIGITS = {10: b"0123456789", 8: b"01234567", 16: b"0123456789abcdefABCDEF"}


def parse_number(text: bytes) -> int | None:
    """The first integer of `text` in C notation (0x.. hexadecimal, leading 0 octal, sign), rest ignored.

    Returns 0 when there is none, as strtol does, and None when it does not fit 32 bits: such a value is ignored and the
    former stays. Source: keepalived.conf(5), track_file; C17 7.22.1.4.
    """
    rest = text[:READ_LIMIT_BYTES].lstrip(_SPACE)
    negative = rest[:1] == b"-"
    if rest[:1] in (b"-", b"+"):
        rest = rest[1:]
    base = 10
    if rest[:1] == b"0":
        base = 8
        # "0x" without a hexadecimal digit behind it is the number 0.
        if rest[1:2] in (b"x", b"X") and rest[2:3] and rest[2:3] in _DIGITS[16]:
            base = 16
            rest = rest[2:]
    digits = _DIGITS[base]
    length = 0
    while length < len(rest) and rest[length] in digits:
        length += 1
    value = int(rest[:length], base) if length else 0
    value = -value if negative else value
    return value if LOWEST <= value <= HIGHEST else None


class FileMachine:
    """Remembers the value of one file and says when it changed.

    content of `changed`: the first bytes of the file, or None when it is missing or not readable (which counts as 0).
    """

    __slots__ = ("_file", "_node", "last")

    def __init__(self, file: TrackFile, *, node: str, before: FileValue | None = None) -> None:
        self._file = file
        self._node = node
        self.last = before

    def changed(self, content: bytes | None, now: Instant) -> FileValue | None:
        """What is to be published, or None when nothing changed or the number is out of range."""
        value = 0 if content is None else parse_number(content)
        if value is None:
            if self.last is not None:
                return None
            value = 0
        readable = content is not None
        last = self.last
        if last is not None and (value, readable, self._file.path) == (last.value, last.readable, last.path):
            return None
        evidence: Evidence = {"value": value, "path": self._file.path}
        if last is not None:
            evidence["old"] = last.value
        if not readable:
            evidence["readable"] = False
        self.last = FileValue(
            file=self._file.name,
            path=self._file.path,
            value=value,
            readable=readable,
            since_mono_ns=last.since_mono_ns if last is not None and last.value == value else now,
            reason=Reason(
                kind=ReasonKind.FILE_VALUE, node=self._node, subject=f"file/{self._file.name}", evidence=evidence
            ),
        )
        return self.last
