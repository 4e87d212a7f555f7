"""Makes `play`, `world` and `netns` importable from every test, and gives `--seed` to the simulations."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--seed N` repeats a failed simulation."""
    parser.addoption("--seed", type=int, default=None, help="seed of a simulation that failed")
