"""Drops traffic to virtual addresses in no_accept mode, by nftables.

One table `holdfast` (family inet) with a chain at input and one at output, and sets of addresses that come and go with
mastership; neighbour discovery passes, for the address must be found. It is driven by `nft -f -` with text: one process
an order, in order, off the fail-over path. Where there is no `nft`, orders fail with ENOENT and say so. The
counterpart in memory is `fake.FakeFirewall`.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final

from holdfast.kernel.base import AddressSpec, KernelError
from holdfast.kernel.firewall_watch import FirewallWatch

TABLE: Final = "holdfast"
_TIMEOUT_S: Final = 10.0
_PIDS_KEPT: Final = 64


def table_text(table: str = TABLE, priority: int = -1, *, counters: bool = False) -> str:
    """What is loaded first: the table from scratch, with empty sets."""
    counter = "counter " if counters else ""
    return f"""\
add table inet {table}
delete table inet {table}
table inet {table} {{
    set vips4 {{ type ipv4_addr; }}
    set vips6 {{ type ipv6_addr; }}
    set link_vips6 {{ type ipv6_addr . ifname; }}
    chain in {{
        type filter hook input priority {priority}; policy accept;
        ip daddr @vips4 {counter}drop
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        ip6 daddr @vips6 {counter}drop
        ip6 daddr . iifname @link_vips6 {counter}drop
    }}
    chain out {{
        type filter hook output priority {priority}; policy accept;
        ip saddr @vips4 {counter}drop
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        ip6 saddr @vips6 {counter}drop
        ip6 saddr . oifname @link_vips6 {counter}drop
    }}
}}
"""


def element(spec: AddressSpec) -> tuple[str, str]:
    """(set, element) of an address. A link-local one counts only on its interface, if that is named."""
    if spec.family == 4:
        return "vips4", spec.address
    if spec.dev and spec.address.lower().startswith(("fe8", "fe9", "fea", "feb")):
        return "link_vips6", f'{spec.address} . "{spec.dev}"'
    return "vips6", spec.address


class Nftables:
    """The table of one daemon, made with the first order and removed by `close`.

    Orders are carried out one after another.
    """

    def __init__(self, *, table: str = TABLE, priority: int = -1, counters: bool = False, program: str = "nft") -> None:
        self._table = table
        self._priority = priority
        self._counters = counters
        self._program = program
        self._wanted: Counter[tuple[str, str]] = Counter()
        self._orders: deque[str] = deque()
        self._errors: list[KernelError] = []
        self._made = False
        self._worker: asyncio.Task[None] | None = None
        self._ours: deque[int] = deque(maxlen=_PIDS_KEPT)
        self._watch: FirewallWatch | None = None
        self._lost: Callable[[str | None], None] | None = None

    def on_lost(self, call: Callable[[str | None], None]) -> None:
        """`call(by)` when another program has removed something from our table, from the first order on. by: which."""
        self._lost = call

    def block(self, addresses: Sequence[AddressSpec]) -> None:
        """Traffic to these is dropped from now on, except neighbour discovery. Returns at once; order is kept."""
        fresh = []
        for spec in addresses:
            item = element(spec)
            self._wanted[item] += 1
            if self._wanted[item] == 1:
                fresh.append(item)
        if not fresh:
            return
        if self._made:
            self._order(self._elements("add", fresh))
        else:
            self.restore()

    def unblock(self, addresses: Sequence[AddressSpec]) -> None:
        """Ends `block`; an address that two instances blocked is free when both have let it go."""
        gone = []
        for spec in addresses:
            item = element(spec)
            if self._wanted[item] == 1:
                gone.append(item)
            if self._wanted[item] > 0:
                self._wanted[item] -= 1
        if gone:
            self._order(self._elements("delete", gone))

    def restore(self) -> None:
        """Loads table and addresses anew, in one transaction: after somebody flushed the rules, and before the first
        order, for a former life of this process may have left a table."""
        self._made = True
        if self._watch is None and self._lost is not None:
            try:
                self._watch = FirewallWatch(asyncio.get_running_loop(), self._table, self._ours, self._lost)
            except KernelError as error:
                self._errors.append(error)
        self._order(table_text(self._table, self._priority, counters=self._counters) + self._all())

    async def present(self) -> bool:
        """Whether the kernel has our table with every address that should be in it."""
        code, text = await self._nft(["list", "table", "inet", self._table])
        if code != 0:
            return not self._made
        return all(item.split(" . ")[0] in text for (_, item), count in self._wanted.items() if count > 0)

    async def settle(self) -> list[KernelError]:
        """Waits until all orders so far are carried out; what failed since the last call."""
        while self._worker is not None and not self._worker.done():
            await asyncio.wait({self._worker})
        errors, self._errors = self._errors, []
        return errors

    async def close(self) -> None:
        """Removes the table."""
        await self.settle()
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._wanted.clear()
        if self._made:
            self._made = False
            self._order(f"delete table inet {self._table}\n")
            await self.settle()

    def _all(self) -> str:
        return self._elements("add", [item for item, count in self._wanted.items() if count > 0])

    def _elements(self, verb: str, items: Sequence[tuple[str, str]]) -> str:
        grouped: dict[str, list[str]] = {}
        for name, item in items:
            grouped.setdefault(name, []).append(item)
        return "".join(
            f"{verb} element inet {self._table} {name} {{ {', '.join(members)} }}\n"
            for name, members in grouped.items()
        )

    def _order(self, text: str) -> None:
        self._orders.append(text)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while self._orders:
            text = self._orders.popleft()
            code, said = await self._nft(["-f", "-"], text)
            if code != 0:
                self._errors.append(KernelError("set firewall", f"nftables/{self._table}", code, said.strip()[:400]))

    async def _nft(self, arguments: Sequence[str], text: str = "") -> tuple[int, str]:
        """0 and what it printed, or an errno and what it complained of."""
        program = shutil.which(self._program)
        if program is None:
            return errno.ENOENT, f"{self._program} is not installed, so no_accept has no effect"
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._ours.append(process.pid)
        try:
            said, _ = await asyncio.wait_for(process.communicate(text.encode()), _TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            return errno.ETIMEDOUT, f"{self._program} did not end within {_TIMEOUT_S} s"
        return (0 if process.returncode == 0 else errno.EIO), said.decode(errors="replace")
