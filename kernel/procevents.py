"""Processes that start, change and end, told by the kernel's process connector (linux/cn_proc.h).

The connector lives in the first network namespace only, so the socket is opened there when this process is in
another. It needs CAP_NET_ADMIN there. Threads are left out by a filter in the kernel. Where it does not work,
`follow` raises, and the consumer counts processes by itself now and then.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Final

from holdfast.kernel import bpf
from holdfast.kernel.base import KernelError

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_NETLINK_CONNECTOR: Final = 11
_CN_IDX_PROC: Final = 1
_NLMSG_DONE: Final = 3
_MCAST_LISTEN: Final = 1
_MCAST_IGNORE: Final = 2
_CLONE_NEWNET: Final = 0x40000000
_SO_RCVBUFFORCE: Final = 33

_NONE: Final = 0
_FORK: Final = 0x1
_EXEC: Final = 0x2
_COMM: Final = 0x200
_EXIT: Final = 0x80000000

_WHAT: Final = 36
"""Offset of proc_event.what: after nlmsghdr (16) and cn_msg (20)."""
_DATA: Final = _WHAT + 16
_ANSWER_MS: Final = 500
_RECEIVES_A_TURN: Final = 2000

Started = Callable[[int, int], None]
Happened = Callable[[int], None]


class _Follower:
    __slots__ = ("changed", "ended", "forked", "lost")

    def __init__(self, forked: Started, changed: Happened, ended: Happened, lost: Callable[[], None]) -> None:
        self.forked = forked
        self.changed = changed
        self.ended = ended
        self.lost = lost


class ProcessEvents:
    """The events of all processes of this host, for one loop. The socket is open while somebody follows."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, receive_buffer_bytes: int = 1 << 20) -> None:
        self._loop = loop
        self._buffer_bytes = receive_buffer_bytes
        self._socket: socket.socket | None = None
        self._followers: list[_Follower] = []
        self.overruns = 0

    def follow(
        self, *, forked: Started, changed: Happened, ended: Happened, lost: Callable[[], None]
    ) -> Callable[[], None]:
        """forked(parent, child), changed(pid) after exec or a new name, ended(pid), lost() after an overrun.

        Returns what ends it. Raises KernelError when the kernel does not tell.
        """
        if self._socket is None:
            self._socket = _open(self._buffer_bytes)
            self._loop.add_reader(self._socket.fileno(), self._readable)
        follower = _Follower(forked, changed, ended, lost)
        self._followers.append(follower)

        def end() -> None:
            if follower in self._followers:
                self._followers.remove(follower)
            if not self._followers:
                self._stop()

        return end

    def close(self) -> None:
        """Nobody follows any more; harmless twice."""
        self._followers.clear()
        self._stop()

    def _stop(self) -> None:
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket.fileno())
        try:
            self._socket.send(_request(_MCAST_IGNORE))
        except OSError as error:
            if error.errno not in {errno.ECONNREFUSED, errno.EPERM, errno.ENOBUFS}:
                raise KernelError("close", "process events", error.errno or 0) from error
        self._socket.close()
        self._socket = None

    def _readable(self) -> None:
        for _ in range(_RECEIVES_A_TURN):
            if self._socket is None:
                return
            try:
                data = self._socket.recv(4096)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError("receive", "process events", error.errno or 0) from error
                self.overruns += 1
                for follower in tuple(self._followers):
                    follower.lost()
                continue
            self._event(data)

    def _event(self, data: bytes) -> None:
        if len(data) < _DATA + 8:
            return
        (what,) = struct.unpack_from("=I", data, _WHAT)
        (group,) = struct.unpack_from("=i", data, _DATA + 4)
        for follower in tuple(self._followers):
            if what == _FORK:
                (child,) = struct.unpack_from("=i", data, _DATA + 12)
                follower.forked(group, child)
            elif what in {_EXEC, _COMM}:
                follower.changed(group)
            elif what == _EXIT:
                follower.ended(group)


def only_processes() -> bytes:
    """A filter: fork, exec, new name and exit of whole processes, and the answer to our request; threads do not pass.

    Numbers are in host order while a filter reads in network order, hence the swap.
    """
    load, keep, equal, equal_kept, end = 0x20, 0x07, 0x15, 0x1D, 0x06
    swap = socket.htonl
    program = [
        bpf.instruction(load, 0, 0, _WHAT),
        bpf.instruction(equal, 8, 0, swap(_FORK)),
        bpf.instruction(equal, 11, 0, swap(_EXEC)),
        bpf.instruction(equal, 10, 0, swap(_NONE)),
        bpf.instruction(equal, 1, 0, swap(_COMM)),
        bpf.instruction(equal, 0, 9, swap(_EXIT)),
        # Of a new name or an end, pid and tgid have to be the same.
        bpf.instruction(load, 0, 0, _DATA),
        bpf.instruction(keep, 0, 0, 0),
        bpf.instruction(load, 0, 0, _DATA + 4),
        bpf.instruction(equal_kept, 4, 5, 0),
        # Of a fork, those of the child.
        bpf.instruction(load, 0, 0, _DATA + 8),
        bpf.instruction(keep, 0, 0, 0),
        bpf.instruction(load, 0, 0, _DATA + 12),
        bpf.instruction(equal_kept, 0, 1, 0),
        bpf.instruction(end, 0, 0, 0x40000),
        bpf.instruction(end, 0, 0, 0),
    ]
    return b"".join(program)


def _request(operation: int) -> bytes:
    message = struct.pack("=IIIIHHI", _CN_IDX_PROC, 1, 0, 0, 4, 0, operation)
    return struct.pack("=IHHII", 16 + len(message), _NLMSG_DONE, 0, 0, os.getpid()) + message


def _open(buffer_bytes: int) -> socket.socket:
    """A socket that receives events. Tried here, then in the first process's network namespace."""
    try:
        return _listening(buffer_bytes)
    except KernelError as error:
        if error.errno not in {errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EPROTONOSUPPORT}:
            raise
    try:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            first = os.open("/proc/1/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(home)
            raise
    except OSError as error:
        raise KernelError("open", "process events", error.errno or 0) from error
    try:
        if _LIBC.setns(first, _CLONE_NEWNET) != 0:
            raise KernelError("open", "process events", ctypes.get_errno())
        try:
            return _listening(buffer_bytes)
        finally:
            # Without the way back this thread would speak for the wrong network.
            assert _LIBC.setns(home, _CLONE_NEWNET) == 0
    finally:
        os.close(first)
        os.close(home)


def _listening(buffer_bytes: int) -> socket.socket:
    try:
        sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_CONNECTOR
        )
    except OSError as error:
        raise KernelError("open", "process events", error.errno or 0) from error
    try:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_bytes)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        sock.bind((0, _CN_IDX_PROC))
        sock.send(_request(_MCAST_LISTEN))
        number = _answer(sock)
        if number:
            raise KernelError("open", "process events", number)
        bpf.attach(sock, only_processes())
    except OSError as error:
        sock.close()
        raise KernelError("open", "process events", error.errno or 0) from error
    except KernelError:
        sock.close()
        raise
    return sock


def _answer(sock: socket.socket) -> int:
    """0 when the kernel says that it will tell, else an errno."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    while poll.poll(_ANSWER_MS):
        try:
            data = sock.recv(4096)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                continue
            raise
        if len(data) >= _DATA + 4:
            what, refused = struct.unpack_from("=I", data, _WHAT)[0], struct.unpack_from("=I", data, _DATA)[0]
            if what == _NONE:
                return int(refused)
            return 0
    return errno.ETIMEDOUT
