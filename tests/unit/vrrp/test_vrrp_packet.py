"""Adverts as bytes: samples of keepalived 2.2.7 (captured on a veth pair), templates, properties."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vrrp_words import instance

from holdfast.actors.vrrp.config import AddressSpec, UnicastPeer, VrrpInstance
from holdfast.actors.vrrp.packet import (
    AUTH_NONE,
    AUTH_PASS,
    Advert,
    AdvertTemplate,
    PacketError,
    Reject,
    auth_data,
    checksum,
    decode,
    destinations_of,
    encode,
    expected_bytes,
    ones_complement_sum,
    packed,
    packet_vrid,
    pseudo_header_sum,
)


def addresses(*texts: str) -> tuple[AddressSpec, ...]:
    return tuple(AddressSpec(address=text, prefix=64 if ":" in text else 24) for text in texts)


# Sent by keepalived 2.2.7 with IP header (IPv4) or as the message alone (IPv6), from 192.0.2.1 or fe80::9865...
KEEPALIVED: dict[str, tuple[VrrpInstance, str, str]] = {
    "v2": (
        instance(version=2, vrid=2, addresses=addresses("10.0.0.1", "10.0.0.2")),
        "192.0.2.1",
        "45c0002c00010000ff70188dc0000201e0000012210296020001 34f70a0000010a0000020000000000000000",
    ),
    "v2 PASS": (
        instance(version=2, vrid=3, addresses=addresses("10.0.3.1"), auth_type="pass", auth_pass=b"secret"),
        "192.0.2.1",
        "45c0002800010000ff701891c0000201e0000012210396010101feac0a0003017365637265740000",
    ),
    "v3 0.5 s": (
        instance(vrid=4, addresses=addresses("10.0.4.1"), advert_interval_us=500_000),
        "192.0.2.1",
        "45c0002000010000ff701899c0000201e0000012310496010032 88360a000401",
    ),
    "v3 unicast": (
        instance(vrid=5, addresses=addresses("10.0.5.1"), unicast=True, peers=(UnicastPeer(address="192.0.2.2"),)),
        "192.0.2.1",
        "45c0002000010000ff7036a9c0000201c0000202310596010064a5130a000501",
    ),
    "v3 IPv6": (
        instance(vrid=6, family=6, addresses=addresses("fe80::6:1", "2001:db8::6:1"), mcast_group="ff02::12"),
        "fe80::9865:c1ff:feb2:d587",
        "310696020064df7cfe800000000000000000000000060001 20010db8000000000000000000060001",
    ),
}


@pytest.mark.parametrize("name", KEEPALIVED)
def test_our_advert_is_byte_for_byte_keepalived_s(name: str) -> None:
    instance_, source, sample = KEEPALIVED[name]
    template = AdvertTemplate(instance_, source)
    assert [bytes(buffer).hex() for buffer in template.patch(150)] == [sample.replace(" ", "")]


@pytest.mark.parametrize("name", KEEPALIVED)
def test_keepalived_s_advert_decodes_to_what_it_was_told(name: str) -> None:
    instance_, _, sample = KEEPALIVED[name]
    packet = bytes.fromhex(sample.replace(" ", ""))
    advert = decode(packet[20:] if instance_.family == 4 else packet, instance_.family)
    assert (advert.version, advert.vrid, advert.priority) == (instance_.version, instance_.vrid, 150)
    assert [str(ipaddress.ip_address(each)) for each in advert.addresses] == [a.address for a in instance_.addresses]
    assert advert.interval_cs == instance_.advert_interval_us // 10_000
    assert advert.auth_type == (AUTH_PASS if instance_.auth_pass else AUTH_NONE)
    assert advert.auth_data == instance_.auth_pass.ljust(8, b"\0")


def test_each_unicast_peer_has_its_own_checksum() -> None:
    peers = (UnicastPeer(address="192.0.2.2"), UnicastPeer(address="192.0.2.3"))
    template = AdvertTemplate(instance(unicast=True, peers=peers), "192.0.2.1")
    first, second = template.patch(100)
    assert template.destinations == (packed("192.0.2.2"), packed("192.0.2.3"))
    assert first[16:20] == packed("192.0.2.2")
    assert first[26:28] != second[26:28]
    for buffer in (first, second):
        assert _verifies(bytes(buffer))


def test_old_unicast_checksum_has_the_group_in_its_pseudo_header() -> None:
    peers = (UnicastPeer(address="192.0.2.2"), UnicastPeer(address="192.0.2.3"))
    for template in (
        AdvertTemplate(instance(unicast=True, peers=peers, old_unicast_checksum=True), "192.0.2.1"),
        AdvertTemplate(instance(unicast=True, peers=peers), "192.0.2.1", old_checksum=True),
    ):
        first, second = template.patch(100)
        assert first[20:] == second[20:]
        total = ones_complement_sum(first[20:]) + pseudo_header_sum(packed("192.0.2.1"), packed("224.0.0.18"), 12)
        assert total % 0xFFFF == 0


def test_checksum_as_v2_leaves_the_pseudo_header_out() -> None:
    (packet,) = AdvertTemplate(instance(checksum_as_v2=True), "192.0.2.1").patch(100)
    assert ones_complement_sum(packet[20:]) == 0


def test_the_id_grows_by_one_an_advert_and_is_never_0() -> None:
    template = AdvertTemplate(instance(), "192.0.2.1", first_id=0xFFFD)
    ids = [int.from_bytes(template.patch(100)[0][4:6], "big") for _ in range(4)]
    assert ids == [0xFFFE, 0xFFFF, 1, 2]
    assert template.last_id == 2


def test_the_ip_header_is_what_the_rfc_asks_for() -> None:
    """RFC 9568 5.1.1: multicast group, TTL 255, protocol 112; TOS is keepalived's, network control."""
    (packet,) = AdvertTemplate(instance(), "192.0.2.1").patch(100)
    assert packet[0] == 0x45
    assert packet[1] == 0xC0
    assert int.from_bytes(packet[2:4], "big") == len(packet)
    assert packet[6:10] == bytes((0, 0, 255, 112))
    assert ones_complement_sum(packet[:20]) == 0
    assert packet[16:20] == packed("224.0.0.18")


