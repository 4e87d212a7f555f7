"""Many datagrams in one system call: sendmmsg(2) and recvmmsg(2) over buffers that are made once.

A `MessageRing` is an array of message headers with a buffer, an address and a control area for each slot, laid out
in one piece of memory; Python touches only plain integers in it by memoryview. Sending a ring that is loaded costs
one call and nothing a message.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
from collections.abc import Sequence
from typing import Final

from holdfast.kernel.base import KernelError

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_sendmmsg: Final = _LIBC.sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_sendmmsg.restype = ctypes.c_int
_recvmmsg: Final = _LIBC.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_recvmmsg.restype = ctypes.c_int
_memmove: Final = ctypes.memmove

MSG_DONTWAIT: Final = 0x40
MSG_DONTROUTE: Final = 0x04
MSG_PROBE: Final = 0x10
"""The kernel looks for the way and sends nothing (include/linux/socket.h)."""
MSG_TRUNC: Final = 0x20
_PAGES_FROM: Final = 32 * 1024
MOST_A_CALL: Final = 1024
"""UIO_MAXIOV: the kernel takes no more at once."""


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_size_t), ("length", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_size_t),
        ("name_length", ctypes.c_uint),
        ("vectors", ctypes.c_size_t),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_size_t),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("header", _MsgHdr), ("length", ctypes.c_uint))


_HEADER_BYTES: Final = ctypes.sizeof(_MMsgHdr)
_WORDS: Final = _HEADER_BYTES // 4
_LONGS: Final = _HEADER_BYTES // ctypes.sizeof(ctypes.c_size_t)
_NAME_LENGTH: Final = _MsgHdr.name_length.offset // 4
_NAME: Final = _MsgHdr.name.offset // ctypes.sizeof(ctypes.c_size_t)
_CONTROL: Final = _MsgHdr.control.offset // ctypes.sizeof(ctypes.c_size_t)
_CONTROL_LENGTH: Final = _MsgHdr.control_length.offset // ctypes.sizeof(ctypes.c_size_t)
_FLAGS: Final = _MsgHdr.flags.offset // 4
_LENGTH: Final = _MMsgHdr.length.offset // 4
_CODE: Final = "Q" if ctypes.sizeof(ctypes.c_size_t) == 8 else "I"


class MessageRing:
    """`slots` datagrams of at most `size` bytes each. Not shared between threads."""

    def __init__(self, slots: int, size: int, *, name_bytes: int = 0, control_bytes: int = 0) -> None:
        """name_bytes: room for a socket address; control_bytes: for ancillary data (rounded up to 8)."""
        self.slots = slots
        self.size = (size + 7) & ~7
        self.name_bytes = (name_bytes + 7) & ~7
        self.control_bytes = (control_bytes + 7) & ~7
        offset_vectors = slots * _HEADER_BYTES
        offset_names = offset_vectors + slots * ctypes.sizeof(_IoVec)
        offset_controls = offset_names + slots * self.name_bytes
        offset_data = offset_controls + slots * self.control_bytes
        total = offset_data + slots * self.size
        # Neither kind of memory ever moves. Of anonymous pages those that were never touched cost nothing; a small ring
        # would waste most of its first one.
        self._memory = mmap.mmap(-1, total) if total > _PAGES_FROM else bytearray(max(total, 1))
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        whole = memoryview(self._memory)
        self.data = whole[offset_data : offset_data + slots * self.size]
        self.names = whole[offset_names : offset_names + slots * self.name_bytes]
        self.controls = whole[offset_controls : offset_controls + slots * self.control_bytes]
        headers = whole[:offset_vectors]
        self._words = headers.cast("I")
        self._longs = headers.cast(_CODE)
        self._vectors = whole[offset_vectors:offset_names].cast(_CODE)
        for slot in range(slots):
            header = struct.pack(
                "@PIPNPNi",
                self._base + offset_names + slot * self.name_bytes if name_bytes else 0,
                name_bytes,
                self._base + offset_vectors + slot * ctypes.sizeof(_IoVec),
                1,
                self._base + offset_controls + slot * self.control_bytes if control_bytes else 0,
                self.control_bytes,
                0,
            )
            start = slot * _HEADER_BYTES
            headers[start : start + len(header)] = header
            self._vectors[2 * slot] = self._base + offset_data + slot * self.size
            self._vectors[2 * slot + 1] = self.size
        self._headers = headers
        self._pristine = b""
        self._names_at = self._base + offset_names
        self._controls_at = self._base + offset_controls

    def load(self, slot: int, data: bytes | bytearray, name: bytes = b"", control: bytes = b"") -> None:
        """Puts a datagram into a slot for sending: its bytes, socket address and ancillary data."""
        length = len(data)
        if length > self.size:
            raise KernelError("send", f"{length} bytes", errno.EMSGSIZE)
        start = slot * self.size
        self.data[start : start + length] = data
        self._vectors[2 * slot + 1] = length
        word, long = slot * _WORDS, slot * _LONGS
        if name:
            start = slot * self.name_bytes
            self.names[start : start + len(name)] = name
        self._words[word + _NAME_LENGTH] = len(name)
        self._longs[long + _NAME] = self._names_at + slot * self.name_bytes if name else 0
        if control:
            start = slot * self.control_bytes
            self.controls[start : start + len(control)] = control
        self._longs[long + _CONTROL_LENGTH] = len(control)
        self._longs[long + _CONTROL] = self._controls_at + slot * self.control_bytes if control else 0

    def send(self, descriptor: int, first: int, count: int, flags: int = 0) -> list[tuple[int, int]]:
        """Sends slots `first` to `first + count - 1` in order. Returns (slot, errno) of each that was refused."""
        failed: list[tuple[int, int]] = []
        slot, end = first, first + count
        while slot < end:
            sent = _sendmmsg(
                descriptor, self._base + slot * _HEADER_BYTES, min(end - slot, MOST_A_CALL), flags | MSG_DONTWAIT
            )
            if sent > 0:
                slot += sent
                continue
            number = ctypes.get_errno()
            if number == errno.EINTR:
                continue
            # The call stops at the first it cannot send and names the error only when that is its first one.
            failed.append((slot, number))
            slot += 1
        return failed

    def receive(self, descriptor: int) -> int:
        """Fills slots from 0 on with what has arrived, without waiting. Returns how many; errors as KernelError."""
        # The kernel writes lengths and flags into the headers: they are put back as they were made.
        if not self._pristine:
            self._pristine = bytes(self._headers)
        _memmove(self._base, self._pristine, len(self._pristine))
        while True:
            count: int = _recvmmsg(descriptor, self._base, self.slots, MSG_DONTWAIT, None)
            if count >= 0:
                return count
            number = ctypes.get_errno()
            if number == errno.EAGAIN:
                return 0
            if number != errno.EINTR:
                raise KernelError("receive", f"socket/{descriptor}", number)

    def length(self, slot: int) -> int:
        """Bytes of the datagram in a slot after `receive`."""
        return self._words[slot * _WORDS + _LENGTH]

    def truncated(self, slot: int) -> bool:
        """Whether it was longer than the slot."""
        return bool(self._words[slot * _WORDS + _FLAGS] & MSG_TRUNC)

    def lengths(self, count: int) -> list[int]:
        """`length` of the first `count` slots."""
        return self._words[_LENGTH : count * _WORDS : _WORDS].tolist() if count else []

    def payload(self, slot: int) -> memoryview:
        """A view of the datagram in a slot, good until the next `receive`."""
        start = slot * self.size
        return self.data[start : start + self._words[slot * _WORDS + _LENGTH]]

    def name(self, slot: int) -> memoryview:
        """The socket address it came from."""
        start = slot * self.name_bytes
        return self.names[start : start + self._words[slot * _WORDS + _NAME_LENGTH]]

    def control(self, slot: int) -> memoryview:
        """Its ancillary data."""
        start = slot * self.control_bytes
        return self.controls[start : start + self._longs[slot * _LONGS + _CONTROL_LENGTH]]


class PreparedMessage:
    """One datagram in memory of its own, with the header that sendmmsg wants: to be sent as often as wanted.

    label: for error messages.
    """

    __slots__ = ("_memory", "header", "label")

    def __init__(self, data: bytes | bytearray, name: bytes = b"", control: bytes = b"", label: str = "") -> None:
        """name: the socket address; control: ancillary data."""
        self.label = label
        vector_bytes = ctypes.sizeof(_IoVec)
        name_at = vector_bytes
        control_at = name_at + ((len(name) + 7) & ~7)
        data_at = control_at + ((len(control) + 7) & ~7)
        # It is never resized, so it never moves.
        memory = self._memory = bytearray(data_at + len(data))
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        struct.pack_into("@PN", memory, 0, base + data_at, len(data))
        memory[name_at : name_at + len(name)] = name
        memory[control_at : control_at + len(control)] = control
        memory[data_at:] = data
        header = struct.pack(
            "@PIPNPNi",
            base + name_at if name else 0,
            len(name),
            base,
            1,
            base + control_at if control else 0,
            len(control),
            0,
        )
        self.header = header.ljust(_HEADER_BYTES, b"\0")

    @property
    def data(self) -> bytes:
        """What is sent."""
        (length,) = struct.unpack_from("@N", self._memory, ctypes.sizeof(ctypes.c_size_t))
        return bytes(self._memory[-length:]) if length else b""


def send_prepared(descriptor: int, messages: Sequence[PreparedMessage], flags: int = 0) -> list[tuple[int, int]]:
    """Sends them in order in as few calls as can be. Returns (index, errno) of each that was refused."""
    failed: list[tuple[int, int]] = []
    headers = bytearray().join([message.header for message in messages])
    base = ctypes.addressof(ctypes.c_char.from_buffer(headers))
    index, end = 0, len(messages)
    while index < end:
        sent = _sendmmsg(descriptor, base + index * _HEADER_BYTES, min(end - index, MOST_A_CALL), flags | MSG_DONTWAIT)
        if sent > 0:
            index += sent
            continue
        number = ctypes.get_errno()
        if number == errno.EINTR:
            continue
        failed.append((index, number))
        index += 1
    return failed


_CONTROL_HEADER: Final = struct.Struct("@Nii")
"""cmsghdr: length with this header, level, type."""
_CONTROL_PADDING: Final = ctypes.sizeof(ctypes.c_size_t) - 1


def control_message(level: int, kind: int, payload: bytes) -> bytes:
    """One piece of ancillary data (cmsghdr), padded."""
    length = _CONTROL_HEADER.size + len(payload)
    return _CONTROL_HEADER.pack(length, level, kind) + payload + b"\0" * (-length & _CONTROL_PADDING)


def control_messages(data: memoryview) -> dict[tuple[int, int], memoryview]:
    """(level, type) -> payload of received ancillary data."""
    found: dict[tuple[int, int], memoryview] = {}
    offset = 0
    size = _CONTROL_HEADER.size
    while offset + size <= len(data):
        length, level, kind = _CONTROL_HEADER.unpack_from(data, offset)
        if length < size or offset + length > len(data):
            break
        found[level, kind] = data[offset + size : offset + length]
        offset += (length + _CONTROL_PADDING) & ~_CONTROL_PADDING
    return found
