"""VRRP adverts as bytes (RFC 3768 section 5.1, RFC 9568 section 5.1). Counterpart: `validation.py` for what we receive.

    VRRPv3                                                   VRRPv2
    0        8        16       24       32                   0        8        16       24       32
    | 3 | 1  |  VRID  |priority| count  |                    | 2 | 1  |  VRID  |priority| count  |
    | 0 | max adv cs  |    checksum     |                    |auth typ| adv s  |    checksum     |
    |          addresses ...            |                    |          addresses ...            |
                                                             |   8 bytes authentication (IPv4)   |

The v2 checksum covers the message alone; the v3 one covers a pseudo-header too, and for IPv6 the kernel sets it.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from collections.abc import Sequence

import msgspec

from holdfast.actors.vrrp.config import VrrpInstance

PROTOCOL = 112
TYPE_ADVERTISEMENT = 1
HEADER_BYTES = 8
AUTH_BYTES = 8
IPV4_HEADER_BYTES = 20
AUTH_NONE = 0
AUTH_PASS = 1
AUTH_AH = 2
TOS_INTERNETWORK_CONTROL = 0xC0
TTL_REQUIRED = 255

_HEADER = struct.Struct("!BBBBHH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_WORD = struct.Struct("!H")


class Reject(enum.StrEnum):
    """Why a packet does not count. Values are the names of the statistics."""

    LENGTH = "packet_len_err"
    TTL = "ip_ttl_err"
    VERSION = "version_err"
    AUTH_TYPE = "invalid_authtype"
    AUTH_MISMATCH = "authtype_mismatch"
    AUTH_FAILURE = "auth_failure"
    INTERVAL = "advert_interval_err"
    TYPE = "invalid_type_rcvd"
    CHECKSUM = "checksum_err"
    DESTINATION = "destination_err"
    SOURCE = "unicast_source_err"
    OWNER = "owner_ignored"
    VRID = "unknown_vrid"
    ADDRESS_LIST = "addr_list_err"
    """Only counted: an advert with other addresses is still an advert (as in keepalived 2.4)."""


class PacketError(Exception):
    """A packet that does not count. facts: numbers for the log line."""

    def __init__(self, reject: Reject, **facts: int | str) -> None:
        super().__init__(reject, facts)
        self.reject = reject
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.reject.name}: " + ", ".join(f"{key}={value}" for key, value in self.facts.items())


class Advert(msgspec.Struct, frozen=True, kw_only=True):
    """One advertisement. addresses: packed, 4 or 16 bytes each. interval_cs: v2 carries whole seconds only.

    auth_type, auth_data: v2 over IPv4 only. checksum: as received; `encode` computes its own.
    """

    version: int
    vrid: int
    priority: int
    interval_cs: int
    addresses: tuple[bytes, ...] = ()
    auth_type: int = AUTH_NONE
    auth_data: bytes = bytes(AUTH_BYTES)
    type: int = TYPE_ADVERTISEMENT
    checksum: int = 0


def ones_complement_sum(data: bytes | bytearray | memoryview) -> int:
    """The Internet checksum's sum over 16-bit words, modulo 65535 (RFC 1071: 0 and 65535 are one value)."""
    value = int.from_bytes(data, "big")
    return (value << 8 if len(data) % 2 else value) % 0xFFFF


def checksum(total: int) -> int:
    """The field that makes a message of that sum verify; the messages here are never all zero."""
    return -total % 0xFFFF


def pseudo_header_sum(source: bytes, destination: bytes, length: int) -> int:
    """The sum of the pseudo-header of RFC 9568 section 5.2.8 (IPv4: as UDP's; IPv6: RFC 8200 section 8.1)."""
    return (ones_complement_sum(source) + ones_complement_sum(destination) + PROTOCOL + length) % 0xFFFF


def expected_bytes(version: int, count: int, family: int) -> int:
    """Length of a message with `count` addresses: v2 over IPv4 always has the authentication field."""
    size = HEADER_BYTES + count * (4 if family == 4 else 16)
    return size + AUTH_BYTES if version == 2 and family == 4 else size


