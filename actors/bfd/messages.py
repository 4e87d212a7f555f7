"""What the BFD room tells the world and what may be asked of it."""

from __future__ import annotations

import enum

from holdfast.bus.messages import Command, Event, Reason, Reply


class BfdState(enum.StrEnum):
    """Session states in the RFC's words; DELETED is only told."""

    ADMIN_DOWN = "AdminDown"
    DOWN = "Down"
    INIT = "Init"
    UP = "Up"
    DELETED = "Deleted"


class BfdStateChanged(Event, frozen=True, kw_only=True, tag="bfd.state"):
    """A session changed its state. Retained on `NODE/bfd/NAME/state`; the first one tells of its start.

    tracker_up: what a tracker is to act on. It is false until the session is Up and after every loss of it, and stays
    true when the neighbour went to AdminDown, which is no failure of the path (RFC 5882 section 4.2).
    vrrp, checker: for whom it is meant. since_mono_ns: the sender's monotonic clock. detection_us: detection time in
    force before the change. Diagnostics in keepalived's words.
    """

    session: str
    old: BfdState
    state: BfdState
    tracker_up: bool
    reason: Reason
    since_mono_ns: int
    neighbor: str
    local_diagnostic: str
    remote_diagnostic: str
    detection_us: int
    vrrp: bool = True
    checker: bool = True


class BfdFaltering(Event, frozen=True, kw_only=True, tag="bfd.faltering"):
    """A session is about to end: nothing was heard for all but left_us of its detection time. On
    `NODE/bfd/NAME/faltering`, not retained, and not of each session when several falter within 100 ms.

    If a packet comes in time, nothing more is told. Who acts on the end of a session uses the moment to prepare for it.
    """

    session: str
    silent_us: int
    detection_us: int
    left_us: int


class BfdShow(Command, frozen=True, kw_only=True, tag="bfd.show"):
    """Asks for the sessions. session: one of them, empty: all."""

    session: str = ""


class BfdDisable(Command, frozen=True, kw_only=True, tag="bfd.disable"):
    """Takes a session to AdminDown until `BfdEnable`: the peer is told and does not take it for a failure."""

    session: str
    why: str = ""


class BfdEnable(Command, frozen=True, kw_only=True, tag="bfd.enable"):
    """End of a `BfdDisable`."""

    session: str


class BfdDone(Reply, frozen=True, kw_only=True, tag="bfd.done"):
    """The command was carried out."""

    message: str


class BfdSession(Event, frozen=True, kw_only=True, tag="bfd.session"):
    """One session as it is now. Only in `BfdSessions`, not published.

    Intervals in microseconds: transmit and receive are the agreed ones, 0: nothing is sent. *_s: seconds.
    last_packet_s: ago, None: none yet. longest_gap_s: the longest time between two packets since Up.
    falterings: how often the session was about to end.
    rejected: discarded packets by reason. reason: of the last change.
    """

    session: str
    neighbor: str
    source: str
    interface: str
    multihop: bool
    state: BfdState
    remote_state: BfdState
    local_discriminator: int
    remote_discriminator: int
    local_diagnostic: str
    remote_diagnostic: str
    transmit_us: int
    receive_us: int
    detection_us: int
    multiplier: int
    remote_multiplier: int
    remote_min_rx_us: int
    remote_min_tx_us: int
    remote_min_echo_rx_us: int
    echo_us: int
    polling: bool
    remote_demand: bool
    authentication: str
    packets_in: int
    packets_out: int
    send_errors: int
    last_send_error: str
    last_packet_s: float | None
    longest_gap_s: float
    falterings: int
    since_s: float
    ups: int
    downs: int
    tracker_up: bool
    rejected: dict[str, int]
    reason: Reason | None


class BfdSessions(Reply, frozen=True, kw_only=True, tag="bfd.sessions"):
    """The answer to `BfdShow`. rejected: packets that belong to no session, by reason."""

    sessions: tuple[BfdSession, ...]
    rejected: dict[str, int]
