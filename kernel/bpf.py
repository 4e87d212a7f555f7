"""Small socket filters (classic BPF, linux/filter.h): packets that nobody wants do not wake this process.

Each function returns the program as bytes; `attach` puts it on a socket. Programs are short and written out by
hand, with a test that runs each on sample packets.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable
from typing import Final

from holdfast.kernel.base import KernelError

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_INSTRUCTION: Final = struct.Struct("=HBBI")
_ALL: Final = 0x40000

_LD_BYTE_ABS: Final = 0x30
_LD_HALF_ABS: Final = 0x28
_LD_BYTE_IND: Final = 0x50
_LDX_BYTE_MSH: Final = 0xB1
_JEQ: Final = 0x15
_JGT: Final = 0x25
_JGE: Final = 0x35
_RET: Final = 0x06

_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25


def instruction(code: int, jump_true: int, jump_false: int, value: int) -> bytes:
    """One sock_filter."""
    return _INSTRUCTION.pack(code, jump_true, jump_false, value)


def only_vrids(vrids: Iterable[int], family: int) -> bytes:
    """Passes VRRP packets of these virtual routers.

    IPv4: the filter sees the IP header first, IPv6: the VRRP message.
    """
    program = []
    if family == 4:
        program.append(instruction(_LDX_BYTE_MSH, 0, 0, 0))
        program.append(instruction(_LD_BYTE_IND, 0, 0, 1))
    else:
        program.append(instruction(_LD_BYTE_ABS, 0, 0, 1))
    for first, last in _spans(vrids):
        if first == last:
            program.append(instruction(_JEQ, 0, 1, first))
        else:
            program.append(instruction(_JGE, 0, 2, first))
            program.append(instruction(_JGT, 1, 0, last))
        program.append(instruction(_RET, 0, 0, _ALL))
    program.append(instruction(_RET, 0, 0, 0))
    return b"".join(program)


def only_route_protocols(protocols: Iterable[int]) -> bytes:
    """For a rtnetlink monitor: of routes only these protocols pass, of everything else all.

    A router with a full table has thousands of route changes a second that are none of our business. Header fields
    are in host order while a filter reads in network order, hence the swapped message types.
    """
    numbers = sorted(set(protocols))
    program = [
        instruction(_LD_HALF_ABS, 0, 0, 4),
        instruction(_JEQ, 2, 0, socket.htons(_RTM_NEWROUTE)),
        instruction(_JEQ, 1, 0, socket.htons(_RTM_DELROUTE)),
        instruction(_RET, 0, 0, _ALL),
        # rtm_protocol: sixth byte of the rtmsg, after 16 bytes of header.
        instruction(_LD_BYTE_ABS, 0, 0, 16 + 5),
    ]
    for number in numbers:
        program.append(instruction(_JEQ, 0, 1, number))
        program.append(instruction(_RET, 0, 0, _ALL))
    program.append(instruction(_RET, 0, 0, 0))
    return b"".join(program)


def attach(sock: socket.socket, program: bytes | None) -> None:
    """Puts the program on the socket in place of what was there; None takes it off."""
    try:
        if program is None:
            try:
                sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
            except FileNotFoundError:
                return
            return
        keep = ctypes.create_string_buffer(program, len(program))
        # struct sock_fprog: unsigned short, padding, pointer.
        header = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(keep))
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)
    except OSError as error:
        raise KernelError("attach filter", f"socket/{sock.fileno()}", error.errno or 0) from error


def _spans(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Neighbouring numbers as (first, last)."""
    spans: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if spans and spans[-1][1] == number - 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return spans
