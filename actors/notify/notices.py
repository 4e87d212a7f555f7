"""What an event means to those who are notified: scripts with their arguments, FIFO lines, mails. Pure.

The words and the formats are keepalived's (keepalived.conf(5), notify scripts and notify_fifo), since other people's
programs depend on them. Who carries them out: `script_actor.py`, `fifo_actor.py`, `mail_actor.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from holdfast.actors.ipvs.messages import RealServerChanged, VirtualServerChanged
from holdfast.actors.notify.config import NotifyRoom, NotifyScripts, NotifyTarget, Script
from holdfast.actors.vrrp.messages import (
    VrrpGroupChanged,
    VrrpLowerPriorityHeard,
    VrrpPriorityChanged,
    VrrpState,
    VrrpStateChanged,
)
from holdfast.bus.messages import Event, Reason, ReasonKind

NO_SCRIPTS = NotifyScripts()


class ScriptCall(msgspec.Struct, frozen=True):
    """A script with the arguments that come after the configured ones."""

    script: Script
    arguments: tuple[str, ...] = ()


class MailText(msgspec.Struct, frozen=True):
    """A mail without its headers. topic: mails with the same topic and subject are not sent twice in a row."""

    topic: str
    subject: str
    body: str


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one event leads to, in the order in which it is to be done.

    target: whose scripts run strictly one after the other. word: the state in keepalived's words, empty for what is no
    state. line: for the FIFOs, with its newline. vrrp: which FIFO beside the global one. stop: the daemon stops, so
    there is one second left for the scripts.
    """

    target: str
    word: str = ""
    calls: tuple[ScriptCall, ...] = ()
    line: str = ""
    vrrp: bool = True
    mail: MailText | None = None
    stop: bool = False
    reason: Reason | None = None


_SPECIFIC: Mapping[str, str] = {
    "MASTER": "master",
    "BACKUP": "backup",
    "FAULT": "fault",
    "STOP": "stop",
    "DELETED": "deleted",
}

_INSTANCE_MAIL: Mapping[str, tuple[str, str]] = {
    "MASTER": ("Entering MASTER state", "=> VRRP Instance is now owning VRRP VIPs <="),
    "BACKUP": ("Entering BACKUP state", "=> VRRP Instance is no longer owning VRRP VIPs <="),
    "FAULT": ("Entering FAULT state", "=> VRRP Instance is no longer owning VRRP VIPs <="),
    "STOP": ("Stopping", "=> VRRP Instance stopping <="),
    "DELETED": ("Deleted", "=> VRRP Deleted at reload <="),
}

_GROUP_MAIL: Mapping[str, tuple[str, str]] = {
    "MASTER": ("Entering MASTER state", "=> All VRRP group instances are now in MASTER state <="),
    "BACKUP": ("Entering BACKUP state", "=> All VRRP group instances are now in BACKUP state <="),
    "FAULT": ("Entering FAULT state", "=> All VRRP group instances are now in FAULT state <="),
    "STOP": ("Stopping", "=> All VRRP group instances are now stopping <="),
}


def notice_of(event: Event, room: NotifyRoom, targets: Mapping[str, NotifyTarget]) -> Notice | None:
    """What `event` leads to; None when nobody is to be told.

    targets: by `target_name`; they may be those of a configuration that a reload has just replaced, since the last
    events of a deleted instance come after it.
    """
    match event:
        case VrrpStateChanged():
            return _instance_state(event, room, targets)
        case VrrpGroupChanged():
            return _group_state(event, room, targets)
        case VrrpPriorityChanged():
            return _priority(event, targets)
        case VrrpLowerPriorityHeard():
            return _lower_priority(event, targets)
        case RealServerChanged():
            return _server(event, room)
        case VirtualServerChanged():
            return _service(event, room)
        case _:
            return None


def target_name(kind: str, name: str) -> str:
    """`instance:VI_1`: the key of a target's queue and the name of its events. kind: INSTANCE or GROUP."""
    return f"{kind.lower()}:{name}"


def _state_notice(
    kind: str, name: str, word: str, priority: int, scripts: NotifyScripts, mail: MailText | None, reason: Reason
) -> Notice:
    calls = []
    specific: Script | None = getattr(scripts, _SPECIFIC[word])
    if specific is not None:
        calls.append(ScriptCall(specific))
    if scripts.any is not None:
        calls.append(ScriptCall(scripts.any, (kind, name, word, str(priority))))
    return Notice(
        target=target_name(kind, name),
        word=word,
        calls=tuple(calls),
        line=f'{kind} "{name}" {word} {priority}\n',
        mail=mail,
        stop=word == "STOP",
        reason=reason,
    )


def _instance_state(event: VrrpStateChanged, room: NotifyRoom, targets: Mapping[str, NotifyTarget]) -> Notice | None:
    if event.state is VrrpState.INIT:
        return None
    target = targets.get(target_name("INSTANCE", event.instance))
    scripts = target.scripts if target is not None else NO_SCRIPTS
    word = event.state.value
    if word == "DELETED" and not (scripts.notify_deleted or scripts.deleted is not None):
        word = "FAULT"  # what keepalived has always told of an instance that a reload removed
    mail = None
    if scripts.smtp_alert and not (word == "FAULT" and room.mail.no_faults):
        subject, body = _INSTANCE_MAIL[word]
        mail = _mail(room, f"instance:{event.instance}", f"VRRP Instance {event.instance} - {subject}", body)
    return _state_notice("INSTANCE", event.instance, word, event.priority, scripts, mail, event.reason)


