"""Tests that need a kernel with IPVS run inside the guest only (guest.py boots it once for the whole set).

Several guests side by side have a share of the set each: whole files, and of the twin runs every second one, say.
"""

from __future__ import annotations

import os

import pytest

IN_GUEST = os.environ.get("HOLDFAST_GUEST") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Outside of the guest the marked tests are not selected at all: they can neither pass nor be skipped."""
    if IN_GUEST:
        _take_share(config, items)
        return
    there = [item for item in items if item.get_closest_marker("uml") is not None]
    if there:
        config.hook.pytest_deselected(items=there)
        items[:] = [item for item in items if item.get_closest_marker("uml") is None]


def _take_share(config: pytest.Config, items: list[pytest.Item]) -> None:
    """HOLDFAST_GUEST_SHARE: `2/3` is the second of three shares."""
    number, _, count = os.environ.get("HOLDFAST_GUEST_SHARE", "1/1").partition("/")
    units = sorted({_unit(item) for item in items})
    mine = {unit for place, unit in enumerate(units) if place % int(count) == int(number) - 1}
    others = [item for item in items if _unit(item) not in mine]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if _unit(item) in mine]


def _unit(item: pytest.Item) -> str:
    """What runs in one guest: a file, or one scenario of the twin runs."""
    name = item.path.name
    return item.name if name == "test_twin.py" else name
