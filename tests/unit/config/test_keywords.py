"""The keyword tables: complete, and the documentation comes from them."""

from __future__ import annotations

from pathlib import Path

from holdfast.actors.registry import TABLES, compatibility_page
from holdfast.config.loader import keyword_rows

ROOT = Path(__file__).resolve().parents[3]


def test_every_keyword_of_keepalived_is_known() -> None:
    """keywords.txt has path, keyword, and `newer` when Debian's 2.2.7 does not know it."""
    listed = Path(__file__).with_name("keywords.txt").read_text().splitlines()
    rows = keyword_rows(TABLES)
    assert [f"{row.path} {row.keyword}{' newer' if row.newer else ''}" for row in rows] == listed
    assert len(listed) == 531


def test_every_keyword_says_what_it_is_for() -> None:
    for row in keyword_rows(TABLES):
        assert row.doc, row
        assert row.room in ("process", "vrrp", "watch", "notify", "bfd", "ipvs", "checkers"), row


def test_the_compatibility_page_is_that_of_the_tables() -> None:
    """`make docs` renews it."""
    assert (ROOT / "docs" / "compatibility.md").read_text() == compatibility_page()
