"""The director's room of a cell: its virtual servers, the one writer of the kernel's table, what concerns them all.

Start, reload and stop follow keepalived(8): services are removed at a clean stop, and stay through a crash.
Counterparts: `service_actor.py` for one virtual server, `writer.py` for the table, `reconcile.py` for what others do.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import deque
from collections.abc import Callable, Coroutine

import msgspec
import pykka

from holdfast.actors.ipvs.config import IpvsGlobals, LvsTimeouts, VirtualServer
from holdfast.actors.ipvs.facts import (
    ConnectionsCounted,
    CountConnections,
    DrainAsked,
    Former,
    Options,
    Reconfigured,
    Removed,
    Started,
    Stopped,
)
from holdfast.actors.ipvs.intake import Pace, decode_service, make_servers
from holdfast.actors.ipvs.marking import LoadRules, Marking
from holdfast.actors.ipvs.messages import DirectorState, Done, Drain, GetServices, Reconcile, Services, ServiceView
from holdfast.actors.ipvs.plan import in_service, service_specs
from holdfast.actors.ipvs.reconcile import NOBODY, Reconciler, read_services
from holdfast.actors.ipvs.restore import formers
from holdfast.actors.ipvs.results import Results
from holdfast.actors.ipvs.server import Server
from holdfast.actors.ipvs.service import ServiceMachine
from holdfast.actors.ipvs.service_actor import ServiceActor
from holdfast.actors.ipvs.syncd import SyncDaemons
from holdfast.actors.ipvs.views import dump_text, service_view
from holdfast.actors.ipvs.writer import Writer
from holdfast.actors.notify.messages import NotifyProgress
from holdfast.actors.runtime.context import CellContext, Generation
from holdfast.actors.runtime.machine import Fact, Instant
from holdfast.actors.vrrp.messages import VrrpStateChanged
from holdfast.bus import topics
from holdfast.bus.base import Caller, Subscription
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Command, EventId, Failed, Reply
from holdfast.kernel import nft
from holdfast.kernel.base import KernelError
from holdfast.kernel.ipvs import Ipvs
from holdfast.kernel.ipvs_types import IpvsTable, ServiceKey, ServiceOrder, Timeouts, Verb
from holdfast.kernel.timers import monotonic

log = logging.getLogger("holdfast.ipvs")

GLOBALS = "globals"
REOPEN_AFTER_S = 10.0
"""How often a kernel without IPVS is asked again."""

AUDIENCE_S = 10.0
"""The first events of a start wait at most so long for the cell that notifies."""

OpenTable = Callable[[str | None], IpvsTable]


class Room:
    """All virtual servers of a node. Not shared between threads."""

    def __init__(self, ctx: CellContext, open_table: OpenTable = Ipvs, load: LoadRules = nft.load) -> None:
        self.ctx = ctx
        self.bus = ctx.bus
        self.timers = ctx.timers
        self.globals = IpvsGlobals()
        self.writer = Writer(ctx.loop)
        self.table: IpvsTable | None = None
        self.actors: dict[str, pykka.ActorRef[ServiceActor]] = {}
        self.machines: dict[str, ServiceMachine] = {}
        self._open_table = open_table
        self._formers, self._former_state = formers(ctx.restored)
        self._marking = Marking(None if self._former_state is None else self._former_state.marks, load)
        self._generations: deque[Generation] = deque()
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._syncd: SyncDaemons | None = None
        self._timeouts_before: Timeouts | None = None
        self._results = Results(self._tell)
        self._checks: Subscription | None = None
        self._instance: tuple[str, Subscription] | None = None
        self._draining: set[str] = set()
        self._state: DirectorState | None = None
        self._said: EventId | None = None
        """Of the newest event of our state."""
        self._stopping = False
        self._written: asyncio.Future[None] = ctx.loop.create_future()
        """Done when the table is as the first configuration wants it, or when that has to wait for the kernel."""
        settings = ctx.settings.ipvs
        self._reconciler = Reconciler(self, settings.reconcile, settings.reconcile_every_s)
        for subject in (f"director/{ctx.cell}", "director", "rs"):
            self.bus.serve(subject, self._command)
        ctx.on_stop(self.stop)
        ctx.on_dump(self.dump)
        ctx.slices("ipvs", self.apply)
        if ctx.slices_of("ipvs"):
            ctx.first_work.append(self._written)

    def now(self) -> Instant:
        """The clock of the timers."""
        return monotonic()

    # -- configuration ----------------------------------------------------------------------------------------------

    def apply(self, generation: Generation) -> None:
        """A configuration, taken in by and by; `settled` waits for the end of it."""
        self._generations.append(generation)
        if self._task is None or self._task.done():
            self._task = self.ctx.loop.create_task(self._work())
            self._task.add_done_callback(_tell_failure)

    async def settled(self) -> None:
        """Everything given to `apply` is in the kernel and told."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        for _ in range(3):
            # Actors hear of their configuration on a later turn than this one.
            await asyncio.sleep(0)
        while any(machine.busy for machine in self.machines.values()):
            await asyncio.sleep(0.001)
        if self.table is not None:
            await self.writer.idle()

    async def _work(self) -> None:
        while self._generations and not self._stopping:
            # Hundreds of thousands of new objects would make the collector walk all of them again and again: half a
            # second without a turn of the loop. They live long, so afterwards it does not look at them any more.
            collecting = gc.isenabled()
            gc.disable()
            try:
                await self._take_in(self._generations.popleft())
                while any(machine.busy for machine in self.machines.values()) or self.writer.busy:
                    await asyncio.sleep(0.001)
            finally:
                gc.freeze()
                if collecting:
                    gc.enable()

    async def _take_in(self, generation: Generation) -> None:
        before = self.globals
        if GLOBALS in generation.slices:
            self.globals = msgspec.msgpack.decode(generation.slices[GLOBALS], type=IpvsGlobals)
        everything = self.table is None or _marking(before) != _marking(self.globals)
        changed = await self._decode(generation, everything=everything)
        removed = [name for name in generation.removed if name in self.actors]
        sync = self.globals.sync_daemon
        if self.table is None and (changed or (sync is not None and sync.instance is not None)):
            await self._open(list(changed.values()), self.globals)
        if self.table is None:
            self._tell_written()
            return
        self._take_globals(generation)
        if not self._written.done():
            self.writer.hold()
        for name in removed:
            self._marking.forget(name)
            self._remove(name)
        pace = Pace()
        for config in changed.values():
            known = self.actors.get(config.name)
            if known is not None:
                known.tell(Reconfigured(config, self.globals.rs_init_notifies))
                await pace.after(1 + len(config.real_servers))
            else:
                servers = await make_servers(config, pace)
                self._create(config, self._formers.pop(config.name, None), servers)
        if not self._written.done():
            await self.writer.written()
            self._tell_written()
            if "notify" in self.ctx.house:
                self._publish_state()
                self._start_task(self._tell_the_world())
            else:
                self.writer.release()
        if self._marking.needs_change(self.globals):
            await self.writer.idle()
            await self._marking.apply(self.globals)
        self._publish_state()
        if self._checks is None and self.actors:
            # After the first facts: results find their servers in place.
            self._checks = self.bus.subscribe("check/", self._results.take)
        elif changed:
            for name in changed:
                await self._results.repeat(name, pace)
        self._reconciler.start()

    async def _decode(self, generation: Generation, *, everything: bool) -> dict[str, VirtualServer]:
        found: dict[str, VirtualServer] = {}
        names = generation.slices if everything else generation.changed
        pace = Pace()
        for name in names:
            if name != GLOBALS:
                config = await decode_service(generation.slices[name], pace)
                found[name] = self._marking.rewrite(config, self.globals)
        return found

    async def _open(self, configs: list[VirtualServer], settings: IpvsGlobals) -> None:
        """Waits for a kernel with IPVS; looks at what it has of ours."""
        while True:
            try:
                self.table = self._open_table(settings.net_namespace)
                break
            except KernelError as error:
                # Unlike keepalived, whose every part ends here, the rest of holdfast goes on without load balancing.
                log.error("IPVS: Can't initialize ipvs: %s", error.text or error)
                self._tell_written()
                await asyncio.sleep(REOPEN_AFTER_S)
        table = self.table
        self._syncd = SyncDaemons(table)
        restored = self._former_state is not None
        log.info("%s ipvs", "Reinitializing" if restored else "Initializing")
        if settings.flush and not restored:
            table.flush()
        keys = {spec.key for config in configs for spec in service_specs(config)}
        for key, (record, destinations) in (await read_services(table, keys.__contains__)).items():
            self.writer.book.observe(key, record.spec, [each.spec for each in destinations])
        await self._remove_leftovers(table, keys)
        self.writer.open(table)

    async def _remove_leftovers(self, table: IpvsTable, keys: set[ServiceKey]) -> None:
        """Services that were ours when the former director died, and that the configuration no longer has."""
        former = self._former_state
        if former is None:
            return
        if former.timeouts_before is not None:
            self._timeouts_before = Timeouts(*former.timeouts_before)
        ours = set(former.services)
        stale = [
            record.spec
            for record in await table.services()
            if str(record.spec.key) in ours and record.spec.key not in keys
        ]
        for refusal in table.apply([ServiceOrder(Verb.DELETE, spec) for spec in stale]):
            log.error("%s", refusal.error)

    async def _tell_the_world(self) -> None:
        """What is told waits for whoever runs scripts and writes FIFO lines: what is said before they listen, and not
        true any more by then, would never be heard."""
        listening = asyncio.Event()
        mine = f"director@{self.ctx.cell}"

        def progress(envelope: Envelope) -> None:
            # It has heard of our state, and so it hears whatever comes after that.
            event = envelope.event
            heard = event.told.get(mine) if isinstance(event, NotifyProgress) else None
            if heard is not None and self._said is not None and heard.epoch == self._said.epoch:
                listening.set()

        subscription = self.bus.subscribe("notify/", progress)
        try:
            await asyncio.wait_for(listening.wait(), AUDIENCE_S)
        except TimeoutError:
            log.warning("nobody runs scripts yet: what has happened so far may not be notified")
        finally:
            subscription.close()
            self.writer.release()

    def _tell_written(self) -> None:
        """Nobody needs to wait for the first table any longer."""
        if not self._written.done():
            self._written.set_result(None)

    def _take_globals(self, generation: Generation) -> None:
        assert self.table is not None
        assert self._syncd is not None
        self._set_timeouts(self.globals.timeouts)
        self._syncd.configure(self.globals.sync_daemon, initial=generation.initial)
        instance = self._syncd.instance
        if self._instance is not None and self._instance[0] != instance:
            self._instance[1].close()
            self._instance = None
        if instance is not None and self._instance is None:
            prefix = f"{topics.subject_words(f'vrrp/{instance}')}/state"
            self._instance = (instance, self.bus.subscribe(prefix, self._instance_told))

    def _set_timeouts(self, timeouts: LvsTimeouts) -> None:
        """The kernel's timeouts; what was there before comes back when the configuration no longer says so."""
        assert self.table is not None
        wanted = Timeouts(timeouts.tcp_s, timeouts.tcp_fin_s, timeouts.udp_s)
        if wanted == Timeouts() and self._timeouts_before is None:
            return
        try:
            if self._timeouts_before is None:
                self._timeouts_before = self.table.timeouts()
            before = self._timeouts_before
            self.table.set_timeouts(
                Timeouts(
                    wanted.tcp_s or before.tcp_s, wanted.tcp_fin_s or before.tcp_fin_s, wanted.udp_s or before.udp_s
                )
            )
        except KernelError as error:
            log.error("%s", error)

    def _options(self) -> Options:
        settings = self.ctx.settings
        return Options(
            node=self.ctx.node,
            rs_init_notifies=self.globals.rs_init_notifies,
            panic_threshold=settings.panic_threshold,
            panic_window_s=settings.ipvs.panic_window_s,
            drain_timeout_s=settings.ipvs.drain_s,
            drain_command_timeout_s=settings.ipvs.drain_command_s,
        )

    def _create(self, config: VirtualServer, former: Former | None, servers: dict[str, Server]) -> None:
        machine = ServiceMachine(config, self._options(), former, servers)
        ref = ServiceActor.start(machine, self)
        self.machines[config.name] = machine
        self.actors[config.name] = ref
        ref.tell(Started())

    def _remove(self, name: str) -> None:
        ref = self.actors.pop(name)
        self.machines.pop(name)
        ref.tell(Removed())
        ref.stop(block=False)

    # -- what others tell -------------------------------------------------------------------------------------------

    def _tell(self, service: str, fact: Fact) -> None:
        ref = self.actors.get(service)
        if ref is not None and ref.is_alive():
            ref.tell(fact)

    def _instance_told(self, envelope: Envelope) -> None:
        if self._syncd is None:
            return
        event = envelope.event
        if isinstance(event, VrrpStateChanged):
            self._syncd.instance_changed(event)
            self._publish_state()
        elif envelope.gone and self._instance is not None:
            log.info("the instance %s that the sync daemon follows is gone", self._instance[0])

    # -- draining and counting --------------------------------------------------------------------------------------

    def count_connections(self, actor: ServiceActor, action: CountConnections) -> None:
        """Asks the kernel how many connections some servers have left."""
        self._start_task(self._count(actor, action))

    def _start_task(self, work: Coroutine[None, None, None]) -> None:
        task = self.ctx.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_tell_failure)

    async def _count(self, actor: ServiceActor, action: CountConnections) -> None:
        assert self.table is not None
        keys = actor.machine.kernel_keys()
        found: dict[tuple[ServiceKey, tuple[str, int]], int] = {}
        for key in keys:
            for record in await self.table.destinations(key):
                found[key, record.spec.key] = record.active + record.inactive
        for name, destination in action.servers:
            count = sum(found.get((key, in_service(destination, key).key), 0) for key in keys)
            if actor.actor_ref.is_alive():
                actor.actor_ref.tell(ConnectionsCounted(server=name, connections=count))

    def _drain(self, command: Drain) -> Reply:
        places = [
            name
            for name, machine in self.machines.items()
            if command.virtual_server in ("", name) and command.real_server in machine.servers
        ]
        if not places:
            return Failed(code="not-found", message=f"no real server {command.real_server}")
        for name in places:
            fact = DrainAsked(
                server=command.real_server,
                undo=command.undo,
                remove=command.remove,
                timeout_s=command.timeout_s,
            )
            self._tell(name, fact)
            mark = f"{command.real_server}@{name}"
            if command.undo:
                self._draining.discard(mark)
            else:
                self._draining.add(mark)
        self._publish_state()
        verb = "takes connections again" if command.undo else "drains"
        return Done(message=f"{command.real_server} {verb} in {', '.join(places)}")

    # -- commands ---------------------------------------------------------------------------------------------------

    async def _command(self, command: Command, caller: Caller) -> Reply:
        if isinstance(command, Drain):
            if caller.role not in ("operator",):
                return Failed(code="forbidden", message="draining needs the role operator")
            return self._drain(command)
        if self.table is None:
            if isinstance(command, GetServices):
                return Services(services=())
            return Failed(code="no-ipvs", message="there is no IPVS here, or no virtual server")
        if isinstance(command, GetServices):
            return await self._describe(command.name)
        if isinstance(command, Reconcile):
            count = await self._reconciler.compare()
            return Done(message=f"{count} differences" if count else "the kernel has what it should have")
        return Failed(code="unknown", message=f"{type(command).__name__} is not for the director")

    async def _describe(self, name: str) -> Reply:
        assert self.table is not None
        chosen = [machine for each, machine in self.machines.items() if name in ("", each)]
        if name and not chosen:
            return Failed(code="not-found", message=f"no virtual server {name}")
        keys = {key for machine in chosen for key in machine.kernel_keys()}
        found = await read_services(self.table, keys.__contains__, statistics=True)
        views: list[ServiceView] = []
        for machine in chosen:
            views.append(service_view(machine, {key: found[key] for key in machine.kernel_keys() if key in found}))
            await asyncio.sleep(0)
        info = self.table.info()
        return Services(services=tuple(views), version=info.version, connection_table_size=info.connection_table_size)

    def dump(self) -> str:
        """All virtual servers as text."""
        return "------< LVS Topology >------\n" + "".join(dump_text(machine) for machine in self.machines.values())

    # -- state and end ----------------------------------------------------------------------------------------------

    def _publish_state(self) -> None:
        before = self._timeouts_before
        state = DirectorState(
            timeouts_before=None if before is None else (before.tcp_s, before.tcp_fin_s, before.udp_s),
            services=tuple(str(key) for machine in self.machines.values() for key in machine.kernel_keys()),
            sync_roles=self._syncd.roles if self._syncd is not None else (),
            draining=tuple(sorted(self._draining)),
            marks=dict(self._marking.marks.given),
        )
        if state != self._state:
            self._state = state
            self._said = self.bus.publish(f"director/{self.ctx.cell}", "state", state)

    async def stop(self) -> None:
        """The clean stop: services go, timeouts come back, sync daemons end, as keepalived(8) says."""
        self._stopping = True
        self._reconciler.stop()
        for subscription in (self._checks, self._instance[1] if self._instance is not None else None):
            if subscription is not None:
                subscription.close()
        if self._task is not None and not self._task.done():
            self._task.cancel()
        for task in list(self._tasks):
            task.cancel()
        self.writer.release()
        if self.table is None:
            return
        keep = self.globals.dont_release
        if not keep and self.globals.flush_on_stop == "all":
            self._flush(self.table)
        if not keep:
            # The kernel first: time is short, and telling about thousands of servers takes some of it.
            for machine in self.machines.values():
                self.writer.remove(NOBODY, machine.kernel_keys())
            while self.writer.busy:
                await asyncio.sleep(0)
        for ref in self.actors.values():
            ref.tell(Stopped(keep))
        while any(ref.is_alive() and not ref.actor_inbox.empty() for ref in self.actors.values()):
            await asyncio.sleep(0)
        await self.writer.idle()
        if not keep:
            await self._marking.remove()
        for ref in self.actors.values():
            ref.stop(block=False)
        await asyncio.sleep(0)
        if self._syncd is not None:
            self._syncd.stop()
        if self._timeouts_before is not None and not keep:
            self._set_timeouts(LvsTimeouts())
        self.bus.forget(f"director/{self.ctx.cell}", "state")
        self.table.close()

    def _flush(self, table: IpvsTable) -> None:
        try:
            table.flush()
        except KernelError as error:
            log.error("%s", error)


def _marking(settings: IpvsGlobals) -> tuple[str | None, int]:
    """What decides whether, and with which marks, groups are served by mark."""
    return settings.nftables_table, settings.nftables_start_fwmark


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("the director's work failed", exc_info=task.exception())
