"""What the VRRP room tells the world."""

from __future__ import annotations

import enum

import msgspec

from holdfast.bus.messages import Command, Event, Evidence, Reason, Reply


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


class VrrpTrouble(Event, frozen=True, kw_only=True, tag="vrrp.trouble"):
    """Something about a virtual router wants attention and moved nothing. Not retained; `NODE/vrrp/NAME/trouble`.

    An address that somebody removed and that is back, adverts that are refused, a peer that does not hear us, a kernel
    call that failed, a pause that was short enough. Told once, not for each packet.
    """

    instance: str
    state: VrrpState
    reason: Reason


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


class Describe(Command, frozen=True, kw_only=True, tag="vrrp.describe"):
    """Asks for everything about one instance, or about all (empty name)."""

    instance: str = ""


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """One tracked thing as it counts now. value: what it adds to the priority; fault: it keeps it in FAULT."""

    subject: str
    value: int = 0
    fault: bool = False
    evidence: Evidence = {}


class InstanceDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One instance as it stands at this moment.

    waiting: it waits for trackers that have not reported. missing: subjects of addresses that the kernel does not have
    and should; extra: that it has and should not. lease_s: lifetime of the addresses in the kernel, None: for ever.
    """

    name: str
    state: VrrpState
    vrid: int
    version: int
    family: int
    interface: str
    base: int
    effective: int
    advert_interval_us: int
    addresses: tuple[str, ...]
    tracked: tuple[Contribution, ...] = ()
    waiting: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    lease_s: int | None = None
    source: str | None = None
    master: str | None = None
    master_priority: int = 0
    group: str | None = None
    released: bool = False
    statistics: dict[str, int] = {}


class Description(Reply, frozen=True, kw_only=True, tag="vrrp.description"):
    """The answer to `Describe`."""

    instances: tuple[InstanceDescription, ...]
    late_us_log2: tuple[int, ...] = ()
    stalls: int = 0
