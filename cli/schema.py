"""`holdfast schema`: the JSON Schema of every message, for other people's programs."""

from __future__ import annotations

import click

from holdfast.bus import schema as bus_schema
from holdfast.cli.common import fail, print_json
from holdfast.cli.rooms import import_messages


@click.command()
@click.argument("type_name", required=False)
@click.option("--list", "only_names", is_flag=True, help="Only the names of the types.")
def schema(type_name: str | None, only_names: bool) -> None:
    """Print the JSON Schema (2020-12) of all events, commands and replies, or of TYPE_NAME (`vrrp.state`)."""
    import_messages()
    if type_name is not None:
        one = bus_schema.schema_of(type_name)
        if one is None:
            fail(f"no message type {type_name!r}; `holdfast schema --list` names them")
        print_json(one)
        return
    document = bus_schema.document()
    if only_names:
        click.echo("\n".join(name for kind in ("events", "commands", "replies") for name in document[kind]))
    else:
        print_json(document)
