"""The notify room's keywords (keepalived.conf(5)): FIFOs and mail; scripts belong to instances, groups and servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from holdfast.actors.notify.config import Fifo, Mail, NotifyRoom, NotifyTarget
from holdfast.actors.vrrp.config import VrrpRoom
from holdfast.config import scripts
from holdfast.config.context import Context, Words
from holdfast.config.global_defs import RequiredWord, StartStopScript
from holdfast.config.kinds import Bool, Custom, Flag, Integer, Lines, OptionalWord, Time
from holdfast.config.table import Draft, Keyword, Room


def _fifo(words: Words, draft: Draft) -> None:
    """`notify_fifo PATH [USER [GROUP]]`."""
    if len(words) < 2:
        words.error(f"'{words.items[0]}' lacks its path: ignored", f"{words.items[0]} PATH [USER [GROUP]]", index=1)
        return
    draft.put(words.items[0], tuple(words.items[1:4]), words.line)


def _recipient(words: Words, draft: Draft) -> None:
    draft.values.setdefault("recipients", []).extend(words.items)


def _smtp_server(words: Words, draft: Draft) -> None:
    """`smtp_server HOST [PORT]`."""
    host = words.word()
    port: Any = 25
    if len(words) > 2:
        port = Integer(1, 65535).read(words, 2)
        if port is None:
            return
    if not words.context.host.resolves(host):
        words.error(f"'{host}' is no mail server: ignored", "an address, or a name that has one", index=1)
        return
    draft.put("smtp_server", (host, port), words.line)


GLOBAL_DEFS = (
    Keyword(
        "notification_email", Lines(_recipient, "ADDRESS", empty="an empty notification_email block"), "who gets mails"
    ),
    Keyword("notification_email_from", RequiredWord("ADDRESS"), "who sends them"),
    Keyword("smtp_server", Custom(_smtp_server, "HOST [PORT]"), "where mails go"),
    Keyword("smtp_helo_name", OptionalWord("NAME"), "our name in HELO"),
    Keyword(
        "smtp_connect_timeout",
        Time(0, 4294, places=0, zero=1),
        "patience with the mail server",
        field="smtp_connect_timeout_us",
    ),
    Keyword("smtp_alert", Bool(), "mails unless said otherwise"),
    Keyword("smtp_alert_vrrp", Bool(), "mails of instances unless said otherwise"),
    Keyword("smtp_alert_checker", Bool(), "mails of servers unless said otherwise"),
    Keyword("no_email_faults", Flag(), "no mails of FAULT"),
    Keyword("no_checker_emails", Bool(), "mails only when a server's state changes"),
    Keyword("notify_fifo", Custom(_fifo, "PATH [USER [GROUP]]"), "a FIFO for all changes"),
    Keyword("notify_fifo_script", StartStopScript(), "run once, with the FIFO's path"),
    Keyword("vrrp_notify_fifo", Custom(_fifo, "PATH [USER [GROUP]]"), "a FIFO for VRRP"),
    Keyword("vrrp_notify_fifo_script", StartStopScript(), "run once, with the FIFO's path"),
    Keyword("lvs_notify_fifo", Custom(_fifo, "PATH [USER [GROUP]]"), "a FIFO for virtual and real servers"),
    Keyword("lvs_notify_fifo_script", StartStopScript(), "run once, with the FIFO's path"),
)


def _made(context: Context, name: str) -> Fifo | None:
    values = context.globals
    script_name = f"{name}_script"
    line = values.line_of(script_name)
    process = {"notify_fifo": "both", "vrrp_notify_fifo": "vrrp", "lvs_notify_fifo": "checkers"}[name]
    script = scripts.accept(
        context, values.get(script_name), line, script_name, needs_default_user=False, process=process
    )
    words = values.get(name)
    if words is None:
        return None
    user, group = (*words[1:3], None, None)[:2]
    return Fifo(path=words[0], user=user, group=group, script=script)


def mail(context: Context) -> Mail:
    """What is known of mail."""
    values = context.globals
    host, port = values.get("smtp_server", (None, 25))
    return Mail(
        recipients=tuple(values.get("recipients", ())),
        sender=values.get("notification_email_from"),
        server=host,
        port=port,
        helo_name=values.get("smtp_helo_name") or None,
        connect_timeout_us=values.get("smtp_connect_timeout_us", 30_000_000),
        no_faults=bool(values.get("no_email_faults")),
        no_checker_mails=bool(values.get("no_checker_emails")),
    )


def _targets(context: Context) -> tuple[NotifyTarget, ...]:
    """The instances and groups of the VRRP room, with their scripts."""
    room = context.structs.get("vrrp", {}).get("room")
    if not isinstance(room, VrrpRoom):
        return ()
    instances = [
        NotifyTarget(kind="INSTANCE", name=instance.name, scripts=instance.notify) for instance in room.instances
    ]
    groups = [
        NotifyTarget(kind="GROUP", name=group.name, scripts=group.notify, members=group.members)
        for group in room.groups
    ]
    return (*instances, *groups)


def finish(context: Context) -> Mapping[str, msgspec.Struct]:
    """The slices of the notify room; the rooms that it tells of are finished before it."""
    values = context.globals
    room = NotifyRoom(
        router_id=values.get("router_id", ""),
        targets=_targets(context),
        services=tuple(context.shared.get("service_notifies", ())),
        servers=tuple(context.shared.get("server_notifies", ())),
        fifo=_made(context, "notify_fifo"),
        vrrp_fifo=_made(context, "vrrp_notify_fifo"),
        lvs_fifo=_made(context, "lvs_notify_fifo"),
        mail=mail(context),
        script_options=scripts.options(context),
        umask=values.get("umask", 0o177),
        write_states_on_reload=bool(values.get("fifo_write_vrrp_states_on_reload")),
        rs_init_notifies=bool(values.get("rs_init_notifies")),
    )
    return {"room": room}


NOTIFY = Room("notify", global_defs=GLOBAL_DEFS, finish=finish)
