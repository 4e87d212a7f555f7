"""RFC 9568 (VRRPv3) and RFC 3768 (VRRPv2), one test a claim, its sentence paraphrased above it.

docs/conformance-vrrp.md lists the clauses with these tests, and what is not done and why; a test here compares the two.
MASTER is the RFC's Active, `take over` includes joining groups and answering ARP, which the kernel does for an address.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from vrrp_words import HIGHER, LOWER, advert, backup, fresh, instance, master

from holdfast.actors.runtime.machine import S
from holdfast.actors.vrrp.config import GarpTiming
from holdfast.actors.vrrp.facts import Start, Stop
from holdfast.actors.vrrp.packet import AdvertTemplate, PacketError, Reject
from holdfast.actors.vrrp.timing import master_down_interval, skew_time
from holdfast.actors.vrrp.validation import Expectation, split_ipv4

QUIET = GarpTiming(master_delay_us=0)
DOCS = Path(__file__).parents[3] / "docs"


def received(packet: bytes, **fields: object) -> str:
    """`counts`, or why not."""
    try:
        Expectation(instance(**fields)).validate(split_ipv4(packet), 100)
    except PacketError as error:
        return error.reject.name
    return "counts"


def packet(**fields: object) -> bytearray:
    return AdvertTemplate(instance(**fields), "192.0.2.1").patch(100)[0]


# ---- 5.1, 5.2: what is sent


def test_adverts_go_to_the_group_with_ttl_255_and_protocol_112() -> None:
    """5.1.1: destination 224.0.0.18; TTL must be 255; the protocol number is 112."""
    data = packet()
    assert (data[16:20], data[8], data[9]) == (bytes((224, 0, 0, 18)), 255, 112)


def test_the_source_is_the_primary_address_of_the_interface() -> None:
    """5.1.1.1: the primary IPv4 address of the interface the packet is sent from."""
    assert packet()[12:16] == bytes((192, 0, 2, 1))


def test_reserved_bits_are_zero_when_sent_and_ignored_when_received() -> None:
    """5.2.6: must be set to zero on transmission and ignored on reception."""
    data = packet()
    assert data[24] >> 4 == 0
    odd = bytes((data[24] | 0xF0,))
    changed = bytearray(data)
    changed[24:25] = odd
    total = int.from_bytes(changed[26:28], "big") - 0xF000
    changed[26:28] = (total % 0xFFFF).to_bytes(2, "big")
    verdict = Expectation(instance()).validate(split_ipv4(bytes(changed)), 100)
    assert verdict.advert.interval == S


def test_the_interval_field_is_in_centiseconds() -> None:
    """5.2.7: 12 bits, the time in centiseconds between adverts; the default is 100."""
    assert packet()[24:26] == bytes((0, 100))
    assert packet(advert_interval_us=40_950_000)[24:26] == bytes((0x0F, 0xFF))


def test_the_count_is_that_of_the_addresses() -> None:
    """5.2.5: the number of addresses contained in this packet."""
    assert packet()[23] == 1


# ---- 6.1: parameters


@pytest.mark.parametrize("priority", [1, 100, 254, 255])
@pytest.mark.parametrize("interval_s", [0.1, 1, 40.95])
def test_skew_and_down_interval(priority: int, interval_s: float) -> None:
    """6.1: skew is (256 - priority) times the active's interval over 256; down is three of those intervals and it."""
    interval = round(interval_s * S)
    skew = (256 - priority) * interval // 256
    assert skew_time(3, priority, interval) == skew  # type: ignore[arg-type]
    assert master_down_interval(3, priority, interval) == 3 * interval + skew  # type: ignore[arg-type]


def test_the_owner_always_preempts() -> None:
    """6.1: the router that owns the addresses always preempts, whatever the mode."""
    m = backup(priority=255, wants_master=True, nopreempt=False)
    m.at(0, advert(254, HIGHER))
    assert m.until(0.01)[0][1][0] == "advert 255"


# ---- 6.4.1: Initialize


