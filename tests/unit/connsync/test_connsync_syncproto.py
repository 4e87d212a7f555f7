"""Sync messages: bytes and values, both ways, and what is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.actors.connsync import payload
from holdfast.actors.connsync.syncproto import (
    COUNT_MAX,
    FLAG_SEQUENCES,
    Entry,
    Reject,
    SyncError,
    decode,
    decode_entry,
    encode,
    encode_entry,
    join,
    raw_entry,
    split,
)

# What Linux 6.1's master daemon sent for one established connection through NAT, and then its end.
FROM_KERNEL = bytes.fromhex(
    "0051002c01010000"  # id 81, 44 bytes, 1 connection, version 1
    "00060024000000000001b482005000500000000000000384"
    "0a02000a0a0200640a03000b"
)


def entry(**changes: object) -> Entry:
    """An established TCP connection."""
    fields: dict[str, object] = {
        "protocol": 6,
        "client": bytes((10, 2, 0, 10)),
        "client_port": 0xB482,
        "virtual": bytes((10, 2, 0, 100)),
        "virtual_port": 80,
        "destination": bytes((10, 3, 0, 11)),
        "destination_port": 80,
        "state": 1,
        "timeout_s": 900,
    }
    return Entry(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_message_of_the_kernel() -> None:
    assert decode(FROM_KERNEL) == (81, [entry()])
    assert encode([entry()], 81) == [FROM_KERNEL]


def test_ipv6_sequence_numbers_and_engine() -> None:
    value = entry(
        client=bytes(range(16)),
        virtual=bytes(range(16, 32)),
        destination=bytes(range(32, 48)),
        flags=FLAG_SEQUENCES,
        sequences=(1, 2, 3, 4, 5, 6),
        engine="sip",
        engine_data=b"call-1",
    )
    (message,) = encode([value], 0)
    assert decode(message) == (0, [value])
    raw = encode_entry(value)
    assert raw[0] == 1
    assert len(raw) == 72 + 26 + 8 + 5
    assert len(message) == 8 + len(raw) + -len(raw) % 4


def test_padding_is_in_the_message_and_not_in_the_entry() -> None:
    odd = entry(engine="a")
    (message,) = encode([odd, entry()], 1)
    assert len(encode_entry(odd)) == 39
    assert len(message) == 8 + 40 + 36
    assert decode(message)[1] == [odd, entry()]


def test_messages_are_cut_by_size_and_by_count() -> None:
    raws = [encode_entry(entry(client_port=port)) for port in range(1000)]
    frames = list(join(raws, 7))
    assert all(len(each) <= 1472 for each in frames)
    assert [each[4] for each in frames][:2] == [40, 40]
    assert [each.raw for message in frames for each in split(message)] == raws
    large = list(join(raws, 7, 65000))
    assert [each[4] for each in large] == [COUNT_MAX] * 3 + [235]


def test_the_key_is_the_connection_not_its_state() -> None:
    first = raw_entry(encode_entry(entry()))
    assert raw_entry(encode_entry(entry(state=4, timeout_s=1, flags=0x100, destination_port=81))).key == first.key
    assert raw_entry(encode_entry(entry(client_port=1))).key != first.key
    assert raw_entry(encode_entry(entry(protocol=17))).key != first.key
    assert raw_entry(encode_entry(entry(flags=0x1000))).key != first.key
    assert first.virtual == bytes((10, 2, 0, 100))


@pytest.mark.parametrize(
    ("change", "reject"),
    [
        (lambda data: data[:7], Reject.SHORT),
        (lambda data: b"\1" + data[1:], Reject.VERSION),
        (lambda data: data[:5] + b"\2" + data[6:], Reject.VERSION),
        (lambda data: data[:6] + b"\0\1" + data[8:], Reject.VERSION),
        (lambda data: data + b"\0", Reject.SIZE),
        (lambda data: data[:4] + b"\2" + data[5:], Reject.SHORT),
        (lambda data: data[:8] + b"\2" + data[9:], Reject.ENTRY),
        (lambda data: data[:10] + b"\x10\x24" + data[12:], Reject.ENTRY),
        (lambda data: data[:10] + b"\x00\x20" + data[12:], Reject.ENTRY),
        (lambda data: data[:10] + b"\x00\x40" + data[12:], Reject.SHORT),
    ],
)
def test_what_is_no_message_is_refused_with_its_reason(change: object, reject: Reject) -> None:
    with pytest.raises(SyncError) as caught:
        decode(change(FROM_KERNEL))  # type: ignore[operator]
    assert caught.value.reject is reject


@pytest.mark.parametrize(
    "options",
    [b"\1", b"\1\0", b"\1\x18" + bytes(23), b"\1\4abcd", b"\2\1a\2\1b", b"\5\1a", b"\3\x11" + b"n" * 17],
)
def test_options_that_the_kernel_drops_are_refused(options: bytes) -> None:
    raw = encode_entry(entry())
    raw = raw[:2] + struct.pack("!H", len(raw) + len(options)) + raw[4:] + options
    with pytest.raises(SyncError) as caught:
        decode_entry(raw)
    assert caught.value.reject is Reject.OPTION


def test_an_unknown_option_that_may_be_skipped_is() -> None:
    raw = encode_entry(entry())
    raw = raw[:2] + struct.pack("!H", len(raw) + 3) + raw[4:] + b"\x45\1x"
    assert decode_entry(raw) == entry()


@pytest.mark.parametrize(
    "wrong",
    [
        entry(client=bytes(16)),
        entry(client=bytes(3), virtual=bytes(3), destination=bytes(3)),
        entry(flags=FLAG_SEQUENCES),
        entry(engine="x" * 17),
        entry(engine_data=bytes(256)),
        entry(virtual_port=70000),
    ],
)
def test_what_no_message_can_carry_is_not_encoded(wrong: Entry) -> None:
    with pytest.raises(ValueError, match=r".+"):
        encode_entry(wrong)


@given(st.binary(max_size=300))
def test_any_bytes_give_values_or_a_reason(data: bytes) -> None:
    for whole in (data, FROM_KERNEL[:6] + data, b"\0\1" + struct.pack("!HBBH", 8 + len(data), 3, 1, 0) + data):
        try:
            decode(whole)
        except SyncError as error:
            assert error.reject in Reject


@given(
    st.builds(
        Entry,
        protocol=st.integers(0, 255),
        client=st.binary(min_size=4, max_size=4),
        client_port=st.integers(0, 65535),
        virtual=st.binary(min_size=4, max_size=4),
        virtual_port=st.integers(0, 65535),
        destination=st.binary(min_size=4, max_size=4),
        destination_port=st.integers(0, 65535),
        state=st.integers(0, 65535),
        flags=st.integers(0, 0xFFFFFFFF).map(lambda flags: flags & ~FLAG_SEQUENCES),
        fwmark=st.integers(0, 0xFFFFFFFF),
        timeout_s=st.integers(0, 0xFFFFFFFF),
        engine=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=16),
        engine_data=st.binary(max_size=255),
    )
)
def test_every_value_comes_back(value: Entry) -> None:
    assert decode_entry(encode_entry(value)) == value


# --- between nodes ---------------------------------------------------------------------------------------------------


def test_many_entries_are_compressed_and_few_are_not() -> None:
    one = encode_entry(entry())
    assert payload.pack([one]) == (payload.PLAIN, one)
    raws = [encode_entry(entry(client_port=port)) for port in range(2048)]
    encoding, data = payload.pack(raws)
    assert encoding == payload.ZLIB
    assert len(data) < 10 * len(raws)
    assert [each.raw for each in payload.unpack(encoding, data)] == raws


def test_what_does_not_shrink_stays_plain() -> None:
    noise = bytes(range(256)) * 2
    assert payload.pack([bytes(reversed(noise[index:])) for index in range(1)])[0] == payload.ZLIB
    import random

    assert payload.pack([random.Random(1).randbytes(4000)])[0] == payload.PLAIN


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("zstd", b""),
        (payload.ZLIB, b"nonsense"),
        (payload.PLAIN, b"\0"),
        (payload.PLAIN, b"\0\6\0\0" + bytes(40)),
        (payload.PLAIN, encode_entry(entry())[:-1]),
    ],
)
def test_a_payload_that_is_none_is_refused(encoding: str, data: bytes) -> None:
    with pytest.raises(SyncError):
        payload.unpack(encoding, data)


def test_a_small_payload_that_would_grow_without_end_is_refused() -> None:
    import zlib

    with pytest.raises(SyncError):
        payload.unpack(payload.ZLIB, zlib.compress(bytes(50_000_000), 9))