def encode(advert: Advert, *, pseudo: int | None = None) -> bytes:
    """The message with its checksum. pseudo: sum of the pseudo-header for v3 and IPv6, None to leave it out."""
    family = 6 if advert.addresses and len(advert.addresses[0]) == 16 else 4
    if advert.version == 2:
        word = (advert.auth_type & 0xFF) << 8 | advert.interval_cs // 100 & 0xFF
    else:
        word = advert.interval_cs & 0xFFF
    body = b"".join(advert.addresses)
    if advert.version == 2 and family == 4:
        body += advert.auth_data
    first = advert.version << 4 | advert.type
    count = len(advert.addresses)
    total = ones_complement_sum(_HEADER.pack(first, advert.vrid, advert.priority, count, word, 0) + body)
    field = checksum(total + (pseudo or 0))
    return _HEADER.pack(first, advert.vrid, advert.priority, count, word, field) + body


def decode(message: bytes, family: int) -> Advert:
    """The fields of a message (without IP header), exact in length; nothing is judged but the form.

    Raises PacketError: LENGTH, VERSION (neither 2 nor 3). Bits the RFC reserves are ignored.
    """
    if len(message) < HEADER_BYTES:
        raise PacketError(Reject.LENGTH, length=len(message), expected=HEADER_BYTES)
    first, vrid, priority, count, word, field = _HEADER.unpack_from(message)
    version = first >> 4
    if version not in (2, 3):
        raise PacketError(Reject.VERSION, version=version)
    expected = expected_bytes(version, count, family)
    if len(message) != expected:
        raise PacketError(Reject.LENGTH, length=len(message), expected=expected)
    size = 4 if family == 4 else 16
    end = HEADER_BYTES + count * size
    return Advert(
        version=version,
        vrid=vrid,
        priority=priority,
        interval_cs=(word & 0xFF) * 100 if version == 2 else word & 0xFFF,
        addresses=tuple(message[at : at + size] for at in range(HEADER_BYTES, end, size)),
        auth_type=word >> 8 if version == 2 else AUTH_NONE,
        auth_data=message[end:] if version == 2 and family == 4 else bytes(AUTH_BYTES),
        type=first & 0xF,
        checksum=field,
    )


def packed(address: str) -> bytes:
    """4 or 16 bytes of an address in text form; a scope (`%eth0`) is dropped."""
    return ipaddress.ip_address(address.partition("%")[0]).packed


def auth_data(password: bytes) -> bytes:
    """The 8 bytes of the v2 authentication field: cut or padded with zeros (RFC 2338 section 5.3.10)."""
    return password[:AUTH_BYTES].ljust(AUTH_BYTES, b"\0")


def instance_advert(instance: VrrpInstance, priority: int) -> Advert:
    """What `instance` says about itself."""
    return Advert(
        version=instance.version,
        vrid=instance.vrid,
        priority=priority,
        interval_cs=instance.advert_interval_us // 10_000,
        addresses=tuple(packed(spec.address) for spec in instance.addresses if spec.family == instance.family),
        auth_type=AUTH_PASS if instance.auth_type == "pass" and instance.version == 2 else AUTH_NONE,
        auth_data=auth_data(instance.auth_pass if instance.auth_type == "pass" else b""),
    )


