"""Every check: its last result, how long it took, and why."""

from __future__ import annotations

import msgspec

from holdfast.actors.checkers.messages import CheckResult
from holdfast.bus.client import Client
from holdfast.cli.views.report import Report


def collect(client: Client, report: Report) -> None:
    """Fills `report.checks`; nothing when there is none."""
    results = [each.event for each in client.snapshot("check/").events if not each.stale]
    checks = [msgspec.to_builtins(event) for event in results if isinstance(event, CheckResult)]
    if checks:
        report.checks = sorted(checks, key=lambda each: str(each["check"]))
