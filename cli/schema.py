"""`holdfast schema`: the JSON Schema of every message, for other people's programs."""

from __future__ import annotations

import sys

import click

from holdfast.bus import schema as bus_schema
from holdfast.cli.common import Exit, fail, print_json
from holdfast.cli.rooms import import_messages


@click.command()
@click.argument("type_name", required=False)
@click.option("--list", "only_names", is_flag=True, help="Only the names of the types.")
def schema(type_name: str | None, only_names: bool) -> None:
    """Print the JSON Schema (2020-12) of all events, commands and replies, or of TYPE_NAME (`vrrp.state`)."""
    import_messages()
    names = bus_schema.names()
    if only_names:
        click.echo("\n".join(names))
        sys.exit(Exit.WELL)
    if type_name is None:
        print_json(bus_schema.document())
    elif type_name in names:
        print_json(bus_schema.document_of(type_name))
    else:
        fail(f"no message type {type_name!r}; `holdfast schema --list` names them")
