"""One session on the wire: its machine, its packet ready in memory, its place in the tables of the engine."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from holdfast.actors.bfd.auth import Authenticator
from holdfast.actors.bfd.facts import Cause, Changed
from holdfast.actors.bfd.machine import BfdMachine
from holdfast.actors.bfd.memory import Kept, MemorySlot
from holdfast.actors.bfd.packet import CONTROL_PORT, MULTIHOP_PORT, ControlPacket, Reject, State
from holdfast.actors.bfd.profiles import SessionSpec
from holdfast.actors.runtime.machine import MS
from holdfast.kernel.udp_batch import Path, Row, Rows

if TYPE_CHECKING:
    from holdfast.actors.bfd.wheel import Group

LEAD_MOST = 2 * MS
_LEAD_PART = 20
"""A session falters when its neighbour has been silent for all but a twentieth of the detection time, and for all but
2 ms of it: with a multiplier of 1 a packet may come after nine tenths."""


class Lane:
    """A session as the engine has it. Only the engine and its wheel touch it; others read."""

    __slots__ = (
        "authenticator",
        "disabled",
        "downs",
        "falterings",
        "family",
        "group",
        "ifindex",
        "index",
        "joined_round",
        "known",
        "last_change",
        "last_change_at",
        "last_send_errno",
        "lead",
        "leaving",
        "limit",
        "machine",
        "memory_slot",
        "packet",
        "path",
        "placed_at",
        "port",
        "rejected",
        "row",
        "rows",
        "seals_each",
        "send_errors",
        "sent",
        "source_port",
        "spec",
        "ups",
    )

    def __init__(self, spec: SessionSpec, machine: BfdMachine, source_port: int, rows: Rows) -> None:
        self.spec = spec
        self.machine = machine
        self.source_port = source_port
        self.rows = rows
        self.family = socket.AF_INET if len(spec.neighbor) == 4 else socket.AF_INET6
        self.port = MULTIHOP_PORT if spec.multihop else CONTROL_PORT
        self.ifindex = 0
        """Of the interface the session is bound to, 0: not bound, or not there."""
        self.authenticator: Authenticator | None = None
        self.memory_slot: MemorySlot | None = None
        self.seals_each = False
        """Every packet is sealed anew (meticulous)."""
        self.path: Path | None = None
        """None while there is no source address to send from."""
        self.row: Row
        self.packet: ControlPacket | None = None
        """What is being sent periodically."""
        self.group: Group | None = None
        self.index = 0
        self.joined_round = 0
        self.sent = 0
        self.known = b""
        """The bytes that the fast path takes for this session, empty: none."""
        self.placed_at = 0
        self.limit = 0
        """The detection time in nanoseconds; 0: none runs, -1: ask the machine."""
        self.lead = 0
        """How long before its end the detection time is worth a word, 0: not at all."""
        self.falterings = 0
        """How often it came so near to its end."""
        self.leaving = False
        self.disabled = False
        """By an operator."""
        self.rejected: dict[Reject, int] = {}
        self.send_errors = 0
        self.last_send_errno = 0
        self.last_change = Changed(State.DOWN, State.DOWN, Cause.STARTED)
        self.last_change_at = 0
        self.ups = 0
        self.downs = 0

    @property
    def packets_out(self) -> int:
        """Packets sent so far."""
        group = self.group
        return self.sent + (0 if group is None else group.rounds - self.joined_round)

    def due_at(self) -> int:
        """The end of the machine's time as it stands now, 0: none runs. For the wheel, which asks often."""
        limit = self.limit
        if limit > 0:
            return self.machine.seen + limit  # type: ignore[operator]  # a limit is only there once a packet was
        return 0 if limit == 0 else self.machine.deadline or 0

    def refresh_limit(self) -> None:
        """After each step of the machine: how long after the last packet it wants to be called."""
        machine = self.machine
        if machine.deadline is None:
            self.limit = 0
        else:
            self.limit = -1 if machine.echo_interval_us else machine.detection
        self.lead = min(self.limit // _LEAD_PART, LEAD_MOST) if self.limit > 0 and machine.state is State.UP else 0

    def route(self, path: Path | None) -> None:
        """Sets where packets go; the row is made anew. The lane must be in no group."""
        assert self.group is None
        if self.path is not None:
            self.row.free()
        self.path = path
        if path is not None:
            self.row = self.rows.take(path)

    def load(self, packet: ControlPacket) -> None:
        """Makes `packet` what the row sends."""
        self.packet = packet
        if self.path is not None and not self.seals_each:
            self.row.write(self.path.packet(self.seal(packet)))

    def remember(self) -> None:
        """Keeps what a successor must know."""
        if self.memory_slot is not None:
            spec = self.spec
            kept = Kept(spec.name, spec.neighbor, spec.multihop, self.source_port, self.disabled, self.machine.memory)
            self.memory_slot.keep(kept)

    def seal(self, packet: ControlPacket) -> bytes:
        """The packet's bytes with authentication, if any."""
        authenticator = self.authenticator
        if authenticator is None:
            return packet.encode()
        sealed = authenticator.seal(packet)
        if self.memory_slot is not None:
            self.memory_slot.keep_sequences(authenticator)
        return sealed

    def reseal(self) -> None:
        """Meticulous: right before each sending, the packet with the next sequence number."""
        if self.packet is not None and self.path is not None:
            self.row.write(self.path.packet(self.seal(self.packet)))
