"""Whether another node can be reached. Pure.

It is asked every half second (in a large mesh a little less often); a node that has not answered for SILENT is
unreachable, which is told once. So a cut is told within two seconds of the last answer. A process that stood still
itself hears the answers that waited before it judges: a deadline that comes much too late moves everything by as much.
"""

from __future__ import annotations

from holdfast.actors.gateway.messages import PeerStatus
from holdfast.actors.runtime.machine import MS, Action, Deadline, Duration, Fact, Instant, later, seconds
from holdfast.bus.messages import Evidence

ASK_EVERY = seconds(0.5)
ASK_SELDOM = seconds(0.8)
"""Between the questions to each of MANY other nodes and more: two still fit into SILENT."""
MANY = 30
SILENT = seconds(1.7)
HEARS_US = seconds(2.0)
"""A node whose last question is older than this does not hear us, or we do not hear it ask."""
LATE = Duration(250 * MS)


def pace(others: int) -> Duration:
    """How often each of so many other nodes is asked."""
    share = min(others, MANY) / MANY
    return Duration(ASK_EVERY + int((ASK_SELDOM - ASK_EVERY) * share))


class Answered(Fact, frozen=True):
    """The node answered a question."""


class Asked(Fact, frozen=True):
    """The node asked us something."""


class Ask(Action, frozen=True):
    """Send a question."""


class Tell(Action, frozen=True):
    """Publish how it stands. evidence: None when it was reached."""

    old: PeerStatus
    state: PeerStatus
    hears_us: bool
    evidence: Evidence | None


class PeerMachine:
    """One other node. Times are those of the mesh; where nodes meet elsewhere a sign of life stands for an answer.

    ask_every: between questions. silent: unreachable after so long. hears_us: a node whose last question is older
    does not hear us.
    """

    __slots__ = ("_ask_at", "_ask_every", "_asked_at", "_heard_at", "_hears_us_for", "_silent", "hears_us", "state")

    def __init__(
        self,
        now: Instant,
        ask_every: Duration = ASK_EVERY,
        silent: Duration = SILENT,
        hears_us: Duration = HEARS_US,
    ) -> None:
        self._ask_every = ask_every
        self._silent = silent
        self._hears_us_for = hears_us
        self.state = PeerStatus.CONNECTING
        self.hears_us = False
        self._ask_at = now
        self._heard_at = now
        self._asked_at: Instant | None = None

    @property
    def deadline(self) -> Instant:
        """When it wants to be called."""
        limits = [self._ask_at]
        if self.state is not PeerStatus.UNREACHABLE:
            limits.append(later(self._heard_at, self._silent))
        if self.hears_us and self._asked_at is not None:
            limits.append(later(self._asked_at, self._hears_us_for))
        return min(limits)

    def step(self, fact: Fact, now: Instant) -> list[Action]:
        """Takes one fact."""
        match fact:
            case Answered():
                self._heard_at = now
                if self.state is not PeerStatus.REACHABLE:
                    return [self._turn(PeerStatus.REACHABLE, None)]
                return []
            case Asked():
                self._asked_at = now
                if not self.hears_us:
                    self.hears_us = True
                    return [self._again()]
                return []
            case Deadline():
                return self._deadline(now)
        raise AssertionError(fact)

    def _deadline(self, now: Instant) -> list[Action]:
        late = now - self.deadline
        if late > LATE:
            self._heard_at = later(self._heard_at, Duration(late))
            if self._asked_at is not None:
                self._asked_at = later(self._asked_at, Duration(late))
        actions: list[Action] = []
        if self.hears_us and self._asked_at is not None and now - self._asked_at >= self._hears_us_for:
            self.hears_us = False
            actions.append(self._again())
        silent = now - self._heard_at
        if self.state is not PeerStatus.UNREACHABLE and silent >= self._silent:
            evidence: Evidence = {"silent_s": round(silent / 1e9, 3), "limit_s": self._silent / 1e9}
            actions.append(self._turn(PeerStatus.UNREACHABLE, evidence))
        if now >= self._ask_at:
            self._ask_at = later(now, self._ask_every)
            actions.append(Ask())
        return actions

    def _turn(self, state: PeerStatus, evidence: Evidence | None) -> Tell:
        old, self.state = self.state, state
        return Tell(old, state, self.hears_us, evidence)

    def _again(self) -> Tell:
        return Tell(self.state, self.state, self.hears_us, None)
