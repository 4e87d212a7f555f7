"""The BFD sessions as they are now."""

from __future__ import annotations

import msgspec

from holdfast.actors.bfd.messages import BfdSessions, BfdShow, BfdState
from holdfast.bus.base import BusError
from holdfast.bus.client import Client
from holdfast.cli.explain import phrase
from holdfast.cli.views.report import Report


def collect(client: Client, report: Report) -> None:
    """Fills `report.bfd`; nothing when no cell has the room."""
    if "bfd" not in report.rooms:
        return
    try:
        answer = client.request("bfd", BfdShow())
    except BusError as error:
        report.troubles.append(f"the BFD room does not answer: {error}")
        return
    if not isinstance(answer, BfdSessions):
        report.troubles.append(f"the BFD room answers: {answer}")
        return
    report.bfd = []
    for session in sorted(answer.sessions, key=lambda each: each.session):
        entry = msgspec.to_builtins(session)
        entry["name"] = session.session
        entry["why"] = phrase(session.reason) if session.reason is not None else ""
        report.bfd.append(entry)
        if session.state is BfdState.DOWN:
            report.troubles.append(f"BFD session {session.session} is Down")
