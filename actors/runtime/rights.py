"""What each cell may do: the least that its rooms need, given up by the cell itself before it does anything else.

A cell has the rights of all of its rooms together (placement.py says which those are). Rooms that face the network and
touch no kernel state have none, and a cell of such rooms alone is the user's `holdfast`, when there is one. What the
supervisor itself has is limited from outside (the unit in deploy/systemd): here nothing is ever gained.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pwd
from collections.abc import Collection
from pathlib import Path

import msgspec

from holdfast.actors.runtime.process import die_with_parent
from holdfast.bus import rundir
from holdfast.config.settings import Settings
from holdfast.kernel.base import KernelError
from holdfast.kernel.privileges import become, keep_capabilities, no_new_privileges, refused_to

log = logging.getLogger(__name__)

_PLACE = frozenset({"sys_nice", "ipc_lock", "sys_resource"})
"""Real-time priority, locked memory and their limits, which a reload may change (scheduling.py)."""


class Rights(msgspec.Struct, frozen=True):
    """What a room needs. own: capabilities of its cell. programs: it starts programs for the operator, and what of
    them is root's may do what the supervisor could."""

    own: frozenset[str]
    programs: bool = False


NONE = Rights(frozenset())

ROOMS = {
    # Files that are tracked may be anybody's. The connector that tells of processes asks for net_admin.
    "watch": Rights(_PLACE | {"net_admin", "dac_override"}, programs=True),
    # Addresses, routes, rules, nftables; raw sockets for adverts, gratuitous ARP and neighbour advertisements.
    "vrrp": Rights(_PLACE | {"net_admin", "net_raw"}),
    # Sockets bound to an interface, buffers beyond the limit.
    "bfd": Rights(_PLACE | {"net_admin", "net_raw"}),
    # Marks (net_admin), echo requests and interfaces (net_raw), `bindport` below 1024; files that are checked.
    "checkers": Rights(_PLACE | {"net_admin", "net_raw", "net_bind_service", "dac_override"}, programs=True),
    # The table; the module when it is not there.
    "ipvs": Rights(_PLACE | {"net_admin", "sys_module"}),
    "connsync": Rights(frozenset({"net_admin", "net_raw"})),
    # FIFOs are given to the user of the scripts, and may lie in anybody's folder.
    "notify": Rights(frozenset({"chown", "fowner", "dac_override"}), programs=True),
    # Echo requests, and the sysctl that allows them.
    "worker": Rights(frozenset({"net_admin", "net_raw"})),
    "gateway": NONE,
    "journal": NONE,
    "web": NONE,
}
"""Room -> its rights. A room that is not here keeps what the supervisor has."""

_AS_ROOT = frozenset({"dac_override"})
"""What a cell keeps that needs nothing but cannot be another user's: its files may be that user's from another time."""
_STEPPING_DOWN = frozenset({"setuid", "setgid"})
"""What a cell keeps until it has become another user."""


class Belongings(msgspec.Struct, frozen=True, kw_only=True):
    """Files of a room without rights: `holdfast.actors.<room>.actor:belongings(settings, run_dir)` tells them.

    folders: in which it makes files; made when they are missing, and its own when they had to be made or have the
    user's name. files: made when they are missing, and its own. given: what is its own when it is there, such as a key.
    """

    folders: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()
    given: tuple[Path, ...] = ()


def of_cell(rooms: Collection[str], *, elsewhere: bool = False) -> Rights | None:
    """For a cell with these rooms; None: everything.

    elsewhere: in another network namespace than the machine's first process: what is told only in that one can be
    heard from there by going there.
    """
    if not set(rooms) <= set(ROOMS):
        return None
    own = frozenset[str]().union(*(ROOMS[room].own for room in rooms))
    if elsewhere and set(rooms) & {"watch", "ipvs"}:
        own |= {"sys_admin", "sys_ptrace"}
    return Rights(own, any(ROOMS[room].programs for room in rooms))