def test_unicast_ttl_is_obeyed() -> None:
    peers = (UnicastPeer(address="192.0.2.2"),)
    (packet,) = AdvertTemplate(instance(unicast=True, peers=peers, unicast_ttl=3), "192.0.2.1").patch(100)
    assert packet[8] == 3


def test_snapshots_do_not_change_with_the_next_advert() -> None:
    template = AdvertTemplate(instance(), "192.0.2.1")
    (first,) = template.snapshot(100)
    template.patch(0)
    assert first[22] == 100
    assert _verifies(first)


@given(priorities=st.lists(st.integers(0, 255), min_size=1, max_size=20), version=st.sampled_from((2, 3)))
def test_patching_never_spoils_a_checksum(priorities: list[int], version: int) -> None:
    peers = (UnicastPeer(address="192.0.2.2"), UnicastPeer(address="198.51.100.77"))
    template = AdvertTemplate(instance(version=version, unicast=True, peers=peers), "192.0.2.1")
    for priority in priorities:
        for buffer in template.patch(priority):
            assert buffer[22] == priority
            assert ones_complement_sum(buffer[:20]) == 0
            assert _verifies(bytes(buffer))


def test_the_auth_field_is_eight_bytes() -> None:
    """RFC 2338 5.3.10: left-justified and zero-filled; keepalived cuts longer passwords."""
    assert auth_data(b"secret") == b"secret\0\0"
    assert auth_data(b"much too long") == b"much too"


def test_lengths() -> None:
    assert expected_bytes(2, 1, 4) == 8 + 4 + 8
    assert expected_bytes(3, 2, 4) == 8 + 8
    assert expected_bytes(2, 1, 6) == expected_bytes(3, 1, 6) == 8 + 16


