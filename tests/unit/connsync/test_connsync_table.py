"""The kernel's connection table: reading, digests, differences, and what a sync message needs beside a line."""

from __future__ import annotations

import random

import pytest

from holdfast.actors.connsync.syncproto import encode_entry, raw_entry
from holdfast.actors.connsync.table import (
    BUCKETS,
    Digest,
    Line,
    Scope,
    Services,
    difference,
    packed,
    packed_word,
    parse,
    snapshot_for,
    snapshot_of,
    table_word,
)
from holdfast.kernel.ipvs_types import (
    DestinationRecord,
    DestinationSpec,
    Method,
    ServiceKey,
    ServiceRecord,
    ServiceSpec,
    Timeouts,
)

TABLE = b"""\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires
TCP 0A02000A E86E 0A020064 0050 0A03000B 0050 TIME_WAIT   LOCAL       97
UDP 0A02000A 91E0 0A020064 0035 0A03000B 0035 UDP         LOCAL      286
UDP 0A02000A 0000 0A020064 0035 0A03000B 0035 ASSURED     LOCAL      293
TCP 0A02000A CEDA 0A020064 0050 0A03000B 0050 ESTABLISHED SYNC       894
TCP 0A02000A 9B20 0A020065 0050 0A03000B 0050 FIN_WAIT    LOCAL      114
TCP 20010db8000000000000000000000001 B482 0A020064 0050 0A03000B 0050 no line
TCP 2001:0db8:0000:0000:0000:0000:0000:0001 B482 fd02:0000:0000:0000:0000:0000:0000:0100 0050 \
fd03:0000:0000:0000:0000:0000:0000:0011 0050 ESTABLISHED LOCAL      894
SCTP 0A02000A CEDA 0A020064 0050 0A03000B 0050 ESTABLISHED LOCAL      894
"""
VIP, OTHER_VIP = b"0A020064", b"0A020065"


def line(port: int, *, virtual: bytes = VIP, state: bytes = b"ESTABLISHED", by_sync: bool = False) -> Line:
    """A TCP connection from 10.2.0.10."""
    words = (b"TCP", b"0A02000A", b"%04X" % port, virtual, b"0050", b"0A03000B", b"0050")
    return Line(words, state, by_sync, 900)


def test_lines_of_the_kernel() -> None:
    lines = list(parse(TABLE))
    assert len(lines) == 7
    assert lines[3].words == line(0xCEDA).words
    assert lines[3].by_sync
    assert lines[3].left_s == 894
    assert [each.is_template for each in lines] == [False, False, True, False, False, False, False]
    assert lines[0].identity == b"TCP 0A02000A E86E 0A020064 0050 0A03000B 0050"


@pytest.mark.parametrize("text", ["10.2.0.100", "fd02::100", "2001:db8::1"])
def test_addresses_as_the_table_writes_them(text: str) -> None:
    assert packed_word(table_word(packed(text))) == packed(text)


def test_table_words() -> None:
    assert table_word(packed("10.2.0.100")) == VIP
    assert table_word(packed("2001:db8::1")) == b"2001:0db8:0000:0000:0000:0000:0000:0001"


def test_ours_is_what_we_are_master_of_and_what_nobody_decides() -> None:
    scope = Scope(owned=frozenset({VIP}), foreign=frozenset({OTHER_VIP}))
    assert scope.ours(VIP, by_sync=True)
    assert not scope.ours(OTHER_VIP, by_sync=False)
    assert scope.ours(b"0A020066", by_sync=False)
    assert not scope.ours(b"0A020066", by_sync=True)


def test_a_snapshot_compares_what_lasts_and_keeps_what_is_closing_aside() -> None:
    found = snapshot_of(parse(TABLE), Scope(owned=frozenset({VIP})))
    # UDP, template, ESTABLISHED that came by sync (we own it), IPv6, SCTP; TIME_WAIT is of no use to anybody.
    assert len(found) == 5
    assert [each.state for each in found.others] == [b"FIN_WAIT"]


def test_two_tables_with_the_same_connections_have_the_same_digest_in_any_order() -> None:
    lines = [line(port) for port in range(500)]
    here = snapshot_of(lines, Scope())
    random.Random(1).shuffle(lines)
    there = snapshot_of(lines, Scope())
    assert here.digest.differs(there.digest.packed()) == frozenset()
    assert len(here.digest.packed()) == 8 * BUCKETS


