"""`holdfast schema`: the JSON Schema of every message, for other people's programs."""

from __future__ import annotations

import click

from holdfast.actors.runtime.catalogue import import_messages
from holdfast.bus import asyncapi as bus_asyncapi
from holdfast.bus import schema as bus_schema
from holdfast.cli.common import fail, print_json


@click.command()
@click.argument("type_name", required=False)
@click.option("--asyncapi", is_flag=True, help="The AsyncAPI 3.0 document instead, with the channels they travel on.")
@click.option("--list", "only_names", is_flag=True, help="Only the names of the types.")
def schema(type_name: str | None, asyncapi: bool, only_names: bool) -> None:
    """Print the JSON Schema (2020-12) of all events, commands and replies, or of TYPE_NAME (`vrrp.state`)."""
    import_messages()
    if asyncapi:
        from holdfast.cli.main import product_version  # noqa: PLC0415 - it imports this file

        print_json(bus_asyncapi.document(product_version()))
        return
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
