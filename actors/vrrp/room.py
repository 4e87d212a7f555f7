"""The VRRP room of a cell: which instances exist, what they are told about links, addresses and trackers.

It owns the actors, hands them facts and keeps no protocol state of its own. One per cell, made by `actor.start`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from holdfast.actors.bfd.messages import BfdFaltering, BfdStateChanged
from holdfast.actors.runtime.context import CellContext, Generation
from holdfast.actors.runtime.linux import kernel_of
from holdfast.actors.runtime.machine import MS, US, Duration, Instant, S
from holdfast.actors.vrrp import actions as act
from holdfast.actors.vrrp.config import VrrpInstance, VrrpRoom
from holdfast.actors.vrrp.describe import describe, dump_text, statistics_text
from holdfast.actors.vrrp.engine import Engine
from holdfast.actors.vrrp.facts import (
    Fact,
    Holding,
    HoldingLost,
    LeaseLost,
    OperatorRelease,
    OperatorResume,
    Start,
    TrackerKind,
    TrackerReported,
)
from holdfast.actors.vrrp.fence import Fence
from holdfast.actors.vrrp.foreseen import rehearse_fault, tracks
from holdfast.actors.vrrp.instance import VrrpActor
from holdfast.actors.vrrp.messages import Describe, Description, Done, Release, Resume, VrrpState
from holdfast.actors.vrrp.options import LeaseMode, MachineOptions, MissingPolicy
from holdfast.actors.vrrp.rehearsal import rehearse
from holdfast.actors.vrrp.restore import restored_facts
from holdfast.actors.vrrp.statics import Statics
from holdfast.actors.vrrp.sync import Groups
from holdfast.actors.vrrp.takeover import subject_of_address, subject_of_route, subject_of_rule
from holdfast.actors.watch.messages import FileValue, LinkState, ProcessQuorum, ScriptResult
from holdfast.bus.base import Caller
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Command, Event, EventId, Evidence, Failed, Reply
from holdfast.kernel import process
from holdfast.kernel.faces import Kernel
from holdfast.kernel.netlink import name_of_netlink_port
from holdfast.kernel.records import (
    AddressChanged,
    AddressRecord,
    Change,
    LinkChanged,
    RouteChanged,
    RuleChanged,
    route_key,
)
from holdfast.kernel.stamps import Stamps

log = logging.getLogger("holdfast.vrrp")

WAKE_EARLY = Duration(2000 * US)
REMEMBER_EVERY = Duration(10 * S)
HAND_OVER_WAIT_S = 1.2
WORK_TURN = Duration(4 * MS)
"""A reload lets adverts and packets in after so much work."""

Key = tuple[object, ...]


def identity(instance: VrrpInstance) -> Key:
    """What a reload matches instances by (not by name): VRID, family, interface, mode, and what they listen to."""
    listens = instance.source if instance.unicast else instance.mcast_group
    return (instance.vrid, instance.family, instance.interface, instance.unicast, listens)


class Room:
    """See the file's first lines."""

    def __init__(self, ctx: CellContext, kernel: Kernel | None = None, engine: Engine | None = None) -> None:
        """kernel, engine: of a test; None: the cell's own."""
        self.ctx = ctx
        self.node = ctx.node
        self.kernel = kernel if kernel is not None else kernel_of(ctx)
        stamps = Stamps(ctx.run_dir / "state" / f"{ctx.cell}.adverts") if kernel is None else None
        self.engine = engine if engine is not None else Engine(self.kernel, ctx.loop.call_soon, stamps=stamps)
        self.config = VrrpRoom()
        self.actors: dict[str, VrrpActor] = {}
        self.groups = Groups(self)
        self.statics = Statics(self.kernel, self.engine)
        self._fence = Fence(self.kernel, self.node, self._masters, self._tell_trouble)
        self._trackers: dict[tuple[TrackerKind, str], TrackerReported] = {}
        self._links: dict[str, LinkState] = {}
        self._owners: dict[str, list[VrrpActor]] = {}
        self._virtual: set[str] = set()
        self._work: deque[Callable[[], None]] = deque()
        self._started_at = self.kernel.timers.now()
        bus = ctx.bus
        for prefix in ("script/", "file/", "process/", "bfd/"):
            bus.subscribe(prefix, self._tracker)
        bus.subscribe("link/", self._link)
        bus.serve("vrrp", self._command)
        # What is retained of a former life of this cell reaches us a turn later, and then this life has begun.
        for envelope in ctx.restored:
            self._tracker(envelope)
        links = self.kernel.links
        links.on_link(self._kernel_link)
        links.on_address(self._address)
        links.on_route(self._route)
        links.on_rule(self._rule)
        links.on_resync(self._resynced)
        self.engine.stalls.watch(self._stalled)
        if kernel is None:
            self.engine.wake_early = WAKE_EARLY
            self._remember(self._started_at)
        ctx.on_stop(self._stop)
        ctx.on_hand_over(self._between_adverts)
        ctx.on_statistics(lambda: "".join(statistics_text(actor) for actor in self.actors.values()))
        ctx.on_dump(lambda: "".join(dump_text(actor) for actor in self.actors.values()))
        ctx.slices("vrrp", self._apply)
        if self.config.instances:
            rehearse(self.config.instances[0])

    # ------------------------------------------------------------ configuration

    def _apply(self, generation: Generation) -> None:
        self._finish_work()
        data = generation.slices.get("room")
        config = msgspec.msgpack.decode(data, type=VrrpRoom) if data is not None else VrrpRoom()
        before, self.config = self.config, config
        self.engine.log_unknown_vrids = config.log_unknown_vrids
        self.engine.pacer.configure(config.garp_interval_us, config.gna_interval_us, config.garp_groups)
        standing = {identity(actor.instance): actor for actor in self.actors.values()}
        wanted = {identity(instance): instance for instance in config.instances}
        self._virtual = {spec.address for each in config.instances for spec in each.addresses + each.excluded_addresses}
        for key, actor in standing.items():
            if key not in wanted:
                self._remove(actor)
        renamed = {
            instance.name: standing[key].instance.name
            for key, instance in wanted.items()
            if key in standing and standing[key].instance.name != instance.name
        }
        self.groups.configure(config.groups, config.instances, renamed)
        self.statics.apply(before, config)
        self.actors = {instance.name: standing[key] for key, instance in wanted.items() if key in standing}
        new = [instance for key, instance in wanted.items() if key not in standing]
        if generation.initial:
            fresh = [self._create(instance, self._options(instance, initial=True)) for instance in new]
            self._know_owners()
            if not all(instance.accept for instance in config.instances):
                self._fence.begin()
            self._begin(fresh, restored=True)
            return
        # Adverts of the others go on while a thousand instances are looked at.
        kept = [(standing[key], instance) for key, instance in wanted.items() if key in standing]
        self._work.extend(partial(self._reconfigure, actor, instance) for actor, instance in kept)
        self._work.extend(partial(self._add, instance) for instance in new)
        self._work.append(self._know_owners)
        self._go_on()

    def _go_on(self) -> None:
        """The next part of a reload."""
        until = self.kernel.timers.now() + WORK_TURN
        while self._work:
            self._work.popleft()()
            if self.kernel.timers.now() >= until and self._work:
                self.ctx.loop.call_soon(self._go_on)
                return

    def _finish_work(self) -> None:
        while self._work:
            self._work.popleft()()

    def _reconfigure(self, actor: VrrpActor, instance: VrrpInstance) -> None:
        options = self._options(instance, initial=False)
        if actor.instance != instance or actor.machine.options != options:
            actor.reconfigure(instance, options, ())
            self._tell_all(actor)

    def _add(self, instance: VrrpInstance) -> None:
        actor = self._create(instance, self._options(instance, initial=False))
        self._begin([actor], restored=False)

    def _know_owners(self) -> None:
        """Which instances hold an address."""
        self._owners = {}
        for actor in self.actors.values():
            for spec in actor.takeover.addresses:
                self._owners.setdefault(spec.address, []).append(actor)

    def _begin(self, fresh: list[VrrpActor], *, restored: bool) -> None:
        """Everything known is told to new instances, then they start, all at the same instant."""
        facts: dict[str, Fact] = restored_facts(self, fresh) if restored and self.ctx.restored else {}
        for actor in fresh:
            actor.open_line()
            actor.look_for_source()
            self._tell_all(actor)
        now = self.kernel.timers.now()
        for actor in fresh:
            actor.take(facts.get(actor.instance.name) or Start(), now)
        self.engine.flush()

    def _create(self, instance: VrrpInstance, options: MachineOptions) -> VrrpActor:
        made: list[VrrpActor] = []
        VrrpActor.start(self, instance, options, made.append)
        self.actors[instance.name] = made[0]
        return made[0]

    def find(self, name: str) -> VrrpActor | None:
        """The actor of an instance, by its present name."""
        return self.actors.get(name)

    def died_at(self) -> Instant | None:
        """When the former life of this cell ended, as far as anyone knows."""
        return self.ctx.died_at

    def _remove(self, actor: VrrpActor) -> None:
        actor.end(deleted=True)
        self.forget(actor.instance.name)
        actor.actor_ref.stop(block=False)

    def _options(self, instance: VrrpInstance, *, initial: bool) -> MachineOptions:
        settings = self.ctx.settings
        lease = settings.vip_lease
        group = self.groups.of(instance.name)
        elapsed_us = (self.kernel.timers.now() - self._started_at) // 1000
        return MachineOptions(
            node=self.node,
            group=group.config.name if group else None,
            group_owner=self.groups.all_owners(group) if group else False,
            startup_delay_us=max(0, self.config.startup_delay_us - elapsed_us) if initial else 0,
            lease=LeaseMode.FIXED if isinstance(lease, int) else LeaseMode(lease),
            lease_s=lease if isinstance(lease, int) else 0,
            missing=MissingPolicy.RESIGN if settings.address_repair == "keepalived" else MissingPolicy.RESTORE,
            extra_interfaces=self.statics.interfaces_for(instance.name),
            group_tracks=group.config.tracks if group else MachineOptions().group_tracks,
            weights_neutral=bool(group and not group.config.tracking_weight),
        )

    # ------------------------------------------------------------ facts for the instances

    def _tell_all(self, actor: VrrpActor) -> None:
        """Links and trackers as they are now."""
        for name in actor.machine.interfaces:
            self._tell_link(actor, name)
        for fact in self._trackers.values():
            actor.take(fact)

    def _tell_link(self, actor: VrrpActor, name: str, causes: tuple[EventId, ...] = ()) -> None:
        state = self._links.get(name)
        if state is not None:
            actor.link_changed(name, up=state.up, exists=state.exists, causes=causes)
            return
        link = self.kernel.links.by_name(name)
        actor.link_changed(name, up=link is not None and link.up, exists=link is not None, causes=causes)

    def _link(self, envelope: Envelope) -> None:
        event = envelope.event
        if not isinstance(event, LinkState):
            return
        before = self._links.get(event.interface)
        self._links[event.interface] = event
        replaced = before is not None and before.ifindex not in (0, event.ifindex)
        for actor in list(self.actors.values()):
            if event.interface == actor.instance.interface and (replaced or not event.exists):
                actor.close_line()  # the socket is bound to a device that is gone
            if event.interface in actor.machine.interfaces:
                self._tell_link(actor, event.interface, (envelope.id,))
        self.statics.link_changed(event.interface, up=event.up)

    def _kernel_link(self, change: LinkChanged) -> None:
        """Links that the watch room has not spoken of (it is not there yet, or in another cell that died)."""
        for link in {each.name for each in (change.old, change.new) if each is not None}:
            if link in self._links:
                continue
            for actor in list(self.actors.values()):
                if link in actor.machine.interfaces:
                    self._tell_link(actor, link)

    def _tracker(self, envelope: Envelope) -> None:
        fact = tracker_fact(envelope)
        if fact is None:
            if isinstance(envelope.event, BfdFaltering):
                self._foresee(envelope.event.session)
            return
        self._trackers[(fact.kind, fact.name)] = fact
        for actor in list(self.actors.values()):
            actor.take(fact)

    def _foresee(self, session: str) -> None:
        """A session is about to end: the first MASTER whom that concerns gets ready, and with it the others' code."""
        for actor in self._masters():
            if tracks(actor.instance, actor.machine.options, session):
                actor.foresee_release()
                rehearse_fault(actor.instance, actor.machine.options, session)
                return

    def _address(self, change: AddressChanged) -> None:
        if change.port == self.kernel.requests.port:
            return
        record = change.address
        owners = self._owners.get(record.address)
        if owners is None:
            if change.change is not Change.REFRESHED:
                self._own_address_changed(record)
            return
        if change.change is not Change.REMOVED:
            return
        link = self.kernel.links.by_index(record.ifindex)
        for actor in owners:
            spec = actor.takeover.owns(record)
            if spec is None or actor.machine.state is not VrrpState.MASTER or link is None or not link.up:
                continue
            subject = subject_of_address(spec, actor.instance.interface)
            if change.port == 0 and actor.machine.lease_s is not None:
                actor.take(LeaseLost((subject,)))
            else:
                actor.take(HoldingLost(Holding.ADDRESS, subject, name_of_netlink_port(change.port)))
        self.statics.address_removed(record)

    def _own_address_changed(self, record: AddressRecord) -> None:
        link = self.kernel.links.by_index(record.ifindex)
        for actor in list(self.actors.values()):
            source = actor.instance.source
            if source == record.address or (
                source is None and link is not None and actor.instance.interface == link.name
            ):
                actor.look_for_source()
        self.statics.address_removed(record)

    def _route(self, change: RouteChanged) -> None:
        if change.change is not Change.REMOVED or change.port == self.kernel.requests.port:
            return
        self.statics.route_removed(change.route)
        for actor in self._masters():
            for route in actor.instance.routes:
                if route.track and route_key(route) == change.route.key:
                    by = name_of_netlink_port(change.port)
                    actor.take(HoldingLost(Holding.ROUTE, subject_of_route(route), by))

    def _rule(self, change: RuleChanged) -> None:
        if change.change is not Change.REMOVED or change.port == self.kernel.requests.port:
            return
        self.statics.rule_removed(change.rule)
        for actor in self._masters():
            for rule in actor.instance.rules:
                if (
                    rule.track
                    and rule.preference == change.rule.spec.preference
                    and rule.family == change.rule.spec.family
                ):
                    by = name_of_netlink_port(change.port)
                    actor.take(HoldingLost(Holding.RULE, subject_of_rule(rule), by))

    def _resynced(self) -> None:
        """After a netlink overrun: what a MASTER misses now is put back."""
        for actor in self._masters():
            for subject in actor.takeover.missing():
                actor.take(HoldingLost(Holding.ADDRESS, subject))

    def _masters(self) -> Iterable[VrrpActor]:
        return [actor for actor in self.actors.values() if actor.machine.state is VrrpState.MASTER]

    def _remember(self, now: Instant) -> None:
        """Keeps a reading of what is short on this host, so that a stall can be explained by the difference."""
        process.remember()
        self.kernel.timers.set(self, Instant(now + REMEMBER_EVERY), self._remember)

    def _stalled(self, duration: Duration, unseen: Duration) -> None:
        evidence: Evidence = dict(process.stall_evidence().items())
        log.warning("this process was not scheduled for %.3f s %s", duration / 1e9, evidence or "")
        for actor in list(self.actors.values()):
            actor.stalled(duration, unseen, evidence)

    # ------------------------------------------------------------ what instances ask of the room

    def publish(self, subject: str, aspect: str, event: Event, causes: Sequence[EventId], retain: bool) -> EventId:
        """To the bus."""
        return self.ctx.bus.publish(subject, aspect, event, causes=causes, retain=retain)

    def _tell_trouble(self, subject: str, event: Event) -> None:
        self.publish(subject, "trouble", event, (), retain=False)

    def forget(self, name: str) -> None:
        """Nothing is retained of an instance any more."""
        for aspect in ("state", "priority", "master"):
            self.ctx.bus.forget(f"vrrp/{name}", aspect)

    def wish(self, actor: VrrpActor, told: act.TellGroup, now: Instant) -> None:
        """To the sync group of the instance."""
        self.groups.wish(actor, told, now)

    def source_of(self, instance: VrrpInstance) -> tuple[str | None, bool]:
        """The configured source and whether it is on the host, else the interface's primary address (IPv6: its
        link-local one) that is not virtual."""
        links = self.kernel.links
        link = links.by_name(instance.interface) if instance.interface else None
        if instance.source is not None:
            everywhere = [link] if link is not None else list(links.all())
            present = any(links.has_address(each.index, instance.source) for each in everywhere)
            return instance.source, present
        if link is None:
            return None, False
        for record in links.addresses(link.index, instance.family):
            if record.address in self._virtual or record.secondary or record.tentative:
                continue
            if instance.family == 6 and not record.address.startswith("fe80:"):
                continue
            return record.address, True
        return None, False

    # ------------------------------------------------------------ commands and the end

    def _command(self, command: Command, caller: Caller) -> Reply:
        if isinstance(command, Describe):
            names = [command.instance] if command.instance else list(self.actors)
            return Description(instances=tuple(describe(self.actors[name]) for name in names if name in self.actors))
        if not isinstance(command, Release | Resume):
            return Failed(code="unknown-command", message="the VRRP room knows release, resume and describe")
        actor = self.actors.get(command.instance)
        if actor is None:
            known = ", ".join(sorted(self.actors)) or "none"
            return Failed(code="unknown-instance", message=f"no vrrp_instance {command.instance!r}; there are: {known}")
        fact: Fact
        if isinstance(command, Release):
            fact, message = (
                OperatorRelease(command.why or f"by {caller.cell} on {caller.node}"),
                "released: stays BACKUP until resume",
            )
        else:
            fact, message = OperatorResume(), "resumed: takes part in elections again"
        for member in self.groups.members_with(actor):
            member.take(fact)
        self.engine.flush()
        return Done(message=f"{actor.instance.name} {message} (now {actor.machine.state})")

    async def _between_adverts(self) -> None:
        """The successor has nearly an interval of time right after our adverts have left."""
        if not any(True for _ in self._masters()):
            return
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.engine.when_sent(lambda: None if sent.done() else sent.set_result(None))
        await asyncio.wait([sent], timeout=HAND_OVER_WAIT_S)

    async def _stop(self) -> None:
        """Priority 0, addresses gone, STOP told: instances first, then groups; then what was changed on this host."""
        self._finish_work()
        for actor in self.actors.values():
            actor.end(keep=self.config.dont_release)
        self.groups.stop()
        self.engine.flush()
        self.statics.remove_all()
        self.engine.close()
        for error in await self.kernel.firewall.settle():
            log.warning("%s", error)
        close = getattr(self.kernel.firewall, "close", None)
        if close is not None:
            await close()
        restore = getattr(self.kernel, "restore_sysctls", None)
        if restore is not None:
            restore()


def tracker_fact(envelope: Envelope) -> TrackerReported | None:
    """What a watch or BFD event says about a tracker; None when it says nothing."""
    event = envelope.event
    causes = (envelope.id,)
    match event:
        case ScriptResult():
            evidence = {**event.reason.evidence}
            return TrackerReported(
                TrackerKind.SCRIPT, event.script, event.ok, timed_out=event.timed_out, evidence=evidence, causes=causes
            )
        case FileValue():
            return TrackerReported(TrackerKind.FILE, event.file, True, value=event.value, causes=causes)
        case ProcessQuorum():
            evidence = {**event.reason.evidence}
            return TrackerReported(TrackerKind.PROCESS, event.process, event.achieved, evidence=evidence, causes=causes)
        case BfdStateChanged(vrrp=True):
            evidence = {**event.reason.evidence}
            return TrackerReported(TrackerKind.BFD, event.session, event.tracker_up, evidence=evidence, causes=causes)
    return None
