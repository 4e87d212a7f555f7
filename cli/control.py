"""Commands that change something: reload, release, resume."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import click

from holdfast.actors.bfd.messages import BfdDisable, BfdDone, BfdEnable
from holdfast.actors.runtime.messages import (
    Reload,
    Reloaded,
    Restart,
    Restarting,
    RestartProgress,
    RestartProgressed,
)
from holdfast.actors.vrrp.messages import Done, Release, Resume
from holdfast.bus.base import BusError, SourceLost
from holdfast.bus.client import Client
from holdfast.bus.messages import Command, Failed, Reply
from holdfast.cli.common import Exit, fail, json_option, no_daemon, print_json, run_dir_option


def ask(run_dir: Path, subject: str, command: Command, timeout_s: float) -> Reply:
    """The reply of a living daemon; ends the command otherwise."""
    with Client(run_dir) as client:
        try:
            return client.request(subject, command, timeout_s=timeout_s)
        except BusError as error:
            if not client.alive():
                no_daemon(run_dir)
            fail(f"{subject} did not answer: {error}")


@click.command()
@click.option("--timeout", default=130.0, show_default=True, help="Seconds to wait for the new configuration.")
@run_dir_option
@json_option
def reload(timeout: float, run_dir: Path, as_json: bool) -> None:
    """Read the configuration anew. With an error in it nothing changes: the old one goes on (exit code 4)."""
    reply = ask(run_dir, "supervisor", Reload(), timeout)
    if not isinstance(reply, Reloaded):
        fail(str(getattr(reply, "message", reply)))
    if as_json:
        print_json({"ok": reply.ok, "generation": reply.number, "changed": reply.changed, "messages": reply.messages})
    else:
        for line in reply.messages:
            click.echo(line, err=not reply.ok)
        if reply.ok:
            click.echo(f"generation {reply.number} is in force, {reply.changed} slices changed")
        else:
            click.echo(f"refused: generation {reply.number} goes on", err=True)
    sys.exit(Exit.WELL if reply.ok else Exit.NOT_WELL)


@click.command()
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for the new version.")
@run_dir_option
@json_option
def restart(timeout: float, run_dir: Path, as_json: bool) -> None:
    """Let the installed version (and the configuration as it is now) take over the running daemon, without a failover.

    If the new version does not get ready, nothing happens and the message says why.
    """
    began = time.monotonic()
    before = ask(run_dir, "supervisor", RestartProgress(), timeout)
    if not isinstance(before, RestartProgressed):
        fail(str(getattr(before, "message", before)))
    with Client(run_dir) as client:
        try:
            reply = client.request("supervisor", Restart(), timeout_s=timeout)
        except SourceLost:
            # On a busy host the old one is gone before its answer is here: what comes next says whether it went well.
            pass
        except BusError as error:
            fail(f"supervisor did not answer: {error}")
        else:
            if not isinstance(reply, Restarting):
                fail(str(getattr(reply, "message", reply)))
    waiting: tuple[str, ...] = ("supervisor",)
    while waiting:
        if time.monotonic() - began > timeout:
            fail(f"the new version has not taken over yet: {', '.join(waiting)}")
        time.sleep(0.1)
        with contextlib.suppress(BusError), Client(run_dir) as client:
            progress = client.request("supervisor", RestartProgress(), timeout_s=1.0)
            if isinstance(progress, RestartProgressed) and progress.epoch != before.epoch:
                waiting = progress.waiting
    took_s = time.monotonic() - began
    if as_json:
        print_json({"ok": True, "seconds": round(took_s, 3)})
    else:
        click.echo(f"the new version runs, all cells are handed over ({took_s:.1f} s)")


def _order(run_dir: Path, command: Command, as_json: bool, *, subject: str = "vrrp") -> None:
    reply = ask(run_dir, subject, command, 5.0)
    if isinstance(reply, Failed):
        fail(reply.message)
    message = reply.message if isinstance(reply, Done | BfdDone) else str(reply)
    if as_json:
        print_json({"ok": True, "message": message})
    else:
        click.echo(message)


@click.command()
@click.argument("instance")
@click.option("--why", "reason", default="", help="Kept in the event, for those who ask later.")
@run_dir_option
@json_option
def release(instance: str, reason: str, run_dir: Path, as_json: bool) -> None:
    """Hand mastership of INSTANCE (and its sync group) over for maintenance; it stays BACKUP until `resume`."""
    _order(run_dir, Release(instance=instance, why=reason), as_json)


@click.command()
@click.argument("instance")
@run_dir_option
@json_option
def resume(instance: str, run_dir: Path, as_json: bool) -> None:
    """End the maintenance of INSTANCE: it takes part in elections again."""
    _order(run_dir, Resume(instance=instance), as_json)


@click.group()
def bfd() -> None:
    """Take a BFD session out of service and back; its peer is told and does not take it for a failure."""


@bfd.command(name="disable")
@click.argument("session")
@click.option("--why", "reason", default="", help="Kept in the event, for those who ask later.")
@run_dir_option
@json_option
def bfd_disable(session: str, reason: str, run_dir: Path, as_json: bool) -> None:
    """SESSION goes to AdminDown until `enable`."""
    _order(run_dir, BfdDisable(session=session, why=reason), as_json, subject="bfd")


@bfd.command(name="enable")
@click.argument("session")
@run_dir_option
@json_option
def bfd_enable(session: str, run_dir: Path, as_json: bool) -> None:
    """End of `disable`."""
    _order(run_dir, BfdEnable(session=session), as_json, subject="bfd")
