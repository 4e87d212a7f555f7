"""The machine of one virtual server: which real servers stand in its pool, its quorum, its sorry server.

Pure. What the checks say goes in, what the kernel is to have and what the world is to know comes out. The order of a
step's actions is the order of keepalived's effects: log line, kernel, real server's event, then the quorum with the
service's event. The pool's building blocks are in `pool.py`, a server's books in `server.py`, arithmetic in
`quorum.py`, kernel values in `plan.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

from holdfast.actors.ipvs.config import RealServer, VirtualServer
from holdfast.actors.ipvs.facts import (
    CheckForgotten,
    CheckReported,
    ConnectionsCounted,
    CountConnections,
    DrainAsked,
    Forget,
    Former,
    Log,
    Options,
    OrderRefused,
    Publish,
    Reconfigured,
    Removed,
    RemoveServices,
    Settle,
    Started,
    Stopped,
)
from holdfast.actors.ipvs.plan import destination_spec, service_specs
from holdfast.actors.ipvs.pool import Pool
from holdfast.actors.ipvs.quorum import is_panic, quorum_is_up
from holdfast.actors.ipvs.server import Drain, Server
from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant, later, seconds
from holdfast.bus.messages import EventId, Reason, ReasonKind

COUNT_EVERY = seconds(1.0)
"""How often a draining server's connections are counted."""

TELL_AT_ONCE = 256
"""Events of one step; a service that starts with more servers tells of the others in the steps after it."""

RETRY_AFTER = seconds(2.0)
"""After which a destination that the kernel refused is tried again."""


