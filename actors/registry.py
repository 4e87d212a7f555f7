"""The one place that knows the keyword tables of all rooms, in the order in which they are finished.

Whatever tells of other rooms comes after them.
"""

from __future__ import annotations

import sys

from holdfast.actors.bfd.keywords import BFD
from holdfast.actors.checkers.build import CheckPlanner
from holdfast.actors.checkers.keywords import CHECKERS, CHECKS
from holdfast.actors.ipvs.keywords import ipvs_room
from holdfast.actors.notify.keywords import NOTIFY
from holdfast.actors.vrrp.keywords import VRRP
from holdfast.actors.watch.keywords import WATCH
from holdfast.config.compatibility import render
from holdfast.config.loader import keyword_rows
from holdfast.config.table import Tables

TABLES: Tables = (VRRP, WATCH, BFD, ipvs_room(CHECKS, CheckPlanner()), CHECKERS, NOTIFY)


def compatibility_page() -> str:
    """The text of docs/compatibility.md."""
    return render(keyword_rows(TABLES))


if __name__ == "__main__":
    sys.stdout.write(compatibility_page())
