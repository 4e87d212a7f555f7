"""What the verdict needs to know of the host: interfaces, users, programs. Tests give their own answers."""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import socket
import stat
import struct
from typing import Protocol

import msgspec

_SIOCGIFFLAGS = 0x8913
_SIOCGIFMTU = 0x8921
_IFF_LOOPBACK = 0x8
_IFF_MULTICAST = 0x1000
_STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Interface(msgspec.Struct, frozen=True):
    """A network interface that exists."""

    name: str
    loopback: bool = False
    multicast: bool = True
    mtu: int = 1500


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What a script's file is like. secure: no one but root can change it, nor a directory on its way."""

    path: str
    exists: bool = True
    executable: bool = True
    secure: bool = True


class Host(Protocol):
    """Questions about the host."""

    def interface(self, name: str) -> Interface | None:
        """The interface of that name, or None."""

    def user(self, name: str) -> tuple[int, int] | None:
        """uid and first gid of a user, or None."""

    def group(self, name: str) -> int | None:
        """gid of a group, or None."""

    def program(self, command: str, uid: int, gid: int) -> Program:
        """The file behind a command, as that user sees it; bare names are looked up in PATH."""

    def own_ids(self) -> tuple[int, int]:
        """Our own uid and gid."""

    def processors(self) -> int:
        """How many CPUs there are."""

    def resolves(self, name: str) -> bool:
        """Whether a name is an address or has one."""

    def names(self, table: str) -> dict[str, int]:
        """iproute2's names of a table: rt_tables, rt_protos, rt_scopes, rt_dsfield, rt_realms, group."""


class RealHost:
    """The host we run on, in the network namespace we are in."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, int]] = {}

    def interface(self, name: str) -> Interface | None:
        """The interface of that name, or None."""
        try:
            raw = name.encode()
            socket.if_nametoindex(name)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
                answer = fcntl.ioctl(probe, _SIOCGIFFLAGS, struct.pack("16sH22x", raw[:15], 0))
                sizes = fcntl.ioctl(probe, _SIOCGIFMTU, struct.pack("16si20x", raw[:15], 0))
        except (OSError, ValueError):
            return None
        flags = struct.unpack_from("16xH", answer)[0]
        mtu = struct.unpack_from("16xi", sizes)[0]
        return Interface(
            name, loopback=bool(flags & _IFF_LOOPBACK), multicast=bool(flags & _IFF_MULTICAST), mtu=max(mtu, 68)
        )

    def user(self, name: str) -> tuple[int, int] | None:
        """uid and first gid of a user, or None."""
        try:
            entry = pwd.getpwnam(name)
        except (KeyError, ValueError):
            return None
        return entry.pw_uid, entry.pw_gid

    def group(self, name: str) -> int | None:
        """gid of a group, or None."""
        try:
            return grp.getgrnam(name).gr_gid
        except (KeyError, ValueError):
            return None

    def own_ids(self) -> tuple[int, int]:
        """Our own uid and gid."""
        return os.geteuid(), os.getegid()

    def processors(self) -> int:
        """How many CPUs there are."""
        return os.cpu_count() or 1

    def resolves(self, name: str) -> bool:
        """Whether a name is an address or has one."""
        try:
            return bool(socket.getaddrinfo(name, None))
        except (OSError, ValueError):
            return False

    def program(self, command: str, uid: int, gid: int) -> Program:
        """The file behind a command, as that user sees it."""
        if "\0" in command or not command:
            return Program(path=command, exists=False, executable=False)
        path = command
        if "/" not in command:
            directories = os.environ.get("PATH", _STANDARD_PATH).split(":")
            found = [os.path.join(directory, command) for directory in directories if directory]
            path = next((candidate for candidate in found if os.path.isfile(candidate)), command)
        try:
            real = os.path.realpath(path)
            state = os.stat(real)
        except (OSError, ValueError):
            return Program(path=path, exists=False, executable=False)
        regular = stat.S_ISREG(state.st_mode)
        return Program(path=path, executable=regular and _may_execute(state, uid, gid), secure=_is_secure(real))

    def names(self, table: str) -> dict[str, int]:
        """iproute2's names of a table."""
        if table not in self._names:
            self._names[table] = _read_names(table)
        return self._names[table]


def _may_execute(state: os.stat_result, uid: int, gid: int) -> bool:
    if uid == 0:
        return bool(state.st_mode & 0o111)
    if state.st_uid == uid:
        return bool(state.st_mode & stat.S_IXUSR)
    if state.st_gid == gid:
        return bool(state.st_mode & stat.S_IXGRP)
    return bool(state.st_mode & stat.S_IXOTH)


def _is_secure(path: str) -> bool:
    """Whether only root can change the file and every directory on its way (sticky directories are exempt)."""
    part = path
    while True:
        state = os.stat(part)
        sticky = stat.S_ISDIR(state.st_mode) and state.st_mode & stat.S_ISVTX
        group_writes = state.st_mode & stat.S_IWGRP and state.st_gid != 0
        if not sticky and (state.st_uid != 0 or group_writes or state.st_mode & stat.S_IWOTH):
            return False
        if part == os.path.dirname(part):
            return True
        part = os.path.dirname(part)


def _read_names(table: str) -> dict[str, int]:
    names: dict[str, int] = {}
    files = []
    for directory in ("/usr/share/iproute2", "/etc/iproute2"):
        files.append(f"{directory}/{table}")
        try:
            extra = sorted(os.listdir(f"{directory}/{table}.d"))
        except OSError:
            continue
        files.extend(f"{directory}/{table}.d/{name}" for name in extra if name.endswith(".conf"))
    for path in files:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        for line in lines:
            words = line.split("#")[0].split()
            if len(words) >= 2:
                try:
                    names[words[1]] = int(words[0], 0)
                except ValueError:
                    continue
    return names
