"""Makes `play`, `world` and `netns` importable from every test, and gives `--seed` to the simulations."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--seed N` repeats a failed simulation."""
    parser.addoption("--seed", type=int, default=None, help="seed of a simulation that failed")


_CLUSTERS = ("test_gateway_", "test_fleet", "test_workers", "test_demo")
"""Each of these runs several daemons: one after another, beside what the other workers do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a cluster or a package run in one worker (`--dist loadgroup`): else each would build its own."""
    for item in items:
        if item.path.name.startswith(_CLUSTERS):
            item.add_marker(pytest.mark.xdist_group("clusters"))
        elif item.path.parent.name in {"kernel", "deploy"} or item.path.name == "test_config_verdicts.py":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
