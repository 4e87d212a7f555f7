"""A run over a TCP connection, plain or TLS: connect, handshake, send, read; each step has connect_timeout.

Subclasses (http.py, smtp.py) say what is sent and judge what comes.
"""

from __future__ import annotations

import select
import ssl
from collections.abc import Callable

from holdfast.actors.checkers.base import Outcome, failed
from holdfast.actors.checkers.config import Connection
from holdfast.actors.checkers.sockets import BROKEN, STREAM, Poller, SocketProbe, endpoint, failure, silence

CHUNK_BYTES = 16384
_CHUNKS_A_TURN = 64
_CONNECTED = select.EPOLLOUT | BROKEN
_SOMETHING_CAME = select.EPOLLIN | select.EPOLLRDHUP | BROKEN


class StreamProbe(SocketProbe):
    """One connection that talks. what_is_missing: for the words of a time-out after the connection is there."""

    __slots__ = ("_connected", "_context", "_handshaken", "_name", "_out", "_quiet", "_tls", "what_is_missing")

    def __init__(
        self,
        poller: Poller,
        connection: Connection,
        done: Callable[[Outcome], None],
        *,
        context: ssl.SSLContext | None = None,
        server_name: str | None = None,
        quiet_shutdown: bool = True,
    ) -> None:
        """context: TLS is spoken. server_name: for SNI. quiet_shutdown: no close_notify at the end."""
        super().__init__(poller, connection, done)
        self._context = context
        self._name = server_name if server_name is not None and can_be_sni(server_name) else None
        self._quiet = quiet_shutdown
        self._tls: ssl.SSLSocket | None = None
        self._connected = False
        self._handshaken = context is None
        self._out = b""
        self.what_is_missing = "sent nothing"

    def opened(self) -> None:
        """The connection (and TLS) stands."""
        raise NotImplementedError

    def received(self, data: bytes) -> None:
        """Something came."""
        raise NotImplementedError

    def ended(self) -> None:
        """The server has closed its side."""
        raise NotImplementedError

    def begin(self) -> None:
        if self.connect(STREAM):
            self.ready(select.EPOLLOUT)

    def send(self, data: bytes) -> None:
        """Sends, now or as soon as there is room. Does not end the run by itself: an error shows at reading."""
        self._out += data
        self._flush()

    def ready(self, events: int) -> None:
        if self._over:
            return
        if not self._connected:
            if not events & _CONNECTED:
                return
            # Writable and nothing else is connected: no need to ask.
            error = self.connect_error() if events & BROKEN else 0
            if error:
                self.finish(failure(error, self.connection))
                return
            self._connected = True
            self.wait()
            if self._handshaken:
                self.opened()
                if not events & _SOMETHING_CAME:
                    return
        try:
            if not self._handshaken and not self._shake():
                return
            if self._out:
                self._flush()
            self._read()
        except ssl.SSLError as error:
            self.finish(failed(f"{endpoint(self.connection)}: TLS failed: {_tls_words(error)}"))
        except OSError as error:
            self.finish(failure(error.errno or 0, self.connection))

    def timed_out(self) -> None:
        if not self._connected:
            what = "did not accept the connection"
        elif not self._handshaken:
            what = "did not finish the TLS handshake"
        else:
            what = self.what_is_missing
        self.finish(silence(self.connection, what))

    def close(self) -> None:
        if self._tls is not None and not self._quiet and self._handshaken and not self._over:
            try:
                self._tls.unwrap()
            except (OSError, ValueError):
                # Ours is sent; the server's close_notify is not waited for.
                self._tls.close()
        super().close()

    def _shake(self) -> bool:
        if self._tls is None:
            assert self._sock is not None
            assert self._context is not None
            self._sock = self._tls = self._context.wrap_socket(
                self._sock, do_handshake_on_connect=False, server_hostname=self._name
            )
        try:
            self._tls.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        self._handshaken = True
        self.wait()
        self.opened()
        return not self._over

    def _flush(self) -> None:
        assert self._sock is not None
        try:
            sent = self._sock.send(self._out)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            # Whoever closes early may have answered before: the reader finds out.
            sent = len(self._out)
        self._out = self._out[sent:]

    def _read(self) -> None:
        for _ in range(_CHUNKS_A_TURN):
            if self._over:
                return
            assert self._sock is not None
            try:
                data = self._sock.recv(CHUNK_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except (ConnectionResetError, ssl.SSLError) as error:
                self.broken_off(error)
                return
            if not data:
                self.ended()
                return
            self.wait()
            self.received(data)
        if not self._over:
            # Edge-triggered: what is left will not be told again. The others get their turn first.
            self.poller.loop.call_soon(self.ready, select.EPOLLIN)

    def broken_off(self, error: OSError) -> None:
        """The stream ended in an error instead of an end."""
        if isinstance(error, ssl.SSLError):
            self.finish(failed(f"{endpoint(self.connection)}: TLS failed: {_tls_words(error)}"))
        else:
            self.finish(failure(error.errno or 0, self.connection))


def can_be_sni(name: str) -> bool:
    """Whether TLS can carry the name; one it cannot is left out rather than failing the check."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return bool(name) and not name.startswith(".") and "\0" not in name


def _tls_words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLEOFError):
        return "the connection ended within it"
    return (error.reason or str(error)).replace("_", " ").lower()
