"""From what was read to the IPVS room's Structs: defaults, precedence, and what does not fit (keepalived.conf(5))."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from holdfast.actors.ipvs.config import (
    CheckRef,
    Forwarding,
    GroupMember,
    IpvsGlobals,
    LvsTimeouts,
    RealServer,
    SorryServer,
    SyncDaemon,
    VirtualServer,
)
from holdfast.actors.notify.config import ServerNotify, ServiceNotify
from holdfast.config import scripts
from holdfast.config.context import Context
from holdfast.config.diagnostics import Severity
from holdfast.config.source import Line
from holdfast.config.table import Draft

DEFAULT_PERSISTENCE_S = 360


class Planner(Protocol):
    """Makes the checks of real servers; the checkers room has it."""

    def server(
        self, context: Context, service: Draft, server: Draft, *, names: tuple[str, str], made: RealServer
    ) -> tuple[CheckRef, ...]:
        """The checks of one real server. names: of service and server."""

    def service(self, context: Context, name: str, protocol: str, suspend: str | None) -> None:
        """All real servers of a service were planned. suspend: the address its checks wait for."""


def finish(context: Context, planner: Planner) -> dict[str, msgspec.Struct]:
    """The slices of the IPVS room: "globals", and one for each virtual server."""
    slices: dict[str, msgspec.Struct] = {"globals": _globals(context)}
    numbers: dict[str, int] = {}
    for draft in context.root.get("virtual_servers", ()):
        service = _Builder(context, planner, draft, numbers).build()
        if service is None:
            continue
        if service.name in slices:
            text = f"virtual_server {service.name} is defined twice: the first one counts"
            context.report(Severity.NOTE, draft.line, text, "another address, port or protocol")
            continue
        slices[service.name] = service
        context.has_services = True
    return slices


class _Builder:
    """Makes one virtual server of its draft."""

    def __init__(self, context: Context, planner: Planner, draft: Draft, numbers: dict[str, int]) -> None:
        self.context = context
        self.planner = planner
        self.draft = draft
        self.numbers = numbers
        self.kind: str = draft.get("kind")
        self.group: str | None = draft.get("group")
        self.members: tuple[GroupMember, ...] = ()
        self.port: int = draft.get("port", 0)
        self.protocol = "none"
        self.name = ""

    def error(self, text: str, hint: str = "", line: Line | None = None) -> None:
        self.context.error(line or self.draft.line, f"{self.name or self.label()}: {text}", hint)

    def label(self) -> str:
        return " ".join(["virtual_server", *self.draft.line.text.split()[1:3]])

    def build(self) -> VirtualServer | None:
        """The virtual server, or None when it cannot be used."""
        draft = self.draft
        if self.kind == "group":
            assert self.group is not None
            group = self.context.named("virtual_server_group").get(self.group)
            if group is None:
                text = f"{self.label()}: there is no virtual_server_group '{self.group}': dropped"
                self.context.report(Severity.NOTE, draft.line, text, f"virtual_server_group {self.group} {{ ... }}")
                return None
            self.members = tuple(group.get("members"))
        forwarding = self._forwarding()
        drafts = self._servers(forwarding)
        if not drafts:
            if self.kind == "group" and draft.get("servers"):
                return None
            self.error("no real_server: dropped", "real_server ADDRESS PORT { ... }")
            return None
        family = self._family(drafts)
        self._protocol()
        self._name()
        number = 0
        if self.group is not None:
            number = self.numbers.get(self.group, 0)
            self.numbers[self.group] = number + 1
        sorry = draft.has("sorry_server") and not draft.has("sorry_forwarding")
        if not draft.has("forwarding") and (sorry or any(not server.has("forwarding") for server in drafts)):
            self.error("no lvs_method: NAT taken", "lvs_method NAT|DR|TUN")
        scheduler = draft.get("scheduler")
        if scheduler is None:
            self.error("no lvs_sched: wlc taken", "lvs_sched rr")
            scheduler = "wlc"
        persistence = self._persistence()
        one_packet = bool(draft.get("one_packet"))
        if one_packet and self.kind == "address" and self.protocol != "udp":
            self.error("ops is for UDP: ignored", "protocol UDP", draft.line_of("one_packet"))
            one_packet = False
        suspend = self._suspend()
        servers = self._real_servers(drafts, forwarding, family)
        quorum, hysteresis = self._quorum(servers)
        self.planner.service(self.context, self.name, self.protocol, suspend)
        alert = self.context.globals.get("smtp_alert_checker", self.context.globals.get("smtp_alert", False))
        service = VirtualServer(
            name=self.name,
            kind=self.kind,
            family=family,
            protocol=self.protocol,
            address=draft.get("address"),
            port=self.port,
            fwmark=draft.get("fwmark", 0),
            group=self.group,
            group_number=number,
            members=self.members,
            scheduler=scheduler,
            flags=draft.get("flags", 0),
            one_packet=one_packet,
            hashed=bool(draft.get("hashed")),
            persistence_timeout_s=persistence,
            persistence_granularity=draft.get("persistence_granularity"),
            persistence_engine=draft.get("persistence_engine"),
            forwarding=forwarding,
            quorum=quorum,
            hysteresis=hysteresis,
            alpha=bool(draft.get("alpha")),
            omega=bool(draft.get("omega")),
            inhibit_on_failure=bool(draft.get("inhibit_on_failure")),
            ha_suspend=suspend is not None,
            smtp_alert=bool(draft.get("smtp_alert", alert)),
            quorum_up=self._script(draft, "quorum_up"),
            quorum_down=self._script(draft, "quorum_down"),
            virtualhost=draft.get("virtualhost"),
            snmp_name=draft.get("snmp_name"),
            sorry_server=self._sorry(forwarding, family),
            real_servers=tuple(servers),
        )
        self._notifies(service)
        return service

    def _forwarding(self) -> Forwarding:
        chosen: Forwarding = self.draft.get("forwarding", Forwarding())
        return chosen

    def _servers(self, forwarding: Forwarding) -> list[Draft]:
        """The real servers whose family fits."""
        family = self.draft.get("family")
        families = {member.family for member in self.members}
        kept: list[Draft] = []
        for server in self.draft.get("servers", ()):
            method = server.get("forwarding", forwarding).method
            if self.kind != "group" and method != "TUN":
                if family is None:
                    family = server.get("family")
                elif server.get("family") != family:
                    text = f"real_server {server.get('address')} is not of the service's family: skipped"
                    self.error(text, f"an IPv{family} address, or lvs_method TUN", server.line)
                    self._count_scripts(server)
                    continue
            elif (
                self.kind == "group" and method != "TUN" and 0 not in families and server.get("family") not in families
            ):
                text = (
                    f"{self.label()}: real_server {server.get('address')} is of another family than the group: skipped"
                )
                self.context.report(Severity.NOTE, server.line, text, "the same family, or lvs_method TUN")
                continue
            kept.append(server)
        return kept

    def _count_scripts(self, server: Draft) -> None:
        """The MISC_CHECKs of a server that is skipped count for script security."""
        for check in server.get("checks", ()):
            if check.has("script"):
                line = check.line_of("script")
                scripts.accept(self.context, check.get("script"), line, "MISC_CHECK", process="checkers")

    def _family(self, servers: list[Draft]) -> int:
        """The service's family: written, or of its members, or of the first server that is not tunnelled."""
        written = self.draft.get("family") or next((member.family for member in self.members if member.family), 0)
        if written:
            return int(written)
        plain = [server for server in servers if server.get("forwarding", self._forwarding()).method != "TUN"]
        return int((plain or servers)[0].get("family"))

    def _protocol(self) -> None:
        draft = self.draft
        chosen = draft.get("protocol")
        marked = self.kind == "fwmark" or (
            self.kind == "group" and all(member.first is None for member in self.members)
        )
        if marked:
            if chosen is not None:
                self.error("a fwmark has no protocol: ignored", "without protocol", draft.line_of("protocol"))
            return
        if chosen is None:
            self.error("no protocol: UDP taken", "protocol TCP|UDP|SCTP")
        self.protocol = chosen or "udp"

    def _name(self) -> None:
        draft = self.draft
        if self.kind == "fwmark":
            self.name = f"FWM {draft.get('fwmark')}"
        elif self.kind == "group":
            assert self.group is not None
            self.name = f"[{self.group}]:{self.numbers.get(self.group, 0)}"
        else:
            self.name = f"[{draft.get('address')}]:{self.protocol}:{self.port}"

    def _persistence(self) -> int | None:
        draft = self.draft
        timeout: int | None = draft.get("persistence_timeout_s")
        if timeout is None and draft.has("persistence_granularity"):
            timeout = DEFAULT_PERSISTENCE_S
        addresses = [member.port for member in self.members if member.first is not None]
        portless = not self.port if self.kind == "address" else 0 in addresses
        if timeout is None and portless:
            self.error("a service without port is persistent: 360 s taken", "a port, or persistence_timeout")
            timeout = DEFAULT_PERSISTENCE_S
        return timeout

    def _suspend(self) -> str | None:
        """The address that the checks wait for; "" for a group, whose addresses are never found."""
        if not self.draft.get("ha_suspend"):
            return None
        if self.kind == "fwmark":
            self.error(
                "ha_suspend needs an address: ignored", "virtual_server ADDRESS", self.draft.line_of("ha_suspend")
            )
            return None
        return self.draft.get("address") or ""

    def _port(self, server: Draft, forwarding: Forwarding, what: str) -> int:
        """Where packets go: only NAT can change the port."""
        port = int(server.get("port"))
        if forwarding.method == "NAT":
            return port or self.port
        if self.kind == "fwmark":
            if port:
                self.error(f"{what} has a port, which {forwarding.method} cannot give: cleared", "no port", server.line)
            return 0
        if self.kind == "group":
            marks = all(member.first is None for member in self.members)
            ports = {member.port for member in self.members if member.first is not None}
            if port and (marks or ports != {port}):
                self.error(f"{what} has a port of its own, which {forwarding.method} cannot give", "", server.line)
            return 0 if marks else port
        if port not in (0, self.port):
            text = f"{what} has port {port}, which {forwarding.method} cannot give: {self.port} taken"
            self.error(text, f"port {self.port}", server.line)
        return self.port

    def _real_servers(self, drafts: list[Draft], forwarding: Forwarding, family: int) -> list[RealServer]:
        made: dict[tuple[str, int], RealServer] = {}
        values = self.context.globals
        alert = values.get("smtp_alert_checker", values.get("smtp_alert", True))
        service = self.draft
        default_weight = service.get("weight", 1)
        inhibit = bool(service.get("inhibit_on_failure"))
        # The drafts of a large file are most of the memory that reading it takes: each is let go when it is used up.
        service.values.pop("servers", None)
        drafts.reverse()
        while drafts:
            draft = drafts.pop()
            read = draft.values
            address = read["address"]
            method = read.get("forwarding", forwarding)
            port = self._port(draft, method, f"real_server {address}")
            name = f"[{address}]:{self.protocol}:{port}"
            if (address, port) in made:
                self.error(f"real_server {name} is defined twice: the first one counts", "once", draft.line)
                continue
            server = RealServer(
                name=name,
                address=address,
                port=port,
                family=read["family"],
                weight=read.get("weight", default_weight),
                forwarding=method,
                upper_threshold=read.get("uthreshold", 0),
                lower_threshold=read.get("lthreshold", 0),
                inhibit_on_failure=read.get("inhibit_on_failure", inhibit),
                notify_up=self._script(draft, "notify_up"),
                notify_down=self._script(draft, "notify_down"),
                smtp_alert=bool(read.get("smtp_alert", alert)),
                virtualhost=read.get("virtualhost"),
                snmp_name=read.get("snmp_name"),
            )
            checks = self.planner.server(self.context, service, draft, names=(self.name, name), made=server)
            made[address, port] = msgspec.structs.replace(server, checks=checks) if checks else server
            draft.values = {}  # a check's draft and this one hold each other
        return list(made.values())

    def _quorum(self, servers: list[RealServer]) -> tuple[int, int]:
        draft = self.draft
        quorum, hysteresis = draft.get("quorum", 1), draft.get("hysteresis", 0)
        total = sum(server.weight for server in servers)
        if quorum > total:
            text = f"quorum {quorum} is above the weight of all servers, {total}: {total} taken"
            self.error(text, f"1..{total}" if total else "a weight", draft.line_of("quorum"))
            quorum = total
        if hysteresis >= quorum:
            lower = max(quorum - 1, 0)
            if hysteresis or quorum:
                text = f"hysteresis {hysteresis} is not below the quorum {quorum}: {lower} taken"
                self.error(text, "below the quorum", draft.line_of("hysteresis"))
            hysteresis = lower
        return quorum, hysteresis

    def _sorry(self, forwarding: Forwarding, family: int) -> SorryServer | None:
        draft = self.draft
        if not draft.has("sorry_server"):
            return None
        address, port = draft.get("sorry_server")
        line = draft.line_of("sorry_server")
        method = draft.get("sorry_forwarding", forwarding)
        own = 6 if ":" in address else 4
        if own != family and method.method != "TUN":
            self.error(f"sorry_server {address} is not of the service's family: ignored", f"IPv{family}", line)
            return None
        holder = Draft(line)
        holder.values["port"] = port
        port = self._port(holder, method, f"sorry_server {address}")
        return SorryServer(
            name=f"[{address}]:{self.protocol}:{port}",
            address=address,
            port=port,
            family=own,
            forwarding=method,
            inhibit=bool(draft.get("sorry_inhibit")),
        )

    def _script(self, draft: Draft, field: str) -> Any:
        script = draft.values.get(field)
        if script is None:
            return None
        return scripts.accept(self.context, script, draft.line_of(field), f"{field} of {self.name}", process="checkers")

    def _notifies(self, service: VirtualServer) -> None:
        """Leaves scripts and mails for the notify room; only what there is to tell."""
        values = self.context.globals
        mails = bool(values.get("recipients")) and bool(values.get("smtp_server"))
        shared = self.context.shared
        if service.quorum_up or service.quorum_down or (mails and service.smtp_alert):
            shared.setdefault("service_notifies", []).append(
                ServiceNotify(
                    service=service.name,
                    quorum_up=service.quorum_up,
                    quorum_down=service.quorum_down,
                    omega=service.omega,
                    smtp_alert=service.smtp_alert,
                )
            )
        for server in service.real_servers:
            if server.notify_up or server.notify_down or (mails and server.smtp_alert):
                shared.setdefault("server_notifies", []).append(
                    ServerNotify(
                        service=service.name,
                        server=server.name,
                        notify_up=server.notify_up,
                        notify_down=server.notify_down,
                        smtp_alert=server.smtp_alert,
                    )
                )


