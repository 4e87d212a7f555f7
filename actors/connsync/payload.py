"""How entries travel between nodes: one after the other, each with its own size, compressed when that pays. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from holdfast.actors.connsync.syncproto import RawEntry, Reject, SyncError, raw_entry

PLAIN = "plain"
ZLIB = "zlib"
WORTH_BYTES = 256
"""Less than this is sent as it is: a request has as much around it."""
WORTH_SHARE = 0.9
PAYLOAD_BYTES_MAX = 1024 * 1024
"""Uncompressed; who sends more is not listened to."""


def pack(entries: Iterable[bytes]) -> tuple[str, bytes]:
    """Encoding and bytes."""
    plain = b"".join(entries)
    if len(plain) >= WORTH_BYTES:
        small = zlib.compress(plain, 1)
        if len(small) < WORTH_SHARE * len(plain):
            return ZLIB, small
    return PLAIN, plain


def unpack(encoding: str, data: bytes) -> list[RawEntry]:
    """The entries. Raises SyncError; nothing larger than PAYLOAD_BYTES_MAX is ever made of it."""
    if encoding == ZLIB:
        reader = zlib.decompressobj()
        try:
            plain = reader.decompress(data, PAYLOAD_BYTES_MAX)
        except zlib.error as error:
            raise SyncError(Reject.SIZE, str(error)) from None
        if not reader.eof or reader.unused_data:
            raise SyncError(Reject.SIZE, "compressed data is cut off or too long")
    elif encoding == PLAIN:
        plain = data
    else:
        raise SyncError(Reject.VERSION, encoding[:20])
    if len(plain) > PAYLOAD_BYTES_MAX:
        raise SyncError(Reject.SIZE, f"{len(plain)} bytes")
    found = []
    position = 0
    while position < len(plain):
        if position + 4 > len(plain):
            raise SyncError(Reject.SHORT, "entry")
        length = (plain[position + 2] << 8 | plain[position + 3]) & 0x0FFF
        # A size below that of the smallest entry is refused by raw_entry, so this always advances.
        found.append(raw_entry(plain[position : position + length]))
        position += length
    return found
