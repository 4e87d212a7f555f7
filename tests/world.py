"""Many routers on a bad network in virtual time: loss, delay, duplicates, reordering, cuts, pauses, crashes.

A `World` carries adverts between `VrrpMachine`s as a link would, keeps the lifetime of their addresses as the kernel
would, and runs the checkers all along. Everything follows from the seed: the same seed is the same world.
"""

from __future__ import annotations

import heapq
import ipaddress
import random
from collections.abc import Callable, Iterable, Sequence

from holdfast.actors.runtime.machine import Action, Deadline, Duration, Fact, Instant, S
from holdfast.actors.vrrp import actions as act
from holdfast.actors.vrrp.config import AddressSpec, VrrpInstance
from holdfast.actors.vrrp.facts import (
    AdvertReceived,
    LeaseLost,
    LinkChanged,
    Restored,
    SourceChanged,
    Stalled,
    Start,
)
from holdfast.actors.vrrp.machine import VrrpMachine
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged
from holdfast.actors.vrrp.options import LeaseMode, MachineOptions

KERNEL_LATENESS = Duration(100_000_000)
"""A lifetime of N seconds ends after N + 0.1 s at the latest."""
_TRACE_LINES = 400


class Router:
    """One host: its machine, what its kernel holds, and whether its process runs."""

    def __init__(self, name: str, instance: VrrpInstance, options: MachineOptions, address: str) -> None:
        self.name = name
        self.instance = instance
        self.options = options
        self.address = address
        self.value = int(ipaddress.ip_address(address))
        self.machine = VrrpMachine(instance, options)
        self.alive = True
        self.paused_at: Instant | None = None
        self.waiting: list[Fact] = []
        self.holds = False
        self.lease_until: Instant | None = None
        self.epoch = 0
        self.life = 0
        self.adverts: dict[int, AdvertReceived] = {}
        self.advert_sent_at: Instant | None = None

    @property
    def runs(self) -> bool:
        """Its process is alive and scheduled."""
        return self.alive and self.paused_at is None

    @property
    def is_master(self) -> bool:
        """It runs and is MASTER."""
        return self.runs and self.machine.state is VrrpState.MASTER


