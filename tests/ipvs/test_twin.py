"""Twin runs: the same file and the same faults under both daemons; table, FIFO lines and scripts are equal.

The scenarios mostly wait, so several are played at a time, all that were selected, when the first one is asked for.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from twin import ZYGOTE, play, read_scenario, scenarios

pytestmark = [pytest.mark.uml, pytest.mark.timeout(1200)]

AT_A_TIME = 3


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest):
    """What each selected scenario found, as futures by name."""
    paths: list[Path] = [
        item.callspec.params["path"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    ]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {path.stem: pool.submit(play, read_scenario(path)) for path in paths}
    ZYGOTE.close()


@pytest.mark.parametrize("path", scenarios(), ids=lambda path: path.stem)
def test_twins_agree(path: Path, results: dict[str, Future[list[str]]]) -> None:
    # One that is run again, because it failed, is played again.
    first = results.pop(path.stem, None)
    found = play(read_scenario(path)) if first is None else first.result()
    assert not found, "\n".join(found)
