"""Bytes of the generic netlink family IPVS (linux/ip_vs.h), both ways.

Requests are packed with one struct each: thousands of destinations are encoded in a few milliseconds. Answers of a dump
all look alike, so the layout of the first of a length is remembered and the others are unpacked in one go.

    nlmsghdr | genlmsghdr | SERVICE { AF PROTOCOL ADDR PORT | AF FWMARK } | DEST { ADDR PORT AF FWD WEIGHT U L TUN_* }
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator

from holdfast.kernel.ipvs_types import (
    FLAG_HASHED,
    DaemonSpec,
    DestinationOrder,
    DestinationRecord,
    DestinationSpec,
    Order,
    ServiceKey,
    ServiceRecord,
    ServiceSpec,
    Statistics,
    Verb,
)

AF = {4: socket.AF_INET, 6: socket.AF_INET6}
FAMILY = {int(socket.AF_INET): 4, int(socket.AF_INET6): 6}

NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE = 1, 2, 3, 4
NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = 5, 6, 7, 8
NEW_DAEMON, DEL_DAEMON, GET_DAEMON = 9, 10, 11
SET_CONFIG, GET_CONFIG, SET_INFO, GET_INFO, ZERO, FLUSH = 12, 13, 14, 15, 16, 17

SERVICE_VERBS = {Verb.ADD: NEW_SERVICE, Verb.EDIT: SET_SERVICE, Verb.DELETE: DEL_SERVICE}
DESTINATION_VERBS = {Verb.ADD: NEW_DEST, Verb.EDIT: SET_DEST, Verb.DELETE: DEL_DEST}

TOP_SERVICE, TOP_DEST, TOP_DAEMON, TOP_TIMEOUT_TCP, TOP_TIMEOUT_TCP_FIN, TOP_TIMEOUT_UDP = 1, 2, 3, 4, 5, 6
ROLES = {"master": 1, "backup": 2}
ROLE_NAMES = {number: name for name, number in ROLES.items()}

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
TYPE_MASK = 0x3FFF

_HEADER = struct.Struct("=IHHIIBBH")
# AF, PROTOCOL, ADDR, PORT of a service by address; AF, FWMARK of one by mark.
_BY_ADDRESS = struct.Struct("=HHHxxHHHxxHH16sHH2sxx")
_BY_MARK = struct.Struct("=HHHxxHHI")
# FLAGS {flags, mask}, TIMEOUT, NETMASK of a service; then SCHED_NAME and PE_NAME as strings.
_SETTINGS = struct.Struct("=HHIIHHIHH4s")
# ADDR, PORT of a destination to delete, with ADDR_FAMILY; then what it is set to.
_DEST_KEY = struct.Struct("=HH16sHH2sxxHHHxx")
_DEST_VALUES = struct.Struct("=HHIHHIHHIHHIHHBxxxHH2sxxHHHxx")
_DEST_BYTES = _DEST_KEY.size + _DEST_VALUES.size
_NEST = struct.Struct("=HH")
_BE16 = struct.Struct(">H")
ALL_FLAGS = 0xFFFFFFFF


def address_bytes(address: str) -> bytes:
    """16 bytes always, IPv4 in the first 4."""
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)
    return socket.inet_aton(address).ljust(16, b"\0")


def string_attribute(kind: int, text: str) -> bytes:
    """A string with its NUL, padded to 4 bytes."""
    value = text.encode() + b"\0"
    return _NEST.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def u32_attribute(kind: int, value: int) -> bytes:
    """A 32 bit number in host order."""
    return struct.pack("=HHI", 8, kind, value)


def u16_attribute(kind: int, value: int) -> bytes:
    """A 16 bit number in host order, padded."""
    return struct.pack("=HHHxx", 6, kind, value)


def nest(kind: int, content: bytes) -> bytes:
    """Attributes within an attribute."""
    return _NEST.pack(4 + len(content), kind) + content


def message(family: int, command: int, flags: int, sequence: int, content: bytes = b"") -> bytes:
    """One request of the family."""
    return _HEADER.pack(20 + len(content), family, NLM_F_REQUEST | flags, sequence, 0, command, 1, 0) + content


def key_bytes(key: ServiceKey) -> bytes:
    """The attributes that name a service."""
    family = AF[key.family]
    if key.fwmark:
        return _BY_MARK.pack(6, 1, family, 8, 5, key.fwmark)
    address = address_bytes(key.address)
    return _BY_ADDRESS.pack(6, 1, family, 6, 2, key.protocol, 20, 3, address, 6, 4, _BE16.pack(key.port))


def service_bytes(service: ServiceSpec) -> bytes:
    """The attributes of a whole service. Source: linux/ip_vs.h, IPVS_SVC_ATTR_*."""
    if service.key.family == 4:
        netmask = socket.inet_aton(service.granularity)
    else:
        # IPv6 has a prefix length there, in host order.
        netmask = int(service.granularity).to_bytes(4, sys.byteorder)
    settings = _SETTINGS.pack(12, 7, service.flags, ALL_FLAGS, 8, 8, service.timeout_s, 8, 9, netmask)
    engine = string_attribute(11, service.engine) if service.engine else b""
    return key_bytes(service.key) + string_attribute(6, service.scheduler) + settings + engine


def destination_bytes(destination: DestinationSpec, *, key_only: bool = False) -> bytes:
    """The nested attribute of a destination. key_only: for deleting. Source: linux/ip_vs.h, IPVS_DEST_ATTR_*."""
    key = _DEST_KEY.pack(
        20,
        1,
        address_bytes(destination.address),
        6,
        2,
        _BE16.pack(destination.port),
        6,
        11,
        AF[destination.family],
    )
    if key_only:
        return nest(TOP_DEST, key)
    values = _DEST_VALUES.pack(
        8,
        3,
        destination.method,
        8,
        4,
        destination.weight,
        8,
        5,
        destination.upper,
        8,
        6,
        destination.lower,
        5,
        13,
        destination.tunnel_type,
        6,
        14,
        _BE16.pack(destination.tunnel_port),
        6,
        15,
        destination.tunnel_flags,
    )
    return _NEST.pack(4 + _DEST_BYTES, TOP_DEST) + key + values


def order_bytes(family: int, order: Order, sequence: int, *, ack: bool) -> bytes:
    """The request that carries an order out. Without ack the kernel answers only when it refuses."""
    flags = NLM_F_ACK if ack else 0
    if isinstance(order, DestinationOrder):
        content = nest(TOP_SERVICE, key_bytes(order.service))
        content += destination_bytes(order.destination, key_only=order.verb is Verb.DELETE)
        return message(family, DESTINATION_VERBS[order.verb], flags, sequence, content)
    if order.verb is Verb.DELETE:
        content = nest(TOP_SERVICE, key_bytes(order.service.key))
    else:
        content = nest(TOP_SERVICE, service_bytes(order.service))
    return message(family, SERVICE_VERBS[order.verb], flags, sequence, content)


def daemon_bytes(daemon: DaemonSpec) -> bytes:
    """The nested attribute that starts a sync daemon. The port is in host order here, unlike all others."""
    content = u32_attribute(1, ROLES[daemon.role]) + string_attribute(2, daemon.interface)
    content += u32_attribute(3, daemon.sync_id)
    if daemon.max_length:
        content += u16_attribute(4, daemon.max_length)
    if daemon.group:
        if ":" in daemon.group:
            content += nest(6, socket.inet_pton(socket.AF_INET6, daemon.group))
        else:
            content += nest(5, socket.inet_aton(daemon.group))
    if daemon.port:
        content += u16_attribute(7, daemon.port)
    if daemon.ttl:
        content += struct.pack("=HHBxxx", 5, 8, daemon.ttl)
    return nest(TOP_DAEMON, content)


def attributes(buffer: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(kind, start, end) of each attribute's value; a length that cannot be ends it."""
    while start + 4 <= end:
        length, kind = _NEST.unpack_from(buffer, start)
        if length < 4 or start + length > end:
            return
        yield kind & TYPE_MASK, start + 4, start + length
        start += (length + 3) & ~3


