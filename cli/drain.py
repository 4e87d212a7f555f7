"""`holdfast drain RS`: a real server without new connections, until those it has are over."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.actors.ipvs.messages import Done, Drain
from holdfast.bus.messages import Failed
from holdfast.cli.common import fail, json_option, print_json, run_dir_option
from holdfast.cli.control import ask


@click.command()
@click.argument("server")
@click.option("--service", default="", help="Only in this virtual server (default: in each that has the server).")
@click.option("--undo", is_flag=True, help="Give it connections again.")
@click.option("--keep", is_flag=True, help="Leave it in the pool with weight 0 instead of removing it afterwards.")
@click.option("--timeout", type=float, help="Seconds after which it is removed whatever connections are left.")
@run_dir_option
@json_option
def drain(
    server: str, service: str, undo: bool, keep: bool, timeout: float | None, run_dir: Path, as_json: bool
) -> None:
    """Let the connections of SERVER end; it gets no new ones.

    SERVER and --service are written as everywhere: [10.0.0.2]:tcp:80, FWM 3. The server is out of the pool when its
    last connection has ended, or at the time limit, and stays out until --undo.
    """
    command = Drain(real_server=server, virtual_server=service, undo=undo, remove=not keep, timeout_s=timeout)
    reply = ask(run_dir, f"rs/{server}", command, 5.0)
    if isinstance(reply, Failed):
        fail(reply.message)
    message = reply.message if isinstance(reply, Done) else str(reply)
    if as_json:
        print_json({"ok": True, "message": message})
    else:
        click.echo(message)
