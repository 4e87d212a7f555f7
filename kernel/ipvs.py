"""The kernel's load balancer, over generic netlink.

Orders are sent many in one buffer with one ack for the last: the kernel works through them while `sendmsg` runs and
answers earlier ones only when it refuses them. Dumps come over a socket of their own, so that an order never waits for
one, and give the loop a turn after every piece. The counterpart in memory is `fake_ipvs.py`.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

from holdfast.kernel import ipvs_codec as codec
from holdfast.kernel.base import KernelError
from holdfast.kernel.ipvs_types import (
    DaemonSpec,
    DestinationRecord,
    Info,
    Order,
    Refusal,
    ServiceKey,
    ServiceRecord,
    Timeouts,
)

CHUNK_ORDERS = 128
"""Orders in one buffer: about 16 kB, and 1 to 3 ms of the kernel's time."""

_RECEIVE_BYTES = 65536
_BUFFER_BYTES = 4 << 20
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_CLONE_NEWNET = 0x40000000
_HEADER = struct.Struct("=IHHII")
_CONTROL_FAMILY = 16
_GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 3, 1, 2


class Ipvs:
    """IPVS of this network namespace, or of another one (an IpvsTable). Not shared between threads.

    namespace: name below /run/netns, or a path; None: where this process is. Raises KernelError when the kernel has no
    IPVS; its module is loaded if need be.
    """

    def __init__(self, namespace: str | None = None) -> None:
        self._orders, self._dumps = _sockets(namespace)
        self._sequence = 0
        self._dump_lock = asyncio.Lock()
        try:
            self._family = self._find_family()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends our sockets; the table stays."""
        self._orders.close()
        self._dumps.close()

    # -- orders -----------------------------------------------------------------------------------------------------

    def apply(self, orders: Sequence[Order]) -> list[Refusal]:
        """Carries the orders out, in order; returns those refused. See IpvsTable.apply."""
        refusals: list[Refusal] = []
        for first in range(0, len(orders), CHUNK_ORDERS):
            self._apply_chunk(orders, first, min(first + CHUNK_ORDERS, len(orders)), refusals)
        return refusals

    def _apply_chunk(self, orders: Sequence[Order], first: int, end: int, refusals: list[Refusal]) -> None:
        base = self._sequence + 1
        pieces: list[bytes] = []
        places: list[int] = []
        for index in range(first, end):
            ack = index == end - 1
            try:
                piece = codec.order_bytes(self._family, orders[index], base + len(pieces), ack=ack)
            except (OSError, ValueError, struct.error) as problem:
                # A value the kernel's format cannot hold; the others are still carried out.
                refused = KernelError("IPVS", str(orders[index]), errno.EINVAL, str(problem))
                refusals.append(Refusal(index, orders[index], refused))
                if not ack or not pieces:
                    continue
                last = orders[places[-1]]
                piece = codec.order_bytes(self._family, last, base + len(pieces) - 1, ack=True)
                pieces[-1] = piece
                continue
            pieces.append(piece)
            places.append(index)
        if not pieces:
            return
        self._sequence = base + len(pieces) - 1
        self._orders.send(b"".join(pieces))
        for sequence, code in self._acks(self._sequence):
            index = places[sequence - base]
            if code:
                error = KernelError("IPVS", str(orders[index]), code)
                refusals.append(Refusal(index, orders[index], error))

    def _acks(self, last: int) -> list[tuple[int, int]]:
        """(sequence, errno) of every answer up to that of the last request."""
        answers: list[tuple[int, int]] = []
        while not answers or answers[-1][0] != last:
            try:
                data = self._orders.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                # Answers are there when the send returns; a request that ended with EINTR gets none (netlink_rcv_skb).
                answers.append((last, errno.EINTR))
                break
            for kind, sequence, start, _end in _messages(data):
                # Answers to requests of before (a send that was interrupted) are of no interest any more.
                if kind == codec.NLMSG_ERROR and last - CHUNK_ORDERS < sequence <= last:
                    answers.append((sequence, -_error_code(data, start)))
        return answers

    def _request(self, operation: str, subject: str, command: int, content: bytes = b"") -> None:
        self._sequence += 1
        self._orders.send(codec.message(self._family, command, codec.NLM_F_ACK, self._sequence, content))
        for _sequence, code in self._acks(self._sequence):
            if code:
                raise KernelError(operation, subject, code)

    # -- reading ----------------------------------------------------------------------------------------------------

    async def services(self, *, statistics: bool = False) -> list[ServiceRecord]:
        """Every service of the table."""
        found = []
        async for value in self._dump(codec.GET_SERVICE, codec.TOP_SERVICE):
            found.append(codec.decode_service(value, statistics=statistics))
        return found

    async def destinations(self, service: ServiceKey, *, statistics: bool = False) -> list[DestinationRecord]:
        """The destinations of a service; [] when it is not there."""
        decoder = codec.DestinationDecoder(service.family)
        found = []
        request = codec.nest(codec.TOP_SERVICE, codec.key_bytes(service))
        async for value in self._dump(codec.GET_DEST, codec.TOP_DEST, request):
            found.append(decoder.decode(value, statistics=statistics))
        return found

    async def _dump(self, command: int, wanted: int, content: bytes = b"") -> AsyncIterator[bytes]:
        async with self._dump_lock:
            self._sequence += 1
            mine = self._sequence
            self._dumps.send(codec.message(self._family, command, codec.NLM_F_DUMP, mine, content))
            pieces = self._pieces(self._dumps, mine)
            try:
                for data, messages in pieces:
                    for start, end in messages:
                        for attribute, first, last in codec.attributes(data, start + 4, end):
                            if attribute == wanted:
                                yield data[first:last]
                    await asyncio.sleep(0)
            finally:
                # A dump that nobody reads to its end would keep the socket busy for the next one.
                for _ in pieces:
                    pass

    def _pieces(self, source: socket.socket, mine: int) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
        """The datagrams of a dump: data and where its messages' payloads start and end."""
        while True:
            data = source.recv(_RECEIVE_BYTES)
            found = []
            ended = False
            for kind, sequence, start, end in _messages(data):
                if sequence != mine:
                    continue
                if kind == codec.NLMSG_ERROR:
                    code = -_error_code(data, start)
                    if code:
                        raise KernelError("IPVS", "dump", code)
                if kind in (codec.NLMSG_DONE, codec.NLMSG_ERROR):
                    ended = True
                else:
                    found.append((start, end))
            yield data, found
            if ended:
                return

    def timeouts(self) -> Timeouts:
        """The connection timeouts."""
        found = self._get(codec.GET_CONFIG)
        return Timeouts(*(codec.number(found.get(kind, b"")) for kind in (4, 5, 6)))

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Changes those that are not 0."""
        content = b"".join(
            codec.u32_attribute(kind, value)
            for kind, value in ((4, timeouts.tcp_s), (5, timeouts.tcp_fin_s), (6, timeouts.udp_s))
        )
        self._request("IPVS", "timeouts", codec.SET_CONFIG, content)

    def daemons(self) -> list[DaemonSpec]:
        """The sync daemons that run."""
        self._sequence += 1
        self._orders.send(codec.message(self._family, codec.GET_DAEMON, codec.NLM_F_DUMP, self._sequence))
        return [
            codec.decode_daemon(data[first:last])
            for data, messages in self._pieces(self._orders, self._sequence)
            for start, end in messages
            for attribute, first, last in codec.attributes(data, start + 4, end)
            if attribute == codec.TOP_DAEMON
        ]

    def start_daemon(self, daemon: DaemonSpec) -> None:
        """Starts a sync daemon."""
        self._request("IPVS", f"{daemon.role} sync daemon", codec.NEW_DAEMON, codec.daemon_bytes(daemon))

    def stop_daemon(self, role: str, sync_id: int = 0) -> None:
        """Stops a sync daemon."""
        content = codec.u32_attribute(1, codec.ROLES[role]) + codec.u32_attribute(3, sync_id)
        try:
            self._request("IPVS", f"{role} sync daemon", codec.DEL_DAEMON, codec.nest(codec.TOP_DAEMON, content))
        except KernelError as problem:
            # The kernel's thread was ended before it had run for the first time: it is gone all the same.
            if problem.errno != errno.EINTR:
                raise

    def flush(self) -> None:
        """Removes every service."""
        self._request("IPVS", "table", codec.FLUSH)

    def info(self) -> Info:
        """The kernel's version of IPVS."""
        found = self._get(codec.GET_INFO)
        version = codec.number(found.get(1, b""))
        return Info(f"{version >> 16 & 255}.{version >> 8 & 255}.{version & 255}", codec.number(found.get(2, b"")))

    def _get(self, command: int) -> dict[int, bytes]:
        self._sequence += 1
        self._orders.send(codec.message(self._family, command, 0, self._sequence))
        data = self._orders.recv(_RECEIVE_BYTES)
        for kind, sequence, start, end in _messages(data):
            if sequence != self._sequence:
                continue
            if kind == codec.NLMSG_ERROR:
                raise KernelError("IPVS", "query", -_error_code(data, start))
            return codec.attribute_map(data, start + 4, end)
        raise KernelError("IPVS", "query", errno.EPROTO)

    # -- the family -------------------------------------------------------------------------------------------------

    def _find_family(self) -> int:
        number = self._ask_family()
        if number is None:
            # The kernel loads modules by itself where it is allowed to; where not, this is the old way.
            try:
                subprocess.run(["modprobe", "ip_vs"], check=False, capture_output=True, timeout=10)
            except (OSError, subprocess.TimeoutExpired) as problem:
                raise KernelError("IPVS", "kernel module ip_vs", errno.ENOENT, str(problem)) from problem
            number = self._ask_family()
        if number is None:
            raise KernelError("IPVS", "kernel module ip_vs", errno.ENOENT, "the kernel has no IPVS")
        return number

    def _ask_family(self) -> int | None:
        self._sequence += 1
        content = codec.string_attribute(_FAMILY_NAME, "IPVS")
        self._orders.send(codec.message(_CONTROL_FAMILY, _GET_FAMILY, 0, self._sequence, content))
        data = self._orders.recv(_RECEIVE_BYTES)
        for kind, sequence, start, end in _messages(data):
            if sequence == self._sequence and kind == _CONTROL_FAMILY:
                return codec.number(codec.attribute_map(data, start + 4, end)[_FAMILY_ID])
        return None