def attribute_map(buffer: bytes, start: int, end: int) -> dict[int, bytes]:
    """Values by kind."""
    return {kind: buffer[first:last] for kind, first, last in attributes(buffer, start, end)}


def number(value: bytes) -> int:
    """An unsigned number in host order, of any width."""
    return int.from_bytes(value, sys.byteorder)


def text(value: bytes) -> str:
    """A string up to its NUL."""
    return value.split(b"\0", 1)[0].decode(errors="replace")


def address_text(family: int, value: bytes) -> str:
    """An address as `ipaddress` would print it."""
    if family == 6:
        # inet_ntop has another text for addresses that end in an IPv4 one.
        return str(ipaddress.IPv6Address(value[:16]))
    return socket.inet_ntoa(value[:4])


def decode_statistics(value: bytes) -> Statistics:
    """STATS64, or STATS where the kernel has nothing wider."""
    found = {kind: number(value[first:last]) for kind, first, last in attributes(value, 0, len(value))}
    return Statistics(*(found.get(kind, 0) for kind in range(1, 11)))


def decode_service(value: bytes, *, statistics: bool) -> ServiceRecord:
    """The nested SERVICE attribute of a dump."""
    found = attribute_map(value, 0, len(value))
    family = FAMILY.get(number(found[1]), 4)
    if 5 in found:
        key = ServiceKey(family, fwmark=number(found[5]))
    else:
        port = int.from_bytes(found[4], "big")
        key = ServiceKey(family, number(found[2]), address_text(family, found[3]), port)
    flags = number(found[7][:4]) if 7 in found else 0
    if family == 6:
        granularity = str(number(found[9]) or 128) if 9 in found else "128"
    else:
        granularity = socket.inet_ntoa(found[9]) if 9 in found else "255.255.255.255"
    spec = ServiceSpec(
        key,
        text(found.get(6, b"")),
        flags & ~FLAG_HASHED,
        number(found.get(8, b"")),
        granularity,
        text(found.get(11, b"")),
    )
    counters = decode_statistics(found.get(12) or found.get(10, b"")) if statistics else Statistics()
    return ServiceRecord(spec, counters)


