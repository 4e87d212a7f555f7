"""The real kernel as one object: what `faces.Kernel` promises, for one loop in one network namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import cached_property

from holdfast.kernel import sysctl
from holdfast.kernel.announce import Announcer
from holdfast.kernel.firewall import Nftables
from holdfast.kernel.links import LinkTable
from holdfast.kernel.netlink import Netlink
from holdfast.kernel.packets import VrrpSocket
from holdfast.kernel.timers import DeadlineHeap


class LinuxKernel:
    """Made on the thread of the loop, inside the namespace it is to speak for."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        timers: DeadlineHeap | None = None,
        route_protocols: Iterable[int] = (18,),
        monitor_buffer_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        """timers: the cell's; None makes one. Raises KernelError when a socket may not be opened."""
        self._loop = loop
        self._own_timers = timers is None
        self.timers = DeadlineHeap(loop) if timers is None else timers
        self.links = LinkTable(loop, route_protocols=route_protocols, receive_buffer_bytes=monitor_buffer_bytes)
        self.requests = Netlink(self.links.ifindex, self.links.name)
        self.firewall = Nftables()
        self._settings = sysctl.Changes()

    @cached_property
    def announcer(self) -> Announcer:
        """Made when the first announcement is prepared: a cell without addresses has no right to a packet socket."""
        return Announcer()

    def advert_socket(
        self,
        interface: str | None,
        family: int,
        *,
        groups: Iterable[str] = (),
        receive_buffer_bytes: int | None = None,
        priority: int | None = 6,
    ) -> VrrpSocket:
        """See packets.VrrpSocket."""
        return VrrpSocket(
            interface,
            family,
            groups=groups,
            receive_buffer_bytes=receive_buffer_bytes,
            priority=priority,
            loop=self._loop,
        )

    def sysctl_get(self, name: str) -> str | None:
        """See sysctl.get."""
        return sysctl.get(name)

    def sysctl_set(self, name: str, value: str | int) -> bool:
        """See sysctl.put; `restore_sysctls` puts back what was there."""
        return self._settings.put(name, value)

    def restore_sysctls(self) -> None:
        """Puts back every setting this object changed."""
        self._settings.restore()

    def close(self) -> None:
        """Closes every socket of its own. The firewall table is removed by `await firewall.close()` before."""
        self.links.close()
        self.requests.close()
        if "announcer" in vars(self):
            self.announcer.close()
        if self._own_timers:
            self.timers.close()
