"""RFC 5880 section 4: bytes to value and back, and every reason of section 6.8.6 to discard before the look-up."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.actors.bfd.packet import (
    ControlPacket,
    Diagnostic,
    PacketError,
    Reject,
    State,
    decode,
    diagnostic_word,
)

# As FRR's bfdd sent it: version 1, diag 0, Up, no flags, mult 3, length 24, 50 ms both ways, no echo.
SAMPLE = bytes.fromhex("20c00318 1a2b3c4d 5e6f7081 0000c350 0000c350 00000000".replace(" ", ""))
SAMPLE_VALUE = ControlPacket(
    state=State.UP,
    my_discriminator=0x1A2B3C4D,
    your_discriminator=0x5E6F7081,
    detect_mult=3,
    desired_min_tx_us=50_000,
    required_min_rx_us=50_000,
)
U32 = st.integers(0, 0xFFFFFFFF)


def changed(at: int, value: int) -> bytes:
    return SAMPLE[:at] + bytes([value]) + SAMPLE[at + 1 :]


def test_a_sample_is_read_and_written() -> None:
    assert decode(SAMPLE) == (SAMPLE_VALUE, b"")
    assert SAMPLE_VALUE.encode() == SAMPLE


@pytest.mark.parametrize(
    ("name", "bit"),
    [
        ("poll", 0x20),
        ("final", 0x10),
        ("control_plane_independent", 0x08),
        ("demand", 0x02),
    ],
)
def test_each_flag_has_its_bit(name: str, bit: int) -> None:
    packet, _ = decode(changed(1, 0xC0 | bit))
    assert getattr(packet, name) is True
    assert packet.encode() == changed(1, 0xC0 | bit)


@pytest.mark.parametrize("state", list(State))
def test_each_state_has_its_number(state: State) -> None:
    assert decode(changed(1, state << 6))[0].state is state


def test_reserved_diagnostics_are_taken_and_named() -> None:
    # Section 4.1: 9-31 are reserved for future use, which is no reason to discard.
    packet, _ = decode(changed(0, 0x20 | 31))
    assert packet.diagnostic == 31
    assert diagnostic_word(31) == "Reserved (31)"
    assert diagnostic_word(Diagnostic.DETECTION_TIME_EXPIRED) == "Control Detection Time Expired"


def test_bytes_after_length_are_ignored() -> None:
    # Section 6.8.6 discards only if Length is greater than the payload.
    assert decode(SAMPLE + b"trailing")[0] == SAMPLE_VALUE


@pytest.mark.parametrize(
    ("data", "reject"),
    [
        (b"", Reject.LENGTH),
        (SAMPLE[:23], Reject.LENGTH),
        (changed(0, 0x00), Reject.VERSION),
        (changed(0, 0x40), Reject.VERSION),
        (b"\x40", Reject.VERSION),
        (changed(3, 23), Reject.LENGTH),
        (changed(3, 25), Reject.LENGTH),
        (changed(1, 0xC4), Reject.LENGTH),
        (changed(2, 0), Reject.MULTIPLIER),
        (changed(1, 0xC1), Reject.MULTIPOINT),
        (changed(1, 0xF0), Reject.POLL_AND_FINAL),
        (SAMPLE[:4] + bytes(4) + SAMPLE[8:], Reject.MY_DISCRIMINATOR),
        (SAMPLE[:8] + bytes(4) + SAMPLE[12:], Reject.STATE_WITHOUT_DISCRIMINATOR),
        (changed(1, 0x80)[:8] + bytes(4) + SAMPLE[12:], Reject.STATE_WITHOUT_DISCRIMINATOR),
    ],
)
def test_what_the_rfc_discards_has_its_reason(data: bytes, reject: Reject) -> None:
    with pytest.raises(PacketError) as raised:
        decode(data)
    assert raised.value.reject is reject
    assert str(raised.value).startswith(reject.value)


@pytest.mark.parametrize("state", [State.ADMIN_DOWN, State.DOWN])
def test_no_discriminator_is_fine_while_down(state: State) -> None:
    data = changed(1, state << 6)[:8] + bytes(4) + SAMPLE[12:]
    assert decode(data)[0].your_discriminator == 0


def test_the_authentication_section_is_handed_over() -> None:
    data = bytes([0x20, 0xC4, 3, 24 + 5]) + SAMPLE[4:] + b"\x01\x05\x07pw" + b"after"
    packet, section = decode(data)
    assert packet.authenticated
    assert section == b"\x01\x05\x07pw"


@given(st.binary(max_size=80))
def test_any_bytes_give_a_packet_or_a_reason(data: bytes) -> None:
    try:
        packet, section = decode(data)
    except PacketError as error:
        assert error.reject in Reject
    else:
        assert packet.encode(len(section)) == data[:24]


@given(
    st.builds(
        ControlPacket,
        state=st.sampled_from(State),
        my_discriminator=st.integers(1, 0xFFFFFFFF),
        your_discriminator=st.integers(1, 0xFFFFFFFF),
        detect_mult=st.integers(1, 255),
        desired_min_tx_us=U32,
        required_min_rx_us=U32,
        required_min_echo_rx_us=U32,
        diagnostic=st.integers(0, 31),
        final=st.booleans(),
        control_plane_independent=st.booleans(),
        demand=st.booleans(),
    )
)
def test_what_is_written_is_read_back(packet: ControlPacket) -> None:
    assert decode(packet.encode()) == (packet, b"")


def test_the_layout_against_another_reading() -> None:
    # Field by field with plain shifts, so that a mistake in the Struct format cannot hide in both directions.
    words = struct.unpack("!6I", SAMPLE_VALUE.encode())
    assert words[0] >> 29 == 1
    assert words[0] >> 24 & 0x1F == 0
    assert words[0] >> 22 & 0x3 == State.UP
    assert words[0] >> 8 & 0xFF == 3
    assert words[0] & 0xFF == 24
    assert words[1:] == (0x1A2B3C4D, 0x5E6F7081, 50_000, 50_000, 0)
