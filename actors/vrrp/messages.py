"""What the VRRP room tells the world."""

from __future__ import annotations

import enum

from holdfast.bus.messages import Command, Event, Reason, Reply


class VrrpState(enum.StrEnum):
    """States in keepalived's words; STOP and DELETED are only told, never lived in."""

    INIT = "INIT"
    BACKUP = "BACKUP"
    MASTER = "MASTER"
    FAULT = "FAULT"
    STOP = "STOP"
    DELETED = "DELETED"


class VrrpStateChanged(Event, frozen=True, kw_only=True, tag="vrrp.state"):
    """A virtual router changed its state. Retained on `NODE/vrrp/NAME/state`.

    priority: effective, 0..255. since_mono_ns: the sender's monotonic clock. master: address of the master we hear,
    ours when MASTER. released: an operator took it out for maintenance.
    """

    instance: str
    old: VrrpState
    state: VrrpState
    priority: int
    since_mono_ns: int
    reason: Reason
    vrid: int
    family: int
    interface: str
    addresses: tuple[str, ...]
    master: str | None = None
    group: str | None = None
    released: bool = False


class VrrpPriorityChanged(Event, frozen=True, kw_only=True, tag="vrrp.priority"):
    """The effective priority changed. Retained on `NODE/vrrp/NAME/priority`."""

    instance: str
    state: VrrpState
    base: int
    effective: int
    old: int
    reason: Reason


class VrrpMasterSeen(Event, frozen=True, kw_only=True, tag="vrrp.master"):
    """A backup hears a (new) master. Retained on `NODE/vrrp/NAME/master`."""

    instance: str
    address: str
    priority: int
    interval_us: int


class VrrpLowerPriorityHeard(Event, frozen=True, kw_only=True, tag="vrrp.lower-priority"):
    """A MASTER heard an advert of lower priority (MASTER_RX_LOWER_PRI). Not retained; `NODE/vrrp/NAME/heard`."""

    instance: str
    source: str
    priority: int
    own_priority: int


class VrrpGroupChanged(Event, frozen=True, kw_only=True, tag="vrrp.group"):
    """A sync group changed its state. Retained on `NODE/vrrp-group/NAME/state`."""

    group: str
    old: VrrpState
    state: VrrpState
    reason: Reason
    members: tuple[str, ...]


class Release(Command, frozen=True, kw_only=True, tag="vrrp.release"):
    """Hand mastership over for maintenance and stay BACKUP until `Resume`."""

    instance: str
    why: str = ""


class Resume(Command, frozen=True, kw_only=True, tag="vrrp.resume"):
    """End of a `Release`."""

    instance: str


class Done(Reply, frozen=True, kw_only=True, tag="vrrp.done"):
    """The command was carried out; message: what follows from it."""

    message: str