def test_an_owner_starts_with_an_advert_and_announcements() -> None:
    """6.4.1: priority 255: send an advert, announce each address, set the timer, become active."""
    m = backup(priority=255, wants_master=True, garp=QUIET)
    assert m.until(0.001)[0][1] == ["advert 255", "take over", "announce x5", "MASTER: peer-silent"]
    assert m.due == pytest.approx(1, abs=1e-5)


def test_everybody_else_starts_as_backup_with_its_own_interval() -> None:
    """6.4.1: the active's interval is taken to be ours, the down timer set, state Backup."""
    m = backup(advert_interval_us=2_000_000)
    assert m.machine.master_interval == 2 * S
    assert m.due == 6 + 2 * 156 / 256


# ---- 6.4.2: Backup


def test_a_backup_holds_no_address() -> None:
    """6.4.2: it must not answer ARP or ND for the addresses nor accept packets for them."""
    m = fresh()
    assert m.at(0, Start())[0] == "let go of leftovers"
    for _, told in m.until(3.6):
        assert "take over" not in told


def test_shutdown_of_a_backup_sends_nothing() -> None:
    """6.4.2: cancel the down timer, go to Initialize."""
    m = backup()
    assert m.at(1, Stop()) == ["STOP: stopped"]
    assert m.due is None


def test_when_the_down_timer_fires() -> None:
    """6.4.2: send an advert, announce, set the advert timer to our interval, become active."""
    m = backup(garp=QUIET)
    assert m.until(3.609375)[0][1] == ["advert 100", "take over", "announce x5", "MASTER: peer-silent"]
    assert m.due == 4.609375


def test_priority_0_sets_the_down_timer_to_the_skew() -> None:
    """6.4.2: if the priority is zero, set the down timer to the skew time."""
    m = backup()
    m.at(1, advert(0))
    assert m.due == 1 + 156 / 256


@pytest.mark.parametrize(
    ("priority", "nopreempt", "obeyed"), [(100, False, True), (101, False, True), (99, True, True), (99, False, False)]
)
def test_which_adverts_a_backup_obeys(priority: int, nopreempt: bool, obeyed: bool) -> None:
    """6.4.2: no preemption, or a priority not below ours: learn the interval, recompute skew and down
    interval, reset the timer. Otherwise discard."""
    m = backup(nopreempt=nopreempt)
    m.at(1, advert(priority, interval_s=2.0))
    assert m.due == (1 + 6 + 2 * 156 / 256 if obeyed else 3.609375)
    assert m.machine.master_interval == (2 * S if obeyed else S)


# ---- 6.4.3: Active


def test_shutdown_of_the_active_sends_priority_0() -> None:
    """6.4.3: cancel the timer, send an advert with priority 0, go to Initialize."""
    m = master()
    assert m.at(m.now / S, Stop())[:2] == ["advert 0", "let go"]


def test_when_the_advert_timer_fires() -> None:
    """6.4.3: send an advert, reset the timer to our interval."""
    m = master(garp=QUIET)
    start = m.now / S
    assert m.until(start + 1) == [(round(start + 1, 6), ["advert 100"])]
    assert m.due == start + 2


def test_the_active_answers_priority_0() -> None:
    """6.4.3: send an advert, reset the timer."""
    m = master(garp=QUIET)
    start = m.now / S
    assert m.at(start + 0.25, advert(0)) == ["advert 100"]
    assert m.due == start + 1.25


@pytest.mark.parametrize(("priority", "source"), [(101, LOWER), (100, HIGHER)])
def test_the_active_gives_way(priority: int, source: str) -> None:
    """6.4.3: a higher priority, or an equal one and a higher address as an unsigned number in network order:
    learn the interval, recompute, set the down timer, become Backup."""
    m = master()
    start = m.now / S
    told = m.at(start + 0.25, advert(priority, source, interval_s=2.0))
    assert told[:2] == ["let go", "BACKUP: peer-higher-priority"]
    assert m.due == start + 0.25 + 6 + 2 * 156 / 256


