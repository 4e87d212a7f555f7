"""`holdfast check` and `holdfast plan`: a configuration before it is in force."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from holdfast.cli.common import json_option, print_json
from holdfast.cli.reading import Reading
from holdfast.cli.run import default_config, short_host_name
from holdfast.config import settings as holdfast_toml


@click.command()
@click.option("-f", "--use-file", "config", type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--settings", type=click.Path(path_type=Path), help="Check this holdfast.toml too.")
@click.option("-i", "--config-id", help="Id for lines beginning with @ (default: the host's short name).")
@click.option("-e", "--all-config", is_flag=True, help="Every problem of an include is an error.")
@json_option
def check(config: Path | None, settings: Path | None, config_id: str | None, all_config: bool, as_json: bool) -> None:
    """Check a configuration; silence and exit code 0 mean that it is good.

    \b
    Exit codes, as keepalived -t:
      0  good (also: the file does not exist)
      4  something makes running impossible (an interface that is not there, a missing include)
      5  a mistake or an unknown word; the daemon would start without it
      6  scripts without enable_script_security, or unsafe ones
    """
    reading = Reading(
        path=config or default_config(),
        config_id=config_id or short_host_name(),
        strict_includes=all_config,
    )
    loaded = reading.read()
    messages = [str(each) for each in loaded.diagnostics]
    code = loaded.exit_code
    if settings is not None:
        try:
            holdfast_toml.load(settings)
        except holdfast_toml.SettingsError as error:
            messages += error.messages
            code = code or 5
    if as_json:
        found = [msgspec.to_builtins(each) for each in loaded.diagnostics]
        print_json({"exit_code": code, "files": list(loaded.files), "diagnostics": found})
    else:
        for message in messages:
            click.echo(message, err=True)
    sys.exit(code)
