"""The checkers room's configuration: every health check, defaults and precedence applied (keepalived.conf(5)).

A slice "globals" (`CheckersGlobals`) and one slice for each virtual server with checks (`ServiceChecks`), keyed by its
name. Precedence of an option: check, real server, virtual server, built in.
"""

from __future__ import annotations

import msgspec

from holdfast.config.values import Script, ScriptOptions

__all__ = [
    "BfdCheck",
    "Check",
    "CheckersGlobals",
    "Connection",
    "DnsCheck",
    "FileCheck",
    "HttpCheck",
    "HttpUrl",
    "MiscCheck",
    "PingCheck",
    "Regex",
    "Script",
    "ScriptOptions",
    "ServerChecks",
    "ServiceChecks",
    "SmtpCheck",
    "SslClient",
    "TcpCheck",
    "TrackedFile",
    "UdpCheck",
]


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Where a network check goes and from where. port 0: the service has none. fwmark 0: none."""

    address: str
    port: int
    bind_address: str | None = None
    bind_port: int = 0
    bind_interface: str | None = None
    fwmark: int = 0
    timeout_us: int = 5_000_000


class Check(msgspec.Struct, frozen=True, kw_only=True, tag_field="check"):
    """What all checks have. name: unique in the configuration, `KIND-NUMBER@SERVER@SERVICE`, as in `check/NAME`.

    retry: extra failures before it counts, delay_before_retry_us apart. warmup_us: the first run comes within it.
    alpha: counts as failed until it has succeeded once.
    """

    name: str
    retry: int = 1
    delay_before_retry_us: int = 1_000_000
    warmup_us: int = 60_000_000
    delay_loop_us: int = 60_000_000
    alpha: bool = False
    log_all_failures: bool = False


class TcpCheck(Check, frozen=True, kw_only=True, tag="TCP_CHECK"):
    """Connects and closes."""

    connection: Connection


class Regex(msgspec.Struct, frozen=True, kw_only=True):
    """A PCRE2 pattern over the body. options: names in lower case. max_offset 0: none."""

    pattern: str
    options: tuple[str, ...] = ()
    no_match: bool = False
    min_offset: int = 0
    max_offset: int = 0
    stack_start: int = 0
    stack_max: int = 0


class HttpUrl(msgspec.Struct, frozen=True, kw_only=True):
    """One page. digest: MD5 in hex. status_codes: ranges, both ends included."""

    path: str
    digest: str | None = None
    status_codes: tuple[tuple[int, int], ...] = ((200, 299),)
    virtualhost: str | None = None
    regex: Regex | None = None
    tls_compliant: bool = False


class HttpCheck(Check, frozen=True, kw_only=True, tag="HTTP_GET"):
    """HTTP_GET, or SSL_GET when tls. protocol: 1.0, 1.0C or 1.1.

    host: the Host header's value for urls without one; None: the address with its port. sni: name for TLS where the url
    has none of its own; None: not sent. sni_fixed: `sni_name` was given and wins over the url's virtualhost.
    """

    connection: Connection
    tls: bool = False
    urls: tuple[HttpUrl, ...] = ()
    protocol: str = "1.0"
    host: str | None = None
    sni_enabled: bool = False
    sni: str | None = None
    sni_fixed: bool = False
    fast_recovery: bool = False
    tls_compliant: bool = False


class SmtpCheck(Check, frozen=True, kw_only=True, tag="SMTP_CHECK"):
    """Banner, HELO, QUIT."""

    connection: Connection
    helo_name: str = "smtpchecker.keepalived.org"


class DnsCheck(Check, frozen=True, kw_only=True, tag="DNS_CHECK"):
    """A question over UDP. query_type: in capitals. query_name: "." is the root."""

    connection: Connection
    query_type: str = "SOA"
    query_name: str = "."


class UdpCheck(Check, frozen=True, kw_only=True, tag="UDP_CHECK"):
    """A datagram. payload None: the default text. require_reply: silence is failure.

    reply, reply_mask: what the answer must be where the mask has bits; empty: not compared.
    """

    connection: Connection
    payload: bytes | None = None
    require_reply: bool = False
    reply: bytes = b""
    reply_mask: bytes = b""
    min_reply_length: int = 0
    max_reply_length: int = 255


class PingCheck(Check, frozen=True, kw_only=True, tag="PING_CHECK"):
    """ICMP echo."""

    connection: Connection


class MiscCheck(Check, frozen=True, kw_only=True, tag="MISC_CHECK"):
    """A program. dynamic: its exit status gives the weight."""

    script: Script
    timeout_us: int = 60_000_000
    dynamic: bool = False


class FileCheck(Check, frozen=True, kw_only=True, tag="FILE_CHECK"):
    """A number in a file. weight 0: non-zero content is down (reverse: zero is)."""

    track_file: str
    path: str
    weight: int = 1
    reverse: bool = False


class BfdCheck(Check, frozen=True, kw_only=True, tag="BFD_CHECK"):
    """A BFD session."""

    instance: str


AnyCheck = TcpCheck | HttpCheck | SmtpCheck | DnsCheck | UdpCheck | PingCheck | MiscCheck | FileCheck | BfdCheck


class ServerChecks(msgspec.Struct, frozen=True, kw_only=True):
    """The checks of one real server. server: its name as in `ipvs.config.RealServer`."""

    server: str
    address: str
    port: int
    weight: int
    checks: tuple[AnyCheck, ...] = ()


class ServiceChecks(msgspec.Struct, frozen=True, kw_only=True):
    """The checks of one virtual server. ha_suspend: they run only while `suspend_address` is on this host."""

    service: str
    protocol: str
    ha_suspend: bool = False
    suspend_address: str | None = None
    servers: tuple[ServerChecks, ...] = ()


class TrackedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A track_file that FILE_CHECKs look at."""

    name: str
    path: str
    weight: int = 1
    reverse: bool = False


class SslClient(msgspec.Struct, frozen=True, kw_only=True):
    """The SSL block: our certificate for SSL_GET. Paths of PEM files."""

    password: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


class CheckersGlobals(msgspec.Struct, frozen=True, kw_only=True):
    """What concerns all checks."""

    ssl: SslClient = SslClient()
    files: tuple[TrackedFile, ...] = ()
    script_options: ScriptOptions = ScriptOptions()
