"""`holdfast keys`: who this node is on the network, and whom it lets in."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from holdfast.bus import keys as bus_keys
from holdfast.bus import subjects
from holdfast.cli.common import fail, json_option, print_json
from holdfast.config.settings import GatewaySettings

DEFAULT_KEY_FILE = GatewaySettings().key_file


_Function = TypeVar("_Function", bound=Callable[..., Any])


def _file_option(function: _Function) -> _Function:
    return click.option(
        "--file",
        "path",
        type=click.Path(path_type=Path, dir_okay=False),
        default=DEFAULT_KEY_FILE,
        show_default=True,
        help="The key file.",
    )(function)


@click.group()
def keys() -> None:
    """Make and show the keys with which nodes and clients know each other.

    Each node and each client has a key of its own. Its public half goes into the holdfast.toml of those that are to
    let it in:

    \b
      [[peers]]
      name = "lb2"
      key = "PUBLIC KEY OF lb2"
      role = "operator"
      endpoint = "tcp://192.0.2.2:7420"
    """


@keys.command()
@click.option("--name", help="Whose key it is (default: this host's short name).")
@click.option("--replace", is_flag=True, help="Replace a key that is there; every peer has to be told the new one.")
@_file_option
@json_option
def generate(name: str | None, replace: bool, path: Path, as_json: bool) -> None:
    """Make a new key; the file can be read by its owner alone (0600)."""
    name = name or socket.gethostname().partition(".")[0]
    if '"' in name or "\\" in name or not name.isprintable():
        fail(f"{name!r} cannot be the name of a key")
    try:
        pair = bus_keys.generate(name)
        bus_keys.write(pair, path, replace=replace)
    except bus_keys.KeyProblem as error:
        fail(str(error))
    _tell(pair, path, as_json)


@keys.command()
@_file_option
@json_option
def show(path: Path, as_json: bool) -> None:
    """Show the public half of a key: what the others write into their holdfast.toml."""
    _tell(_read(path), path, as_json)


@keys.command(context_settings={"ignore_unknown_options": True})
@click.argument("public", required=False, type=click.UNPROCESSED)
@_file_option
def fingerprint(public: str | None, path: Path) -> None:
    """Show the short name of a key, to compare by eye: of PUBLIC, or of the key file."""
    if public is None:
        public = _read(path).public
    elif not bus_keys.is_key(public):
        fail(f"a public key has {bus_keys.KEY_LENGTH} characters of Z85")
    click.echo(bus_keys.fingerprint(public))


@keys.command(name="nats")
@click.option("--node", "nodes", multiple=True, metavar="NAME[:ROLE]", help="A node; operator unless another is named.")
@click.option("--client", "clients", multiple=True, metavar="NAME[:ROLE]", help="A client; viewer unless another is.")
def nats_(nodes: tuple[str, ...], clients: tuple[str, ...]) -> None:
    """Print the account for nats-server.conf: who may publish and follow what.

    Users are known by their TLS certificates (subject CN=NAME); the server needs `verify_and_map: true` for that.
    """
    users = [(*_named(word, "operator"), True) for word in nodes] + [
        (*_named(word, "viewer"), False) for word in clients
    ]
    names = [name for name, _, _ in users]
    for name in {each for each in names if names.count(each) > 1}:
        fail(f"{name} is there twice")
    click.echo(subjects.server_config(users), nl=False)


def _named(text: str, role: str) -> tuple[str, str]:
    name, _, given = text.partition(":")
    role = given or role
    if not name or not name.isprintable() or '"' in name or "\\" in name:
        fail(f"{name!r} cannot be the name of a user")
    if role not in subjects.ROLES:
        fail(f"{name}: {role} is no role; there are {', '.join(subjects.ROLES)}")
    return name, role


def _read(path: Path) -> bus_keys.KeyPair:
    try:
        return bus_keys.read(path)
    except bus_keys.KeyProblem as error:
        fail(str(error))


def _tell(pair: bus_keys.KeyPair, path: Path, as_json: bool) -> None:
    print_of_key = bus_keys.fingerprint(pair.public)
    if as_json:
        print_json({"name": pair.name, "public": pair.public, "fingerprint": print_of_key, "file": str(path)})
        return
    click.echo(f"{path}: the key of {pair.name}, {print_of_key}")
    click.echo(f'key = "{pair.public}"')
