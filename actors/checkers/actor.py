"""The checkers room of a cell: takes its part of the configuration in and keeps one actor for each check.

Which virtual servers a cell looks after is decided by actors/runtime/placement.py; checks are shared within a cell.
A large configuration is taken in little by little (SLICE_OF_TIME_S at a time), so that checks go on on time meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import resource
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pykka

from holdfast.actors.checkers import base
from holdfast.actors.checkers.check_actor import Change, FollowingCheck, NewGlobals, RunningCheck
from holdfast.actors.checkers.config import CheckersGlobals, ServerChecks, ServiceChecks
from holdfast.actors.checkers.kinds import Surroundings, checker_of, kinds
from holdfast.actors.checkers.messages import CheckDone, CheckResult, CheckStateChanged, RunCheck, SuspendCheck
from holdfast.actors.checkers.ping import restore_range
from holdfast.actors.checkers.plan import Plan, Wanted, name_of
from holdfast.actors.checkers.remote import RemoteCheck
from holdfast.actors.checkers.sharing import Sharing
from holdfast.actors.checkers.sockets import Poller
from holdfast.actors.runtime.context import CellContext, Generation
from holdfast.actors.runtime.programs import programs_of
from holdfast.actors.watch.messages import LinkAddresses
from holdfast.bus.base import Caller, Subscription
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Command, Failed, Reply

log = logging.getLogger(__name__)

GLOBALS = "globals"
SLICE_OF_TIME_S = 0.005
REVIVE_AFTER_S = 1.0
"""An actor that a fault has ended comes back after this time."""

_ASPECTS = ("result", "state", "overdue")


class Running(msgspec.Struct):
    """A check of this cell. remote: other nodes carry it out."""

    name: str
    ref: pykka.ActorRef[Any]
    wanted: Wanted
    suspended: bool
    remote: bool = False


class RoughChecks(ServiceChecks, frozen=True, kw_only=True):
    """A slice whose servers are still packed: each is decoded when its turn comes."""

    servers: tuple[msgspec.Raw, ...] = ()  # type: ignore[assignment]


_slices = msgspec.msgpack.Decoder(RoughChecks)
_servers = msgspec.msgpack.Decoder(ServerChecks)


class Patience:
    """Gives the loop a turn when a slice of time is used up."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def pause(self) -> None:
        """Called often; rarely waits."""
        if time.monotonic() - self._since >= SLICE_OF_TIME_S:
            await asyncio.sleep(0)
            self._since = time.monotonic()


