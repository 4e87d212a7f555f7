"""TCP_CHECK: connects, and closes at once."""

from __future__ import annotations

import select
from collections.abc import Callable

from holdfast.actors.checkers.base import Outcome, passed
from holdfast.actors.checkers.config import TcpCheck
from holdfast.actors.checkers.kinds import Checker
from holdfast.actors.checkers.messages import Target
from holdfast.actors.checkers.sockets import BROKEN, STREAM, SocketProbe, endpoint, failure, silence

_CONNECTED = select.EPOLLOUT | BROKEN


class TcpProbe(SocketProbe):
    """One connection."""

    __slots__ = ()

    def begin(self) -> None:
        if self.connect(STREAM):
            self._finish_connected()

    def ready(self, events: int) -> None:
        if self._over or not events & _CONNECTED:
            return
        # Writable and nothing else is connected: no need to ask.
        error = self.connect_error() if events & BROKEN else 0
        if error:
            self.finish(failure(error, self.connection))
        else:
            self._finish_connected()

    def timed_out(self) -> None:
        self.finish(silence(self.connection, "did not accept the connection"))

    def _finish_connected(self) -> None:
        self.finish(passed(f"{endpoint(self.connection)} accepted the connection"))


class TcpChecker(Checker[TcpCheck]):
    """A listening port."""

    spec_type = TcpCheck
    label = "TCP_CHECK"

    @classmethod
    def target_of(cls, spec: TcpCheck) -> str:
        return endpoint(spec.connection)

    def probe(self, step: int, done: Callable[[Outcome], None]) -> TcpProbe:
        return TcpProbe(self.around.poller, self.spec.connection, done)

    def success_words(self, target: Target, outcome: Outcome) -> str:
        return f"TCP connection to {target.real_server} success."
