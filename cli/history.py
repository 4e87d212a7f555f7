"""What is known about the past: what the cells retain now, and what the journal has kept."""

from __future__ import annotations

from pathlib import Path

from holdfast.bus.client import Client
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import EventId
from holdfast.cli.common import no_daemon
from holdfast.cli.rooms import import_messages


def history(run_dir: Path, *, since_wall_ns: int = 0) -> list[Envelope]:
    """Every known event since then, each once, oldest first. Ends the command when nothing is known at all.

    The journal is read straight from its file, so the past can be asked about while no daemon runs.
    """
    import_messages()
    found: dict[EventId, Envelope] = {}
    with Client(run_dir) as client:
        snapshot = client.snapshot("")
        for envelope in snapshot.events:
            found[envelope.id] = envelope
    if not found:
        no_daemon(run_dir)
    return sorted((each for each in found.values() if each.wall_ns >= since_wall_ns), key=lambda each: each.wall_ns)
