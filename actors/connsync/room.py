"""The connections of this node's virtual servers, known on the other directors too: the actor.

Three sources: what the kernel tells through the pipe (kernel/connsync.py), readings of its table, and what peers push.
Who is to know what is decided in `sender.py`, one machine a peer; what is taken in `receiver.py`; for which virtual
addresses we speak in `scope.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine

from holdfast.actors.connsync import comparing, payload
from holdfast.actors.connsync.facts import (
    Changed,
    Compare,
    Compared,
    Delivered,
    LagReached,
    NotCompared,
    PeerGone,
    PeerThere,
    Push,
    ScopeChanged,
    Sent,
    Tell,
    Undelivered,
)
from holdfast.actors.connsync.figures import limits_of, peer_figures
from holdfast.actors.connsync.messages import (
    PROTOCOL_VERSION,
    SUBJECT,
    CompareTables,
    ConnSyncDescription,
    ConnSyncState,
    DescribeConnSync,
    PushConnections,
    Pushed,
    SyncPeer,
    TablesCompared,
)
from holdfast.actors.connsync.news import TableNews
from holdfast.actors.connsync.reader import TableReader
from holdfast.actors.connsync.receiver import Receiver
from holdfast.actors.connsync.scope import Ownership
from holdfast.actors.connsync.sender import PeerPhase, Sender
from holdfast.actors.connsync.syncproto import SyncError, join, split
from holdfast.actors.gateway.messages import PeerState, PeerStatus
from holdfast.actors.runtime.actor import LoopActor
from holdfast.actors.runtime.context import CellContext
from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant, S
from holdfast.actors.vrrp.messages import VrrpStateChanged
from holdfast.bus.base import BusError, Caller
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Command, Failed, Reply
from holdfast.config.settings import ConnSyncSettings
from holdfast.kernel.base import KernelError
from holdfast.kernel.connsync import INJECT_BYTES_MAX, SYNC_ID, SyncPipe

log = logging.getLogger("holdfast.connsync")

REOPEN_AFTER_S = 5.0
LOOK_EVERY_S = 1.0
SAY_EVERY_S = 30.0
PUSH_TIMEOUT_S = 5.0
COMPARE_TIMEOUT_S = 120.0
READ_EVERY_S = 0.25
"""How often a small table is read for what the kernel still holds back; a large one takes its time (`READ_SHARE`)."""
READ_SHARE = 25.0
TURN_MESSAGES = 512
ALLOWED_ROLES = ("replica", "operator")

OpenPipe = Callable[[str, str, int], SyncPipe]


class ConnSyncActor(LoopActor):
    """Connection sync of one director."""

    def __init__(self, ctx: CellContext, open_pipe: OpenPipe = SyncPipe, reader: TableReader | None = None) -> None:
        super().__init__()
        self.ctx = ctx
        self.bus = ctx.bus
        self.epoch = time.time_ns() // 1_000_000
        self.settings: ConnSyncSettings = ctx.settings.connsync
        self.ownership = Ownership()
        self.senders: dict[str, Sender] = {}
        self.receivers: dict[str, Receiver] = {}
        self.errors: dict[str, str] = {}
        self.pipe: SyncPipe | None = None
        self.reader = reader or TableReader()
        self.news = TableNews(self.reader, lambda: self.ownership.scope)
        self._open_pipe = open_pipe
        self._lives: dict[str, int] = {}
        self._unreachable: set[str] = set()
        self._error = ""
        self._from_kernel = 0
        self._to_kernel = 0
        self._malformed = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._said: ConnSyncState | None = None
        self._said_at = 0.0
        self._say_timer: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._reopen_at = 0.0
        self._stopped = False

    def on_start(self) -> None:
        """Opens the pipe; peers come as they tell of themselves."""
        ctx = self.ctx
        self.bus.serve(SUBJECT, self._serve)
        ctx.on_stop(self._close)
        ctx.on_dump(self._dump)
        self._subscriptions = [
            self.bus.subscribe("vrrp/", self._instance_told),
            self.bus.subscribe(f"{SUBJECT}/", self._node_told, node="*"),
            self.bus.subscribe("node/", self._gateway_told),
        ]
        self._look()
        self._spawn(self._read_again_and_again())

    # --- the kernel's side ---------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Once a second: new settings, a pipe that could not be opened, figures that are old."""
        self._look_timer = self.ctx.loop.call_later(LOOK_EVERY_S, self._look)
        settings = self.ctx.settings.connsync
        if settings != self.settings:
            self._configure(settings)
        if self.pipe is None and self.ctx.loop.time() >= self._reopen_at:
            self._open()
        if self.ctx.loop.time() - self._said_at >= SAY_EVERY_S:
            self._say()

    def _configure(self, settings: ConnSyncSettings) -> None:
        before, self.settings = self.settings, settings
        if (before.interface, before.address, before.refresh_s) != (
            settings.interface,
            settings.address,
            settings.refresh_s,
        ):
            self._close_pipe()
        for name, sender in list(self.senders.items()):
            sender.limits = limits_of(settings)
            if not self._supplies(name):
                self._step(sender, PeerGone())
                self._forget_sender(name)
        for name in self._lives:
            self._meet(name)

    def _open(self) -> None:
        self._reopen_at = self.ctx.loop.time() + REOPEN_AFTER_S
        settings = self.settings
        try:
            self.pipe = self._open_pipe(settings.interface, settings.address, settings.refresh_s)
        except (KernelError, OSError) as error:
            if str(error) != self._error:
                log.error("connection sync waits: %s", error)
                self._error = str(error)
                self._say()
            return
        log.info("connection sync works on %s", settings.interface)
        self._error = ""
        self.ctx.loop.add_reader(self.pipe.fileno(), self._kernel_told)
        # Peers learn of us when we can take something.
        self._say()

    def _close_pipe(self) -> None:
        if self.pipe is not None:
            self.ctx.loop.remove_reader(self.pipe.fileno())
            self.pipe.close()
            self.pipe = None

    def _kernel_told(self) -> None:
        """Messages of the kernel's master daemon: our connections that are new or have changed."""
        assert self.pipe is not None
        changed: dict[bytes, bytes] = {}
        speaks_for = self.ownership.speaks_for
        try:
            for message in self.pipe.read(TURN_MESSAGES):
                try:
                    for entry in split(message):
                        self._from_kernel += 1
                        if speaks_for(entry.virtual):
                            changed[entry.key] = entry.raw
                except SyncError as error:
                    self._malformed += 1
                    log.debug("the kernel's message: %s", error)
        except KernelError as error:
            log.error("%s", error)
            self._close_pipe()
        if changed:
            self.news.told(changed)
            self._tell_senders(changed)

    def _tell_senders(self, changed: dict[bytes, bytes]) -> None:
        now = self._now()
        fact = Changed(changed, now)
        for sender in self.senders.values():
            self._step(sender, fact)

    # --- who takes part ------------------------------------------------------------------------------------------

    def _instance_told(self, envelope: Envelope) -> None:
        event = envelope.event
        if isinstance(event, VrrpStateChanged):
            changed = self.ownership.heard(event)
        elif envelope.gone and envelope.aspect == "state":
            changed = self.ownership.forgotten(envelope.subject.partition("/")[2])
        else:
            return
        if changed:
            self.news.forget()
            for sender in self.senders.values():
                self._step(sender, ScopeChanged())

    def _node_told(self, envelope: Envelope) -> None:
        name = envelope.id.node if not envelope.gone else envelope.topic.partition("/")[0]
        if name == self.ctx.node or envelope.stale:
            return
        event = envelope.event
        if isinstance(event, ConnSyncState):
            if event.version != PROTOCOL_VERSION:
                self.errors[name] = f"speaks version {event.version}"
                return
            self._lives[name] = event.epoch
            self._meet(name)
        elif envelope.gone:
            self._lives.pop(name, None)
            self._lose(name)

    def _gateway_told(self, envelope: Envelope) -> None:
        event = envelope.event
        if not isinstance(event, PeerState):
            return
        if event.state is PeerStatus.UNREACHABLE:
            self._unreachable.add(event.peer)
            self._lose(event.peer)
        elif event.state is PeerStatus.REACHABLE and event.peer in self._unreachable:
            self._unreachable.discard(event.peer)
            self._meet(event.peer)

    def _supplies(self, name: str) -> bool:
        return not self.settings.peers or name in self.settings.peers

    def _meet(self, name: str) -> None:
        epoch = self._lives.get(name)
        if epoch is None or name in self._unreachable or not self._supplies(name):
            return
        sender = self.senders.get(name)
        if sender is None:
            sender = self.senders[name] = Sender(name, limits_of(self.settings))
        self._step(sender, PeerThere(epoch))

    def _lose(self, name: str) -> None:
        sender = self.senders.get(name)
        if sender is not None:
            self._step(sender, PeerGone())

    def _forget_sender(self, name: str) -> None:
        del self.senders[name]
        self.ctx.timers.set(("connsync", name), None, _nothing)
        self.errors.pop(name, None)

    # --- the machines' orders ------------------------------------------------------------------------------------

    def _now(self) -> Instant:
        return Instant(time.monotonic_ns())

    def _step(self, sender: Sender, fact: Fact) -> None:
        self._carry_out(sender, sender.step(fact, self._now()))
        deadline = sender.deadline
        self.ctx.timers.set(("connsync", sender.peer), deadline, lambda _: self._step(sender, Deadline()))

    def _carry_out(self, sender: Sender, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Push():
                    self._push(sender, action)
                case Compare(number=number):
                    self._spawn(self._compare(sender, number))
                case Tell():
                    self._peer_changed(sender)
                case LagReached():
                    pass

    def _peer_changed(self, sender: Sender) -> None:
        if sender.late:
            log.warning("%s is %.1f s behind with our connections", sender.peer, sender.lag / S)
        if self._say_timer is None:
            self._say_timer = self.ctx.loop.call_later(0.05, self._say)

    def _push(self, sender: Sender, action: Push) -> None:
        encoding, data = payload.pack(action.entries)
        self._spawn(self._deliver(sender, action, encoding, data))
        self._step(sender, Sent(action.seq, len(data)))

    async def _deliver(self, sender: Sender, action: Push, encoding: str, data: bytes) -> None:
        command = PushConnections(
            epoch=self.epoch, seq=action.seq, settled=action.settled, encoding=encoding, entries=data
        )
        reply = await self._ask(sender, command, PUSH_TIMEOUT_S)
        if isinstance(reply, Pushed):
            self._heard_epoch(sender, reply.epoch)
            self._step(sender, Delivered(action.seq, reply.missing))
        else:
            self._step(sender, Undelivered(action.seq))

    async def _ask(self, sender: Sender, command: Command, timeout_s: float) -> Reply | None:
        """The reply of a peer; None when there is none, with the reason in `errors`."""
        try:
            reply = await self.bus.request(SUBJECT, command, timeout_s=timeout_s, node=sender.peer)
        except BusError as error:
            self._trouble(sender.peer, str(error) or type(error).__name__)
            return None
        if isinstance(reply, Failed):
            self._trouble(sender.peer, reply.message)
            return None
        if self.errors.pop(sender.peer, None) is not None:
            self._peer_changed(sender)
        return reply

    def _trouble(self, peer: str, text: str) -> None:
        if self.errors.get(peer) != text:
            log.warning("%s does not take our connections: %s", peer, text)
            self.errors[peer] = text

    def _heard_epoch(self, sender: Sender, epoch: int) -> None:
        """The peer's answer tells of a newer life earlier than its event does."""
        if epoch > sender.epoch and sender.phase is not PeerPhase.AWAY:
            self._lives[sender.peer] = epoch
            self._step(sender, PeerThere(epoch))

    async def _compare(self, sender: Sender, number: int) -> None:
        try:
            found = await self._compared(sender, number)
        except (KernelError, ValueError, OSError) as error:
            log.error("comparing with %s: %s", sender.peer, error)
            found = NotCompared(number)
        self._step(sender, found)

    async def _compared(self, sender: Sender, number: int) -> Fact:
        first = sender.lacking < 0
        snapshot, command = await comparing.question(self.reader, self.ownership.scope, self.epoch)
        reply = await self._ask(sender, command, COMPARE_TIMEOUT_S)
        if not isinstance(reply, TablesCompared):
            return NotCompared(number)
        lacking, closing, extra = await comparing.lacking(self.reader, snapshot, reply)
        if first and closing:
            # Not compared, and wanted by a newcomer: data may still flow over them.
            self._step(sender, Changed(closing, self._now()))
        return Compared(number, lacking, extra)

    # --- readings of the table -----------------------------------------------------------------------------------

    async def _read_again_and_again(self) -> None:
        """For what the kernel has not told yet, as long as anybody wants to know."""
        while not self._stopped:
            wait_s = READ_EVERY_S
            if self.pipe is not None and any(each.phase is not PeerPhase.AWAY for each in self.senders.values()):
                try:
                    changed = await self.news.read()
                except (KernelError, OSError) as error:
                    log.error("%s", error)
                    wait_s = REOPEN_AFTER_S
                else:
                    if changed:
                        self._tell_senders(changed)
            else:
                self.news.forget()
            await asyncio.sleep(max(wait_s, READ_SHARE * self.reader.spent_s))

    # --- what peers ask ------------------------------------------------------------------------------------------

    async def _serve(self, command: Command, caller: Caller) -> Reply:
        if isinstance(command, DescribeConnSync):
            return ConnSyncDescription(state=self._state())
        if not isinstance(command, PushConnections | CompareTables):
            return Failed(code="unknown-command", message=f"connsync does not know {type(command).__name__}")
        if caller.role not in ALLOWED_ROLES:
            return Failed(code="forbidden", message=f"{caller.node} is a {caller.role} here")
        if isinstance(command, CompareTables):
            return await self._compare_here(command)
        return self._take(command, caller.node)

    def _take(self, command: PushConnections, peer: str) -> Reply:
        if self.pipe is None:
            return Failed(code="not-ready", message=self._error or "the kernel's side is not open")
        try:
            entries = payload.unpack(command.encoding, command.entries)
        except SyncError as error:
            self._malformed += 1
            return Failed(code="malformed", message=str(error))
        receiver = self.receivers.setdefault(peer, Receiver(peer))
        taken = receiver.take(command.epoch, command.seq, command.settled, entries, self.ownership.packed_owned)
        if taken is None:
            return Failed(code="old", message="a push of a former life")
        try:
            self.pipe.write(join(taken.entries, SYNC_ID, INJECT_BYTES_MAX))
        except KernelError as error:
            return Failed(code="kernel", message=str(error))
        self._to_kernel += len(taken.entries)
        return Pushed(epoch=self.epoch, missing=taken.missing)

    async def _compare_here(self, command: CompareTables) -> Reply:
        try:
            return await comparing.answer(self.reader, command, self.epoch)
        except (KernelError, OSError, ValueError) as error:
            return Failed(code="not-compared", message=str(error))

    # --- state and end -------------------------------------------------------------------------------------------

    def _state(self) -> ConnSyncState:
        return ConnSyncState(
            epoch=self.epoch,
            connections=self.news.connections,
            from_kernel=self._from_kernel,
            to_kernel=self._to_kernel,
            malformed=self._malformed,
            kernel_lost=0 if self.pipe is None else self.pipe.count_lost(),
            read_s=round(self.reader.spent_s, 4),
            error=self._error,
            peers=tuple(self._peer(name) for name in sorted(self.senders.keys() | self.receivers.keys())),
        )

    def _peer(self, name: str) -> SyncPeer:
        sender, receiver = self.senders.get(name), self.receivers.get(name)
        return peer_figures(name, sender, receiver, self.errors.get(name, ""), self._now())

    def _say(self) -> None:
        if self._say_timer is not None:
            self._say_timer.cancel()
            self._say_timer = None
        state = self._state()
        self._said_at = self.ctx.loop.time()
        if state != self._said:
            self._said = state
            self.bus.publish(f"{SUBJECT}/current", "state", state)

    def _dump(self) -> str:
        state = self._state()
        lines = [f"connsync: {state.connections} connections, {state.error or 'works'}\n"]
        for peer in state.peers:
            lines.append(f"  {peer.node}: {peer.phase}, {peer.waiting} wait, lag {peer.lag_s} s, {peer.error}\n")
        return "".join(lines)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self.ctx.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("connection sync: a task failed", exc_info=task.exception())

    async def _close(self) -> None:
        self._stopped = True
        for subscription in self._subscriptions:
            subscription.close()
        for timer in (self._say_timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        for name in list(self.senders):
            self._forget_sender(name)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.bus.forget(f"{SUBJECT}/current", "state")
        self._close_pipe()
        self.reader.close()


def _nothing(now: Instant) -> None:
    """For a deadline that is taken away."""
