"""rtnetlink: batches of orders sent as one buffer, and what the kernel has.

An order is encoded when it becomes known (rtencode.py); at the moment itself `send` is one system call, in which
the kernel works through all of them, and `collect` reads the acks when there is time. Only the last request of a
batch asks for an
ack: a request that fails is answered anyway. Two hundred addresses: about 30 us each, nearly all of it the kernel's.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from holdfast.kernel.base import AddressSpec, KernelError, RouteSpec, RuleSpec
from holdfast.kernel.faces import Batch
from holdfast.kernel.records import AddressRecord, Link, RouteRecord, RuleRecord
from holdfast.kernel.rtdecode import attributes, decode_address, decode_link, decode_route, decode_rule, messages
from holdfast.kernel.rtencode import (
    HEADER,
    NLM_F_ACK,
    NLM_F_REQUEST,
    IfindexOf,
    encode_address,
    encode_route,
    encode_rule,
    system_ifindex,
)

RTM_GETLINK: Final = 18
RTM_GETADDR: Final = 22
RTM_GETROUTE: Final = 26
RTM_GETRULE: Final = 34
SOL_NETLINK: Final = 270
NETLINK_CAP_ACK: Final = 10
NETLINK_EXT_ACK: Final = 11
NETLINK_GET_STRICT_CHK: Final = 12
SO_RCVBUFFORCE: Final = 33
SO_SNDBUFFORCE: Final = 32

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_DUMP: Final = 0x300
_NLM_F_DUMP_INTR: Final = 0x10
_NLM_F_CAPPED: Final = 0x100
_NLM_F_ACK_TLVS: Final = 0x200
_CHUNK_REQUESTS: Final = 512
"""Requests between two acks: were all of them refused, their answers still fit into the receive buffer."""
_CHUNK_BYTES: Final = 96 * 1024
_BUFFER_BYTES: Final = 2 * 1024 * 1024
_RECEIVE_BYTES: Final = 256 * 1024
_ACK_TIMEOUT_MS: Final = 2000
_DUMP_ATTEMPTS: Final = 16
_GONE: Final = frozenset((errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.ENXIO))
"""A removal that ends like this has what it wanted."""
_NOTHING_FORGIVEN: Final[frozenset[int]] = frozenset()
_THERE: Final = frozenset((errno.EEXIST,))
_SEQUENCE: Final = struct.Struct("=I")
_FLAGS_LOW_BYTE: Final = 6 if sys.byteorder == "little" else 7

Record = TypeVar("Record")


def open_netlink(groups: int = 0, *, buffer_bytes: int = _BUFFER_BYTES, force: bool = True) -> socket.socket:
    """A rtnetlink socket with answers that say what was wrong. force: past the system's limit for buffers if we may."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    except OSError as error:
        raise KernelError("open", "netlink", error.errno or 0) from error
    try:
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            sock.setsockopt(SOL_NETLINK, option, 1)
        for forced, plain in ((SO_SNDBUFFORCE, socket.SO_SNDBUF), (SO_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, forced if force else plain, buffer_bytes)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, plain, buffer_bytes)
        sock.bind((0, groups))
    except OSError as error:
        sock.close()
        raise KernelError("open", "netlink", error.errno or 0) from error
    return sock


