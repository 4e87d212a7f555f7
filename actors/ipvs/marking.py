"""Keeps the firewall's maps of `marks.py` as the configuration wants them: the impure half of nftables_ipvs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from holdfast.actors.ipvs.config import IpvsGlobals, VirtualServer
from holdfast.actors.ipvs.marks import Marks, removal
from holdfast.kernel.base import KernelError

log = logging.getLogger("holdfast.ipvs")

LoadRules = Callable[[str, str], Awaitable[None]]


class Marking:
    """given: marks of a former life. load: `kernel.nft.load`, or a test's."""

    def __init__(self, given: dict[str, int] | None, load: LoadRules) -> None:
        self.marks = Marks(given)
        self._load = load
        self._there: tuple[str | None, str] = (None, "")

    def rewrite(self, config: VirtualServer, settings: IpvsGlobals) -> VirtualServer:
        """The virtual server as the kernel gets it."""
        return self.marks.rewrite(config, settings)

    def forget(self, name: str) -> None:
        """The virtual server is gone."""
        self.marks.forget(name)

    def needs_change(self, settings: IpvsGlobals) -> bool:
        """Whether the firewall has something else than it should."""
        script = self.marks.script(settings)
        return (settings.nftables_table, script) != self._there and bool(script or self._there[1])

    async def apply(self, settings: IpvsGlobals) -> None:
        """The firewall gets its maps, after the services are there: a marked packet without one would end here."""
        script = self.marks.script(settings)
        old, self._there = self._there, (settings.nftables_table, script)
        if old[1] and (old[0] != settings.nftables_table or not script):
            await self._run(removal(str(old[0])), str(old[0]))
        if script:
            await self._run(script, str(settings.nftables_table))

    async def remove(self) -> None:
        """The clean stop."""
        if self._there[1]:
            await self._run(removal(str(self._there[0])), str(self._there[0]))
            self._there = (None, "")

    async def _run(self, script: str, table: str) -> None:
        try:
            await self._load(script, f"table {table}")
        except KernelError as error:
            log.error("nftables_ipvs: %s", error)
