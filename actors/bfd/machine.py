"""One BFD session: RFC 5880 sections 6.1 to 6.8 in asynchronous mode, the answering side of demand mode, echo.

Facts go in (`PacketHeard`, `Deadline`, `Reconfigured` ...), orders come out (`Transmit`, `Answer`, `Changed` ...).

Two things happen without a call, since a session sees dozens of packets a second that change nothing:
- Sending. `Transmit` says what is to be sent periodically and how often from now on; the carrier (engine.py) sends,
  with the jitter of `jittered`, until the next `Transmit`.
- Hearing. After `step(PacketHeard(p))` with `settled` true, the same packet again would change nothing but the
  instant: the carrier then only sets `seen`. `deadline` is computed from `seen`, so nothing is re-armed: who wakes
  up at an old deadline looks at it again.
"""

from __future__ import annotations

import msgspec

from holdfast.actors.bfd.facts import (
    SLOW_TX_US,
    Answer,
    Cause,
    Changed,
    Disabled,
    EchoHeard,
    Enabled,
    Memory,
    PacketHeard,
    PathLost,
    Reconfigured,
    Refreshed,
    SessionConfig,
    Transmit,
    TransmitEcho,
)
from holdfast.actors.bfd.packet import ControlPacket, Diagnostic, State
from holdfast.actors.runtime.machine import US, Action, Deadline, Duration, Fact, Instant


