"""Tests that need a kernel with IPVS run inside the guest only (guest.py boots it once for the whole set)."""

from __future__ import annotations

import os

import pytest

IN_GUEST = os.environ.get("HOLDFAST_GUEST") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Outside of the guest the marked tests are not selected at all: they can neither pass nor be skipped."""
    if IN_GUEST:
        return
    there = [item for item in items if item.get_closest_marker("uml") is not None]
    if there:
        config.hook.pytest_deselected(items=there)
        items[:] = [item for item in items if item.get_closest_marker("uml") is None]
