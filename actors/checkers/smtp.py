"""SMTP_CHECK: banner, HELO, QUIT (RFC 5321 as keepalived speaks it: one-line replies only)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from holdfast.actors.checkers.base import Outcome, Schedule, failed, passed
from holdfast.actors.checkers.config import SmtpCheck
from holdfast.actors.checkers.kinds import Checker, Surroundings, plain_schedule
from holdfast.actors.checkers.messages import Target
from holdfast.actors.checkers.sockets import endpoint
from holdfast.actors.checkers.stream import StreamProbe
from holdfast.actors.runtime.machine import US, Duration

LINE_BYTES_MAX = 512
"""RFC 5321 section 4.5.3.1.5: a reply line has at most 512 octets."""

_FAILURES = {
    "banner": "Bad greeting banner from server",
    "HELO": "Bad HELO response from server",
    "QUIT": "No answer to QUIT from server",
}

_STEPS = 5  # connect, banner, answer to HELO, answer to QUIT, and one to spare


class SmtpDialogue:
    """The conversation without a socket: bytes in, what to send or the verdict out.

    One-line replies only: keepalived takes a multi-line greeting (`220-`) for a bad one, and so do we.
    """

    __slots__ = ("_buffer", "_stage", "_where", "helo_name")

    def __init__(self, helo_name: str, where: str) -> None:
        """where: of the server, for the words."""
        self.helo_name = helo_name
        self._where = where
        self._buffer = b""
        self._stage = "banner"

    @property
    def waiting_for(self) -> str:
        """What a server that falls silent now has not sent."""
        return {"banner": "sent no banner", "HELO": "did not answer HELO", "QUIT": "did not answer QUIT"}[self._stage]

    def feed(self, data: bytes) -> bytes | Outcome:
        """Takes what came. Bytes: to be sent (none: wait for more). An outcome: it is over."""
        self._buffer += data
        line, newline, rest = self._buffer.partition(b"\n")
        if len(line) > LINE_BYTES_MAX:
            return failed(f"{self._where}: line longer than {LINE_BYTES_MAX} bytes", stage=self._stage)
        if not newline:
            return b""
        self._buffer = rest
        return self._line(line.rstrip(b"\r"))

    def ended(self) -> Outcome:
        """The server closed before the verdict."""
        return failed(f"{self._where} closed the connection: {self.waiting_for}", stage=self._stage)

    def _line(self, line: bytes) -> bytes | Outcome:
        if self._stage == "QUIT":
            return passed(f"{self._where}: banner, HELO and QUIT answered")
        wanted = {"banner": b"220", "HELO": b"250"}[self._stage]
        if line[:3] != wanted or line[3:4] not in (b"", b" "):
            shown = line[:80].decode("ascii", "backslashreplace")
            return failed(f"{_FAILURES[self._stage]} {self._where}: {shown!r}", stage=self._stage)
        if self._stage == "banner":
            self._stage = "HELO"
            return f"HELO {self.helo_name}\r\n".encode("ascii", "backslashreplace")
        self._stage = "QUIT"
        return b"QUIT\r\n"


class SmtpProbe(StreamProbe):
    """One conversation."""

    __slots__ = ("_dialogue",)

    def __init__(self, around: Surroundings, spec: SmtpCheck, done: Callable[[Outcome], None]) -> None:
        super().__init__(around.poller, spec.connection, done)
        self._dialogue = SmtpDialogue(spec.helo_name, endpoint(spec.connection))

    def opened(self) -> None:
        """The server speaks first."""

    def received(self, data: bytes) -> None:
        answer = self._dialogue.feed(data)
        # Lines that came in one piece (a server that does not wait its turn) are taken one after the other.
        while isinstance(answer, bytes) and answer:
            self.send(answer)
            answer = self._dialogue.feed(b"")
        if isinstance(answer, Outcome):
            self.finish(answer)

    def ended(self) -> None:
        self.finish(self._dialogue.ended())

    def timed_out(self) -> None:
        self.what_is_missing = self._dialogue.waiting_for
        super().timed_out()


class SmtpChecker(Checker[SmtpCheck]):
    """A mail server."""

    spec_type = SmtpCheck
    label = "SMTP_CHECK"

    @classmethod
    def target_of(cls, spec: SmtpCheck) -> str:
        return endpoint(spec.connection)

    @classmethod
    def schedule_of(cls, spec: SmtpCheck) -> Schedule:
        # keepalived counts this check's failures in each round anew, so it retries on the first run and while down.
        cap = Duration(_STEPS * spec.connection.timeout_us * US)
        return msgspec.structs.replace(plain_schedule(spec, cap), rounds=True)

    def probe(self, step: int, done: Callable[[Outcome], None]) -> SmtpProbe:
        return SmtpProbe(self.around, self.spec, done)

    def success_words(self, target: Target, outcome: Outcome) -> str:
        return f"Remote SMTP server {target.real_server} succeed on service."

    def failure_words(self, target: Target, outcome: Outcome, retries: int) -> str:
        connection = self.spec.connection
        what = _FAILURES.get(str(outcome.detail.get("stage")), "Could not connect to server")
        return f"SMTP_CHECK {what} [{connection.address}]:{connection.port}"
