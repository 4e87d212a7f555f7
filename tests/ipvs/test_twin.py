"""Twin runs: the same file and the same faults under both daemons; table, FIFO lines and scripts are equal."""

from __future__ import annotations

import pytest
from twin import play, read_scenario, scenarios

pytestmark = [pytest.mark.uml, pytest.mark.timeout(180)]


@pytest.mark.parametrize("path", scenarios(), ids=lambda path: path.stem)
def test_twins_agree(path) -> None:
    assert play(read_scenario(path)) == []
