"""static_ipaddress, static_routes, static_rules: there as long as the daemon runs, whoever removes them."""

from __future__ import annotations

import logging

from holdfast.actors.vrrp.config import VrrpRoom
from holdfast.actors.vrrp.engine import Engine
from holdfast.kernel.base import AddressSpec, KernelError, RouteSpec
from holdfast.kernel.faces import Batch, Kernel
from holdfast.kernel.records import AddressRecord, RouteRecord, RuleRecord, route_key

log = logging.getLogger("holdfast.vrrp")


class Statics:
    """Keeps the static items in the kernel. Items without no_track that somebody removes are put back at once."""

    def __init__(self, kernel: Kernel, engine: Engine) -> None:
        self._kernel = kernel
        self._engine = engine
        self._config = VrrpRoom()

    def apply(self, before: VrrpRoom, config: VrrpRoom) -> None:
        """Adds what is new, removes what is gone, leaves the rest alone."""
        self._config = config
        batch = self._kernel.requests.batch()
        for rule in before.static_rules:
            if rule not in config.static_rules:
                batch.rule(rule, remove=True)
        for route in before.static_routes:
            if route not in config.static_routes:
                self._route(batch, route, remove=True)
        for spec in before.static_addresses:
            if spec not in config.static_addresses:
                self._address(batch, spec, remove=True)
        for spec in config.static_addresses:
            if spec not in before.static_addresses:
                self._address(batch, spec)
        for route in config.static_routes:
            if route not in before.static_routes:
                self._route(batch, route)
        for rule in config.static_rules:
            if rule not in before.static_rules:
                batch.rule(rule)
        self._engine.request(batch, self)

    def link_changed(self, name: str, *, up: bool) -> None:
        """An interface that is back gets its items again."""
        if not up:
            return
        batch = self._kernel.requests.batch()
        for spec in self._config.static_addresses:
            link = self._kernel.links.by_name(name)
            if spec.dev == name and link is not None and not self._kernel.links.has_address(link.index, spec.address):
                self._address(batch, spec)
        for route in self._config.static_routes:
            if name in self._devices(route):
                self._route(batch, route)
        self._engine.request(batch, self)

    def address_removed(self, record: AddressRecord) -> None:
        """Somebody removed an address: put back if it is one of these."""
        link = self._kernel.links.by_index(record.ifindex)
        for spec in self._config.static_addresses:
            if spec.track and spec.address == record.address and link is not None and spec.dev == link.name:
                batch = self._kernel.requests.batch()
                self._address(batch, spec)
                log.info("static address %s on %s was removed by someone else: put back", spec.address, link.name)
                self._engine.request(batch, self)

    def route_removed(self, record: RouteRecord) -> None:
        """Somebody removed a route."""
        for route in self._config.static_routes:
            if route.track and route_key(route) == record.key:
                batch = self._kernel.requests.batch()
                self._route(batch, route)
                log.info("static route %s was removed by someone else: put back", route.destination)
                self._engine.request(batch, self)

    def rule_removed(self, record: RuleRecord) -> None:
        """Somebody removed a rule."""
        for rule in self._config.static_rules:
            if rule.track and (rule.preference, rule.family) == (record.spec.preference, record.spec.family):
                batch = self._kernel.requests.batch()
                batch.rule(rule)
                log.info("static rule %s was removed by someone else: put back", rule.preference)
                self._engine.request(batch, self)

    def interfaces_for(self, instance: str) -> tuple[str, ...]:
        """The interfaces of static items whose track_group names the instance: it tracks them with weight 0."""
        groups = {name for name, members in self._config.track_groups if instance in members}
        if not groups:
            return ()
        found = {spec.dev for spec in self._config.static_addresses if spec.track_group in groups and spec.dev}
        for route in self._config.static_routes:
            if route.track_group in groups:
                found |= self._devices(route)
        found |= {rule.iif for rule in self._config.static_rules if rule.track_group in groups and rule.iif}
        return tuple(sorted(found))

    def remove_all(self) -> None:
        """The end: rules, routes, addresses go."""
        self.apply(self._config, VrrpRoom())
        self._engine.flush()

    def kernel_failed(self, error: KernelError) -> None:
        """A request was refused; a static item moves no instance."""
        log.warning("static item: %s", error)

    @staticmethod
    def _devices(route: RouteSpec) -> set[str]:
        hops = {hop.dev for hop in route.next_hops if hop.dev}
        return hops | ({route.dev} if route.dev else set())

    def _address(self, batch: Batch, spec: AddressSpec, *, remove: bool = False) -> None:
        link = self._kernel.links.by_name(spec.dev)
        if link is not None:
            batch.address(spec, link.index, remove=remove)
        elif not remove:
            log.warning("static address %s: there is no interface %s yet", spec.address, spec.dev)

    def _route(self, batch: Batch, route: RouteSpec, *, remove: bool = False) -> None:
        try:
            batch.route(route, remove=remove)
        except KernelError as error:
            if not remove:
                log.warning("static route %s: %s", route.destination, error)
