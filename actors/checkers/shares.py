"""What a worker is to run for a director, as it travels: which checks can, their names, the digest. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from holdfast.actors.checkers.config import (
    AnyCheck,
    Check,
    CheckersGlobals,
    DnsCheck,
    HttpCheck,
    PingCheck,
    ServerChecks,
    ServiceChecks,
    SmtpCheck,
    TcpCheck,
    UdpCheck,
)
from holdfast.actors.checkers.kinds import identity_of, sameness_of
from holdfast.actors.checkers.plan import Wanted, name_of
from holdfast.actors.worker.messages import NOTHING

_NETWORK = (TcpCheck, HttpCheck, SmtpCheck, DnsCheck, UdpCheck, PingCheck)


class SharedCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One check of a share. probe: its name there. servers: for whom, for the worker's log. up: what counts now, from
    which the worker goes on: a single failure is forgiven there as it would be here.
    """

    probe: str
    spec: AnyCheck
    servers: tuple[str, ...]
    up: bool | None = None


_list = msgspec.msgpack.Decoder(tuple[SharedCheck, ...])


def can_move(spec: Check, settings: CheckersGlobals) -> bool:
    """Whether another node can carry the check out: it needs no address, interface, mark, file or program of ours."""
    if not isinstance(spec, _NETWORK):
        return False
    where = spec.connection
    if where.bind_address or where.bind_port or where.bind_interface or where.fwmark:
        return False
    own_files = settings.ssl.ca or settings.ssl.certificate or settings.ssl.key
    return not (isinstance(spec, HttpCheck) and spec.tls and own_files)


def probe_name(spec: Check) -> str:
    """The same on every node, and another one for another timing: `tcp-10.0.0.2:80-1f3a9c02-77aa01bc`."""
    return f"{name_of(spec, identity_of(spec))}-{sameness_of(spec)}"


def neutral(spec: AnyCheck) -> AnyCheck:
    """As it travels: without its name in the director's configuration. Directors with the same check share it then."""
    return msgspec.structs.replace(spec, name="")


def shared(probe: str, wanted: Wanted, up: bool | None) -> SharedCheck:
    """One check as it is told to a worker."""
    servers = tuple(sorted({target.real_server for target in wanted.targets.values()}))
    return SharedCheck(probe=probe, spec=neutral(wanted.spec), servers=servers, up=up)  # type: ignore[arg-type]


def packed(checks: Iterable[SharedCheck]) -> bytes:
    """As it travels."""
    return msgspec.msgpack.encode(list(checks))


def unpacked(data: bytes) -> tuple[SharedCheck, ...]:
    """The other way. Raises msgspec.DecodeError, msgspec.ValidationError."""
    return _list.decode(data) if data else ()


def digest_of(checks: Iterable[SharedCheck]) -> str:
    """Names a share: what is to be run and for whom, not how it stands."""
    marks = sorted((each.probe, each.servers) for each in checks)
    if not marks:
        return NOTHING
    return hashlib.blake2b(msgspec.msgpack.encode(marks), digest_size=12).hexdigest()


def as_service(director: str, checks: Iterable[SharedCheck]) -> ServiceChecks:
    """A share as a slice of the configuration of the room that runs it. director: `NODE/CELL`."""
    servers = []
    for each in checks:
        spec = msgspec.structs.replace(each.spec, name=f"{each.probe}@{director}")
        shown = ", ".join(each.servers[:3]) + (f" and {len(each.servers) - 3} more" if len(each.servers) > 3 else "")
        servers.append(ServerChecks(server=shown, address="", port=0, weight=1, checks=(spec,)))
    return ServiceChecks(service=director, protocol="", servers=tuple(servers))
