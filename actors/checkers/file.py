"""FILE_CHECK: the number in a track_file, as the watch room tells it."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.actors.checkers.base import Outcome, Verdict
from holdfast.actors.checkers.config import FileCheck
from holdfast.actors.checkers.kinds import Checker
from holdfast.actors.watch.messages import FileValue
from holdfast.bus import topics
from holdfast.bus.base import Subscription
from holdfast.bus.envelope import Envelope

DOWN_AT = -(2**31)
UP_AT_MOST = 2**31 - 1


def judge(value: int, weight: int, reverse: bool, name: str) -> Outcome:
    """What the number says (keepalived.conf(5), FILE_CHECK).

    weight 0: any number but 0 is down, with reverse only 0 is. Otherwise value times weight (negated with reverse) is
    added to the server's weight, and -2147483648 or less is down.
    """
    shown = {"value": value, "weight": weight, "reverse": reverse}
    if weight == 0:
        down = (value == 0) if reverse else (value != 0)
        verdict = Verdict.FAILED if down else Verdict.OK
        return Outcome(verdict, f"file {name} says {value}", dict(shown))
    product = value * weight * (-1 if reverse else 1)
    if product <= DOWN_AT:
        return Outcome(Verdict.FAILED, f"file {name} says {value}, with weight {weight} that is down", dict(shown))
    added = min(product, UP_AT_MOST)
    return Outcome(Verdict.OK, f"file {name} says {value}, weight {added:+d}", dict(shown), weight_add=added)


class FileChecker(Checker[FileCheck]):
    """A file that somebody writes a number into. It is known from the start, so it never has alpha."""

    spec_type = FileCheck
    label = "FILE_CHECK"
    follows_events = True

    @classmethod
    def target_of(cls, spec: FileCheck) -> str:
        return spec.track_file

    def follow(self, told: Callable[[Outcome, Envelope], None]) -> Subscription:
        spec = self.spec

        def heard(envelope: Envelope) -> None:
            event = envelope.event
            if isinstance(event, FileValue):
                told(judge(event.value, spec.weight, spec.reverse, spec.track_file), envelope)

        return self.around.bus.subscribe(topics.subject_words(f"file/{spec.track_file}") + "/state", heard)
