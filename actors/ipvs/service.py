"""The machine of one virtual server: which real servers stand in its pool, its quorum, its sorry server.

Pure. What the checks say goes in, what the kernel is to have and what the world is to know comes out. The order of a
step's actions is the order of keepalived's effects: log line, kernel, real server's event, then the quorum with the
service's event. The pool's building blocks are in `pool.py`, a server's books in `server.py`, arithmetic in
`quorum.py`, kernel values in `plan.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from holdfast.actors.ipvs.config import RealServer, VirtualServer
from holdfast.actors.ipvs.draining import COUNT_EVERY, DrainingPool
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
from holdfast.actors.ipvs.quorum import is_panic, quorum_is_up
from holdfast.actors.ipvs.server import Drain, Server
from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant, later, seconds
from holdfast.bus.messages import EventId, Reason, ReasonKind

WORK_OF_A_STEP = 256
"""Actions of one step of a start or a reload: some milliseconds."""

PAUSE_EVERY = 64
"""Servers that are looked at without an action; that counts as much as WORK_OF_A_PAUSE actions."""
WORK_OF_A_PAUSE = 16

RETRY_AFTER = seconds(2.0)
"""After which a destination that the kernel refused is tried again."""


_DONE = Settle()
"""Marks the end of an iterator; compared by identity."""


class ServiceMachine(DrainingPool):
    """One virtual server. Not shared between threads."""

    __slots__ = ("_retry_at", "_settle_again", "_waiting", "_work", "_work_at", "restored")

    def __init__(
        self,
        config: VirtualServer,
        options: Options,
        former: Former | None = None,
        servers: dict[str, Server] | None = None,
    ) -> None:
        super().__init__(config, options, servers)
        self.restored = former is not None
        self._work: Iterator[Action | None] | None = None
        """What a start or a reload has still to do."""
        self._waiting: deque[Fact] = deque()
        """Facts that came meanwhile."""
        self._work_at: Instant | None = None
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
        wanted = [at for at in (self._count_at, self._retry_at, self._work_at) if at is not None]
        return min(wanted) if wanted else None

    @property
    def busy(self) -> bool:
        """Whether a start or a reload is under way: what is wanted is not settled."""
        return self._work is not None

    def step(self, fact: Fact, now: Instant) -> list[Action]:
        """Takes one fact and returns what is to be done, in order.

        A start or a reload with many servers takes several steps, WORK_OF_A_STEP in each; the deadline asks for them.
        Facts that come meanwhile wait, so that the order of the effects stays what it would have been.
        """
        if isinstance(fact, Deadline):
            return self._deadline_passed(now)
        if not self._under_way():
            actions: list[Action] = []
        elif isinstance(fact, Removed | Stopped):
            actions = self._finish(now)
        else:
            self._waiting.append(fact)
            return []
        actions.extend(self._taken(fact, now))
        if self._work is not None:
            actions.extend(self._go_on(now))
        return actions

    def _under_way(self) -> bool:
        return self._work is not None or bool(self._waiting)

    def _finish(self, now: Instant) -> list[Action]:
        actions: list[Action] = []
        while self._under_way():
            actions.extend(self._go_on(now))
        return actions

    def _go_on(self, now: Instant) -> list[Action]:
        """A piece of the work that is under way, and of what waits for its end."""
        actions: list[Action] = []
        left = WORK_OF_A_STEP
        while left > 0 and self._under_way():
            if self._work is None:
                actions.extend(self._taken(self._waiting.popleft(), now))
                left -= 1
                continue
            action = next(self._work, _DONE)
            if action is _DONE:
                self._work = None
            elif action is None:
                left -= WORK_OF_A_PAUSE
            else:
                actions.append(action)
                left -= 1
        self._work_at = now if self._under_way() else None
        return actions

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
                self._work = self._started()
                return []
            case Reconfigured():
                self._work = self._reconfigured(fact, now)
                return []
            case Removed():
                return self._removed()
            case Stopped():
                return self._stopped(fact)
            case _:
                raise AssertionError(fact)

    # -- start, reload, stop ----------------------------------------------------------------------------------------

    def _started(self) -> Iterator[Action | None]:
        kind = ReasonKind.RESTARTED if self.restored else ReasonKind.STARTED
        reason = self._reason(kind)
        for server in self.servers.values():
            if server.drain is not None and not server.drain.over:
                self._count_at = Instant(0)
        # Everything goes to the kernel in one piece, and only then the world is told.
        quorum = self._update_quorum(starting=not self.restored, settled=True)
        yield from self._note_placements()
        for action in quorum:
            if isinstance(action, Log):
                yield action
        yield Settle()
        announced = self._options.rs_init_notifies and not self.restored
        for server in list(self.servers.values()):
            yield self._server_event(server, None, reason, announce=announced and server.alive)
        news = [action for action in quorum if isinstance(action, Publish)]
        yield from news or [self._service_event(None, reason)]

    def _note_placements(self) -> Iterator[None]:
        for number, server in enumerate(list(self.servers.values()), 1):
            self._note_placement(server)
            if not number % PAUSE_EVERY:
                yield None

    def _reconfigured(self, fact: Reconfigured, now: Instant) -> Iterator[Action | None]:
        new = fact.config
        reason = self._reason(ReasonKind.RELOAD)
        wanted = {server.name for server in new.real_servers}
        gone = [server for name, server in self.servers.items() if name not in wanted and not server.leaving]
        for server in gone:
            yield Log(f"service {server.name} no longer exist")
        events: list[Action] = []
        for server in gone:
            line, *told = self._leave(server, reason, now)
            events.extend(told)
            yield line
        self.config = new
        self._specs = service_specs(new)
        if new.sorry_server is None:
            self.sorry_active = False
        leaving = {name: server for name, server in self.servers.items() if server.leaving and name not in wanted}
        changed: list[tuple[Server, bool | None]] = []
        servers: dict[str, Server] = {}
        for number, config in enumerate(new.real_servers, 1):
            known = self.servers.get(config.name)
            if known is None or known.leaving:
                known = Server(config, new.name)
                changed.append((known, None))
            elif known.config != config:
                was_alive = known.alive
                lines = self._adopt(known, config)
                if lines:
                    changed.append((known, was_alive))
                yield from lines
            servers[config.name] = known
            if not number % PAUSE_EVERY:
                yield None
        self.servers = {**servers, **leaving}
        self._recount()
        quorum = self._update_quorum(starting=True, settled=True)
        yield from self._note_placements()
        for action in quorum:
            if isinstance(action, Log):
                yield action
        yield Settle()
        yield from events
        for server, old_up in changed:
            if old_up is None:
                announce = fact.rs_init_notifies and server.alive
            else:
                announce = server.alive != old_up
            yield self._server_event(server, old_up, reason, announce=announce)
        news = [action for action in quorum if isinstance(action, Publish)]
        yield from news or [self._service_event(self.quorum_up, reason)]

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

    # -- deadlines and refusals -------------------------------------------------------------------------------------

    def _deadline_passed(self, now: Instant) -> list[Action]:
        actions = self._go_on(now)
        if self._work_at is not None:
            return actions
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
