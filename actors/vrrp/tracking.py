"""Lines of track_interface, track_script, track_file, track_process and track_bfd (keepalived.conf(5)).

What is tracked has to be defined before. Weights are filled in from the thing's own where a line is silent.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from holdfast.actors.vrrp.config import Tracked, Tracks
from holdfast.config.context import Context, Words
from holdfast.config.source import Line
from holdfast.config.table import Draft
from holdfast.config.text import integer


class Tracking(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of thing that can be tracked.

    kind: the block that defines it, "" for interfaces. low, high: of weights in a line. reduced: what the ends become.
    """

    keyword: str
    field: str
    kind: str
    what: str
    limit: int
    reduced: int
    noreverse: bool = True


TRACKINGS = (
    Tracking(
        keyword="track_interface",
        field="interfaces",
        kind="",
        what="interface",
        limit=254,
        reduced=253,
        noreverse=False,
    ),
    Tracking(keyword="track_script", field="scripts", kind="vrrp_script", what="script", limit=254, reduced=253),
    Tracking(keyword="track_file", field="files", kind="track_file", what="file", limit=254, reduced=254),
    Tracking(
        keyword="track_process", field="processes", kind="vrrp_track_process", what="process", limit=254, reduced=254
    ),
    Tracking(keyword="track_bfd", field="bfd", kind="bfd_instance", what="bfd", limit=253, reduced=253),
)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a track block, with its place."""

    name: str
    weight: int | None
    reverse: bool | None
    line: Line


def reader(tracking: Tracking) -> Callable[[Words, Draft], None]:
    """The reader of one track block's lines."""

    def read(words: Words, draft: Draft) -> None:
        entry = _entry(words, draft, tracking)
        if entry is None:
            return
        entries: dict[str, Entry] = draft.values.setdefault(tracking.keyword, {})
        if entry.name in entries:
            words.error(f"{tracking.what} '{entry.name}' is tracked twice: ignored", "one line for each", index=0)
            return
        entries[entry.name] = entry

    return read


def _entry(words: Words, draft: Draft, tracking: Tracking) -> Entry | None:
    name = words.items[0]
    context = words.context
    if not tracking.kind:
        # The line stays without the interface: it may come later with dynamic_interfaces.
        context.has_interface(name, words.line, f"tracked by {draft.name}", 0)
    elif not known(context, tracking, name):
        hint = f"{tracking.kind} {name} {{ ... }} before it"
        words.error(f"{tracking.what} '{name}' is not defined: ignored", hint, index=0)
        return None
    if len(words) == 1:
        return Entry(name=name, weight=None, reverse=None, line=words.line)
    hint = "NAME [weight N [reverse]]"
    if words.items[1] != "weight":
        words.error(f"unknown word '{words.items[1]}' for a tracked {tracking.what}: ignored", hint, index=1)
        return Entry(name=name, weight=None, reverse=None, line=words.line)
    if len(words) == 2:
        words.error(f"weight of {tracking.what} '{name}' lacks its number: ignored", hint, index=2)
        return Entry(name=name, weight=None, reverse=None, line=words.line)
    weight = integer(words.items[2])
    limit = tracking.limit
    if weight is None or not -limit <= weight <= limit:
        words.error(f"weight '{words.items[2]}' of '{name}': ignored", f"-{limit}..{limit}", index=2)
        weight = None
    elif abs(weight) > tracking.reduced:
        reduced = tracking.reduced if weight > 0 else -tracking.reduced
        words.error(f"weight {weight} of '{name}' is too large: {reduced} taken", "-253..253", index=2)
        weight = reduced
    reverse: bool | None = False
    if len(words) > 3:
        if words.items[3] == "reverse":
            reverse = True
        elif words.items[3] != "noreverse" or not tracking.noreverse:
            words.error(f"unknown word '{words.items[3]}' behind the weight: ignored", "reverse", index=3)
    return Entry(name=name, weight=weight, reverse=reverse, line=words.line)


def known(context: Context, tracking: Tracking, name: str) -> bool:
    """Whether a tracked thing is defined; BFD sessions only when they report to VRRP."""
    draft = context.named(tracking.kind).get(name)
    if draft is None:
        return False
    return tracking.kind != "bfd_instance" or not draft.get("checker") or bool(draft.get("vrrp"))


def own_weight(context: Context, tracking: Tracking, name: str) -> tuple[int, bool]:
    """Weight and direction of the tracked thing itself."""
    if not tracking.kind:
        return 0, False
    draft = context.named(tracking.kind).get(name)
    weight = draft.get("weight") if draft else None
    if weight is None:
        return (1 if tracking.keyword == "track_file" else 0), False
    own: tuple[int, bool] = weight
    return own


def entries(draft: Draft, tracking: Tracking) -> dict[str, Entry]:
    """The lines of one track block of an instance or group, by name."""
    found: dict[str, Entry] = draft.get(tracking.keyword, {})
    return found


def resolved(context: Context, tracking: Tracking, entry: Entry) -> Tracked:
    """An entry with its weight filled in."""
    weight, reverse = own_weight(context, tracking, entry.name)
    if entry.weight is not None:
        weight = entry.weight
        reverse = bool(entry.reverse)
    return Tracked(name=entry.name, weight=weight, reverse=reverse)


def tracks(context: Context, chosen: dict[str, list[Entry]]) -> Tracks:
    """The `Tracks` of chosen entries, by keyword."""
    return Tracks(
        **{
            tracking.field: tuple(resolved(context, tracking, entry) for entry in chosen.get(tracking.keyword, ()))
            for tracking in TRACKINGS
        }
    )
