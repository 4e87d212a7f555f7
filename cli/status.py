"""`holdfast status`: what this node is doing now, by asking its cells; it reads no configuration.

Nothing of a dead daemon or cell is ever shown as if it were alive: every line comes from a cell that answered this
very request, and a cell that did not answer is named as such.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from holdfast.actors.runtime.catalogue import import_messages
from holdfast.actors.runtime.messages import CellStateChanged
from holdfast.bus.client import Client
from holdfast.cli.common import Exit, json_option, no_daemon, print_json, run_dir_option
from holdfast.cli.views import (
    bfd_view,
    cells_view,
    checks_view,
    cluster_view,
    connsync_view,
    lvs_view,
    render,
    vrrp_view,
)
from holdfast.cli.views.report import Report

ANSWER_S = 2.0
"""A cell that has not answered by then is dead, or as good as."""

VIEWS = {
    "vrrp": vrrp_view,
    "cells": cells_view,
    "bfd": bfd_view,
    "lvs": lvs_view,
    "checks": checks_view,
    "connsync": connsync_view,
}


def collect(client: Client, names: list[str]) -> Report:
    """The answers of the wanted views; ends the command when no cell answers."""
    cells = client.snapshot("cell/", timeout_s=ANSWER_S)
    if not cells.alive:
        no_daemon(client.run_dir)
    report = Report(node=client.node or "", run_dir=str(client.run_dir))
    report.answering = cells.alive
    report.silent = cells.silent
    for envelope in cells.events:
        if isinstance(envelope.event, CellStateChanged) and envelope.event.cell in cells.alive:
            report.rooms.update(envelope.event.rooms)
    for name in names:
        VIEWS[name].collect(client, report)
    return report


@click.command()
@click.argument("view", required=False, type=click.Choice(list(VIEWS)))
@click.option("--cluster", is_flag=True, help="All nodes: who is there, who owns each virtual address, alarms.")
@click.option("--wide", is_flag=True, help="Every detail: trackers, statistics, lateness.")
@run_dir_option
@json_option
def status(view: str | None, cluster: bool, wide: bool, run_dir: Path, as_json: bool) -> None:
    """Show who owns each virtual address, since when and why; cells, sessions, servers.

    VIEW limits it to one of them. Exit code 4 when something is in FAULT, a cell is dead, the last reload was refused,
    or the kernel does not agree with what should be.
    """
    import_messages()
    with Client(run_dir) as client:
        report = collect(client, [view] if view else [] if cluster else list(VIEWS))
        if cluster:
            cluster_view.collect(client, report)
    if as_json:
        print_json(report.as_json())
    else:
        render.show(report, wide=wide, only=view)
    sys.exit(Exit.NOT_WELL if report.troubles else Exit.WELL)
