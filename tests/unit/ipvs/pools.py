"""Small virtual servers for tests, and a player that keeps a machine's kernel table as its orders make it."""

from __future__ import annotations

from typing import Any

from holdfast.actors.ipvs.config import CheckRef, RealServer, SorryServer, VirtualServer
from holdfast.actors.ipvs.facts import (
    CheckReported,
    Drop,
    Former,
    Log,
    Options,
    OrderRefused,
    Publish,
    Put,
    RemoveServices,
    Settle,
    Started,
)
from holdfast.actors.ipvs.messages import RealServerChanged, VirtualServerChanged
from holdfast.actors.ipvs.service import ServiceMachine
from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant, seconds

VS = "[10.0.0.1]:tcp:80"


def real(number: int, *, alpha: bool = False, checks: int = 1, kind: str = "TCP_CHECK", **more: Any) -> RealServer:
    """Real server 10.0.1.NUMBER:80 with some checks."""
    name = f"[10.0.1.{number}]:tcp:80"
    refs = tuple(CheckRef(name=f"{kind}-{i}@{name}@{VS}", kind=kind, alpha=alpha) for i in range(checks))
    return RealServer(name=name, address=f"10.0.1.{number}", port=80, family=4, checks=refs, **more)


def virtual(*servers: RealServer, **more: Any) -> VirtualServer:
    """Virtual server 10.0.0.1:80/tcp with these real servers."""
    return VirtualServer(
        name=VS, kind="address", family=4, protocol="tcp", address="10.0.0.1", port=80, real_servers=servers, **more
    )


def sorry(**more: Any) -> SorryServer:
    """The sorry server 10.0.2.1:80."""
    return SorryServer(name="[10.0.2.1]:tcp:80", address="10.0.2.1", port=80, family=4, **more)


class Player:
    """A machine, its clock, and what its orders make of the kernel's table (address -> weight)."""

    def __init__(self, config: VirtualServer, former: Former | None = None, **options: Any) -> None:
        self.machine = ServiceMachine(config, Options(node="lb1", **options), former)
        self.now = Instant(0)
        self.pool: dict[str, int] | None = None
        self.actions: list[Action] = []

    def at(self, now_s: float, fact: Fact) -> list[Action]:
        """One step at this time; returns its actions."""
        self.now = Instant(seconds(now_s))
        if isinstance(fact, OrderRefused):
            assert self.pool is not None
            self.pool.pop(fact.server.partition("]")[0][1:], None)
        self.actions = self.machine.step(fact, self.now)
        for action in self.actions:
            match action:
                case Settle():
                    ((_, destinations),) = self.machine.wanted().values()
                    self.pool = {item.address: item.weight for item in destinations.values()}
                case Put():
                    assert self.pool is not None
                    self.pool[action.destination.address] = action.destination.weight
                case Drop():
                    assert self.pool is not None
                    del self.pool[action.destination.address]
                case RemoveServices():
                    self.pool = None
        if self.machine.busy:
            # In the middle of a large reload; the steps after this one bring it to its end.
            return self.actions
        if self.pool is not None:
            ((_, destinations),) = self.machine.wanted().values()
            assert self.pool == {item.address: item.weight for item in destinations.values()}, "orders and wish differ"
        expected = sum(server.contribution() for server in self.machine.servers.values())
        assert self.machine.weight_sum == expected, "the running sum is off"
        return self.actions

    def finish(self, now_s: float) -> list[list[Action]]:
        """The steps that a large start or reload asks for with its deadline, each with its actions."""
        steps = []
        while self.machine.deadline is not None and self.machine.deadline <= Instant(seconds(now_s)):
            steps.append(self.at(now_s, Deadline()))
        return steps

    def start(self) -> list[Action]:
        """The first step."""
        return self.at(0, Started())

    def check(self, now_s: float, number: int, up: bool, slot: int = 0, **more: Any) -> list[Action]:
        """A check of 10.0.1.NUMBER says so."""
        name = f"[10.0.1.{number}]:tcp:80"
        server = self.machine.servers.get(name)
        kind = server.config.checks[0].kind if server is not None and server.config.checks else "TCP_CHECK"
        check = f"{kind}-{slot}@{name}@{VS}"
        fact = CheckReported(server=name, check=check, runs_as="c", up=up, ok=up, **more)
        return self.at(now_s, fact)

    @property
    def servers(self) -> list[RealServerChanged]:
        """The last step's events of real servers."""
        events = [action.event for action in self.actions if isinstance(action, Publish)]
        return [event for event in events if isinstance(event, RealServerChanged)]

    @property
    def services(self) -> list[VirtualServerChanged]:
        """The last step's events of the virtual server."""
        events = [action.event for action in self.actions if isinstance(action, Publish)]
        return [event for event in events if isinstance(event, VirtualServerChanged)]

    @property
    def lines(self) -> list[str]:
        """The last step's log lines."""
        return [action.text for action in self.actions if isinstance(action, Log)]

    @property
    def fifo(self) -> list[str]:
        """The last step's lines for the FIFO, in order."""
        events = [action.event for action in self.actions if isinstance(action, Publish)]
        lines = [event.fifo_line for event in events if isinstance(event, RealServerChanged | VirtualServerChanged)]
        return [line for line in lines if line]
