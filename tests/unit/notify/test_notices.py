"""What events mean: scripts with arguments, FIFO lines, mails, in keepalived's words."""

from __future__ import annotations

import pytest

from holdfast.actors.ipvs.messages import RealServerChanged, VirtualServerChanged
from holdfast.actors.notify.config import (
    Mail,
    NotifyRoom,
    NotifyScripts,
    NotifyTarget,
    Script,
    ServerNotify,
    ServiceNotify,
)
from holdfast.actors.notify.notices import Notice, notice_of, target_name
from holdfast.actors.vrrp.messages import (
    VrrpGroupChanged,
    VrrpLowerPriorityHeard,
    VrrpMasterSeen,
    VrrpPriorityChanged,
    VrrpState,
    VrrpStateChanged,
)
from holdfast.bus.messages import Event, Reason, ReasonKind

REASON = Reason(kind=ReasonKind.PEER_SILENT, node="lb1", subject="vrrp/VI_1", evidence={"silent_s": 3.6})


def script(name: str) -> Script:
    return Script(argv=(f"/etc/{name}", "own"))


EVERYTHING = NotifyScripts(
    master=script("master"),
    backup=script("backup"),
    fault=script("fault"),
    stop=script("stop"),
    deleted=script("deleted"),
    any=script("any"),
    master_rx_lower_pri=script("lower"),
    priority_changes=True,
    smtp_alert=True,
)


def state(state: VrrpState, priority: int = 150, name: str = "VI_1") -> VrrpStateChanged:
    return VrrpStateChanged(
        instance=name,
        old=VrrpState.BACKUP,
        state=state,
        priority=priority,
        since_mono_ns=1,
        reason=REASON,
        vrid=51,
        family=4,
        interface="eth0",
        addresses=("10.0.0.1",),
    )


def group(state: VrrpState) -> VrrpGroupChanged:
    return VrrpGroupChanged(group="G", old=VrrpState.BACKUP, state=state, reason=REASON, members=("VI_1", "VI_2"))


def notice(
    event: Event, scripts: NotifyScripts = EVERYTHING, *, kind: str = "INSTANCE", name: str = "VI_1", **options: object
) -> Notice | None:
    target = NotifyTarget(kind=kind, name=name, scripts=scripts)
    room = NotifyRoom(router_id="lb-1", targets=(target,), **options)  # type: ignore[arg-type]
    return notice_of(event, room, {target_name(kind, name): target})


def calls(found: Notice | None) -> list[tuple[str, ...]]:
    assert found is not None
    return [(*call.script.argv, *call.arguments) for call in found.calls]


@pytest.mark.parametrize("word", ["MASTER", "BACKUP", "FAULT", "STOP", "DELETED"])
def test_the_specific_script_then_notify_with_four_arguments(word: str) -> None:
    found = notice(state(VrrpState(word), 149))
    assert calls(found) == [
        (f"/etc/{word.lower()}", "own"),
        ("/etc/any", "own", "INSTANCE", "VI_1", word, "149"),
    ]
    assert found is not None
    assert found.line == f'INSTANCE "VI_1" {word} 149\n'
    assert found.stop is (word == "STOP")
    assert found.reason == REASON


@pytest.mark.parametrize("word", ["MASTER", "BACKUP", "FAULT", "STOP"])
def test_groups_have_priority_zero(word: str) -> None:
    found = notice(group(VrrpState(word)), kind="GROUP", name="G")
    assert calls(found) == [(f"/etc/{word.lower()}", "own"), ("/etc/any", "own", "GROUP", "G", word, "0")]
    assert found is not None and found.line == f'GROUP "G" {word} 0\n'


def test_an_instance_and_a_group_of_one_name_are_two_targets() -> None:
    target = NotifyTarget(kind="GROUP", name="X", scripts=EVERYTHING)
    room = NotifyRoom(targets=(target,))
    found = notice_of(state(VrrpState.MASTER, name="X"), room, {target_name("GROUP", "X"): target})
    assert found is not None and found.calls == () and found.target == "instance:X"


def test_without_scripts_there_still_is_a_line() -> None:
    found = notice(state(VrrpState.MASTER), NotifyScripts())
    assert found is not None and found.calls == () and found.mail is None
    assert found.line == 'INSTANCE "VI_1" MASTER 150\n'


def test_init_is_no_state_to_tell() -> None:
    assert notice(state(VrrpState.INIT)) is None
    assert notice(group(VrrpState.INIT), kind="GROUP", name="G") is None


def test_a_deleted_instance_is_told_as_fault_unless_deleted_is_wanted() -> None:
    plain = notice(state(VrrpState.DELETED), NotifyScripts(fault=script("fault"), any=script("any")))
    assert calls(plain) == [("/etc/fault", "own"), ("/etc/any", "own", "INSTANCE", "VI_1", "FAULT", "150")]
    assert plain is not None and plain.line == 'INSTANCE "VI_1" FAULT 150\n'
    wanted = notice(state(VrrpState.DELETED), NotifyScripts(any=script("any"), notify_deleted=True))
    assert calls(wanted) == [("/etc/any", "own", "INSTANCE", "VI_1", "DELETED", "150")]


def test_names_are_not_escaped_in_lines() -> None:
    found = notice(state(VrrpState.MASTER, name='a "b"'), NotifyScripts())
    assert found is not None and found.line == 'INSTANCE "a "b"" MASTER 150\n'


