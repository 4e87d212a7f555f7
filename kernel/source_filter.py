"""A kernel filter by source address and hop limit for a UDP socket, as a classic BPF program.

A service that knows its peers (BFD) lets the kernel drop everyone else's packets before they take a place in the
receive queue: no flood of a stranger can push a peer's packet out. The addresses become a binary tree of comparisons,
so that 600 ranges cost about ten instructions a packet. IPv6 addresses are told apart by their last four bytes: the
filter keeps the queue free, the exact comparison is the reader's.

The hop limit is part of it because IP_MINTTL, which sounds like it, is heeded for TCP only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

RANGES_MAX: Final = 600
"""Six instructions a range, and the kernel takes 4096."""

_LOAD_WORD: Final = 0x20
_LOAD_BYTE: Final = 0x30
_JUMP: Final = 0x05
_JUMP_GREATER_EQUAL: Final = 0x35
_JUMP_EQUAL: Final = 0x15
_AND: Final = 0x54
_RETURN: Final = 0x06
_NETWORK_HEADER: Final = 0xFFF00000
"""SKF_NET_OFF: offsets from here count from the IP header."""
_ACCEPT: Final = 0xFFFF
_FIELDS: Final = {4: (8, 12), 6: (7, 20)}
"""Where an IP header has its hop limit and the last four bytes of its source."""


def ranges_of(addresses: Iterable[bytes], limit: int = RANGES_MAX) -> list[tuple[int, int]]:
    """The last four bytes of the addresses as sorted ranges (first, last), at most `limit`.

    Above that the smallest gaps are closed, which lets some strangers through but no peer out.
    """
    numbers = sorted({int.from_bytes(address[-4:], "big") for address in addresses})
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    excess = len(ranges) - limit
    if excess <= 0:
        return ranges
    gaps = sorted(range(1, len(ranges)), key=lambda index: ranges[index][0] - ranges[index - 1][1])
    closed = set(gaps[:excess])
    merged: list[tuple[int, int]] = []
    for index, each in enumerate(ranges):
        if index in closed:
            merged[-1] = (merged[-1][0], each[1])
        else:
            merged.append(each)
    return merged


def source_filter(family: int, addresses: Iterable[bytes] | None, least_hop_limit: int = 0) -> bytes:
    """The program that accepts packets from these addresses (packed) with this TTL or hop limit, or more.

    family: 4 or 6. addresses None: whoever it is.
    """
    hop_limit_at, source_at = _FIELDS[family]
    program = []
    if least_hop_limit:
        program = [
            _instruction(_LOAD_BYTE, 0, 0, _NETWORK_HEADER + hop_limit_at),
            _instruction(_JUMP_GREATER_EQUAL, 1, 0, least_hop_limit),
            _instruction(_RETURN, 0, 0, 0),
        ]
    if addresses is None:
        return b"".join([*program, _instruction(_RETURN, 0, 0, _ACCEPT)])
    flips: list[int] = []
    for first, last in ranges_of(addresses):
        flips += [first, last + 1]
    program.append(_instruction(_LOAD_WORD, 0, 0, _NETWORK_HEADER + source_at))
    return b"".join(program + _tree(flips, 0, len(flips)))


def _tree(flips: list[int], low: int, high: int) -> list[bytes]:
    """Instructions that decide for a number between flips[low-1] and flips[high]: after an odd number of flips the
    address is one of ours."""
    if low == high:
        return [_instruction(_RETURN, 0, 0, _ACCEPT if low % 2 else 0)]
    middle = (low + high) // 2
    if flips[middle] > 0xFFFFFFFF:
        # Past the end of the address space: nothing is beyond it.
        return _tree(flips, low, middle)
    below = _tree(flips, low, middle)
    above = _tree(flips, middle + 1, high)
    # Conditional jumps reach 255 instructions, plain ones any distance.
    return [
        _instruction(_JUMP_GREATER_EQUAL, 0, 1, flips[middle]),
        _instruction(_JUMP, 0, 0, len(below)),
        *below,
        *above,
    ]


def _instruction(code: int, true: int, false: int, value: int) -> bytes:
    return struct.pack("@HBBI", code, true, false, value)


def byte_choice(at: int, mask: int, value: int) -> bytes:
    """For `udp_batch.attach_choice`: 0 for payloads whose byte at `at` is `value` under the mask, 1 for others."""
    return b"".join(
        [
            _instruction(_LOAD_BYTE, 0, 0, at),
            _instruction(_AND, 0, 0, mask),
            _instruction(_JUMP_EQUAL, 0, 1, value),
            _instruction(_RETURN, 0, 0, 0),
            _instruction(_RETURN, 0, 0, 1),
        ]
    )
