"""The kernel's connection sync messages, version 1 (linux/net/netfilter/ipvs/ip_vs_sync.c). Pure.

    message  0        1        2            4        5        6
             +--------+--------+------------+--------+--------+--------+
             | 0      | syncid | size       | count  | 1      | 0      |   then `count` entries
             +--------+--------+------------+--------+--------+--------+

    entry    type  protocol  version+size  flags  state  cport vport dport  fwmark  timeout  caddr vaddr daddr  options
             1     1         2             4      2      2     2     2      4       4        4 or 16 each       TLV

Each entry begins on a multiple of four bytes; its size leaves the padding out. Everything is in network order.
`decode` and `encode` give and take values; `split` and `join` move entries between messages without looking at more
than a key, which is what a hundred thousand of them need.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator

import msgspec

PORT = 8848
GROUP = "224.0.0.81"
HEADER_BYTES = 8
PAYLOAD_BYTES_MAX = 1472
"""What fits into one Ethernet frame, and what a backup takes by default."""
COUNT_MAX = 255

TYPE_IPV6 = 0x01
FLAG_NO_OUTPUT = 0x0080
FLAG_INACTIVE = 0x0100
FLAG_SEQUENCES = 0x0600
FLAG_NO_CLIENT_PORT = 0x0800
FLAG_TEMPLATE = 0x1000

OPTION_SEQUENCES = 1
OPTION_ENGINE_DATA = 2
OPTION_ENGINE_NAME = 3
OPTION_MAY_SKIP = 0x40
SEQUENCES_BYTES = 24
ENGINE_NAME_MAX = 16
ENGINE_DATA_MAX = 255

_HEADER = struct.Struct("!BBHBBH")
_FIXED = struct.Struct("!BBHIHHHHII")
_SEQUENCES = struct.Struct("!6I")


class Reject(enum.StrEnum):
    """Why bytes are no sync message."""

    SHORT = "short"
    VERSION = "version"
    SIZE = "size"
    ENTRY = "entry"
    OPTION = "option"


class SyncError(Exception):
    """Bytes that are no sync message. reject: why."""

    def __init__(self, reject: Reject, detail: str = "") -> None:
        super().__init__(reject, detail)
        self.reject = reject
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reject}: {self.detail}" if self.detail else str(self.reject)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One connection as the kernel tells it. client, virtual, destination: 4 or 16 bytes each, of one family.

    timeout_s: the whole timeout of its state, 0: the kernel's default. sequences: initial number, delta and former
    delta of the input, then of the output, for connections whose payload a helper rewrites (FTP). engine: the
    persistence engine of a template, with its data.
    """

    protocol: int
    client: bytes
    client_port: int
    virtual: bytes
    virtual_port: int
    destination: bytes
    destination_port: int
    state: int = 0
    flags: int = 0
    fwmark: int = 0
    timeout_s: int = 0
    sequences: tuple[int, int, int, int, int, int] | None = None
    engine: str = ""
    engine_data: bytes = b""


class RawEntry(msgspec.Struct, frozen=True):
    """An entry as it came, without padding. key: which connection it is, the same for each of its entries.

    virtual: packed address of its virtual server.
    """

    key: bytes
    raw: bytes
    virtual: bytes


def encode_entry(entry: Entry) -> bytes:
    """The entry without padding. Raises ValueError when a field does not fit."""
    size = len(entry.virtual)
    if size not in (4, 16) or len(entry.client) != size or len(entry.destination) != size:
        raise ValueError("the three addresses are of one family")
    options = _encode_options(entry)
    length = _FIXED.size + 3 * size + len(options)
    try:
        fixed = _FIXED.pack(
            TYPE_IPV6 if size == 16 else 0,
            entry.protocol,
            length,
            entry.flags,
            entry.state,
            entry.client_port,
            entry.virtual_port,
            entry.destination_port,
            entry.fwmark,
            entry.timeout_s,
        )
    except struct.error as error:
        raise ValueError(str(error)) from None
    return b"".join((fixed, entry.client, entry.virtual, entry.destination, options))


def _encode_options(entry: Entry) -> bytes:
    parts = []
    if (entry.sequences is not None) != bool(entry.flags & FLAG_SEQUENCES):
        raise ValueError("sequence numbers are there exactly when the flags say so")
    if entry.sequences is not None:
        parts.append(bytes((OPTION_SEQUENCES, SEQUENCES_BYTES)) + _SEQUENCES.pack(*entry.sequences))
    if len(entry.engine_data) > ENGINE_DATA_MAX or len(entry.engine.encode("ascii")) > ENGINE_NAME_MAX:
        raise ValueError("data or name of the persistence engine is too long")
    if entry.engine_data:
        parts.append(bytes((OPTION_ENGINE_DATA, len(entry.engine_data))) + entry.engine_data)
    if entry.engine:
        parts.append(bytes((OPTION_ENGINE_NAME, len(entry.engine))) + entry.engine.encode("ascii"))
    return b"".join(parts)