@pytest.mark.parametrize(("priority", "source"), [(99, HIGHER), (100, LOWER)])
def test_the_active_asserts_itself(priority: int, source: str) -> None:
    """6.4.3, new in RFC 9568: discard, and send an advert at once for the sender and the learning bridges."""
    m = master(garp=QUIET)
    assert m.at(m.now / S + 0.25, advert(priority, source))[0] == "advert 100"


# ---- 7.1: receiving


def test_receiving_checks() -> None:
    """7.1: TTL 255, version, complete packet, checksum, configured VRID (the shell's); any failure: discard, log."""
    good = bytes(packet())
    assert received(good) == "counts"
    assert received(good[:8] + b"\xfe" + good[9:]) == Reject.TTL.name
    assert received(good[:20] + b"\x41" + good[21:]) == Reject.VERSION.name
    assert received(good[:-1]) == Reject.LENGTH.name
    assert received(good[:26] + b"\0\0" + good[28:]) == Reject.CHECKSUM.name


def test_an_unknown_type_is_discarded() -> None:
    """5.2.2: a packet with unknown type must be discarded."""
    data = bytearray(packet())
    data[20] = 0x32
    data[26:28] = ((int.from_bytes(data[26:28], "big") - 0x100) % 0xFFFF).to_bytes(2, "big")
    assert received(bytes(data)) == Reject.TYPE.name


def test_other_addresses_are_logged_not_discarded() -> None:
    """7.1: the addresses may be compared; a difference should be logged, the packet is processed."""
    from holdfast.actors.vrrp.config import AddressSpec

    assert received(bytes(packet(addresses=(AddressSpec(address="10.0.0.9", prefix=24),)))) == "counts"


def test_another_interval_is_accepted_by_backups() -> None:
    """7.1: the interval of the active is adopted, not compared."""
    assert received(bytes(packet(advert_interval_us=3_000_000))) == "counts"


# ---- RFC 3768: what differs in version 2


def test_version_2_interval_must_match() -> None:
    """RFC 3768 7.1: the interval in the packet must be the configured one, else discard."""
    data = bytes(packet(version=2, advert_interval_us=2_000_000))
    assert received(data, version=2) == Reject.INTERVAL.name


def test_version_2_skew_is_of_a_second() -> None:
    """RFC 3768 6.1: skew is (256 - priority) / 256 seconds, down is three intervals and it."""
    assert skew_time(2, 100, 10 * S) == S * 156 // 256  # type: ignore[arg-type]
    assert backup(version=2, advert_interval_us=3_000_000).due == 9 + 156 / 256


def test_version_2_interval_is_in_seconds() -> None:
    """RFC 3768 5.3.7: the time in seconds."""
    assert packet(version=2, advert_interval_us=7_000_000)[25] == 7


def test_version_2_authentication_data_is_always_there() -> None:
    """RFC 3768 5.3.10: eight bytes, zero when sent without authentication."""
    data = packet(version=2)
    assert len(data) == 20 + 8 + 4 + 8
    assert bytes(data[-8:]) == bytes(8)


def test_version_2_checksum_has_no_pseudo_header() -> None:
    """RFC 3768 5.3.8: over the whole VRRP message beginning with the version field."""
    from holdfast.actors.vrrp.packet import ones_complement_sum

    assert ones_complement_sum(packet(version=2)[20:]) == 0


def test_version_2_authentication_type_must_match() -> None:
    """RFC 3768 7.1: the type must be the configured one; RFC 2338 10.2: the password must be equal."""
    plain, secret = {"version": 2}, {"version": 2, "auth_type": "pass", "auth_pass": b"x"}
    assert received(bytes(packet(**secret)), **plain) == Reject.AUTH_MISMATCH.name
    assert received(bytes(packet(**secret)), **secret) == "counts"


# ---- the table


def test_the_conformance_table_names_tests_that_exist() -> None:
    table = (DOCS / "conformance-vrrp.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", table))
    here = Path(__file__).parent
    defined = {
        match for path in here.glob("test_vrrp_*.py") for match in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert named <= defined, named - defined
    claims = set(re.findall(r"def (test_\w+)", Path(__file__).read_text())) - {
        "test_the_conformance_table_names_tests_that_exist"
    }
    assert claims <= named, claims - named