class CheckersRoom:
    """All checks of one cell. Not shared between threads.

    kind: the first word of their subjects: `check`, or `probe` for those that are run for other nodes.
    """

    def __init__(self, context: CellContext, kind: str = "check") -> None:
        self.context = context
        self.poller = Poller(context.loop, context.timers)
        programs = programs_of(context)
        self.around = Surroundings(context.loop, self.poller, context.bus, context.run_dir, programs)
        self.around.kind = kind
        self.plan = Plan()
        self.running: dict[str, Running] = {}
        self._by_name: dict[str, str] = {}
        self._former = _results(context.restored)
        self._former_states = _states(context.restored)
        self._generations: deque[Generation] = deque()
        self._task: asyncio.Task[None] | None = None
        self._suspend_at: dict[str, str] = {}
        """Virtual servers with ha_suspend, and the address each of them waits for."""
        self._addresses: dict[str, frozenset[str]] = {}
        self._held: set[str] = set()
        """What an operator has suspended: virtual servers, or checks by name."""
        self._links: Subscription | None = None
        self._stopped = False
        self._busy = asyncio.Lock()
        self._sharing = Sharing(self) if kind == "check" else None
        context.bus.serve(f"checkers/{context.cell}", self._command)
        context.on_dump(self.dump)

    def apply(self, generation: Generation) -> None:
        """The configuration, new or changed. Returns at once; `settled` waits for the end of it."""
        self._generations.append(generation)
        if self._task is None or self._task.done():
            self._task = self.context.loop.create_task(self._work())
            self._task.add_done_callback(_tell_failure)

    async def settled(self) -> None:
        """Everything given to `apply` so far is in force."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def stop(self) -> None:
        """No check runs after this; nothing is told of their servers."""
        self._stopped = True
        if self._sharing is not None:
            self._sharing.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._links is not None:
            self._links.close()
        refs = [running.ref for running in self.running.values()]
        for ref in refs:
            ref.stop(block=False)
        self.running.clear()
        while refs:
            # The mailroom hands the messages out over the next turns, in this order.
            if refs[-1].is_alive():
                await asyncio.sleep(0)
            else:
                refs.pop()
        restore_range(self.around)
        self.poller.close()

    def dump(self) -> str:
        """A line for each check."""
        lines = [f"------< Health checkers of {self.context.cell} >------"]
        for running in sorted(self.running.values(), key=lambda each: each.name):
            result = self._result_of(running.name)
            state = "not run yet" if result is None else f"{_word(result.up)}, {result.text}"
            stands = ", suspended" if running.suspended else ""
            lines.append(f" {running.name}: {state}{stands}; for {len(running.wanted.targets)} real server(s)")
        return "\n".join(lines) + "\n"

    async def _work(self) -> None:
        while self._generations:
            # Only the newest counts, but each of them says what it changed.
            generation = self._generations.popleft()
            while self._generations:
                generation = _merged(generation, self._generations.popleft())
            # Thousands of new objects would make the collector walk all of them again and again: a stand-still. They
            # live long, so afterwards it does not look at them any more. CheckActor.release leaves no cycles behind.
            collecting = gc.isenabled()
            gc.disable()
            try:
                async with self._busy:
                    await self._take_in(generation)
            finally:
                gc.freeze()
                if collecting:
                    gc.enable()
            if generation.initial:
                self._forget_former()

    async def _take_in(self, generation: Generation) -> None:
        patience = Patience()
        started = time.monotonic()
        if GLOBALS in generation.changed:
            await self._take_globals(generation.slices[GLOBALS], patience)
        touched: set[str] = set()
        for name in generation.removed - {GLOBALS}:
            touched |= await self._put(name, None, patience)
        for name in generation.changed - {GLOBALS}:
            touched |= await self._put(name, _slices.decode(generation.slices[name]), patience)
        self._follow_links()
        await self._adjust(touched, patience)
        if self._sharing is not None and self._sharing.active:
            await self._place_all(self._sharing, patience)
        took_s = time.monotonic() - started
        log.info("%d checks run here, %d touched, taken in within %.3f s", len(self.running), len(touched), took_s)

    async def _take_globals(self, data: bytes, patience: Patience) -> None:
        settings = msgspec.msgpack.decode(data, type=CheckersGlobals)
        if settings == self.around.settings:
            return
        self.around.settings = settings
        self.around.kept.pop("tls-context", None)
        for running in self.running.values():
            running.ref.tell(NewGlobals())
            await patience.pause()

    async def _put(self, name: str, checks: RoughChecks | None, patience: Patience) -> set[str]:
        self._suspend_at.pop(name, None)
        if checks is not None and checks.ha_suspend and checks.suspend_address is not None:
            self._suspend_at[name] = checks.suspend_address
        steps = self.plan.putting(name, () if checks is None else map(_servers.decode, checks.servers))
        while True:
            try:
                next(steps)
            except StopIteration as end:
                touched: set[str] = end.value
                break
            await patience.pause()
        await patience.pause()
        return touched | (self.plan.samenesses_of(name) & self.running.keys())

    async def _adjust(self, touched: Iterable[str], patience: Patience) -> None:
        wanted = self.plan.wanted
        gone: dict[str, list[str]] = {}
        fresh: list[str] = []
        for sameness in touched:
            if sameness in wanted:
                if sameness in self.running:
                    self._refresh(sameness)
                else:
                    fresh.append(sameness)
            elif sameness in self.running:
                gone.setdefault(self.running[sameness].wanted.identity, []).append(sameness)
            await patience.pause()
        # A check with other timing is the same check: its actor goes on, with its verdict and its counters.
        unmatched: list[str] = []
        for sameness in fresh:
            predecessors = gone.get(wanted[sameness].identity)
            if predecessors:
                running = self.running[sameness] = self.running.pop(predecessors.pop())
                self._by_name[running.name] = sameness
                running.wanted = wanted[sameness]
                self._refresh(sameness)
            else:
                unmatched.append(sameness)
            await patience.pause()
        for left in gone.values():
            for sameness in left:
                self._end(sameness)
                await patience.pause()
        for sameness in unmatched:
            if sameness in wanted:
                self._begin(sameness, wanted[sameness])
            await patience.pause()

    def _begin(self, sameness: str, wanted: Wanted) -> None:
        name = name_of(wanted.spec, wanted.identity)
        if self.around.kind == "probe":
            name = f"{name}-{sameness}"  # as the director knows it
        elif name in self._by_name:
            name = f"{name}-{sameness[:4]}"
        former = self._former.pop(name, None)
        state = self._former_states.pop(name, None)
        if state is not None:
            self.context.bus.publish(f"{self.around.kind}/{name}", "state", state)
        self.running[sameness] = self._start(name, wanted, former)
        self._by_name[name] = sameness
        self.context.bus.serve(f"{self.around.kind}/{name}", self._command)

    def _start(self, name: str, wanted: Wanted, former: CheckResult | None) -> Running:
        suspended = self._is_suspended(name, wanted)
        checker = checker_of(wanted.spec)
        targets = wanted.sorted_targets()
        shared: dict[str, Any] = {
            "name": name,
            "spec": wanted.spec,
            "targets": targets,
            "around": self.around,
            "former": former,
            "died": self._died,
        }
        voters = None if self._sharing is None else self._sharing.voters(wanted, suspended=suspended)
        if voters is not None:
            elsewhere = RemoteCheck.start(**shared, voters=voters)
            return Running(name, elsewhere, wanted, suspended=False, remote=True)
        for target in targets:
            word = "Suspending" if suspended else "Activating"
            log.info("%s healthchecker for service %s for VS %s", word, target.real_server, target.virtual_server)
        if checker.follows_events:
            ref: pykka.ActorRef[Any] = FollowingCheck.start(**shared)
            suspended = False
        else:
            ref = RunningCheck.start(**shared, suspended=suspended)
        return Running(name, ref, wanted, suspended)

    def _refresh(self, sameness: str) -> None:
        running = self.running[sameness]
        running.ref.tell(Change(running.wanted.spec, running.wanted.sorted_targets()))
        self._suspend_or_resume(running)

    def _end(self, sameness: str) -> None:
        running = self.running.pop(sameness)
        del self._by_name[running.name]
        running.ref.stop(block=False)
        for aspect in _ASPECTS:
            self.context.bus.forget(f"{self.around.kind}/{running.name}", aspect)

    def _died(self, name: str) -> None:
        """A fault ended an actor: another takes its place, with what the newest result says."""
        if not self._stopped:
            self.context.loop.call_later(REVIVE_AFTER_S, self._revive, name)

    def _revive(self, name: str) -> None:
        sameness = self._by_name.get(name)
        if sameness is None or self._stopped:
            return
        running = self.running[sameness]
        if not running.ref.is_alive():
            log.warning("%s: put back after a fault", name)
            self.running[sameness] = self._start(name, running.wanted, self._result_of(name))

    def _result_of(self, name: str) -> CheckResult | None:
        for envelope in self.context.bus.retained(f"{self.around.kind}/{name}/result"):
            if isinstance(envelope.event, CheckResult):
                return envelope.event
        return None

    def begin_from(self, former: CheckResult) -> None:
        """A check that is not here yet goes on from this when it comes, unless it knows better from a former life."""
        self._former.setdefault(former.check, former)

    def results(self) -> dict[str, CheckResult]:
        """The newest result of each check."""
        return _results(self.context.bus.retained(f"{self.around.kind}/"))

    # checks that other nodes carry out

    def waits_for_address(self, service: str) -> bool:
        """Whether a virtual server's checks depend on an address of this host (ha_suspend)."""
        return service in self._suspend_at

    async def place_anew(self) -> None:
        """Other nodes carry checks out now, or none: each check goes where it should be, and goes on as it stands."""
        async with self._busy:
            if self._sharing is not None:
                await self._place_all(self._sharing, Patience())

    async def _place_all(self, sharing: Sharing, patience: Patience) -> None:
        results = self.results()
        for sameness, running in list(self.running.items()):
            suspended = self._is_suspended(running.name, running.wanted)
            voters = sharing.voters(running.wanted, suspended=suspended)
            if voters is not None and running.remote:
                running.ref.tell(voters)
            elif running.remote or voters is not None:
                running.ref.stop(block=False)
                self.running[sameness] = self._start(running.name, running.wanted, results.get(running.name))
            await patience.pause()
        sharing.offer()

    def _forget_former(self) -> None:
        """Results of a former life whose checks are not configured any more."""
        for name in self._former.keys() | self._former_states.keys():
            for aspect in _ASPECTS:
                self.context.bus.forget(f"{self.around.kind}/{name}", aspect)
        self._former.clear()
        self._former_states.clear()

    # ha_suspend and the operator

    def _follow_links(self) -> None:
        if self._suspend_at and self._links is None:
            self._links = self.context.bus.subscribe("link/", self._link_said)

    def _link_said(self, envelope: Envelope) -> None:
        event = envelope.event
        interface = envelope.subject.partition("/")[2]
        if isinstance(event, LinkAddresses):
            addresses = frozenset(address.partition("/")[0] for address in event.addresses)
        elif envelope.gone and envelope.aspect == "addresses":
            addresses = frozenset()
        else:
            return
        if self._addresses.get(interface, frozenset()) == addresses:
            return
        self._addresses[interface] = addresses
        self._look_at_suspension(self._suspend_at)

    def _look_at_suspension(self, services: Iterable[str], *, by_operator: bool = False) -> None:
        for service in list(services):
            for sameness in self.plan.samenesses_of(service):
                running = self.running.get(sameness)
                if running is not None:
                    self._suspend_or_resume(running, by_operator=by_operator)

    def _suspend_or_resume(self, running: Running, *, by_operator: bool = False) -> None:
        if checker_of(running.wanted.spec).follows_events:
            return
        suspended = self._is_suspended(running.name, running.wanted)
        if suspended is not running.suspended:
            if self._sharing is not None and self._sharing.active:
                # What stands still stands still here.
                self._sharing.move()
            if running.remote:
                return
            running.suspended = suspended
            running.ref.tell(base.Suspend(by_operator) if suspended else base.Resume(by_operator))

    def _is_suspended(self, name: str, wanted: Wanted) -> bool:
        """A check that stands for several virtual servers runs as long as one of them wants it."""
        return name in self._held or all(self._stands_still(service) for service in wanted.services)

    def _stands_still(self, service: str) -> bool:
        address = self._suspend_at.get(service)
        waits = address is not None and not any(address in each for each in self._addresses.values())
        return waits or service in self._held

    def _command(self, command: Command, _caller: Caller) -> Reply:
        match command:
            case RunCheck():
                sameness = self._by_name.get(command.check)
                if sameness is None:
                    return Failed(code="no-such-check", message=f"{command.check} does not run in {self.context.cell}")
                if self.running[sameness].remote:
                    return Failed(code="elsewhere", message=f"{command.check} is carried out by other nodes")
                self.running[sameness].ref.tell(base.RunNow())
                return CheckDone(message=f"{command.check} runs now")
            case SuspendCheck():
                return self._hold(command)
            case _:
                return Failed(code="unknown", message=f"the checkers know no {type(command).__name__}")

    def _hold(self, command: SuspendCheck) -> Reply:
        name = command.virtual_server
        if command.suspended:
            self._held.add(name)
        else:
            self._held.discard(name)
        if name in self._by_name:
            self._suspend_or_resume(self.running[self._by_name[name]], by_operator=True)
            number = 1
        else:
            self._look_at_suspension([name], by_operator=True)
            number = len(self.plan.samenesses_of(name))
        if not number:
            self._held.discard(name)
            return Failed(code="no-such-check", message=f"no check of {name} runs in {self.context.cell}")
        return CheckDone(message=f"{number} check(s) {'suspended' if command.suspended else 'go on'}")