class RequestBatch:
    """Encoded requests in order, to be sent as one buffer, as often as wanted. Made by `Netlink.batch`."""

    __slots__ = ("_chunk_requests", "_last_offset", "_owner", "_quiet", "_requests", "awaited", "chunks", "errors")

    def __init__(self, owner: Netlink) -> None:
        self._owner = owner
        self._requests: dict[int, tuple[str, frozenset[int], object, int]] = {}
        self._chunk_requests = 0
        self._last_offset = 0
        self._quiet = b""
        self.chunks: list[bytearray] = []
        """The buffers that `send` writes."""
        self.awaited = 0
        """Acks still to be read."""
        self.errors: list[KernelError] = []

    def __len__(self) -> int:
        return len(self._requests)

    def address(self, spec: AddressSpec, ifindex: int, *, remove: bool = False, valid_lft_s: int | None = None) -> None:
        """Appends: put the address on the interface (or renew its lifetime), or remove it."""
        request = encode_address(spec, ifindex, remove=remove, valid_lft_s=valid_lft_s)
        if remove:
            self._append(request, ("remove", _GONE, spec, ifindex))
        else:
            self._append(request, ("add", _NOTHING_FORGIVEN, spec, ifindex))

    def route(self, spec: RouteSpec, *, remove: bool = False) -> None:
        """Appends: set the route, or remove it. KernelError(ENODEV) when an interface it names is not there."""
        request = encode_route(spec, self._owner.ifindex_of, remove=remove)
        # `add` means: only if it is not there. The others mean: let it be there; the very same one is no failure.
        forgiven = _GONE if remove else _NOTHING_FORGIVEN if spec.mode == "add" else _THERE
        self._append(request, ("remove" if remove else "add", forgiven, spec, 0))

    def rule(self, spec: RuleSpec, *, remove: bool = False) -> None:
        """Appends: set the rule, or remove it."""
        request = encode_rule(spec, remove=remove)
        self._append(request, ("remove" if remove else "add", _GONE if remove else _THERE, spec, 0))

    def append(
        self, request: bytes, operation: str, subject: str, *, forgiven: frozenset[int] = _NOTHING_FORGIVEN
    ) -> None:
        """Appends any encoded request. forgiven: the errnos that are no failure."""
        self._append(request, (operation, forgiven, subject, 0))

    def answer(self, sequence: int, number: int, flags: int, text: str) -> bool:
        """Takes one ack in. False: it belongs to another batch."""
        request = self._requests.get(sequence)
        if request is None:
            return False
        operation, forgiven, what, ifindex = request
        if number and number not in forgiven:
            self.errors.append(KernelError(operation, self._subject(what, ifindex), number, text))
        if flags & NLM_F_ACK:
            self.awaited -= 1
        return True

    def _append(self, request: bytes, about: tuple[str, frozenset[int], object, int]) -> None:
        sequence = self._owner.next_sequence()
        self._requests[sequence] = about
        chunks = self.chunks
        if not chunks or self._chunk_requests >= _CHUNK_REQUESTS or len(chunks[-1]) + len(request) > _CHUNK_BYTES:
            chunks.append(bytearray())
            self._chunk_requests = 0
        chunk = chunks[-1]
        if chunk:
            chunk[self._last_offset + _FLAGS_LOW_BYTE] &= ~NLM_F_ACK & 0xFF
        offset = self._last_offset = len(chunk)
        chunk += request
        _SEQUENCE.pack_into(chunk, offset + 8, sequence)
        chunk[offset + _FLAGS_LOW_BYTE] |= NLM_F_ACK
        self._chunk_requests += 1
        self._quiet = b""

    @property
    def sequences(self) -> Iterable[int]:
        """The numbers of its requests."""
        return self._requests

    @property
    def quiet(self) -> bytes:
        """The only chunk, without its wish for an ack."""
        if not self._quiet:
            chunk = bytearray(self.chunks[0])
            chunk[self._last_offset + _FLAGS_LOW_BYTE] &= ~NLM_F_ACK & 0xFF
            self._quiet = bytes(chunk)
        return self._quiet

    def _subject(self, what: object, ifindex: int) -> str:
        match what:
            case AddressSpec():
                return f"address/{what.address}@{what.dev or self._owner.interface_name(ifindex)}"
            case RouteSpec():
                return route_subject(what)
            case RuleSpec():
                return rule_subject(what)
        return str(what)


