"""RFC 5880 sections 4.2 to 4.4 and 6.7: the five kinds of authentication."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.actors.bfd.auth import Authenticator, AuthType, Key
from holdfast.actors.bfd.packet import ControlPacket, PacketError, Reject, State, decode

PACKET = ControlPacket(
    state=State.UP,
    my_discriminator=1,
    your_discriminator=2,
    detect_mult=3,
    desired_min_tx_us=50_000,
    required_min_rx_us=50_000,
    authenticated=True,
)
KEY = Key(7, b"correct horse")
ALL = list(AuthType)
DIGESTS = [each for each in ALL if each is not AuthType.SIMPLE]
METICULOUS = [each for each in ALL if each.meticulous]
KEYED = [each for each in DIGESTS if not each.meticulous]


def pair(kind: AuthType, sequence: int = 100) -> tuple[Authenticator, Authenticator]:
    return Authenticator(kind, (KEY,), sequence), Authenticator(kind, (KEY,), 0)


def hear(receiver: Authenticator, data: bytes, *, recent: bool = True) -> None:
    packet, section = decode(data)
    receiver.check(data, packet, section, recent=recent)


def refused(receiver: Authenticator, data: bytes, *, recent: bool = True) -> Reject:
    with pytest.raises(PacketError) as raised:
        hear(receiver, data, recent=recent)
    return raised.value.reject


@pytest.mark.parametrize("kind", ALL)
def test_4_2_to_4_4_sealed_is_taken(kind: AuthType) -> None:
    sender, receiver = pair(kind)
    for _ in range(5):
        hear(receiver, sender.seal(PACKET))


def test_4_2_layout_of_the_password() -> None:
    sender, _ = pair(AuthType.SIMPLE)
    data = sender.seal(PACKET)
    assert data[3] == len(data) == 24 + 3 + len(KEY.secret)
    assert data[24:] == bytes([1, 3 + len(KEY.secret), 7]) + KEY.secret


@pytest.mark.parametrize("kind", DIGESTS)
def test_4_3_4_4_layout_of_the_digests(kind: AuthType) -> None:
    sender, _ = pair(kind)
    data = sender.seal(PACKET)
    width = 16 if kind in (AuthType.KEYED_MD5, AuthType.METICULOUS_MD5) else 20
    assert data[3] == len(data) == 24 + 8 + width
    assert data[24:28] == bytes([kind, 8 + width, 7, 0])
    assert int.from_bytes(data[28:32], "big") == 101
    # 6.7.3, 6.7.4: the key stands, padded with zeros, where the digest will be.
    whole = data[:32] + KEY.secret.ljust(width, b"\0")
    name = "md5" if width == 16 else "sha1"
    assert data[32:] == hashlib.new(name, whole).digest()


@pytest.mark.parametrize("kind", ALL)
def test_6_7_a_wrong_secret_is_refused(kind: AuthType) -> None:
    sender = Authenticator(kind, (Key(7, b"something else"),), 100)
    _, receiver = pair(kind)
    assert refused(receiver, sender.seal(PACKET)) is Reject.AUTH_DIGEST


@pytest.mark.parametrize("kind", ALL)
def test_6_7_an_unknown_key_id_is_refused(kind: AuthType) -> None:
    sender = Authenticator(kind, (Key(8, KEY.secret),), 100)
    _, receiver = pair(kind)
    assert refused(receiver, sender.seal(PACKET)) is Reject.AUTH_KEY


@pytest.mark.parametrize("kind", ALL)
def test_6_7_another_type_is_refused(kind: AuthType) -> None:
    other = next(each for each in ALL if each is not kind)
    sender = Authenticator(other, (KEY,), 100)
    _, receiver = pair(kind)
    assert refused(receiver, sender.seal(PACKET)) is Reject.AUTH_TYPE


@pytest.mark.parametrize("kind", DIGESTS)
def test_6_7_3_6_7_4_a_wrong_length_is_refused(kind: AuthType) -> None:
    sender, receiver = pair(kind)
    data = bytearray(sender.seal(PACKET))
    data[25] -= 1
    assert refused(receiver, bytes(data)) is Reject.AUTH_LENGTH


@pytest.mark.parametrize("size", [3, 20])
def test_6_7_2_a_password_has_1_to_16_bytes(size: int) -> None:
    _, receiver = pair(AuthType.SIMPLE)
    head = PACKET.encode(20)
    data = head + bytes([1, size, 7]) + bytes(17)
    assert refused(receiver, data) is Reject.AUTH_LENGTH


def test_a_section_longer_than_the_packet_is_refused() -> None:
    _, receiver = pair(AuthType.SIMPLE)
    data = PACKET.encode(5) + bytes([1, 12, 7, 0x61, 0x62])
    assert refused(receiver, data) is Reject.AUTH_LENGTH


@pytest.mark.parametrize("kind", DIGESTS)
@given(at=st.integers(0, 30), bit=st.integers(0, 7))
def test_no_changed_bit_is_taken(kind: AuthType, at: int, bit: int) -> None:
    sender, receiver = pair(kind)
    data = bytearray(sender.seal(PACKET))
    data[at] ^= 1 << bit
    try:
        hear(receiver, bytes(data))
    except PacketError:
        return
    raise AssertionError(f"bit {bit} of byte {at} does not matter")


@pytest.mark.parametrize("kind", METICULOUS)
def test_6_7_3_meticulous_numbers_go_up_by_one(kind: AuthType) -> None:
    sender, receiver = pair(kind)
    first, second = sender.seal(PACKET), sender.seal(PACKET)
    hear(receiver, first)
    assert refused(receiver, first) is Reject.AUTH_SEQUENCE
    hear(receiver, second)
    assert refused(receiver, first) is Reject.AUTH_SEQUENCE
    assert receiver.received_sequence == 102


@pytest.mark.parametrize("kind", KEYED)
def test_6_7_3_keyed_numbers_may_stay(kind: AuthType) -> None:
    sender, receiver = pair(kind)
    first, second = sender.seal(PACKET), sender.seal(PACKET)
    hear(receiver, first)
    hear(receiver, first)
    hear(receiver, second)
    assert refused(receiver, first) is Reject.AUTH_SEQUENCE


@pytest.mark.parametrize("kind", DIGESTS)
def test_6_7_3_the_window_is_three_multipliers(kind: AuthType) -> None:
    sender, receiver = pair(kind)
    hear(receiver, sender.seal(PACKET))
    sender.sequence += 3 * PACKET.detect_mult - 1
    hear(receiver, sender.seal(PACKET))
    sender.sequence += 3 * PACKET.detect_mult
    assert refused(receiver, sender.seal(PACKET)) is Reject.AUTH_SEQUENCE


@pytest.mark.parametrize("kind", DIGESTS)
def test_6_7_3_numbers_are_circular(kind: AuthType) -> None:
    sender, receiver = pair(kind, sequence=0xFFFFFFFE)
    for expected in (0xFFFFFFFF, 0, 1):
        hear(receiver, sender.seal(PACKET))
        assert receiver.received_sequence == expected


@pytest.mark.parametrize("kind", DIGESTS)
def test_6_8_1_after_long_silence_any_number_is_taken(kind: AuthType) -> None:
    sender, receiver = pair(kind)
    hear(receiver, sender.seal(PACKET))
    sender.sequence = 5
    late = sender.seal(PACKET)
    assert refused(receiver, late) is Reject.AUTH_SEQUENCE
    hear(receiver, late, recent=False)
    assert receiver.received_sequence == 6


@pytest.mark.parametrize("kind", DIGESTS)
def test_a_forged_packet_does_not_move_the_window(kind: AuthType) -> None:
    sender, receiver = pair(kind)
    forger = Authenticator(kind, (Key(7, b"guess"),), 4000)
    assert refused(receiver, forger.seal(PACKET)) is Reject.AUTH_DIGEST
    assert receiver.received_sequence is None
    hear(receiver, sender.seal(PACKET))


@pytest.mark.parametrize("kind", ALL)
def test_keys_are_changed_without_loss(kind: AuthType) -> None:
    new = Key(8, b"battery")
    sender = Authenticator(kind, (new, KEY), 100)
    old_sender, _ = pair(kind, sequence=101)
    receiver = Authenticator(kind, (KEY, new), 0)
    hear(receiver, sender.seal(PACKET))
    hear(receiver, old_sender.seal(PACKET))
