"""The director's side of checks that other nodes carry out: offers, who lives, whose results count.

One of it in each checkers cell, for the checks of that cell. It does nothing while holdfast.toml names no node.
The worker's side is hosting.py, the rules are in assignment.py.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec
import pykka

from holdfast.actors.checkers import shares
from holdfast.actors.checkers.assignment import Beaten, Unable, Vote, WorkersChanged, WorkersMachine, chosen
from holdfast.actors.checkers.messages import CheckResult
from holdfast.actors.checkers.plan import Wanted
from holdfast.actors.checkers.remote import Voted, Voters
from holdfast.actors.runtime.machine import Deadline, Fact, Instant, S, seconds
from holdfast.actors.worker.messages import (
    NOTHING,
    FetchShare,
    Share,
    ShareOffered,
    ShareState,
    ShareStatus,
    WorkerBeat,
)
from holdfast.bus.base import Caller, Subscription
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Command, EventId, Failed, Reason, ReasonKind, Reply
from holdfast.config.settings import ChecksSettings, Settings, workers_of
from holdfast.kernel.timers import monotonic

if TYPE_CHECKING:
    from holdfast.actors.checkers.actor import CheckersRoom

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
DIGESTS_KEPT = 4
TAKEN_WITHIN = 3
"""A worker that beats and has not taken its share within so many times `lost_after` cannot (another version)."""


class _Worker(msgspec.Struct):
    """One node that runs checks for this cell."""

    subscriptions: list[Subscription]
    offered: str = NOTHING
    """The digest of what it is to run."""
    offered_at: Instant | None = None
    """Since when it has been offered that and has not taken it."""
    known: dict[str, frozenset[str]] = msgspec.field(default_factory=lambda: {NOTHING: frozenset()})
    """digest -> the probes in it, of the newest offers."""
    taken: frozenset[str] = frozenset()
    """Probes that it runs by its own word: their results count."""
    results: dict[str, tuple[Vote, EventId]] = msgspec.field(default_factory=dict)
    status: ShareStatus = ShareStatus.WAITING


class Sharing:
    """Which checks of this cell other nodes carry out. Used on the cell's loop only."""

    def __init__(self, room: CheckersRoom) -> None:
        self._room = room
        self._context = room.context
        self._bus = room.context.bus
        self._settings: Settings | None = None
        self._checks = ChecksSettings()
        self._workers: dict[str, _Worker] = {}
        self._machine = WorkersMachine((), seconds(3.0), seconds(10.0), monotonic())
        self._refs: dict[str, pykka.ActorRef[Any]] = {}
        self._closed = False
        self._moving: asyncio.Task[None] | None = None
        self._move_again = False
        self._bus.serve(f"share/{self._context.cell}", self._serve)
        self._configure()
        self._timer = self._context.loop.call_later(LOOK_EVERY_S, self._look)

    def close(self) -> None:
        """Nothing more is heard of the workers."""
        self._closed = True
        self._timer.cancel()
        self._context.timers.set(self, None, self._due)
        for worker in self._workers.values():
            for subscription in worker.subscriptions:
                subscription.close()
        if self._moving is not None:
            self._moving.cancel()

    @property
    def active(self) -> bool:
        """Whether holdfast.toml names anybody."""
        return bool(self._workers)

    # --- settings and the living ---------------------------------------------------------------------------------

    def _look(self) -> None:
        self._timer = self._context.loop.call_later(LOOK_EVERY_S, self._look)
        if self._context.settings is not self._settings and self._configure():
            self.move()
        now = monotonic()
        for name, worker in self._workers.items():
            waiting = worker.offered_at
            if waiting is not None and now - waiting > TAKEN_WITHIN * self._machine.lost_after:
                worker.offered_at = now
                self._step(Unable(name))

    def _configure(self) -> bool:
        """Takes holdfast.toml in. Returns whether anything about workers is different."""
        settings = self._settings = self._context.settings
        names = workers_of(settings)
        if settings.checks == self._checks and names == tuple(self._workers):
            return False
        self._checks = settings.checks
        for name in set(self._workers) - set(names):
            for subscription in self._workers.pop(name).subscriptions:
                subscription.close()
            self._bus.forget(self._subject(name), "offer")
            self._bus.forget(self._subject(name), "state")
        before, self._workers = self._workers, {}
        for name in names:
            self._workers[name] = before.get(name) or _Worker([])
        self._machine.configure(
            names, seconds(settings.checks.lost_after_s), seconds(settings.checks.return_after_s), monotonic()
        )
        for name in names:
            if name not in before:
                self._workers[name].subscriptions = [
                    self._bus.subscribe("worker/current/beat", self._beat, node=name),
                    self._bus.subscribe("probe/", self._result, node=name),
                ]
        self._context.timers.set(self, self._machine.deadline, self._due)
        return True

    def _due(self, _now: Instant) -> None:
        self._step(Deadline())

    def _step(self, fact: Fact) -> None:
        changed = [each for each in self._machine.step(fact, monotonic()) if isinstance(each, WorkersChanged)]
        self._context.timers.set(self, self._machine.deadline, self._due)
        for each in changed:
            worker = self._workers[each.node]
            if each.lives:
                log.info("node %s runs checks for us again", each.node)
            else:
                log.warning("node %s does not run our checks: not heard for %.1f s", each.node, each.silent / S)
                worker.taken = frozenset()
                worker.results.clear()
                evidence = {"silent_s": round(each.silent / S, 3), "limit_s": self._machine.lost_after / S}
                self._say(each.node, ShareStatus.LOST, ReasonKind.WORKER_LOST, evidence)
        if changed:
            self.move()

    def _beat(self, envelope: Envelope) -> None:
        event, node = envelope.event, envelope.id.node
        worker = self._workers.get(node)
        if worker is None or not isinstance(event, WorkerBeat):
            return
        self._step(Beaten(node))
        digest = event.shares.get(f"{self._bus.node}/{self._context.cell}", NOTHING)
        if node not in self._machine.alive:
            return
        before, worker.taken = worker.taken, worker.known.get(digest, frozenset())
        if digest == worker.offered:
            worker.offered_at = None
            if worker.status is not ShareStatus.RUNNING:
                self._say(node, ShareStatus.RUNNING, ReasonKind.STARTED, {})
        for probe in worker.taken - before:
            self._hand_on(node, worker, probe)
        for probe in before - worker.taken:
            worker.results.pop(probe, None)

    def _say(self, node: str, status: ShareStatus, kind: ReasonKind, evidence: dict[str, Any]) -> None:
        worker = self._workers[node]
        old, worker.status = worker.status, status
        reason = Reason(kind=kind, node=node, subject="worker/current", evidence=evidence)
        home = sum(not running.remote for running in self._room.running.values())
        event = ShareState(
            worker=node,
            cell=self._context.cell,
            old=old,
            state=status,
            checks=len(worker.taken) if status is ShareStatus.RUNNING else 0,
            home=home,
            reason=reason,
        )
        self._bus.publish(self._subject(node), "state", event)

    def _subject(self, worker: str) -> str:
        return f"share/{worker},{self._context.cell}"

    # --- results -------------------------------------------------------------------------------------------------

    def _result(self, envelope: Envelope) -> None:
        worker = self._workers.get(envelope.id.node)
        if worker is None or envelope.aspect != "result":
            return
        probe = envelope.subject.partition("/")[2]
        event = envelope.event
        if isinstance(event, CheckResult):
            vote = Vote(event.up, event.ok, event.text, event.latency_us, event.attempt)
            worker.results[probe] = (vote, envelope.id)
            if probe in worker.taken:
                self._hand_on(envelope.id.node, worker, probe)
        elif envelope.gone:
            worker.results.pop(probe, None)

    def _hand_on(self, node: str, worker: _Worker, probe: str) -> None:
        ref, found = self._refs.get(probe), worker.results.get(probe)
        if ref is not None and found is not None:
            ref.tell(Voted(node, *found))

    # --- who runs what -------------------------------------------------------------------------------------------

    def voters(self, wanted: Wanted, *, suspended: bool) -> Voters | None:
        """Who carries this check out; None: this node itself."""
        if not self._workers or suspended or not self._can_move(wanted):
            return None
        nodes = chosen(shares.probe_name(wanted.spec), self._machine.alive, self._checks.vantage_points)
        return Voters(nodes, self._checks.agree) if nodes else None

    def _can_move(self, wanted: Wanted) -> bool:
        stays = any(self._room.waits_for_address(service) for service in wanted.services)
        return not stays and shares.can_move(wanted.spec, self._room.around.settings)

    def move(self) -> None:
        """Looks anew where each check is to run, and says so. Returns at once."""
        if self._moving is not None and not self._moving.done():
            self._move_again = True
            return
        self._moving = self._context.loop.create_task(self._move())

    async def _move(self) -> None:
        try:
            again = True
            while again:
                self._move_again = False
                await self._room.place_anew()
                again = self._move_again
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("the checks could not be placed anew")

    def offer(self) -> None:
        """Every check is where it should be: the workers are told what is theirs."""
        mine: dict[str, list[shares.SharedCheck]] = {name: [] for name in self._workers}
        refs: dict[str, pykka.ActorRef[Any]] = {}
        for running in self._room.running.values():
            if not running.remote:
                continue
            voters = self.voters(running.wanted, suspended=False)
            if voters is None:
                continue
            each = shares.shared(shares.probe_name(running.wanted.spec), running.wanted, None)
            refs[each.probe] = running.ref
            for node in voters.nodes:
                mine[node].append(each)
        fresh = {probe for probe, ref in refs.items() if self._refs.get(probe) is not ref}
        self._refs = refs
        for name, checks in mine.items():
            self._offer_to(name, checks)
            worker = self._workers[name]
            for probe in fresh & worker.taken:
                self._hand_on(name, worker, probe)

    def _offer_to(self, name: str, checks: list[shares.SharedCheck]) -> None:
        worker = self._workers[name]
        digest = shares.digest_of(checks)
        if digest == worker.offered and (worker.offered_at is not None or worker.status is ShareStatus.RUNNING):
            return
        worker.offered = digest
        worker.offered_at = monotonic() if name in self._machine.alive else None
        worker.known.pop(digest, None)
        worker.known[digest] = frozenset(each.probe for each in checks)
        for old in list(worker.known)[:-DIGESTS_KEPT]:
            if old != NOTHING:
                del worker.known[old]
        event = ShareOffered(worker=name, cell=self._context.cell, digest=digest, checks=len(checks))
        self._bus.publish(self._subject(name), "offer", event)
        if worker.status is ShareStatus.RUNNING:
            self._say(name, ShareStatus.WAITING, ReasonKind.RELOAD, {"checks": len(checks)})

    def _serve(self, command: Command, caller: Caller) -> Reply:
        if not isinstance(command, FetchShare):
            return Failed(code="unknown-command", message=f"no {type(command).__name__} is known here")
        # It may hold passwords: it is for the node that is to run it and for nobody else, whatever his role.
        named = command.worker in self._workers and command.worker == caller.node
        if not named or caller.role not in ("worker", "operator"):
            return Failed(code="forbidden", message=f"{caller.node} does not run checks for {self._bus.node}")
        wanted = self._workers[command.worker].known[self._workers[command.worker].offered]
        results = self._room.results()
        checks = []
        for running in self._room.running.values():
            probe = shares.probe_name(running.wanted.spec) if running.remote else ""
            if probe in wanted:
                result = results.get(running.name)
                checks.append(shares.shared(probe, running.wanted, None if result is None else result.up))
        return Share(digest=shares.digest_of(checks), checks=shares.packed(checks))
