"""The BFD room's keywords (keepalived.conf(5): bfd_instance)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from holdfast.actors.bfd.config import BfdInstance, BfdRoom
from holdfast.config.context import Context, Words
from holdfast.config.kinds import Block, Bool, Custom, Flag, Integer, Time, address
from holdfast.config.table import Draft, Keyword, Room

LONGEST_NAME = 31
_MOST_MS = 4294967


def _open(words: Words, parent: Draft) -> Draft | None:
    if len(words) < 2:
        words.error("'bfd_instance' must have a name: block skipped", "bfd_instance NAME {")
        return None
    name = words.items[1]
    sessions = words.context.named("bfd_instance")
    if len(name.encode()) > LONGEST_NAME:
        hint = f"at most {LONGEST_NAME} characters"
        words.error(f"name '{name}' is too long: block skipped", hint, index=1)
        return None
    if name in sessions:
        words.error(f"bfd_instance '{name}' is already defined: block skipped", "another name", index=1)
        return None
    sessions[name] = Draft(words.line, name, parent)
    return sessions[name]


def _neighbor(words: Words, draft: Draft) -> None:
    ip = address(words.word())
    if ip is None:
        words.error(f"'{words.items[1]}' is no neighbour address: instance dropped", "an IP address", index=1)
        draft.values["dropped"] = True
        return
    draft.put("neighbor", str(ip), words.line)


def _source(words: Words, draft: Draft) -> None:
    ip = address(words.word())
    if ip is None:
        words.error(f"'{words.items[1]}' is no source address: ignored", "an IP address", index=1)
        return
    draft.put("source", str(ip), words.line)


def _weight(words: Words, draft: Draft) -> None:
    number = Integer(-253, 253).read(words)
    reverse = len(words) > 2 and words.items[2] == "reverse"
    if len(words) > 2 and not reverse:
        words.error(f"unknown word '{words.items[2]}' behind the weight: ignored", "reverse", index=2)
    if number is not None:
        draft.put("weight", (number, reverse), words.line)


def _close(draft: Draft, context: Context) -> None:
    sessions = context.named("bfd_instance")
    neighbor = draft.get("neighbor")
    source = draft.get("source")
    complaint = ""
    if draft.get("dropped"):
        del sessions[draft.name]
        return
    if neighbor is None:
        complaint = "has no neighbour"
    elif source is not None and (":" in source) != (":" in neighbor):
        complaint = f"has a source {source} of another family than its neighbour"
    else:
        for other in sessions.values():
            if other is draft or other.get("neighbor") != neighbor:
                continue
            if bool(other.get("multihop")) != bool(draft.get("multihop")):
                continue
            if source is None or other.get("source") in (None, source):
                complaint = f"has the neighbour of '{other.name}'"
    if complaint:
        context.error(draft.line, f"bfd_instance '{draft.name}' {complaint}: dropped", "neighbor_ip ADDRESS")
        del sessions[draft.name]
        return
    ttl = draft.get("ttl", 64 if ":" in neighbor else 255)
    hops = draft.get("max_hops", 0)
    if hops not in (-1, 255) and hops > ttl:
        context.error(draft.line_of("max_hops"), f"max_hops {hops} is above the TTL: {ttl} taken", f"0..{ttl}", 1)
        draft.values["max_hops"] = ttl


BFD_INSTANCE = (
    Keyword("neighbor_ip", Custom(_neighbor, "ADDRESS"), "the other end"),
    Keyword("neighbour_ip", Custom(_neighbor, "ADDRESS"), "the other end"),
    Keyword("source_ip", Custom(_source, "ADDRESS"), "our end"),
    Keyword(
        "min_rx", Time(1, _MOST_MS, unit="ms", scale=1000, places=3), "shortest interval we take", field="min_rx_us"
    ),
    Keyword("min_tx", Time(1, _MOST_MS, unit="ms", scale=1000, places=3), "interval we send at", field="min_tx_us"),
    Keyword(
        "idle_tx",
        Time(1000, _MOST_MS, unit="ms", scale=1000, places=3),
        "interval while not Up",
        field="idle_tx_us",
    ),
    Keyword("multiplier", Integer(1, 255), "missed packets before it is down"),
    Keyword("passive", Flag(), "waits for the other end"),
    Keyword("ttl", Integer(1, 255), "TTL of our packets"),
    Keyword("hoplimit", Integer(1, 255), "hop limit of our packets", field="ttl"),
    Keyword("max_hops", Integer(-1, 255), "hops that a packet may have made; -1: not checked"),
    Keyword("multihop", Bool(), "the other end is behind routers (RFC 5883)", newer=True),
    Keyword("weight", Custom(_weight, "-253..253 [reverse]"), "default weight of track_bfd"),
    Keyword("vrrp", Flag(), "only for VRRP"),
    Keyword("checker", Flag(), "only for checkers"),
)

ROOT = (Keyword("bfd_instance", Block(BFD_INSTANCE, _open, _close, "NAME"), "a BFD session"),)


def _instance(draft: Draft) -> BfdInstance:
    fields = {
        name: draft.get(name)
        for name in ("min_rx_us", "min_tx_us", "idle_tx_us", "multiplier", "passive", "multihop")
        if draft.has(name)
    }
    neighbor = draft.get("neighbor")
    hops = draft.get("max_hops", 0)
    weight, reverse = draft.get("weight", (0, False))
    everybody = bool(draft.get("vrrp")) == bool(draft.get("checker"))
    return BfdInstance(
        name=draft.name,
        neighbor=neighbor,
        source=draft.get("source"),
        ttl=draft.get("ttl", 64 if ":" in neighbor else 255),
        max_hops=None if hops in (-1, 255) else hops,
        weight=weight,
        reverse=reverse,
        vrrp=everybody or bool(draft.get("vrrp")),
        checker=everybody or bool(draft.get("checker")),
        **fields,
    )


def finish(context: Context) -> Mapping[str, msgspec.Struct]:
    """The slices of the BFD room."""
    return {"room": BfdRoom(instances=tuple(_instance(draft) for draft in context.named("bfd_instance").values()))}


BFD = Room("bfd", root=ROOT, finish=finish)
