"""Connection sync: each peer, how far it is behind, and whether both tables are the same."""

from __future__ import annotations

import msgspec

from holdfast.actors.connsync.messages import SUBJECT, ConnSyncDescription, DescribeConnSync
from holdfast.bus.base import BusError
from holdfast.bus.client import Client
from holdfast.cli.views.report import Report


def collect(client: Client, report: Report) -> None:
    """Fills `report.connsync`; nothing when no cell has the room."""
    if "connsync" not in report.rooms:
        return
    try:
        answer = client.request(SUBJECT, DescribeConnSync())
    except BusError as error:
        report.troubles.append(f"connection sync does not answer: {error}")
        return
    if not isinstance(answer, ConnSyncDescription):
        report.troubles.append(f"connection sync answers: {answer}")
        return
    state = answer.state
    report.connsync = msgspec.to_builtins(state)
    for entry, peer in zip(report.connsync["peers"], state.peers, strict=True):
        entry["equal"] = peer.equal
        if peer.late:
            report.troubles.append(f"{peer.node} is {peer.lag_s:.1f} s behind with our connections")
        if peer.error:
            report.troubles.append(f"{peer.node} does not take our connections: {peer.error}")
    if state.error:
        report.troubles.append(f"connection sync does not work: {state.error}")
