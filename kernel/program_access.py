"""Who runs a program and whether it may be run: users, groups and the script-security rules.

Everything is looked up once, when the configuration is applied, since user databases and file systems may be slow:
call `prepare` from a thread. The starting itself is in `programs.py`.

Source: keepalived.conf(5), SCRIPTS, script_user and enable_script_security.
"""

from __future__ import annotations

import enum
import grp
import os
import pwd
import stat
from collections.abc import Sequence
from typing import Protocol

import msgspec

from holdfast.kernel.programs import Program

DEFAULT_USER = "keepalived_script"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHELL = "/bin/sh"


class Refusal(enum.StrEnum):
    """Why a program is not run."""

    USER = "user"
    NOT_FOUND = "not-found"
    NOT_EXECUTABLE = "not-executable"
    UNSAFE = "unsafe"


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a program before it runs.

    program: None when it cannot or may not be run, then refusal and problem say why. warnings: what the log is told.
    insecure: it would run as root and others than root can change it.
    """

    program: Program | None
    refusal: Refusal | None = None
    problem: str | None = None
    warnings: tuple[str, ...] = ()
    insecure: bool = False


class Identity(msgspec.Struct, frozen=True):
    """A user as a process has it. uid None: we are not root and stay who we are."""

    uid: int | None
    gid: int
    groups: tuple[int, ...] = ()


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The global part: default user and group, and how strict we are."""

    user: str | None = None
    group: str | None = None
    security: bool = False
    use_symlink_paths: bool = False
    set_supplementary_groups: bool = False
    umask: int = 0o177


class Host(Protocol):
    """What is asked of this machine; `RealHost`, or a table in tests."""

    euid: int
    egid: int
    path: str

    def user(self, name: str) -> tuple[int, int] | None:
        """(uid, primary gid) or None."""

    def group(self, name: str) -> int | None: ...

    def groups(self, uid: int, gid: int) -> tuple[int, ...]:
        """All groups that the user belongs to."""

    def status(self, path: str, *, follow: bool = True) -> os.stat_result:
        """Raises OSError."""

    def real_path(self, path: str) -> str: ...


class RealHost:
    """This machine."""

    def __init__(self) -> None:
        self.euid = os.geteuid()
        self.egid = os.getegid()
        self.path = os.environ.get("PATH", DEFAULT_PATH)

    def user(self, name: str) -> tuple[int, int] | None:
        """(uid, primary gid) or None."""
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            return None
        return entry.pw_uid, entry.pw_gid

    def group(self, name: str) -> int | None:
        """Its gid or None."""
        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            return None

    def groups(self, uid: int, gid: int) -> tuple[int, ...]:
        """All groups that the user belongs to."""
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            return (gid,)
        return tuple(sorted(os.getgrouplist(name, gid)))

    def status(self, path: str, *, follow: bool = True) -> os.stat_result:
        """Raises OSError."""
        return os.stat(path) if follow else os.lstat(path)

    def real_path(self, path: str) -> str:
        """The path without symbolic links."""
        return os.path.realpath(path)


class AccessError(Exception):
    """A program cannot or may not be run."""

    def __init__(self, refusal: Refusal, text: str) -> None:
        super().__init__(text)
        self.refusal = refusal


def prepare(argv: Sequence[str], user: str | None, group: str | None, rules: Rules, host: Host | None = None) -> Access:
    """Looks everything up that `programs.Program` needs, and judges it.

    argv: as configured, at least one word. `</path` is left to the shell, which tries to open the file.
    user, group: of this program; None: the default of `rules`.
    """
    host = host or RealHost()
    warnings: list[str] = []
    words = list(argv)
    name = words[0] if words else ""
    try:
        if not name:
            raise AccessError(Refusal.NOT_FOUND, "no script is given")
        identity = _identity(user, group, rules, host, warnings)
        if name.startswith("<"):
            words = [SHELL, "-c", " ".join(words)]
            name = SHELL
        path, checked = _locate(name, rules, host, warnings)
        file = _find_file(path, name, host)
        if not _may_execute(path, identity, host):
            who = f"{host.euid if identity.uid is None else identity.uid}:{identity.gid}"
            raise AccessError(
                Refusal.NOT_EXECUTABLE, f"WARNING - script '{name}' is not executable for uid:gid {who} - disabling."
            )
        insecure = _becomes_root(identity, file, host) and any(_changeable(each, host) for each in checked)
        if insecure:
            text = f"Unsafe permissions found for script '{name}'"
            if rules.security:
                raise AccessError(Refusal.UNSAFE, f"{text} - disabling.")
            warnings.append(f"{text}.")
    except AccessError as error:
        return Access(
            program=None,
            refusal=error.refusal,
            problem=str(error),
            warnings=tuple(warnings),
            insecure=error.refusal is Refusal.UNSAFE,
        )
    program = Program(
        path=path,
        argv=tuple(words),
        uid=identity.uid,
        gid=identity.gid,
        groups=identity.groups,
        umask=rules.umask,
    )
    return Access(program=program, warnings=tuple(warnings), insecure=insecure)