def _results(restored: Iterable[Envelope]) -> dict[str, CheckResult]:
    return {each.event.check: each.event for each in restored if isinstance(each.event, CheckResult)}


def _states(restored: Iterable[Envelope]) -> dict[str, CheckStateChanged]:
    return {each.event.check: each.event for each in restored if isinstance(each.event, CheckStateChanged)}


def _merged(first: Generation, then: Generation) -> Generation:
    """Two generations as one."""
    changed = (first.changed - then.removed) | then.changed
    removed = (first.removed - then.changed) | then.removed
    return Generation(then.number, then.slices, frozenset(changed), frozenset(removed), first.initial)


def _word(up: bool | None) -> str:
    return "no verdict yet" if up is None else "up" if up else "down"


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("the configuration of the checks could not be taken in", exc_info=task.exception())


def raise_descriptor_limit() -> None:
    """A thousand silent servers hold a thousand sockets: as many descriptors as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# Now, while the supervisor imports: a cell's first turn is not the time for it.
kinds()


def prepare(slices: Mapping[str, bytes]) -> None:
    """Called before cells are forked: what checks of these slices need is imported once for all of them."""
    if any(b"DNS_CHECK" in data for data in slices.values()):
        importlib.import_module("dns.message")


def start(context: CellContext) -> None:
    """Called by the cell."""
    raise_descriptor_limit()
    room = CheckersRoom(context)
    context.on_stop(room.stop)
    context.slices("checkers", room.apply)
