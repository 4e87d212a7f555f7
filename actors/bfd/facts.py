"""What a session is told and what it orders: the vocabulary of machine.py. Pure."""

from __future__ import annotations

import enum

import msgspec

from holdfast.actors.bfd.packet import ControlPacket, Diagnostic, State
from holdfast.actors.runtime.machine import US, Action, Duration, Fact

SLOW_TX_US = 1_000_000
"""Section 6.8.3: while a session is not Up, Desired Min TX is at least one second."""


class SessionConfig(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one session is told. Intervals 1..2**32-1 microseconds, detect_mult 1..255.

    idle_tx_us: Desired Min TX while not Up, at least a second. passive: silent until the peer is heard.
    echo_rx_us: the echo interval we can loop back, 0: none. echo_tx_us: how often we send echoes when the peer loops
    them, 0: never. echo_control_us: Required Min RX while echoes run (6.8.9 wants a second or more), 0: unchanged.
    """

    desired_min_tx_us: int
    required_min_rx_us: int
    detect_mult: int
    idle_tx_us: int = SLOW_TX_US
    passive: bool = False
    echo_rx_us: int = 0
    echo_tx_us: int = 0
    echo_control_us: int = SLOW_TX_US
    authenticated: bool = False


class Cause(enum.StrEnum):
    """Why a session changed its state."""

    STARTED = "started"
    HANDSHAKE = "handshake"
    SILENT = "detection time expired"
    PEER_DOWN = "peer signalled down"
    PEER_ADMIN_DOWN = "peer is administratively down"
    ECHO_LOST = "echoes do not come back"
    PATH_DOWN = "path is down"
    DISABLED = "administratively down"
    ENABLED = "enabled"
    RESTORED = "restored"


class PacketHeard(Fact, frozen=True):
    """A packet for this session that passed authentication."""

    packet: ControlPacket


class EchoHeard(Fact, frozen=True):
    """One of our echoes came back."""


class Reconfigured(Fact, frozen=True):
    """New settings for the living session."""

    config: SessionConfig


class Disabled(Fact, frozen=True):
    """Take the session to AdminDown: an operator, a removal, a stop, or a source address that is missing."""

    diagnostic: Diagnostic = Diagnostic.ADMINISTRATIVELY_DOWN


class Enabled(Fact, frozen=True):
    """Out of AdminDown."""


class PathLost(Fact, frozen=True):
    """Something outside BFD knows that the path is gone (the interface went down)."""


class Transmit(Action, frozen=True):
    """From now on `packet` is what goes out, every `interval_us` less jitter; None: nothing goes out.

    at_once: send it now, too, since its content differs from the last one in more than P (section 6.8.7).
    """

    packet: ControlPacket | None
    interval_us: int
    at_once: bool = False


class Answer(Action, frozen=True):
    """Send this packet (F set) now, whatever the periodic ones do."""

    packet: ControlPacket


class TransmitEcho(Action, frozen=True):
    """Send echoes this often; 0: stop."""

    interval_us: int


class Changed(Action, frozen=True):
    """The state changed. silent: since the last packet, None if none came.

    detection, multiplier: in force then, so that detection / multiplier was the interval of the peer's packets.
    """

    old: State
    new: State
    cause: Cause
    silent: Duration | None = None
    detection: Duration = Duration(0)
    multiplier: int = 0

    @property
    def interval(self) -> Duration:
        """How often the peer's packets should have come; 0: it was not known."""
        return Duration(self.detection // self.multiplier if self.multiplier else 0)

    @property
    def missed(self) -> int:
        """How many packets did not come."""
        return self.silent // self.interval if self.silent and self.interval else 0


class Refreshed(Action, frozen=True):
    """What a restored session must know changed without a change of state (intervals, discriminators, poll)."""


class Memory(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What of a session outlives its process, to be restored with the same discriminators."""

    state: State
    local_discriminator: int
    remote_discriminator: int
    remote_state: State
    remote_min_rx_us: int
    remote_min_tx_us: int
    remote_min_echo_rx_us: int
    remote_mult: int
    remote_demand: bool
    local_diagnostic: int
    remote_diagnostic: int
    tracker_up: bool


def jittered(interval_us: int, detect_mult: int, chance: float) -> Duration:
    """The time to the next packet. chance: evenly from [0, 1).

    Section 6.8.7: the interval less 0 to 25 %; with a multiplier of 1 less 10 to 25 %, so that the peer's detection
    time, then one interval, never runs out between two packets.
    """
    least = 0.10 if detect_mult == 1 else 0.0
    return Duration(int(interval_us * US * (1.0 - least - (0.25 - least) * chance)))
