"""The kernel's connection table as it stands in /proc/net/ip_vs_conn_sync: read, summed up, compared. Pure.

A line is only taken apart as far as is needed: of a hundred thousand connections usually none has to be sent. Which
ones two directors should both have is decided by `identity`, the same bytes on both; those of short-lived states
(opening, closing) are no part of the comparison, since each side lets them expire by its own clock.
"""

from __future__ import annotations

import hashlib
import ipaddress
from array import array
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from holdfast.actors.connsync.syncproto import FLAG_INACTIVE, FLAG_TEMPLATE, Entry, encode_entry
from holdfast.kernel.ipvs_types import DestinationRecord, ServiceRecord, Timeouts

BUCKETS = 1024
DIGEST_BYTES = 8 * BUCKETS

PROTOCOLS = {b"TCP": 6, b"UDP": 17, b"SCTP": 132}
_TCP = (
    *("NONE", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK"),
    *("LISTEN", "SYNACK"),
)
_SCTP = (
    *("NONE", "INIT1", "INIT", "COOKIE_SENT", "COOKIE_REPLIED", "COOKIE_WAIT", "COOKIE", "COOKIE_ECHOED"),
    *("ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECEIVED", "SHUTDOWN_ACK_SENT", "REJECTED", "CLOSED"),
)
# linux/ip_vs.h: the enums of IP_VS_TCP_S_* and IP_VS_SCTP_S_*, printed without their beginning.
STATES: Mapping[int, Mapping[bytes, int]] = {
    6: {name.encode(): number for number, name in enumerate(_TCP)},
    17: {b"UDP": 0},
    132: {name.encode(): number for number, name in enumerate(_SCTP)},
}
TCP_TIMEOUTS_S = (2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120)
TEMPLATE_STATES = (b"NONE", b"ASSURED")
LASTING = frozenset({b"ESTABLISHED", b"UDP", b"ASSURED"})
SENT = LASTING | {b"FIN_WAIT", b"CLOSE_WAIT", b"SHUTDOWN_SENT", b"SHUTDOWN_RECEIVED"}
"""States in which data may still flow: a newcomer gets these."""


class Line(msgspec.Struct, frozen=True):
    """One connection of the table.

    words: protocol, client, port, virtual, port, destination, port as they stand there. left_s: until it expires.
    """

    words: tuple[bytes, ...]
    state: bytes
    by_sync: bool
    left_s: int

    @property
    def virtual(self) -> bytes:
        """The virtual address as it stands in the table."""
        return self.words[3]

    @property
    def identity(self) -> bytes:
        """What is the same on every director that has this connection."""
        return b" ".join(self.words)

    @property
    def is_template(self) -> bool:
        """A persistence entry, which speaks for all connections of a client."""
        return self.words[2] == b"0000" and self.state in TEMPLATE_STATES


def parse(text: bytes) -> Iterator[Line]:
    """The connections in (a part of) /proc/net/ip_vs_conn_sync, whole lines; what is no connection is left out."""
    for row in text.splitlines():
        words = row.split()
        if len(words) != 10 or words[0] not in PROTOCOLS or not words[9].isdigit():
            continue
        yield Line(tuple(words[:7]), words[7], words[8] == b"SYNC", int(words[9]))


def table_word(address: bytes) -> bytes:
    """A packed address as the table writes it."""
    if len(address) == 4:
        return address.hex().upper().encode()
    text = address.hex()
    return ":".join(text[at : at + 4] for at in range(0, 32, 4)).encode()


def packed_word(word: bytes) -> bytes:
    """The packed address of a word of the table. Raises ValueError."""
    return bytes.fromhex(word.decode("ascii").replace(":", ""))


class Scope(msgspec.Struct, frozen=True):
    """Virtual addresses, as words of the table, whose connections one node speaks for.

    owned: all of them, it is MASTER. shared: no VRRP instance decides; each node speaks for those that it made itself,
    and everybody else has them by sync. foreign: another node is MASTER.
    """

    owned: frozenset[bytes] = frozenset()
    foreign: frozenset[bytes] = frozenset()

    def ours(self, virtual: bytes, *, by_sync: bool) -> bool:
        """Whether we speak for a connection."""
        return virtual in self.owned or (virtual not in self.foreign and not by_sync)


class Digest:
    """The table of one director in BUCKETS numbers: equal sums mean equal connections."""

    def __init__(self) -> None:
        self._buckets = array("Q", bytes(DIGEST_BYTES))
        self.count = 0

    def add(self, identity: bytes) -> int:
        """One more connection; returns its number of 64 bits."""
        number = number_of(identity)
        self._buckets[number % BUCKETS] ^= number
        self.count += 1
        return number

    def packed(self) -> bytes:
        """For the wire: 8 bytes a bucket, little-endian."""
        return b"".join(value.to_bytes(8, "little") for value in self._buckets)

    def differs(self, packed: bytes) -> frozenset[int]:
        """Buckets that are not the same there. Raises ValueError when it is no digest."""
        if len(packed) != DIGEST_BYTES:
            raise ValueError(f"a digest of {len(packed)} bytes")
        return frozenset(
            index
            for index, value in enumerate(self._buckets)
            if value != int.from_bytes(packed[8 * index : 8 * index + 8], "little")
        )


def number_of(identity: bytes) -> int:
    """64 bits that stand for a connection."""
    return int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "little")


