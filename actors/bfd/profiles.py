"""What keepalived has no word for: the [bfd] part of holdfast.toml, and its union with a bfd_instance.

    [bfd.profiles.core]                      # shared by many sessions
    authentication = "meticulous-sha1"
    keys = [{ id = 1, secret = "..." }]

    [bfd.sessions."core-*"]                  # a session's name, or a pattern for several
    profile = "core"
    interface = "eth0"

An exact name wins over a pattern, a session's own words win over its profile's, and both over bfd_instance.
"""

from __future__ import annotations

import difflib
import fnmatch
import ipaddress
from typing import Any, Literal

import msgspec

from holdfast.actors.bfd.auth import AuthType, Key
from holdfast.actors.bfd.config import BfdInstance
from holdfast.actors.bfd.facts import SLOW_TX_US, SessionConfig
from holdfast.actors.bfd.packet import MAX_U32

Authentication = Literal["none", "simple", "md5", "meticulous-md5", "sha1", "meticulous-sha1"]

_TYPES: dict[str, AuthType] = {
    "simple": AuthType.SIMPLE,
    "md5": AuthType.KEYED_MD5,
    "meticulous-md5": AuthType.METICULOUS_MD5,
    "sha1": AuthType.KEYED_SHA1,
    "meticulous-sha1": AuthType.METICULOUS_SHA1,
}


_DEFAULT_HOP_LIMIT = 64
"""keepalived's for IPv6. It is what we ask of the neighbour's packets, as keepalived does, but we send 255: that
satisfies a keepalived at the other end as well, and RFC 5881 section 5 lets everyone else refuse anything less."""


class KeySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key. id: 0..255. secret: text, or hexadecimal after `0x`."""

    id: int
    secret: str

    def octets(self) -> bytes:
        """The secret as it goes into the digest. ValueError for wrong hexadecimal."""
        return bytes.fromhex(self.secret[2:]) if self.secret.startswith("0x") else self.secret.encode()


class Extras(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One profile, or what is said of one session. None: not said here.

    profile: whose words count where this says nothing. authentication with its keys: the first seals, all are
    accepted. interface: packets leave by it and only those that come by it are heard. min_ttl: 0..255, received; in
    place of what ttl and max_hops give. check_source: only packets from the neighbour's address (default true).
    echo_receive_ms: we loop echoes no faster than this. echo_transmit_ms: we send echoes when the peer loops them.
    echo_control_ms: Required Min RX while echoes run. disabled: AdminDown from the start.
    """

    profile: str | None = None
    authentication: Authentication | None = None
    keys: tuple[KeySettings, ...] | None = None
    interface: str | None = None
    min_ttl: int | None = None
    check_source: bool | None = None
    echo_receive_ms: float | None = None
    echo_transmit_ms: float | None = None
    echo_control_ms: float | None = None
    min_rx_ms: float | None = None
    min_tx_ms: float | None = None
    idle_tx_ms: float | None = None
    multiplier: int | None = None
    passive: bool | None = None
    disabled: bool | None = None


class BfdSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[bfd]. profile: the one for sessions that name none."""

    profile: str | None = None
    profiles: dict[str, Extras] = {}
    sessions: dict[str, Extras] = {}


class SessionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One session with everything decided. source and neighbor are packed addresses; source None: as routes say.

    min_ttl: 0: not checked. keys: empty without authentication.
    """

    name: str
    neighbor: bytes
    source: bytes | None
    multihop: bool
    ttl: int
    min_ttl: int
    interface: str
    check_source: bool
    config: SessionConfig
    auth_type: AuthType | None
    keys: tuple[Key, ...]
    disabled: bool
    vrrp: bool
    checker: bool

    @property
    def neighbor_text(self) -> str:
        """The neighbour's address as people write it."""
        return str(ipaddress.ip_address(self.neighbor))


