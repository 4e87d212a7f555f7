"""Which checks run in this cell, from the slices of its virtual servers: identical ones once.

Pure bookkeeping that is cheap to change a little at a time: a reload of 37,000 servers is taken in service by service,
and the cell answers in between.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable

import msgspec

from holdfast.actors.checkers.config import Check, ServerChecks, ServiceChecks
from holdfast.actors.checkers.kinds import checker_of, identity_of, sameness_of
from holdfast.actors.checkers.messages import Target

PAUSE_EVERY = 64
"""Checks that are looked at between two pauses."""

_UNSAFE = re.compile(r"[^A-Za-z0-9.:_\[\]-]+")


class Entry(msgspec.Struct, frozen=True):
    """One check of the configuration and the server it is for."""

    sameness: str
    target: Target
    spec: Check


class Wanted(msgspec.Struct):
    """One check that runs: what it does, for whom, and for which virtual servers (name -> how many of its targets).

    identity: equal for the same check with other timing.
    """

    spec: Check
    identity: str
    targets: dict[str, Target]
    services: dict[str, int]

    def sorted_targets(self) -> tuple[Target, ...]:
        """In the order of the configuration's names."""
        return tuple(self.targets[name] for name in sorted(self.targets))


class Plan:
    """What is wanted, by sameness."""

    def __init__(self) -> None:
        self.wanted: dict[str, Wanted] = {}
        self._entries: dict[str, tuple[Entry, ...]] = {}

    def put(self, name: str, checks: ServiceChecks | None) -> set[str]:
        """Takes the slice of a virtual server, None: it is gone. Returns the samenesses that this touched."""
        steps = self.putting(name, () if checks is None else checks.servers)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                touched: set[str] = end.value
                return touched

    def putting(self, name: str, servers: Iterable[ServerChecks]) -> Generator[None, None, set[str]]:
        """The same by and by: a service may have ten thousand servers."""
        touched: set[str] = set()
        before = self._entries.get(name, ())
        after: dict[str, Entry] = {}
        for number, entry in enumerate(self._read(name, servers), 1):
            after[entry.target.check] = entry
            if not number % PAUSE_EVERY:
                yield
        for number, entry in enumerate(before, 1):
            if after.get(entry.target.check) != entry:
                self._drop(name, entry)
                touched.add(entry.sameness)
            if not number % PAUSE_EVERY:
                yield
        known = {entry.target.check: entry for entry in before}
        for number, (check, entry) in enumerate(after.items(), 1):
            if known.get(check) != entry:
                self._add(name, entry)
                touched.add(entry.sameness)
            if not number % PAUSE_EVERY:
                yield
        if after:
            self._entries[name] = tuple(after.values())
        else:
            self._entries.pop(name, None)
        return touched

    def services(self) -> Iterable[str]:
        """Names of the slices that have checks here."""
        return self._entries.keys()

    def samenesses_of(self, name: str) -> set[str]:
        """What runs for a virtual server."""
        return {entry.sameness for entry in self._entries.get(name, ())}

    def _read(self, service: str, servers: Iterable[ServerChecks]) -> Iterable[Entry]:
        for server in servers:
            for spec in server.checks:
                target = Target(spec.name, service, server.server, spec.alpha)
                yield Entry(sameness_of(spec), target, spec)

    def _add(self, name: str, entry: Entry) -> None:
        wanted = self.wanted.get(entry.sameness)
        if wanted is None:
            wanted = self.wanted[entry.sameness] = Wanted(entry.spec, identity_of(entry.spec), {}, {})
        wanted.targets[entry.target.check] = entry.target
        wanted.services[name] = wanted.services.get(name, 0) + 1

    def _drop(self, name: str, entry: Entry) -> None:
        wanted = self.wanted[entry.sameness]
        if wanted.targets.get(entry.target.check) == entry.target:
            del wanted.targets[entry.target.check]
        left = wanted.services[name] - 1
        if left:
            wanted.services[name] = left
        else:
            del wanted.services[name]
        if not wanted.services:
            del self.wanted[entry.sameness]


def name_of(spec: Check, identity: str) -> str:
    """The check's own name: `tcp-10.0.0.2:80-1f3a9c02`."""
    checker = checker_of(spec)
    kind = checker.kind_of(spec).removesuffix("_CHECK").removesuffix("_GET").lower()
    target = _UNSAFE.sub("_", checker.target_of(spec))
    return f"{kind}-{target}-{identity}"
