"""BFD_CHECK: the state of a BFD session, as the bfd room tells it. No retries: a session has its own detection time."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.actors.bfd.messages import BfdState, BfdStateChanged
from holdfast.actors.checkers.base import Outcome, Verdict
from holdfast.actors.checkers.config import BfdCheck
from holdfast.actors.checkers.kinds import Checker
from holdfast.actors.checkers.messages import Target
from holdfast.bus import topics
from holdfast.bus.base import Subscription
from holdfast.bus.envelope import Envelope


def judge(event: BfdStateChanged) -> Outcome | None:
    """What a session's event says; None: it says nothing to checkers (deleted, or meant for VRRP only)."""
    if not event.checker or event.state is BfdState.DELETED:
        return None
    verdict = Verdict.OK if event.tracker_up else Verdict.FAILED
    text = f"BFD session {event.session} with {event.neighbor} is {event.state.value}"
    if verdict is Verdict.FAILED and event.local_diagnostic:
        text += f" ({event.local_diagnostic})"
    return Outcome(verdict, text, {"session": event.session, "state": event.state.value})


class BfdChecker(Checker[BfdCheck]):
    """A neighbour that BFD watches."""

    spec_type = BfdCheck
    label = "BFD_CHECK"
    follows_events = True

    @classmethod
    def target_of(cls, spec: BfdCheck) -> str:
        return spec.instance

    def follow(self, told: Callable[[Outcome, Envelope], None]) -> Subscription:
        def heard(envelope: Envelope) -> None:
            event = envelope.event
            if isinstance(event, BfdStateChanged):
                outcome = judge(event)
                if outcome is not None:
                    told(outcome, envelope)

        return self.around.bus.subscribe(topics.subject_words(f"bfd/{self.spec.instance}") + "/state", heard)

    def success_words(self, target: Target, outcome: Outcome) -> str:
        return f"BFD check of [{self.spec.instance}] RS({target.real_server}) is UP"

    def failure_words(self, target: Target, outcome: Outcome, retries: int) -> str:
        return f"BFD check of [{self.spec.instance}] RS({target.real_server}) is DOWN"
