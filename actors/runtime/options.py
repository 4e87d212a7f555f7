"""How a daemon is run: what the command line tells the supervisor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from holdfast.actors.runtime import handover
from holdfast.actors.runtime.cell import Start
from holdfast.actors.runtime.loading import Loader


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a daemon is run. starters: room -> start function, for tests; rooms without one are imported.

    own_run_dir: False: nobody chose run_dir, so the `instance` and `net_namespace` keywords add to it.
    command: how to start it again for `holdfast restart`; None: it cannot be.
    likely_rooms: a guess at the rooms that the configuration asks for; they are imported while it is read.
    pid_file: None writes none. data_file, statistics_file: where USR1 and USR2 put their dumps.
    """

    run_dir: Path
    load: Loader
    own_run_dir: bool = True
    pid_file: Path | None = None
    data_file: Path = Path("/tmp/keepalived.data")
    statistics_file: Path = Path("/tmp/keepalived.stats")
    starters: Mapping[str, Start] = msgspec.field(default_factory=dict)
    command: handover.Command | None = None
    ignore_sigint: bool = False
    likely_rooms: Callable[[], frozenset[str]] | None = None
