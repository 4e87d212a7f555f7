"""Two instances and their sync group, wired as the shell wires them."""

from __future__ import annotations

from collections.abc import Callable

from vrrp_words import fresh, tell

from holdfast.actors.runtime.machine import Action, Deadline, Fact, Instant, S
from holdfast.actors.vrrp import actions as act
from holdfast.actors.vrrp.facts import SourceChanged, Start
from holdfast.actors.vrrp.group import GroupMachine, MemberWish, Tell
from holdfast.actors.vrrp.machine import VrrpMachine
from holdfast.actors.vrrp.messages import VrrpState
from holdfast.actors.vrrp.options import LeaseMode, MachineOptions

OPTIONS = MachineOptions(node="lb1", group="G", lease=LeaseMode.OFF)


class Pair:
    """Members A and B of group G. lines: `who what`, in order. send: told of each advert (member, priority)."""

    def __init__(self, *, common: dict[str, object] | None = None, **fields: object) -> None:
        """fields: B's; common: of both."""
        self.machines: dict[str, VrrpMachine] = {}
        for name, more in (("A", {}), ("B", fields)):
            self.machines[name] = fresh(OPTIONS, **{"name": name, **(common or {}), **more}).machine
        self.group = GroupMachine("G", ("A", "B"), "lb1")
        self.now = Instant(0)
        self.lines: list[str] = []
        self.send: Callable[[str, int], None] = lambda _member, _priority: None

    def at(self, seconds: float, member: str, fact: Fact) -> list[str]:
        """Hands `fact` to that member; returns what all did."""
        return self.at_instant(Instant(round(seconds * S)), member, fact)

    def at_instant(self, now: Instant, member: str, fact: Fact) -> list[str]:
        """The same by the clock."""
        self.now = now
        self.lines = []
        self._step(member, fact)
        return self.lines

    def start(self, seconds: float = 0.0) -> None:
        """Both start."""
        for name in self.machines:
            self.at(seconds, name, Start())

    def address(self, address: str) -> None:
        """Where its adverts come from."""
        for machine in self.machines.values():
            machine.step(SourceChanged(address), self.now)

    @property
    def due(self) -> tuple[Instant, str] | None:
        """The next deadline and whose it is."""
        due = [(machine.deadline, name) for name, machine in self.machines.items() if machine.deadline is not None]
        return min(due) if due else None

    def until(self, seconds: float) -> list[str]:
        """Keeps every deadline up to then; returns what was told, with its instant."""
        lines: list[str] = []
        while (due := self.due) is not None and due[0] <= seconds * S:
            at, name = due
            lines += [f"{at / S:g} {line}" for line in self.at(at / S, name, Deadline())]
        self.now = Instant(round(seconds * S))
        return lines

    def group_step(self, fact: Fact) -> list[str]:
        """A fact for the group itself."""
        self.lines = []
        self._carry_out("G", self.group.step(fact, self.now))
        return self.lines

    def states(self) -> tuple[str, str, str]:
        """Of A, B and the group."""
        return (self.machines["A"].state.value, self.machines["B"].state.value, self.group.state.value)

    @property
    def is_master(self) -> bool:
        """All of it."""
        return all(machine.state is VrrpState.MASTER for machine in self.machines.values())

    def _step(self, member: str, fact: Fact) -> None:
        self._carry_out(member, list(self.machines[member].step(fact, self.now)))

    def _carry_out(self, who: str, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case act.TellGroup(wish=wish, reason=why, causes=causes):
                    self._carry_out("G", self.group.step(MemberWish(who, wish, why, causes), self.now))
                case Tell(member=member, fact=fact):
                    self._step(member, fact)
                case _:
                    if isinstance(action, act.SendAdvert):
                        self.send(who, action.priority)
                    line = tell(action)
                    if line is not None:
                        self.lines.append(f"{who} {line}")
