"""Why something changed: from a transition along its causes to the root, as data and as a sentence.

Pure: it is given envelopes (from cells, from the journal, from other nodes) and reads no bus itself. The JSON form is
part of the product's face (docs/events.md): newest first, each with `reason`, `root` and `chain`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec

from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import EventId, Evidence, Reason, ReasonKind
from holdfast.cli.peer_story import Clocks, story_of_the_peer

NS = 1_000_000_000
PEER_KINDS = frozenset({ReasonKind.PEER_SILENT, ReasonKind.PEER_RESIGNED})
"""Reasons whose own story is told by another node."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One transition and why it happened. wall_ns: when; chain: reasons from the transition to the root."""

    subject: str
    node: str
    wall_ns: int
    old: str
    new: str
    reason: Reason
    chain: tuple[Reason, ...]

    @property
    def root(self) -> Reason:
        """The last reason of the chain: nothing known lies behind it."""
        return self.chain[-1]

    def as_json(self) -> dict[str, Any]:
        """The published form: {subject, node, wall, from, to, reason, root, chain}."""
        reasons = [msgspec.to_builtins(reason) for reason in self.chain]
        return {
            "subject": self.subject,
            "node": self.node,
            "wall": datetime.fromtimestamp(self.wall_ns / NS).astimezone().isoformat(timespec="microseconds"),
            "from": self.old,
            "to": self.new,
            "reason": reasons[0],
            "root": reasons[-1],
            "chain": reasons,
        }


def transitions(history: Iterable[Envelope], subject: str) -> list[Envelope]:
    """The envelopes that tell a change of `subject` (`vrrp/VI_1`), newest first, each once."""
    found: dict[EventId, Envelope] = {}
    for envelope in history:
        event = envelope.event
        if (
            subject_of(envelope) == subject
            and isinstance(getattr(event, "reason", None), Reason)
            and hasattr(event, "old")
            and old_and_new(event) is not None
        ):
            found[envelope.id] = envelope
    return sorted(found.values(), key=lambda e: (e.wall_ns, e.id.epoch, e.id.seq), reverse=True)


def old_and_new(event: object) -> tuple[str, str] | None:
    """The two states of a transition event in its own words; None when it is not one."""
    old = getattr(event, "old", None)
    for name in ("state", "new", "effective"):
        new = getattr(event, name, None)
        if new is not None and old is not None:
            return (str(old), str(new))
    return None


def subject_of(envelope: Envelope) -> str:
    """`vrrp/VI_1` of the topic `lb1/vrrp/VI_1/state`."""
    return envelope.topic.split("/", 1)[-1].rsplit("/", 1)[0]


def explain(
    subject: str, history: Iterable[Envelope], *, at_wall_ns: int | None = None, limit: int = 5, aspect: str = "state"
) -> list[Explanation]:
    """The newest `limit` transitions of `subject`, not later than `at_wall_ns`, each with its chain of reasons."""
    everything = list(history)
    by_id = {envelope.id: envelope for envelope in everything}
    clocks = Clocks(everything)
    result: list[Explanation] = []
    for envelope in transitions(everything, subject):
        if at_wall_ns is not None and envelope.wall_ns > at_wall_ns:
            continue
        if not envelope.topic.endswith("/" + aspect):
            continue
        states = old_and_new(envelope.event)
        assert states is not None
        result.append(
            Explanation(
                subject=subject,
                node=envelope.id.node,
                wall_ns=envelope.wall_ns,
                old=states[0],
                new=states[1],
                reason=envelope.event.reason,  # type: ignore[attr-defined]
                chain=tuple(_chain(envelope, by_id, everything, clocks)),
            )
        )
        if len(result) == limit:
            break
    return result


