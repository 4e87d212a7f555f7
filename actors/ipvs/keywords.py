"""The IPVS room's keywords (keepalived.conf(5)): virtual servers, their groups and real servers.

The check blocks of a real server belong to the checkers room and come in as an argument. Counterparts: readers.py,
build.py.
"""

from __future__ import annotations

import msgspec

from holdfast.actors.ipvs import build, readers
from holdfast.config.context import Context
from holdfast.config.global_defs import RequiredWord
from holdfast.config.kinds import Block, Bool, Command, Custom, Flag, Integer, Time
from holdfast.config.table import Keyword, Room, Status

_ACCEPTED = Status.ACCEPTED
_UINT32 = (1 << 32) - 1
_INT32 = (1 << 31) - 1
_FOREVER = 18446744073709.551614
_METHOD_SHAPE = "NAT|DR|TUN [type ipip|gue|gre] [port N] [nocsum|csum|remcsum]"


def _checking(low_retry: int) -> tuple[Keyword, ...]:
    """Defaults for the checks below."""
    return (
        Keyword("retry", Integer(low_retry, _UINT32), "failures that checks forgive after the first"),
        Keyword(
            "delay_before_retry",
            Time(0, _FOREVER),
            "time before a failed check is repeated",
            field="delay_before_retry_us",
        ),
        Keyword("warmup", Time(0, _FOREVER), "first checks come within it", field="warmup_us"),
        Keyword("connect_timeout", Time(0.000001, 4294.967295), "patience of checks", field="timeout_us"),
        Keyword("delay_loop", Time(0.000001, _FOREVER), "time between checks", field="delay_loop_us"),
        Keyword("virtualhost", RequiredWord("NAME"), "Host header of HTTP checks"),
        Keyword("snmp_name", RequiredWord("NAME"), "name in SNMP", status=_ACCEPTED),
        Keyword("smtp_alert", Bool(), "mails at changes of state"),
    )


def _server_keywords(checks: tuple[Keyword, ...]) -> tuple[Keyword, ...]:
    return (
        *_checking(1),
        Keyword("weight", Integer(0, _INT32), "share of new connections; 0: none"),
        Keyword("lvs_method", Custom(readers.method, _METHOD_SHAPE), "how packets get there"),
        Keyword("uthreshold", Integer(0, _UINT32), "most connections; 0: no limit"),
        Keyword("lthreshold", Integer(0, _UINT32), "below it new ones come again"),
        Keyword("inhibit_on_failure", Bool(), "a failed server stays, with weight 0"),
        Keyword("alpha", Bool(), "counts as failed until its checks succeed"),
        Keyword("notify_up", Custom(readers.notify, Command.shape), "run when it comes"),
        Keyword("notify_down", Custom(readers.notify, Command.shape), "run when it goes"),
        *checks,
    )


def _service_keywords(checks: tuple[Keyword, ...]) -> tuple[Keyword, ...]:
    scheduler_flags = ("sh-port", "sh-fallback", "mh-port", "mh-fallback")
    return (
        *_checking(1),
        Keyword("ip_family", Custom(readers.ip_family, "inet|inet6"), "family of a fwmark service"),
        Keyword("lvs_sched", Custom(readers.scheduler, "|".join(readers.SCHEDULERS)), "scheduler"),
        Keyword("lb_algo", Custom(readers.scheduler, "|".join(readers.SCHEDULERS)), "scheduler"),
        Keyword("lvs_method", Custom(readers.method, _METHOD_SHAPE), "how packets get to the servers"),
        Keyword("lb_kind", Custom(readers.method, _METHOD_SHAPE), "how packets get to the servers"),
        Keyword("hashed", Custom(readers.hashed), "no effect", status=Status.NEVER),
        Keyword("ops", Flag(), "each packet for itself (UDP)", field="one_packet"),
        *(Keyword(name, Custom(readers.flag), "flag of the scheduler") for name in readers.FLAGS),
        *(Keyword(name, Custom(readers.scheduler_flag), "flag of the scheduler") for name in scheduler_flags),
        Keyword("persistence_engine", Custom(readers.persistence_engine, "NAME"), "sip"),
        Keyword(
            "persistence_timeout", Custom(readers.persistence_timeout, "[1..2678400 s]"), "a client keeps its server"
        ),
        Keyword(
            "persistence_granularity", Custom(readers.granularity, "NETMASK|PREFIX"), "which clients belong together"
        ),
        Keyword("protocol", Custom(readers.protocol, "TCP|UDP|SCTP"), "protocol"),
        Keyword("ha_suspend", Flag(), "checks only while the address is here"),
        Keyword("alpha", Flag(), "servers count as failed until their checks succeed"),
        Keyword("omega", Flag(), "notifications at the end too"),
        Keyword("inhibit_on_failure", Flag(), "failed servers stay, with weight 0"),
        Keyword("weight", Integer(1, _INT32), "weight of servers without one"),
        Keyword("quorum", Integer(1, _UINT32, otherwise=1), "weight of live servers that is enough"),
        Keyword("hysteresis", Integer(0, _UINT32), "how far from the quorum it changes"),
        Keyword("quorum_up", Custom(readers.notify, Command.shape), "run when the quorum is reached"),
        Keyword("quorum_down", Custom(readers.notify, Command.shape), "run when the quorum is lost"),
        Keyword("sorry_server", Custom(readers.sorry_server, "ADDRESS [PORT]"), "who serves without a quorum"),
        Keyword("sorry_server_inhibit", Custom(readers.sorry_inhibit), "the sorry server stays, with weight 0"),
        Keyword("sorry_server_lvs_method", Custom(readers.sorry_method, _METHOD_SHAPE), "how packets get there"),
        Keyword(
            "real_server", Block(_server_keywords(checks), readers.open_server, shape="ADDRESS [PORT]"), "a real server"
        ),
    )


