"""The report on a screen."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from holdfast.cli.views import cluster_render
from holdfast.cli.views.report import Report
from holdfast.cli.views.words import coloured, duration, plain_table


def show(report: Report, *, wide: bool, only: str | None) -> None:
    """Prints everything that was collected."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{report.node}[/bold]  ({report.run_dir})")
    if report.cluster is not None:
        cluster_render.show(console, report.cluster)
    if report.vrrp is not None:
        _vrrp(console, report, wide=wide)
    if report.bfd:
        _bfd(console, report.bfd, wide=wide or only == "bfd")
    if report.services:
        _services(console, report.services)
    if report.checks and (wide or only == "checks"):
        _checks(console, report.checks)
    if report.connsync is not None:
        _connsync(console, report.connsync)
    if report.cells is not None:
        _cells(console, report)
    if report.troubles:
        console.print()
        for line in report.troubles:
            console.print(f"[red]![/red] {line}")


def _vrrp(console: Console, report: Report, *, wide: bool) -> None:
    assert report.vrrp is not None
    if not report.vrrp:
        return
    table = plain_table("INSTANCE", "STATE", "FOR", "PRIORITY", "MASTER", "ADDRESSES")
    for each in report.vrrp:
        state = coloured(each["state"]) + (" (maintenance)" if each["released"] else "")
        priority = str(each["effective"]) + (f" ({each['base']})" if each["base"] != each["effective"] else "")
        master = "this node" if each["state"] == "MASTER" else (each["master"] or "-")
        addresses = " ".join(each["addresses"]) + f" on {each['interface']}"
        table.add_row(each["name"], state, duration(each.get("for_s", 0.0)), priority, master, addresses)
    console.print()
    console.print(table)
    for each in report.vrrp:
        if each.get("why"):
            console.print(f"  [dim]{each['name']}[/dim]: {each['state']} because {each['why']}")
        if each["waiting"]:
            console.print(f"  [dim]{each['name']}[/dim]: waits for {', '.join(each['waiting'])}")
        for item in each["tracked"]:
            if wide or item["fault"]:
                weight = "FAULT" if item["fault"] else f"{item['value']:+d}"
                console.print(f"  [dim]{each['name']}[/dim]: tracks {item['subject']}: {weight}")
        if wide:
            counts = ", ".join(f"{key} {value}" for key, value in each["statistics"].items() if value)
            lease = f"lease {each['lease_s']} s" if each["lease_s"] else "no lease"
            console.print(
                f"  [dim]{each['name']}[/dim]: VRID {each['vrid']}, version {each['version']}, {lease}; {counts}"
            )
    for group in report.groups or []:
        console.print(f"  group {group['name']}: {coloured(group['state'])} ({', '.join(group['members'])})")
    if wide and report.delays:
        console.print(f"  deadlines late: {', '.join(f'{key} {value}' for key, value in report.delays.items())}")


def _bfd(console: Console, sessions: list[dict[str, Any]], *, wide: bool) -> None:
    more = ("GAP", "OUT/IN") if wide else ()
    table = plain_table("SESSION", "STATE", "NEIGHBOR", "TX/RX", "DETECTION", *more, "FOR", "WHY")
    for each in sessions:
        extra = (f"{each['longest_gap_s'] * 1000:.1f} ms", f"{each['packets_out']}/{each['packets_in']}")
        table.add_row(
            each["name"],
            coloured(each["state"]),
            each["neighbor"],
            f"{each['transmit_us'] / 1000:g}/{each['receive_us'] / 1000:g} ms",
            f"{each['detection_us'] / 1000:g} ms",
            *(extra if wide else ()),
            duration(each["since_s"]),
            each["why"],
        )
    console.print()
    console.print(table)


def _services(console: Console, services: list[dict[str, Any]]) -> None:
    table = plain_table("SERVICE / SERVER", "STATE", "WEIGHT", "ACTIVE", "INACTIVE", "CONN/S", "CHECKS")
    for service in services:
        state = "[green]up[/green]" if service["up"] else "[red]no quorum[/red]"
        rate = str(service["counters"]["connections_per_s"])
        table.add_row(
            escape(f"{service['name']} {service['scheduler']}"), state, str(service["weight_sum"]), "", "", rate, ""
        )
        for server in service["servers"]:
            up = "[green]up[/green]" if server["up"] else "[red]down[/red]"
            if server["draining"]:
                up = "[yellow]draining[/yellow]"
            if server["sorry"]:
                up += " (sorry)"
            checks = "; ".join(
                f"{check['kind']} {check['text']} ({check['latency_us'] / 1000:.1f} ms)" for check in server["checks"]
            )
            table.add_row(
                escape(f"  {server['name']} {server['method']}"),
                up,
                str(server["effective_weight"]),
                str(server["active_connections"]),
                str(server["inactive_connections"]),
                str(server["counters"]["connections_per_s"]),
                escape(checks),
            )
    console.print()
    console.print(table)


def _checks(console: Console, checks: list[dict[str, Any]]) -> None:
    table = plain_table("CHECK", "RESULT", "LATENCY", "SERVERS", "REASON")
    for each in checks:
        result = {True: "[green]up[/green]", False: "[red]down[/red]", None: "-"}[each["up"]]
        servers = ", ".join(sorted({target["real_server"] for target in each["targets"]}))
        latency = f"{each['latency_us'] / 1000:.1f} ms"
        table.add_row(escape(each["check"]), result, latency, escape(servers), escape(each["text"]))
    console.print()
    console.print(table)


def _connsync(console: Console, state: dict[str, Any]) -> None:
    table = plain_table("CONNECTIONS TO", "PHASE", "LAG", "WAIT", "LACKS/BEYOND", "SENT", "TAKEN", "TROUBLE")
    for each in state["peers"]:
        differs = "-" if each["lacking"] < 0 else f"{each['lacking']}/{each['extra']}"
        lag = f"{each['lag_s'] * 1000:.0f} ms"
        table.add_row(
            escape(each["node"]),
            "[green]following[/green]" if each["phase"] == "following" else f"[yellow]{each['phase']}[/yellow]",
            f"[red]{lag}[/red]" if each["late"] else lag,
            str(each["waiting"]),
            differs,
            f"{each['sent']} ({each['sent_bytes']} bytes)",
            str(each["taken"]),
            escape(each["error"]),
        )
    console.print()
    console.print(table)


def _cells(console: Console, report: Report) -> None:
    assert report.cells is not None
    table = plain_table("CELL", "STATUS", "PID", "RESTARTS", "ROOMS", "BUS")
    for each in report.cells:
        bus = each.get("bus", {})
        counts = f"{bus.get('published', 0)} sent, {bus.get('dropped', 0)} dropped, {bus.get('missed', 0)} missed"
        status = each["status"] if each["answers"] else "dead"
        rooms = ", ".join(each.get("rooms", [])) or "-"
        table.add_row(
            each["name"], coloured(status), str(each.get("pid", "-")), str(each.get("restarts", 0)), rooms, counts
        )
    console.print()
    console.print(table)
    if report.config is not None:
        state = "in force" if report.config["ok"] else "[red]the last reload was refused[/red]"
        console.print(f"configuration: generation {report.config['number']} of {report.config['source']}, {state}")
        if not report.config["ok"]:
            for line in report.config["messages"]:
                console.print(f"  {line}", markup=False)
