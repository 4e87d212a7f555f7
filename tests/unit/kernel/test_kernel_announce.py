"""Announcements, byte by byte as scapy reads them."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from holdfast.kernel.announce import FrameBatch, advertisement_frame, arp_frame

MAC = bytes.fromhex("02aabbccddee")
MAC_TEXT = "02:aa:bb:cc:dd:ee"


def test_gratuitous_arp() -> None:
    frame = Ether(arp_frame(MAC, "10.1.2.3"))
    assert (frame.dst, frame.src, frame.type) == ("ff:ff:ff:ff:ff:ff", MAC_TEXT, 0x0806)
    arp = frame[ARP]
    assert (arp.hwtype, arp.ptype, arp.hwlen, arp.plen, arp.op) == (1, 0x0800, 6, 4, 1)
    assert (arp.hwsrc, arp.psrc) == (MAC_TEXT, "10.1.2.3")
    assert (arp.hwdst, arp.pdst) == ("ff:ff:ff:ff:ff:ff", "10.1.2.3")


def test_neighbour_advertisement() -> None:
    frame = Ether(advertisement_frame(MAC, "fd00::7", router=True))
    assert (frame.dst, frame.src, frame.type) == ("33:33:00:00:00:01", MAC_TEXT, 0x86DD)
    packet = frame[IPv6]
    assert (packet.src, packet.dst, packet.hlim, packet.nh) == ("fd00::7", "ff02::1", 255, 58)
    advert = packet[ICMPv6ND_NA]
    assert (advert.R, advert.S, advert.O, advert.tgt) == (1, 0, 1, "fd00::7")
    assert packet[ICMPv6NDOptDstLLAddr].lladdr == MAC_TEXT


@given(st.ip_addresses(v=6), st.binary(min_size=6, max_size=6), st.booleans())
def test_the_checksum_is_scapys(address: Any, mac: bytes, router: bool) -> None:
    text = str(ipaddress.IPv6Address(address))
    data = advertisement_frame(mac, text, router=router)
    packet = Ether(data)[IPv6]
    advert = packet[ICMPv6ND_NA]
    assert bool(advert.R) is router
    assert packet.plen == len(data) - 14 - 40
    checksum = advert.cksum
    del advert.cksum
    rebuilt = IPv6(bytes(packet))
    assert rebuilt[ICMPv6ND_NA].cksum == checksum


def test_only_large_batches_are_laid_out_beforehand() -> None:
    small = FrameBatch([(3, arp_frame(MAC, "10.1.2.3")), (4, advertisement_frame(MAC, "fd00::7", router=False))])
    large = FrameBatch([(3, arp_frame(MAC, f"10.1.2.{n}")) for n in range(200)])
    assert (len(small), small.ring) == (2, None)
    assert len(large) == 200 and large.ring is not None
    assert bytes(large.ring.data[:42]) == arp_frame(MAC, "10.1.2.0")
    assert len(FrameBatch([])) == 0
