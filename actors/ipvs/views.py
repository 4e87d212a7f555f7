"""Virtual servers as people see them: for `holdfast status lvs`, and the text of a dump. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from holdfast.actors.ipvs.messages import Counters, ServerView, ServiceView
from holdfast.actors.ipvs.plan import in_service
from holdfast.actors.ipvs.service import ServiceMachine
from holdfast.kernel.ipvs_types import DestinationRecord, DestinationSpec, ServiceKey, ServiceRecord, Statistics

Found = dict[ServiceKey, tuple[ServiceRecord, list[DestinationRecord]]]
"""What the kernel has, by service."""


def counters(statistics: Iterable[Statistics]) -> Counters:
    """The sum of some counters, as a message."""
    total = [0] * 10
    for each in statistics:
        for place, value in enumerate(msgspec.structs.astuple(each)):
            total[place] += value
    return Counters(**dict(zip(Counters.__struct_fields__, total, strict=True)))


def service_view(machine: ServiceMachine, found: Found) -> ServiceView:
    """One virtual server with the kernel's numbers, summed over the services of a group."""
    config = machine.config
    by_key: dict[tuple[ServiceKey, tuple[str, int]], DestinationRecord] = {
        (key, record.spec.key): record for key, (_, records) in found.items() for record in records
    }

    def records_of(address: str, port: int, method: str) -> list[DestinationRecord]:
        wanted = DestinationSpec(address, port, 0 if method == "NAT" else 3)
        return [by_key[place] for key in found if (place := (key, in_service(wanted, key).key)) in by_key]

    servers = []
    for server in machine.servers.values():
        records = records_of(server.config.address, server.config.port, server.config.forwarding.method)
        servers.append(
            ServerView(
                name=server.name,
                address=server.config.address,
                port=server.config.port,
                method=server.config.forwarding.method,
                up=server.alive,
                in_pool=bool(records) if found else server.in_pool,
                weight=records[0].spec.weight if records else server.kernel_weight,
                effective_weight=server.weight,
                draining=server.drain is not None,
                inhibited=server.config.inhibit_on_failure and server.in_pool and not server.counts,
                active_connections=sum(record.active for record in records),
                inactive_connections=sum(record.inactive for record in records),
                persistent_connections=sum(record.persistent for record in records),
                counters=counters(record.statistics for record in records),
                checks=tuple(check.view() for check in server.checks.values()),
            )
        )
    sorry = config.sorry_server
    if sorry is not None and not any(view.name == sorry.name for view in servers):
        records = records_of(sorry.address, sorry.port, sorry.forwarding.method)
        servers.append(
            ServerView(
                name=sorry.name,
                address=sorry.address,
                port=sorry.port,
                method=sorry.forwarding.method,
                up=True,
                in_pool=machine.sorry_active or sorry.inhibit,
                weight=records[0].spec.weight if records else int(machine.sorry_active),
                effective_weight=1,
                sorry=True,
                active_connections=sum(record.active for record in records),
                inactive_connections=sum(record.inactive for record in records),
                persistent_connections=sum(record.persistent for record in records),
                counters=counters(record.statistics for record in records),
            )
        )
    return ServiceView(
        name=config.name,
        scheduler=config.scheduler,
        method=config.forwarding.method,
        protocol=config.protocol,
        up=machine.quorum_up,
        quorum=config.quorum,
        hysteresis=config.hysteresis,
        weight_sum=machine.weight_sum,
        persistence_timeout_s=config.persistence_timeout_s,
        sorry_active=machine.sorry_active,
        panic=machine.panic,
        counters=counters(record.statistics for record, _ in found.values()),
        servers=tuple(servers),
    )


def dump_text(machine: ServiceMachine) -> str:
    """What SIGUSR1 writes about one virtual server."""
    config = machine.config
    if config.kind == "group":
        head = f" VS GROUP = [{config.group}]:{config.group_number}"
    elif config.kind == "fwmark":
        head = f" VS FWMARK = {config.fwmark}"
    else:
        head = f" VS VIP = {config.address}, VPORT = {config.port}"
    lines = [
        head,
        f"   lvs_sched = {config.scheduler}",
        f"   protocol = {config.protocol.upper()}",
        f"   alpha is {'ON' if config.alpha else 'OFF'}",
        f"   omega is {'ON' if config.omega else 'OFF'}",
        f"   quorum = {config.quorum}, hysteresis = {config.hysteresis}",
        f"   quorum_state_up = {machine.quorum_up}, weight sum = {machine.weight_sum}",
    ]
    if config.persistence_timeout_s is not None:
        lines.append(f"   persistence timeout = {config.persistence_timeout_s}")
    if config.sorry_server is not None:
        state = "serves" if machine.sorry_active else "rests"
        lines.append(f"   sorry server = {config.sorry_server.name}, {state}")
    for server in machine.servers.values():
        real = server.config
        lines.append(
            f"   RIP = {real.address}, RPORT = {real.port}, WEIGHT = {real.weight} EFF WEIGHT = {server.weight}"
        )
        lines.append(f"     forwarding method = {real.forwarding.method}")
        lines.append(f"     connection limit range = {real.lower_threshold} -> {real.upper_threshold}")
        lines.append(f"     alive = {int(server.alive)}, RS set = {int(server.in_pool)}")
        lines.append(f"     num failed checkers = {server.failed}")
        for check in server.checks.values():
            run = "has run" if check.has_run else "has not run"
            lines.append(f"     Keepalive method = {check.ref.kind}, {'up' if check.up else 'down'}, {run}")
    return "\n".join(lines) + "\n"
