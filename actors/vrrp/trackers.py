"""What an instance looks at: faults as a set with names, weights as contributions to the priority.

Each fault stands alone and all must be over. What has been reported is kept, so that a reload only weighs it anew.
Counterpart: `machine.py`, which compares before and after and makes transitions of it.
"""

from __future__ import annotations

from holdfast.actors.vrrp.config import Tracked, VrrpInstance
from holdfast.actors.vrrp.facts import (
    FaultCleared,
    FaultRaised,
    GroupOrder,
    LinkChanged,
    SourceChanged,
    TrackerKind,
    TrackerReported,
)
from holdfast.actors.vrrp.options import MachineOptions
from holdfast.actors.vrrp.priority import Priority, contribution_of_state, contribution_of_value
from holdfast.bus.messages import EventId, Evidence, Reason, ReasonKind

Causes = tuple[EventId, ...]
TrackingFact = LinkChanged | SourceChanged | TrackerReported | FaultRaised | FaultCleared | GroupOrder
Entry = tuple[str, Tracked]
"""Key of the contribution (its own for the group's entry of the same thing) and the entry."""

GROUP_FAULT = "group"
SOURCE_FAULT = "source"
RESTORED = "restored"
_SHELL = "shell:"


class Tracking:
    """faults: reasons by name, the oldest first. pending: unweighted trackers that have not run yet."""

    __slots__ = (
        "_entries",
        "_instance",
        "_links",
        "_options",
        "_reports",
        "_source",
        "_waits",
        "faults",
        "interfaces",
        "pending",
        "priority",
    )

    def __init__(self, instance: VrrpInstance, options: MachineOptions) -> None:
        self.faults: dict[str, tuple[Reason, Causes]] = {}
        self.pending: set[str] = set()
        self.priority = Priority(instance.priority)
        self._links: dict[str, LinkChanged] = {}
        self._reports: dict[str, TrackerReported] = {}
        self._source: SourceChanged | None = None
        self._waits = True
        self._adopt(instance, options)

    @property
    def own_faults(self) -> bool:
        """There is a fault that is not the sync group's."""
        return bool(self.faults) and (len(self.faults) > 1 or GROUP_FAULT not in self.faults)

    def first_fault(self) -> tuple[Reason, Causes]:
        """The oldest fault that is not the group's, else that."""
        for key, fault in self.faults.items():
            if key != GROUP_FAULT:
                return fault
        return self.faults[GROUP_FAULT]

    def configure(self, instance: VrrpInstance, options: MachineOptions) -> None:
        """A reload: what was reported is weighed anew. What was not counts as good until it reports."""
        self._waits = False
        self.faults = {
            key: fault
            for key, fault in self.faults.items()
            if key.startswith(_SHELL) or (key == GROUP_FAULT and options.group is not None)
        }
        self.priority = Priority(instance.priority)
        self._adopt(instance, options)
        self.weigh_all(reload=True)

    def go_on_with(self, priority: int) -> None:
        """Restored: the effective priority of the former life counts until the trackers have reported."""
        self._waits = False
        self.pending = set()
        if self._silent_trackers():
            self.priority.put(RESTORED, priority - self.priority.total)

    def weigh_all(self, *, reload: bool = False) -> None:
        """Everything that is known decides anew: at the start, and after a reload, when an interface nobody has spoken
        of yet counts as good."""
        for name in self.interfaces:
            if not reload or name in self._links:
                self._weigh_link(name)
        self._weigh_source()
        for key in self._entries:
            self._weigh(key)

    def take(self, fact: TrackingFact) -> None:
        """Remembers and weighs one fact."""
        match fact:
            case LinkChanged(name=name):
                self._links[name] = fact
                if name in self.interfaces:
                    self._weigh_link(name)
            case SourceChanged():
                self._source = fact
                self._weigh_source()
            case TrackerReported(kind=kind, name=name):
                key = f"{kind.value}/{name}"
                self._reports[key] = fact
                self._weigh(key)
                if not self._silent_trackers():
                    self.priority.drop(RESTORED)
            case FaultRaised(key=key, reason=reason, causes=causes):
                self.faults.setdefault(_SHELL + key, (reason, causes))
            case FaultCleared(key=key):
                self.faults.pop(_SHELL + key, None)
            case GroupOrder(reason=reason, cleared=cleared, causes=causes):
                if cleared:
                    self.faults.pop(GROUP_FAULT, None)
                else:
                    self.faults.setdefault(GROUP_FAULT, (reason, causes))

    def reason_of(self, fact: TrackingFact) -> tuple[Reason, Causes]:
        """The fact as a reason."""
        match fact:
            case LinkChanged():
                return self._link_reason(fact), fact.causes
            case SourceChanged():
                return self._source_reason(fact), fact.causes
            case TrackerReported():
                return self._tracker_reason(fact), fact.causes
            case FaultRaised(reason=reason) | FaultCleared(reason=reason) | GroupOrder(reason=reason):
                return reason, fact.causes

    def _adopt(self, instance: VrrpInstance, options: MachineOptions) -> None:
        self._instance = instance
        self._options = options
        self._entries = _entries(instance, options)
        unweighted = _plain_interfaces(instance, options)
        weighted = [name.removeprefix("link/") for name in self._entries if name.startswith("link/")]
        self.interfaces: tuple[str, ...] = tuple(dict.fromkeys([*unweighted, *weighted]))
        self.pending = set()
        if self._waits:
            for key, entries in self._entries.items():
                if key.startswith(("link/", "bfd/")) or key in self._reports:
                    continue
                if any(not (entry.weight or 0) for _, entry in entries):
                    self.pending.add(key)

    def _silent_trackers(self) -> bool:
        return any(not key.startswith("link/") and key not in self._reports for key in self._entries)

    def _weigh(self, key: str) -> None:
        report = self._reports.get(key)
        entries = self._entries.get(key)
        if entries is None or key.startswith("link/"):
            return
        if report is None or report.up is None:
            # A BFD session counts as down until it says otherwise; scripts, files and processes as neutral.
            if not key.startswith("bfd/"):
                return
            report = TrackerReported(TrackerKind.BFD, key.removeprefix("bfd/"), up=False)
        self.pending.discard(key)
        for part, entry in entries:
            weight, reverse = entry.weight or 0, bool(entry.reverse)
            if report.kind is TrackerKind.FILE:
                value = contribution_of_value(weight, reverse, report.value)
            else:
                value = contribution_of_state(weight, reverse, bool(report.up))
            self._apply(part, value, self._tracker_reason(report), report.causes)

    def _weigh_link(self, name: str) -> None:
        link = self._links.get(name) or LinkChanged(name, up=False, exists=False)
        entries = self._entries.get(f"link/{name}") or [(f"link/{name}", Tracked(name=name, weight=0))]
        for part, entry in entries:
            value = contribution_of_state(entry.weight or 0, bool(entry.reverse), link.up and link.exists)
            self._apply(part, value, self._link_reason(link), link.causes)

    def _weigh_source(self) -> None:
        source = self._source
        missing = source is None or source.address is None or (self._instance.track_source and not source.present)
        value = None if missing else 0
        self._apply(
            SOURCE_FAULT, value, self._source_reason(source or SourceChanged(None)), source.causes if source else ()
        )

    def _apply(self, part: str, value: int | None, reason: Reason, causes: Causes) -> None:
        if value is None:
            self.faults.setdefault(part, (reason, causes))
            self.priority.drop(part)
        else:
            self.faults.pop(part, None)
            self.priority.put(part, value)

    def _link_reason(self, link: LinkChanged) -> Reason:
        if not link.exists:
            kind = ReasonKind.LINK_MISSING
        else:
            kind = ReasonKind.LINK_UP if link.up else ReasonKind.LINK_DOWN
        return self._reason(kind, f"link/{link.name}", {"interface": link.name})

    def _source_reason(self, source: SourceChanged) -> Reason:
        interface = self._instance.interface
        if source.address is None:
            evidence: Evidence = {"interface": interface, "family": self._instance.family, "missing": "source address"}
            return self._reason(ReasonKind.ADDRESS_MISSING, f"link/{interface}", evidence)
        subject = f"address/{source.address}@{interface}"
        if self._instance.track_source and not source.present:
            return self._reason(ReasonKind.ADDRESS_MISSING, subject, {"address": source.address})
        return self._reason(ReasonKind.LINK_UP, subject, {"source": source.address})

    def _tracker_reason(self, report: TrackerReported) -> Reason:
        if report.kind is TrackerKind.SCRIPT:
            if report.up:
                kind = ReasonKind.SCRIPT_OK
            else:
                kind = ReasonKind.SCRIPT_TIMEOUT if report.timed_out else ReasonKind.SCRIPT_FAILED
        elif report.kind is TrackerKind.BFD:
            kind = ReasonKind.BFD_UP if report.up else ReasonKind.BFD_DOWN
        elif report.kind is TrackerKind.PROCESS:
            kind = ReasonKind.PROCESS_QUORUM
        else:
            kind = ReasonKind.FILE_VALUE
        evidence = dict(report.evidence)
        if report.kind is TrackerKind.FILE:
            evidence.setdefault("value", report.value)
        elif report.kind is TrackerKind.PROCESS:
            evidence.setdefault("quorum", bool(report.up))
        return self._reason(kind, f"{report.kind.value}/{report.name}", evidence)

    def _reason(self, kind: ReasonKind, subject: str, evidence: Evidence) -> Reason:
        return Reason(kind=kind, node=self._options.node, subject=subject, evidence=evidence)


