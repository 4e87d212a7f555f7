"""Kernel settings under /proc/sys, by the name of their file there. Those of `net/` are of this thread's namespace."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_ROOT: Final = Path("/proc/sys")


def get(name: str) -> str | None:
    """`get("net/ipv4/conf/eth0/arp_ignore")`; None when there is no such setting or it may not be read."""
    try:
        return (_ROOT / name).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def put(name: str, value: str | int) -> bool:
    """Writes it unless it has the value already. True when it now has it."""
    text = str(value)
    if get(name) == text:
        return True
    try:
        (_ROOT / name).write_text(text, encoding="ascii")
    except OSError:
        return False
    return True


class Changes:
    """Settings that are put back at the end, the last one first."""

    def __init__(self) -> None:
        self._before: dict[str, str] = {}

    def put(self, name: str, value: str | int) -> bool:
        """As `put`, and remembers what was there before our first change."""
        before = get(name)
        if not put(name, value):
            return False
        if before is not None and before != str(value):
            self._before.setdefault(name, before)
        return True

    def restore(self) -> None:
        """Puts everything back; a setting that went with its interface is left out."""
        for name, value in reversed(self._before.items()):
            put(name, value)
        self._before.clear()


def interface_setting(family: int, interface: str, name: str) -> str:
    """`net/ipv4/conf/INTERFACE/NAME` or `net/ipv6/...`. A dot in the name stays: it is one folder."""
    return f"net/ipv{family}/conf/{interface}/{name}"
