"""From what was read to the checkers room's Structs: defaults, and who overrules whom (keepalived.conf(5)).

An option of a check is its own, or the real server's, or the virtual server's, or built in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from holdfast.actors.checkers.config import (
    AnyCheck,
    BfdCheck,
    CheckersGlobals,
    Connection,
    DnsCheck,
    FileCheck,
    HttpCheck,
    HttpUrl,
    MiscCheck,
    PingCheck,
    Regex,
    ServerChecks,
    ServiceChecks,
    SmtpCheck,
    SslClient,
    TcpCheck,
    TrackedFile,
    UdpCheck,
)
from holdfast.actors.ipvs.config import CheckRef, RealServer
from holdfast.config import scripts
from holdfast.config.context import Context
from holdfast.config.table import Draft

DELAY_LOOP_US = 60_000_000
TIMEOUT_US = 5_000_000
REGEX_OPTIONS = frozenset(
    "allow_empty_class alt_bsux auto_callout caseless dollar_endonly dotall dupnames extended firstline"  # noqa: SIM905
    " match_unset_backref multiline never_ucp never_utf no_auto_capture no_auto_possess no_dotstar_anchor"
    " no_start_optimize ucp ungreedy utf never_backslash_c alt_circumflex alt_verbnames use_offset_limit".split()
)
_RETRIES = {"MISC_CHECK": 0, "DNS_CHECK": 3}
_RETRY_DELAYS = {"HTTP_GET": 3_000_000, "SSL_GET": 3_000_000}


class Plan:
    """A real server as a check needs it: the blocks it comes from, and what the ipvs room made of them."""

    __slots__ = ("address", "port", "server", "server_name", "service", "service_name")

    def __init__(self, service: Draft, server: Draft, names: tuple[str, str], address: str, port: int) -> None:
        self.service = service
        self.server = server
        self.service_name, self.server_name = names
        self.address = address
        self.port = port


class CheckPlanner:
    """Makes the checks of real servers while the ipvs room is finished, and keeps them for `finish`."""

    def server(
        self, context: Context, service: Draft, server: Draft, *, names: tuple[str, str], made: RealServer
    ) -> tuple[CheckRef, ...]:
        """The checks of one real server, as the director needs them. names: of service and server."""
        drafts = server.values.get("checks")
        if not drafts:
            return ()
        plan = Plan(service, server, names, made.address, made.port)
        checks: list[AnyCheck] = []
        for draft in drafts:
            for target in _targets(draft):
                check = _Maker(context, plan, target, draft, len(checks) + 1).make()
                if check is not None:
                    checks.append(check)
        context.shared.setdefault("server_checks", []).append(
            ServerChecks(
                server=made.name, address=made.address, port=made.port, weight=made.weight, checks=tuple(checks)
            )
        )
        return tuple(
            CheckRef(
                name=check.name,
                kind=_kind(check),
                alpha=check.alpha,
                weighted=isinstance(check, FileCheck) or (isinstance(check, MiscCheck) and check.dynamic),
            )
            for check in checks
        )

    def service(self, context: Context, name: str, protocol: str, suspend: str | None) -> None:
        """All real servers of a virtual server were planned. suspend: the address they wait for (ha_suspend)."""
        servers = tuple(context.shared.pop("server_checks", ()))
        if servers:
            checks = ServiceChecks(
                service=name,
                protocol=protocol,
                ha_suspend=suspend is not None,
                suspend_address=suspend,
                servers=servers,
            )
            context.shared.setdefault("service_checks", []).append(checks)


def _kind(check: AnyCheck) -> str:
    """The keyword of a check."""
    if isinstance(check, HttpCheck) and check.tls:
        return "SSL_GET"
    tag = type(check).__struct_config__.tag
    assert isinstance(tag, str)
    return tag


def _targets(draft: Draft) -> list[Draft]:
    """The deprecated host blocks of an SMTP_CHECK are checks too; itself is one then only with options of its own."""
    hosts: list[Draft] = draft.get("hosts", [])
    own = any(name not in {"hosts", "helo_name"} for name in draft.values)
    return [*([draft] if own or not hosts else []), *hosts]


class _Maker:
    """Makes one check."""

    def __init__(self, context: Context, plan: Plan, draft: Draft, block: Draft, number: int) -> None:
        self.context = context
        self.plan = plan
        self.draft = draft
        self.block = block
        self.kind = block.name
        self.name = f"{block.name}-{number}@{plan.server_name}@{plan.service_name}"

    def option(self, field: str, default: Any) -> Any:
        """The value that counts: check, real server, virtual server, built in."""
        for draft in (self.draft, self.plan.server, self.plan.service):
            value = draft.values.get(field)
            if value is not None:
                return value
        return default

    def common(self) -> dict[str, Any]:
        loop = self.option("delay_loop_us", DELAY_LOOP_US)
        delay = loop if self.kind == "DNS_CHECK" else _RETRY_DELAYS.get(self.kind, 1_000_000)
        return {
            "name": self.name,
            "retry": self.option("retry", _RETRIES.get(self.kind, 1)),
            "delay_before_retry_us": self.option("delay_before_retry_us", delay),
            "warmup_us": self.option("warmup_us", loop),
            "delay_loop_us": loop,
            "alpha": bool(self.option("alpha", False)),
            "log_all_failures": bool(
                self.draft.get("log_all_failures", self.context.globals.get("checker_log_all_failures", False))
            ),
        }

    def connection(self) -> Connection:
        draft = self.draft
        return Connection(
            address=draft.get("connect_ip", self.plan.address),
            port=draft.get("connect_port", self.plan.port),
            bind_address=draft.get("bind_address"),
            bind_port=draft.get("bind_port", 0),
            bind_interface=draft.get("bind_interface"),
            fwmark=draft.get("fwmark", 0),
            timeout_us=self.option("timeout_us", TIMEOUT_US),
        )

    def given(self, *names: str) -> dict[str, Any]:
        return {name: self.block.values[name] for name in names if name in self.block.values}

    def make(self) -> AnyCheck | None:
        match self.kind:
            case "TCP_CHECK":
                return TcpCheck(connection=self.connection(), **self.common())
            case "HTTP_GET" | "SSL_GET":
                return self.web()
            case "SMTP_CHECK":
                return SmtpCheck(connection=self.connection(), **self.given("helo_name"), **self.common())
            case "DNS_CHECK":
                return DnsCheck(connection=self.connection(), **self.given("query_type", "query_name"), **self.common())
            case "UDP_CHECK":
                names = ("payload", "require_reply", "reply", "reply_mask", "min_reply_length", "max_reply_length")
                return UdpCheck(connection=self.connection(), **self.given(*names), **self.common())
            case "PING_CHECK":
                return PingCheck(connection=self.connection(), **self.common())
            case "MISC_CHECK":
                return self.misc()
            case "FILE_CHECK":
                return self.file()
        assert self.kind == "BFD_CHECK"
        return BfdCheck(instance=self.draft.get("instance"), **(self.common() | {"retry": 0}))

    def web(self) -> HttpCheck:
        draft = self.draft
        tls = self.kind == "SSL_GET"
        sni = draft.get("sni_name")
        # The name for TLS skips the real server's virtualhost, though the Host header has it: so does keepalived.
        fallback = draft.get("virtualhost") or self.plan.service.get("virtualhost")
        return HttpCheck(
            connection=self.connection(),
            tls=tls,
            urls=tuple(_url(url, bool(draft.get("tls_compliant"))) for url in draft.get("urls")),
            host=self.option("virtualhost", None),
            sni_enabled=sni is not None or bool(draft.get("enable_sni")),
            sni=sni or fallback,
            sni_fixed=sni is not None,
            fast_recovery=bool(draft.get("fast_recovery")),
            tls_compliant=bool(draft.get("tls_compliant")),
            **self.given("protocol"),
            **self.common(),
        )

    def misc(self) -> MiscCheck | None:
        draft = self.draft
        script = scripts.with_user(draft.get("script"), draft.get("user"))
        what = f"MISC_CHECK of {self.plan.server_name}"
        accepted = scripts.accept(
            self.context, script, draft.line_of("script"), what, needs_user=True, process="checkers"
        )
        if accepted is None:
            return None
        return MiscCheck(
            script=accepted,
            # Not the server's nor the check's own interval: keepalived takes the service's.
            timeout_us=draft.get("timeout_us") or self.plan.service.get("delay_loop_us", DELAY_LOOP_US),
            dynamic=bool(draft.get("misc_dynamic")),
            **self.common(),
        )

    def file(self) -> FileCheck | None:
        name = self.draft.get("track_file")
        file = self.context.named("track_file").get(name)
        if file is None or not file.has("path"):
            return None
        weight, reverse = self.draft.get("weight") or file.get("weight", (1, False))
        common = self.common() | {"retry": 0, "alpha": False}
        return FileCheck(track_file=name, path=file.get("path"), weight=weight, reverse=reverse, **common)


def _url(draft: Draft, compliant: bool) -> HttpUrl:
    regex = None
    if draft.has("regex"):
        stack = draft.get("regex_stack", (0, 0))
        regex = Regex(
            pattern=draft.get("regex"),
            options=tuple(draft.get("regex_options", ())),
            no_match=bool(draft.get("regex_no_match")),
            min_offset=draft.get("regex_min_offset", 0),
            max_offset=draft.get("regex_max_offset", 0),
            stack_start=stack[0],
            stack_max=stack[1],
        )
    codes = draft.get("status_codes")
    return HttpUrl(
        path=draft.get("path"),
        digest=draft.get("digest"),
        status_codes=tuple(codes) if codes else ((200, 299),),
        virtualhost=draft.get("virtualhost"),
        regex=regex,
        tls_compliant=bool(draft.get("tls_compliant", compliant)),
    )


def finish(context: Context) -> Mapping[str, msgspec.Struct]:
    """The slices of the checkers room: "globals", and one for each virtual server that has checks."""
    ssl = context.named("SSL").get("SSL")
    slices: dict[str, msgspec.Struct] = {
        "globals": CheckersGlobals(
            ssl=SslClient(**ssl.values) if ssl else SslClient(),
            files=tuple(_tracked_file(draft) for draft in context.named("track_file").values()),
            script_options=scripts.options(context),
        )
    }
    for service in context.shared.get("service_checks", ()):
        assert isinstance(service, ServiceChecks)
        slices[service.service] = service
    return slices


def _tracked_file(draft: Draft) -> TrackedFile:
    weight, reverse = draft.get("weight", (1, False))
    return TrackedFile(name=draft.name, path=draft.get("path"), weight=weight, reverse=reverse)
