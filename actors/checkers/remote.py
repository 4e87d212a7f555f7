"""A check that other nodes carry out: their results are votes, and what they amount to is told as this check's own.

The rules are in assignment.py; who votes is decided by sharing.py. Whatever becomes of the nodes: what counted last
stays until enough of those that look now say something else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from holdfast.actors.checkers.assignment import Vote, count
from holdfast.actors.checkers.check_actor import Broken, Change, CheckActor
from holdfast.actors.checkers.config import Check
from holdfast.actors.checkers.kinds import Surroundings
from holdfast.actors.checkers.messages import CheckResult, Target
from holdfast.bus.messages import EventId, Evidence


class Voters(msgspec.Struct, frozen=True):
    """Who looks at the server from now on. agree: how many must say the same, 0: more than half."""

    nodes: tuple[str, ...]
    agree: int


class Voted(msgspec.Struct, frozen=True):
    """What one of them says. None: it does not count any more."""

    node: str
    vote: Vote | None
    cause: EventId | None = None


class RemoteCheck(CheckActor):
    """A check that has no runs of its own."""

    def __init__(
        self,
        *,
        name: str,
        spec: Check,
        targets: tuple[Target, ...],
        around: Surroundings,
        former: CheckResult | None,
        died: Callable[[str], None],
        voters: Voters,
    ) -> None:
        """voters: who looks at the server. former: what counted until now."""
        super().__init__(name=name, spec=spec, targets=targets, around=around, former=former, died=died)
        self._voters = voters
        self._votes: dict[str, Vote] = {}
        self._up = None if former is None else former.up
        self._runs = 0 if former is None else former.runs

    def on_start(self) -> None:
        """What counted stands."""
        self.confirm()

    def on_receive(self, message: Any) -> None:
        """Votes, voters, and changes by a reload."""
        match message:
            case Voted():
                self._voted(message)
            case Voters():
                self._voters = message
                for node in self._votes.keys() - set(message.nodes):
                    del self._votes[node]
                self._count(None, ())
            case Change():
                self.spec = message.spec
                self.retarget(message.targets)
            case Broken():
                raise message.error

    def _voted(self, told: Voted) -> None:
        if told.vote is None:
            self._votes.pop(told.node, None)
        elif told.node in self._voters.nodes:
            self._votes[told.node] = told.vote
            self._count(told.node, () if told.cause is None else (told.cause,))

    def _count(self, node: str | None, causes: tuple[EventId, ...]) -> None:
        """node: who has said something, None: nobody, but others look at it now."""
        counted = count(self._votes, len(self._voters.nodes), self._voters.agree, self._up)
        if counted.up is None or (node is None and counted.up is self._up):
            return
        if node is None:
            node = min(name for name, vote in self._votes.items() if vote.up is counted.up)
        vote = self._votes[node]
        first, changed = self._up is None, counted.up is not self._up
        self._up = counted.up
        self._runs += 1
        detail: Evidence = {"node": node, "agree": counted.agree, "of": counted.of, "needed": counted.needed}
        result = CheckResult(
            check=self.name,
            kind=self._kind,
            targets=self.targets,
            ok=vote.ok,
            up=counted.up,
            first=first,
            changed=changed,
            latency_us=vote.latency_us,
            text=f"{vote.text} (seen from {node})",
            detail=detail,
            attempt=0 if counted.up else max(1, vote.attempt),
            retry=self.spec.retry,
            runs=self._runs,
            since_wall_ns=time.time_ns() if changed else self._since_wall_ns,
        )
        self.tell_result(result, max(0, vote.attempt - 1), causes)
