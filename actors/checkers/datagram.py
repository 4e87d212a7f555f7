"""A run with one datagram and (perhaps) its answer: the common part of udp.py and dns.py."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.actors.checkers.base import Outcome, failed
from holdfast.actors.checkers.config import Connection
from holdfast.actors.checkers.sockets import DATAGRAM, Poller, SocketProbe, endpoint, failure

_LARGEST = 65536
_DATAGRAMS_MAX = 64


class DatagramProbe(SocketProbe):
    """Sends `question`, gives what comes to `judge`. The socket is connected: an ICMP error reaches it."""

    __slots__ = ("_datagrams", "question")

    def __init__(
        self, poller: Poller, connection: Connection, question: bytes, done: Callable[[Outcome], None]
    ) -> None:
        super().__init__(poller, connection, done)
        self.question = question
        self._datagrams = 0

    def judge(self, answer: bytes) -> Outcome | None:
        """None: that is not for us, wait on."""
        raise NotImplementedError

    def begin(self) -> None:
        if not self.connect(DATAGRAM):
            return
        assert self._sock is not None
        try:
            self._sock.send(self.question)
        except OSError as error:
            self.finish(failure(error.errno or 0, self.connection))

    def ready(self, events: int) -> None:
        while not self._over:
            assert self._sock is not None
            try:
                answer = self._sock.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError as error:
                # That is the ICMP error: port or host unreachable.
                self.finish(failure(error.errno or 0, self.connection))
                return
            self._datagrams += 1
            if self._datagrams > _DATAGRAMS_MAX:
                self.finish(
                    failed(f"{endpoint(self.connection)}: more than {_DATAGRAMS_MAX} datagrams that do not fit")
                )
                return
            outcome = self.judge(answer)
            if outcome is not None:
                self.finish(outcome)
