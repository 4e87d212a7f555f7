"""The filter program, run by a small interpreter of classic BPF: it must agree with the plain question."""

from __future__ import annotations

import ipaddress
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.kernel.source_filter import RANGES_MAX, ranges_of, source_filter

MOST_INSTRUCTIONS = 4096


def accepts(program: bytes, header: bytes) -> bool:
    """What the kernel does with a packet whose IP header this is."""
    instructions = list(struct.iter_unpack("@HBBI", program))
    assert len(instructions) <= MOST_INSTRUCTIONS
    accumulator, position = 0, 0
    while True:
        code, true, false, value = instructions[position]
        position += 1
        match code:
            case 0x20:
                at = value - 0xFFF00000
                accumulator = int.from_bytes(header[at : at + 4], "big")
            case 0x30:
                accumulator = header[value - 0xFFF00000]
            case 0x05:
                position += value
            case 0x35:
                position += true if accumulator >= value else false
            case 0x06:
                return value > 0
            case _:
                raise AssertionError(f"instruction {code:#x}")


def header(address: str, hop_limit: int = 255) -> bytes:
    source = ipaddress.ip_address(address).packed
    if len(source) == 4:
        return bytes(8) + bytes([hop_limit]) + bytes(3) + source + bytes(4)
    return bytes(7) + bytes([hop_limit]) + source + bytes(16)


def packed(*addresses: str) -> list[bytes]:
    return [ipaddress.ip_address(each).packed for each in addresses]


def test_only_the_listed_are_accepted() -> None:
    program = source_filter(4, packed("10.0.0.1", "10.0.0.2", "192.0.2.9", "255.255.255.255", "0.0.0.0"))
    for good in ("10.0.0.1", "10.0.0.2", "192.0.2.9", "255.255.255.255", "0.0.0.0"):
        assert accepts(program, header(good)), good
    for bad in ("10.0.0.0", "10.0.0.3", "192.0.2.8", "255.255.255.254", "0.0.0.1"):
        assert not accepts(program, header(bad)), bad


def test_ipv6_by_the_last_four_bytes() -> None:
    program = source_filter(6, packed("fe80::1", "2001:db8::a:b"))
    assert accepts(program, header("fe80::1"))
    assert accepts(program, header("2001:db8::a:b"))
    assert not accepts(program, header("fe80::2"))


@pytest.mark.parametrize(("family", "address"), [(4, "10.0.0.1"), (6, "fe80::1")])
def test_the_hop_limit(family: int, address: str) -> None:
    for program in (source_filter(family, packed(address), 255), source_filter(family, None, 255)):
        assert accepts(program, header(address, 255))
        assert not accepts(program, header(address, 254))
    assert accepts(source_filter(family, None, 64), header(address, 64))
    assert accepts(source_filter(family, None), header(address, 0))


def test_nobody() -> None:
    assert not accepts(source_filter(4, []), header("10.0.0.1"))


@given(st.sets(st.integers(0, 0xFFFFFFFF), max_size=80), st.lists(st.integers(0, 0xFFFFFFFF), max_size=20))
def test_any_set_of_addresses(members: set[int], others: list[int]) -> None:
    program = source_filter(4, [each.to_bytes(4, "big") for each in members])
    near = [each + by for each in members for by in (-1, 1) if 0 <= each + by <= 0xFFFFFFFF]
    for number in [*members, *others, *near]:
        assert accepts(program, header(str(ipaddress.IPv4Address(number)))) == (number in members)


@pytest.mark.parametrize("seed", range(3))
def test_too_many_ranges_let_all_peers_in(seed: int) -> None:
    members = random.Random(seed).sample(range(0x100000000), 3000)
    addresses = [each.to_bytes(4, "big") for each in members]
    assert len(ranges_of(addresses)) <= RANGES_MAX
    program = source_filter(4, addresses)
    for number in members:
        assert accepts(program, header(str(ipaddress.IPv4Address(number))))


def test_neighbours_in_a_row_are_one_range() -> None:
    addresses = [bytes([10, 0, number // 256, number % 256]) for number in range(5000)]
    assert len(ranges_of(addresses)) == 1
    assert len(source_filter(4, addresses)) < 20 * 8