class Netlink:
    """Orders to rtnetlink, and dumps, for one network namespace: that of the thread that made it. One thread only."""

    def __init__(self, ifindex_of: IfindexOf | None = None, name_of: Callable[[int], str | None] | None = None) -> None:
        """ifindex_of, name_of: of a link table where there is one; else the kernel is asked."""
        self._socket = open_netlink()
        self._socket.setblocking(False)
        # Opened now, not when first needed: the thread may be in another namespace by then.
        self._dumps = open_netlink()
        self._sequence = 0
        self._sent: dict[int, RequestBatch] = {}
        self._asked: dict[int, RequestBatch] = {}
        """Sequence -> batch of those in `_sent`, made when an answer is for another batch than the one waited for."""
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self.ifindex_of: IfindexOf = ifindex_of or system_ifindex
        self.name_of: Callable[[int], str | None] = name_of or _system_name
        self.port: int = self._socket.getsockname()[0]
        """Our netlink port: a change that carries it was made by us."""

    def interface_name(self, ifindex: int) -> str:
        """The name, or `#3` when the interface is gone."""
        return self.name_of(ifindex) or f"#{ifindex}"

    def next_sequence(self) -> int:
        """Numbers for requests; never 0."""
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        return self._sequence

    def batch(self) -> RequestBatch:
        """A new empty batch."""
        return RequestBatch(self)

    def send(self, batch: Batch) -> None:
        """Hands the batch to the kernel, which carries it out before this returns; acks are read later by `collect`."""
        assert isinstance(batch, RequestBatch), batch
        if not batch.chunks:
            return
        self._sent[id(batch)] = batch
        self._asked = {}
        for number, chunk in enumerate(batch.chunks):
            batch.awaited += 1
            try:
                self._socket.send(chunk)
            except OSError as error:
                batch.awaited -= 1
                batch.errors.append(KernelError("send", f"{len(batch)} requests", error.errno or 0))
                return
            if number + 1 < len(batch.chunks):
                self._read_acks(batch)

    def send_together(self, batches: Sequence[Batch]) -> None:
        """`send` for many batches in few system calls and with few acks; `collect` each of them, in any order."""
        self._asked = {}
        waiting: list[RequestBatch] = []
        pieces: list[bytes] = []
        size = 0
        for each in batches:
            assert isinstance(each, RequestBatch), each
            self._sent[id(each)] = each
            if len(each.chunks) == 1 and len(each.chunks[0]) <= _CHUNK_BYTES // 4:
                if size + len(each.chunks[0]) > _CHUNK_BYTES:
                    self._send_joined(waiting, pieces)
                    size = 0
                waiting.append(each)
                pieces.append(each.quiet)
                size += len(each.chunks[0])
            elif each.chunks:
                self._send_joined(waiting, pieces)
                size = 0
                self.send(each)
        self._send_joined(waiting, pieces)

    def _send_joined(self, waiting: list[RequestBatch], pieces: list[bytes]) -> None:
        """What has been gathered; only its very last request asks for an ack: errors come without."""
        if not waiting:
            return
        last = waiting[-1]
        pieces[-1] = bytes(last.chunks[0])
        last.awaited += 1
        try:
            self._socket.send(b"".join(pieces))
        except OSError as error:
            last.awaited -= 1
            for each in waiting:
                each.errors.append(KernelError("send", f"{len(each)} requests", error.errno or 0))
        else:
            self._read_acks(last)
        waiting.clear()
        pieces.clear()

    def collect(self, batch: Batch) -> list[KernelError]:
        """Reads the acks of the last `send`: what failed. Removing what is gone is no failure."""
        assert isinstance(batch, RequestBatch), batch
        self._read_acks(batch)
        self._sent.pop(id(batch), None)
        self._asked = {}
        errors, batch.errors = batch.errors, []
        return errors

    def run(self, batch: Batch) -> list[KernelError]:
        """`send` and `collect`."""
        self.send(batch)
        return self.collect(batch)

    def links(self) -> list[Link]:
        """Every interface of this namespace."""
        return [
            link
            for data, body, end in self._dump(RTM_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0), 16)
            if (link := decode_link(data, body, end)).name
        ]

    def addresses(self) -> list[AddressRecord]:
        """Every address of this namespace as the kernel has it, in its order."""
        found = []
        for data, body, end in self._dump(RTM_GETADDR, bytes(8), 20):
            record = decode_address(data, body, end)
            if record is not None:
                found.append(record)
        return found

    def routes(self, protocol: int = 18) -> list[RouteRecord]:
        """The routes of one protocol number, all tables.

        The kernel picks them out: a full routing table costs little.
        """
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            header = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, protocol, 0, 0, 0)
            for data, body, end in self._dump(RTM_GETROUTE, header, 24, strict=True):
                record = decode_route(data, body, end, self.name_of)
                if record is not None and record.spec.protocol == protocol:
                    found.append(record)
        return found

    def rules(self) -> list[RuleRecord]:
        """All policy rules, IPv4 and IPv6."""
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for data, body, end in self._dump(RTM_GETRULE, struct.pack("=B11x", family), 32):
                record = decode_rule(data, body, end)
                if record is not None:
                    found.append(record)
        return found

    def close(self) -> None:
        """Harmless twice."""
        self._socket.close()
        self._dumps.close()

    def _read_acks(self, batch: RequestBatch) -> None:
        while batch.awaited > 0:
            try:
                length = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                # The kernel answers before `send` returns; this is for one that some day does not.
                if not _readable(self._socket, _ACK_TIMEOUT_MS):
                    batch.awaited = 0
                    batch.errors.append(KernelError("await acks", f"{len(batch)} requests", errno.ETIMEDOUT))
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError("receive", "netlink", error.errno or 0) from error
                # Answers were dropped: which is not known, so the consumer has to look at what the kernel has.
                for sent in self._sent.values():
                    sent.errors.append(KernelError("await acks", f"{len(sent)} requests", errno.ENOBUFS))
                    sent.awaited = 0
                continue
            for kind, flags, sequence, _, body, end in messages(self._view[:length]):
                if kind == _NLMSG_ERROR:
                    self._answer(batch, flags, sequence, body, end)

    def _answer(self, batch: RequestBatch, flags: int, sequence: int, body: int, end: int) -> None:
        (code,) = struct.unpack_from("=i", self._buffer, body)
        asked: int = HEADER.unpack_from(self._buffer, body + 4)[2]
        text = _extended(self._view, flags, body, end) if code else ""
        if batch.answer(sequence, -code, asked, text):
            return
        if not self._asked:
            self._asked = {number: sent for sent in self._sent.values() for number in sent.sequences}
        if sequence in self._asked:
            self._asked[sequence].answer(sequence, -code, asked, text)

    def _dump(
        self, kind: int, header: bytes, answer: int, *, strict: bool = False
    ) -> Iterator[tuple[memoryview, int, int]]:
        """(data, body, end) of each message.

        One that was interrupted by a change is done again, so it is gathered first.
        """
        dumps = self._dumps
        dumps.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, int(strict))
        for attempt in range(_DUMP_ATTEMPTS):
            sequence = self.next_sequence()
            flags = NLM_F_REQUEST | _NLM_F_DUMP
            dumps.send(HEADER.pack(16 + len(header), kind, flags, sequence, 0) + header)
            found, interrupted = _gather(dumps, sequence, answer)
            if not interrupted or attempt == _DUMP_ATTEMPTS - 1:
                # After so many attempts something changes all the time: the last picture is as good as any.
                yield from found
                return


