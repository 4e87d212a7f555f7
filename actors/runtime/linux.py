"""The kernel of a cell: one link table, one netlink socket, one announcer for all rooms that live there."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from holdfast.actors.runtime.context import CellContext
from holdfast.kernel.faces import Kernel
from holdfast.kernel.linux import LinuxKernel

_kernels: WeakKeyDictionary[CellContext, Kernel] = WeakKeyDictionary()


def kernel_of(ctx: CellContext) -> Kernel:
    """The kernel that the rooms of a cell share, made for the first that asks. Raises KernelError without rights."""
    kernel = _kernels.get(ctx)
    if kernel is None:
        kernel = LinuxKernel(ctx.loop, timers=ctx.timers)
        _kernels[ctx] = kernel
    return kernel
