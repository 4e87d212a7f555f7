"""Everything a takeover or a release does, encoded beforehand (netlink requests, announcement frames).

Rebuilt when the configuration or a link changes; at the moment itself only bytes are sent. Its counterpart is the
machine's `TakeOver`, `LetGo`, `Reconcile`, `Restore`, `RefreshLease` and `Announce`. It knows the order of things
(keepalived's): in with addresses, excluded addresses, routes, rules; out the other way round.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.kernel.announce import advertisement_frame, arp_frame
from holdfast.kernel.base import AddressSpec, KernelError, RouteSpec, RuleSpec
from holdfast.kernel.faces import Batch, Frames, Kernel
from holdfast.kernel.records import AddressRecord, Link

REFRESH_PART = 32


def subject_of_address(spec: AddressSpec, interface: str) -> str:
    """`address/10.0.0.1@eth0`."""
    return f"address/{spec.address}@{spec.dev or interface}"


def subject_of_route(spec: RouteSpec) -> str:
    """`route/10.98.0.0/24`, with the table when it is not the main one."""
    return f"route/{spec.destination}" + (f" table {spec.table}" if spec.table not in (None, 254) else "")


def subject_of_rule(spec: RuleSpec) -> str:
    """`rule/1000`."""
    return f"rule/{spec.preference}"


class Takeover:
    """One instance's kernel state in both directions, ready to be sent."""

    __slots__ = (
        "_announced",
        "_batches",
        "_kernel",
        "_refreshes",
        "_source_frames",
        "addresses",
        "frames",
        "instance",
        "problems",
    )

    def __init__(self, kernel: Kernel, instance: VrrpInstance) -> None:
        self._kernel = kernel
        self.instance = instance
        self.addresses: tuple[AddressSpec, ...] = instance.addresses + instance.excluded_addresses
        self.problems: list[KernelError] = []
        self._batches: dict[object, Batch | None] = {}
        self._refreshes: dict[int, list[Batch]] = {}
        self.frames: Frames | None = None
        self._source_frames: Frames | None = None

    def invalidate(self) -> None:
        """A link or an address changed: what was encoded is encoded anew before its next use."""
        self._batches.clear()
        self._refreshes.clear()
        self.frames = None
        self._source_frames = None

    def prepare(self, valid_lft_s: int | None) -> None:
        """Encodes what the next takeover and the next release will need, while there is time."""
        self.add(valid_lft_s)
        self.remove()
        self.announcement()

    # ------------------------------------------------------------ kernel requests

    def add(self, valid_lft_s: int | None) -> Batch:
        """Addresses, excluded addresses, routes, rules: all in."""
        return self._batch(("add", valid_lft_s), lambda batch: self._fill(batch, remove=False, valid_lft_s=valid_lft_s))

    def remove(self) -> Batch:
        """Rules, routes, addresses, excluded addresses: all out."""
        return self._batch("remove", lambda batch: self._fill(batch, remove=True))

    def refresh(self, valid_lft_s: int) -> list[Batch]:
        """A new lifetime for every address, in parts: hundreds of IPv6 addresses at once keep the kernel for long."""
        parts = self._refreshes.get(valid_lft_s)
        if parts is None:
            placed = list(self._placed(self.addresses))
            parts = self._refreshes[valid_lft_s] = []
            for start in range(0, len(placed), REFRESH_PART):
                batch = self._kernel.requests.batch()
                for spec, index in placed[start : start + REFRESH_PART]:
                    batch.address(spec, index, valid_lft_s=valid_lft_s)
                parts.append(batch)
        return parts

    def some(self, subjects: Iterable[str], valid_lft_s: int | None) -> Batch:
        """Only these, put back."""
        wanted = set(subjects)
        batch = self._kernel.requests.batch()
        for spec, index in self._placed(self.addresses):
            if subject_of_address(spec, self.instance.interface) in wanted:
                batch.address(spec, index, valid_lft_s=valid_lft_s)
        for route in self.instance.routes:
            if subject_of_route(route) in wanted:
                self._try_route(batch, route)
        for rule in self.instance.rules:
            if subject_of_rule(rule) in wanted:
                batch.rule(rule)
        return batch

    def without(self, old: Takeover) -> Batch:
        """What `old` held and this does not: out."""
        batch = self._kernel.requests.batch()
        for rule in old.instance.rules:
            if rule not in self.instance.rules:
                batch.rule(rule, remove=True)
        for route in old.instance.routes:
            if route not in self.instance.routes:
                self._try_route(batch, route, remove=True)
        kept = {key for key, _ in self._keys()}
        for key, (spec, index) in old._keys():
            if key not in kept:
                batch.address(spec, index, remove=True)
        return batch

    def _keys(self) -> Iterator[tuple[tuple[int, str, int], tuple[AddressSpec, int]]]:
        for spec, index in self._placed(self.addresses):
            yield (index, spec.address, spec.prefix), (spec, index)

    def _batch(self, key: object, fill: object) -> Batch:
        batch = self._batches.get(key)
        if batch is None:
            batch = self._kernel.requests.batch()
            fill(batch)  # type: ignore[operator]
            self._batches[key] = batch
        return batch

    def _fill(self, batch: Batch, *, remove: bool, valid_lft_s: int | None = None) -> None:
        self.problems = []
        if remove:
            for rule in reversed(self.instance.rules):
                batch.rule(rule, remove=True)
            for route in reversed(self.instance.routes):
                self._try_route(batch, route, remove=True)
        for spec, index in self._placed(self.addresses):
            batch.address(spec, index, remove=remove, valid_lft_s=None if remove else valid_lft_s)
        if not remove:
            for route in self.instance.routes:
                self._try_route(batch, route)
            for rule in self.instance.rules:
                batch.rule(rule)

    def _try_route(self, batch: Batch, route: RouteSpec, *, remove: bool = False) -> None:
        try:
            batch.route(route, remove=remove)
        except KernelError as error:
            self.problems.append(error)

    def _placed(self, specs: Iterable[AddressSpec]) -> Iterator[tuple[AddressSpec, int]]:
        """Each address with the ifindex it goes on; those whose interface is missing are left out (the interface is
        tracked, so the instance is in FAULT then)."""
        for spec in specs:
            link = self._kernel.links.by_name(spec.dev or self.instance.interface)
            if link is not None:
                yield spec, link.index

    # ------------------------------------------------------------ announcements

    def announcement(self) -> Frames:
        """One round of gratuitous ARP and neighbour advertisements for all addresses, then all excluded ones."""
        if self.frames is None:
            self.frames = self._kernel.announcer.prepare(list(self._frames(self.addresses)))
        return self.frames

    def announcement_of(self, subjects: Iterable[str]) -> Frames:
        """One round for some of the addresses."""
        wanted = set(subjects)
        some = [spec for spec in self.addresses if subject_of_address(spec, self.instance.interface) in wanted]
        return self._kernel.announcer.prepare(list(self._frames(some)))

    def announcement_of_source(self, source: str | None) -> Frames:
        """One round for the address that the adverts come from."""
        if self._source_frames is None:
            specs = []
            if source is not None:
                specs = [AddressSpec(address=source, prefix=128 if ":" in source else 32)]
            self._source_frames = self._kernel.announcer.prepare(list(self._frames(specs)))
        return self._source_frames

    def _frames(self, specs: Iterable[AddressSpec]) -> Iterator[tuple[int, bytes]]:
        for spec in specs:
            link = self._kernel.links.by_name(spec.dev or self.instance.interface)
            if link is None or link.noarp or len(link.mac) != 6:
                continue
            packed = ipaddress.ip_address(spec.address)
            if packed.version == 4:
                yield link.index, arp_frame(link.mac, spec.address)
            else:
                yield link.index, advertisement_frame(link.mac, spec.address, router=self._forwards(link))

    def _forwards(self, link: Link) -> bool:
        return self._kernel.sysctl_get(f"net/ipv6/conf/{link.name}/forwarding") == "1"

    # ------------------------------------------------------------ what the kernel has

    def missing(self) -> tuple[str, ...]:
        """Subjects of addresses that should be on an interface and are not."""
        lost = []
        for spec in self.addresses:
            link = self._kernel.links.by_name(spec.dev or self.instance.interface)
            if link is None or not self._kernel.links.has_address(link.index, spec.address):
                lost.append(subject_of_address(spec, self.instance.interface))
        return tuple(lost)

    def owns(self, record: AddressRecord) -> AddressSpec | None:
        """The configured address that a kernel record is, if it is ours."""
        for spec in self.addresses:
            if spec.address == record.address:
                link = self._kernel.links.by_name(spec.dev or self.instance.interface)
                if link is not None and link.index == record.ifindex:
                    return spec
        return None
