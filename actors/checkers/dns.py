"""DNS_CHECK: one question over UDP; any answer to it without an error will do (an empty one too).

dnspython (forty modules) is imported by whoever asks a question: most hosts check no name server. `actor.prepare` does
it before cells are forked when the configuration has such a check.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from holdfast.actors.checkers.base import Outcome, failed, passed
from holdfast.actors.checkers.config import DnsCheck
from holdfast.actors.checkers.datagram import DatagramProbe
from holdfast.actors.checkers.kinds import Checker, Surroundings
from holdfast.actors.checkers.sockets import NotRunnable, Probe, endpoint, silence

_HEADER_BYTES = 12


def question_of(spec: DnsCheck) -> bytes:
    """The query with id 0, recursion desired, class IN. Raises ValueError when the name or type is none."""
    import dns.exception  # noqa: PLC0415 - see above, as below
    import dns.message  # noqa: PLC0415
    import dns.name  # noqa: PLC0415
    import dns.rdatatype  # noqa: PLC0415

    try:
        name = dns.name.from_text(spec.query_name)
        query = dns.message.make_query(name, dns.rdatatype.from_text(spec.query_type), id=0)
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"{spec.query_name} {spec.query_type}: {error}") from None
    return bytes(query.to_wire())


def judge_answer(answer: bytes, query_id: int, where: str) -> Outcome | None:
    """None: it answers another question (late, or forged)."""
    import dns.exception  # noqa: PLC0415
    import dns.flags  # noqa: PLC0415
    import dns.message  # noqa: PLC0415
    import dns.rcode  # noqa: PLC0415

    if len(answer) < _HEADER_BYTES:
        return failed(f"{where}: answer of {len(answer)} bytes is no DNS message", reply_bytes=len(answer))
    try:
        message = dns.message.from_wire(answer, question_only=True, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError) as error:
        if int.from_bytes(answer[:2], "big") != query_id:
            return None
        return failed(f"{where}: answer is no DNS message: {error}", reply_bytes=len(answer))
    if message.id != query_id:
        return None
    if not message.flags & dns.flags.QR:
        return failed(f"{where}: sent a question instead of an answer")
    rcode = message.rcode()
    name = dns.rcode.to_text(rcode)
    if rcode != dns.rcode.NOERROR:
        return failed(f"{where}: answered {name}", rcode=int(rcode))
    return passed(f"{where}: answered {name}", rcode=0)


class DnsProbe(DatagramProbe):
    """One question."""

    __slots__ = ("_query_id",)

    def __init__(
        self, around: Surroundings, spec: DnsCheck, question: bytes, query_id: int, done: Callable[[Outcome], None]
    ) -> None:
        super().__init__(around.poller, spec.connection, query_id.to_bytes(2, "big") + question[2:], done)
        self._query_id = query_id

    def judge(self, answer: bytes) -> Outcome | None:
        return judge_answer(answer, self._query_id, endpoint(self.connection))

    def timed_out(self) -> None:
        self.finish(silence(self.connection, "did not answer"))


class DnsChecker(Checker[DnsCheck]):
    """A name server."""

    spec_type = DnsCheck
    label = "DNS_CHECK"

    def __init__(self, spec: DnsCheck, around: Surroundings) -> None:
        super().__init__(spec, around)
        self._question = b""
        self._problem = ""
        try:
            self._question = question_of(spec)
        except ValueError as error:
            self._problem = str(error)

    @classmethod
    def target_of(cls, spec: DnsCheck) -> str:
        return endpoint(spec.connection)

    def probe(self, step: int, done: Callable[[Outcome], None]) -> Probe:
        if self._problem:
            return NotRunnable(self._problem, done)
        query_id = random.SystemRandom().getrandbits(16)
        return DnsProbe(self.around, self.spec, self._question, query_id, done)
