"""The books of one real server within a virtual server: its checks, its weight, whether it counts. Pure."""

from __future__ import annotations

from holdfast.actors.ipvs.config import CheckRef, RealServer
from holdfast.actors.ipvs.facts import CheckReported, FormerServer
from holdfast.actors.ipvs.messages import CheckView, server_subject
from holdfast.actors.ipvs.quorum import clamp_weight
from holdfast.actors.runtime.machine import Instant


class Check:
    """One check as far as the pool is concerned. up: its verdict counts as good; has_run: there was one."""

    __slots__ = ("has_run", "latency_us", "ref", "runs_as", "text", "up", "weight_delta")

    def __init__(self, ref: CheckRef, *, up: bool) -> None:
        self.ref = ref
        self.up = up
        self.has_run = False
        self.runs_as = ref.name
        self.text = ""
        self.latency_us = 0
        self.weight_delta = 0

    def view(self) -> CheckView:
        """For `holdfast status lvs`."""
        up = self.up if self.has_run else None
        return CheckView(name=self.runs_as, kind=self.ref.kind, up=up, text=self.text, latency_us=self.latency_us)


class Drain:
    """A server that loses its connections. until: when it has lasted long enough; over: it has left the pool."""

    __slots__ = ("over", "remove", "until")

    def __init__(self, until: Instant | None, remove: bool) -> None:
        self.until = until
        self.remove = remove
        self.over = False


class Server:
    """One real server. in_pool, kernel_weight: what we last ordered. refused: the kernel did not take it.

    alive: booked, as keepalived does: a server whose checks are good but which the kernel refused is not.
    suspected: its checks failed together with too many others' to be believed. leaving: gone from the configuration.
    """

    __slots__ = (
        "alive",
        "checks",
        "config",
        "died_at",
        "drain",
        "failed",
        "in_pool",
        "kernel_weight",
        "leaving",
        "name",
        "refused",
        "subject",
        "suspected",
        "weight",
    )

    def __init__(self, config: RealServer, service: str) -> None:
        self.config = config
        self.name = config.name
        self.subject = server_subject(service, config.name)
        # alpha: failed until proven otherwise; without it a server serves before it was ever checked.
        self.checks = {ref.name: Check(ref, up=not ref.alpha) for ref in config.checks}
        self.failed = self._count_failed()
        self.alive = self.failed == 0
        self.weight = config.weight
        self.in_pool = False
        self.kernel_weight = 0
        self.drain: Drain | None = None
        self.leaving = False
        self.refused = False
        self.died_at: Instant | None = None
        self.suspected = False

    def _count_failed(self) -> int:
        return sum(not check.up for check in self.checks.values())

    def restore(self, former: FormerServer) -> None:
        """Takes the state of before a crash, so that nothing moves until a check says otherwise."""
        for name, check in self.checks.items():
            check.up = former.up or (bool(former.failed_checks) and name not in former.failed_checks)
            check.has_run = True
        self.failed = self._count_failed()
        if not former.up and self.checks and self.failed == 0:
            # The checks that had failed are not there any more: whichever is there now decides.
            next(iter(self.checks.values())).up = False
            self.failed = 1
        self.alive = self.failed == 0
        self.suspected = former.suspected
        if former.draining:
            self.drain = Drain(None, True)
            self.drain.over = not former.in_pool

    def adopt(self, config: RealServer) -> None:
        """Takes a new configuration; checks that were there keep their verdict."""
        old = self.checks
        self.checks = {}
        for ref in config.checks:
            kept = old.get(ref.name)
            if kept is None or kept.ref.kind != ref.kind:
                # A new check of a server that is already known does not take it down before it has run.
                kept = Check(ref, up=self.alive or not ref.alpha)
            kept.ref = ref
            self.checks[ref.name] = kept
        self.config = config
        self.failed = self._count_failed()

    def take_weight(self, report: CheckReported) -> None:
        """Notes what the check adds to the configured weight."""
        check = self.checks[report.check]
        if report.weight is not None:
            check.weight_delta = report.weight - self.config.weight
        elif report.weight_add:
            check.weight_delta = report.weight_add
        elif report.ok:
            check.weight_delta = 0

    def effective_weight(self) -> int:
        """Configured weight plus what the checks give."""
        return self.config.weight + sum(check.weight_delta for check in self.checks.values())

    @property
    def counts(self) -> bool:
        """Whether it serves, as far as the checks are believed; one that leaves does so until it has drained."""
        return self.alive or self.suspected or self.leaving

    def contribution(self) -> int:
        """What it adds to the weight that the quorum is compared with. A draining server takes nothing new."""
        return clamp_weight(self.weight) if self.counts and self.drain is None and not self.leaving else 0

    def placement(self, *, sorry_active: bool) -> int | None:
        """The weight it should have in the kernel; None: it should not be there.

        Source: keepalived.conf(5), inhibit_on_failure and sorry_server: while the sorry server serves, the others are
        out, or at weight 0 with inhibit_on_failure.
        """
        if self.drain is not None and self.drain.over:
            return None
        if self.refused:
            return None
        if not self.counts or sorry_active:
            return 0 if self.config.inhibit_on_failure else None
        return 0 if self.drain is not None else clamp_weight(self.weight)

    def failed_checks(self) -> tuple[str, ...]:
        """The configured names of the checks that hold it down."""
        return tuple(name for name, check in self.checks.items() if not check.up)