def test_vrid_of_a_packet() -> None:
    assert packet_vrid(bytes.fromhex("3104960100328836")) == 4
    assert packet_vrid(b"\x31\x04") is None


def test_destinations() -> None:
    assert list(destinations_of(instance())) == ["224.0.0.18"]
    assert list(destinations_of(instance(unicast=True, peers=(UnicastPeer(address="192.0.2.2"),)))) == ["192.0.2.2"]


@pytest.mark.parametrize(
    ("message", "reject"),
    [
        ("", Reject.LENGTH),
        ("31049601003288", Reject.LENGTH),
        ("3104960100328836", Reject.LENGTH),
        ("31049601003288360a00040100", Reject.LENGTH),
        ("11049600003288360a000401", Reject.VERSION),
        ("41049600003288360a000401", Reject.VERSION),
        ("21029601000134f70a000001", Reject.LENGTH),
    ],
)
def test_malformed_messages_have_their_reason(message: str, reject: Reject) -> None:
    with pytest.raises(PacketError) as caught:
        decode(bytes.fromhex(message), 4)
    assert caught.value.reject is reject
    assert reject.name in str(caught.value)


@given(st.binary(max_size=80), st.sampled_from((4, 6)))
def test_any_bytes_are_an_advert_or_a_packet_error(message: bytes, family: int) -> None:
    try:
        advert = decode(message, family)
    except PacketError as error:
        assert isinstance(error.reject, Reject)
    else:
        assert len(advert.addresses) == message[3]


@st.composite
def adverts(draw: st.DrawFn) -> tuple[Advert, int]:
    """Everything that can be encoded."""
    version = draw(st.sampled_from((2, 3)))
    family = draw(st.sampled_from((4, 6)))
    size = 4 if family == 4 else 16
    count = draw(st.integers(0 if family == 4 else 1, 5))
    plain = version == 3 or family == 6
    advert = Advert(
        version=version,
        vrid=draw(st.integers(1, 255)),
        priority=draw(st.integers(0, 255)),
        interval_cs=draw(st.integers(0, 4095)) if version == 3 else draw(st.integers(0, 255)) * 100,
        addresses=tuple(draw(st.binary(min_size=size, max_size=size)) for _ in range(count)),
        auth_type=0 if plain else draw(st.integers(0, 2)),
        auth_data=bytes(8) if plain else draw(st.binary(min_size=8, max_size=8)),
    )
    return advert, family


@given(adverts(), st.integers(0, 0xFFFF))
def test_decode_undoes_encode(case: tuple[Advert, int], pseudo: int) -> None:
    advert, family = case
    message = encode(advert, pseudo=pseudo)
    got = decode(message, family)
    assert (ones_complement_sum(message) + pseudo) % 0xFFFF == 0
    for field in ("version", "vrid", "priority", "interval_cs", "addresses", "auth_type", "auth_data", "type"):
        assert getattr(got, field) == getattr(advert, field), field


@given(st.binary(min_size=2, max_size=61))
def test_the_sum_is_that_of_rfc_1071(data: bytes) -> None:
    """RFC 1071 section 1: 16-bit one's complement sum with carries folded in; odd bytes padded with zero."""
    padded = data + b"\0" * (len(data) % 2)
    total = 0
    for at in range(0, len(padded), 2):
        total += int.from_bytes(padded[at : at + 2], "big")
        total = (total & 0xFFFF) + (total >> 16)
    assert ones_complement_sum(data) % 0xFFFF == total % 0xFFFF
    assert (checksum(ones_complement_sum(data)) + total) % 0xFFFF == 0


def _verifies(packet: bytes) -> bool:
    message = packet[20:]
    pseudo = pseudo_header_sum(packet[12:16], packet[16:20], len(message)) if message[0] >> 4 == 3 else 0
    return (ones_complement_sum(message) + pseudo) % 0xFFFF == 0