def _chain(
    envelope: Envelope, by_id: dict[EventId, Envelope], everything: list[Envelope], clocks: Clocks
) -> list[Reason]:
    chain: list[Reason] = []
    seen: set[EventId] = set()
    todo = [envelope]
    while todo:
        current = todo.pop(0)
        if current.id in seen:
            continue
        seen.add(current.id)
        reason = getattr(current.event, "reason", None)
        if isinstance(reason, Reason) and not any(_same(reason, other) for other in chain):
            chain.append(reason)
            if reason.kind in PEER_KINDS:
                story = story_of_the_peer(current, reason, everything, clocks)
                if story is not None:
                    todo.append(story)
        todo.extend(by_id[cause] for cause in current.causes if cause in by_id)
    return chain


def _same(one: Reason, other: Reason) -> bool:
    """Two tellers of one thing: the tracker that saw it, and the instance that acted on it."""
    return (one.kind, one.node, one.subject) == (other.kind, other.node, other.subject)


# ---------------------------------------------------------------- in words


def clock(wall_ns: int) -> str:
    """`10:31:07.412` in local time; with the date when it is not today's."""
    when = datetime.fromtimestamp(wall_ns / NS)
    form = "%H:%M:%S" if when.date() == datetime.now().date() else "%Y-%m-%d %H:%M:%S"
    return f"{when.strftime(form)}.{when.microsecond // 1000:03d}"


def say(explanation: Explanation) -> str:
    """The whole story: one sentence, then one line for each reason behind it."""
    name = explanation.subject.split("/", 1)[-1]
    kind = explanation.subject.split("/", 1)[0]
    what = {"vrrp": "", "vrrp-group": "group ", "rs": "real server ", "vs": "virtual server ", "bfd": "BFD session "}
    lines = [
        f"{what.get(kind, kind + ' ')}{name} became {explanation.new} on {explanation.node}"
        f" at {clock(explanation.wall_ns)} (was {explanation.old})"
        f" because {phrase(explanation.reason, explanation.wall_ns)}."
    ]
    speaker = explanation.node
    for reason in explanation.chain[1:]:
        if reason.node and reason.node != speaker:
            speaker = reason.node
            lines.append(f"  {speaker} says: {phrase(reason)}.")
        else:
            lines.append(f"  because {phrase(reason)}.")
    return "\n".join(lines)


def phrase(reason: Reason, wall_ns: int | None = None) -> str:
    """What follows "because": the reason in words, its evidence as numbers."""
    teller = PHRASES.get(reason.kind)
    if teller is not None:
        return teller(reason, reason.evidence, wall_ns)
    return f"of {reason.kind.value} of {reason.subject}{_rest(reason.evidence, ())}"


def _number(value: object) -> str:
    if isinstance(value, float):
        text = f"{value:.3f}"
        return text.rstrip("0").rstrip(".") if "." in text and abs(value) >= 1000 else text
    return str(value)


def _rest(evidence: Evidence, used: tuple[str, ...]) -> str:
    """The evidence that the sentence has not used, in brackets."""
    parts = []
    for key, value in evidence.items():
        if key in used or value is None:
            continue
        if key.endswith("_s_ago"):
            name, unit = key[:-6], " s ago"
        else:
            name, unit = (key[:-2], " s") if key.endswith("_s") else (key, "")
        parts.append(f"{name.replace('_', ' ')} {_number(value)}{unit}")
    return f" ({', '.join(parts)})" if parts else ""


def _peer_silent(_reason: Reason, evidence: Evidence, wall_ns: int | None) -> str:
    master = evidence.get("master") or "no master"
    ago = evidence.get("last_advert_s_ago")
    limit = evidence.get("limit_s")
    rest = _rest(evidence, ("master", "last_advert_s_ago", "limit_s", "waited_s"))
    if ago is None and limit is None:
        return f"the owners do not hear each other{rest}"
    if ago is None:
        return f"no master was heard for {_number(limit)} s{rest}"
    at = f"last advert {clock(wall_ns - int(float(ago) * NS))}, " if wall_ns is not None else "last advert "
    return f"{master} fell silent: {at}{_number(ago)} s ago, limit {_number(limit)} s{rest}"