def test_a_master_that_hears_less_priority() -> None:
    event = VrrpLowerPriorityHeard(instance="VI_1", source="10.0.0.3", priority=90, own_priority=150)
    found = notice(event)
    assert calls(found) == [("/etc/lower", "own")]
    assert found is not None and found.line == 'INSTANCE "VI_1" MASTER_RX_LOWER_PRI 150\n'
    assert found.word == "" and found.mail is None


@pytest.mark.parametrize(
    ("at", "word"), [("MASTER", "MASTER_PRIORITY"), ("BACKUP", "BACKUP_PRIORITY"), ("FAULT", "BACKUP_PRIORITY")]
)
def test_priority_changes_are_lines_only(at: str, word: str) -> None:
    event = VrrpPriorityChanged(instance="VI_1", state=VrrpState(at), base=100, effective=90, old=100, reason=REASON)
    found = notice(event)
    assert found is not None and found.calls == () and found.mail is None
    assert found.line == f'INSTANCE "VI_1" {word} 90\n'
    assert notice(event, NotifyScripts()) is None  # not asked for


def test_other_events_are_nobodys_business() -> None:
    assert notice(VrrpMasterSeen(instance="VI_1", address="10.0.0.2", priority=100, interval_us=1)) is None


@pytest.mark.parametrize(
    ("word", "subject", "body"),
    [
        ("MASTER", "Entering MASTER state", "=> VRRP Instance is now owning VRRP VIPs <="),
        ("BACKUP", "Entering BACKUP state", "=> VRRP Instance is no longer owning VRRP VIPs <="),
        ("FAULT", "Entering FAULT state", "=> VRRP Instance is no longer owning VRRP VIPs <="),
        ("STOP", "Stopping", "=> VRRP Instance stopping <="),
        ("DELETED", "Deleted", "=> VRRP Deleted at reload <="),
    ],
)
def test_mails_of_instances(word: str, subject: str, body: str) -> None:
    found = notice(state(VrrpState(word)))
    assert found is not None and found.mail is not None
    assert (found.mail.subject, found.mail.body) == (f"[lb-1] VRRP Instance VI_1 - {subject}", body)


def test_mails_of_groups_and_no_mail_of_faults() -> None:
    found = notice(group(VrrpState.BACKUP), kind="GROUP", name="G")
    assert found is not None and found.mail is not None
    assert found.mail.subject == "[lb-1] VRRP Group G - Entering BACKUP state"
    assert found.mail.body == "=> All VRRP group instances are now in BACKUP state <="
    quiet = notice(state(VrrpState.FAULT), mail=Mail(no_faults=True))
    assert quiet is not None and quiet.mail is None


SERVICE, SERVER = "[10.0.0.1]:tcp:80", "[10.0.0.2]:tcp:80"


def server(**options: object) -> RealServerChanged:
    values: dict[str, object] = {
        "virtual_server": SERVICE,
        "real_server": SERVER,
        "up": False,
        "announce": True,
        "in_pool": False,
        "weight": 0,
        "effective_weight": 1,
        "reason": REASON,
    }
    return RealServerChanged(**{**values, **options})  # type: ignore[arg-type]


def service(**options: object) -> VirtualServerChanged:
    values: dict[str, object] = {
        "virtual_server": SERVICE,
        "up": False,
        "announce": True,
        "quorum": 2,
        "hysteresis": 1,
        "weight_sum": 0,
        "alive": 0,
        "servers": 3,
        "reason": REASON,
    }
    return VirtualServerChanged(**{**values, **options})  # type: ignore[arg-type]


def test_real_servers_have_scripts_without_arguments_and_a_line() -> None:
    wanted = ServerNotify(service=SERVICE, server=SERVER, notify_up=script("up"), notify_down=script("down"))
    room = NotifyRoom(servers=(wanted,))
    down = notice_of(server(), room, {})
    assert calls(down) == [("/etc/down", "own")]
    assert down is not None and down.line == f"RS {SERVER} {SERVICE} DOWN\n" and not down.vrrp
    up = notice_of(server(up=True, fifo_line=f"RS {SERVER} {SERVICE} UP"), room, {})
    assert calls(up) == [("/etc/up", "own")]
    assert up is not None and up.line == f"RS {SERVER} {SERVICE} UP\n"
    assert notice_of(server(announce=False), room, {}) is None


def test_virtual_servers_have_quorum_scripts_and_a_line() -> None:
    wanted = ServiceNotify(service=SERVICE, quorum_up=script("up"), quorum_down=script("down"), smtp_alert=True)
    room = NotifyRoom(router_id="lb-1", services=(wanted,))
    down = notice_of(service(), room, {})
    assert calls(down) == [("/etc/down", "own")]
    assert down is not None and down.line == f"VS {SERVICE} DOWN\n" and down.mail is not None
    assert down.mail.subject == f"[lb-1] Virtualserver {SERVICE} - DOWN"
    assert down.mail.body == "=> Lost quorum 2-1=1 > 0 <="
    up = notice_of(service(up=True, weight_sum=3), room, {})
    assert up is not None and up.mail is not None and up.mail.body == "=> Gained quorum 2+1=3 <= 3 <="


def test_a_script_that_a_reload_removed_is_still_in_the_event() -> None:
    found = notice_of(server(script=("/etc/down",), final=True), NotifyRoom(), {})
    assert calls(found) == [("/etc/down",)]
    assert found is not None and not found.stop  # removed by a reload: no hurry
    stopped = Reason(kind=ReasonKind.STOPPED, node="lb1", subject="node/lb1")
    last = notice_of(server(final=True, reason=stopped), NotifyRoom(), {})
    assert last is not None and last.stop
