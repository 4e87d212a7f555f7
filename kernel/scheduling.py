"""How this process is scheduled and kept in memory: keepalived's *_priority, *_rt_priority, *_no_swap and so on.

Priorities and processors are those of all its threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import threading
from collections.abc import Callable, Collection
from typing import Final

import msgspec

from holdfast.kernel.base import KernelError

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
_RLIMIT_RTTIME: Final = 15
_RLIMIT_MEMLOCK: Final = 8
_NICE_LEAST, _NICE_MOST = -20, 19


class Scheduling(msgspec.Struct, frozen=True, kw_only=True):
    """What a cell wants. nice -20..19. realtime_priority 1..99: SCHED_RR. realtime_limit_us: RLIMIT_RTTIME.

    lock_memory: pages that are in use are never swapped. cpus: empty: all.
    """

    nice: int | None = None
    realtime_priority: int | None = None
    realtime_limit_us: int | None = None
    lock_memory: bool = False
    cpus: tuple[int, ...] = ()


def apply(wanted: Scheduling) -> list[KernelError]:
    """Does what it can; what the kernel refused comes back, and the rest is done."""
    errors: list[KernelError] = []

    def attempt(subject: str, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            errors.append(KernelError("set scheduling", subject, error.errno or errno.EINVAL))
        except KernelError as error:
            errors.append(error)

    if wanted.cpus:
        attempt(f"cpu affinity {','.join(map(str, wanted.cpus))}", lambda: set_affinity(wanted.cpus))
    nice = wanted.nice
    if nice is not None:
        attempt(f"priority {nice}", lambda: set_nice(nice))
    if wanted.lock_memory:
        attempt("memory lock", lock_memory)
    limit = wanted.realtime_limit_us
    if limit is not None:
        attempt(f"realtime limit {limit} us", lambda: limit_realtime(limit))
    priority = wanted.realtime_priority
    if priority is not None:
        attempt(f"realtime priority {priority}", lambda: set_realtime(priority))
    return errors


def change(before: Scheduling, wanted: Scheduling) -> list[KernelError]:
    """`apply` for a process that `before` is in force for: what is no longer wanted is as the kernel gives it.

    Its processors are then all of the machine's.
    """
    ordinary = Scheduling(
        nice=0 if before.nice and wanted.nice is None else None,
        realtime_priority=0 if before.realtime_priority and wanted.realtime_priority is None else None,
        cpus=tuple(range(os.cpu_count() or 1)) if before.cpus and not wanted.cpus else (),
    )
    errors = apply(ordinary)
    if before.realtime_limit_us is not None and wanted.realtime_limit_us is None:
        _, hard = resource.getrlimit(_RLIMIT_RTTIME)
        resource.setrlimit(_RLIMIT_RTTIME, (hard, hard))
    if before.lock_memory and not wanted.lock_memory:
        _LIBC.munlockall()
    if before.lock_memory and wanted.lock_memory:
        wanted = msgspec.structs.replace(wanted, lock_memory=False)
    return errors + apply(wanted)


def _every_thread(call: Callable[[int], None]) -> None:
    """Linux schedules threads: one that hands messages on (ZeroMQ's) must not wait where its process does not."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            call(int(thread))


def set_nice(nice: int) -> None:
    """-20 (first) to 19 (last)."""
    clipped = max(_NICE_LEAST, min(_NICE_MOST, nice))
    _every_thread(lambda thread: os.setpriority(os.PRIO_PROCESS, thread, clipped))


def set_realtime(priority: int) -> None:
    """SCHED_RR with this priority, clipped to what the kernel has; children are ordinary processes again.

    0: back to ordinary scheduling.
    """
    if priority == 0:
        _every_thread(lambda thread: os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0)))
        return
    least, most = os.sched_get_priority_min(os.SCHED_RR), os.sched_get_priority_max(os.SCHED_RR)
    clipped = max(least, min(most, priority))
    # Scripts and helpers that this process starts must not run before everything else on the machine.
    # Other threads start nobody; and ZeroMQ's, when it begins in this very moment, knows no such flag and aborts.
    own = threading.get_native_id()

    def set_one(thread: int) -> None:
        policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK if thread == own else os.SCHED_RR
        os.sched_setscheduler(thread, policy, os.sched_param(clipped))

    _every_thread(set_one)


def limit_realtime(limit_us: int) -> None:
    """SIGXCPU after so much CPU time without sleeping while real-time (the hard limit stays:

    a second too late kills).
    """
    _, hard = resource.getrlimit(_RLIMIT_RTTIME)
    soft = limit_us if hard == resource.RLIM_INFINITY else min(limit_us, hard)
    resource.setrlimit(_RLIMIT_RTTIME, (soft, hard))


def lock_memory() -> None:
    """Nothing that this process uses is swapped, now and later.

    With MCL_ONFAULT: without it every page of every mapping would be brought in and the pages shared with the
    other cells since the fork be copied, which multiplies the memory.
    """
    # Without the right to raise the limit, mlockall says whether the present one is enough.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(_RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if _LIBC.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        raise KernelError("set scheduling", "memory lock", ctypes.get_errno())


def set_affinity(cpus: Collection[int]) -> None:
    """Runs on these CPUs only; those that the machine does not have are left out."""
    there = set(range(os.cpu_count() or 1))
    chosen = set(cpus) & there or set(cpus)
    _every_thread(lambda thread: os.sched_setaffinity(thread, chosen))