class DestinationDecoder:
    """Reads the nested DEST attributes of one dump: the first of a length is walked, the others unpacked at once."""

    __slots__ = ("_layouts", "_service_family")

    def __init__(self, service_family: int) -> None:
        self._service_family = service_family
        self._layouts: dict[int, tuple[struct.Struct, tuple[int, ...], dict[int, int]]] = {}

    def decode(self, value: bytes, *, statistics: bool) -> DestinationRecord:
        """One destination."""
        layout = self._layouts.get(len(value))
        if layout is None:
            layout = self._layouts[len(value)] = _layout_of(value)
        unpack, headers, places = layout
        fields = unpack.unpack(value)
        if fields[0::2] != headers:
            # Same length, other attributes: look at this one closely.
            unpack, headers, places = _layout_of(value)
            fields = unpack.unpack(value)

        def raw(kind: int) -> bytes:
            place = places.get(kind)
            return fields[place] if place is not None else b""

        family = FAMILY.get(number(raw(11)), self._service_family)
        spec = DestinationSpec(
            address_text(family, raw(1)),
            int.from_bytes(raw(2)[:2], "big"),
            number(raw(3)[:4]) & 7,
            number(raw(4)[:4]),
            number(raw(5)[:4]),
            number(raw(6)[:4]),
            number(raw(13)[:1]),
            int.from_bytes(raw(14)[:2], "big"),
            number(raw(15)[:2]),
        )
        counters = decode_statistics(raw(12) or raw(10)) if statistics else Statistics()
        return DestinationRecord(spec, number(raw(7)[:4]), number(raw(8)[:4]), number(raw(9)[:4]), counters)


def _layout_of(value: bytes) -> tuple[struct.Struct, tuple[int, ...], dict[int, int]]:
    """How to unpack values like this one: header and value in turn, the headers expected, and kind -> field."""
    layout, headers, places = "=", [], {}
    used = 0
    for index, (kind, first, last) in enumerate(attributes(value, 0, len(value))):
        padded = min(((last + 3) & ~3), len(value)) - first
        layout += f"I{padded}s"
        headers.append(int.from_bytes(value[first - 4 : first], sys.byteorder))
        places[kind] = 2 * index + 1
        used = first + padded
    layout += f"{len(value) - used}x" if len(value) > used else ""
    return struct.Struct(layout), tuple(headers), places


def decode_daemon(value: bytes) -> DaemonSpec:
    """The nested DAEMON attribute of a dump."""
    found = attribute_map(value, 0, len(value))
    group = ""
    if 5 in found:
        group = socket.inet_ntoa(found[5])
    elif 6 in found:
        group = socket.inet_ntop(socket.AF_INET6, found[6])
    return DaemonSpec(
        ROLE_NAMES.get(number(found.get(1, b"")), ""),
        text(found.get(2, b"")),
        number(found.get(3, b"")),
        number(found.get(4, b"")),
        number(found.get(7, b"")),
        number(found.get(8, b"")),
        group,
    )
