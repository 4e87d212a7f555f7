"""Sockets of checks: one epoll set for a whole cell, and what every probe with a socket needs.

A cell may have thousands of probes a second, each living for a millisecond. They are not worth a transport or a handle
of the event loop each: their descriptors stand in one epoll set, which the loop watches as one descriptor. Descriptors
are registered once, edge-triggered, for both directions; a probe reads until there is nothing left.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable

from holdfast.actors.checkers.base import Outcome, failed, not_run
from holdfast.actors.checkers.config import Connection
from holdfast.actors.runtime.machine import US, Instant
from holdfast.kernel.faces import Timers

EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
BROKEN = select.EPOLLERR | select.EPOLLHUP

_BATCH = 256
_ROUNDS = 4

SERVER_FAULTS = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EPIPE,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.EPROTO,
        errno.EMSGSIZE,
    }
)
"""Errors that speak of the server or of the way to it. All others mean that the check could not be carried out."""

_WORDS = {
    errno.ECONNREFUSED: "refused the connection",
    errno.ECONNRESET: "reset the connection",
    errno.ECONNABORTED: "aborted the connection",
    errno.EPIPE: "closed the connection early",
    errno.ETIMEDOUT: "did not answer (the kernel gave up)",
    errno.EHOSTUNREACH: "is unreachable (no route to host)",
    errno.EHOSTDOWN: "is down (host is down)",
    errno.ENETUNREACH: "is unreachable (no route to its network)",
    errno.ENETDOWN: "is unreachable (network is down)",
}

_IP_BIND_ADDRESS_NO_PORT = 24

# As plain numbers: the members of enums cost a microsecond each time they are combined.
STREAM, DATAGRAM = int(socket.SOCK_STREAM), int(socket.SOCK_DGRAM)
_INET, _INET6 = int(socket.AF_INET), int(socket.AF_INET6)
_FLAGS = int(socket.SOCK_NONBLOCK) | int(socket.SOCK_CLOEXEC)
_SOL_SOCKET, _SO_ERROR = int(socket.SOL_SOCKET), int(socket.SO_ERROR)


class Poller:
    """The epoll set of one cell. Not shared between threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timers: Timers) -> None:
        self.loop = loop
        self.timers = timers
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[int], None]] = {}
        # What has arrived is heard before a time-out is believed: a cell that stood still must not fail its servers.
        self._unhook = timers.before_firing(self.turn)
        loop.add_reader(self._epoll.fileno(), self.turn)

    def __len__(self) -> int:
        return len(self._ready)

    def watch(self, fd: int, ready: Callable[[int], None]) -> None:
        """`ready(events)` whenever something new can be read or written."""
        self._ready[fd] = ready
        self._epoll.register(fd, EVENTS)

    def forget(self, fd: int) -> None:
        """Right before the descriptor is closed, by which the kernel takes it out of the set."""
        del self._ready[fd]

    def turn(self) -> None:
        """Tells the probes what has happened on their sockets so far."""
        for _ in range(_ROUNDS):
            events = self._epoll.poll(0, _BATCH)
            # A probe that ends gives its number back, and one that starts in the same turn may get it: so the handlers
            # are looked up before the first of them is called.
            handlers = self._ready
            for ready, mask in [(handlers.get(fd), mask) for fd, mask in events]:
                if ready is not None:
                    try:
                        ready(mask)
                    except Exception as error:
                        # One check's fault must not cost the others their turn; its run is ended by its time limit.
                        told = {"message": f"a check failed by itself: {error!r}", "exception": error}
                        self.loop.call_exception_handler(told)
            if len(events) < _BATCH:
                return

    def close(self) -> None:
        """No probe hears anything after this."""
        self._unhook()
        self._ready.clear()
        if not self._epoll.closed:
            self.loop.remove_reader(self._epoll.fileno())
            self._epoll.close()


def endpoint(connection: Connection) -> str:
    """`10.0.0.2:80`, `[2001:db8::2]:80`: as people write it."""
    address = connection.address
    return f"[{address}]:{connection.port}" if ":" in address else f"{address}:{connection.port}"


def failure(error: int, connection: Connection) -> Outcome:
    """What an errno of connect, send or recv means: the server failed, or the check could not be run."""
    where = endpoint(connection)
    if error in SERVER_FAULTS:
        words = _WORDS.get(error) or f"failed: {os.strerror(error)}"
        return failed(f"{where} {words}", errno=error)
    return not_run(f"cannot reach {where}: {os.strerror(error)}", error)


def silence(connection: Connection, what: str) -> Outcome:
    """Nothing came within connect_timeout. what: `did not accept the connection`, `sent no banner`."""
    seconds = connection.timeout_us / 1_000_000
    return failed(f"{endpoint(connection)} {what} within {seconds:g} s", timeout_s=seconds)


