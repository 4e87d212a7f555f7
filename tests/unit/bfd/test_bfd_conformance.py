"""Every test that docs/conformance-bfd.md names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_table_tells_the_truth() -> None:
    places = [*(ROOT / "tests/unit").glob("*/test_*.py"), *(ROOT / "tests/kernel").glob("*.py")]
    places += (ROOT / "tests/interop").glob("test_bfd_*.py")
    names = set(re.findall(r"def (test_\w+)", "\n".join(place.read_text() for place in places)))
    wanted = set(re.findall(r"`(test_\w+\*?)`", (ROOT / "docs/conformance-bfd.md").read_text()))
    assert len(wanted) > 60
    missing = {
        each
        for each in wanted
        if not (any(name.startswith(each[:-1]) for name in names) if each.endswith("*") else each in names)
    }
    assert not missing