def test_a_digest_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="digest"):
        Digest().differs(b"1234")


@pytest.mark.parametrize(("lost", "more"), [(0, 0), (1, 0), (0, 1), (37, 12), (2000, 0)])
def test_the_difference_is_exact(lost: int, more: int) -> None:
    lines = [line(port) for port in range(2000)]
    here = snapshot_of(lines, Scope(owned=frozenset({VIP})))
    theirs = [line(port, by_sync=True) for port in range(lost, 2000 + more)]
    there = snapshot_for(theirs, frozenset({VIP}), frozenset())
    buckets = there.digest.differs(here.digest.packed())
    found = difference(here, buckets, there.numbers_in(buckets))
    assert {int(each.words[2], 16) for each in found.lacking} == set(range(lost))
    assert found.extra == more


def test_of_shared_addresses_the_other_one_counts_what_came_by_sync() -> None:
    lines = [line(1, by_sync=True), line(2), line(3, virtual=OTHER_VIP, by_sync=True)]
    assert len(snapshot_for(lines, frozenset(), frozenset({VIP}))) == 1
    assert len(snapshot_for(lines, frozenset({VIP}), frozenset())) == 2


def test_numbers_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="8 bytes"):
        difference(snapshot_of([], Scope()), (), b"123")


# --- from a line to an entry -----------------------------------------------------------------------------------------


def services(method: int = Method.NAT, *, persistence_s: int = 0, engine: str = "") -> Services:
    """10.2.0.100:80 over one server, and firewall mark 7 over another."""
    spec = ServiceSpec(ServiceKey(4, 6, "10.2.0.100", 80), "rr", timeout_s=persistence_s, engine=engine)
    marked = ServiceSpec(ServiceKey(4, fwmark=7), "rr")
    return Services(
        [
            (ServiceRecord(spec), [DestinationRecord(DestinationSpec("10.3.0.11", 80, method))]),
            (ServiceRecord(marked), [DestinationRecord(DestinationSpec("10.3.0.12", 0, Method.DR))]),
        ],
        Timeouts(tcp_s=700, tcp_fin_s=33, udp_s=44),
    )


def test_a_line_as_the_kernel_would_tell_it() -> None:
    entry = services().entry(line(0xB482))
    assert entry is not None
    assert (entry.client, entry.client_port) == (packed("10.2.0.10"), 0xB482)
    assert (entry.virtual, entry.destination) == (packed("10.2.0.100"), packed("10.3.0.11"))
    assert (entry.state, entry.flags, entry.timeout_s, entry.fwmark) == (1, 0, 700, 0)


@pytest.mark.parametrize("method", [Method.NAT, Method.TUN, Method.DR])
def test_the_method_comes_from_the_service(method: Method) -> None:
    entry = services(method).entry(line(1))
    assert entry is not None
    assert entry.flags == method


def test_a_connection_that_is_closing_is_inactive() -> None:
    entry = services().entry(line(1, state=b"FIN_WAIT"))
    assert entry is not None
    assert (entry.state, entry.flags, entry.timeout_s) == (4, 0x100, 33)


def test_a_service_by_firewall_mark() -> None:
    words = (b"TCP", b"0A02000A", b"1234", b"0A020069", b"01BB", b"0A03000C", b"01BB")
    entry = services().entry(Line(words, b"ESTABLISHED", by_sync=False, left_s=1))
    assert entry is not None
    assert (entry.fwmark, entry.flags) == (7, Method.DR)


def test_a_template_lives_as_long_as_its_service_says() -> None:
    template = line(0, state=b"ASSURED")
    entry = services(persistence_s=360).entry(template)
    assert entry is not None
    assert (entry.flags, entry.state, entry.timeout_s) == (0x1100, 1, 360)
    # The data of an engine is not in this table: a template without it would be a wrong one.
    assert services(persistence_s=360, engine="sip").entry(template) is None


def test_states_nobody_knows_are_left_out() -> None:
    assert services().entry(line(1, state=b"NEW_STATE")) is None


def test_line_and_kernel_message_are_about_the_same_connection() -> None:
    entry = services().entry(line(0xB482))
    assert entry is not None
    raw = services().raw(line(0xB482))
    assert raw == encode_entry(entry)
    assert raw_entry(raw).virtual == packed("10.2.0.100")
