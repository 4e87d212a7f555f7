"""`holdfast tail`: events as they happen."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from holdfast.actors.runtime.catalogue import import_messages
from holdfast.bus.base import RequestTimeout
from holdfast.bus.client import Client, Follower
from holdfast.bus.codec import tag_of
from holdfast.bus.envelope import Envelope
from holdfast.bus.order import CausalOrder
from holdfast.cli.clocks import clock_offsets, learn_offset
from holdfast.cli.common import json_option, run_dir_option
from holdfast.cli.history import history
from holdfast.cli.lines import as_json as envelope_json
from holdfast.cli.lines import line
from holdfast.cli.why import parse_time

HIDDEN = ("slice/",)
"""Not for eyes: slices of the configuration may hold passwords."""

QUIET = ("cell.bus", "watch.addresses", "bfd.memory", "notify.progress")
"""Bookkeeping; shown with --all, and always as JSON."""
QUIET_ASPECTS = ("bus", "addresses", "memory", "progress")
"""The same, by the last word of the topic: what is gone has no type any more."""


@click.command()
@click.argument("prefixes", nargs=-1)
@click.option("--prefix", "more", multiple=True, help="A topic prefix without the node, as the arguments.")
@click.option("--cluster", is_flag=True, help="Events of all nodes, in one stream in causal order.")
@click.option("--since", metavar="TIME", help="Begin with what happened since TIME (10:31, 5m, ISO 8601).")
@click.option("--retained", is_flag=True, help="Begin with the state of everything as it is now.")
@click.option("--all", "everything", is_flag=True, help="Bookkeeping too (counters of the bus, address lists).")
@click.option("--count", type=click.IntRange(1), help="End after so many events.")
@run_dir_option
@json_option
def tail(
    prefixes: tuple[str, ...],
    more: tuple[str, ...],
    cluster: bool,
    since: str | None,
    retained: bool,
    everything: bool,
    count: int | None,
    run_dir: Path,
    as_json: bool,
) -> None:
    """Follow events live, all or those under PREFIXES (vrrp/, bfd/b0, rs/). Survives restarts of the daemon.

    A gap in what was received is told with its size; nothing is missed silently. With --cluster events are held for
    0.3 s, so that a cause comes before its effect whichever node told it first.
    """
    wanted = tuple(dict.fromkeys((*prefixes, *more))) or ("",)
    import_messages()
    left = count if count is not None else -1
    seen: set[object] = set()

    def show(envelope: Envelope) -> None:
        nonlocal left
        if envelope.id in seen or any(envelope.subject.startswith(hidden) for hidden in HIDDEN):
            return
        quiet = envelope.aspect in QUIET_ASPECTS if envelope.gone else tag_of(envelope.event) in QUIET
        if quiet and not (everything or as_json):
            return
        click.echo(json.dumps(envelope_json(envelope), default=str) if as_json else line(envelope, node=cluster))
        left -= 1
        if left == 0:
            sys.exit(0)

    if since is not None:
        after = parse_time(since)
        for envelope in history(run_dir, since_wall_ns=after, cluster=cluster):
            if any(_under(envelope, prefix) for prefix in wanted):
                show(envelope)
                seen.add(envelope.id)
    started = 0 if retained or since is not None else time.time_ns()
    try:
        with Client(run_dir) as client:
            prefix = wanted[0] if len(wanted) == 1 else ""
            if cluster:
                offsets = clock_offsets(client)
                # Other nodes' clocks differ: what is older than this command is told by the corrected ones.
                stream = client.follow(prefix if prefix.startswith("node/") else "", node="*")
                events = in_causal_order(stream, offsets, started, client.node)
            else:
                stream = client.follow(prefix, since_wall_ns=started)
                events = iter(stream)
            missed = 0
            for envelope in events:
                if stream.missed > missed:
                    click.echo(
                        f"-- {stream.missed - missed} events were missed; what they left behind follows", err=True
                    )
                    missed = stream.missed
                if any(_under(envelope, prefix) for prefix in wanted):
                    show(envelope)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


def in_causal_order(stream: Follower, offsets: dict[str, int], started_ns: int, own: str | None) -> Iterator[Envelope]:
    """The events of all nodes, each after what it names as its cause. own: the node we are on."""
    order = CausalOrder()
    order.offsets = offsets
    while True:
        due_ns = order.due_ns()
        wait_s = None if due_ns is None else max(0.0, (due_ns - time.monotonic_ns()) / 1e9)
        try:
            envelope = stream.next(wait_s)
        except RequestTimeout:
            yield from order.pop(time.monotonic_ns())
            continue
        learn_offset(envelope, offsets, own)
        if order.corrected(envelope) >= started_ns:
            order.push(envelope, time.monotonic_ns())
        yield from order.pop(time.monotonic_ns())


def _under(envelope: Envelope, prefix: str) -> bool:
    return envelope.topic.partition("/")[2].startswith(prefix)
