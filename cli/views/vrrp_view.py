"""The virtual routers: who owns each address, since when, why, what is tracked, whether the kernel agrees."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import msgspec

from holdfast.actors.vrrp.messages import (
    Describe,
    Description,
    InstanceDescription,
    VrrpGroupChanged,
    VrrpState,
    VrrpStateChanged,
)
from holdfast.bus.base import BusError
from holdfast.bus.client import Client
from holdfast.bus.envelope import Envelope
from holdfast.cli.explain import phrase
from holdfast.cli.views.report import Report


def collect(client: Client, report: Report) -> None:
    """Fills `report.vrrp`, `report.groups` and `report.delays`."""
    report.vrrp, report.groups = [], []
    states: dict[str, Envelope] = {}
    for envelope in client.snapshot("vrrp").events:
        event = envelope.event
        if isinstance(event, VrrpStateChanged):
            states[event.instance] = envelope
        elif isinstance(event, VrrpGroupChanged) and not envelope.stale:
            report.groups.append({"name": event.group, "state": str(event.state), "members": list(event.members)})
    if "vrrp" not in report.rooms:
        return
    try:
        answer = client.request("vrrp", Describe())
    except BusError as error:
        report.troubles.append(f"the VRRP room does not answer: {error}")
        return
    if not isinstance(answer, Description):
        report.troubles.append(f"the VRRP room answers: {answer}")
        return
    report.delays = _delays(answer.late_us_log2)
    for found in sorted(answer.instances, key=lambda each: each.name):
        report.vrrp.append(_entry(found, states.get(found.name)))
        _judge(found, report)


def _entry(found: InstanceDescription, told: Envelope | None) -> dict[str, Any]:
    entry: dict[str, Any] = msgspec.to_builtins(found)
    if told is not None and isinstance(told.event, VrrpStateChanged):
        since_ns = told.wall_ns - max(0, told.mono_ns - told.event.since_mono_ns)
        entry["since"] = datetime.fromtimestamp(since_ns / 1e9).astimezone().isoformat(timespec="milliseconds")
        entry["for_s"] = round(time.time() - since_ns / 1e9, 3)
        entry["reason"] = msgspec.to_builtins(told.event.reason)
        entry["why"] = phrase(told.event.reason, told.wall_ns)
    return entry


def _judge(found: InstanceDescription, report: Report) -> None:
    if found.state is VrrpState.FAULT:
        report.troubles.append(f"{found.name} is in FAULT")
    for subject in found.missing:
        report.troubles.append(f"{found.name} is MASTER and the kernel does not have {subject}")
    for subject in found.extra:
        report.troubles.append(f"{found.name} is {found.state} and the kernel still has {subject}")


def _delays(late_us_log2: tuple[int, ...]) -> dict[str, int] | None:
    """How late deadlines were: `<64us` -> how many."""
    if not late_us_log2:
        return None
    return {f"<{1 << index}us": count for index, count in enumerate(late_us_log2) if count}