class Snapshot:
    """What one reading of the table gave for a scope: the connections by number, and their digest.

    others: connections that are sent to a newcomer and are not compared.
    """

    def __init__(self) -> None:
        self.digest = Digest()
        self.lines: dict[int, Line] = {}
        self.others: list[Line] = []

    def add(self, line: Line) -> None:
        """One connection of the scope."""
        if line.state in LASTING or line.is_template:
            self.lines[self.digest.add(line.identity)] = line
        elif line.state in SENT:
            self.others.append(line)

    def __len__(self) -> int:
        return len(self.lines)

    def numbers_in(self, buckets: frozenset[int]) -> bytes:
        """The numbers of all connections in these buckets, 8 bytes each."""
        return b"".join(number.to_bytes(8, "little") for number in self.lines if number % BUCKETS in buckets)


def snapshot_of(lines: Iterable[Line], scope: Scope) -> Snapshot:
    """Our connections: what we announce."""
    found = Snapshot()
    for line in lines:
        if scope.ours(line.words[3], by_sync=line.by_sync):
            found.add(line)
    return found


def snapshot_for(lines: Iterable[Line], owned: frozenset[bytes], shared: frozenset[bytes]) -> Snapshot:
    """What we have of another node's connections: of its own addresses all, of shared ones those that came by sync."""
    found = Snapshot()
    for line in lines:
        virtual = line.words[3]
        if virtual in owned or (line.by_sync and virtual in shared):
            found.add(line)
    return found


class Difference(msgspec.Struct, frozen=True):
    """lacking: what the other one has not. extra: how many it has beyond ours."""

    lacking: tuple[Line, ...]
    extra: int


def difference(snapshot: Snapshot, buckets: Iterable[int], numbers: bytes) -> Difference:
    """What the other one lacks, by the buckets that differ and its numbers in these. Raises ValueError."""
    if len(numbers) % 8:
        raise ValueError("numbers of 8 bytes each")
    there = {int.from_bytes(numbers[at : at + 8], "little") for at in range(0, len(numbers), 8)}
    wanted = frozenset(buckets)
    lacking, known = [], 0
    for number, line in snapshot.lines.items():
        if number % BUCKETS in wanted:
            if number in there:
                known += 1
            else:
                lacking.append(line)
    return Difference(tuple(lacking), len(there) - known)


class Services:
    """What the table does not say of a connection and a sync message needs: method, fwmark, timeouts."""

    def __init__(
        self,
        services: Iterable[tuple[ServiceRecord, Iterable[DestinationRecord]]] = (),
        timeouts: Timeouts | None = None,
    ) -> None:
        self._by_key: dict[tuple[int, bytes, int], tuple[int, dict[tuple[bytes, int], int]]] = {}
        self._engines: set[tuple[int, bytes, int]] = set()
        self._marked: dict[tuple[bytes, int], tuple[int, int, int]] = {}
        self._timeouts = timeouts or Timeouts()
        for record, destinations in services:
            self._add(record, destinations)

    def _add(self, record: ServiceRecord, destinations: Iterable[DestinationRecord]) -> None:
        spec = record.spec
        methods = {(packed(each.spec.address), each.spec.port): each.spec.method for each in destinations}
        if spec.key.fwmark:
            for place, method in methods.items():
                self._marked[place] = (spec.key.fwmark, method, spec.timeout_s)
        else:
            key = (spec.key.protocol, packed(spec.key.address), spec.key.port)
            self._by_key[key] = (spec.timeout_s, methods)
            if spec.engine:
                self._engines.add(key)

    def entry(self, line: Line) -> Entry | None:
        """The connection as the kernel would tell it; None when the line does not say enough.

        That is so for the templates of a persistence engine, whose data this table does not show.
        """
        protocol = PROTOCOLS[line.words[0]]
        template = line.is_template
        state = TEMPLATE_STATES.index(line.state) if template else STATES[protocol].get(line.state)
        if state is None:
            return None
        try:
            addresses = [packed_word(word) for word in line.words[1:6:2]]
            ports = [int(word, 16) for word in line.words[2:7:2]]
        except ValueError:
            return None
        place = (addresses[2], ports[2])
        service = (protocol, addresses[1], ports[1])
        if template and service in self._engines:
            return None
        persistence_s, methods = self._by_key.get(service, (0, {}))
        fwmark, method = 0, methods.get(place)
        if method is None:
            # Without a service of its own it belongs to one by firewall mark; its port may be 0, for every port.
            fwmark, method, persistence_s = self._marked.get(
                place, self._marked.get((place[0], 0), (0, 0, persistence_s))
            )
        flags = int(method)
        if template:
            flags |= FLAG_TEMPLATE | FLAG_INACTIVE
        elif not (protocol != 17 and line.state == b"ESTABLISHED"):
            flags |= FLAG_INACTIVE
        return Entry(
            protocol=protocol,
            client=addresses[0],
            client_port=ports[0],
            virtual=addresses[1],
            virtual_port=ports[1],
            destination=addresses[2],
            destination_port=ports[2],
            state=state,
            flags=flags,
            fwmark=fwmark,
            timeout_s=(persistence_s or line.left_s or 1) if template else self._timeout_s(protocol, state),
        )

    def _timeout_s(self, protocol: int, state: int) -> int:
        """The whole timeout of a state; 0 where the kernel of the other one knows best."""
        timeouts = self._timeouts
        if protocol == 17:
            return timeouts.udp_s or 300
        if protocol == 6:
            if state == 1 and timeouts.tcp_s:
                return timeouts.tcp_s
            if state == 4 and timeouts.tcp_fin_s:
                return timeouts.tcp_fin_s
            return TCP_TIMEOUTS_S[state]
        return 0

    def raw(self, line: Line) -> bytes | None:
        """The same as bytes of a sync message."""
        entry = self.entry(line)
        return None if entry is None else encode_entry(entry)


def packed(address: str) -> bytes:
    """The packed form of an address in text."""
    return ipaddress.ip_address(address).packed
