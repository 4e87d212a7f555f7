"""Twin runs: every scenario in `twins/` under keepalived and under holdfast at the same time, traces compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from twin import Stillness, differences, load, run_twins

SCENARIOS = sorted((Path(__file__).parent / "twins").glob("*.toml"))

ATTEMPTS = 3
STILL_S = 0.1
"""A machine that keeps a thread waiting for so long cannot tell two programs apart: the run is done again."""

pytestmark = [pytest.mark.netns, pytest.mark.peer]


def test_there_are_enough_scenarios() -> None:
    assert len(SCENARIOS) >= 25


def test_each_difference_has_a_reason() -> None:
    for path in SCENARIOS:
        wanted = load(path).get("difference")
        assert wanted is None or wanted.get("reason"), path.name


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_twins(path: Path, short_folder: Path) -> None:
    for attempt in range(ATTEMPTS):
        stillness = Stillness()
        try:
            theirs, ours = run_twins(path, short_folder / str(attempt))
        finally:
            stood_still_s = stillness.end()
        found = differences(load(path), theirs, ours)
        if not found or stood_still_s < STILL_S:
            break  # alike, or different on a machine that kept its time
    assert not found, "\n".join(
        [load(path)["title"], *found, "keepalived:", theirs.show(), "holdfast:", ours.show(), ours.log[-2500:]]
    )
