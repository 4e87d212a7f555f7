"""The command line: `holdfast COMMAND`. One file a command group; each is imported only when it is called."""

from __future__ import annotations

import importlib
import sys

import click

from holdfast.cli import hurry

COMMANDS = {
    "run": "holdfast.cli.run:run",
    "check": "holdfast.cli.check:check",
    "plan": "holdfast.cli.plan:plan_command",
    "status": "holdfast.cli.status:status",
    "tail": "holdfast.cli.tail:tail",
    "why": "holdfast.cli.why:why",
    "reload": "holdfast.cli.control:reload",
    "restart": "holdfast.cli.control:restart",
    "release": "holdfast.cli.control:release",
    "resume": "holdfast.cli.control:resume",
    "drain": "holdfast.cli.drain:drain",
    "keys": "holdfast.cli.keys:keys",
    "bfd": "holdfast.cli.control:bfd",
    "schema": "holdfast.cli.schema:schema",
    "replay": "holdfast.cli.replay:replay_command",
    "genhash": "holdfast.cli.genhash:genhash",
    "completion": "holdfast.cli.completion:completion",
}

EXIT_CODES = """\b
Exit codes of all commands but run and check (those follow keepalived):
  0  done, and what was asked for is well
  1  the command could not be carried out; the message says why
  2  the command line is wrong
  3  no daemon answers in the run directory
  4  carried out, but something is not well (a fault, a refused reload, a kernel that disagrees)
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used: `holdfast status` must not load the supervisor."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        if cmd_name == "run":
            hurry.begin(sys.argv)
        module, _, name = target.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


def product_version() -> str:
    """The installed version."""
    # It brings seventy modules along, which a daemon would carry for its whole life.
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unknown"


def _print_version(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    """`--version`: as click's own, looked up when it is asked for."""
    if asked and not context.resilient_parsing:
        click.echo(f"holdfast, version {product_version()}")
        context.exit()


@click.group(cls=LazyGroup, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-v",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """High availability and load balancing: keepalived's job, by independent actors on a bus."""
