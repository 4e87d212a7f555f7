"""What `holdfast status` found: plain data, the same for JSON and for the screen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    """troubles: lines that say what is not well; they decide the exit code."""

    node: str
    run_dir: str
    config: dict[str, Any] | None = None
    cells: list[dict[str, Any]] | None = None
    vrrp: list[dict[str, Any]] | None = None
    groups: list[dict[str, Any]] | None = None
    bfd: list[dict[str, Any]] | None = None
    services: list[dict[str, Any]] | None = None
    checks: list[dict[str, Any]] | None = None
    connsync: dict[str, Any] | None = None
    cluster: dict[str, Any] | None = None
    delays: dict[str, int] | None = None
    troubles: list[str] = field(default_factory=list)
    answering: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    rooms: set[str] = field(default_factory=set)

    def as_json(self) -> dict[str, Any]:
        """Views that were not asked for are left out."""
        found = {key: value for key, value in vars(self).items() if value is not None}
        return {**found, "rooms": sorted(self.rooms)}