def _messages(data: bytes) -> list[tuple[int, int, int, int]]:
    """(type, sequence, start of payload, end) of each message of a datagram."""
    found = []
    position = 0
    while position + 16 <= len(data):
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(data, position)
        if length < 16 or position + length > len(data):
            break
        found.append((kind, sequence, position + 16, position + length))
        position += (length + 3) & ~3
    return found


def _error_code(data: bytes, start: int) -> int:
    """The number in an NLMSG_ERROR: 0 is an ack, else a negated errno."""
    return int(struct.unpack_from("=i", data, start)[0])


def _open_sockets() -> tuple[socket.socket, socket.socket]:
    pair = []
    for _ in range(2):
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _CONTROL_FAMILY)
        for force, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                made.setsockopt(socket.SOL_SOCKET, force, _BUFFER_BYTES)
            except PermissionError:
                made.setsockopt(socket.SOL_SOCKET, plain, _BUFFER_BYTES)
        # Refusals without the request that they refuse: they are matched by sequence.
        made.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        made.bind((0, 0))
        pair.append(made)
    orders, dumps = pair
    orders.setblocking(False)
    # Each read of a dump makes the next piece; this is for a kernel that breaks that promise.
    dumps.settimeout(5.0)
    return orders, dumps


def _sockets(namespace: str | None) -> tuple[socket.socket, socket.socket]:
    """The two sockets, made in the namespace. A socket stays in the namespace where it was made."""
    if namespace is None:
        return _open_sockets()
    path = Path(namespace) if "/" in namespace else Path("/run/netns") / namespace
    return _in_namespace(path, _open_sockets)


def _in_namespace(
    path: Path, make: Callable[[], tuple[socket.socket, socket.socket]]
) -> tuple[socket.socket, socket.socket]:
    """Runs `make` on a thread that has entered the namespace and ends with it; this thread stays where it is."""
    results: list[tuple[socket.socket, socket.socket]] = []
    problems: list[OSError] = []

    def work() -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                library = ctypes.CDLL(None, use_errno=True)
                if library.setns(descriptor, _CLONE_NEWNET) != 0:
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code), str(path))
            finally:
                os.close(descriptor)
            results.append(make())
        except OSError as problem:
            problems.append(problem)

    thread = threading.Thread(target=work, name="ipvs-namespace")
    thread.start()
    thread.join()
    if problems:
        raise KernelError("enter", str(path), problems[0].errno or errno.EINVAL) from problems[0]
    return results[0]
