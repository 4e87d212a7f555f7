"""Twin runs: every scenario in `twins/` under keepalived and under holdfast at the same time, traces compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from twin import differences, load, run_twins

SCENARIOS = sorted((Path(__file__).parent / "twins").glob("*.toml"))

pytestmark = [pytest.mark.netns, pytest.mark.peer]


def test_there_are_enough_scenarios() -> None:
    assert len(SCENARIOS) >= 25


def test_each_difference_has_a_reason() -> None:
    for path in SCENARIOS:
        wanted = load(path).get("difference")
        assert wanted is None or wanted.get("reason"), path.name


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_twins(path: Path, short_folder: Path) -> None:
    theirs, ours = run_twins(path, short_folder)
    found = differences(load(path), theirs, ours)
    assert not found, "\n".join(
        [load(path)["title"], *found, "keepalived:", theirs.show(), "holdfast:", ours.show(), ours.log[-2500:]]
    )
