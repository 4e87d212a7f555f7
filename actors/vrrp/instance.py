"""The shell of one virtual router: carries facts to its machine and the machine's orders out. It decides nothing.

Packets and deadlines reach it by direct calls from the engine, everything else by its inbox.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec

from holdfast.actors.runtime.actor import LoopActor
from holdfast.actors.runtime.log import DETAIL
from holdfast.actors.runtime.machine import US, Action, Deadline, Duration, Fact, Instant
from holdfast.actors.vrrp import actions as act
from holdfast.actors.vrrp.adverts import Adverts
from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.actors.vrrp.engine import Engine, Line
from holdfast.actors.vrrp.facts import (
    AddressFailed,
    AdvertFailed,
    AdvertReceived,
    AdvertRejected,
    FaultCleared,
    FaultRaised,
    LinkChanged,
    Reconfigured,
    SourceChanged,
    Stalled,
    Stop,
)
from holdfast.actors.vrrp.log import notice_line, rejected_line
from holdfast.actors.vrrp.machine import VrrpMachine
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged
from holdfast.actors.vrrp.options import MachineOptions
from holdfast.actors.vrrp.packet import PacketError, packed
from holdfast.actors.vrrp.record import Recorder
from holdfast.actors.vrrp.rehearsal import rehearse
from holdfast.actors.vrrp.takeover import Takeover
from holdfast.actors.vrrp.validation import Datagram, Expectation, Notice
from holdfast.bus.messages import Event, EventId, Evidence, Reason, ReasonKind
from holdfast.kernel.base import AddressSpec, KernelError
from holdfast.kernel.faces import said
from holdfast.kernel.records import Received

log = logging.getLogger("holdfast.vrrp")
RECORD_FOLDER = "HOLDFAST_RECORD"
"""Where `holdfast run --record` wants the sessions of the machines."""
WARM_BEFORE = Duration(500 * US)
HEAR_BEFORE = Duration(200 * US)

_DEADLINE = Deadline()
_READY_STATES = (VrrpState.BACKUP, VrrpState.MASTER)


class Surroundings(Protocol):
    """What an instance needs of its room."""

    engine: Engine
    node: str

    def publish(
        self, subject: str, aspect: str, event: Event, causes: Sequence[EventId], retain: bool
    ) -> EventId | None:
        """To the bus."""

    def forget(self, name: str) -> None:
        """Nothing is retained of this instance any more."""

    def wish(self, actor: VrrpActor, told: act.TellGroup, now: Instant) -> None:
        """To the sync group of the instance."""

    def source_of(self, instance: VrrpInstance) -> tuple[str | None, bool]:
        """The address its adverts come from, and whether it is on the host."""


class VrrpActor(LoopActor):
    """One vrrp_instance. `ended`: its machine is in its last state."""

    critical: ClassVar[bool] = True

    def __init__(
        self,
        room: Surroundings,
        instance: VrrpInstance,
        options: MachineOptions,
        made: Callable[[VrrpActor], None],
    ) -> None:
        """made: told of this actor itself, for the calls that do not go through its inbox."""
        super().__init__()
        made(self)
        self.room = room
        self.instance = instance
        self.machine = VrrpMachine(instance, options)
        self.takeover = Takeover(room.engine.kernel, instance)
        self.expectation = Expectation(instance)
        self._engine = room.engine
        folder = os.environ.get(RECORD_FOLDER)
        self._recorder = None if folder is None else Recorder.open(Path(folder), instance, options)
        self._timers = room.engine.kernel.timers
        self._line: Line | None = None
        self._adverts = Adverts()
        self._source: str | None = None
        self._last_key: object = None
        self._last_fact: AdvertReceived | None = None
        self._logged: set[str] = set()
        self._deadline: Instant | None = None
        self.slot = -1
        self.stamp = room.engine.stamps.slot(instance.name)
        self._due_call: Callable[[Instant], None] = self._due
        self._nearly_due_call: Callable[[Instant], None] = self._nearly_due
        self._early = room.engine.wake_early
        self._rest: list[Action] = []
        self._ready_for: tuple[int, int | None] | None = None
        self._again_call: Callable[[Instant], None] = self._again
        self._orders: dict[type[Action], Callable[[Any], None]] = {
            act.SendAdvert: self._send_advert,
            act.TakeOver: self._take_over,
            act.LetGo: self._let_go,
            act.Reconcile: self._reconcile,
            act.Restore: self._restore,
            act.RefreshLease: self._refresh_lease,
            act.Announce: self._announce,
            act.AnnounceSource: self._announce_source,
            act.Publish: self._publish,
            act.Log: self._log,
        }
        self._old_takeover: Takeover | None = None

    def __repr__(self) -> str:
        return f"<VrrpActor {self.instance.name} {self.machine.state}>"

    # ------------------------------------------------------------ facts in

    def on_receive(self, message: Fact) -> None:
        """A fact by the inbox."""
        self.take(message)

    def take(self, fact: Fact, now: Instant | None = None) -> None:
        """One step of the machine; its orders are carried out, its deadline is kept."""
        if now is None:
            now = self._timers.now()
        actions = self.machine.step(fact, now)
        if self._recorder is not None:
            self._recorder.note(self.machine, fact, now, actions)
        self._carry_out(actions, now)
        machine = self.machine
        if machine.state in _READY_STATES and self._ready_for != (machine.priority, machine.lease_s):
            self._ready_for = (machine.priority, machine.lease_s)
            self._engine.leisure.add(self._get_ready)

    def _get_ready(self) -> None:
        """Encodes what the next takeover or release will need, while there is time."""
        self._adverts.of(self.machine.priority)
        self.takeover.prepare(self.machine.lease_s)

    def _finish(self) -> None:
        """What a takeover does after its advert."""
        rest, self._rest = self._rest, []
        for action in rest:
            self._orders[type(action)](action)

    def _carry_out(self, actions: list[Action], now: Instant) -> None:
        if self._rest:
            self._finish()
        if len(actions) > 1 and type(actions[1]) is act.TakeOver and type(actions[0]) is act.SendAdvert:
            self._send_advert(actions[0])
            self._engine.hurry()
            self._rest = actions[1:]
            self._engine.rest(self._finish)
            actions = []
        told: list[act.TellGroup] = []
        for action in actions:
            if type(action) is act.TellGroup:
                told.append(action)  # its answer steps this machine again: when this list is done
            else:
                self._orders[type(action)](action)
        deadline = self.machine.deadline
        if deadline != self._deadline:
            self._await(deadline)
        for wish in told:
            self.room.wish(self, wish, now)

    def _await(self, deadline: Instant | None) -> None:
        """A MASTER's next advert goes with those of others; every other deadline is kept to the microsecond."""
        self._deadline = deadline
        if deadline is not None and self.machine.state is VrrpState.MASTER:
            if self.slot < 0:
                self._timers.set(self, None, self._due_call)
            self._engine.beat(self, deadline)
        elif deadline is not None and self._early and self.machine.state is VrrpState.BACKUP:
            self.slot = -1
            self._timers.set(self, Instant(deadline - self._early), self._nearly_due_call)
        else:
            self.slot = -1
            self._timers.set(self, deadline, self._due_call)

    def _nearly_due(self, now: Instant) -> None:
        """A backup's time is almost up: wakes, warms, hears and steps a little before it, so that nothing is left to do
        when it comes but to send. The time is busy waiting, two milliseconds a takeover."""
        deadline = self.machine.deadline
        if deadline is None:
            self._deadline = None
            return
        if deadline > now + 2 * self._early:
            self._await(deadline)
            return
        timers = self._timers
        prepared = self._adverts.of(self.machine.priority)
        while timers.now() < deadline - WARM_BEFORE:
            rehearse(self.instance, 1)
            if self._line is not None:
                self._line.socket.probe(prepared)
        while timers.now() < deadline - HEAR_BEFORE:
            pass
        if timers.now() < deadline:
            self._engine.drain()
        if self.machine.deadline != deadline:
            return  # an advert came at the last moment, and with it another deadline
        # Decided as if it were time; nothing of it is done before it is.
        at = max(deadline, timers.now())
        actions = self.machine.step(_DEADLINE, at)
        if self._recorder is not None:
            self._recorder.note(self.machine, _DEADLINE, at, actions)
        self._deadline = None
        while (now := timers.now()) < deadline:
            pass
        self._carry_out(actions, now)

    def _due(self, now: Instant) -> None:
        self._deadline = None
        self.take(_DEADLINE, now)

    def beat(self, now: Instant) -> None:
        """Our next advert is due: a thousand times a second perhaps, so the usual outcome takes no detours."""
        self._deadline = None
        machine = self.machine
        line, prepared = self._line, self._adverts.made.get(machine.priority)
        if prepared is None or line is None or self._recorder is not None or self._rest:
            self.take(_DEADLINE, now)
            return
        actions = machine.step(_DEADLINE, now)
        leased = actions is machine.leased_advert_actions
        if not leased and actions is not machine.advert_actions:
            self._carry_out(actions, now)
            return
        self._engine.advert(line, self, prepared)
        if leased and machine.lease_s is not None:
            self._engine.renew(self.takeover.refresh(machine.lease_s), self)
        deadline = self._deadline = machine.deadline
        if deadline is not None:
            self._engine.beat(self, deadline)

    def _again(self, now: Instant) -> None:
        """What the last accepted packet said was said again."""
        fact = self._last_fact
        if fact is None:
            return
        machine = self.machine
        actions = machine.step(fact, now)
        if actions or self._recorder is not None:
            if self._recorder is not None:
                self._recorder.note(machine, fact, now, actions)
            self._carry_out(actions, now)
            return
        deadline = machine.deadline
        if deadline != self._deadline:
            self._await(deadline)

    def packet(self, received: Received, now: Instant) -> None:
        """A packet for our VRID, and when it came: the same bytes as last time say the same."""
        key: object
        if self.instance.family == 4:
            key = said(received.packet)
        else:
            key = (received.payload, received.source, received.ttl)
        fact = self._last_fact
        if fact is None or key != self._last_key:
            fact = self._judge(received)
            if fact is None:
                return
            self._forget_last()
            self._last_key, self._last_fact = key, fact
        line = self._line
        if isinstance(key, bytes) and line is not None and len(line.members.get(self.instance.vrid, ())) == 1:
            line.known[key] = self._again_call
        self.take(fact, now)

    def _forget_last(self) -> None:
        """The next packet is judged, whatever it says."""
        if self._line is not None and isinstance(self._last_key, bytes):
            self._line.known.pop(self._last_key, None)
        self._last_key = self._last_fact = None

    def _judge(self, received: Received) -> AdvertReceived | None:
        datagram = Datagram(
            family=self.instance.family,
            source=packed(received.source),
            destination=packed(received.destination),
            ttl=received.ttl,
            message=received.payload,
            total_length=received.total_length,
            received_length=len(received.packet),
        )
        known_master = self._last_fact is not None and self._last_fact.source == received.source
        check = not (self.instance.skip_check_adv_addr and known_master and self.machine.state == VrrpState.BACKUP)
        try:
            verdict = self.expectation.validate(datagram, self.machine.priority, check_addresses=check)
        except PacketError as error:
            if error.reject.value not in self._logged:
                self._logged.add(error.reject.value)
                log.info("%s", rejected_line(self.instance.name, received.source, error))
            evidence: Evidence = dict(error.facts.items())
            self.take(AdvertRejected(error.reject, received.source, evidence))
            return None
        for notice in verdict.notices:
            if notice is Notice.ADDRESS_LIST:
                self.machine.statistics.addr_list_err += 1
            if notice.value in self._logged:
                continue
            self._logged.add(notice.value)
            if notice is Notice.OLD_CHECKSUM:
                self._make_adverts()
            log.info("%s", notice_line(self.instance, received.source, notice, verdict))
        return verdict.advert

    def kernel_failed(self, error: KernelError) -> None:
        """One of our netlink requests was refused."""
        log.warning("(%s) %s", self.instance.name, error)
        self.take(AddressFailed(error.subject, error.operation, error.errno, error.text))

    def advert_failed(self, error: KernelError) -> None:
        """Our last advert has left to nobody."""
        self.take(AdvertFailed(error.errno, error.text))

    def stalled(self, duration: Duration, unseen: Duration, evidence: Evidence) -> None:
        """This process did not run."""
        self.take(Stalled(duration, unseen, evidence))

    # ------------------------------------------------------------ socket and source

    def open_line(self) -> None:
        """Joins the socket of its interface; a failure is a fault that clears when it succeeds."""
        if self._line is not None:
            self._forget_last()
            self._engine.detach(self, self._line)
            self._line = None
        try:
            self._line = self._engine.attach(self, receive_buffer_bytes=self.instance.kernel_rx_buf_bytes)
        except KernelError as error:
            self._fault("socket", self._link_subject, str(error), error.errno)
            return
        self.take(
            FaultCleared("socket", Reason(kind=ReasonKind.LINK_UP, node=self.room.node, subject=self._link_subject))
        )
        if self.instance.promote_secondaries:
            self._engine.kernel.sysctl_set(f"net/ipv4/conf/{self.instance.interface}/promote_secondaries", 1)
        self._make_adverts()

    @property
    def _link_subject(self) -> str:
        return f"link/{self.instance.interface}"

    def close_line(self) -> None:
        """Leaves the socket."""
        if self._line is not None:
            self._forget_last()
            self._engine.detach(self, self._line)
            self._line = None

    def _fault(self, key: str, subject: str, problem: str, errno: int) -> None:
        evidence: Evidence = {"problem": problem, "errno": errno}
        reason = Reason(kind=ReasonKind.LINK_MISSING, node=self.room.node, subject=subject, evidence=evidence)
        self.take(FaultRaised(key, reason))

    def look_for_source(self, causes: tuple[EventId, ...] = ()) -> None:
        """The address of our adverts may have changed."""
        source, present = self.room.source_of(self.instance)
        if source != self._source:
            self._source = source
            self._make_adverts()
        self.take(SourceChanged(source, present, causes))

    def _make_adverts(self) -> None:
        if self._source is None or self._line is None:
            return
        old = self.expectation.old_checksum_seen
        self._adverts.make(self.instance, self._line.socket, self._source, old_checksum=old)
        self._ready_for = None
        self._forget_last()

    def link_changed(self, name: str, *, up: bool, exists: bool, causes: tuple[EventId, ...] = ()) -> None:
        """A link that concerns us."""
        self.takeover.invalidate()
        self._ready_for = None
        if name == self.instance.interface and exists and self._line is None:
            self.open_line()
            self.look_for_source()
        self.take(LinkChanged(name, up, exists, causes))

    # ------------------------------------------------------------ orders out

    def _send_advert(self, order: act.SendAdvert) -> None:
        line, adverts = self._line, self._adverts.of(order.priority)
        if line is not None and adverts:
            self._engine.advert(line, self, adverts)

    def foresee_release(self) -> None:
        """Perhaps we resign in a moment: the advert of priority 0 is ready, and the way it takes was gone."""
        prepared = self._adverts.of(0)
        if self._line is not None:
            self._line.socket.probe(prepared)

    def _take_over(self, order: act.TakeOver) -> None:
        if not self.instance.accept:
            self._engine.kernel.firewall.block(self._placed_addresses())
        self._engine.request(self.takeover.add(order.valid_lft_s), self)

    def _placed_addresses(self) -> list[AddressSpec]:
        """With their interfaces named: link-local addresses are matched together with theirs."""
        interface = self.instance.interface
        return [msgspec.structs.replace(spec, dev=spec.dev or interface) for spec in self.takeover.addresses]

    def _let_go(self, order: act.LetGo) -> None:
        self._engine.hurry()  # whoever takes over waits for our resignation
        self._engine.drop_announcements(self)
        self._engine.request(self.takeover.remove(), None if order.forced else self)
        if not self.instance.accept:
            self._engine.kernel.firewall.unblock(self._placed_addresses())

    def _reconcile(self, order: act.Reconcile) -> None:
        old, self._old_takeover = self._old_takeover, None
        if old is not None:
            self._engine.request(self.takeover.without(old), self)
        before = set(old.addresses) if old is not None else set()
        fresh = [spec for spec in self.takeover.addresses if spec not in before]
        self._engine.request(self.takeover.add(order.valid_lft_s), self)
        if fresh:
            subjects = [f"address/{spec.address}@{spec.dev or self.instance.interface}" for spec in fresh]
            self._engine.announce(self.takeover.announcement_of(subjects), self.instance.garp.master_repeat, self)
        if old is None and not self.instance.accept:
            self._engine.kernel.firewall.block(self._placed_addresses())
        if old is not None and old.instance.accept != self.instance.accept:
            change = self._engine.kernel.firewall
            (change.unblock if self.instance.accept else change.block)(self._placed_addresses())

    def _restore(self, order: act.Restore) -> None:
        self._engine.request(self.takeover.some(order.subjects, order.valid_lft_s), self)
        self._engine.announce(self.takeover.announcement_of(order.subjects), 1, self)

    def _refresh_lease(self, order: act.RefreshLease) -> None:
        self._engine.renew(self.takeover.refresh(order.valid_lft_s), self)

    def _announce(self, order: act.Announce) -> None:
        self._engine.announce(self.takeover.announcement(), order.repeat, self)

    def _announce_source(self, _order: act.AnnounceSource) -> None:
        self._engine.announce(self.takeover.announcement_of_source(self._source), 1, self)

    def _publish(self, order: act.Publish) -> None:
        if isinstance(order.event, VrrpStateChanged):
            self._logged.clear()
        subject = f"vrrp/{self.instance.name}"
        self._engine.afterwards(
            lambda: self.room.publish(subject, order.aspect, order.event, order.causes, order.retain)
        )

    def _log(self, order: act.Log) -> None:
        level = DETAIL if order.detail else logging.INFO
        if log.isEnabledFor(level):
            self._engine.afterwards(lambda: log.log(level, "%s", order.text))

    # ------------------------------------------------------------ reload and end

    def reconfigure(self, instance: VrrpInstance, options: MachineOptions, causes: tuple[EventId, ...]) -> None:
        """A reload changed this instance, perhaps even its name; what the kernel holds is compared, not set anew."""
        renamed = instance.name != self.instance.name
        same_line = (instance.interface, instance.family, instance.unicast, instance.mcast_group) == (
            self.instance.interface,
            self.instance.family,
            self.instance.unicast,
            self.instance.mcast_group,
        )
        if renamed:
            self.room.forget(self.instance.name)
        if not same_line:
            self.close_line()
        self._old_takeover = self.takeover
        self.instance = instance
        self.stamp = self._engine.stamps.slot(instance.name)
        self.takeover = Takeover(self._engine.kernel, instance)
        self._ready_for = None
        self.expectation = Expectation(instance)
        self._forget_last()
        if not same_line:
            self.open_line()
        source, present = self.room.source_of(instance)
        self._source = source
        self._make_adverts()
        self.take(SourceChanged(source, present, causes))
        self.take(Reconfigured(instance, options, causes))

    def end(self, *, deleted: bool = False, keep: bool = False, causes: tuple[EventId, ...] = ()) -> None:
        """The last step; sockets stay open until what it ordered has left."""
        self.take(Stop(deleted, keep, causes))
        self._engine.flush()
        self._await(None)
        self.close_line()
