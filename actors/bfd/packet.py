"""The BFD control packet (RFC 5880 section 4): bytes to value and back.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-----+---------+---+-+-+-+-+-+-+---------------+---------------+
    |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
    +-----+---------+---+-+-+-+-+-+-+---------------+---------------+
    |                       My Discriminator                        |
    +---------------------------------------------------------------+
    |                      Your Discriminator                       |
    +---------------------------------------------------------------+
    |             Desired Min TX Interval (microseconds)            |
    +---------------------------------------------------------------+
    |            Required Min RX Interval (microseconds)            |
    +---------------------------------------------------------------+
    |          Required Min Echo RX Interval (microseconds)         |
    +---------------------------------------------------------------+
    | Auth Type     |   Auth Len    |    Authentication data ...    |   only with A
    +---------------+---------------+-------------------------------+

What the authentication data means is in auth.py. A packet that the RFC tells to discard without knowing the session
raises `PacketError`; whoever knows the session (engine.py) raises the other members of `Reject` himself.
"""

from __future__ import annotations

import enum
import struct

import msgspec

VERSION = 1
LENGTH = 24
LENGTH_WITH_AUTHENTICATION = 26
CONTROL_PORT = 3784
MULTIHOP_PORT = 4784
ECHO_PORT = 3785
MAX_U32 = 0xFFFFFFFF

_LAYOUT = struct.Struct("!BBBBIIIII")
_POLL, _FINAL, _INDEPENDENT, _AUTHENTICATED, _DEMAND, _MULTIPOINT = 0x20, 0x10, 0x08, 0x04, 0x02, 0x01


class State(enum.IntEnum):
    """Session states, RFC 5880 section 4.1."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3

    @property
    def word(self) -> str:
        """As keepalived and the RFC write it."""
        return _STATE_WORDS[self]


_STATE_WORDS = ("AdminDown", "Down", "Init", "Up")


class Diagnostic(enum.IntEnum):
    """Why the session last left its state, RFC 5880 section 4.1."""

    NONE = 0
    DETECTION_TIME_EXPIRED = 1
    ECHO_FAILED = 2
    NEIGHBOR_SIGNALED_DOWN = 3
    FORWARDING_PLANE_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_PATH_DOWN = 6
    ADMINISTRATIVELY_DOWN = 7
    REVERSE_CONCATENATED_PATH_DOWN = 8


_DIAGNOSTIC_WORDS = (
    "No Diagnostic",
    "Control Detection Time Expired",
    "Echo Function Failed",
    "Neighbor Signaled Session Down",
    "Forwarding Plane Reset",
    "Path Down",
    "Concatenated Path Down",
    "Administratively Down",
    "Reverse Concatenated Path Down",
)


def diagnostic_word(number: int) -> str:
    """The text of a diagnostic, also of one from 9 to 31 that a peer may send (reserved)."""
    return _DIAGNOSTIC_WORDS[number] if number < len(_DIAGNOSTIC_WORDS) else f"Reserved ({number})"


class Reject(enum.StrEnum):
    """Why a packet was discarded: RFC 5880 section 6.8.6 in its order, then RFC 5881 section 5, then 6.7."""

    VERSION = "version"
    LENGTH = "length"
    MULTIPLIER = "multiplier"
    MULTIPOINT = "multipoint"
    POLL_AND_FINAL = "poll-and-final"
    MY_DISCRIMINATOR = "my-discriminator"
    STATE_WITHOUT_DISCRIMINATOR = "state-without-discriminator"
    NO_SESSION = "no-session"
    SOURCE = "source"
    HOP_LIMIT = "hop-limit"
    AUTH_UNEXPECTED = "auth-unexpected"
    AUTH_MISSING = "auth-missing"
    AUTH_TYPE = "auth-type"
    AUTH_LENGTH = "auth-length"
    AUTH_KEY = "auth-key"
    AUTH_SEQUENCE = "auth-sequence"
    AUTH_DIGEST = "auth-digest"


class PacketError(Exception):
    """A packet to be discarded. reject: the counter it belongs to; facts: what was seen, for the log."""

    def __init__(self, reject: Reject, facts: str = "") -> None:
        super().__init__(reject, facts)
        self.reject = reject
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.reject.value}: {self.facts}" if self.facts else self.reject.value


class ControlPacket(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The mandatory section. Intervals 0..2**32-1 microseconds, discriminators 0..2**32-1, multiplier 1..255.

    diagnostic: 0..31, a number because a peer may send a reserved one. authenticated: the A bit; the section itself
    is not part of this value.
    """

    state: State
    my_discriminator: int
    your_discriminator: int
    detect_mult: int
    desired_min_tx_us: int
    required_min_rx_us: int
    required_min_echo_rx_us: int = 0
    diagnostic: int = 0
    poll: bool = False
    final: bool = False
    control_plane_independent: bool = False
    authenticated: bool = False
    demand: bool = False

    def encode(self, authentication_length: int = 0) -> bytes:
        """The 24 bytes; with `authenticated` their Length field counts the section that follows."""
        return _LAYOUT.pack(
            VERSION << 5 | self.diagnostic,
            self.state << 6
            | (_POLL if self.poll else 0)
            | (_FINAL if self.final else 0)
            | (_INDEPENDENT if self.control_plane_independent else 0)
            | (_AUTHENTICATED if self.authenticated else 0)
            | (_DEMAND if self.demand else 0),
            self.detect_mult,
            LENGTH + authentication_length,
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx_us,
            self.required_min_rx_us,
            self.required_min_echo_rx_us,
        )