class ServiceMachine(Pool):
    """One virtual server. Not shared between threads."""

    __slots__ = ("_count_at", "_retry_at", "_settle_again", "_tell_at", "_untold", "restored")

    def __init__(
        self,
        config: VirtualServer,
        options: Options,
        former: Former | None = None,
        servers: dict[str, Server] | None = None,
    ) -> None:
        super().__init__(config, options, servers)
        self.restored = former is not None
        self._untold: deque[Iterator[Publish]] = deque()
        self._tell_at: Instant | None = None
        self._count_at: Instant | None = None
        self._retry_at: Instant | None = None
        self._settle_again = False
        if former is not None:
            self.quorum_up = former.quorum_up
            self.sorry_active = former.sorry_active and config.sorry_server is not None
            self.panic = former.panic
            for name, server in self.servers.items():
                if name in former.servers:
                    server.restore(former.servers[name])
        self._recount()

    @property
    def deadline(self) -> Instant | None:
        """When `step(Deadline(), now)` is wanted."""
        wanted = [at for at in (self._count_at, self._retry_at, self._tell_at) if at is not None]
        return min(wanted) if wanted else None

    def step(self, fact: Fact, now: Instant) -> list[Action]:
        """Takes one fact and returns what is to be done, in order."""
        if self._untold and not isinstance(fact, Deadline):
            # What comes in between must not be told before what was before it.
            return self._tell_all() + self._taken(fact, now)
        return self._taken(fact, now)

    def _taken(self, fact: Fact, now: Instant) -> list[Action]:
        match fact:
            case CheckReported():
                return self._reported(fact, now)
            case Deadline():
                return self._deadline_passed(now)
            case CheckForgotten():
                return self._forgotten(fact)
            case OrderRefused():
                return self._refused(fact, now)
            case ConnectionsCounted():
                return self._counted(fact, now)
            case DrainAsked():
                return self._drain_asked(fact, now)
            case Started():
                return self._started(now)
            case Reconfigured():
                return self._reconfigured(fact, now)
            case Removed():
                return self._removed()
            case Stopped():
                return self._stopped(fact)
            case _:
                raise AssertionError(fact)

    # -- start, reload, stop ----------------------------------------------------------------------------------------

    def _started(self, now: Instant) -> list[Action]:
        kind = ReasonKind.RESTARTED if self.restored else ReasonKind.STARTED
        reason = self._reason(kind)
        for server in self.servers.values():
            self._note_placement(server)
            if server.drain is not None and not server.drain.over:
                self._count_at = Instant(0)
        # Everything goes to the kernel in one piece, and only then the world is told.
        quorum = self._update_quorum(starting=not self.restored, settled=True)
        actions: list[Action] = [action for action in quorum if isinstance(action, Log)]
        actions.append(Settle())
        announced = self._options.rs_init_notifies and not self.restored
        servers = list(self.servers.values())
        self._tell_by_and_by(
            self._server_event(server, None, reason, announce=announced and server.alive) for server in servers
        )
        told = [action for action in quorum if isinstance(action, Publish)]
        self._tell_by_and_by(told or [self._service_event(None, reason)])
        actions.extend(self._tell_some(now))
        return actions

    def _tell_by_and_by(self, events: Iterable[Publish]) -> None:
        """Events that are told after all others of this kind, TELL_AT_ONCE in a step."""
        self._untold.append(iter(events))

    def _tell_all(self) -> list[Action]:
        told: list[Action] = [*chain.from_iterable(self._untold)]
        self._untold.clear()
        self._tell_at = None
        return told

    def _tell_some(self, now: Instant) -> list[Action]:
        told: list[Action] = []
        while self._untold and len(told) < TELL_AT_ONCE:
            event = next(self._untold[0], None)
            if event is None:
                self._untold.popleft()
            else:
                told.append(event)
        self._tell_at = now if self._untold else None
        return told

    def _reconfigured(self, fact: Reconfigured, now: Instant) -> list[Action]:
        new = fact.config
        reason = self._reason(ReasonKind.RELOAD)
        wanted = {server.name for server in new.real_servers}
        gone = [server for name, server in self.servers.items() if name not in wanted and not server.leaving]
        actions: list[Action] = [Log(f"service {server.name} no longer exist") for server in gone]
        events: list[Action] = []
        for server in gone:
            line, *told = self._leave(server, reason, now)
            actions.append(line)
            events.extend(told)
        self.config = new
        self._specs = service_specs(new)
        if new.sorry_server is None:
            self.sorry_active = False
        leaving = {name: server for name, server in self.servers.items() if server.leaving and name not in wanted}
        changed: list[tuple[Server, bool | None]] = []
        servers: dict[str, Server] = {}
        for config in new.real_servers:
            known = self.servers.get(config.name)
            if known is None or known.leaving:
                known = Server(config, new.name)
                changed.append((known, None))
            elif known.config != config:
                was_alive = known.alive
                lines = self._adopt(known, config)
                actions.extend(lines)
                if lines:
                    changed.append((known, was_alive))
            servers[config.name] = known
        self.servers = {**servers, **leaving}
        self._recount()
        for server in self.servers.values():
            self._note_placement(server)
        quorum = self._update_quorum(starting=True, settled=True)
        actions.extend(action for action in quorum if isinstance(action, Log))
        actions.append(Settle())
        actions.extend(events)
        self._tell_by_and_by(
            self._server_event(
                server,
                old_up,
                reason,
                announce=fact.rs_init_notifies and server.alive if old_up is None else server.alive != old_up,
            )
            for server, old_up in changed
        )
        news = [action for action in quorum if isinstance(action, Publish)]
        self._tell_by_and_by(news or [self._service_event(self.quorum_up, reason)])
        actions.extend(self._tell_some(now))
        return actions

    def _adopt(self, server: Server, config: RealServer) -> list[Action]:
        """A server that was there before. Returns a line for each thing that the reload changes of its state."""
        lines: list[Action] = []
        was_alive, was_weight = server.alive, server.weight
        server.adopt(config)
        server.alive = server.failed == 0 and not server.refused
        server.weight = server.effective_weight()
        if server.weight != was_weight:
            lines.append(self._weight_line(server, was_weight))
        if server.alive != was_alive:
            server.suspected = False
            words = ("Adding", "to") if server.alive else ("Removing", "from")
            lines.append(Log(f"{words[0]} service {server.name} {words[1]} VS {self.config.name}"))
        return lines

    def _leave(self, server: Server, reason: Reason, now: Instant) -> list[Action]:
        """A server that a reload removed: down is announced at once, its connections may have some time."""
        was_alive = server.alive
        drains = self._options.drain_timeout_s > 0 and server.in_pool and server.counts
        inhibited = "(inhibited) " if server.config.inhibit_on_failure and not server.alive else ""
        verb = "Draining" if drains else "Removing"
        actions: list[Action] = [Log(f"{verb} {inhibited}service {server.name} from VS {self.config.name}")]
        self._change(server, alive=False, suspected=False)
        if drains:
            server.leaving = True
            server.drain = Drain(later(now, seconds(self._options.drain_timeout_s)), True)
            self._count_at = self._count_at or later(now, COUNT_EVERY)
        else:
            server.in_pool = False
            self.servers.pop(server.name)
        actions.append(self._server_event(server, was_alive, reason, announce=was_alive, final=True))
        if not drains:
            actions.append(Forget(server.subject))
        actions.extend(self._lose_quorum_quietly(reason, announce=True))
        return actions

    def _lose_quorum_quietly(self, reason: Reason, *, announce: bool) -> list[Action]:
        """The quorum as servers are taken away for good: no sorry server comes in for it."""
        if not self.quorum_up or quorum_is_up(True, self._sum, self.config.quorum, self.config.hysteresis):
            return []
        self.quorum_up = False
        return [self._service_event(True, reason, announce=announce, final=True)]

    def _removed(self) -> list[Action]:
        name = self.config.group if self.config.kind == "group" else self.config.name
        kind = "Virtual Server Group" if self.config.kind == "group" else "Virtual Server"
        shown = f"[{name}]" if self.config.kind == "group" else name
        reason = self._reason(ReasonKind.RELOAD)
        actions: list[Action] = [Log(f"Removing {kind} {shown}"), RemoveServices()]
        actions.extend(self._take_down("Removing", reason, announce=True))
        actions.extend(Forget(server.subject) for server in self.servers.values())
        actions.append(Forget(self.subject))
        return actions

    def _stopped(self, fact: Stopped) -> list[Action]:
        if fact.keep:
            return []
        actions: list[Action] = [RemoveServices()]
        # keepalived(8): without omega nobody is told at shutdown.
        reason = self._reason(ReasonKind.STOPPED)
        omega = self.config.omega
        actions.extend(self._take_down("Shutting down", reason, announce=omega, always=omega))
        return actions

    def _take_down(self, verb: str, reason: Reason, *, announce: bool, always: bool = False) -> Iterator[Action]:
        self.sorry_active = False
        for server in self.servers.values():
            was_alive = server.alive
            if was_alive or server.in_pool:
                inhibited = "(inhibited) " if server.config.inhibit_on_failure and not was_alive else ""
                yield Log(f"{verb} {inhibited}service {server.name} from VS {self.config.name}")
            self._change(server, alive=False, suspected=False)
            server.in_pool = False
            if was_alive and announce:
                yield self._server_event(server, was_alive, reason, announce=True, final=True)
        # keepalived(8) with omega: the service's end is told even when its quorum had been lost before.
        if self.quorum_up or always:
            was_up, self.quorum_up = self.quorum_up, False
            yield self._service_event(was_up, reason, announce=announce, final=True, follows=True)

    # -- checks -----------------------------------------------------------------------------------------------------

    def _reported(self, fact: CheckReported, now: Instant) -> list[Action]:
        server = self.servers.get(fact.server)
        if server is None or server.leaving or fact.check not in server.checks:
            return []
        check = server.checks[fact.check]
        check.text, check.latency_us, check.runs_as = fact.text, fact.latency_us, fact.runs_as
        server.take_weight(fact)
        actions = self._reweigh(server, fact)
        if fact.up is None:
            return actions
        first = not check.has_run
        check.has_run = True
        reason = self._check_reason(server, fact)
        if check.up == fact.up:
            if first and not fact.up:
                # Alpha, and confirmed: it was down already, but only now somebody knows.
                actions.append(self._server_event(server, server.alive, reason, announce=True, cause=fact.cause))
            return actions
        check.up = fact.up
        server.failed += -1 if fact.up else 1
        if fact.up and server.failed == 0:
            actions.extend(self._rise(server, reason, fact.cause, now))
        elif not fact.up and server.failed == 1 and (server.alive or server.refused):
            actions.extend(self._fall(server, reason, fact.cause, now))
        else:
            actions.append(self._server_event(server, server.alive, reason, cause=fact.cause))
        return actions

    def _forgotten(self, fact: CheckForgotten) -> list[Action]:
        server = self.servers.get(fact.server)
        check = server.checks.get(fact.check) if server is not None else None
        if check is not None:
            check.has_run = False
            check.text = ""
        return []

    def _rise(self, server: Server, reason: Reason, cause: EventId | None, now: Instant) -> list[Action]:
        word, side = ("Enabling", "of") if server.config.inhibit_on_failure else ("Adding", "to")
        actions: list[Action] = [Log(f"{word} service {server.name} {side} VS {self.config.name}")]
        was_suspected = server.suspected
        self._change(server, alive=True, suspected=False)
        server.died_at = None
        actions.extend(self._place(server))
        actions.append(self._server_event(server, False, reason, announce=True, cause=cause))
        if was_suspected and self.panic:
            actions.extend(self._review_panic(now))
        actions.extend(self._update_quorum(cause=cause))
        return actions

    def _fall(self, server: Server, reason: Reason, cause: EventId | None, now: Instant) -> list[Action]:
        was_alive = server.alive
        server.refused = False
        server.died_at = now
        self._change(server, alive=False)
        if not was_alive:
            return [self._server_event(server, False, reason, cause=cause)]
        panic_actions = self._consider_panic(server, now)
        actions: list[Action] = []
        if not server.suspected:
            word, side = ("Disabling", "of") if server.config.inhibit_on_failure else ("Removing", "from")
            actions.append(Log(f"{word} service {server.name} {side} VS {self.config.name}"))
        actions.extend(self._place(server))
        actions.append(self._server_event(server, True, reason, announce=True, cause=cause))
        actions.extend(panic_actions)
        actions.extend(self._update_quorum(cause=cause))
        return actions

    def _reweigh(self, server: Server, fact: CheckReported) -> list[Action]:
        """The weight as the checks give it (MISC_CHECK with misc_dynamic, FILE_CHECK)."""
        weight = server.effective_weight()
        if weight == server.weight:
            return []
        old = server.weight
        self._change(server, weight=weight)
        actions: list[Action] = [self._weight_line(server, old), *self._place(server)]
        reason = self._check_reason(server, fact)
        actions.append(self._server_event(server, server.alive, reason, cause=fact.cause))
        actions.extend(self._update_quorum(cause=fact.cause))
        return actions

    def _weight_line(self, server: Server, old: int) -> Log:
        active = "active" if server.alive else "inactive"
        line = f"Changing weight from {old} to {server.weight} for {active} service {server.name} of VS"
        return Log(f"{line} {self.config.name}")

    # -- panic ------------------------------------------------------------------------------------------------------

    def _consider_panic(self, server: Server, now: Instant) -> list[Action]:
        """After a death: were there so many at once that the checks are doubted rather than the servers?"""
        options = self._options
        if options.panic_threshold <= 0:
            return []
        window = seconds(options.panic_window_s)
        at_once = [
            other
            for other in self.servers.values()
            if not other.alive and (other.suspected or (other.died_at is not None and now - other.died_at <= window))
        ]
        if not self.panic and not is_panic(len(at_once), self._alive, options.panic_threshold):
            return []
        actions: list[Action] = []
        for other in at_once:
            if not other.suspected:
                self._change(other, suspected=True)
                if other is not server:
                    actions.extend(self._place(other))
        if not self.panic:
            self.panic = True
            failed, pool = len(at_once), len(at_once) + self._alive
            text = f"{failed} of {pool} servers of VS {self.config.name} failed at once: the pool is kept"
            actions.insert(0, Log(text, "error"))
            reason = self._reason(ReasonKind.CHECK_FAILED, failed=failed, pool=pool, limit=options.panic_threshold)
            actions.append(self._service_event(self.quorum_up, reason, follows=True))
        return actions

    def _review_panic(self, now: Instant) -> list[Action]:
        """After a recovery: few enough are down to believe the checks again."""
        suspected = [server for server in self.servers.values() if server.suspected and not server.leaving]
        if is_panic(len(suspected), self._alive, self._options.panic_threshold):
            return []
        self.panic = False
        actions: list[Action] = [Log(f"The checks of VS {self.config.name} are believed again")]
        for server in suspected:
            self._change(server, suspected=False)
            server.died_at = now
            actions.extend(self._place(server))
        reason = self._reason(ReasonKind.CHECK_OK, failed=len(suspected))
        actions.append(self._service_event(self.quorum_up, reason, follows=True))
        return actions

    # -- draining ---------------------------------------------------------------------------------------------------

    def _drain_asked(self, fact: DrainAsked, now: Instant) -> list[Action]:
        server = self.servers.get(fact.server)
        if server is None or server.leaving:
            return []
        if fact.undo:
            if server.drain is None:
                return []
            server.drain = None
            reason = self._reason(ReasonKind.OPERATOR_RESUME)
            line = f"Service {server.name} of VS {self.config.name} takes connections again"
        else:
            timeout_s = self._options.drain_command_timeout_s if fact.timeout_s is None else fact.timeout_s
            server.drain = Drain(later(now, seconds(timeout_s)) if fact.remove else None, fact.remove)
            reason = self._reason(ReasonKind.OPERATOR_RELEASE, timeout_s=timeout_s)
            line = f"Draining service {server.name} of VS {self.config.name}"
            if fact.remove:
                self._count_at = self._count_at or later(now, COUNT_EVERY)
        self._recount()
        actions: list[Action] = [Log(line), *self._place(server)]
        actions.append(self._server_event(server, server.alive, reason))
        actions.extend(self._update_quorum())
        return actions

    def _draining(self) -> list[Server]:
        return [
            server
            for server in self.servers.values()
            if server.drain is not None and server.drain.remove and not server.drain.over
        ]

    def _counted(self, fact: ConnectionsCounted, now: Instant) -> list[Action]:
        server = self.servers.get(fact.server)
        if server is None or server.drain is None or server.drain.over or not server.drain.remove:
            return []
        expired = server.drain.until is not None and now >= server.drain.until
        if fact.connections > 0 and not expired:
            return []
        server.drain.over = True
        ended = "time is over" if fact.connections else "no connection left"
        kind = ReasonKind.RELOAD if server.leaving else ReasonKind.OPERATOR_RELEASE
        reason = self._reason(kind, connections=fact.connections)
        actions: list[Action] = [Log(f"Drained service {server.name} of VS {self.config.name}: {ended}")]
        actions.extend(self._place(server))
        actions.append(self._server_event(server, server.alive, reason, final=server.leaving))
        if server.leaving:
            self.servers.pop(server.name)
            actions.append(Forget(server.subject))
        return actions

    # -- deadlines and refusals -------------------------------------------------------------------------------------

    def _deadline_passed(self, now: Instant) -> list[Action]:
        actions: list[Action] = []
        if self._tell_at is not None:
            others = [at for at in (self._count_at, self._retry_at) if at is not None]
            actions.extend(self._tell_all() if others and now >= min(others) else self._tell_some(now))
        if self._count_at is not None and now >= self._count_at:
            draining = self._draining()
            self._count_at = later(now, COUNT_EVERY) if draining else None
            if draining:
                actions.append(
                    CountConnections(tuple((each.name, destination_spec(each.config, 0)) for each in draining))
                )
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            if self._settle_again:
                self._settle_again = False
                actions.append(Settle())
            for server in list(self.servers.values()):
                if server.refused:
                    server.refused = False
                    reason = self._reason(ReasonKind.CHECK_OK, refused=True)
                    if server.failed == 0:
                        actions.extend(self._rise(server, reason, None, now))
                    else:
                        actions.extend(self._place(server))
        return actions

    def _refused(self, fact: OrderRefused, now: Instant) -> list[Action]:
        actions: list[Action] = [Log(fact.text, "error")]
        self._retry_at = self._retry_at or later(now, RETRY_AFTER)
        server = self.servers.get(fact.server)
        if server is None:
            self._settle_again = True
            return actions
        # As keepalived: what the kernel does not take is not booked, and is tried again.
        was_alive = server.alive
        self._change(server, alive=False)
        server.refused = True
        server.in_pool = False
        server.kernel_weight = 0
        reason = self._reason(ReasonKind.CHECK_FAILED, errno=fact.errno, text=fact.text)
        actions.append(self._server_event(server, was_alive, reason))
        actions.extend(self._update_quorum())
        return actions