class AdvertTemplate:
    """The adverts of one instance as buffers that are patched, never built again.

    destinations: packed addresses, one for each entry of `buffers`: the multicast group, or each unicast peer.
    buffers: IPv4 with its IP header (for a raw socket with IP_HDRINCL; the kernel would fill length and checksum, they
    are right anyway), IPv6 the message alone. The buffers stay the same objects for the life of the template, so that
    a `sendmmsg` vector may point at them; what has to be queued for later is copied by `snapshot`.
    """

    __slots__ = ("_family", "_id", "_ip_sums", "_message_sums", "_offset", "_priority", "buffers", "destinations")

    def __init__(self, instance: VrrpInstance, source: str, *, old_checksum: bool = False, first_id: int = 0) -> None:
        """source: what the adverts come from. old_checksum: the form of old keepalived for unicast v3 over IPv4, with
        the multicast group in the pseudo-header, as seen from the peer. first_id: the IPv4 id to go on from."""
        self._family = instance.family
        if instance.unicast and instance.peers:
            self.destinations: tuple[bytes, ...] = tuple(packed(peer.address) for peer in instance.peers)
        else:
            self.destinations = (packed(instance.mcast_group),)
        ttl = TTL_REQUIRED if instance.unicast_ttl is None else instance.unicast_ttl
        self._id = first_id
        self._priority = -1
        self._offset = IPV4_HEADER_BYTES if instance.family == 4 else 0
        origin = packed(source)
        buffers: list[bytearray] = []
        message_sums: list[int] = []
        ip_sums: list[int] = []
        for destination in self.destinations:
            pseudo = _pseudo_sum(instance, origin, destination, old_checksum=old_checksum)
            message = encode(instance_advert(instance, 0), pseudo=pseudo)
            body = message[:6] + b"\0\0" + message[8:]
            message_sums.append((ones_complement_sum(body) + pseudo) % 0xFFFF)
            header = b""
            if instance.family == 4:
                length = IPV4_HEADER_BYTES + len(message)
                fields = (0x45, TOS_INTERNETWORK_CONTROL, length, 0, 0, ttl, PROTOCOL, 0, origin, destination)
                header = _IPV4.pack(*fields)
            ip_sums.append(ones_complement_sum(header))
            buffers.append(bytearray(header + message))
        self.buffers: tuple[bytearray, ...] = tuple(buffers)
        self._message_sums = tuple(message_sums)
        self._ip_sums = tuple(ip_sums)

    @property
    def last_id(self) -> int:
        """The IPv4 id of the last advert."""
        return self._id

    def patch(self, priority: int) -> tuple[bytearray, ...]:
        """The buffers, ready to be sent once with `priority`; good until the next call. No byte is summed again."""
        offset = self._offset
        if priority != self._priority:
            self._priority = priority
            for buffer, total in zip(self.buffers, self._message_sums, strict=True):
                buffer[offset + 2] = priority
                # The priority is the high byte of its word: the sum without it plus that word (RFC 1624).
                _WORD.pack_into(buffer, offset + 6, -(total + (priority << 8)) % 0xFFFF)
        if offset:
            # One id for each advert, the same to all peers, never 0: 0 asks the kernel to choose.
            self._id = number = self._id % 0xFFFF + 1
            for buffer, total in zip(self.buffers, self._ip_sums, strict=True):
                _WORD.pack_into(buffer, 4, number)
                _WORD.pack_into(buffer, 10, -(total + number) % 0xFFFF)
        return self.buffers

    def snapshot(self, priority: int) -> tuple[bytes, ...]:
        """The same as `patch`, as bytes of their own."""
        return tuple(bytes(buffer) for buffer in self.patch(priority))


def _pseudo_sum(instance: VrrpInstance, source: bytes, destination: bytes, *, old_checksum: bool) -> int:
    advert = instance_advert(instance, 0)
    length = expected_bytes(instance.version, len(advert.addresses), instance.family)
    if instance.family == 6:
        return pseudo_header_sum(source, destination, length)
    if instance.version == 2 or instance.checksum_as_v2:
        return 0
    if instance.unicast and (old_checksum or instance.old_unicast_checksum):
        destination = packed(instance.mcast_group)
    return pseudo_header_sum(source, destination, length)


def packet_vrid(message: bytes | memoryview) -> int | None:
    """The VRID of a message without IP header, to find its instance; None if it is too short to have one."""
    return message[1] if len(message) >= HEADER_BYTES else None


def destinations_of(instance: VrrpInstance) -> Sequence[str]:
    """Where the adverts of an instance go, in text form."""
    if instance.unicast and instance.peers:
        return [peer.address for peer in instance.peers]
    return [instance.mcast_group]
