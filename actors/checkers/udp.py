"""UDP_CHECK: sends a datagram; silence is success unless an answer is required."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.actors.checkers.base import Outcome, failed, passed
from holdfast.actors.checkers.config import UdpCheck
from holdfast.actors.checkers.datagram import DatagramProbe
from holdfast.actors.checkers.kinds import Checker, Surroundings
from holdfast.actors.checkers.sockets import endpoint, silence

_TEXT = b"keepalived check - "
DEFAULT_PAYLOAD = (_TEXT * 2)[:32]
"""32 bytes of the text that keepalived sends."""


def judge_reply(spec: UdpCheck, answer: bytes) -> Outcome:
    """What an answer is worth. Length limits and pattern count only when a pattern was given (keepalived.conf(5))."""
    where = endpoint(spec.connection)
    if spec.require_reply and spec.reply:
        if not spec.min_reply_length <= len(answer) <= spec.max_reply_length:
            wanted = f"{spec.min_reply_length} to {spec.max_reply_length}"
            return failed(f"{where}: answer of {len(answer)} bytes, wanted {wanted}", reply_bytes=len(answer))
        # Compared as far as both go.
        for place, (got, want) in enumerate(zip(answer, spec.reply, strict=False)):
            mask = spec.reply_mask[place] if place < len(spec.reply_mask) else 0xFF
            if (got ^ want) & mask:
                return failed(f"{where}: answer differs at byte {place} (0x{got:02x})", reply_bytes=len(answer))
    return passed(f"{where}: answer of {len(answer)} bytes", reply_bytes=len(answer))


class UdpProbe(DatagramProbe):
    """One datagram."""

    __slots__ = ("_spec",)

    def __init__(self, around: Surroundings, spec: UdpCheck, done: Callable[[Outcome], None]) -> None:
        payload = DEFAULT_PAYLOAD if spec.payload is None else spec.payload
        super().__init__(around.poller, spec.connection, payload, done)
        self._spec = spec

    def judge(self, answer: bytes) -> Outcome:
        return judge_reply(self._spec, answer)

    def timed_out(self) -> None:
        if self._spec.require_reply:
            self.finish(silence(self.connection, "did not answer"))
        else:
            self.finish(passed(f"{endpoint(self.connection)}: no error came back, no answer required"))


class UdpChecker(Checker[UdpCheck]):
    """A port that datagrams go to."""

    spec_type = UdpCheck
    label = "UDP_CHECK"

    @classmethod
    def target_of(cls, spec: UdpCheck) -> str:
        return endpoint(spec.connection)

    def probe(self, step: int, done: Callable[[Outcome], None]) -> UdpProbe:
        return UdpProbe(self.around, self.spec, done)
