"""The socket filters, run on sample packets by a small interpreter of classic BPF."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from holdfast.kernel import bpf
from holdfast.kernel.procevents import only_processes


def passes(program: bytes, packet: bytes) -> bool:
    """What the kernel would do (Documentation/networking/filter.rst)."""
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    a = x = counter = 0
    while True:
        operation, true, false, value = code[counter]
        counter += 1
        if operation in {0x30, 0x28, 0x20, 0x50}:
            size = {0x30: 1, 0x28: 2, 0x20: 4, 0x50: 1}[operation]
            at = value + (x if operation == 0x50 else 0)
            if at + size > len(packet):
                return False
            a = int.from_bytes(packet[at : at + size], "big")
        elif operation == 0xB1:
            if value >= len(packet):
                return False
            x = (packet[value] & 0xF) * 4
        elif operation == 0x07:
            x = a
        elif operation in {0x15, 0x25, 0x35, 0x1D}:
            wanted = x if operation == 0x1D else value
            taken = a > wanted if operation == 0x25 else a >= wanted if operation == 0x35 else a == wanted
            counter += true if taken else false
        elif operation == 0x06:
            return value > 0
        else:
            raise AssertionError(f"operation {operation:#x}")


@given(st.frozensets(st.integers(1, 255)), st.integers(0, 255), st.integers(5, 15))
def test_only_the_wanted_virtual_routers_pass(vrids: frozenset[int], vrid: int, words: int) -> None:
    message = bytes((0x31, vrid, 100, 1, 0, 100, 0, 0, 10, 0, 0, 1))
    ipv4 = bytes((0x40 | words,)) + bytes(words * 4 - 1) + message
    assert passes(bpf.only_vrids(vrids, 4), ipv4) == (vrid in vrids)
    assert passes(bpf.only_vrids(vrids, 6), message) == (vrid in vrids)


def test_filters_stay_below_the_kernels_limit() -> None:
    """The longest: no two of 128 are neighbours. BPF_MAXINSNS is 4096."""
    assert len(bpf.only_vrids(range(1, 256, 2), 4)) // 8 <= 4096
    assert len(bpf.only_vrids(range(1, 256), 4)) // 8 == 6


def test_too_short_packets_do_not_pass() -> None:
    assert not passes(bpf.only_vrids([7], 4), b"\x45" + bytes(19))
    assert not passes(bpf.only_vrids([7], 6), b"\x31")


def test_of_routes_only_the_wanted_protocols_pass() -> None:
    program = bpf.only_route_protocols([18, 42])

    def route(kind: int, protocol: int) -> bytes:
        header = struct.pack("=IHHII", 28, kind, 0, 0, 0)
        return header + struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, protocol, 0, 1, 0)

    assert [passes(program, route(24, protocol)) for protocol in (2, 18, 42, 186)] == [False, True, True, False]
    assert [passes(program, route(25, protocol)) for protocol in (2, 18)] == [False, True]
    for other in (16, 17, 20, 21, 32, 33):
        assert passes(program, route(other, 2))


def test_of_process_events_threads_do_not_pass() -> None:
    def event(what: int, *numbers: int) -> bytes:
        return bytes(36) + struct.pack("=IIQ", what, 0, 0) + struct.pack(f"={len(numbers)}i", *numbers) + bytes(16)

    program = only_processes()
    assert passes(program, event(1, 10, 10, 11, 11))
    assert not passes(program, event(1, 10, 10, 11, 10))
    assert passes(program, event(2, 10, 10))
    assert passes(program, event(0x200, 10, 10))
    assert not passes(program, event(0x200, 11, 10))
    assert passes(program, event(0x80000000, 10, 10))
    assert not passes(program, event(0x80000000, 11, 10))
    assert passes(program, event(0, 0, 0))
    for other in (4, 0x40, 0x80, 0x100, 0x40000000):
        assert not passes(program, event(other, 10, 10))
