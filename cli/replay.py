"""`holdfast replay FILE`: a recorded session through the machine of today."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from holdfast.actors.vrrp.record import SessionError, named, replay
from holdfast.cli.common import Exit, fail, json_option


@click.command(name="replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def replay_command(file: Path, as_json: bool) -> None:
    """Run the session in FILE (made by `holdfast run --record DIR`) and show each step.

    Exit code 4 when the machine of this version orders anything else than what was recorded; those steps are marked.
    """
    differing = 0
    first: int | None = None
    try:
        for step in replay(file.read_bytes()):
            first = step.at if first is None else first
            differing += not step.same
            seconds = (step.at - first) / 1e9
            if as_json:
                entry = {"at_s": seconds, "fact": named(step.fact), "actions": step.got, "same": step.same}
                click.echo(json.dumps(entry, default=str))
                continue
            click.echo(f"{seconds:12.6f} >> {_brief(named(step.fact))}")
            for action in step.got:
                click.echo(f"{'':12} << {_brief(action)}")
            if not step.same:
                for action in step.wanted:
                    click.echo(f"{'':12} != {_brief(action)} (recorded)")
    except SessionError as error:
        fail(f"{file}: {error}")
    if differing:
        click.echo(f"{differing} steps differ from the recording", err=True)
    sys.exit(Exit.NOT_WELL if differing else Exit.WELL)


def _brief(value: dict[str, object]) -> str:
    shown = [
        f"{key}={item}" for key, item in value.items() if key not in ("type", "causes") and item not in (None, "", [])
    ]
    return f"{value['type']}({', '.join(shown)})"


__all__ = ["replay_command"]
