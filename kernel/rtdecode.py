"""rtnetlink messages as values: links, addresses, routes, rules. Pure; the counterpart of rtencode.py.

The parse of one address message costs about 4 us: the renewal of two hundred leases a second must not be felt.
Layouts: linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h, linux/fib_rules.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final

from holdfast.kernel.base import NextHop, RouteSpec, RuleSpec
from holdfast.kernel.records import INFINITE_LIFETIME, AddressRecord, Link, RouteRecord, RuleRecord
from holdfast.kernel.rtencode import FEATURES, HEADER, METRICS, PREFERENCES, ROUTE_TYPES, RULE_ACTIONS

_ATTRIBUTE: Final = struct.Struct("=HH")
_IFINFOMSG: Final = struct.Struct("=BxHiII")
_IFADDRMSG: Final = struct.Struct("=BBBBI")
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
_U32: Final = struct.Struct("=I")
_CACHEINFO_BYTES: Final = 20
_LIFETIMES: Final = struct.Struct("=II")
_NEXT_HOP: Final = struct.Struct("=HBBi")
_AF_INET: Final = int(socket.AF_INET)
_AF_INET6: Final = int(socket.AF_INET6)

_ROUTE_TYPE_NAMES: Final = {number: name for name, number in ROUTE_TYPES.items()}
_METRIC_NAMES: Final = {number: name for name, number in METRICS.items()}
_PREFERENCE_NAMES: Final = {number: name for name, number in PREFERENCES.items()}
_ACTION_NAMES: Final = {number: name for name, number in RULE_ACTIONS.items()}

UNREADABLE: Final = (struct.error, IndexError, ValueError)
"""What a decoder raises when an attribute is shorter than its type."""

Data = bytes | memoryview
NameOf = Callable[[int], str | None]


def messages(data: Data) -> Iterator[tuple[int, int, int, int, int, int]]:
    """(type, flags, sequence, port, offset of the body, end) of each message in a buffer."""
    offset, total = 0, len(data)
    while offset + 16 <= total:
        length, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > total:
            return
        yield kind, flags, sequence, port, offset + 16, offset + length
        offset += (length + 3) & ~3


def attributes(data: Data, offset: int, end: int) -> dict[int, Data]:
    """type -> payload (a view or bytes of `data`) of the attributes between two offsets;

    the nested flag is taken off.
    """
    found: dict[int, Data] = {}
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def decode_link(data: Data, offset: int, end: int) -> Link:
    """RTM_NEWLINK, RTM_DELLINK."""
    _, hardware, index, flags, _ = _IFINFOMSG.unpack_from(data, offset)
    found = attributes(data, offset + 16, end)
    info = found.get(18)
    kind = ""
    if info is not None:
        kind = _text(attributes(info, 0, len(info)).get(1, b""))
    return Link(
        index=index,
        name=_text(found.get(3, b"")),
        flags=flags,
        mtu=_number(found.get(4), 1500),
        mac=bytes(found.get(1, b"")),
        broadcast=bytes(found.get(2, b"")),
        hardware=hardware,
        kind=kind,
        base=_number(found.get(5), 0),
        master=_number(found.get(10), 0),
        operstate=found[16][0] if 16 in found else 0,
        group=_number(found.get(27), 0),
    )


def without_lifetime(data: Data, offset: int, end: int) -> bytes:
    """An RTM_NEWADDR without its IFA_CACHEINFO: two that are equal say the same of an address but how long it lasts."""
    at = end - _CACHEINFO_BYTES
    if at > offset and _ATTRIBUTE.unpack_from(data, at) == (_CACHEINFO_BYTES, 6):
        return bytes(data[offset:at])
    at = offset + 8
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            break
        if kind == 6:
            return bytes(data[offset:at]) + bytes(data[at + length : end])
        at += (length + 3) & ~3
    return bytes(data[offset:end])


def decode_address(data: Data, offset: int, end: int) -> AddressRecord | None:
    """RTM_NEWADDR, RTM_DELADDR; None for a family that is neither IPv4 nor IPv6."""
    family, prefix, flags, scope, ifindex = _IFADDRMSG.unpack_from(data, offset)
    if family not in {_AF_INET, _AF_INET6}:
        return None
    local: Data | None = None
    address: Data | None = None
    label = broadcast = None
    valid = preferred = INFINITE_LIFETIME
    protocol = 0
    offset += 8
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            break
        start, stop = offset + 4, offset + length
        if kind == 2:
            local = data[start:stop]
        elif kind == 1:
            address = data[start:stop]
        elif kind == 3:
            label = _text(data[start:stop])
        elif kind == 4:
            broadcast = socket.inet_ntop(family, data[start:stop])
        elif kind == 6:
            preferred, valid = _LIFETIMES.unpack_from(data, start)
        elif kind == 8:
            (flags,) = _U32.unpack_from(data, start)
        elif kind == 11:
            protocol = data[start]
        offset += (length + 3) & ~3
    if local is None:
        local = address
    if local is None:
        return None
    return AddressRecord(
        ifindex=ifindex,
        address=socket.inet_ntop(family, local),
        prefix=prefix,
        scope=scope,
        flags=flags,
        label=label,
        peer=socket.inet_ntop(family, address) if address is not None and address != local else None,
        broadcast=broadcast,
        valid_lft_s=None if valid == INFINITE_LIFETIME else valid,
        preferred_lft_s=None if preferred == INFINITE_LIFETIME else preferred,
        protocol=protocol,
    )


def decode_route(data: Data, offset: int, end: int, name_of: NameOf) -> RouteRecord | None:
    """RTM_NEWROUTE, RTM_DELROUTE in the words of a RouteSpec; None for other families and cached routes."""
    family, destination_length, source_length, tos, table, protocol, scope, kind, flags = _RTMSG.unpack_from(
        data, offset
    )
    if family not in {_AF_INET, _AF_INET6} or flags & 0x200:
        return None
    found = attributes(data, offset + 12, end)
    six = family == _AF_INET6
    ifindex = _number(found.get(4), 0)
    hops = tuple(_next_hops(found[9], family, name_of)) if 9 in found else ()
    metrics, features = _metrics(found[8]) if 8 in found else ((), ())
    cache = found.get(12)
    expires = struct.unpack_from("=i", cache, 8)[0] if six and cache is not None and len(cache) >= 12 else 0
    spec = RouteSpec(
        destination=_prefix_text(found.get(1), destination_length, family),
        family=6 if six else 4,
        type=_ROUTE_TYPE_NAMES.get(kind, str(kind)),
        via=_via(found, family),
        source=_address_text(found.get(7)),
        from_=_prefix_text(found.get(2), source_length, family) if source_length else None,
        dev=name_of(ifindex) if ifindex else None,
        table=_number(found.get(15), table),
        protocol=protocol,
        scope=scope,
        metric=_number(found[6], 0) if 6 in found else None,
        tos=tos,
        onlink=bool(flags & 4),
        realms=_realms_text(found.get(11)),
        encap=_encap_words(found),
        expires_s=expires // 100 if expires else None,
        preference=_PREFERENCE_NAMES.get(found[20][0]) if 20 in found else None,
        metrics=metrics,
        features=features,
        ttl_propagate=bool(found[26][0]) if 26 in found else None,
        next_hops=hops,
    )
    return RouteRecord(spec=spec, ifindex=ifindex)


def decode_rule(data: Data, offset: int, end: int) -> RuleRecord | None:
    """RTM_NEWRULE, RTM_DELRULE in the words of a RuleSpec; None for other families."""
    family, destination_length, source_length, tos, table, _, _, action, flags = _RTMSG.unpack_from(data, offset)
    if family not in {_AF_INET, _AF_INET6}:
        return None
    found = attributes(data, offset + 12, end)
    number = _number(found.get(15), table)
    suppress = struct.unpack_from("=i", found[14])[0] if 14 in found else -1
    group = struct.unpack_from("=i", found[13])[0] if 13 in found else -1
    spec = RuleSpec(
        family=6 if family == _AF_INET6 else 4,
        invert=bool(flags & 2),
        from_=_prefix_text(found.get(2), source_length, family) if source_length else None,
        to=_prefix_text(found.get(1), destination_length, family) if destination_length else None,
        tos=tos,
        fwmark=_number(found[10], 0) if 10 in found else None,
        fwmask=_number(found[16], 0) if 16 in found else None,
        iif=_text(found[3]) if 3 in found else None,
        oif=_text(found[17]) if 17 in found else None,
        realms=_realms_text(found.get(11)),
        table=number or None,
        preference=_number(found.get(6), 0),
        action=_ACTION_NAMES.get(action, str(action)),
        goto=_number(found[4], 0) if 4 in found else None,
        suppress_prefix_length=suppress if suppress != -1 else None,
        suppress_group=group if group != -1 else None,
        tunnel_id=int.from_bytes(found[12], "big") or None if 12 in found else None,
        uid_range=_pair("=II", found[20]) if 20 in found else None,
        l3mdev=bool(found[19][0]) if 19 in found else False,
        protocol=found[21][0] if 21 in found else 0,
        ip_protocol=found[22][0] if 22 in found else None,
        source_ports=_pair("=HH", found[23]) if 23 in found else None,
        destination_ports=_pair("=HH", found[24]) if 24 in found else None,
    )
    return RuleRecord(spec=spec)


def _text(data: Data) -> str:
    return bytes(data).rstrip(b"\0").decode(errors="replace")


def _number(data: Data | None, default: int) -> int:
    if data is None or len(data) < 4:
        return default
    number: int = _U32.unpack_from(data)[0]
    return number


def _pair(layout: str, data: Data) -> tuple[int, int]:
    first, second = struct.unpack_from(layout, data)
    return first, second


def _address_text(data: Data | None) -> str | None:
    if data is None:
        return None
    return socket.inet_ntop(_AF_INET6 if len(data) == 16 else _AF_INET, data)


def _prefix_text(data: Data | None, length: int, family: int) -> str:
    if data is None:
        if length == 0:
            return "default"
        data = bytes(16 if family == _AF_INET6 else 4)
    return f"{socket.inet_ntop(family, data)}/{length}"


def _realms_text(data: Data | None) -> str | None:
    if data is None:
        return None
    number = _number(data, 0)
    return f"{number >> 16}/{number & 0xFFFF}" if number >> 16 else str(number)


def _via(found: dict[int, Data], family: int) -> str | None:
    if 5 in found:
        return socket.inet_ntop(family, found[5])
    if 18 in found:
        return _address_text(found[18][2:])
    return None


def _metrics(data: Data) -> tuple[tuple[tuple[str, str, bool], ...], tuple[str, ...]]:
    found = attributes(data, 0, len(data))
    locked = _number(found.pop(1, None), 0)
    features: tuple[str, ...] = ()
    metrics = []
    for number, payload in found.items():
        name = _METRIC_NAMES.get(number)
        if name is None:
            continue
        if name == "features":
            bits = _number(payload, 0)
            features = tuple(feature for feature, bit in FEATURES.items() if bits & bit)
            continue
        value = _text(payload) if name == "congctl" else str(_number(payload, 0))
        metrics.append((name, value, bool(locked >> number & 1)))
    return tuple(metrics), features


def _next_hops(data: Data, family: int, name_of: NameOf) -> Iterator[NextHop]:
    offset = 0
    while offset + 8 <= len(data):
        length, flags, hops, ifindex = _NEXT_HOP.unpack_from(data, offset)
        if length < 8 or offset + length > len(data):
            return
        found = attributes(data, offset + 8, offset + length)
        yield NextHop(
            via=_via(found, family),
            dev=name_of(ifindex) if ifindex else None,
            weight=hops + 1,
            onlink=bool(flags & 4),
            realms=_realms_text(found.get(11)),
            encap=_encap_words(found),
        )
        offset += (length + 3) & ~3


def _encap_words(found: dict[int, Data]) -> tuple[str, ...]:
    """The words of ip-route(8) for an encapsulation; of a kind we do not know only its number."""
    if 21 not in found:
        return ()
    (kind,) = struct.unpack_from("=H", found[21])
    body = found.get(22, b"")
    inner = attributes(body, 0, len(body))
    if kind == 1:
        stack = inner.get(1, b"")
        labels = [struct.unpack_from("!I", stack, offset)[0] >> 12 for offset in range(0, len(stack), 4)]
        words = ["mpls", "/".join(str(label) for label in labels)]
        return tuple(words + (["ttl", str(inner[2][0])] if inner.get(2, b"\0")[0] else []))
    if kind in {2, 4}:
        words = ["ip" if kind == 2 else "ip6"]
        if any(inner.get(1, b"")):
            words += ["id", str(int.from_bytes(inner[1], "big"))]
        if any(inner.get(3, b"")):
            words += ["src", _address_text(inner[3]) or ""]
        if any(inner.get(2, b"")):
            words += ["dst", _address_text(inner[2]) or ""]
        if any(inner.get(4, b"")):
            words += ["ttl" if kind == 2 else "hoplimit", str(inner[4][0])]
        if any(inner.get(5, b"")):
            words += ["tos" if kind == 2 else "tc", str(inner[5][0])]
        return tuple(words)
    return (f"type-{kind}",)
