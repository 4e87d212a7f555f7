"""How tables, states and times look on a screen, for every view."""

from __future__ import annotations

from rich.table import Table

COLOURS = {
    "MASTER": "green",
    "BACKUP": "cyan",
    "FAULT": "red",
    "Up": "green",
    "Down": "red",
    "dead": "red",
    "reachable": "green",
    "unreachable": "red",
    "one-owner": "green",
    "two-owners": "red",
    "no-owner": "red",
}


def plain_table(*columns: str) -> Table:
    """A table without lines."""
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def coloured(word: str) -> str:
    """`word` in the colour of what it means, as rich markup."""
    colour = COLOURS.get(word)
    return f"[{colour}]{word}[/{colour}]" if colour else word


def duration(seconds: float) -> str:
    """`3d04h`, `2h05m`, `4m10s`, `12.3s`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h"
