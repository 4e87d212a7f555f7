"""holdfast.toml: what keepalived's language has no word for.

Everything has a default, so the file may be missing. A key that is not known is an error with the nearest known name:
a misspelt `vip_leese` must not silently mean the default. The reader returns what it found wrong instead of raising,
so that all of it can be shown at once beside the messages of keepalived.conf.
"""

from __future__ import annotations

import difflib
import ipaddress
import socket
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

DEFAULT_PATH = Path("/etc/holdfast/holdfast.toml")

_Z85 = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#")

Role = Literal["viewer", "operator", "replica", "worker"]

ROOMS = ("watch", "vrrp", "bfd", "checkers", "ipvs", "connsync", "notify", "worker", "gateway", "journal")
"""The rooms that placement can speak of."""


class JournalSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[journal]: the events of this node, kept. path: empty for the default below the state directory."""

    enabled: bool = True
    path: str = ""
    max_age_days: float = 30.0
    max_size_mb: float = 256.0


class PeerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[[peers]]: one other node or client. key: its public key (`holdfast keys show`). endpoint: `tcp://HOST:PORT` of
    its events, empty for one that only connects to us.
    """

    name: str
    key: str
    role: Role = "viewer"
    endpoint: str = ""


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[gateway]: the part that faces the network. listen: `ADDRESS:PORT` pairs, none: nobody can
    connect. Events are at PORT, commands at PORT + 1.

    engine: `mesh`: nodes call each other ([[peers]] with endpoints). `nats`: they meet on NATS servers (`tls://...`).
    nats_ca, nats_certificate, nats_key: PEM files, whom we trust and who we are; nats_credentials: a file with user and
    password instead. nats_role: what this node may do on others. nats_follow: the nodes whose events come here.
    nats_keep_days, nats_keep_mb, nats_replicas: of the stream, when this node is the first and makes it.
    """

    listen: tuple[str, ...] = ()
    key_file: str = "/etc/holdfast/keys/node.key"
    engine: Literal["mesh", "nats"] = "mesh"
    nats_servers: tuple[str, ...] = ()
    nats_ca: str = ""
    nats_certificate: str = ""
    nats_key: str = ""
    nats_credentials: str = ""
    nats_role: Role = "operator"
    nats_follow: tuple[str, ...] = ("*",)
    nats_keep_days: float = 7.0
    nats_keep_mb: float = 1024.0
    nats_replicas: int = 1


class WebSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[web]: addresses for the pages and metrics; none: not served."""

    listen: tuple[str, ...] = ()


class CellSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[cells]: how the supervisor looks after its cells.

    hung_after_s: a cell whose loop does not answer for so long is killed. backoff_*: between restarts of a cell that
    keeps dying. stable_after_s: a cell that lived so long starts again without delay. settle_after_s: what a cell
    retained before it was put back, and no room has confirmed by then, is forgotten. checkers: how many checker cells,
    0: as many as the number of checks asks for. user: whose the cells are that need no rights (the gateway's), when
    there is such a user and he is let into the run directory; empty: root's.
    """

    hung_after_s: float = 5.0
    backoff_first_s: float = 0.05
    backoff_last_s: float = 10.0
    stable_after_s: float = 1.0
    settle_after_s: float = 5.0
    checkers: int = 0
    user: str = "holdfast"


class IpvsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[ipvs]: what the director does beyond keepalived.

    reconcile: what becomes of changes that others make to our services in the kernel: `repair`, `report` or `off`.
    reconcile_every_s: how often the kernel is compared. drain_s: how long a real server that a reload removes may
    finish its connections (0: it goes at once). drain_command_s: the same for `holdfast drain` without its own time.
    panic_window_s: failures within this time of each other are `at once` for panic_threshold.
    """

    reconcile: Literal["repair", "report", "off"] = "repair"
    reconcile_every_s: float = 10.0
    drain_s: float = 0.0
    drain_command_s: float = 300.0
    panic_window_s: float = 10.0


class ConnSyncSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[connsync]: the connections of this director's virtual servers, known on the other nodes too.

    interface: a dummy interface that is made for the kernel's side of it, with this address. peers: who gets our
    connections; none: every node that takes part. bandwidth_kbytes_per_s: to each of them, 0: as much as there is.
    compare_every_s: how often both tables are compared. refresh_s: how often a living connection is told again.
    lag_alarm_s: being further behind is told. waiting_max: connections that may wait for one peer.
    """

    enabled: bool = False
    interface: str = "sync0"
    address: str = "169.254.81.1"
    peers: tuple[str, ...] = ()
    bandwidth_kbytes_per_s: float = 0.0
    compare_every_s: float = 30.0
    refresh_s: int = 60
    lag_alarm_s: float = 2.0
    waiting_max: int = 1_000_000


class ChecksSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[checks]: checks that run on other nodes (`[placement] checkers = "@w1 @w2"`), and other nodes' that run here.

    vantage_points: how many of those nodes look at each server. agree: how many of them must say the same before it
    counts, 0: more than half. lost_after_s: a node that has not been heard for so long is lost, and its checks move.
    return_after_s: it gets checks again when it was heard for so long. run_for: nodes whose checks run here.
    """

    vantage_points: int = 1
    agree: int = 0
    lost_after_s: float = 3.0
    return_after_s: float = 10.0
    run_for: tuple[str, ...] = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of holdfast.toml.

    node: unique in the cluster; empty in the file means the host's name. placement: room -> cell, over the default
    table; for the checkers also nodes, `@NAME` each. panic_threshold: when more than this share (0..1) of a pool fails
    at once, the pool is kept; 0: off. vip_lease: seconds, "auto" or "off". bfd: the extra options of the BFD room,
    read by that room.
    """

    node: str = ""
    ipvs: IpvsSettings = IpvsSettings()
    connsync: ConnSyncSettings = ConnSyncSettings()
    placement: dict[str, str] = {}
    cells: CellSettings = CellSettings()
    checks: ChecksSettings = ChecksSettings()
    journal: JournalSettings = JournalSettings()
    gateway: GatewaySettings = GatewaySettings()
    peers: tuple[PeerSettings, ...] = ()
    web: WebSettings = WebSettings()
    vip_lease: int | Literal["auto", "off"] = "auto"
    address_repair: Literal["restore", "report", "keepalived"] = "restore"
    panic_threshold: float = 0.0
    bfd: dict[str, Any] = {}


def workers_of(settings: Settings) -> tuple[str, ...]:
    """The nodes that run this node's checks, in the order of the file; none: it runs them itself."""
    words = settings.placement.get("checkers", "").split()
    return tuple(dict.fromkeys(word[1:] for word in words)) if words and words[0].startswith("@") else ()


class SettingsError(Exception):
    """What is wrong with holdfast.toml, every line for a person: `FILE: key: text`."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


def load(path: Path | None = None) -> Settings:
    """The settings in `path`; None: the default file when it is there, otherwise all defaults.

    Raises SettingsError with everything that is wrong (a named file that cannot be read too).
    """
    if path is None:
        path = DEFAULT_PATH
        if not path.exists():
            return parse("", str(path))
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: {error}"]) from None
    return parse(text, str(path))


def parse(text: str, name: str = "holdfast.toml") -> Settings:
    """The settings in `text`. name: the file, for messages. Raises SettingsError."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{name}: {error}"]) from None
    messages = _unknown_keys(raw, Settings, "")
    if messages:
        raise SettingsError([f"{name}: {each}" for each in messages])
    try:
        settings = msgspec.convert(raw, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError([f"{name}: {_readable(str(error))}"]) from None
    messages = _check(settings)
    if messages:
        raise SettingsError([f"{name}: {each}" for each in messages])
    if not settings.node:
        settings = msgspec.structs.replace(settings, node=_host_name())
    return settings


def _host_name() -> str:
    return socket.gethostname().partition(".")[0] or "localhost"


_TABLES: dict[str, type[msgspec.Struct]] = {
    "cells": CellSettings,
    "checks": ChecksSettings,
    "journal": JournalSettings,
    "gateway": GatewaySettings,
    "peers": PeerSettings,
    "web": WebSettings,
    "ipvs": IpvsSettings,
    "connsync": ConnSyncSettings,
}


def _unknown_keys(raw: dict[str, Any], kind: type[msgspec.Struct], where: str) -> list[str]:
    """A message for each key that `kind` does not have, nested tables too."""
    known = kind.__struct_fields__
    messages = []
    for key, value in raw.items():
        if key not in known:
            messages.append(f"{where}{key}: not known{_nearest(key, known, where)}")
            continue
        table = _TABLES.get(key) if kind is Settings else None
        if table is None:
            continue
        for index, each in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(each, dict):
                position = f"{where}{key}[{index}]." if isinstance(value, list) else f"{where}{key}."
                messages += _unknown_keys(each, table, position)
    return messages


def _nearest(key: str, known: tuple[str, ...], where: str = "") -> str:
    found = difflib.get_close_matches(key, known, n=1)
    return f", did you mean {where}{found[0]}?" if found else f"; known are: {', '.join(known)}"


def _readable(text: str) -> str:
    """msgspec's `Expected ... - at $.a.b` as `a.b: expected ...`."""
    problem, _, place = text.partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    problem = problem[:1].lower() + problem[1:]
    return f"{place}: {problem}" if place else problem


def _check(settings: Settings) -> list[str]:
    """What the types alone cannot say."""
    messages = []
    for room in settings.placement:
        if room not in ROOMS:
            messages.append(f"placement.{room}: no such room{_nearest(room, ROOMS)}")
    for room, cell in settings.placement.items():
        if cell.startswith("@"):
            messages += _check_workers(room, cell, settings)
        elif not cell or cell == "supervisor" or not cell.replace("-", "").replace("_", "").isalnum():
            messages.append(f"placement.{room}: {cell!r} cannot name a cell")
    if isinstance(settings.vip_lease, int) and settings.vip_lease < 1:
        messages.append('vip_lease: whole seconds from 1, "auto" or "off"')
    if not 0.0 <= settings.panic_threshold <= 1.0:
        messages.append("panic_threshold: from 0 to 1")
    cells = settings.cells
    if cells.hung_after_s <= 0 or cells.backoff_first_s <= 0 or cells.backoff_last_s < cells.backoff_first_s:
        messages.append("cells: hung_after_s and backoff_first_s are above 0, backoff_last_s not below backoff_first_s")
    if cells.checkers < 0:
        messages.append("cells.checkers: from 0")
    if settings.journal.max_age_days <= 0 or settings.journal.max_size_mb < 1:
        messages.append("journal: max_age_days is above 0, max_size_mb at least 1")
    for endpoint in settings.gateway.listen + settings.web.listen:
        host, _, port = endpoint.rpartition(":")
        if not port.isdecimal() or not 0 < int(port) < 65536 or not _is_address(host):
            messages.append(f"listen: {endpoint!r} is not ADDRESS:PORT")
    messages += _check_nats(settings.gateway)
    ipvs = settings.ipvs
    if ipvs.reconcile_every_s <= 0 or min(ipvs.drain_s, ipvs.drain_command_s, ipvs.panic_window_s) < 0:
        messages.append("ipvs: reconcile_every_s is above 0, the other times from 0")
    messages += _check_checks(settings)
    messages += _check_connsync(settings.connsync)
    messages += _check_peers(settings.peers)
    names = [peer.name for peer in settings.peers]
    for name in sorted({each for each in names if names.count(each) > 1}):
        messages.append(f"peers: {name!r} is there twice")
    return messages


def _check_workers(room: str, text: str, settings: Settings) -> list[str]:
    """`@w1 @w2`: only for what needs nothing of this node's kernel, and only nodes that may have our configuration."""
    if room != "checkers":
        return [f"placement.{room}: needs this node's kernel, files or disk: it cannot run on another node"]
    messages = []
    roles = {peer.name: peer.role for peer in settings.peers}
    own = settings.node or _host_name()
    for word in text.split():
        name = word[1:]
        if not word.startswith("@") or not name:
            messages.append(f"placement.{room}: {word!r} is no node; nodes are written @NAME")
        elif name != own and settings.gateway.engine == "mesh" and roles.get(name) not in ("worker", "operator"):
            messages.append(f"placement.{room}: {name} is not among the peers with the role worker or operator")
    return messages


def _check_nats(gateway: GatewaySettings) -> list[str]:
    messages = []
    if gateway.engine == "nats" and not gateway.nats_servers:
        messages.append('gateway.nats_servers: the engine nats needs one, such as "tls://192.0.2.10:4222"')
    for server in gateway.nats_servers:
        scheme, _, place = server.partition("://")
        host, _, port = place.rpartition(":")
        if scheme not in ("tls", "nats") or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            messages.append(f"gateway.nats_servers: {server!r} is not tls://HOST:PORT")
        elif scheme == "nats" and not _is_loopback(host):
            messages.append(f"gateway.nats_servers: {server!r}: without TLS only to an address of this host")
    if gateway.nats_keep_days <= 0 or gateway.nats_keep_mb < 1 or gateway.nats_replicas < 1:
        messages.append("gateway: nats_keep_days is above 0, nats_keep_mb and nats_replicas at least 1")
    return messages


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _check_checks(settings: Settings) -> list[str]:
    checks = settings.checks
    called = {peer.name for peer in settings.peers if peer.endpoint} | {settings.node or _host_name()}
    for name in checks.run_for:
        if name not in called and settings.gateway.engine == "mesh":
            return [f"checks.run_for: {name} is not among the peers that have an endpoint"]
    if checks.vantage_points < 1 or not 0 <= checks.agree <= checks.vantage_points:
        return ["checks: vantage_points is from 1, agree from 0 to vantage_points"]
    if checks.lost_after_s < 1.0 or checks.return_after_s < 0:
        return ["checks: lost_after_s is from 1, return_after_s from 0"]
    return []


def _check_connsync(connsync: ConnSyncSettings) -> list[str]:
    messages = []
    if not 0 < len(connsync.interface.encode()) < 16:
        messages.append(f"connsync.interface: {connsync.interface!r} cannot name an interface")
    try:
        ipaddress.IPv4Address(connsync.address)
    except ValueError:
        messages.append(f"connsync.address: {connsync.address!r} is no IPv4 address")
    if connsync.bandwidth_kbytes_per_s < 0 or connsync.compare_every_s <= 0 or connsync.lag_alarm_s <= 0:
        messages.append("connsync: bandwidth_kbytes_per_s is from 0, compare_every_s and lag_alarm_s are above 0")
    if connsync.refresh_s < 1 or connsync.waiting_max < 1000:
        messages.append("connsync: refresh_s is from 1, waiting_max from 1000")
    return messages


def _check_peers(peers: tuple[PeerSettings, ...]) -> list[str]:
    messages = []
    for peer in peers:
        if not peer.name:
            messages.append("peers: one has no name")
        if len(peer.key) != 40 or not _Z85.issuperset(peer.key):
            messages.append(f"peers.{peer.name}.key: a public key has 40 characters of Z85 (`holdfast keys show`)")
        if peer.endpoint:
            host, _, port = peer.endpoint.removeprefix("tcp://").rpartition(":")
            if not peer.endpoint.startswith("tcp://") or not host or not port.isdecimal() or not 0 < int(port) < 65535:
                messages.append(f"peers.{peer.name}.endpoint: {peer.endpoint!r} is not tcp://HOST:PORT")
    keys = [peer.key for peer in peers]
    for peer in peers:
        if keys.count(peer.key) > 1:
            messages.append(f"peers.{peer.name}.key: another peer has the same key")
    return messages


def _is_address(host: str) -> bool:
    if host in ("*", "localhost"):
        return True
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