def socket_address(connection: Connection) -> tuple[str, int] | tuple[str, int, int, int]:
    """For connect. OSError when bind_if is needed (link-local) and is not there."""
    if ":" not in connection.address:
        return connection.address, connection.port
    return connection.address, connection.port, 0, _scope(connection.address, connection)


def _scope(address: str, connection: Connection) -> int:
    if connection.bind_interface is None or not address.lower().startswith("fe80:"):
        return 0
    return socket.if_nametoindex(connection.bind_interface)


def open_socket(connection: Connection, kind: int, protocol: int = 0) -> socket.socket:
    """A non-blocking socket with bind_if, fwmark, bindto and bind_port applied. OSError when that cannot be had."""
    sock = socket.socket(_INET6 if ":" in connection.address else _INET, kind | _FLAGS, protocol)
    try:
        if connection.bind_interface is not None:
            name = connection.bind_interface.encode() + b"\0"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
        if connection.fwmark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, connection.fwmark)
        if connection.bind_address is not None or connection.bind_port:
            _bind(sock, connection)
    except OSError:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, connection: Connection) -> None:
    address = connection.bind_address
    if connection.bind_port:
        # The same source port again while the last connection is in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    else:
        # The port is chosen at connect, so that one address serves more than 28,000 servers.
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    if sock.family == socket.AF_INET6:
        address = address or "::"
        sock.bind((address, connection.bind_port, 0, _scope(address, connection)))
    else:
        sock.bind((address or "0.0.0.0", connection.bind_port))


class Probe:
    """One run of a check. `begin` is called once; `done` exactly once unless `cancel` comes first."""

    __slots__ = ("_done",)

    def __init__(self, done: Callable[[Outcome], None]) -> None:
        self._done = done

    def begin(self) -> None:
        """Starts; `done` may be called before this returns."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Ends it at once; `done` is not called."""
        raise NotImplementedError


class NotRunnable(Probe):
    """A run that cannot be: the configuration names what is not there."""

    __slots__ = ("_text",)

    def __init__(self, text: str, done: Callable[[Outcome], None]) -> None:
        super().__init__(done)
        self._text = text

    def begin(self) -> None:
        self._done(not_run(self._text))

    def cancel(self) -> None:
        """Nothing is under way."""


class SocketProbe(Probe):
    """A run with one socket and one deadline at a time."""

    __slots__ = ("_fd", "_over", "_sock", "connection", "poller")

    def __init__(self, poller: Poller, connection: Connection, done: Callable[[Outcome], None]) -> None:
        super().__init__(done)
        self.poller = poller
        self.connection = connection
        self._sock: socket.socket | None = None
        self._fd = -1
        self._over = False

    def connect(self, kind: int, protocol: int = 0) -> bool:
        """Opens the socket and connects. True: done already (datagrams). False: under way, or `finish`ed with why not.

        `ready` is called as things happen, `timed_out` when nothing does.
        """
        connection = self.connection
        try:
            sock = open_socket(connection, kind, protocol)
        except OSError as error:
            self.finish(not_run(f"no socket to {endpoint(connection)}: {error.strerror or error}", error.errno or 0))
            return False
        self._sock = sock
        try:
            result = sock.connect_ex(socket_address(connection))
        except (OSError, OverflowError) as error:
            self.finish(not_run(f"cannot reach {endpoint(connection)}: {error}", getattr(error, "errno", 0) or 0))
            return False
        if result not in (0, errno.EINPROGRESS):
            self.finish(failure(result, connection))
            return False
        self._fd = sock.fileno()
        self.poller.watch(self._fd, self.ready)
        self.wait()
        return result == 0

    def wait(self, timeout_us: int | None = None) -> None:
        """Gives the next step connect_timeout (or this long), from now."""
        timers = self.poller.timers
        span = self.connection.timeout_us if timeout_us is None else timeout_us
        timers.set(self, Instant(timers.now() + span * US), self._deadline)

    def ready(self, events: int) -> None:
        """Something happened on the socket."""
        raise NotImplementedError

    def timed_out(self) -> None:
        """The step took too long."""
        raise NotImplementedError

    def finish(self, outcome: Outcome) -> None:
        """Closes and tells; what comes after the first call is ignored."""
        if self._over:
            return
        self.close()
        self._done(outcome)

    def cancel(self) -> None:
        self.close()

    def close(self) -> None:
        """Gives everything back; harmless twice."""
        if self._over:
            return
        self._over = True
        if self._fd >= 0:
            self.poller.timers.set(self, None, self._deadline)
            self.poller.forget(self._fd)
            self._fd = -1
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def connect_error(self) -> int:
        """The errno of the connection attempt, 0 when it is there."""
        assert self._sock is not None
        return self._sock.getsockopt(_SOL_SOCKET, _SO_ERROR)

    def _deadline(self, _now: Instant) -> None:
        if not self._over:
            self.timed_out()