def _identity(user: str | None, group: str | None, rules: Rules, host: Host, warnings: list[str]) -> Identity:
    if user is None:
        user, group = rules.user, rules.group
    if user is None:
        found = host.user(DEFAULT_USER)
        if found is not None:
            return _as(found[0], found[1], rules, host)
        if rules.security:
            raise AccessError(Refusal.USER, f"Script user '{DEFAULT_USER}' does not exist")
        warnings.append(f"Script user '{DEFAULT_USER}' does not exist")
        return _as(host.euid, host.egid, rules, host)
    found = host.user(user)
    if found is None:
        raise AccessError(Refusal.USER, f"Unable to resolve script user '{user}'")
    uid, gid = found
    if group is not None:
        named = host.group(group)
        if named is None:
            raise AccessError(Refusal.USER, f"Unable to resolve script group '{group}'")
        gid = named
    return _as(uid, gid, rules, host)


def _as(uid: int, gid: int, rules: Rules, host: Host) -> Identity:
    if host.euid != 0:
        if uid != host.euid:
            raise AccessError(Refusal.USER, f"only root can run a script as uid {uid}")
        return Identity(None, host.egid)
    if rules.set_supplementary_groups:
        return Identity(uid, gid, host.groups(uid, gid))
    # Nobody keeps the groups of root by accident.
    return Identity(uid, gid, ())


def _locate(name: str, rules: Rules, host: Host, warnings: list[str]) -> tuple[str, tuple[str, ...]]:
    """(what is executed, the paths whose components count). Bare names are looked up in PATH."""
    path = name
    if "/" not in name:
        for directory in host.path.split(":"):
            candidate = f"{directory or '.'}/{name}"
            try:
                status = host.status(candidate)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode) and status.st_mode & 0o111:
                path = candidate
                break
        else:
            raise AccessError(
                Refusal.NOT_FOUND, f"WARNING - default user/PATH: script '{name}' is not found in {host.path}"
            )
        warnings.append(f"WARNING - script '{name}' has no path: {path} is used")
    if not path.startswith("/"):
        raise AccessError(Refusal.NOT_FOUND, f"Script {name} cannot be accessed - its path is not absolute")
    real = host.real_path(path)
    if rules.use_symlink_paths and real != path:
        return path, (path, real)
    return real, (real,)


def _find_file(path: str, name: str, host: Host) -> os.stat_result:
    try:
        status = host.status(path)
    except OSError as error:
        raise AccessError(Refusal.NOT_FOUND, f"Script {name} cannot be accessed - {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise AccessError(Refusal.NOT_FOUND, f"Script {name} cannot be accessed - it is not a regular file")
    return status


def _components(path: str) -> list[str]:
    """`/a/b` gives `/`, `/a`, `/a/b`."""
    found = ["/"]
    for word in path.split("/"):
        if word:
            found.append(f"{found[-1].rstrip('/')}/{word}")
    return found


def _may_execute(path: str, identity: Identity, host: Host) -> bool:
    """Whether the user may search every directory of the path and execute the file."""
    uid = host.euid if identity.uid is None else identity.uid
    for component in _components(path):
        try:
            status = host.status(component)
        except OSError:
            return False
        mode = status.st_mode
        if uid == 0:
            allowed = stat.S_ISDIR(mode) or bool(mode & 0o111)
        elif uid == status.st_uid:
            allowed = bool(mode & stat.S_IXUSR)
        elif status.st_gid == identity.gid or status.st_gid in identity.groups:
            allowed = bool(mode & stat.S_IXGRP)
        else:
            allowed = bool(mode & stat.S_IXOTH)
        if not allowed:
            return False
    return True


def _becomes_root(identity: Identity, file: os.stat_result, host: Host) -> bool:
    uid = host.euid if identity.uid is None else identity.uid
    return (
        uid == 0
        or identity.gid == 0
        or (file.st_uid == 0 and bool(file.st_mode & stat.S_ISUID))
        or (file.st_gid == 0 and bool(file.st_mode & stat.S_ISGID))
    )


def _changeable(path: str, host: Host) -> bool:
    """Whether anybody but root can change the file or replace a part of its path."""
    for component in _components(path):
        status = host.status(component, follow=False)
        mode = status.st_mode
        if status.st_uid != 0:
            return True
        if stat.S_ISLNK(mode):
            continue  # its own mode means nothing: who owns it, and the directory it is in, do
        sticky = stat.S_ISDIR(mode) and bool(mode & stat.S_ISVTX)
        if mode & stat.S_IWGRP and status.st_gid != 0 and not sticky:
            return True
        if mode & stat.S_IWOTH and not sticky:
            return True
    return False
