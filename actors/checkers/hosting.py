"""The worker's side of checks that are carried out for other nodes; the director's is sharing.py.

It follows the offers of the nodes in `[checks] run_for`, fetches what is offered to it, has a `CheckersRoom` of its own
run all of it (what several directors want alike runs once), and beats. A director that cannot be reached for
FORGET_AFTER_S has moved its checks long before: they end here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec

from holdfast.actors.checkers import shares
from holdfast.actors.checkers.actor import GLOBALS, CheckersRoom, raise_descriptor_limit
from holdfast.actors.checkers.config import CheckersGlobals
from holdfast.actors.checkers.messages import CheckResult
from holdfast.actors.gateway.messages import PeerState, PeerStatus
from holdfast.actors.runtime.context import CellContext, Generation
from holdfast.actors.worker.messages import NOTHING, FetchShare, Share, ShareOffered, ShareTrouble, WorkerBeat
from holdfast.bus.base import BusError, Subscription
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Failed
from holdfast.config.settings import Settings, workers_of

log = logging.getLogger(__name__)

BEAT_EVERY_S = 1.0
FETCH_TIMEOUT_S = 5.0
RETRY_FIRST_S = 0.25
RETRY_LAST_S = 5.0
FORGET_AFTER_S = 60.0


class _Director(msgspec.Struct):
    """One cell of another node (or of this one) whose checks run here."""

    node: str
    cell: str
    offered: str = NOTHING
    running: str = NOTHING
    checks: tuple[shares.SharedCheck, ...] = ()
    task: asyncio.Task[None] | None = None
    troubled: bool = False

    @property
    def name(self) -> str:
        """As in beats."""
        return f"{self.node}/{self.cell}"


class WorkerRoom:
    """All checks that run here for others. Used on the cell's loop only."""

    def __init__(self, context: CellContext) -> None:
        self.context = context
        self.room = CheckersRoom(context, kind="probe")
        self._settings: Settings | None = None
        self._follows: dict[str, Subscription] = {}
        self._directors: dict[str, _Director] = {}
        self._forgetting: dict[str, asyncio.TimerHandle] = {}
        self._slices: dict[str, bytes] = {GLOBALS: msgspec.msgpack.encode(CheckersGlobals())}
        self._number = 0
        self._apply({GLOBALS}, set())
        self._peers = context.bus.subscribe("node/", self._peer)
        self._timer = context.loop.call_soon(self._look)

    def _look(self) -> None:
        """Once a second: a sign of life; new settings after a reload."""
        self._timer = self.context.loop.call_later(BEAT_EVERY_S, self._look)
        if self.context.settings is not self._settings:
            self._configure(self.context.settings)
        self._beat()

    def _configure(self, settings: Settings) -> None:
        self._settings = settings
        own = {self.context.node} if self.context.node in workers_of(settings) else set()
        wanted = set(settings.checks.run_for) | own
        for node in set(self._follows) - wanted:
            self._follows.pop(node).close()
            self._forget(node)
        for node in sorted(wanted - set(self._follows)):
            self._follows[node] = self.context.bus.subscribe("share/", self._offered, node=node)

    def _beat(self) -> None:
        running = {each.name: each.running for each in self._directors.values() if each.running != NOTHING}
        event = WorkerBeat(shares=running, checks=len(self.room.running))
        self.context.bus.publish("worker/current", "beat", event, retain=False)

    # --- directors -----------------------------------------------------------------------------------------------

    def _peer(self, envelope: Envelope) -> None:
        """The gateway says whether another node can be reached."""
        event = envelope.event
        if not isinstance(event, PeerState) or event.peer not in self._follows:
            return
        timer = self._forgetting.pop(event.peer, None)
        if timer is not None:
            timer.cancel()
        if event.state is PeerStatus.UNREACHABLE:
            self._forgetting[event.peer] = self.context.loop.call_later(FORGET_AFTER_S, self._forget, event.peer)
        elif event.state is PeerStatus.REACHABLE:
            for director in self._directors.values():
                if director.node == event.peer:
                    self._fetch_soon(director)

    def _forget(self, node: str) -> None:
        """Nothing runs for this node any more, until it can be reached and offers again."""
        self._forgetting.pop(node, None)
        for name, director in list(self._directors.items()):
            if director.node == node:
                if director.task is not None:
                    director.task.cancel()
                director.running = NOTHING
                self._take(director, ())
                if node not in self._follows:
                    del self._directors[name]

    def _offered(self, envelope: Envelope) -> None:
        event, node = envelope.event, envelope.id.node
        if isinstance(event, ShareOffered):
            if event.worker != self.context.node:
                return
            key = f"{node}/{event.cell}"
            director = self._directors.setdefault(key, _Director(node, event.cell))
            director.offered = event.digest
        elif envelope.gone and envelope.aspect == "offer":
            worker, _, cell = envelope.subject.partition("/")[2].partition(",")
            found = self._directors.get(f"{envelope.topic.partition('/')[0]}/{cell}")
            if worker != self.context.node or found is None:
                return
            director = found
            director.offered = NOTHING
        else:
            return
        self._fetch_soon(director)

    def _fetch_soon(self, director: _Director) -> None:
        if director.offered == director.running or (director.task is not None and not director.task.done()):
            return
        director.task = self.context.loop.create_task(self._fetch(director))

    async def _fetch(self, director: _Director) -> None:
        """Until what is offered runs."""
        pause_s = RETRY_FIRST_S
        while director.offered != director.running:
            problem = ""
            if director.offered == NOTHING:
                checks: tuple[shares.SharedCheck, ...] = ()
                digest = NOTHING
            else:
                digest, checks, problem = await self._asked(director)
            if not problem:
                self._take(director, checks)
                await self.room.settled()
                problem = self._missing(checks)
            if not problem:
                director.running = digest
                self._beat()
                pause_s = RETRY_FIRST_S
                if director.troubled:
                    director.troubled = False
                    self.context.bus.forget(f"worker/{director.node},{director.cell}", "trouble")
                if digest != director.offered:
                    await asyncio.sleep(RETRY_FIRST_S)  # its newest offer is on the way
                continue
            self._tell_trouble(director, problem)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_LAST_S)

    async def _asked(self, director: _Director) -> tuple[str, tuple[shares.SharedCheck, ...], str]:
        bus = self.context.bus
        try:
            command = FetchShare(worker=self.context.node)
            reply = await bus.request(f"share/{director.cell}", command, node=director.node, timeout_s=FETCH_TIMEOUT_S)
            if isinstance(reply, Share):
                return reply.digest, shares.unpacked(reply.checks), ""
            problem = reply.message if isinstance(reply, Failed) else f"a {type(reply).__name__}"
        except (BusError, msgspec.DecodeError, msgspec.ValidationError) as error:
            problem = str(error)
        return NOTHING, (), problem

    def _missing(self, checks: tuple[shares.SharedCheck, ...]) -> str:
        """What of a share does not run here under the name that the director expects: another version does so."""
        names = {running.name for running in self.room.running.values()}
        missing = [each.probe for each in checks if each.probe not in names]
        return f"{len(missing)} check(s) are understood in another way here, such as {missing[0]}" if missing else ""

    def _tell_trouble(self, director: _Director, text: str) -> None:
        if not director.troubled:
            log.warning("the checks of %s cannot be taken: %s", director.name, text)
        director.troubled = True
        event = ShareTrouble(director=director.node, cell=director.cell, digest=director.offered, text=text[:500])
        self.context.bus.publish(f"worker/{director.node},{director.cell}", "trouble", event)

    def _take(self, director: _Director, checks: tuple[shares.SharedCheck, ...]) -> None:
        """The checks of one director are these from now on; each goes on from what counts for him."""
        running = {each.name for each in self.room.running.values()}
        for each in checks:
            if each.up is not None and each.probe not in running:
                former = CheckResult(
                    check=each.probe, kind="", targets=(), ok=each.up, up=each.up, attempt=0 if each.up else 1, runs=1
                )
                self.room.begin_from(former)
        director.checks = checks
        if checks:
            self._slices[director.name] = msgspec.msgpack.encode(shares.as_service(director.name, checks))
            self._apply({director.name}, set())
        elif self._slices.pop(director.name, None) is not None:
            self._apply(set(), {director.name})
        log.info("%d check(s) run here for %s", len(checks), director.name)

    def _apply(self, changed: set[str], removed: set[str]) -> None:
        self._number += 1
        slices = dict(self._slices)
        self.room.apply(Generation(self._number, slices, frozenset(changed), frozenset(removed), initial=False))

    async def stop(self) -> None:
        """Nothing runs for others after this."""
        self._timer.cancel()
        self._peers.close()
        for timer in self._forgetting.values():
            timer.cancel()
        for subscription in self._follows.values():
            subscription.close()
        for director in self._directors.values():
            if director.task is not None:
                director.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await director.task
        await self.room.stop()


def start(context: CellContext) -> None:
    """Called by the cell."""
    raise_descriptor_limit()
    context.on_stop(WorkerRoom(context).stop)
