"""Judging received adverts, in keepalived's order of checks. Counterpart: `packet.py`.

The shell finds the instance by VRID, compares `comparison_key(packet)` with that of the last accepted packet of the
same source and hands the same `AdvertReceived` in again if they are equal; only other bytes come here.
"""

from __future__ import annotations

import enum
import hmac
import ipaddress
import struct

import msgspec

from holdfast.actors.runtime.machine import MS, Duration
from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.actors.vrrp.facts import AdvertReceived
from holdfast.actors.vrrp.packet import (
    AUTH_AH,
    AUTH_PASS,
    HEADER_BYTES,
    IPV4_HEADER_BYTES,
    PROTOCOL,
    TTL_REQUIRED,
    TYPE_ADVERTISEMENT,
    Advert,
    PacketError,
    Reject,
    decode,
    expected_bytes,
    instance_advert,
    ones_complement_sum,
    packed,
    pseudo_header_sum,
)

_ETHERNET_PAYLOAD_BYTES = 46
_IPV4 = struct.Struct("!BBHHHBBH4s4s")


class Notice(enum.StrEnum):
    """What is odd about an advert that counts all the same."""

    ADDRESS_LIST = "address-list"
    INTERVAL = "interval"
    OLD_CHECKSUM = "old-checksum"
    """Verifies only with the multicast group in its pseudo-header: rebuild our template with old_checksum=True."""


class Datagram(msgspec.Struct, frozen=True):
    """One received message. source, destination: packed. total_length: what the IPv4 header claims, header included;
    0 for IPv6. received_length: bytes that came, IPv4 header included."""

    family: int
    source: bytes
    destination: bytes
    ttl: int
    message: bytes
    total_length: int = 0
    received_length: int = 0

    @property
    def header_bytes(self) -> int:
        """Length of the IP header that came along."""
        return self.received_length - len(self.message) if self.total_length else 0


class Verdict(msgspec.Struct, frozen=True):
    """An advert that counts. differing: addresses of ours that it lacks or of its own that we lack, in text form."""

    advert: AdvertReceived
    notices: tuple[Notice, ...] = ()
    differing: tuple[str, ...] = ()


def split_ipv4(packet: bytes) -> Datagram:
    """A packet of a raw IPv4 socket, header included. Raises PacketError(LENGTH)."""
    if len(packet) < IPV4_HEADER_BYTES:
        raise PacketError(Reject.LENGTH, length=len(packet), expected=IPV4_HEADER_BYTES + HEADER_BYTES)
    first, _, total, _, _, ttl, protocol, _, source, destination = _IPV4.unpack_from(packet)
    header = (first & 0xF) * 4
    if first >> 4 != 4 or header < IPV4_HEADER_BYTES or len(packet) < header + HEADER_BYTES or protocol != PROTOCOL:
        raise PacketError(Reject.LENGTH, length=len(packet), expected=header + HEADER_BYTES)
    return Datagram(4, source, destination, ttl, packet[header:], total, len(packet))


def comparison_key(packet: bytes, family: int = 4) -> bytes:
    """Two packets with equal keys say the same.

    IPv4: all but the id and the header checksum, so the TTL and both addresses are in it. IPv6: the message; the shell
    keeps one key for each source, with its hop limit.
    """
    return packet[:4] + packet[6:10] + packet[12:] if family == 4 else packet


