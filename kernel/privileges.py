"""Fewer rights, and an end with the parent: capabilities (capabilities(7)) and prctl(2), by ctypes."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Collection, Mapping
from typing import Final

from holdfast.kernel.base import KernelError

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_CLONE_NEWNET: Final = 0x40000000

CAPABILITIES: Final = {
    "chown": 0,
    "dac_override": 1,
    "dac_read_search": 2,
    "fowner": 3,
    "fsetid": 4,
    "kill": 5,
    "setgid": 6,
    "setuid": 7,
    "setpcap": 8,
    "net_bind_service": 10,
    "net_broadcast": 11,
    "net_admin": 12,
    "net_raw": 13,
    "ipc_lock": 14,
    "sys_module": 16,
    "sys_ptrace": 19,
    "sys_admin": 21,
    "sys_nice": 23,
    "sys_resource": 24,
    "audit_control": 30,
    "syslog": 34,
}
"""Number of each capability that a cell may name (linux/capability.h)."""


def keep_capabilities(names: Collection[str], *, limit: Collection[str] | None = None, programs: bool = False) -> None:
    """Gives up every capability but these, for this thread. KernelError when the kernel refuses.

    Threads that are started from here on have no more either: call it before there are any. limit: what root's
    programs that are started from here have (the bounding set), None: the same; it needs CAP_SETPCAP, without which it
    stays as it is. programs: it is to stay as it is.
    """
    bounded = {CAPABILITIES[name] for name in (names if limit is None else limit)}
    kept = {CAPABILITIES[name] for name in names}
    permitted = permitted_mask()
    if not programs and permitted >> CAPABILITIES["setpcap"] & 1:
        number = 0
        while (bounding := _LIBC.prctl(_PR_CAPBSET_READ, number, 0, 0, 0)) >= 0:
            if bounding and number not in bounded:
                _prctl("drop capability", _PR_CAPBSET_DROP, number)
            number += 1
    _LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    mask = sum(1 << bit for bit in kept) & permitted
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    # effective, permitted, inheritable; low words first, then high ones.
    data = struct.pack("=IIIIII", low, low, 0, high, high, 0)
    if _LIBC.capset(header, data) != 0:
        raise KernelError("keep capabilities", ",".join(sorted(names)), ctypes.get_errno())


def become(uid: int, gid: int) -> None:
    """This process, with all of its threads, is another user's for good, without any capability. KernelError.

    The signal at the end of the parent (`die_with_parent`) has to be asked for again: the kernel forgets it here.
    """
    try:
        os.setgroups([gid])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise KernelError("become", f"user {uid}", error.errno or 0) from error


def refused_to(uid: int, gid: int, wanted: Mapping[str, int]) -> list[str]:
    """Those of the paths that the user could not open. wanted: path -> os.R_OK | os.W_OK | os.X_OK.

    For root alone, with CAP_SETUID and CAP_SETGID; before there are threads. KernelError.
    """
    groups, own_uid, own_gid = os.getgroups(), os.geteuid(), os.getegid()
    try:
        os.setgroups([gid])
        os.setegid(gid)
        os.seteuid(uid)
        try:
            return [path for path, mode in wanted.items() if not os.access(path, mode, effective_ids=True)]
        finally:
            os.seteuid(own_uid)
            os.setegid(own_gid)
            os.setgroups(groups)
    except OSError as error:
        raise KernelError("try as", f"user {uid}", error.errno or 0) from error


def permitted_mask() -> int:
    """The capabilities this process has, as bits."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    if _LIBC.capget(header, data) != 0:
        raise KernelError("read capabilities", "process", ctypes.get_errno())
    fields = struct.unpack("=IIIIII", data.raw)
    mask: int = fields[1] | fields[4] << 32
    return mask


def has_capability(name: str) -> bool:
    """Whether this process may use it."""
    return bool(permitted_mask() >> CAPABILITIES[name] & 1)


def no_new_privileges() -> None:
    """No program started from here gains rights by its file's mode. For cells that start none of other people's.

    For this thread and those that it starts.
    """
    _prctl("set", _PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent(number: int = signal.SIGKILL, *, parent: int | None = None) -> None:
    """This process gets the signal when the thread that forked it ends.

    parent: its pid, to see that it has not ended yet.
    """
    _prctl("set parent death signal", _PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def set_process_name(name: str) -> None:
    """What `ps` and the process tracker see: at most 15 bytes of it."""
    _prctl("set name", _PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


def enter_network_namespace(name: str) -> None:
    """This thread is in the namespace from now on. name: as `ip netns` knows it, or a path."""
    path = name if "/" in name else f"/run/netns/{name}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError("enter", f"namespace/{name}", error.errno or 0) from error
    try:
        if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
            raise KernelError("enter", f"namespace/{name}", ctypes.get_errno())
    finally:
        os.close(descriptor)


def _prctl(operation: str, option: int, value: object) -> None:
    argument = value if isinstance(value, ctypes.c_char_p) else ctypes.c_ulong(int(str(value)))
    zero = ctypes.c_ulong(0)
    if _LIBC.prctl(option, argument, zero, zero, zero) != 0:
        raise KernelError(operation, "process", ctypes.get_errno())