_STATES = tuple(State)


def decode(data: bytes) -> tuple[ControlPacket, bytes]:
    """The packet in a UDP payload and its authentication section (empty without A).

    Bytes after Length are ignored, as the RFC has it. PacketError for all that section 6.8.6 discards before the
    session is looked up.
    """
    size = len(data)
    if size < LENGTH:
        # The version comes first in the RFC, but a payload of no bytes has none.
        if size and data[0] >> 5 != VERSION:
            raise PacketError(Reject.VERSION, f"version {data[0] >> 5}")
        raise PacketError(Reject.LENGTH, f"{size} bytes")
    first, flags, mult, length, mine, yours, min_tx, min_rx, min_echo_rx = _LAYOUT.unpack_from(data)
    if first >> 5 != VERSION:
        raise PacketError(Reject.VERSION, f"version {first >> 5}")
    if length < (LENGTH_WITH_AUTHENTICATION if flags & _AUTHENTICATED else LENGTH) or length > size:
        raise PacketError(Reject.LENGTH, f"length {length} of {size} bytes")
    if mult == 0:
        raise PacketError(Reject.MULTIPLIER, "detect multiplier 0")
    if flags & _MULTIPOINT:
        raise PacketError(Reject.MULTIPOINT, "multipoint bit set")
    if flags & _POLL and flags & _FINAL:
        # Section 6.8.7: never both. Accepting it would end our poll and answer another in one.
        raise PacketError(Reject.POLL_AND_FINAL, "poll and final set")
    if mine == 0:
        raise PacketError(Reject.MY_DISCRIMINATOR, "my discriminator 0")
    state = _STATES[flags >> 6]
    if yours == 0 and state > State.DOWN:
        raise PacketError(Reject.STATE_WITHOUT_DISCRIMINATOR, f"{state.word} with your discriminator 0")
    packet = ControlPacket(
        state=state,
        my_discriminator=mine,
        your_discriminator=yours,
        detect_mult=mult,
        desired_min_tx_us=min_tx,
        required_min_rx_us=min_rx,
        required_min_echo_rx_us=min_echo_rx,
        diagnostic=first & 0x1F,
        poll=bool(flags & _POLL),
        final=bool(flags & _FINAL),
        control_plane_independent=bool(flags & _INDEPENDENT),
        authenticated=bool(flags & _AUTHENTICATED),
        demand=bool(flags & _DEMAND),
    )
    return packet, data[LENGTH:length] if flags & _AUTHENTICATED else b""