def _entries(instance: VrrpInstance, options: MachineOptions) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for prefix, tracks in (("", instance.tracks), ("group:", options.group_tracks)):
        kinds = (
            ("link", tracks.interfaces),
            ("script", tracks.scripts),
            ("file", tracks.files),
            ("process", tracks.processes),
            ("bfd", tracks.bfd),
        )
        for kind, tracked in kinds:
            for entry in tracked:
                counts = _neutral(kind, entry) if options.weights_neutral and not prefix else entry
                if counts is not None:
                    key = f"{kind}/{entry.name}"
                    found.setdefault(key, []).append((prefix + key, counts))
    return found


def _neutral(kind: str, entry: Tracked) -> Tracked | None:
    """A member's entry without its weight, where the group does not let members have any; None: it is dropped.

    An interface then is a fault when it is down, and so is a file with the default weight; other weighted things go.
    """
    if not entry.weight:
        return entry
    if kind == "link" or (kind == "file" and entry.weight == 1):
        return Tracked(name=entry.name, weight=0, reverse=entry.reverse)
    return None


def _plain_interfaces(instance: VrrpInstance, options: MachineOptions) -> list[str]:
    """Interfaces tracked with weight 0 without being named: our own, those of tracked addresses and routes."""
    names = [] if instance.dont_track_primary else [instance.interface]
    for address in (*instance.addresses, *instance.excluded_addresses):
        if address.track and address.dev:
            names.append(address.dev)
    names.extend(route.dev for route in instance.routes if route.track and route.dev)
    names.extend(options.extra_interfaces)
    if instance.dont_track_primary:
        names = [name for name in names if name != instance.interface]
    return [name for name in dict.fromkeys(names) if name]
