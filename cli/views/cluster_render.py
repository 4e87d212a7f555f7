"""The cluster on a screen."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from holdfast.cli.views.words import coloured, plain_table


def show(console: Console, cluster: dict[str, Any]) -> None:
    """Nodes, then addresses with each node's state."""
    nodes, addresses = cluster["nodes"], cluster["addresses"]
    if len(nodes) > 1:
        table = plain_table("NODE", "STATE", "ROUND TRIP", "CLOCK", "HEARS US", "WHY")
        for each in nodes:
            offset = each.get("clock_offset_s")
            clock = "" if offset is None else f"{offset * 1000:+.1f} ms ±{each['clock_error_s'] * 1000:.1f}"
            trip = each.get("round_trip_s")
            table.add_row(
                each["name"],
                coloured(each["state"]),
                "" if trip is None else f"{trip * 1000:.1f} ms",
                clock,
                {True: "yes", False: "no"}.get(each.get("hears_us"), ""),
                each.get("why") or "",
            )
        console.print()
        console.print(table)
    for line in cluster["others_say"]:
        console.print(f"  {line}")
    if not addresses:
        return
    names = sorted({holder["node"] for each in addresses for holder in each["holders"]})
    table = plain_table("ADDRESS", "OWNER", *names)
    for each in addresses:
        states = {holder["node"]: _state(holder) for holder in each["holders"]}
        owner = ", ".join(each["owners"]) or (each["outside"] and f"{each['outside']} (not on the bus)") or "-"
        table.add_row(each["address"], owner, *(states.get(name, "-") for name in names))
    console.print()
    console.print(table)
    for each in addresses:
        if each["alarm"]:
            console.print(f"  [dim]{each['address']}[/dim]: {coloured(each['state'])} because {each['why']}")
            for line in each["differences"]:
                console.print(f"    {line}")


def _state(holder: dict[str, Any]) -> str:
    text = f"{coloured(holder['state'])} {holder['priority']}"
    return text if holder["reachable"] else f"({text}?)"
