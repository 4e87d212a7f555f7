"""`holdfast plan`: what a reload would do, before it is done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from holdfast.actors.bfd.config import BfdRoom
from holdfast.actors.checkers.config import CheckersGlobals, ServiceChecks
from holdfast.actors.ipvs.config import IpvsGlobals, VirtualServer
from holdfast.actors.notify.config import NotifyRoom
from holdfast.actors.runtime.catalogue import import_messages
from holdfast.actors.runtime.messages import ConfigSlice
from holdfast.actors.vrrp.config import VrrpRoom
from holdfast.actors.watch.config import WatchRoom
from holdfast.bus.client import Client
from holdfast.cli.common import Exit, fail, json_option, no_daemon, print_json, run_dir_option
from holdfast.cli.reading import Reading
from holdfast.cli.run import short_host_name
from holdfast.config.loader import Loaded
from holdfast.config.plan import Plan
from holdfast.config.plan import plan as compare
from holdfast.config.values import ProcessOptions

WHOLE: dict[str, type[msgspec.Struct]] = {
    "vrrp": VrrpRoom,
    "watch": WatchRoom,
    "bfd": BfdRoom,
    "notify": NotifyRoom,
}
DIVIDED: dict[str, tuple[type[msgspec.Struct], type[msgspec.Struct]]] = {
    "ipvs": (IpvsGlobals, VirtualServer),
    "checkers": (CheckersGlobals, ServiceChecks),
}
"""Rooms with a slice `globals` and one for each virtual server."""


def in_force(run_dir: Path, process: ProcessOptions) -> Loaded:
    """What the running daemon's cells were given. process: taken as it is, the bus does not tell it."""
    import_messages()
    with Client(run_dir) as client:
        snapshot = client.snapshot("slice/", timeout_s=5.0)
    if not snapshot.alive:
        no_daemon(run_dir)
    structs: dict[str, dict[str, msgspec.Struct]] = {}
    for envelope in snapshot.events:
        event = envelope.event
        if not isinstance(event, ConfigSlice):
            continue
        kind = WHOLE.get(event.room)
        if event.room in DIVIDED:
            kind = DIVIDED[event.room][event.name != "globals"]
        if kind is not None:
            structs.setdefault(event.room, {})[event.name] = msgspec.msgpack.decode(event.data, type=kind)
    for room, empty in WHOLE.items():
        structs.setdefault(room, {}).setdefault("room", empty())
    return Loaded(rooms={}, structs=structs, diagnostics=(), exit_code=0, process=process)


@click.command(name="plan")
@click.option("-f", "--use-file", "config", required=True, type=click.Path(path_type=Path), help="The new file.")
@click.option(
    "--against", type=click.Path(path_type=Path), help="Compare with this file instead of the running daemon."
)
@click.option("-i", "--config-id", help="Id for lines beginning with @ (default: the host's short name).")
@run_dir_option
@json_option
def plan_command(config: Path, against: Path | None, config_id: str | None, run_dir: Path, as_json: bool) -> None:
    """Show what a reload with the file NEW would add, change and remove, and whether any address would move.

    Nothing is changed. Exit code 4 when the new file has mistakes: a reload would refuse it.
    """
    who = config_id or short_host_name()
    if not config.exists():
        fail(f"{config} does not exist")
    new = Reading(path=config, config_id=who).read()
    if against is not None:
        if not against.exists():
            fail(f"{against} does not exist")
        old = Reading(path=against, config_id=who).read()
    else:
        old = in_force(run_dir, new.process)
    found = compare(old, new)
    refused = found.refused or new.has_errors
    if as_json:
        print_json(
            {**msgspec.to_builtins(found), "refused": refused, "diagnostics": [str(each) for each in new.diagnostics]}
        )
    else:
        _show(found, [str(each) for each in new.diagnostics], refused=refused)
    sys.exit(Exit.NOT_WELL if refused else Exit.WELL)


def _show(found: Plan, diagnostics: list[str], *, refused: bool) -> None:
    for line in diagnostics:
        click.echo(line, err=True)
    signs: dict[str, Any] = {"added": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red")}
    for change in found.changes:
        sign, colour = signs[change.kind]
        click.secho(f"{sign} {change.subject}", fg=colour)
        for field in change.fields:
            click.echo(f"    {field.field}: {field.old} -> {field.new}")
    for field in found.process:
        click.echo(f"~ process {field.field}: {field.old} -> {field.new}")
    if found.empty:
        click.echo("nothing would change")
    if found.moves:
        click.echo("addresses (where this node is MASTER):")
        for move in found.moves:
            click.secho(f"  {move.address} {move.event} on {move.interface} ({move.subject}): {move.why}", bold=True)
    elif found.changes:
        click.echo("no address would move")
    if refused:
        click.secho("a reload would refuse this file: it has mistakes (above)", fg="red", err=True)