class Expectation:
    """What an instance wants of the adverts it receives. Built once for each configuration."""

    __slots__ = (
        "_addresses",
        "_auth_data",
        "_auth_type",
        "_check_source",
        "_count",
        "_interval_cs",
        "_old_group",
        "_peers",
        "instance",
        "old_checksum_seen",
    )

    def __init__(self, instance: VrrpInstance) -> None:
        advert = instance_advert(instance, 0)
        self.instance = instance
        self._addresses = frozenset(advert.addresses)
        self._count = len(advert.addresses)
        self._auth_type = advert.auth_type
        self._auth_data = advert.auth_data
        self._interval_cs = advert.interval_cs
        self._peers = {packed(peer.address): (peer.min_ttl, peer.max_ttl) for peer in instance.peers}
        limited = any(peer.min_ttl is not None or peer.max_ttl is not None for peer in instance.peers)
        self._check_source = instance.unicast and (instance.check_unicast_src or limited)
        self._old_group = packed(instance.mcast_group) if instance.family == 4 else b""
        self.old_checksum_seen = False

    def validate(self, datagram: Datagram, priority: int, *, check_addresses: bool = True) -> Verdict:
        """The advert in `datagram`, or PacketError with the first thing that is wrong with it.

        priority: our effective one, for owner_ignore_adverts. check_addresses: False with skip_check_adv_addr for a
        known master. The order of the checks decides which counter moves; it is keepalived's.
        """
        instance = self.instance
        message = datagram.message
        if len(message) < HEADER_BYTES:
            raise PacketError(Reject.LENGTH, length=len(message), expected=HEADER_BYTES)
        expected = expected_bytes(message[0] >> 4, message[3], datagram.family)
        if not _fits(len(message), expected, datagram.header_bytes):
            raise PacketError(Reject.LENGTH, length=len(message), expected=expected)
        if not instance.unicast and datagram.ttl != TTL_REQUIRED:
            raise PacketError(Reject.TTL, ttl=datagram.ttl, expected=TTL_REQUIRED)
        if message[0] >> 4 != instance.version:
            raise PacketError(Reject.VERSION, version=message[0] >> 4, expected=instance.version)
        advert = decode(message[:expected], datagram.family)
        notices: list[Notice] = []
        if instance.version == 2:
            self._check_version_2(advert)
        elif advert.interval_cs != self._interval_cs:
            notices.append(Notice.INTERVAL)
        if advert.type != TYPE_ADVERTISEMENT:
            raise PacketError(Reject.TYPE, type=advert.type)
        if datagram.total_length:
            header = datagram.header_bytes
            if (
                not _fits(datagram.received_length, datagram.total_length, 0)
                or datagram.total_length < header + expected
            ):
                raise PacketError(Reject.LENGTH, length=datagram.received_length, expected=datagram.total_length)
        if self._checksum_is_old(datagram, message[:expected]):
            notices.append(Notice.OLD_CHECKSUM)
        multicast = _is_multicast(datagram.destination)
        if multicast == instance.unicast:
            wanted = "unicast" if instance.unicast else "multicast"
            raise PacketError(Reject.DESTINATION, received="multicast" if multicast else "unicast", expected=wanted)
        if instance.owner_ignore_adverts and priority == 255:
            raise PacketError(Reject.OWNER, priority=advert.priority)
        differing: tuple[str, ...] = ()
        if check_addresses and (len(advert.addresses) != self._count or self._addresses != frozenset(advert.addresses)):
            notices.append(Notice.ADDRESS_LIST)
            odd = self._addresses.symmetric_difference(advert.addresses)
            differing = tuple(sorted(_text(address) for address in odd))
        self._check_peer(datagram)
        return Verdict(
            AdvertReceived(
                source=_text(datagram.source),
                source_value=int.from_bytes(datagram.source, "big"),
                priority=advert.priority,
                interval=Duration(advert.interval_cs * 10 * MS) if instance.version == 3 else None,
                address_mismatch=bool(differing) or Notice.ADDRESS_LIST in notices,
            ),
            tuple(notices),
            differing,
        )

    def _check_version_2(self, advert: Advert) -> None:
        if advert.auth_type > AUTH_AH:
            raise PacketError(Reject.AUTH_TYPE, auth_type=advert.auth_type)
        if self.instance.family == 4:
            if advert.auth_type != self._auth_type:
                raise PacketError(Reject.AUTH_MISMATCH, auth_type=advert.auth_type, expected=self._auth_type)
            if advert.auth_type == AUTH_PASS and not hmac.compare_digest(advert.auth_data, self._auth_data):
                raise PacketError(Reject.AUTH_FAILURE)
        if advert.interval_cs // 100 != self._interval_cs // 100:
            raise PacketError(Reject.INTERVAL, interval_cs=advert.interval_cs, expected_cs=self._interval_cs)

    def _checksum_is_old(self, datagram: Datagram, message: bytes) -> bool:
        """False: right as it is; True: right in the old unicast form, seen for the first time. Raises CHECKSUM."""
        instance = self.instance
        if datagram.family == 6:
            return False  # The kernel has verified it (IPV6_CHECKSUM).
        total = ones_complement_sum(message)
        if instance.version == 2:
            if total:
                raise PacketError(Reject.CHECKSUM, checksum=int.from_bytes(message[6:8], "big"))
            return False
        if instance.checksum_as_v2:
            return False
        expects_old = instance.unicast and (instance.old_unicast_checksum is True or self.old_checksum_seen)
        new = (total + pseudo_header_sum(datagram.source, datagram.destination, len(message))) % 0xFFFF == 0
        if new and not expects_old:
            return False
        old = instance.unicast and (
            (total + pseudo_header_sum(datagram.source, self._old_group, len(message))) % 0xFFFF == 0
        )
        if old and expects_old:
            return False
        if old and instance.old_unicast_checksum is None:
            self.old_checksum_seen = True
            return True
        if new and self.old_checksum_seen:
            return False  # The other side was upgraded, or has several peers: both forms are right for us now.
        raise PacketError(Reject.CHECKSUM, checksum=int.from_bytes(message[6:8], "big"))

    def _check_peer(self, datagram: Datagram) -> None:
        if not self._check_source:
            return
        limits = self._peers.get(datagram.source)
        if limits is None:
            raise PacketError(Reject.SOURCE, source=_text(datagram.source))
        least, most = limits
        if (least is not None and datagram.ttl < least) or (most is not None and datagram.ttl > most):
            raise PacketError(Reject.TTL, ttl=datagram.ttl, expected=f"{least or 0}..{255 if most is None else most}")


def _fits(length: int, expected: int, header: int) -> bool:
    """Exact, but for the padding of a minimum Ethernet frame (46 bytes of payload; 4 fewer for each VLAN tag)."""
    if length == expected:
        return True
    surplus = _ETHERNET_PAYLOAD_BYTES - (length + header)
    return expected < length and expected + header < _ETHERNET_PAYLOAD_BYTES and surplus >= 0 and surplus % 4 == 0


def _text(address: bytes) -> str:
    """IPv4 without the detour over an object: this runs for each advert that differs from the last one."""
    return ".".join(map(str, address)) if len(address) == 4 else str(ipaddress.ip_address(address))


def _is_multicast(address: bytes) -> bool:
    return 224 <= address[0] < 240 if len(address) == 4 else address[0] == 0xFF
