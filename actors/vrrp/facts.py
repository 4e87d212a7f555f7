"""What can happen to a virtual router: the facts a `VrrpMachine` takes.

The shell makes them and decides nothing. Before `Start` (or `Restored`) it tells everything it knows by `LinkChanged`
for each interface of `VrrpMachine.interfaces`, `SourceChanged` and `TrackerReported`; in INIT these are only kept.
`causes` are the ids of the events that the fact came from; they travel on to what the machine publishes.
"""

from __future__ import annotations

import enum

import msgspec

from holdfast.actors.runtime.machine import Deadline, Duration, Fact, Instant
from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.actors.vrrp.messages import VrrpState
from holdfast.actors.vrrp.options import MachineOptions
from holdfast.actors.vrrp.packet import Reject
from holdfast.bus.messages import EventId, Evidence, Reason

__all__ = [
    "AddressFailed",
    "AdvertFailed",
    "AdvertReceived",
    "AdvertRejected",
    "Deadline",
    "Fact",
    "FaultCleared",
    "FaultRaised",
    "GroupAnnounce",
    "GroupOrder",
    "Holding",
    "HoldingLost",
    "LeaseLost",
    "LinkChanged",
    "OperatorRelease",
    "OperatorResume",
    "Reconfigured",
    "Restored",
    "SourceChanged",
    "Stalled",
    "Start",
    "Stop",
    "TrackerKind",
    "TrackerReported",
]


class TrackerKind(enum.StrEnum):
    """What kind of thing a tracker looks at; interfaces have their own fact."""

    SCRIPT = "script"
    FILE = "file"
    PROCESS = "process"
    BFD = "bfd"


class Holding(enum.StrEnum):
    """What a MASTER keeps in the kernel."""

    ADDRESS = "address"
    ROUTE = "route"
    RULE = "rule"
    FIREWALL = "firewall"


class Start(Fact, frozen=True):
    """The instance begins: everything known has been told. Addresses of an earlier life are removed first."""

    causes: tuple[EventId, ...] = ()


class Restored(Fact, frozen=True, kw_only=True):
    """Instead of `Start`: the cell died and this is what its retained events say.

    state, since, reason: of the last `VrrpStateChanged`. priority: its effective one, kept until the trackers report.
    silent_since: the latest instant at which this instance is known to have sent an advert (the kernel's time stamp of
    the last lease refresh, or when the supervisor saw the cell die); None: unknown, then a MASTER starts as BACKUP.
    master..: of the last `VrrpMasterSeen`. gap_s: what the shell knows about the pause, evidence only.
    """

    state: VrrpState
    since: Instant
    reason: Reason
    priority: int
    silent_since: Instant | None = None
    released: bool = False
    master: str | None = None
    master_priority: int = 0
    master_interval: Duration | None = None
    causes: tuple[EventId, ...] = ()


class LinkChanged(Fact, frozen=True):
    """An interface is up (IFF_UP and IFF_RUNNING, after debounce) or not; exists False: there is no such interface."""

    name: str
    up: bool
    exists: bool = True
    causes: tuple[EventId, ...] = ()


class SourceChanged(Fact, frozen=True):
    """The address that adverts are sent from: the configured one, else the interface's primary (IPv6: link-local).

    address None: there is none. present: it is on the host now (only differs from that when it is configured).
    """

    address: str | None
    present: bool = True
    causes: tuple[EventId, ...] = ()


class TrackerReported(Fact, frozen=True):
    """A script, file, process or BFD session says how it is. Things that this instance does not track are ignored.

    up: script succeeded, quorum reached, session up; None: known but not yet run. value: the number in a file.
    evidence: for the reason of a transition (exit status, number of processes); timed_out: the script was killed for
    its time. The weight stands in the track_* entry.
    """

    kind: TrackerKind
    name: str
    up: bool | None = None
    value: int = 0
    timed_out: bool = False
    evidence: Evidence = msgspec.field(default_factory=dict)
    causes: tuple[EventId, ...] = ()


