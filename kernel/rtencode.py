"""rtnetlink requests as bytes: addresses, routes, rules. Pure; the counterpart of rtdecode.py.

Message layouts: linux/if_addr.h, linux/rtnetlink.h, linux/fib_rules.h, linux/lwtunnel.h. Written with struct because
these are encoded by the thousand at start-up (2 us an address; a general message class needs 70). The sequence
number is left
0: whoever sends fills it in. Tests compare the outcome with iproute2's.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import Final

from holdfast.kernel.base import AddressSpec, KernelError, NextHop, RouteSpec, RuleSpec

RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_NEWRULE: Final = 32
RTM_DELRULE: Final = 33

NLM_F_REQUEST: Final = 0x001
NLM_F_ACK: Final = 0x004
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800

HEADER: Final = struct.Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence, port."""
_ATTRIBUTE: Final = struct.Struct("=HH")
_IFADDRMSG: Final = struct.Struct("=BBBBI")
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
_CACHEINFO: Final = struct.Struct("=IIII")
_NEXT_HOP: Final = struct.Struct("=HBBi")
_NESTED: Final = 0x8000
_FOREVER: Final = 0xFFFFFFFF

_IFA_F_NODAD: Final = 0x02
_IFA_F_HOMEADDRESS: Final = 0x10
_IFA_F_MANAGETEMPADDR: Final = 0x100
_IFA_F_NOPREFIXROUTE: Final = 0x200
_IFA_F_MCAUTOJOIN: Final = 0x400

_RT_TABLE_MAIN: Final = 254
_RT_TABLE_LOCAL: Final = 255
_RT_SCOPE_LINK: Final = 253
_RT_SCOPE_HOST: Final = 254
_RT_SCOPE_NOWHERE: Final = 255
_RTNH_F_ONLINK: Final = 4

ROUTE_TYPES: Final = {
    "unicast": 1,
    "local": 2,
    "broadcast": 3,
    "anycast": 4,
    "multicast": 5,
    "blackhole": 6,
    "unreachable": 7,
    "prohibit": 8,
    "throw": 9,
    "nat": 10,
}
METRICS: Final = {
    "mtu": 2,
    "window": 3,
    "rtt": 4,
    "rttvar": 5,
    "ssthresh": 6,
    "cwnd": 7,
    "advmss": 8,
    "reordering": 9,
    "hoplimit": 10,
    "initcwnd": 11,
    "features": 12,
    "rto_min": 13,
    "initrwnd": 14,
    "quickack": 15,
    "congctl": 16,
    "fastopen_no_cookie": 17,
}
FEATURES: Final = {"ecn": 1}
PREFERENCES: Final = {"medium": 0, "high": 1, "low": 3}
RULE_ACTIONS: Final = {"table": 1, "goto": 2, "nop": 3, "blackhole": 6, "unreachable": 7, "prohibit": 8}
ENCAP_TYPES: Final = {"mpls": 1, "ip": 2, "ila": 3, "ip6": 4}
_RULE_INVERT: Final = 0x02
_METRIC_SCALE: Final = {"rtt": 8, "rttvar": 4, "rto_min": 1}
"""Kernel units a millisecond, for values written with a unit; a bare number is the kernel's own, as in ip-route(8)."""

_TEMPLATES_KEPT: Final = 1024

IfindexOf = Callable[[str], int]