def _group_state(event: VrrpGroupChanged, room: NotifyRoom, targets: Mapping[str, NotifyTarget]) -> Notice | None:
    word = event.state.value
    if word in ("INIT", "DELETED"):
        return None  # groups have no word for being deleted
    target = targets.get(target_name("GROUP", event.group))
    scripts = target.scripts if target is not None else NO_SCRIPTS
    mail = None
    if scripts.smtp_alert and not (word == "FAULT" and room.mail.no_faults):
        subject, body = _GROUP_MAIL[word]
        mail = _mail(room, f"group:{event.group}", f"VRRP Group {event.group} - {subject}", body)
    return _state_notice("GROUP", event.group, word, 0, scripts, mail, event.reason)


def _priority(event: VrrpPriorityChanged, targets: Mapping[str, NotifyTarget]) -> Notice | None:
    """FIFOs only (keepalived.conf(5), notify_priority_changes); FAULT counts as BACKUP."""
    target = targets.get(target_name("INSTANCE", event.instance))
    if target is None or not target.scripts.priority_changes or event.effective == event.old:
        return None
    word = "MASTER_PRIORITY" if event.state is VrrpState.MASTER else "BACKUP_PRIORITY"
    line = f'INSTANCE "{event.instance}" {word} {event.effective}\n'
    return Notice(target=target_name("INSTANCE", event.instance), line=line, reason=event.reason)


def _lower_priority(event: VrrpLowerPriorityHeard, targets: Mapping[str, NotifyTarget]) -> Notice | None:
    name = target_name("INSTANCE", event.instance)
    target = targets.get(name)
    script = target.scripts.master_rx_lower_pri if target is not None else None
    line = f'INSTANCE "{event.instance}" MASTER_RX_LOWER_PRI {event.own_priority}\n'
    return Notice(target=name, calls=(ScriptCall(script),) if script is not None else (), line=line)


def _mail(room: NotifyRoom, topic: str, subject: str, body: str) -> MailText:
    return MailText(topic, f"[{room.router_id}] {subject}", body)


def _server(event: RealServerChanged, room: NotifyRoom) -> Notice | None:
    if not event.announce:
        return None
    service, server = event.virtual_server, event.real_server
    wanted = next((each for each in room.servers if each.service == service and each.server == server), None)
    script = None
    if wanted is not None:
        script = wanted.notify_up if event.up else wanted.notify_down
    word = "UP" if event.up else "DOWN"
    mail = None
    if wanted is not None and wanted.smtp_alert and not (room.mail.no_checker_mails and event.old_up == event.up):
        body = _check_body(event)
        subject = f"Realserver {server} of virtual server {service} - {word}"
        mail = _mail(room, f"rs:{server}@{service}", subject, body)
    return Notice(
        target=f"rs:{server}@{service}",
        word=word,
        calls=_call(script, event.script),
        line=_line(event.fifo_line, f"RS {server} {service} {word}"),
        vrrp=False,
        mail=mail,
        stop=event.final and event.reason.kind is ReasonKind.STOPPED,
        reason=event.reason,
    )


def _check_body(event: RealServerChanged) -> str:
    if event.final:
        return "=> Shutting down <="
    name = str(event.reason.evidence.get("check", "")) or (event.failed_checks[0] if event.failed_checks else "CHECK")
    return f"=> {name} {'succeed' if event.up else 'failed'} on service <="


def _service(event: VirtualServerChanged, room: NotifyRoom) -> Notice | None:
    if not event.announce:
        return None
    service = event.virtual_server
    wanted = next((each for each in room.services if each.service == service), None)
    script = None
    if wanted is not None:
        script = wanted.quorum_up if event.up else wanted.quorum_down
    word = "UP" if event.up else "DOWN"
    mail = None
    if wanted is not None and wanted.smtp_alert:
        if event.final:
            body = "=> Shutting down <="
        elif event.starting:
            body = f"=> Starting with quorum {word.lower()} <="
        elif event.up:
            threshold = event.quorum + event.hysteresis
            body = f"=> Gained quorum {event.quorum}+{event.hysteresis}={threshold} <= {event.weight_sum} <="
        else:
            threshold = event.quorum - event.hysteresis
            body = f"=> Lost quorum {event.quorum}-{event.hysteresis}={threshold} > {event.weight_sum} <="
        mail = _mail(room, f"vs:{service}", f"Virtualserver {service} - {word}", body)
    return Notice(
        target=f"vs:{service}",
        word=word,
        calls=_call(script, event.script),
        line=_line(event.fifo_line, f"VS {service} {word}"),
        vrrp=False,
        mail=mail,
        stop=event.final and event.reason.kind is ReasonKind.STOPPED,
        reason=event.reason,
    )


def _call(script: Script | None, argv: tuple[str, ...]) -> tuple[ScriptCall, ...]:
    """The configured script; what the event carries says the same, and still does when a reload has removed it."""
    if script is None and argv:
        script = Script(argv=argv)
    return (ScriptCall(script),) if script is not None else ()


def _line(given: str, own: str) -> str:
    return (given or own).rstrip("\n") + "\n"
