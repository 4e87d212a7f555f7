"""The cluster as this node sees it: the other nodes, the owners of each virtual address, alarms."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from holdfast.actors.gateway.messages import AddressOwners, PeerState, PeerStatus
from holdfast.bus.client import Client
from holdfast.bus.envelope import Envelope
from holdfast.cli.explain import phrase
from holdfast.cli.views.report import Report


def collect(client: Client, report: Report) -> None:
    """Fills `report.cluster`; each alarm and each node that is away is a trouble."""
    if "gateway" not in report.rooms:
        report.troubles.append("no gateway runs here: this node knows of no other ([gateway] in holdfast.toml)")
        report.cluster = {"nodes": [], "addresses": [], "others_say": []}
        return
    own = report.node
    nodes: list[dict[str, Any]] = [{"name": own, "state": "this node"}]
    addresses: list[dict[str, Any]] = []
    others_say: list[str] = []
    for envelope in sorted(client.snapshot("", node="*").events, key=lambda each: each.topic):
        match envelope.event:
            case PeerState() as peer if envelope.id.node == own:
                nodes.append(_node(peer, envelope))
                if peer.state is not PeerStatus.REACHABLE:
                    report.troubles.append(f"node {peer.peer} is {peer.state}")
            case PeerState() as peer if peer.state is PeerStatus.UNREACHABLE and peer.peer != own:
                others_say.append(f"{envelope.id.node} cannot reach {peer.peer}")
            case AddressOwners() as owners if envelope.id.node == own:
                addresses.append(_address(owners, envelope))
                if owners.alarm:
                    report.troubles.append(f"{owners.address}: {owners.state}: {'; '.join(owners.differences)}")
    report.cluster = {"nodes": nodes, "addresses": addresses, "others_say": others_say}


def _since(envelope: Envelope) -> dict[str, Any]:
    since = datetime.fromtimestamp(envelope.wall_ns / 1e9).astimezone().isoformat(timespec="milliseconds")
    return {"told": since, "told_s_ago": round(time.time() - envelope.wall_ns / 1e9, 3)}


def _node(peer: PeerState, envelope: Envelope) -> dict[str, Any]:
    return {
        "name": peer.peer,
        "state": str(peer.state),
        "hears_us": peer.hears_us,
        "role": peer.role,
        "endpoint": peer.endpoint,
        "round_trip_s": peer.round_trip_s,
        "clock_offset_s": peer.clock_offset_s,
        "clock_error_s": peer.clock_error_s,
        "missed": peer.missed,
        "why": None if peer.reason is None else phrase(peer.reason, envelope.wall_ns),
        **_since(envelope),
    }


def _address(owners: AddressOwners, envelope: Envelope) -> dict[str, Any]:
    return {
        "address": owners.address,
        "state": str(owners.state),
        "alarm": owners.alarm,
        "owners": [each.node for each in owners.holders if each.state == "MASTER" and each.reachable],
        "holders": [
            {
                "node": each.node,
                "instance": each.instance,
                "state": each.state,
                "priority": each.priority,
                "vrid": each.vrid,
                "interface": each.interface,
                "reachable": each.reachable,
                "hears": list(each.hears),
            }
            for each in owners.holders
        ],
        "differences": list(owners.differences),
        "outside": owners.outside or None,
        "why": None if owners.reason is None else phrase(owners.reason, envelope.wall_ns),
        **_since(envelope),
    }