def _globals(context: Context) -> IpvsGlobals:
    values = context.globals
    sync: SyncDaemon | None = values.get("lvs_sync_daemon")
    if sync is not None and sync.instance is not None and sync.instance not in context.named("vrrp_instance"):
        text = f"lvs_sync_daemon: there is no vrrp_instance '{sync.instance}': ignored"
        context.report(Severity.NOTE, values.line_of("lvs_sync_daemon"), text, "", 2)
        sync = None
    return IpvsGlobals(
        timeouts=values.get("lvs_timeouts", LvsTimeouts()),
        flush=bool(values.get("lvs_flush")),
        flush_on_stop=values.get("lvs_flush_on_stop", "none"),
        sync_daemon=sync or _instance_sync_daemon(context),
        net_namespace=context.root.get("net_namespace_ipvs"),
        rs_init_notifies=bool(values.get("rs_init_notifies")),
        nftables_table=values.get("nftables_ipvs"),
        nftables_priority=values.get("nftables_ipvs_priority", -1),
        nftables_start_fwmark=values.get("nftables_ipvs_start_fwmark", 1000),
        nftables_counters=bool(values.get("nftables_counters")),
    )


def _instance_sync_daemon(context: Context) -> SyncDaemon | None:
    """The deprecated lvs_sync_daemon_interface of an instance."""
    for draft in context.named("vrrp_instance").values():
        if draft.has("lvs_sync_daemon_interface"):
            return SyncDaemon(interface=draft.get("lvs_sync_daemon_interface"), instance=draft.name)
    return None