class BfdMachine:
    """One session. Not shared between threads. Names in `bfd.` are the RFC's variables (section 6.8.1)."""

    __slots__ = (
        "_advertised_rx_us",
        "_advertised_tx_us",
        "_awaiting_clear",
        "_detection_rx_us",
        "_echo_interval_us",
        "_echo_seen",
        "_pending",
        "_sent",
        "_tx_in_force_us",
        "config",
        "heard",
        "local_diagnostic",
        "local_discriminator",
        "longest_gap",
        "polling",
        "remote_demand",
        "remote_diagnostic",
        "remote_discriminator",
        "remote_independent",
        "remote_min_echo_rx_us",
        "remote_min_rx_us",
        "remote_min_tx_us",
        "remote_mult",
        "remote_state",
        "seen",
        "state",
        "tracker_up",
    )

    def __init__(self, config: SessionConfig, local_discriminator: int) -> None:
        """local_discriminator: 1..2**32-1, unique on this host, hard to guess (section 10)."""
        assert local_discriminator > 0
        self.config = config
        self.state = State.DOWN
        self.local_discriminator = local_discriminator
        self.remote_discriminator = 0
        self.remote_state = State.DOWN
        self.local_diagnostic = int(Diagnostic.NONE)
        self.remote_diagnostic = int(Diagnostic.NONE)
        self.remote_min_rx_us = 1
        self.remote_min_tx_us = 0
        self.remote_min_echo_rx_us = 0
        self.remote_mult = 0
        self.remote_demand = False
        self.remote_independent = False
        self.polling = False
        """A Poll Sequence of ours runs: P is in every packet."""
        self.seen: Instant | None = None
        """When the last accepted packet came. The carrier sets it for packets that change nothing else."""
        self.heard = 0
        """Accepted packets, counted by the carrier."""
        self.longest_gap = 0
        """The longest time between two accepted packets while Up, in nanoseconds, kept by the carrier."""
        self.tracker_up = False
        """What those who track the session are told: false until Up, and after every loss of it, but not when the
        peer went down on purpose (AdminDown; RFC 5882 section 4.2)."""
        self._tx_in_force_us = config.idle_tx_us
        self._detection_rx_us = config.required_min_rx_us
        self._advertised_tx_us = config.idle_tx_us
        self._advertised_rx_us = config.required_min_rx_us
        self._pending = False
        self._awaiting_clear = False
        self._sent: Transmit | None = None
        self._echo_interval_us = 0
        self._echo_seen = Instant(0)

    # ------------------------------------------------------------------ what others ask

    @property
    def transmit_interval_us(self) -> int:
        """Section 6.8.2: the larger of what we want to send and what the peer can take; 0: it takes nothing."""
        if self.remote_min_rx_us == 0:
            return 0
        return max(self._tx_in_force_us, self.remote_min_rx_us)

    @property
    def detection(self) -> Duration:
        """Section 6.8.4, asynchronous mode: the peer's multiplier times the agreed interval. 0 before a packet."""
        return Duration(self.remote_mult * max(self._detection_rx_us, self.remote_min_tx_us) * US)

    @property
    def receive_interval_us(self) -> int:
        """The agreed interval at which the peer sends."""
        return max(self._detection_rx_us, self.remote_min_tx_us)

    @property
    def echo_interval_us(self) -> int:
        """How often we send echoes now, 0: not."""
        return self._echo_interval_us

    @property
    def deadline(self) -> Instant | None:
        """When `step(Deadline(), now)` is wanted, None: never. Moves on by itself whenever `seen` does."""
        if self.seen is None or self.state is State.ADMIN_DOWN:
            return None
        if self.state is State.DOWN and self.remote_discriminator == 0:
            return None
        at = self.seen + self.detection
        if self._echo_interval_us:
            at = min(at, self._echo_seen + self._echo_detection)
        return Instant(at)

    @property
    def settled(self) -> bool:
        """The packet just heard would change nothing but `seen` if it came again."""
        return self.state is State.UP and self.remote_state is State.UP and not self._awaiting_clear

    @property
    def memory(self) -> Memory:
        """To be kept for `restore`."""
        return Memory(
            state=self.state,
            local_discriminator=self.local_discriminator,
            remote_discriminator=self.remote_discriminator,
            remote_state=self.remote_state,
            remote_min_rx_us=self.remote_min_rx_us,
            remote_min_tx_us=self.remote_min_tx_us,
            remote_min_echo_rx_us=self.remote_min_echo_rx_us,
            remote_mult=self.remote_mult,
            remote_demand=self.remote_demand,
            local_diagnostic=self.local_diagnostic,
            remote_diagnostic=self.remote_diagnostic,
            tracker_up=self.tracker_up,
        )

    # ------------------------------------------------------------------ what happens

    def start(self, now: Instant) -> list[Action]:
        """The first orders of a new session: a first packet at once, unless it is passive."""
        return [Changed(self.state, self.state, Cause.STARTED), *self._transmission()]

    def restore(self, memory: Memory, now: Instant) -> list[Action]:
        """Goes on where a former process ended: the peer hears the same discriminators and notices nothing.

        The detection time runs from now. An AdminDown of the former life was its end, so it starts Down.
        """
        self.state = State.DOWN if memory.state is State.ADMIN_DOWN else memory.state
        self.local_discriminator = memory.local_discriminator
        self.remote_discriminator = memory.remote_discriminator
        self.remote_state = memory.remote_state
        self.remote_min_rx_us = memory.remote_min_rx_us
        self.remote_min_tx_us = memory.remote_min_tx_us
        self.remote_min_echo_rx_us = memory.remote_min_echo_rx_us
        self.remote_mult = memory.remote_mult
        self.remote_demand = memory.remote_demand
        self.local_diagnostic = memory.local_diagnostic
        self.remote_diagnostic = memory.remote_diagnostic
        self.tracker_up = memory.tracker_up
        self.seen = now
        changed = Changed(self.state, self.state, Cause.RESTORED)
        if self.state is State.UP:
            # What the peer was told last is not known to the microsecond: a poll settles it.
            self._advertised_tx_us = self._tx_in_force_us = self.config.desired_min_tx_us
            self.polling = True
        return [changed, *self._echo(now), *self._transmission()]

    def step(self, fact: Fact, now: Instant) -> list[Action]:
        """Takes one fact; the actions are to be carried out in order.

        An answer to a poll comes last, so that it tells of what the poll changed.
        """
        match fact:
            case PacketHeard():
                return self._heard(fact.packet, now)
            case Deadline():
                return self._expired(now)
            case EchoHeard():
                self._echo_seen = now
                return []
            case Reconfigured():
                return self._reconfigured(fact.config, now)
            case Disabled():
                return self._disabled(fact.diagnostic, now)
            case Enabled():
                return self._enabled(now)
            case PathLost():
                return self._path_lost(now)
            case _:
                raise AssertionError(f"unknown fact {fact!r}")

    # ------------------------------------------------------------------ reception, section 6.8.6

    def _heard(self, packet: ControlPacket, now: Instant) -> list[Action]:
        before = self._remembered()
        silent_before = self.seen
        detection_before, mult_before = self.detection, self.remote_mult
        self.seen = now
        self.remote_discriminator = packet.my_discriminator
        self.remote_state = packet.state
        self.remote_diagnostic = packet.diagnostic
        self.remote_demand = packet.demand
        self.remote_independent = packet.control_plane_independent
        self.remote_min_rx_us = packet.required_min_rx_us
        self.remote_min_tx_us = packet.desired_min_tx_us
        self.remote_min_echo_rx_us = packet.required_min_echo_rx_us
        self.remote_mult = packet.detect_mult
        if packet.final and self.polling:
            self._poll_ended()
        elif not packet.final and self._awaiting_clear:
            # Section 6.8.3, the third choice: only after a packet without F may the next poll begin.
            self._awaiting_clear = False
            if self._pending:
                self._pending = False
                self._advertise()
        if self.state is State.ADMIN_DOWN:
            return self._transmission()
        actions: list[Action] = []
        new, cause = self._next_state(packet.state)
        if new is not self.state:
            silent = None if silent_before is None else Duration(now - silent_before)
            actions.append(self._enter(new, cause, silent, detection_before, mult_before))
        elif before != self._remembered():
            actions.append(Refreshed())
        actions += self._echo(now)
        actions += self._transmission()
        if packet.poll:
            actions.append(Answer(self._packet(final=True)))
        return actions

    def _next_state(self, heard: State) -> tuple[State, Cause]:
        """The table of section 6.2 and the prose of 6.8.6."""
        if self.state is State.DOWN:
            if heard is State.DOWN:
                return State.INIT, Cause.HANDSHAKE
            return (State.UP if heard is State.INIT else State.DOWN), Cause.HANDSHAKE
        if heard is State.ADMIN_DOWN:
            return State.DOWN, Cause.PEER_ADMIN_DOWN
        if self.state is State.INIT:
            return (State.INIT if heard is State.DOWN else State.UP), Cause.HANDSHAKE
        return (State.DOWN if heard is State.DOWN else State.UP), Cause.PEER_DOWN

    # ------------------------------------------------------------------ time

    def _expired(self, now: Instant) -> list[Action]:
        deadline = self.deadline
        if deadline is None or now < deadline or self.seen is None:
            return []
        silent = Duration(now - self.seen)
        detection = self.detection
        if self.state is State.DOWN:
            # Section 6.8.1: after a detection time without a packet the peer's discriminator is forgotten.
            self._forget_peer()
            return [Refreshed(), *self._transmission()]
        if silent < detection:
            changed = self._enter(State.DOWN, Cause.ECHO_LOST, silent, detection, self.remote_mult)
        else:
            changed = self._enter(State.DOWN, Cause.SILENT, silent, detection, self.remote_mult)
            self._forget_peer()
        # The packet first: the peer may be alive and only deaf, and it leaves in microseconds.
        return [*self._transmission(), changed, *self._echo(now)]

    def _forget_peer(self) -> None:
        self.remote_discriminator = 0
        self.remote_state = State.DOWN
        self.remote_demand = False
        # The interval that the peer can take is unknown again (6.8.1: initially 1).
        self.remote_min_rx_us = 1
        self.remote_min_echo_rx_us = 0

    # ------------------------------------------------------------------ orders from this side

    def _reconfigured(self, config: SessionConfig, now: Instant) -> list[Action]:
        self.config = config
        if self.state is not State.UP:
            self._advertise()
        elif self.polling or self._awaiting_clear:
            self._pending = self._wanted() != (self._advertised_tx_us, self._advertised_rx_us)
        else:
            self._advertise()
        return [Refreshed(), *self._echo(now), *self._transmission()]

    def _disabled(self, diagnostic: Diagnostic, now: Instant) -> list[Action]:
        """Section 6.8.16. The carrier goes on sending AdminDown for a detection time or longer."""
        if self.state is State.ADMIN_DOWN:
            return []
        changed = self._enter(
            State.ADMIN_DOWN, Cause.DISABLED, self._silent(now), self.detection, self.remote_mult, diagnostic
        )
        return [changed, *self._echo(now), *self._transmission()]

    def _enabled(self, now: Instant) -> list[Action]:
        if self.state is not State.ADMIN_DOWN:
            return []
        changed = self._enter(State.DOWN, Cause.ENABLED, self._silent(now), self.detection, self.remote_mult)
        return [changed, *self._transmission()]

    def _path_lost(self, now: Instant) -> list[Action]:
        if self.state not in (State.INIT, State.UP):
            return []
        changed = self._enter(State.DOWN, Cause.PATH_DOWN, self._silent(now), self.detection, self.remote_mult)
        return [changed, *self._echo(now), *self._transmission()]

    # ------------------------------------------------------------------ states

    def _enter(
        self,
        new: State,
        cause: Cause,
        silent: Duration | None,
        detection: Duration,
        multiplier: int,
        diagnostic: Diagnostic = Diagnostic.NONE,
    ) -> Changed:
        old = self.state
        self.state = new
        if new is State.ADMIN_DOWN:
            self.local_diagnostic = diagnostic
        elif new is State.DOWN and cause is not Cause.ENABLED:
            self.local_diagnostic = _DIAGNOSTIC_OF[cause]
        else:
            self.local_diagnostic = Diagnostic.NONE
        if new is State.UP:
            self.tracker_up = True
            self._advertise()
        else:
            if old is State.UP and cause not in (Cause.PEER_ADMIN_DOWN, Cause.DISABLED):
                self.tracker_up = False
            # No interval is in force between the two any more: no poll is needed to change one.
            self.polling = self._awaiting_clear = self._pending = False
            self._advertise()
        return Changed(old, new, cause, silent, detection, multiplier)

    def _silent(self, now: Instant) -> Duration | None:
        return None if self.seen is None else Duration(now - self.seen)

    # ------------------------------------------------------------------ intervals and polls, sections 6.5 and 6.8.3

    def _wanted(self) -> tuple[int, int]:
        """(Desired Min TX, Required Min RX) that the packet should carry now."""
        config = self.config
        tx_us = config.desired_min_tx_us if self.state is State.UP else max(config.idle_tx_us, SLOW_TX_US)
        rx_us = config.required_min_rx_us
        if self._echo_interval_us:
            rx_us = max(rx_us, config.echo_control_us)
        return tx_us, rx_us

    def _advertise(self) -> None:
        """Puts the wanted intervals into the packets; while Up a change begins a Poll Sequence."""
        tx_us, rx_us = self._wanted()
        changed = (tx_us, rx_us) != (self._advertised_tx_us, self._advertised_rx_us)
        self._advertised_tx_us, self._advertised_rx_us = tx_us, rx_us
        if self.state is not State.UP:
            self._tx_in_force_us, self._detection_rx_us = tx_us, rx_us
            return
        # A larger transmit interval and a smaller receive interval wait for the end of the poll, the others do not.
        self._tx_in_force_us = min(tx_us, self._tx_in_force_us)
        self._detection_rx_us = max(rx_us, self._detection_rx_us)
        if changed:
            self.polling = True

    def _poll_ended(self) -> None:
        self.polling = False
        self._awaiting_clear = True
        self._tx_in_force_us, self._detection_rx_us = self._advertised_tx_us, self._advertised_rx_us

    # ------------------------------------------------------------------ echo, section 6.8.8 and RFC 5881

    @property
    def _echo_detection(self) -> Duration:
        return Duration(self.config.detect_mult * self._echo_interval_us * US)

    def _echo(self, now: Instant) -> list[Action]:
        """Starts, stops or paces our echoes: only while Up, only when the peer loops them."""
        wanted = 0
        if self.config.echo_tx_us and self.remote_min_echo_rx_us and self.state is State.UP:
            wanted = max(self.config.echo_tx_us, self.remote_min_echo_rx_us)
        if wanted == self._echo_interval_us:
            return []
        self._echo_interval_us = wanted
        self._echo_seen = now
        if self.state is State.UP:
            if self.polling or self._awaiting_clear:
                self._pending = True
            else:
                self._advertise()
        return [TransmitEcho(wanted)]

    # ------------------------------------------------------------------ transmission, section 6.8.7

    def _transmission(self) -> list[Action]:
        sent = self._sent
        wanted = Transmit(None, 0)
        if self._may_send_periodically():
            packet = self._packet(final=False)
            last = None if sent is None else sent.packet
            # Only the P and F bits may differ without being told at once.
            fresh = last is None or msgspec.structs.replace(last, poll=packet.poll) != packet
            wanted = Transmit(packet, self.transmit_interval_us, fresh)
        if sent is not None and wanted.packet == sent.packet and wanted.interval_us == sent.interval_us:
            return []
        if sent is None and wanted.packet is None:
            return []
        self._sent = wanted
        return [wanted]

    def _may_send_periodically(self) -> bool:
        if self.config.passive and self.remote_discriminator == 0:
            return False
        if self.remote_min_rx_us == 0:
            return False
        both_up = self.state is State.UP and self.remote_state is State.UP
        return not (self.remote_demand and both_up and not self.polling)

    def _packet(self, *, final: bool) -> ControlPacket:
        config = self.config
        return ControlPacket(
            state=self.state,
            diagnostic=self.local_diagnostic,
            poll=self.polling and not final,
            final=final,
            authenticated=config.authenticated,
            detect_mult=config.detect_mult,
            my_discriminator=self.local_discriminator,
            your_discriminator=self.remote_discriminator,
            desired_min_tx_us=self._advertised_tx_us,
            required_min_rx_us=self._advertised_rx_us,
            required_min_echo_rx_us=config.echo_rx_us,
        )

    def _remembered(self) -> tuple[object, ...]:
        return (
            self.remote_discriminator,
            self.remote_state,
            self.remote_min_rx_us,
            self.remote_min_tx_us,
            self.remote_min_echo_rx_us,
            self.remote_mult,
            self.remote_demand,
        )


_DIAGNOSTIC_OF = {
    Cause.HANDSHAKE: Diagnostic.NONE,
    Cause.SILENT: Diagnostic.DETECTION_TIME_EXPIRED,
    Cause.PEER_DOWN: Diagnostic.NEIGHBOR_SIGNALED_DOWN,
    Cause.PEER_ADMIN_DOWN: Diagnostic.NEIGHBOR_SIGNALED_DOWN,
    Cause.ECHO_LOST: Diagnostic.ECHO_FAILED,
    Cause.PATH_DOWN: Diagnostic.PATH_DOWN,
}
