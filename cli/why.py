"""`holdfast why SUBJECT`: the chain of causes behind a thing's last transitions."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from pathlib import Path

import click

from holdfast.cli.common import Exit, fail, json_option, print_json, run_dir_option
from holdfast.cli.explain import explain, say, subject_of
from holdfast.cli.history import history

KINDS = ("vrrp/", "vrrp-group/", "bfd/", "rs/", "vs/", "check/", "script/", "link/", "cell/")


@click.command()
@click.argument("subject")
@click.option("--at", "at_text", metavar="TIME", help="Only transitions up to TIME (HH:MM[:SS] or ISO 8601).")
@click.option("--limit", default=3, show_default=True, type=click.IntRange(1, 1000), help="How many, newest first.")
@run_dir_option
@json_option
def why(subject: str, at_text: str | None, limit: int, run_dir: Path, as_json: bool) -> None:
    """Explain the last transitions of SUBJECT: an instance (VI_1), or with its kind (bfd/b0, vrrp-group/G, rs/...).

    Each is told with the evidence that was seen at that moment, and followed to its root through the events that
    caused it, on other nodes too when they are known.
    """
    at_wall_ns = None if at_text is None else parse_time(at_text)
    events = history(run_dir)
    known = {subject_of(each) for each in events}
    wanted = next((name for name in (subject, *(kind + subject for kind in KINDS)) if name in known), None)
    if wanted is None:
        names = sorted(name for name in known if name.startswith(KINDS[:6]))
        fail(f"nothing is known of {subject!r}; known: {', '.join(names[:20]) or 'nothing yet'}")
    found = explain(wanted, events, at_wall_ns=at_wall_ns, limit=limit)
    if as_json:
        print_json([each.as_json() for each in found])
    elif not found:
        click.echo(f"{wanted} has not changed" + (f" before {at_text}" if at_text else ""))
    else:
        click.echo("\n".join(say(each) for each in found))
    sys.exit(Exit.WELL)


def parse_time(text: str) -> int:
    """The wall clock in ns of `HH:MM`, `HH:MM:SS[.fff]` (today) or ISO 8601; of `5m`, `2h`, `1d` ago."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    if text[-1:] in units and text[:-1].replace(".", "", 1).isdigit():
        return int((time.time() - float(text[:-1]) * units[text[-1]]) * 1e9)
    now = datetime.now()
    for form in ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f"):
        try:
            clock = datetime.strptime(text, form)
        except ValueError:
            continue
        return int(datetime.combine(now.date(), clock.time()).timestamp() * 1e9)
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1e9)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no time (10:31, 10:31:07.4, 2026-11-24T10:31, 5m)") from None
