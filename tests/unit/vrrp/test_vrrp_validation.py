"""Which received adverts count, and which counter moves when they do not: keepalived's order of checks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vrrp_words import instance

from holdfast.actors.runtime.machine import S
from holdfast.actors.vrrp.config import AddressSpec, UnicastPeer, VrrpInstance
from holdfast.actors.vrrp.packet import (
    Advert,
    AdvertTemplate,
    PacketError,
    Reject,
    encode,
    instance_advert,
    packed,
    pseudo_header_sum,
)
from holdfast.actors.vrrp.validation import Datagram, Expectation, Notice, Verdict, comparison_key, split_ipv4

SOURCE = "192.0.2.1"
PEER = UnicastPeer(address=SOURCE)


def packet(sender: VrrpInstance, priority: int = 150, source: str = SOURCE, **template: Any) -> bytes:
    return bytes(AdvertTemplate(sender, source, **template).patch(priority)[0])


def judge(receiver: VrrpInstance, data: bytes, priority: int = 100, **more: Any) -> Verdict:
    return Expectation(receiver).validate(split_ipv4(data), priority, **more)


def refused(receiver: VrrpInstance, data: bytes, priority: int = 100) -> Reject:
    with pytest.raises(PacketError) as caught:
        judge(receiver, data, priority)
    assert str(caught.value)
    return caught.value.reject


def edited(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes((value,)) + data[at + 1 :]


def resealed(sender: VrrpInstance, **fields: Any) -> bytes:
    """An advert with other fields and a right checksum."""
    ready = packet(sender)
    advert = msgspec.structs.replace(instance_advert(sender, 150), **fields)
    size = 8 + 4 * len(advert.addresses) + (8 if advert.version == 2 else 0)
    pseudo = pseudo_header_sum(ready[12:16], ready[16:20], size) if advert.version == 3 else None
    message = encode(advert, pseudo=pseudo)
    header = ready[:2] + (20 + len(message)).to_bytes(2, "big") + ready[4:20]
    return header + message


def test_a_good_advert_is_a_fact() -> None:
    verdict = judge(instance(), packet(instance()))
    assert verdict.notices == ()
    assert verdict.advert.source == SOURCE
    assert verdict.advert.source_value == int.from_bytes(packed(SOURCE), "big")
    assert verdict.advert.priority == 150
    assert verdict.advert.interval == S
    assert not verdict.advert.address_mismatch


def test_version_2_says_no_interval() -> None:
    assert judge(instance(version=2), packet(instance(version=2))).advert.interval is None


def test_ipv6_adverts_count() -> None:
    receiver = instance(family=6, addresses=(AddressSpec(address="fe80::1", prefix=64),), mcast_group="ff02::12")
    message = bytes(AdvertTemplate(receiver, "fe80::2").patch(7)[0])
    datagram = Datagram(6, packed("fe80::2"), packed("ff02::12"), 255, message)
    assert Expectation(receiver).validate(datagram, 100).advert.source == "fe80::2"
    with pytest.raises(PacketError) as caught:
        Expectation(receiver).validate(msgspec.structs.replace(datagram, ttl=64), 100)
    assert caught.value.reject is Reject.TTL


@pytest.mark.parametrize("cut", [0, 5, 19, 20, 27])
def test_too_short_for_headers(cut: int) -> None:
    assert refused(instance(), packet(instance())[:cut]) is Reject.LENGTH


def test_the_length_is_exact() -> None:
    data = packet(instance())
    assert refused(instance(), data[:-1]) is Reject.LENGTH
    assert refused(instance(), edited(data, 23, 2)) is Reject.LENGTH
    long = packet(instance(addresses=tuple(AddressSpec(address=f"10.0.0.{n}", prefix=24) for n in range(1, 9))))
    assert refused(instance(), long + bytes(4)) is Reject.LENGTH


def test_the_padding_of_short_ethernet_frames_is_tolerated() -> None:
    """46 bytes of payload at least, 4 fewer for each VLAN tag."""
    data = packet(instance())
    assert len(data) == 32
    for padded in (46, 42, 38, 34):
        assert judge(instance(), data + bytes(padded - 32)).advert.priority == 150
    for wrong in (45, 43, 33, 50):
        assert refused(instance(), data + bytes(wrong - 32)) is Reject.LENGTH


def test_a_version_2_packet_without_its_auth_field_is_dropped() -> None:
    sender = instance(version=2)
    assert refused(sender, packet(sender)[:-8]) is Reject.LENGTH


def test_multicast_needs_ttl_255_even_when_not_strict() -> None:
    data = edited(packet(instance()), 8, 254)
    assert refused(instance(), data) is Reject.TTL


def test_unicast_ttl_is_unchecked() -> None:
    unicast = instance(unicast=True, peers=(PEER,))
    to_us = instance(unicast=True, peers=(UnicastPeer(address="192.0.2.5"),), unicast_ttl=3)
    assert judge(unicast, packet(to_us)).advert.priority == 150


def test_unicast_ttl_range_of_a_peer_switches_source_checking_on() -> None:
    receiver = instance(unicast=True, peers=(UnicastPeer(address=SOURCE, min_ttl=250, max_ttl=254),))
    to_us = (UnicastPeer(address="192.0.2.5"),)
    for ttl, good in ((250, True), (254, True), (249, False), (255, False)):
        data = packet(instance(unicast=True, peers=to_us, unicast_ttl=ttl))
        if good:
            assert judge(receiver, data).advert.priority == 150
        else:
            assert refused(receiver, data) is Reject.TTL
    stranger = packet(instance(unicast=True, peers=to_us, unicast_ttl=254), source="192.0.2.66")
    assert refused(receiver, stranger) is Reject.SOURCE


def test_unicast_source_is_checked_only_when_asked() -> None:
    sender = instance(unicast=True, peers=(UnicastPeer(address="192.0.2.5"),))
    data = packet(sender, source="192.0.2.66")
    assert judge(instance(unicast=True, peers=(PEER,)), data).advert.source == "192.0.2.66"
    assert refused(instance(unicast=True, peers=(PEER,), check_unicast_src=True), data) is Reject.SOURCE


def test_versions_do_not_mix() -> None:
    assert refused(instance(), packet(instance(version=2))) is Reject.VERSION
    assert refused(instance(version=2), packet(instance())) is Reject.VERSION


def test_authentication_of_version_2() -> None:
    """0 against 1 is a mismatch; PASS compares all eight bytes."""
    plain = instance(version=2)
    secret = instance(version=2, auth_type="pass", auth_pass=b"secret")
    assert judge(secret, packet(secret)).advert.priority == 150
    assert refused(secret, packet(plain)) is Reject.AUTH_MISMATCH
    assert refused(plain, packet(secret)) is Reject.AUTH_MISMATCH
    other = instance(version=2, auth_type="pass", auth_pass=b"secret!")
    assert refused(secret, packet(other)) is Reject.AUTH_FAILURE
    assert refused(plain, resealed(plain, auth_type=9)) is Reject.AUTH_TYPE
    cut = instance(version=2, auth_type="pass", auth_pass=b"12345678")
    longer = instance(version=2, auth_type="pass", auth_pass=b"123456789")
    assert judge(cut, packet(longer)).advert.priority == 150


def test_interval_mismatch_drops_version_2_and_is_noted_for_version_3() -> None:
    two = packet(instance(version=2, advert_interval_us=2_000_000))
    assert refused(instance(version=2), two) is Reject.INTERVAL
    verdict = judge(instance(), packet(instance(advert_interval_us=2_000_000)))
    assert verdict.notices == (Notice.INTERVAL,)
    assert verdict.advert.interval == 2 * S


def test_only_advertisements_count() -> None:
    """RFC 9568 5.2.2: a packet with unknown type is discarded."""
    assert refused(instance(), resealed(instance(), type=2)) is Reject.TYPE


def test_total_length_of_the_ip_header() -> None:
    data = packet(instance())
    assert refused(instance(), data[:2] + (64).to_bytes(2, "big") + data[4:]) is Reject.LENGTH


@pytest.mark.parametrize("version", [2, 3])
def test_checksum(version: int) -> None:
    data = packet(instance(version=version))
    assert refused(instance(version=version), edited(data, 26, data[26] ^ 1)) is Reject.CHECKSUM


def test_checksum_as_v2_rejects_no_checksum() -> None:
    receiver = instance(checksum_as_v2=True)
    data = packet(instance())
    assert judge(receiver, edited(data, 26, data[26] ^ 1)).advert.priority == 150


def test_old_unicast_checksum_is_detected_once() -> None:
    """keepalived sends the old form too after it has seen it; with `never` the packet is refused."""
    peers = (UnicastPeer(address="192.0.2.5"),)
    old = packet(instance(unicast=True, peers=peers), old_checksum=True)
    new = packet(instance(unicast=True, peers=peers))
    auto = Expectation(instance(unicast=True, peers=(PEER,)))
    assert auto.validate(split_ipv4(new), 100).notices == ()
    assert not auto.old_checksum_seen
    assert auto.validate(split_ipv4(old), 100).notices == (Notice.OLD_CHECKSUM,)
    assert auto.old_checksum_seen
    assert auto.validate(split_ipv4(old), 100).notices == ()
    assert auto.validate(split_ipv4(new), 100).notices == ()
    assert refused(instance(unicast=True, peers=(PEER,), old_unicast_checksum=False), old) is Reject.CHECKSUM
    asked = instance(unicast=True, peers=(PEER,), old_unicast_checksum=True)
    assert judge(asked, old).notices == ()
    assert refused(asked, new) is Reject.CHECKSUM


def test_unicast_and_multicast_do_not_mix() -> None:
    unicast = instance(unicast=True, peers=(UnicastPeer(address="192.0.2.5"),))
    assert refused(unicast, packet(instance())) is Reject.DESTINATION
    assert refused(instance(), packet(unicast)) is Reject.DESTINATION


def test_owner_ignore_adverts() -> None:
    receiver = instance(priority=255, owner_ignore_adverts=True)
    assert refused(receiver, packet(instance()), priority=255) is Reject.OWNER
    assert judge(receiver, packet(instance()), priority=254).advert.priority == 150


def test_another_address_list_is_noted_never_dropped() -> None:
    """keepalived 2.4 logs and counts (RFC 9568 7.1: MAY); 2.2.7 drops another count, which makes two masters."""
    more = instance(addresses=(AddressSpec(address="10.0.0.1", prefix=24), AddressSpec(address="10.0.0.2", prefix=24)))
    other = instance(addresses=(AddressSpec(address="10.0.0.9", prefix=24),))
    verdict = judge(instance(), packet(more))
    assert verdict.notices == (Notice.ADDRESS_LIST,)
    assert verdict.differing == ("10.0.0.2",)
    assert verdict.advert.address_mismatch
    assert judge(instance(), packet(other)).differing == ("10.0.0.1", "10.0.0.9")
    assert judge(instance(), packet(other), check_addresses=False).notices == ()


def test_the_order_of_addresses_does_not_matter() -> None:
    one, two = AddressSpec(address="10.0.0.1", prefix=24), AddressSpec(address="10.0.0.2", prefix=24)
    assert judge(instance(addresses=(one, two)), packet(instance(addresses=(two, one)))).notices == ()


def test_excluded_addresses_are_not_in_the_advert() -> None:
    excluded = instance(excluded_addresses=(AddressSpec(address="10.9.9.9", prefix=24),))
    assert judge(instance(), packet(excluded)).notices == ()


def test_the_first_thing_wrong_is_the_one_counted() -> None:
    """Length before TTL before version before authentication before interval before type before checksum."""
    plain = instance(version=2)
    everything = edited(edited(packet(instance(version=2, advert_interval_us=5_000_000)), 8, 1), 26, 1)
    assert refused(plain, everything + b"\0") is Reject.LENGTH
    assert refused(plain, everything) is Reject.TTL
    everything = edited(everything, 8, 255)
    assert refused(instance(), everything) is Reject.VERSION
    assert refused(instance(version=2, auth_type="pass", auth_pass=b"x"), everything) is Reject.AUTH_MISMATCH
    assert refused(plain, edited(everything, 20, 0x25)) is Reject.INTERVAL
    same = instance(version=2, advert_interval_us=5_000_000)
    assert refused(same, edited(everything, 20, 0x25)) is Reject.TYPE
    assert refused(same, everything) is Reject.CHECKSUM


def test_equal_bytes_but_for_id_and_header_checksum_have_one_key() -> None:
    template = AdvertTemplate(instance(), SOURCE)
    first, second = template.snapshot(100)[0], template.snapshot(100)[0]
    assert first != second
    assert comparison_key(first) == comparison_key(second)
    assert comparison_key(first) != comparison_key(template.snapshot(99)[0])
    assert comparison_key(first) != comparison_key(edited(first, 8, 254))
    assert comparison_key(first[20:], 6) == first[20:]


@given(st.binary(max_size=96))
def test_any_bytes_are_judged(data: bytes) -> None:
    try:
        judge(instance(), data)
    except PacketError as error:
        assert isinstance(error.reject, Reject)


@given(st.data())
def test_mutated_adverts_are_judged(data: st.DataObject) -> None:
    version = data.draw(st.sampled_from((2, 3)))
    sample = bytearray(packet(instance(version=version)))
    for _ in range(data.draw(st.integers(1, 4))):
        sample[data.draw(st.integers(0, len(sample) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(sample)))
    try:
        verdict = judge(instance(version=version), bytes(sample[:cut]))
    except PacketError as error:
        assert isinstance(error.reject, Reject)
    else:
        assert 0 <= verdict.advert.priority <= 255


def test_a_struct_of_an_advert_keeps_its_checksum_apart() -> None:
    advert = Advert(version=3, vrid=1, priority=1, interval_cs=100, addresses=(packed("10.0.0.1"),))
    assert advert.checksum == 0
    assert encode(advert)[6:8] != b"\0\0"