def _plain(text: str, *used: str) -> Callable[[Reason, Evidence, int | None], str]:
    """A phrase from a pattern: {node} {subject} {name} and evidence by name; what it leaves out follows in brackets."""

    def tell(reason: Reason, evidence: Evidence, _wall_ns: int | None) -> str:
        values = {
            "node": reason.node,
            "subject": reason.subject,
            "name": reason.subject.split("/", 1)[-1],
            **dict.fromkeys(used, "?"),
            **{key: _number(value) for key, value in evidence.items()},
        }
        return text.format(**values) + _rest(evidence, used)

    return tell


PHRASES: dict[ReasonKind, Callable[[Reason, Evidence, int | None], str]] = {
    ReasonKind.PEER_SILENT: _peer_silent,
    ReasonKind.STARTED: _plain("{subject} started"),
    ReasonKind.STOPPED: _plain("{subject} was stopped"),
    ReasonKind.KILLED: _plain("{subject} died"),
    ReasonKind.RESTARTED: _plain("{subject} was put back after its process had died"),
    ReasonKind.RELOAD: _plain("a reload changed {subject}"),
    ReasonKind.OPERATOR_RELEASE: _plain("an operator released {name} for maintenance"),
    ReasonKind.OPERATOR_RESUME: _plain("an operator ended the maintenance of {name}"),
    ReasonKind.PEER_RESIGNED: _plain(
        "{master} resigned (advert of priority 0)", "master", "waited_s", "last_advert_s_ago"
    ),
    ReasonKind.PEER_HIGHER_PRIORITY: _plain("{master} advertises a better claim", "master"),
    ReasonKind.PEER_LOWER_PRIORITY: _plain(
        "the master {master} has a lower priority than we", "master", "limit_s", "waited_s"
    ),
    ReasonKind.LINK_DOWN: _plain("the link {name} went down"),
    ReasonKind.LINK_UP: _plain("the link {name} came up"),
    ReasonKind.LINK_MISSING: _plain("the interface {name} does not exist"),
    ReasonKind.ADDRESS_MISSING: _plain("the address {name} is missing"),
    ReasonKind.SCRIPT_FAILED: _plain("the script {name} failed"),
    ReasonKind.SCRIPT_TIMEOUT: _plain("the script {name} did not end in time"),
    ReasonKind.SCRIPT_OK: _plain("the script {name} succeeded"),
    ReasonKind.FILE_VALUE: _plain("the tracked file {name} holds another value"),
    ReasonKind.PROCESS_QUORUM: _plain("the number of processes {name} changed"),
    ReasonKind.BFD_DOWN: _plain("the BFD session {name} went down"),
    ReasonKind.BFD_UP: _plain("the BFD session {name} came up"),
    ReasonKind.SYNC_GROUP: _plain("its sync group {name} went along with another member"),
    ReasonKind.PRIORITY_CHANGED: _plain("the priority changed"),
    ReasonKind.STALLED: _plain("the process was not scheduled"),
    ReasonKind.LEASE_EXPIRED: _plain("the lease of its addresses ran out"),
    ReasonKind.ONE_WAY_LOSS: _plain("packets are lost in one direction"),
    ReasonKind.DUPLICATE_VRID: _plain("another router uses the same virtual router id for another purpose"),
    ReasonKind.AUTH_MISMATCH: _plain("the authentication of {name} does not agree with ours"),
    ReasonKind.ADVERT_MISMATCH: _plain("adverts of {name} do not agree with our configuration"),
    ReasonKind.CHECK_FAILED: _plain("the check {name} failed"),
    ReasonKind.CHECK_OK: _plain("the check {name} succeeded"),
    ReasonKind.CHECK_OVERDUE: _plain("the check {name} has not run in time"),
    ReasonKind.QUORUM_LOST: _plain("the quorum of {name} was lost"),
    ReasonKind.QUORUM_GAINED: _plain("the quorum of {name} was gained"),
    ReasonKind.WORKER_LOST: _plain("the worker {name} was lost"),
    ReasonKind.PEER_UNREACHABLE: _plain("the node {name} cannot be reached over the bus"),
}
