"""What is known about the past: what the cells retain now, and what the journal has kept."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import click

from holdfast.actors.journal import file as journal
from holdfast.actors.runtime.catalogue import import_messages
from holdfast.bus.client import Client
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import EventId
from holdfast.bus.order import in_order
from holdfast.cli.clocks import clock_offsets
from holdfast.cli.common import no_daemon


def history(
    run_dir: Path, *, since_wall_ns: int = 0, until_wall_ns: int | None = None, cluster: bool = True
) -> list[Envelope]:
    """Every known event of that time, each once, oldest first. Ends the command when nothing is known at all.

    cluster: those of other nodes too, as far as they were heard here, and in one order by what is known of the clocks.
    The journal is read straight from its file, so the past can be asked about while no daemon runs.
    """
    import_messages()
    found: dict[EventId, Envelope] = {}
    path = journal.find(run_dir)
    if path is not None:
        try:
            with journal.Journal(path) as kept:
                for envelope in kept.events(since_ns=since_wall_ns, until_ns=until_wall_ns):
                    found[envelope.id] = envelope
        except (OSError, sqlite3.Error) as error:
            click.echo(f"holdfast: the journal {path} cannot be read: {error}", err=True)
    with Client(run_dir) as client:
        snapshot = client.snapshot("", node="*" if cluster else None)
        offsets = clock_offsets(client) if cluster and snapshot.alive else {}
        own = client.node
    for envelope in snapshot.events:
        if envelope.wall_ns >= since_wall_ns and (until_wall_ns is None or envelope.wall_ns <= until_wall_ns):
            found.setdefault(envelope.id, envelope)
    if path is None and not snapshot.alive:
        no_daemon(run_dir)
    if not cluster:
        found = {name: each for name, each in found.items() if own in (None, name.node)}
    return in_order(found.values(), offsets)
