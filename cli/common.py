"""What the commands share: where the daemon is, how answers are printed, how a command ends."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

DEFAULT_RUN_DIR = "/run/holdfast"

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Exit(IntEnum):
    """Exit codes; the help page of `holdfast` explains them."""

    WELL = 0
    FAILED = 1
    USAGE = 2
    NO_DAEMON = 3
    NOT_WELL = 4


def run_dir_option(function: _Function) -> _Function:
    """--run-dir, so that several daemons live on one host."""
    return click.option(
        "--run-dir",
        type=click.Path(path_type=Path),
        default=lambda: os.environ.get("HOLDFAST_RUN_DIR", DEFAULT_RUN_DIR),
        show_default=DEFAULT_RUN_DIR,
        help="The daemon's run directory (also HOLDFAST_RUN_DIR).",
    )(function)


def json_option(function: _Function) -> _Function:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(function)


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=None if not sys.stdout.isatty() else 2, default=str))


def fail(message: str, code: int = Exit.FAILED) -> NoReturn:
    """Says what is wrong and ends the command."""
    click.echo(f"holdfast: {message}", err=True)
    sys.exit(code)


def no_daemon(run_dir: Path) -> NoReturn:
    """Nothing answers there."""
    if not run_dir.exists():
        fail(f"no daemon: {run_dir} does not exist (is holdfast running? another --run-dir?)", Exit.NO_DAEMON)
    fail(f"no daemon answers in {run_dir}; what its sockets' files say is of a dead one", Exit.NO_DAEMON)
