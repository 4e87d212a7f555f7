"""PING_CHECK: an ICMP echo through a datagram socket; the kernel chooses the identifier and hands us our replies only.

Who may open such a socket says the sysctl net.ipv4.ping_group_range (for IPv6 too). Like keepalived we widen it to
include our group while there is a PING_CHECK, and put it back at the end; `PingRange` does that.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

from holdfast.actors.checkers.base import Outcome, passed
from holdfast.actors.checkers.config import PingCheck
from holdfast.actors.checkers.kinds import Checker, Surroundings
from holdfast.actors.checkers.sockets import DATAGRAM, SocketProbe, failure, silence

DATA_BYTES = 128
_ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
_ECHO_REPLY = {8: 0, 128: 129}
_DATA = bytes(place & 0xFF for place in range(DATA_BYTES))
_SYSCTL = Path("/proc/sys/net/ipv4/ping_group_range")


def echo_request(family: int, sequence: int) -> bytes:
    """Type, code, checksum (the kernel's), identifier (the kernel's), sequence, 128 bytes."""
    return bytes((_ECHO_REQUEST[socket.AddressFamily(family)], 0, 0, 0, 0, 0)) + sequence.to_bytes(2, "big") + _DATA


def is_reply(family: int, sequence: int, packet: bytes) -> bool:
    """True for the answer to `echo_request(family, sequence)`."""
    wanted = _ECHO_REPLY[_ECHO_REQUEST[socket.AddressFamily(family)]]
    return len(packet) >= 8 and packet[0] == wanted and int.from_bytes(packet[6:8], "big") == sequence


class PingProbe(SocketProbe):
    """One echo."""

    __slots__ = ("_sequence",)

    def __init__(self, around: Surroundings, spec: PingCheck, sequence: int, done: Callable[[Outcome], None]) -> None:
        super().__init__(around.poller, spec.connection, done)
        self._sequence = sequence

    def begin(self) -> None:
        protocol = socket.IPPROTO_ICMPV6 if ":" in self.connection.address else socket.IPPROTO_ICMP
        if not self.connect(DATAGRAM, protocol):
            return
        assert self._sock is not None
        try:
            self._sock.send(echo_request(self._sock.family, self._sequence))
        except OSError as error:
            self.finish(failure(error.errno or 0, self.connection))

    def ready(self, events: int) -> None:
        while not self._over:
            assert self._sock is not None
            try:
                packet = self._sock.recv(2048)
            except BlockingIOError:
                return
            except OSError as error:
                self.finish(failure(error.errno or 0, self.connection))
                return
            if is_reply(self._sock.family, self._sequence, packet):
                self.finish(passed(f"{self.connection.address} answered the echo", sequence=self._sequence))

    def timed_out(self) -> None:
        self.finish(silence(self.connection, "did not answer the echo"))


class PingChecker(Checker[PingCheck]):
    """A host that answers."""

    spec_type = PingCheck
    label = "ICMP CHECK"

    def __init__(self, spec: PingCheck, around: Surroundings) -> None:
        # fwmark has no effect on a PING_CHECK (keepalived.conf(5)); a port has no meaning.
        super().__init__(spec, around)
        self._sequence = 0
        around.kept.setdefault(_KEPT, PingRange(around.run_dir)).widen()

    @classmethod
    def target_of(cls, spec: PingCheck) -> str:
        return spec.connection.address

    def probe(self, step: int, done: Callable[[Outcome], None]) -> PingProbe:
        self._sequence = (self._sequence + 1) & 0xFFFF
        return PingProbe(self.around, self.spec, self._sequence, done)


_KEPT = "ping-range"


class PingRange:
    """The sysctl that says which groups may ping. What it was before us stands in the run directory, so that it is put
    back after a crash as well."""

    def __init__(self, run_dir: Path, sysctl: Path = _SYSCTL) -> None:
        self._memory = run_dir / "ping_group_range"
        self._sysctl = sysctl

    def widen(self) -> None:
        """Our group may. Without the right to say so the checks tell that they could not be run."""
        with contextlib.suppress(OSError, ValueError):
            before = self._sysctl.read_text()
            low, high = (int(word) for word in before.split())
            group = os.getegid()
            if low <= group <= high:
                return
            wider = (group, group) if low > high else (min(low, group), max(high, group))
            self._sysctl.write_text("{} {}".format(*wider))
            if not self._memory.exists():
                self._memory.write_text(before)

    def restore(self) -> None:
        """As it was before `widen`; nothing if we changed nothing."""
        with contextlib.suppress(OSError):
            before = self._memory.read_text()
            self._memory.unlink()
            self._sysctl.write_text(before)


def restore_range(around: Surroundings) -> None:
    """At a clean stop."""
    kept = around.kept.get(_KEPT)
    if kept is not None:
        kept.restore()