class FaultRaised(Fact, frozen=True):
    """Something the shell found makes running impossible (socket, duplicate VRID, a static item's interface).

    key: names the fault, so that it can be cleared; raising it twice changes nothing.
    """

    key: str
    reason: Reason
    causes: tuple[EventId, ...] = ()


class FaultCleared(Fact, frozen=True):
    """The fault `key` is over; reason: what ended it."""

    key: str
    reason: Reason
    causes: tuple[EventId, ...] = ()


class AdvertReceived(Fact, frozen=True):
    """A valid advert, one object for each distinct packet: the shell hands the same object in again while the bytes are
    the same.

    source: text for people; source_value: the same as a number, for the tie-break. priority 0..255.
    interval: as in the packet (v3), None for v2. address_mismatch: evidence only, such adverts count.
    """

    source: str
    source_value: int
    priority: int
    interval: Duration | None = None
    address_mismatch: bool = False


class AdvertRejected(Fact, frozen=True):
    """A packet for this VRID that does not count, with its `Reject`. It never touches a timer."""

    reject: Reject
    source: str
    evidence: Evidence = msgspec.field(default_factory=dict)


class AdvertFailed(Fact, frozen=True):
    """The last `SendAdvert` did not leave, to any destination. Nobody heard us, so the time of our silence runs on from
    the advert before. errno: the kernel's number."""

    errno: int
    text: str = ""


class Stalled(Fact, frozen=True):
    """This process did not run for `duration`; told before anything else after waking.

    unseen: the part of it that the monotonic clock does not show (suspend, paused virtual machine).
    evidence: what the kernel knows about why.
    """

    duration: Duration
    unseen: Duration = Duration(0)
    evidence: Evidence = msgspec.field(default_factory=dict)
    causes: tuple[EventId, ...] = ()


class HoldingLost(Fact, frozen=True):
    """Something a MASTER holds was removed, and not by us. subject: `address/10.0.0.1@eth0`. by: a program."""

    kind: Holding
    subject: str
    by: str | None = None
    causes: tuple[EventId, ...] = ()


class LeaseLost(Fact, frozen=True):
    """The kernel removed leased addresses because they were not refreshed in time."""

    subjects: tuple[str, ...] = ()
    causes: tuple[EventId, ...] = ()


class AddressFailed(Fact, frozen=True):
    """A kernel call of `TakeOver`, `Restore` or `Reconcile` failed. errno: the kernel's number."""

    subject: str
    operation: str
    errno: int
    text: str = ""


class OperatorRelease(Fact, frozen=True):
    """Hand mastership over and stay out until `OperatorResume`. In a sync group the shell tells every member."""

    why: str = ""
    causes: tuple[EventId, ...] = ()


class OperatorResume(Fact, frozen=True):
    """End of a release: the instance is an ordinary BACKUP again."""

    causes: tuple[EventId, ...] = ()


class Reconfigured(Fact, frozen=True):
    """A reload touched this instance: same VRID, family and interface, everything else may differ."""

    instance: VrrpInstance
    options: MachineOptions
    causes: tuple[EventId, ...] = ()


class Stop(Fact, frozen=True):
    """The end of the instance. deleted: a reload removed it. keep: no priority-0 advert, addresses stay (-V)."""

    deleted: bool = False
    keep: bool = False
    causes: tuple[EventId, ...] = ()


class GroupOrder(Fact, frozen=True):
    """The sync group moves this member. state MASTER or BACKUP: go there; FAULT: a fault of the group, until
    `cleared`. resign: whoever is MASTER sends a priority-0 advert first, for an operator released the group."""

    group: str
    state: VrrpState
    reason: Reason
    cleared: bool = False
    resign: bool = False
    causes: tuple[EventId, ...] = ()


class GroupAnnounce(Fact, frozen=True):
    """Another member of the group answered a lower-priority advert: announce the addresses of this one too."""

    group: str