def route_subject(spec: RouteSpec) -> str:
    """`route/10.0.0.0/8@100`: destination and table."""
    return f"route/{spec.destination}@{spec.table if spec.table is not None else 'main'}"


def rule_subject(spec: RuleSpec) -> str:
    """`rule/300`: its preference, or what it looks for."""
    return f"rule/{spec.preference if spec.preference is not None else spec.from_ or spec.to or spec.table}"


def _gather(dumps: socket.socket, sequence: int, answer: int) -> tuple[list[tuple[memoryview, int, int]], bool]:
    found: list[tuple[memoryview, int, int]] = []
    interrupted = False
    while True:
        if not _readable(dumps, _ACK_TIMEOUT_MS):
            raise KernelError("dump", "netlink", errno.ETIMEDOUT)
        data = memoryview(dumps.recv(_RECEIVE_BYTES))
        for kind, flags, number, _, body, end in messages(data):
            if number != sequence:
                continue
            interrupted = interrupted or bool(flags & _NLM_F_DUMP_INTR)
            if kind == _NLMSG_DONE:
                return found, interrupted
            if kind == _NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", data, body)
                raise KernelError("dump", "netlink", -code)
            if kind == answer:
                found.append((data, body, end))


def _extended(view: memoryview, flags: int, body: int, end: int) -> str:
    """The kernel's own words of what was wrong (NLMSGERR_ATTR_MSG), often none."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    start = body + 4 + 16
    if not flags & _NLM_F_CAPPED:
        length: int = HEADER.unpack_from(view, body + 4)[0]
        start = body + 4 + ((length + 3) & ~3)
    text = attributes(view, start, end).get(1, b"")
    return bytes(text).rstrip(b"\0").decode(errors="replace")


def _readable(sock: socket.socket, timeout_ms: int) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(timeout_ms))


def _system_name(ifindex: int) -> str | None:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return None


def name_of_netlink_port(port: int) -> str:
    """Which program a netlink port belongs to, as `name[pid]`; empty when it cannot be told.

    A program's first netlink socket has its pid as port; of others the owner is found by /proc/net/netlink and its
    inode.
    """
    if port <= 0:
        return ""
    try:
        with open(f"/proc/{port}/comm", encoding="utf-8", errors="replace") as file:
            return f"{file.read().strip()}[{port}]"
    except OSError:
        pass
    inode = ""
    with open("/proc/net/netlink", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if len(words) >= 10 and words[2] == str(port) and words[1] == "0":
                inode = words[9]
    if not inode:
        return ""
    wanted = f"socket:[{inode}]"
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            for descriptor in os.scandir(f"/proc/{entry.name}/fd"):
                if os.readlink(descriptor.path) == wanted:
                    with open(f"/proc/{entry.name}/comm", encoding="utf-8", errors="replace") as file:
                        return f"{file.read().strip()}[{entry.name}]"
        except OSError:
            continue
    return ""
