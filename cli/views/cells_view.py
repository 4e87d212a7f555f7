"""The cells of the node, what their ends of the bus count, and the configuration in force."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from holdfast.actors.runtime.messages import CellStateChanged, CellStatus, ConfigState
from holdfast.bus.client import Client
from holdfast.bus.counters import BusCounters
from holdfast.cli.views.report import Report


def collect(client: Client, report: Report) -> None:
    """Fills `report.cells` and `report.config`."""
    cells: dict[str, dict[str, Any]] = {name: {"name": name, "answers": True} for name in report.answering}
    cells.update({name: {"name": name, "answers": False} for name in report.silent})
    for envelope in client.snapshot("cell/").events:
        event = envelope.event
        if isinstance(event, CellStateChanged):
            cell = cells.setdefault(event.cell, {"name": event.cell, "answers": False})
            cell.update(
                pid=event.pid,
                status=str(event.status),
                rooms=list(event.rooms),
                restarts=event.restarts,
                reason=msgspec.to_builtins(event.reason),
                since=datetime.fromtimestamp(envelope.wall_ns / 1e9).astimezone().isoformat(timespec="milliseconds"),
                start_ms=event.start_ms,
            )
        elif isinstance(event, BusCounters):
            cells.setdefault(event.cell, {"name": event.cell, "answers": False})["bus"] = msgspec.to_builtins(event)
    for cell in cells.values():
        cell.setdefault("status", str(CellStatus.RUNNING) if cell["answers"] else str(CellStatus.DEAD))
        if not cell["answers"] or cell["status"] == CellStatus.DEAD:
            report.troubles.append(f"cell {cell['name']} is dead or does not answer")
        dropped = cell.get("bus", {}).get("dropped", 0)
        if dropped:
            report.troubles.append(f"cell {cell['name']} dropped {dropped} events for subscribers that were too slow")
    report.cells = sorted(cells.values(), key=lambda each: str(each["name"]))
    for envelope in client.snapshot("config/").events:
        if isinstance(envelope.event, ConfigState):
            state = envelope.event
            report.config = msgspec.to_builtins(state)
            if not state.ok:
                report.troubles.append(f"the last reload was refused; generation {state.number} goes on")