GLOBAL_DEFS = (
    Keyword("lvs_timeouts", Custom(readers.timeouts, "[tcp S] [tcpfin S] [udp S]"), "timeouts of connections"),
    Keyword("lvs_flush", Flag(), "empties the table at the start"),
    Keyword("lvs_flush_on_stop", Custom(readers.flush_on_stop, "[VS]"), "empties the table at the end"),
    Keyword(
        "lvs_flush_onstop",
        Custom(readers.flush_on_stop, "[VS]"),
        "empties the table at the end",
        deprecated="lvs_flush_on_stop",
    ),
    Keyword("lvs_sync_daemon", Custom(readers.sync_daemon, "INTERFACE [INSTANCE] [id N] ..."), "IPVS connection sync"),
    Keyword("rs_init_notifies", Flag(), "notifications of servers that are up at the start"),
    Keyword("nftables_ipvs", Custom(readers.table_name, "[TABLE]"), "services by nftables sets"),
    Keyword("nftables_ipvs_priority", Integer(-_INT32, _INT32), "priority of its chain"),
    Keyword("nftables_ipvs_start_fwmark", Integer(1, _UINT32), "first fwmark of it"),
    Keyword("lvs_netlink_cmd_rcv_bufs", Integer(0, _UINT32, unit="bytes"), "netlink buffer", status=_ACCEPTED),
    Keyword("lvs_netlink_cmd_rcv_bufs_force", Bool(), "above the kernel's limit", status=_ACCEPTED),
    Keyword("lvs_netlink_monitor_rcv_bufs", Integer(0, _UINT32, unit="bytes"), "netlink buffer", status=_ACCEPTED),
    Keyword("lvs_netlink_monitor_rcv_bufs_force", Bool(), "above the kernel's limit", status=_ACCEPTED),
    Keyword("enable_snmp_checker", Flag(), "SNMP", status=_ACCEPTED),
    Keyword("snmp_vs_stats_update_interval", Time(0.001, 4294), "age of SNMP statistics", newer=True, status=_ACCEPTED),
    Keyword("snmp_rs_stats_update_interval", Time(0.001, 4294), "age of SNMP statistics", newer=True, status=_ACCEPTED),
)


def ipvs_room(checks: tuple[Keyword, ...], planner: build.Planner) -> Room:
    """The room's tables. checks: the check blocks of a real_server; planner: what makes checks of them."""
    service = Block(_service_keywords(checks), readers.open_service, shape="ADDRESS [PORT]|fwmark N|group NAME")
    root = (
        Keyword("virtual_server", service, "a virtual server"),
        Keyword("virtual_server_group", Custom(readers.read_group, "NAME { ADDRESS [PORT] ... }"), "several addresses"),
    )

    def finish(context: Context) -> dict[str, msgspec.Struct]:
        return build.finish(context, planner)

    return Room("ipvs", root=root, global_defs=GLOBAL_DEFS, finish=finish)
