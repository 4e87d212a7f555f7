"""The notify room's configuration: whom to tell of changes (keepalived.conf(5): notify*, *_fifo, smtp_*, script_user).

One `NotifyRoom` is the whole slice of this room.
"""

from __future__ import annotations

import msgspec

from holdfast.actors.vrrp.config import NotifyScripts
from holdfast.config.values import Script, ScriptOptions

__all__ = [
    "Fifo",
    "Mail",
    "NotifyRoom",
    "NotifyScripts",
    "NotifyTarget",
    "Script",
    "ScriptOptions",
    "ServerNotify",
    "ServiceNotify",
]


class Fifo(msgspec.Struct, frozen=True, kw_only=True):
    """A FIFO that gets a line per change. script: a program run once, the FIFO's path is its last argument."""

    path: str
    user: str | None = None
    group: str | None = None
    script: Script | None = None


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """Plain SMTP mail. Nothing is sent without recipients and server."""

    recipients: tuple[str, ...] = ()
    sender: str | None = None
    server: str | None = None
    port: int = 25
    helo_name: str | None = None
    connect_timeout_us: int = 30_000_000
    no_faults: bool = False
    no_checker_mails: bool = False


class NotifyTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Scripts of one instance (kind INSTANCE) or sync group (kind GROUP). members: of a group."""

    kind: str
    name: str
    scripts: NotifyScripts = NotifyScripts()
    members: tuple[str, ...] = ()


class ServiceNotify(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual server's quorum scripts and mails. service: its name as in `vs/NAME`."""

    service: str
    quorum_up: Script | None = None
    quorum_down: Script | None = None
    omega: bool = False
    smtp_alert: bool = False


class ServerNotify(msgspec.Struct, frozen=True, kw_only=True):
    """A real server's scripts and mails. server: its name as in `rs/SERVER@SERVICE`."""

    service: str
    server: str
    notify_up: Script | None = None
    notify_down: Script | None = None
    smtp_alert: bool = False


class NotifyRoom(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the notify room is told.

    fifo gets all lines, vrrp_fifo those of instances and groups, lvs_fifo those of services. services and servers are
    listed only when they have a script or mails are configured.
    """

    router_id: str = ""
    targets: tuple[NotifyTarget, ...] = ()
    services: tuple[ServiceNotify, ...] = ()
    servers: tuple[ServerNotify, ...] = ()
    fifo: Fifo | None = None
    vrrp_fifo: Fifo | None = None
    lvs_fifo: Fifo | None = None
    mail: Mail = Mail()
    script_options: ScriptOptions = ScriptOptions()
    umask: int = 0o177
    write_states_on_reload: bool = False
    rs_init_notifies: bool = False
