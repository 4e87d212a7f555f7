"""Who is who among the sessions: by discriminator, by neighbour; and the numbers that nobody else has.

Used by engine.py only.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket

from holdfast.actors.bfd.lane import Lane
from holdfast.actors.bfd.packet import MAX_U32
from holdfast.actors.bfd.profiles import SessionSpec
from holdfast.kernel.base import KernelError

_FIRST_PORT, _LAST_PORT = 49152, 65535
"""RFC 5881 section 4: source ports."""


class Directory:
    """The sessions that packets may be for. A session on its way out is found by its discriminator only."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._by_discriminator: dict[int, Lane] = {}
        self._by_neighbor: dict[tuple[bytes, int], list[Lane]] = {}
        self._source_ports: set[int] = set()

    def enlist(self, lane: Lane) -> None:
        """Packets may come for it."""
        self._by_discriminator[lane.machine.local_discriminator] = lane
        self._by_neighbor.setdefault((lane.spec.neighbor, lane.port), []).append(lane)

    def dismiss(self, lane: Lane) -> None:
        """It is on its way out: no packet without its discriminator is for it any more."""
        key = (lane.spec.neighbor, lane.port)
        remaining = self._by_neighbor[key]
        remaining.remove(lane)
        if not remaining:
            del self._by_neighbor[key]

    def forget(self, lane: Lane) -> None:
        """It is gone, and its numbers are free."""
        del self._by_discriminator[lane.machine.local_discriminator]
        self._source_ports.discard(lane.source_port)

    def by_discriminator(self, number: int) -> Lane | None:
        """The session with this local discriminator."""
        return self._by_discriminator.get(number)

    def find(self, family: int, port: int, yours: int, source: bytes, destination: bytes, ifindex: int) -> Lane | None:
        """RFC 5880 section 6.8.6 and RFC 5881 section 3: by discriminator, else by addresses and interface.

        destination: empty where it is not told, since no two sessions have the neighbour.
        """
        if yours:
            lane = self._by_discriminator.get(yours)
            return lane if lane is not None and lane.family == family and lane.port == port else None
        for lane in self._by_neighbor.get((source, port), ()):
            if lane.spec.interface and lane.ifindex != ifindex:
                continue
            if lane.spec.source is None or not destination or lane.spec.source == destination:
                return lane
        return None

    def ambiguous(self, lane: Lane) -> bool:
        """Its neighbour is another session's as well: only where packets arrive tells the two apart."""
        return len(self._by_neighbor.get((lane.spec.neighbor, lane.port), ())) > 1

    def new_discriminator(self, wanted: int | None) -> int:
        """`wanted` if it is free; else random, so that a stranger cannot guess it (RFC 5880 section 10)."""
        if wanted and wanted not in self._by_discriminator:
            return wanted
        while True:
            number = self._chance.randrange(1, MAX_U32 + 1)
            if number not in self._by_discriminator:
                return number

    def new_source_port(self, wanted: int | None) -> int:
        """`wanted` if it is free; else one of its own for each session while there are enough."""
        if wanted and wanted not in self._source_ports:
            self._source_ports.add(wanted)
            return wanted
        span = _LAST_PORT - _FIRST_PORT + 1
        start = self._chance.randrange(span)
        for step in range(span):
            port = _FIRST_PORT + (start + step) % span
            if port not in self._source_ports:
                self._source_ports.add(port)
                return port
        return _FIRST_PORT + start


def interface_index(spec: SessionSpec) -> int:
    """Of the interface the session is bound to; 0: not bound, or the interface is not there."""
    if spec.interface:
        with contextlib.suppress(OSError):
            return socket.if_nametoindex(spec.interface)
    return 0


def source_of(lane: Lane, ifindex: int) -> bytes | None:
    """The packed local address that the session sends from, None: there is none now."""
    spec, family = lane.spec, lane.family
    if spec.interface and not ifindex:
        return None
    neighbor = socket.inet_ntop(family, spec.neighbor)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            if ifindex:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, spec.interface.encode() + b"\0")
            scope = (0, ifindex) if family == socket.AF_INET6 else ()
            if spec.source is not None:
                probe.bind((socket.inet_ntop(family, spec.source), 0, *scope))
                return spec.source
            # Nothing is sent: a datagram socket asks the kernel for the route only.
            probe.connect((neighbor, lane.port, *scope))
            return socket.inet_pton(family, probe.getsockname()[0].partition("%")[0])
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.EPERM):
                raise KernelError("find source for", spec.name, error.errno) from error
            return None
