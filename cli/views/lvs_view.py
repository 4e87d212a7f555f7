"""The virtual servers with the kernel's own counters, and what each check says."""

from __future__ import annotations

import msgspec

from holdfast.actors.ipvs.messages import GetServices, Services
from holdfast.bus.base import BusError
from holdfast.bus.client import Client
from holdfast.cli.views.report import Report


def collect(client: Client, report: Report) -> None:
    """Fills `report.services`; nothing when no cell has the room."""
    if "ipvs" not in report.rooms:
        return
    try:
        answer = client.request("director", GetServices())
    except BusError as error:
        report.troubles.append(f"the director does not answer: {error}")
        return
    if not isinstance(answer, Services):
        report.troubles.append(f"the director answers: {answer}")
        return
    report.services = []
    for service in answer.services:
        report.services.append(msgspec.to_builtins(service))
        if not service.up:
            report.troubles.append(f"virtual server {service.name} has lost its quorum")