class BfdSettingsError(Exception):
    """What is wrong with [bfd]; one line each."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


def parse_settings(raw: dict[str, Any]) -> BfdSettings:
    """[bfd] as values. Raises BfdSettingsError with all that is wrong."""
    try:
        settings = msgspec.convert(raw, BfdSettings)
    except msgspec.ValidationError as error:
        raise BfdSettingsError([f"bfd: {error}"]) from None
    messages: list[str] = []
    for table, entries in (("profiles", settings.profiles), ("sessions", settings.sessions)):
        for name, extras in entries.items():
            messages += [f"bfd.{table}.{name}.{each}" for each in _wrong(extras, settings, table == "profiles")]
    if settings.profile is not None and settings.profile not in settings.profiles:
        messages.append(f"bfd.profile: {_no_profile(settings.profile, settings)}")
    if messages:
        raise BfdSettingsError(messages)
    return settings


def _wrong(extras: Extras, settings: BfdSettings, in_profile: bool) -> list[str]:
    messages = []
    if extras.profile is not None:
        if in_profile:
            messages.append("profile: a profile has none itself")
        elif extras.profile not in settings.profiles:
            messages.append(f"profile: {_no_profile(extras.profile, settings)}")
    messages += _wrong_keys(extras)
    if extras.min_ttl is not None and not 0 <= extras.min_ttl <= 255:
        messages.append("min_ttl: from 0 to 255")
    if extras.multiplier is not None and not 1 <= extras.multiplier <= 255:
        messages.append("multiplier: from 1 to 255")
    for name, least in _INTERVALS.items():
        value = getattr(extras, name)
        if value is not None and not least <= value <= MAX_U32 / 1000:
            messages.append(f"{name}: from {least:g} to {MAX_U32 // 1000} milliseconds")
    return messages


_INTERVALS = {
    "min_rx_ms": 0.001,
    "min_tx_ms": 0.001,
    "idle_tx_ms": 1000.0,
    "echo_receive_ms": 0.0,
    "echo_transmit_ms": 0.0,
    "echo_control_ms": 0.0,
}


def _wrong_keys(extras: Extras) -> list[str]:
    authenticated = extras.authentication not in (None, "none")
    if not extras.keys:
        return ["keys: at least one is needed with authentication"] if authenticated else []
    messages = []
    if not authenticated:
        messages.append("keys: without authentication they mean nothing")
    longest = _TYPES[extras.authentication].secret_bytes if authenticated and extras.authentication else 20
    for key in extras.keys:
        if not 0 <= key.id <= 255:
            messages.append(f"keys: id {key.id} is not from 0 to 255")
        try:
            size = len(key.octets())
        except ValueError:
            messages.append(f"keys: the secret of id {key.id} is not hexadecimal")
            continue
        if not 1 <= size <= longest:
            messages.append(f"keys: the secret of id {key.id} has {size} bytes, allowed are 1 to {longest}")
    ids = [key.id for key in extras.keys]
    if len(set(ids)) != len(ids):
        messages.append("keys: an id is there twice")
    return messages


def _no_profile(name: str, settings: BfdSettings) -> str:
    near = difflib.get_close_matches(name, settings.profiles, n=1)
    return f"no profile {name!r}" + (f", did you mean {near[0]!r}?" if near else "")


def extras_of(name: str, settings: BfdSettings) -> Extras:
    """What holdfast.toml says of the session `name`."""
    own = settings.sessions.get(name)
    if own is None:
        patterns = (each for each in settings.sessions if fnmatch.fnmatchcase(name, each))
        own = settings.sessions.get(next(patterns, ""), Extras())
    profile_name = own.profile or settings.profile
    if profile_name is None:
        return own
    profile = settings.profiles[profile_name]
    said = {
        field: getattr(source, field)
        for source in (profile, own)
        for field in Extras.__struct_fields__
        if getattr(source, field) is not None
    }
    if own.authentication is not None and own.keys is None:
        said.pop("keys", None)
    return Extras(**said)


def session_spec(instance: BfdInstance, settings: BfdSettings) -> SessionSpec:
    """A bfd_instance and what holdfast.toml says of it, as one."""
    extras = extras_of(instance.name, settings)
    auth_type = _TYPES.get(extras.authentication or "none")
    keys = tuple(Key(key.id, key.octets()) for key in extras.keys or ()) if auth_type is not None else ()
    min_ttl = extras.min_ttl
    if min_ttl is None:
        min_ttl = 0 if instance.max_hops is None else max(instance.ttl - instance.max_hops, 0)
    neighbor = ipaddress.ip_address(instance.neighbor.partition("%")[0]).packed
    echo = not instance.multihop  # RFC 5883 section 3: no echo over several hops
    return SessionSpec(
        name=instance.name,
        neighbor=neighbor,
        source=None if instance.source is None else ipaddress.ip_address(instance.source.partition("%")[0]).packed,
        multihop=instance.multihop,
        ttl=255 if instance.ttl == _DEFAULT_HOP_LIMIT and len(neighbor) == 16 else instance.ttl,
        min_ttl=min_ttl,
        interface=extras.interface or instance.neighbor.partition("%")[2],
        check_source=extras.check_source is not False,
        config=SessionConfig(
            desired_min_tx_us=_us(extras.min_tx_ms, instance.min_tx_us),
            required_min_rx_us=_us(extras.min_rx_ms, instance.min_rx_us),
            detect_mult=extras.multiplier or instance.multiplier,
            idle_tx_us=max(_us(extras.idle_tx_ms, instance.idle_tx_us), SLOW_TX_US),
            passive=instance.passive if extras.passive is None else extras.passive,
            echo_rx_us=_us(extras.echo_receive_ms, 0) if echo else 0,
            echo_tx_us=_us(extras.echo_transmit_ms, 0) if echo else 0,
            echo_control_us=_us(extras.echo_control_ms, SLOW_TX_US),
            authenticated=auth_type is not None,
        ),
        auth_type=auth_type,
        keys=keys,
        disabled=bool(extras.disabled),
        vrrp=instance.vrrp,
        checker=instance.checker,
    )


def _us(milliseconds: float | None, otherwise: int) -> int:
    return otherwise if milliseconds is None else round(milliseconds * 1000)