def decode_entry(raw: bytes) -> Entry:
    """The value of one entry. Raises SyncError for what the kernel would not take either."""
    size = _address_bytes(raw)
    kind, protocol, _length, flags, state, client_port, virtual_port, destination_port, fwmark, timeout_s = (
        _FIXED.unpack_from(raw)
    )
    assert kind in (0, TYPE_IPV6)
    start = _FIXED.size
    sequences, engine, engine_data = _decode_options(raw[start + 3 * size :])
    if (sequences is not None) != bool(flags & FLAG_SEQUENCES):
        raise SyncError(Reject.OPTION, "sequence numbers do not go with the flags")
    return Entry(
        protocol=protocol,
        client=raw[start : start + size],
        client_port=client_port,
        virtual=raw[start + size : start + 2 * size],
        virtual_port=virtual_port,
        destination=raw[start + 2 * size : start + 3 * size],
        destination_port=destination_port,
        state=state,
        flags=flags,
        fwmark=fwmark,
        timeout_s=timeout_s,
        sequences=sequences,
        engine=engine,
        engine_data=engine_data,
    )


def _decode_options(data: bytes) -> tuple[tuple[int, int, int, int, int, int] | None, str, bytes]:
    found: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        if position + 2 > len(data):
            raise SyncError(Reject.OPTION, "cut off")
        kind, length = data[position], data[position + 1]
        value = data[position + 2 : position + 2 + length]
        position += 2 + length
        if not length or len(value) != length:
            raise SyncError(Reject.OPTION, f"length of option {kind}")
        if kind not in (OPTION_SEQUENCES, OPTION_ENGINE_DATA, OPTION_ENGINE_NAME):
            if kind & OPTION_MAY_SKIP:
                continue
            raise SyncError(Reject.OPTION, f"option {kind} is not known")
        if kind in found:
            raise SyncError(Reject.OPTION, f"option {kind} twice")
        found[kind] = value
    numbers = found.get(OPTION_SEQUENCES)
    if numbers is not None and len(numbers) != SEQUENCES_BYTES:
        raise SyncError(Reject.OPTION, "length of the sequence numbers")
    name = found.get(OPTION_ENGINE_NAME, b"")
    if len(name) > ENGINE_NAME_MAX or not name.isascii():
        raise SyncError(Reject.OPTION, "name of the persistence engine")
    sequences = None if numbers is None else _SEQUENCES.unpack(numbers)
    return sequences, name.decode("ascii"), found.get(OPTION_ENGINE_DATA, b"")


def _address_bytes(raw: bytes) -> int:
    """4 or 16, after the sizes were looked at. Raises SyncError."""
    if len(raw) < _FIXED.size or raw[0] not in (0, TYPE_IPV6):
        raise SyncError(Reject.ENTRY, "type")
    size = 16 if raw[0] else 4
    told = raw[2] << 8 | raw[3]
    if told >> 12 or told != len(raw) or told < _FIXED.size + 3 * size:
        raise SyncError(Reject.ENTRY, "size")
    return size


def raw_entry(raw: bytes) -> RawEntry:
    """The entry with its key. Raises SyncError when its sizes are wrong."""
    start = _FIXED.size
    size = _address_bytes(raw)
    virtual = start + size
    # Protocol (and family), both ports, both addresses: ip_vs_conn_in_get looks for these. A template's port is 0.
    key = raw[:2] + raw[10:14] + raw[start : virtual + size] + (b"T" if raw[6] & 0x10 else b"")
    return RawEntry(key, raw, raw[virtual : virtual + size])


def split(payload: bytes) -> Iterator[RawEntry]:
    """The entries of one sync message. Raises SyncError; what came before the bad place has been given by then."""
    if len(payload) < HEADER_BYTES:
        raise SyncError(Reject.SHORT, f"{len(payload)} bytes")
    zero, _syncid, size, count, version, spare = _HEADER.unpack_from(payload)
    if zero or spare or version != 1:
        raise SyncError(Reject.VERSION, str(version))
    if size != len(payload):
        raise SyncError(Reject.SIZE, f"{size} instead of {len(payload)}")
    position = HEADER_BYTES
    for _ in range(count):
        if position + 4 > size:
            raise SyncError(Reject.SHORT, "entry")
        length = (payload[position + 2] << 8 | payload[position + 3]) & 0x0FFF
        if position + length > size:
            raise SyncError(Reject.SHORT, "entry")
        yield raw_entry(payload[position : position + length])
        position += (length + 3) & ~3


def join(entries: Iterable[bytes], sync_id: int, bytes_max: int = PAYLOAD_BYTES_MAX) -> Iterator[bytes]:
    """The entries as messages of at most `bytes_max`, in order. sync_id: 0..255, 0 is heard by everyone."""
    parts: list[bytes] = []
    size = HEADER_BYTES
    for raw in entries:
        padded = raw + b"\0" * (-len(raw) % 4)
        if parts and (size + len(padded) > bytes_max or len(parts) == COUNT_MAX):
            yield _message(parts, size, sync_id)
            parts, size = [], HEADER_BYTES
        parts.append(padded)
        size += len(padded)
    if parts:
        yield _message(parts, size, sync_id)


def _message(parts: list[bytes], size: int, sync_id: int) -> bytes:
    return _HEADER.pack(0, sync_id, size, len(parts), 1, 0) + b"".join(parts)


def decode(payload: bytes) -> tuple[int, list[Entry]]:
    """Sync id and connections of a whole message. Raises SyncError."""
    entries = [decode_entry(each.raw) for each in split(payload)]
    return payload[1], entries


def encode(entries: Iterable[Entry], sync_id: int, bytes_max: int = PAYLOAD_BYTES_MAX) -> list[bytes]:
    """The messages that carry these connections."""
    return list(join((encode_entry(each) for each in entries), sync_id, bytes_max))
