"""How the processes of a daemon are scheduled: keepalived's keywords for three processes, spread over our cells.

`vrrp_*` is for the cell with the vrrp room (and whoever shares it), `bfd_*` for the one with bfd, `checker_*` for those
with checkers or IPVS. The supervisor takes the priority of the first of these that is set: it is what puts a dead cell
back, and under a load that starves ordinary processes it must not be one of them.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Collection

import msgspec

from holdfast.config.values import ProcessOptions
from holdfast.config.values import Scheduling as Wanted
from holdfast.kernel import scheduling
from holdfast.kernel.scheduling import Scheduling

log = logging.getLogger(__name__)

_REALTIME_MOST = 99


class CellScheduling(msgspec.Struct, frozen=True, kw_only=True):
    """What one cell is told. own: its place. name: of its process, None: ours.

    auto_most: up to this real-time priority it raises itself when it was called too late; auto_delay_us: how late that
    is. namespace: of the network, only for this cell.
    """

    own: Scheduling = Scheduling()
    name: str | None = None
    auto_most: int = 0
    auto_delay_us: int = 1_000_000
    namespace: str | None = None


def of_cell(rooms: Collection[str], options: ProcessOptions) -> CellScheduling:
    """For a cell with these rooms."""
    found = _process_of(rooms, options)
    if found is None:
        return CellScheduling()
    process, wanted = found
    name = wanted.process_name
    if name is None and options.process_names:
        name = f"keepalived_{process}"
    if name is not None and options.instance is not None and wanted.process_name is None:
        name = f"{name}_{options.instance}"
    return CellScheduling(
        own=_own(wanted),
        name=name,
        auto_most=max(0, min(_REALTIME_MOST, options.max_auto_priority)),
        auto_delay_us=options.min_auto_priority_delay_us,
        namespace=options.net_namespace_ipvs if "ipvs" in rooms else None,
    )


def of_supervisor(options: ProcessOptions) -> Scheduling:
    """For the process that puts cells back."""
    for wanted in (options.protocol, options.bfd, options.checkers):
        if wanted.nice < 0 or wanted.rt_priority is not None or wanted.no_swap:
            return Scheduling(
                nice=min(0, wanted.nice), realtime_priority=wanted.rt_priority, lock_memory=wanted.no_swap
            )
    return Scheduling()


def _process_of(rooms: Collection[str], options: ProcessOptions) -> tuple[str, Wanted] | None:
    """keepalived's process whose keywords count, the most urgent one of a cell's rooms."""
    if "vrrp" in rooms:
        return "vrrp", options.protocol
    if "bfd" in rooms:
        return "bfd", options.bfd
    if "checkers" in rooms or "ipvs" in rooms:
        return "checker", options.checkers
    if "watch" in rooms:
        return "vrrp", options.protocol
    return None


def _own(wanted: Wanted) -> Scheduling:
    return Scheduling(
        nice=wanted.nice or None,
        realtime_priority=wanted.rt_priority,
        realtime_limit_us=wanted.rlimit_rttime_us if wanted.rt_priority is not None else None,
        lock_memory=wanted.no_swap,
        cpus=wanted.cpu_affinity,
    )


class ProcessPlace:
    """The scheduling of this process, as it is and as it changes. One for each process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wanted = CellScheduling()
        self.raised = 0
        """The real-time priority that it has given itself; 0: none."""

    def put(self, wanted: CellScheduling) -> None:
        """Makes this process what is wanted; what the kernel refuses is said and the rest done."""
        before, self.wanted = self.wanted, wanted
        if self.raised:
            before = CellScheduling(own=msgspec.structs.replace(before.own, realtime_priority=self.raised))
            self.raised = 0
        if before.own == wanted.own:
            return
        if wanted.own.realtime_limit_us is not None:
            signal.signal(signal.SIGXCPU, self._too_long)
        for error in scheduling.change(before.own, wanted.own):
            log.warning("%s: %s", self.name, error)

    def called_late(self, late_us: int) -> None:
        """The loop was called so much after the time it had asked for: with max_auto_priority that is answered."""
        wanted = self.wanted
        if not wanted.auto_most or late_us < wanted.auto_delay_us:
            return
        now = self.raised or wanted.own.realtime_priority or 0
        if now >= wanted.auto_most:
            return
        try:
            scheduling.set_realtime(now + 1)
        except OSError as error:
            log.warning("%s: real-time priority %d: %s", self.name, now + 1, os.strerror(error.errno or 0))
            return
        self.raised = now + 1
        log.warning("%s was called %.3f s late: real-time priority %d", self.name, late_us / 1e6, self.raised)

    def _too_long(self, number: int, frame: object) -> None:
        limit_us = self.wanted.own.realtime_limit_us
        log.warning("%s ran for more than %s us of processor time without a pause (rlimit_rttime)", self.name, limit_us)