class World:
    """Routers r0, r1 ... on one link. priorities: one for each. now: of the whole world, in nanoseconds."""

    def __init__(
        self,
        seed: int,
        *,
        priorities: Sequence[int] = (200, 150, 100),
        interval_s: float = 1.0,
        loss: float = 0.0,
        duplicates: float = 0.0,
        delay_ms: tuple[float, float] = (0.0, 2.0),
        lease: LeaseMode = LeaseMode.AUTO,
        **fields: object,
    ) -> None:
        self.seed = seed
        self.now = Instant(0)
        self.loss = loss
        self.duplicates = duplicates
        self.delay_ms = delay_ms
        self.interval = Duration(round(interval_s * S))
        self.cuts: set[tuple[str, str]] = set()
        self.trace: list[str] = []
        self.transitions: list[tuple[Instant, str, VrrpStateChanged]] = []
        self.two_owners = Duration(0)
        self.no_owner = Duration(0)
        self._checks: list[Callable[[World, Router, Fact, list[Action]], None]] = []
        self._random = random.Random(seed)
        self._queue: list[tuple[int, int, str, Router, int, Fact | None]] = []
        self._count = 0
        self._owners_since = Instant(0)
        self._owners = 0
        self.routers: list[Router] = []
        for number, priority in enumerate(priorities):
            usual: dict[str, object] = {
                "name": "V",
                "interface": "eth0",
                "vrid": 1,
                "version": 3,
                "priority": priority,
                "wants_master": priority == 255,
                "advert_interval_us": round(interval_s * 1_000_000),
                "addresses": (AddressSpec(address="10.0.0.1", prefix=24),),
            }
            instance = VrrpInstance(**{**usual, **fields})  # type: ignore[arg-type]
            options = MachineOptions(node=f"r{number}", lease=lease)
            self.routers.append(Router(f"r{number}", instance, options, f"192.0.2.{10 + number}"))
        for router in self.routers:
            self._boot(router, Start())

    # ---- what a test does

    def check_always(self, check: Callable[[World, Router, Fact, list[Action]], None]) -> None:
        """`check(world, router, fact, actions)` runs after every step."""
        self._checks.append(check)

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        end = self.now + round(seconds * S)
        queue = self._queue
        while queue and queue[0][0] <= end:
            at, _, kind, router, epoch, fact = heapq.heappop(queue)
            self.now = Instant(at)
            if kind == "deadline":
                if epoch == router.epoch and router.runs:
                    self._step(router, Deadline())
            elif kind == "packet":
                assert fact is not None
                self._deliver(router, fact)
            elif kind == "lease":
                self._lease_ends(router)
            elif kind == "resume":
                self._wake(router)
        self.now = Instant(end)

    def cut(self, group: Iterable[int], *, one_way: bool = False) -> None:
        """Routers of `group` and the others do not hear each other; one_way: only the others do not hear the group."""
        inside = {f"r{number}" for number in group}
        for a in self.routers:
            for b in self.routers:
                if (a.name in inside) != (b.name in inside) and (not one_way or a.name in inside):
                    self.cuts.add((a.name, b.name))
        self._note(f"cut {sorted(inside)}{' one way' if one_way else ''}")

    def pause(self, number: int, seconds: float) -> None:
        """The process of router `number` is not scheduled for that long: its packets wait."""
        router = self.routers[number]
        if not router.runs:
            return
        router.paused_at = self.now
        self._note(f"{router.name} stands still for {seconds} s")
        self._push(self.now + round(seconds * S), "resume", router)

    def crash(self, number: int) -> None:
        """The process dies; its kernel lives and keeps the addresses while their lifetime lasts."""
        router = self.routers[number]
        if not router.alive:
            return
        router.alive = False
        router.paused_at = None
        router.waiting = []
        router.epoch += 1
        router.life += 1
        self._note(f"{router.name} dies")
        self._count_owners()

    def restart(self, number: int, *, restored: bool = False) -> None:
        """A dead process is started again; restored: with what it retained, else knowing nothing."""
        router = self.routers[number]
        if router.alive:
            return
        old = router.machine
        router.machine = VrrpMachine(router.instance, router.options)
        router.alive = True
        if restored and old.reason is not None and old.state in (VrrpState.MASTER, VrrpState.BACKUP):
            fact: Fact = Restored(
                state=old.state,
                since=old.since,
                reason=old.reason,
                priority=old.priority,
                silent_since=router.advert_sent_at if old.state is VrrpState.MASTER else None,
                master=old.master,
                master_priority=old.master_priority,
                master_interval=old.master_interval,
            )
        else:
            fact = Start()
        self._boot(router, fact)

    def power_off(self, number: int) -> None:
        """The whole host goes: process and addresses."""
        self.crash(number)
        router = self.routers[number]
        router.holds = False
        router.lease_until = None
        self._count_owners()

    def heal(self) -> None:
        """The network is whole and quick again, everything runs."""
        self.loss = self.duplicates = 0.0
        self.delay_ms = (0.0, 2.0)
        self.cuts.clear()
        self._note("healed")
        for number, router in enumerate(self.routers):
            if router.paused_at is not None:
                self._wake(router)
            self.restart(number)

    def masters(self) -> list[int]:
        """Numbers of the routers that are MASTER and run."""
        return [number for number, router in enumerate(self.routers) if router.is_master]

    def owners(self) -> list[int]:
        """Numbers of the hosts whose kernel holds the address."""
        return [number for number, router in enumerate(self.routers) if router.holds]

    def highest(self) -> int:
        """The router that should be MASTER when all is well: highest priority, then highest address."""
        alive = [number for number, router in enumerate(self.routers) if router.alive]
        return max(alive, key=lambda number: (self.routers[number].machine.priority, self.routers[number].value))

    def explain(self) -> str:
        """For a failure: the seed and the end of the trace."""
        return f"seed {self.seed}, now {self.now / S:.6f}\n" + "\n".join(self.trace[-_TRACE_LINES:])

    # ---- how it works

    def _boot(self, router: Router, fact: Fact) -> None:
        for first in (LinkChanged("eth0", up=True), SourceChanged(router.address)):
            router.machine.step(first, self.now)
        self._step(router, fact)

    def _push(self, at: int, kind: str, router: Router, fact: Fact | None = None) -> None:
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, kind, router, router.epoch, fact))

    def _deliver(self, router: Router, fact: Fact) -> None:
        if router.runs:
            self._step(router, fact)
        elif router.alive:
            router.waiting.append(fact)

    def _wake(self, router: Router) -> None:
        """What the shell promises: the stall first (here half the time), then everything that waited, then time."""
        if router.paused_at is None or not router.alive:
            return
        stood = Duration(self.now - router.paused_at)
        router.paused_at = None
        waiting, router.waiting = router.waiting, []
        self._note(f"{router.name} runs again after {stood / S:.3f} s, {len(waiting)} packets wait")
        if self._random.random() < 0.5 and stood > self.interval // 2:
            self._step(router, Stalled(stood))
        for fact in waiting:
            self._step(router, fact)
        self._step(router, Deadline())

    def _step(self, router: Router, fact: Fact) -> None:
        machine = router.machine
        before = machine.deadline
        actions = machine.step(fact, self.now)
        for action in actions:
            kind = type(action)
            if kind is act.SendAdvert:
                self._send(router, action.priority)  # type: ignore[attr-defined]
            elif kind is not act.Log:
                self._carry_out(router, action)
        for check in self._checks:
            check(self, router, fact, actions)
        if machine.deadline != before or type(fact) is Deadline:
            router.epoch += 1
            if machine.deadline is not None:
                self._push(machine.deadline, "deadline", router)

    def _send(self, sender: Router, priority: int) -> None:
        sender.advert_sent_at = self.now
        advert = sender.adverts.get(priority)
        if advert is None:
            interval = self.interval if sender.instance.version == 3 else None
            advert = AdvertReceived(sender.address, sender.value, priority, interval)
            sender.adverts[priority] = advert
        chance = self._random.random
        low, high = self.delay_ms
        for receiver in self.routers:
            if receiver is sender or (sender.name, receiver.name) in self.cuts:
                continue
            copies = 2 if self.duplicates and chance() < self.duplicates else 1
            for _ in range(copies):
                if not self.loss or chance() >= self.loss:
                    delay = round((low + (high - low) * chance()) * 1_000_000)
                    self._push(self.now + delay, "packet", receiver, advert)

    def _carry_out(self, router: Router, action: Action) -> None:
        match action:
            case act.TakeOver(valid_lft_s=lease) | act.Restore(valid_lft_s=lease) | act.Reconcile(valid_lft_s=lease):
                router.holds = True
                self._lease(router, lease)
                self._count_owners()
            case act.RefreshLease(valid_lft_s=lease):
                if router.holds:
                    self._lease(router, lease)
            case act.LetGo():
                router.holds = False
                router.lease_until = None
                self._count_owners()
            case act.Publish(event=VrrpStateChanged() as event):
                assert event.reason.kind and event.reason.node == router.name, "a transition without a reason"
                self.transitions.append((self.now, router.name, event))
                self._note(f"{router.name} {event.old.value} -> {event.state.value}: {event.reason.kind.value}")

    def _lease(self, router: Router, lease_s: int | None) -> None:
        if lease_s is None:
            router.lease_until = None
            return
        router.lease_until = Instant(self.now + lease_s * S)
        self._push(router.lease_until + KERNEL_LATENESS, "lease", router)

    def _lease_ends(self, router: Router) -> None:
        until = router.lease_until
        if until is None or self.now < until + KERNEL_LATENESS or not router.holds:
            return
        router.holds = False
        router.lease_until = None
        self._note(f"{router.name} loses the address: its lifetime is over")
        self._count_owners()
        self._deliver(router, LeaseLost(("address/10.0.0.1@eth0",)))

    def _count_owners(self) -> None:
        """Adds up for how long the address had two owners, or none."""
        past = self.now - self._owners_since
        if self._owners > 1:
            self.two_owners = Duration(self.two_owners + past)
        elif self._owners == 0:
            self.no_owner = Duration(self.no_owner + past)
        self._owners = sum(router.holds for router in self.routers)
        self._owners_since = self.now

    def _note(self, text: str) -> None:
        self.trace.append(f"{self.now / S:12.6f} {text}")