def system_ifindex(name: str) -> int:
    """The index of an interface of this thread's namespace. KernelError(ENODEV) when there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise KernelError("find interface", f"link/{name}", errno.ENODEV) from error


def pack_address(text: str) -> bytes:
    """4 or 16 bytes."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def canonical(text: str) -> str:
    """An address as the kernel's side of this room writes it (inet_ntop): `FD00::0001` is `fd00::1`."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return socket.inet_ntop(family, socket.inet_pton(family, text))


def encode_address(
    spec: AddressSpec, ifindex: int, *, remove: bool = False, valid_lft_s: int | None = None, flags: int = 0
) -> bytes:
    """RTM_NEWADDR or RTM_DELADDR.

    Adding replaces: on an address that is there already it renews the lifetimes, so the same bytes take over, put back
    and refresh a lease. valid_lft_s None: for ever. The preferred lifetime is cut to the valid one.
    """
    v6 = ":" in spec.address
    if spec.peer is not None or (spec.broadcast is not None and not v6):
        return _encode_address(spec, v6, ifindex, remove, valid_lft_s, flags)
    # Of a thousand addresses only the address bytes differ: the rest is cut out of the first one and kept.
    key = (
        v6,
        ifindex,
        spec.prefix,
        remove,
        valid_lft_s,
        flags,
        spec.scope,
        spec.label,
        spec.preferred_lft_s,
        spec.nodad,
        spec.home,
        spec.mngtmpaddr,
        spec.noprefixroute,
        spec.autojoin,
    )
    template = _templates.get(key)
    if template is None:
        sample = _encode_address(spec, v6, ifindex, remove, valid_lft_s, flags)
        size = 16 if v6 else 4
        # Header 16, ifaddrmsg 8, then IFA_LOCAL and IFA_ADDRESS, each with a header of 4.
        template = (sample[:28], sample[28 + size : 32 + size], sample[32 + 2 * size :])
        if len(_templates) >= _TEMPLATES_KEPT:
            _templates.clear()
        _templates[key] = template
    local = socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, spec.address)
    return local.join(template)


_templates: dict[tuple[object, ...], tuple[bytes, bytes, bytes]] = {}


def _encode_address(
    spec: AddressSpec, v6: bool, ifindex: int, remove: bool, valid_lft_s: int | None, flags: int
) -> bytes:
    local = pack_address(spec.address)
    prefix, other = spec.prefix, local
    if spec.peer is not None:
        peer, _, length = spec.peer.partition("/")
        other = pack_address(peer)
        prefix = int(length) if length else spec.prefix
    parts = [_attribute(2, local), _attribute(1, other)]
    if not remove:
        if spec.broadcast is not None and not v6:
            parts.append(_attribute(4, _broadcast(spec.broadcast, local, prefix)))
        if spec.label is not None and not v6:
            parts.append(_attribute(3, spec.label.encode() + b"\0"))
        if valid_lft_s is not None or spec.preferred_lft_s is not None:
            valid = _FOREVER if valid_lft_s is None else valid_lft_s
            preferred = valid if spec.preferred_lft_s is None else min(spec.preferred_lft_s, valid)
            parts.append(_attribute(6, _CACHEINFO.pack(preferred, valid, 0, 0)))
        bits = (
            (_IFA_F_NODAD if spec.nodad and v6 else 0)
            | (_IFA_F_HOMEADDRESS if spec.home and v6 else 0)
            | (_IFA_F_MANAGETEMPADDR if spec.mngtmpaddr and v6 else 0)
            | (_IFA_F_NOPREFIXROUTE if spec.noprefixroute else 0)
            | (_IFA_F_MCAUTOJOIN if spec.autojoin else 0)
        )
        if bits:
            parts.append(_attribute(8, struct.pack("=I", bits)))
    body = _IFADDRMSG.pack(socket.AF_INET6 if v6 else socket.AF_INET, prefix, 0, 0 if v6 else spec.scope, ifindex)
    if remove:
        return _message(RTM_DELADDR, flags, body, parts)
    return _message(RTM_NEWADDR, flags | NLM_F_CREATE | NLM_F_REPLACE, body, parts)


def encode_route(
    spec: RouteSpec, ifindex_of: IfindexOf = system_ifindex, *, remove: bool = False, flags: int = 0
) -> bytes:
    """RTM_NEWROUTE or RTM_DELROUTE. KernelError(ENODEV) when an interface it names is not there."""
    family = socket.AF_INET6 if spec.family == 6 else socket.AF_INET
    kind = ROUTE_TYPES[spec.type]
    destination, destination_length = _prefix(spec.destination, family)
    source, source_length = _prefix(spec.from_, family) if spec.from_ else (b"", 0)
    table = spec.table if spec.table is not None else _default_table(spec.type)
    parts: list[bytes] = []
    if destination:
        parts.append(_attribute(1, destination))
    if source:
        parts.append(_attribute(2, source))
    if table > 255:
        parts.append(_u32(15, table))
    if spec.metric is not None:
        parts.append(_u32(6, spec.metric))
    if spec.via is not None:
        parts.append(_gateway(spec.via, family))
    if spec.source is not None:
        parts.append(_attribute(7, pack_address(spec.source.partition("/")[0])))
    if spec.dev is not None:
        parts.append(_u32(4, ifindex_of(spec.dev)))
    if spec.realms is not None:
        parts.append(_u32(11, _realms(spec.realms)))
    if spec.encap:
        parts.append(_encap(spec.encap))
    if not remove:
        parts.extend(_route_extras(spec))
    if spec.next_hops:
        hops = b"".join(_next_hop(hop, family, ifindex_of) for hop in spec.next_hops)
        parts.append(_attribute(9, hops))
    scope = spec.scope if spec.scope is not None else _default_scope(spec, remove)
    body = _RTMSG.pack(
        family,
        destination_length,
        source_length,
        spec.tos,
        table if table <= 255 else 0,
        spec.protocol,
        scope,
        kind,
        _RTNH_F_ONLINK if spec.onlink else 0,
    )
    if remove:
        return _message(RTM_DELROUTE, flags, body, parts)
    mode = {"add": NLM_F_EXCL, "append": NLM_F_APPEND}.get(spec.mode, 0)
    return _message(RTM_NEWROUTE, flags | NLM_F_CREATE | mode, body, parts)


def encode_rule(spec: RuleSpec, *, remove: bool = False, flags: int = 0) -> bytes:
    """RTM_NEWRULE or RTM_DELRULE."""
    family = socket.AF_INET6 if spec.family == 6 else socket.AF_INET
    source, source_length = _prefix(spec.from_, family) if spec.from_ else (b"", 0)
    destination, destination_length = _prefix(spec.to, family) if spec.to else (b"", 0)
    parts: list[bytes] = []
    if source:
        parts.append(_attribute(2, source))
    if destination:
        parts.append(_attribute(1, destination))
    if spec.preference is not None:
        parts.append(_u32(6, spec.preference))
    if spec.fwmark is not None:
        parts.append(_u32(10, spec.fwmark))
    if spec.fwmask is not None:
        parts.append(_u32(16, spec.fwmask))
    if spec.iif is not None:
        parts.append(_attribute(3, spec.iif.encode() + b"\0"))
    if spec.oif is not None:
        parts.append(_attribute(17, spec.oif.encode() + b"\0"))
    if spec.realms is not None:
        parts.append(_u32(11, _realms(spec.realms)))
    if spec.suppress_prefix_length is not None:
        parts.append(_attribute(14, struct.pack("=i", spec.suppress_prefix_length)))
    if spec.suppress_group is not None:
        parts.append(_u32(13, spec.suppress_group))
    if spec.tunnel_id is not None:
        parts.append(_attribute(12, struct.pack("!Q", spec.tunnel_id)))
    if spec.uid_range is not None:
        parts.append(_attribute(20, struct.pack("=II", *spec.uid_range)))
    if spec.l3mdev:
        parts.append(_attribute(19, b"\x01"))
    if spec.ip_protocol is not None:
        parts.append(_attribute(22, bytes((spec.ip_protocol,))))
    if spec.source_ports is not None:
        parts.append(_attribute(23, struct.pack("=HH", *spec.source_ports)))
    if spec.destination_ports is not None:
        parts.append(_attribute(24, struct.pack("=HH", *spec.destination_ports)))
    if spec.goto is not None:
        parts.append(_u32(4, spec.goto))
    parts.append(_attribute(21, bytes((spec.protocol,))))
    table = spec.table or 0
    if table > 255:
        parts.append(_u32(15, table))
    body = _RTMSG.pack(
        family,
        destination_length,
        source_length,
        spec.tos,
        table if table <= 255 else 0,
        0,
        0,
        RULE_ACTIONS["goto"] if spec.goto is not None else RULE_ACTIONS[spec.action],
        _RULE_INVERT if spec.invert else 0,
    )
    if remove:
        return _message(RTM_DELRULE, flags, body, parts)
    return _message(RTM_NEWRULE, flags | NLM_F_CREATE | NLM_F_EXCL, body, parts)


def _message(kind: int, flags: int, body: bytes, parts: list[bytes]) -> bytes:
    rest = b"".join(parts)
    return HEADER.pack(16 + len(body) + len(rest), kind, flags | NLM_F_REQUEST, 0, 0) + body + rest


def _attribute(kind: int, payload: bytes) -> bytes:
    """An rtattr, padded to four bytes."""
    length = len(payload)
    return _ATTRIBUTE.pack(length + 4, kind) + payload + b"\0" * (-length & 3)


def _u32(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _broadcast(text: str, local: bytes, prefix: int) -> bytes:
    """`+` sets the host bits, `-` clears them."""
    if text not in {"+", "-"}:
        return pack_address(text)
    host = (1 << (32 - prefix)) - 1
    number = int.from_bytes(local, "big")
    return (number | host if text == "+" else number & ~host).to_bytes(4, "big")


def _prefix(text: str | None, family: int) -> tuple[bytes, int]:
    """Address bytes and length; nothing for a default."""
    if text is None or text in {"default", "any", "all"}:
        return b"", 0
    address, _, length = text.partition("/")
    packed = socket.inet_pton(family, address)
    bits = int(length) if length else len(packed) * 8
    return (packed, bits) if bits else (b"", 0)


def _default_table(kind: str) -> int:
    return _RT_TABLE_LOCAL if kind in {"local", "broadcast", "nat", "anycast"} else _RT_TABLE_MAIN


def _default_scope(spec: RouteSpec, remove: bool) -> int:
    """As iproute2 chooses it, so that a route set here is the one `ip route` means."""
    if spec.family == 6:
        return 0
    if spec.type in {"local", "nat"}:
        return _RT_SCOPE_HOST
    if spec.type in {"broadcast", "multicast", "anycast"}:
        return _RT_SCOPE_LINK
    if spec.type == "unicast":
        if remove:
            return _RT_SCOPE_NOWHERE
        if spec.via is None and not spec.next_hops:
            return _RT_SCOPE_LINK
    return 0


def _gateway(via: str, family: int) -> bytes:
    """RTA_GATEWAY, or RTA_VIA when the gateway is of the other family."""
    packed = pack_address(via)
    via_family = socket.AF_INET6 if ":" in via else socket.AF_INET
    if via_family == family:
        return _attribute(5, packed)
    return _attribute(18, struct.pack("=H", via_family) + packed)


def _realms(text: str) -> int:
    """`TO` or `FROM/TO`, as numbers."""
    source, slash, target = text.partition("/")
    if not slash:
        return int(source, 0)
    return (int(source, 0) << 16) | int(target, 0)


def _route_extras(spec: RouteSpec) -> list[bytes]:
    parts = []
    metrics = []
    locked = 0
    for name, value, lock in spec.metrics:
        number = METRICS[name]
        if lock:
            locked |= 1 << number
        metrics.append(_metric(name, number, value))
    if spec.features and not any(name == "features" for name, _, _ in spec.metrics):
        metrics.append(_u32(METRICS["features"], sum(FEATURES[name] for name in spec.features)))
    if locked:
        metrics.insert(0, _u32(1, locked))
    if metrics:
        parts.append(_attribute(8 | _NESTED, b"".join(metrics)))
    if spec.expires_s is not None:
        parts.append(_u32(23, spec.expires_s))
    if spec.preference is not None:
        parts.append(_attribute(20, bytes((PREFERENCES[spec.preference],))))
    if spec.ttl_propagate is not None:
        parts.append(_attribute(26, bytes((spec.ttl_propagate,))))
    return parts


def _metric(name: str, number: int, value: str) -> bytes:
    if name == "congctl":
        return _attribute(number, value.encode() + b"\0")
    if name == "features":
        bits = FEATURES.get(value)
        return _u32(number, int(value, 0) if bits is None else bits)
    scale = _METRIC_SCALE.get(name)
    if scale is not None:
        for unit, milliseconds in (("ms", 1.0), ("s", 1000.0)):
            if value.endswith(unit):
                return _u32(number, round(float(value[: -len(unit)]) * milliseconds * scale))
    return _u32(number, int(value, 0))


def _next_hop(hop: NextHop, family: int, ifindex_of: IfindexOf) -> bytes:
    parts = b""
    if hop.via is not None:
        parts += _gateway(hop.via, family)
    if hop.realms is not None:
        parts += _u32(11, _realms(hop.realms))
    if hop.encap:
        parts += _encap(hop.encap)
    ifindex = ifindex_of(hop.dev) if hop.dev is not None else 0
    flags = _RTNH_F_ONLINK if hop.onlink else 0
    return _NEXT_HOP.pack(8 + len(parts), flags, hop.weight - 1, ifindex) + parts


def _encap(words: tuple[str, ...]) -> bytes:
    """RTA_ENCAP_TYPE and RTA_ENCAP from the words of ip-route(8), such as `ip id 7 dst 10.0.0.9 ttl 64`."""
    kind, *rest = words
    if kind == "mpls":
        body = _encap_mpls(rest)
    elif kind in {"ip", "ip6"}:
        body = _encap_ip(kind, rest)
    elif kind == "ila":
        body = _encap_ila(rest)
    else:
        raise KernelError("encode route", f"encap {kind}", errno.EOPNOTSUPP, f"encapsulation {kind} is not known")
    return _attribute(22 | _NESTED, body) + _attribute(21, struct.pack("=H", ENCAP_TYPES[kind]))


def _encap_mpls(words: list[str]) -> bytes:
    labels = [int(label) for label in words[0].split("/")]
    stack = b"".join(
        struct.pack("!I", label << 12 | (0x100 if index == len(labels) - 1 else 0))
        for index, label in enumerate(labels)
    )
    options = dict(zip(words[1::2], words[2::2], strict=True))
    ttl = _attribute(2, bytes((int(options["ttl"]),))) if "ttl" in options else b""
    return _attribute(1, stack) + ttl


def _encap_ip(kind: str, words: list[str]) -> bytes:
    body = b""
    options = dict(zip(words[0::2], words[1::2], strict=True))
    for name, value in options.items():
        match name:
            case "id":
                body += _attribute(1, struct.pack("!Q", int(value, 0)))
            case "dst" | "remote":
                body += _attribute(2, pack_address(value))
            case "src" | "local":
                body += _attribute(3, pack_address(value))
            case "ttl" | "hoplimit":
                body += _attribute(4, bytes((int(value, 0),)))
            case "tos" | "dsfield" | "tc":
                body += _attribute(5, bytes((int(value, 0),)))
            case "flags":
                body += _attribute(6, struct.pack("!H", int(value, 0)))
            case _:
                raise KernelError("encode route", f"encap {kind} {name}", errno.EINVAL, f"{name} is not known")
    return body


def _encap_ila(words: list[str]) -> bytes:
    locator = words[0]
    packed = bytes.fromhex("".join(part.zfill(4) for part in locator.split(":")))
    body = _attribute(1, packed)
    options = dict(zip(words[1::2], words[2::2], strict=True))
    modes = {"adj-transport": 0, "neutral-map": 1, "neutral-map-auto": 2, "no-action": 3}
    if "csum-mode" in options:
        body += _attribute(7, bytes((modes[options["csum-mode"]],)))
    return body