class Account(msgspec.Struct, frozen=True):
    """The user that a cell is to become."""

    name: str
    uid: int
    gid: int


def reduce(rooms: Collection[str], settings: Settings, run_dir: Path) -> Account | None:
    """Gives up what the rooms do not need. Before the first thread of the process, with the run directory in place.

    Returns whose this cell is to be once its sockets are bound (`step_down`), None: it stays as it is.
    """
    rights = of_cell(rooms, elsewhere=_elsewhere())
    if rights is None or os.geteuid() != 0:
        return None
    account = _account_for(rooms, settings, run_dir) if rights == NONE else None
    limit = rights.own
    if rights == NONE and account is None:
        limit = _AS_ROOT
    own = _STEPPING_DOWN if account is not None else limit
    try:
        keep_capabilities(own, limit=limit, programs=rights.programs)
        if rights == NONE:
            no_new_privileges()
    except KernelError as error:
        log.warning("the cell of %s keeps its rights: %s", ", ".join(rooms), error)
        return None
    return account


def step_down(account: Account | None, parent: int) -> None:
    """The cell is the user's from here on. After the sockets of the bus are bound, before its rooms start."""
    if account is None:
        return
    become(account.uid, account.gid)
    # Whoever becomes another user is no longer told of his parent's end.
    die_with_parent(parent)


def _account_for(rooms: Collection[str], settings: Settings, run_dir: Path) -> Account | None:
    """When the user is missing, or could not get at the files that the rooms need, the cell stays root, with
    access to files and nothing else: a configuration that worked goes on working."""
    account = _account(settings.cells.user)
    if account is None:
        return None
    try:
        wanted = {str(run_dir): os.X_OK, str(rundir.bus_dir(run_dir)): os.R_OK | os.X_OK}
        for room in rooms:
            belongings = _belongings(room, settings, run_dir)
            _hand_over(belongings, account)
            wanted |= {str(path): os.W_OK | os.X_OK for path in belongings.folders}
            wanted |= {str(path): os.R_OK | os.W_OK for path in belongings.files}
            wanted |= {str(path): os.R_OK for path in belongings.given if path.exists()}
        refused = refused_to(account.uid, account.gid, wanted)
    except (KernelError, OSError) as error:
        log.warning("the cell of %s stays root: %s", ", ".join(rooms), error)
        return None
    if refused:
        names = ", ".join(refused)
        log.warning("the cell of %s stays root: user %s cannot open %s", ", ".join(rooms), account.name, names)
        return None
    return account


def _account(user: str) -> Account | None:
    try:
        found = pwd.getpwnam(user) if user else None
    except KeyError:
        found = None
    return Account(user, found.pw_uid, found.pw_gid) if found is not None and found.pw_uid else None


def _belongings(room: str, settings: Settings, run_dir: Path) -> Belongings:
    tell = getattr(importlib.import_module(f"holdfast.actors.{room}.actor"), "belongings", None)
    found = tell(settings, run_dir) if tell is not None else Belongings()
    assert isinstance(found, Belongings)
    return found


def _hand_over(belongings: Belongings, account: Account) -> None:
    """The files are the user's from here on. What cannot be given (a read-only file system) is found out later."""
    for path in belongings.folders:
        made = not path.exists()
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
        if made or path.name == account.name:
            _give(path, account, os.O_RDONLY | os.O_DIRECTORY)
    for path in belongings.files:
        _give(path, account, os.O_WRONLY | os.O_CREAT)
    for path in belongings.given:
        _give(path, account, os.O_RDONLY)


def _give(path: Path, account: Account, flags: int) -> None:
    with contextlib.suppress(OSError):
        # Never through a link: the folder may be the user's, and this is still root.
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)
        try:
            os.fchown(fd, account.uid, account.gid)
        finally:
            os.close(fd)


def _elsewhere() -> bool:
    """Whether this process sees another network than the machine's first one."""
    try:
        return os.readlink("/proc/1/ns/net") != os.readlink("/proc/self/ns/net")
    except OSError:
        return False
