"""Authentication of control packets (RFC 5880 sections 4.2 to 4.4 and 6.7): sealing ours, checking the peer's.

    simple password   | 1 | length | key id | password ...                                    |
    keyed MD5, SHA1   | 2 to 5 | 24 or 28 | key id | 0 | sequence (4) | digest (16) or hash (20) |

Pure: the first sequence number comes in, time is an argument.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct

import msgspec

from holdfast.actors.bfd.packet import MAX_U32, ControlPacket, PacketError, Reject

_SECTION = struct.Struct("!BBBBI")
_HALF = 0x80000000


class AuthType(enum.IntEnum):
    """The Auth Type field."""

    SIMPLE = 1
    KEYED_MD5 = 2
    METICULOUS_MD5 = 3
    KEYED_SHA1 = 4
    METICULOUS_SHA1 = 5

    @property
    def meticulous(self) -> bool:
        """Each packet has a sequence number of its own."""
        return self in (AuthType.METICULOUS_MD5, AuthType.METICULOUS_SHA1)

    @property
    def digest_bytes(self) -> int:
        """16, 20, or 0 with the simple password."""
        return (0, 0, 16, 16, 20, 20)[self]

    @property
    def secret_bytes(self) -> int:
        """The longest secret: 16 for passwords and MD5, 20 for SHA1."""
        return self.digest_bytes or 16


class Key(msgspec.Struct, frozen=True):
    """id: 0..255, as both sides number it. secret: 1..16 bytes, with SHA1 1..20."""

    id: int
    secret: bytes


class Authenticator:
    """Seals and checks the packets of one session.

    The first key seals; all of them are accepted, so keys are changed by adding the new one on both sides first.
    """

    __slots__ = ("_keys", "_sealing", "received_sequence", "sequence", "type")

    def __init__(self, type_: AuthType, keys: tuple[Key, ...], sequence: int) -> None:
        """sequence: 0..2**32-1; random at the first start (section 6.8.1), where it was left after a crash."""
        assert keys and all(1 <= len(key.secret) <= type_.secret_bytes for key in keys)
        self.type = type_
        self.sequence = sequence
        self.received_sequence: int | None = None
        """bfd.RcvAuthSeq; None: bfd.AuthSeqKnown is 0."""
        self._sealing = keys[0]
        self._keys = {key.id: key for key in keys}

    @property
    def length(self) -> int:
        """Bytes of the section."""
        if self.type is AuthType.SIMPLE:
            return 3 + len(self._sealing.secret)
        return 8 + self.type.digest_bytes

    def seal(self, packet: ControlPacket) -> bytes:
        """The whole packet; `authenticated` must be set in it. The sequence number has gone up by one.

        Keyed: called when the content changed, which is when section 6.7.3 wants a new number. Meticulous: for each
        packet.
        """
        return self.reseal(packet.encode(self.length))

    def reseal(self, head: bytes) -> bytes:
        """`seal` for the 24 encoded bytes, their Length field already right."""
        key = self._sealing
        if self.type is AuthType.SIMPLE:
            return head + bytes((self.type, self.length, key.id)) + key.secret
        self.sequence = (self.sequence + 1) & MAX_U32
        body = head + _SECTION.pack(self.type, self.length, key.id, 0, self.sequence)
        return body + self._digest(body, key)

    def check(self, data: bytes, packet: ControlPacket, section: bytes, *, recent: bool) -> None:
        """Returns if the packet is authentic, else PacketError. data: the UDP payload.

        recent: an authentic packet came within twice the detection time; if not, any sequence number is taken
        (section 6.8.1, bfd.AuthSeqKnown).
        """
        size = self._check_form(section)
        key = self._keys.get(section[2])
        if key is None:
            raise PacketError(Reject.AUTH_KEY, f"key id {section[2]}")
        if self.type is AuthType.SIMPLE:
            if not hmac.compare_digest(section[3:size], key.secret):
                raise PacketError(Reject.AUTH_DIGEST, "password differs")
            return
        sequence = int.from_bytes(section[4:8], "big")
        known = self.received_sequence
        if known is not None and recent:
            ahead = (sequence - known) & MAX_U32
            if not (1 if self.type.meticulous else 0) <= ahead <= 3 * packet.detect_mult:
                signed = ahead - (MAX_U32 + 1) if ahead >= _HALF else ahead
                raise PacketError(Reject.AUTH_SEQUENCE, f"sequence number {sequence} is {signed:+d} from the last")
        body = data[: 24 + 8]
        if not hmac.compare_digest(section[8:size], self._digest(body, key)):
            raise PacketError(Reject.AUTH_DIGEST, "digest differs")
        # Only an authentic packet may move the window; the RFC's text sets it before the digest is compared, by
        # which a stranger could shut the peer out.
        self.received_sequence = sequence

    def _check_form(self, section: bytes) -> int:
        if not section:
            raise PacketError(Reject.AUTH_MISSING)
        if section[0] != self.type:
            raise PacketError(Reject.AUTH_TYPE, f"authentication type {section[0]}")
        size = section[1]
        if size > len(section):
            raise PacketError(Reject.AUTH_LENGTH, f"section of {size} in {len(section)} bytes")
        if self.type is AuthType.SIMPLE:
            if not 4 <= size <= 19:
                raise PacketError(Reject.AUTH_LENGTH, f"password section of {size} bytes")
        elif size != 8 + self.type.digest_bytes:
            raise PacketError(Reject.AUTH_LENGTH, f"section of {size} bytes")
        return size

    def _digest(self, body: bytes, key: Key) -> bytes:
        """Over the packet with the key, padded with zeros, in the place of the digest (sections 6.7.3, 6.7.4)."""
        width = self.type.digest_bytes
        whole = body + key.secret.ljust(width, b"\0")
        if width == 16:
            return hashlib.md5(whole, usedforsecurity=False).digest()
        return hashlib.sha1(whole, usedforsecurity=False).digest()
