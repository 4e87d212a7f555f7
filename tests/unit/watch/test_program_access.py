"""Who may run what: tables of files and users, no real ones."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from holdfast.kernel.program_access import Access, Refusal, Rules, prepare

D, F, L = stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK
Entry = tuple[int, int, int]  # mode, uid, gid


class Table:
    """A host made of tables. links: path -> real path."""

    def __init__(self, files: dict[str, Entry] | None = None, *, euid: int = 0, links: dict[str, str] | None = None):
        self.euid = euid
        self.egid = euid
        self.path = "/usr/bin:/bin"
        self.links = links or {}
        self.files: dict[str, Entry] = {
            "/": (D | 0o755, 0, 0),
            "/bin": (D | 0o755, 0, 0),
            "/bin/sh": (F | 0o755, 0, 0),
            "/opt": (D | 0o755, 0, 0),
            "/opt/chk": (F | 0o755, 0, 0),
            "/tmp": (D | 0o1777, 0, 0),
            "/tmp/chk": (F | 0o755, 0, 0),
            **(files or {}),
        }

    def user(self, name: str) -> tuple[int, int] | None:
        return {"root": (0, 0), "web": (1000, 1000), "admin": (0, 100), "keepalived_script": (99, 98)}.get(name)

    def group(self, name: str) -> int | None:
        return {"root": 0, "www": 33}.get(name)

    def groups(self, uid: int, gid: int) -> tuple[int, ...]:
        return (gid, 5, 33)

    def status(self, path: str, *, follow: bool = True) -> os.stat_result:
        if follow:
            path = self.real_path(path)
        if path not in self.files:
            raise FileNotFoundError(2, "No such file or directory", path)
        mode, uid, gid = self.files[path]
        return os.stat_result((mode, 0, 0, 0, uid, gid, 0, 0, 0, 0))

    def real_path(self, path: str) -> str:
        return self.links.get(path, path)


class Without(Table):
    """A host that has no user keepalived_script."""

    def user(self, name: str) -> tuple[int, int] | None:
        return None if name == "keepalived_script" else super().user(name)


def ask(
    path: str = "/opt/chk",
    user: str | None = "root",
    group: str | None = None,
    host: Table | None = None,
    **rules: object,
) -> Access:
    return prepare((path, "a"), user, group, Rules(**rules), host or Table())  # type: ignore[arg-type]


UNSAFE_FILES = [
    {"/opt/chk": (F | 0o755, 1000, 0)},  # owned by somebody else
    {"/opt/chk": (F | 0o775, 0, 33)},  # writable by a group
    {"/opt/chk": (F | 0o757, 0, 0)},  # writable by all
    {"/opt": (D | 0o755, 1000, 0)},
    {"/opt": (D | 0o775, 0, 33)},
    {"/opt": (D | 0o777, 0, 0)},
    {"/": (D | 0o755, 1000, 0)},
]


@pytest.mark.parametrize("files", UNSAFE_FILES)
def test_what_others_can_change_is_not_run_as_root(files: dict[str, Entry]) -> None:
    lax = ask(host=Table(files))
    assert lax.program is not None and lax.insecure
    assert lax.warnings == ("Unsafe permissions found for script '/opt/chk'.",)
    strict = ask(host=Table(files), security=True)
    assert strict.program is None and strict.refusal is Refusal.UNSAFE
    assert strict.problem == "Unsafe permissions found for script '/opt/chk' - disabling."


@pytest.mark.parametrize("files", UNSAFE_FILES)
def test_the_same_is_no_matter_for_an_ordinary_user(files: dict[str, Entry]) -> None:
    access = ask(user="web", host=Table(files), security=True)
    assert access.program is not None and not access.insecure


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("/opt/chk", {}),
        ("/opt/chk", {"/opt/chk": (F | 0o775, 0, 0)}),  # the group is root's
        ("/tmp/chk", {}),  # world-writable, but sticky
    ],
)
def test_what_only_root_can_change_is_run(path: str, files: dict[str, Entry]) -> None:
    access = ask(path, host=Table(files), security=True)
    assert access.program is not None and not access.insecure and access.warnings == ()


@pytest.mark.parametrize(
    ("user", "group", "mode", "insecure"),
    [
        ("web", None, 0o755, False),
        ("web", "root", 0o755, True),  # gid 0
        ("admin", None, 0o755, True),  # another name for uid 0
        ("web", None, 0o4755, True),  # setuid root
        ("web", None, 0o2755, True),  # setgid root
    ],
)
def test_every_way_to_become_root_counts(user: str, group: str | None, mode: int, insecure: bool) -> None:
    files = {"/opt": (D | 0o777, 0, 0), "/opt/chk": (F | mode, 0, 0)}
    assert ask(user=user, group=group, host=Table(files)).insecure is insecure


@pytest.mark.parametrize(
    ("user", "entry", "allowed"),
    [
        ("web", (F | 0o700, 1000, 0), True),
        ("web", (F | 0o700, 0, 0), False),
        ("web", (F | 0o750, 0, 1000), True),
        ("web", (F | 0o705, 0, 1000), False),  # the group's bits count, not the others'
        ("web", (F | 0o677, 1000, 0), False),  # nor do they for the owner
        ("root", (F | 0o001, 0, 0), True),
        ("root", (F | 0o644, 0, 0), False),
    ],
)
def test_a_script_its_user_cannot_execute_is_disabled(user: str, entry: Entry, allowed: bool) -> None:
    access = ask(user=user, host=Table({"/opt/chk": entry}))
    assert (access.program is not None) is allowed
    if not allowed:
        uid = 0 if user == "root" else 1000
        assert access.refusal is Refusal.NOT_EXECUTABLE
        assert access.problem == f"WARNING - script '/opt/chk' is not executable for uid:gid {uid}:{uid} - disabling."


def test_a_directory_on_the_way_has_to_be_open_too() -> None:
    host = Table({"/opt": (D | 0o700, 0, 0)})
    assert ask(user="web", host=host).refusal is Refusal.NOT_EXECUTABLE
    assert ask(user="root", host=host).program is not None


def test_supplementary_groups_only_when_asked_for() -> None:
    plain = ask(user="web").program
    full = ask(user="web", set_supplementary_groups=True).program
    assert plain is not None and full is not None
    assert (plain.uid, plain.gid, plain.groups) == (1000, 1000, ())
    assert full.groups == (1000, 5, 33)


def test_a_supplementary_group_opens_the_file() -> None:
    host = Table({"/opt/chk": (F | 0o750, 0, 33)})
    assert ask(user="web", host=host).program is None
    assert ask(user="web", host=host, set_supplementary_groups=True).program is not None


def test_default_user() -> None:
    program = ask(user=None).program
    assert program is not None and (program.uid, program.gid) == (99, 98)
    program = prepare(("/opt/chk",), None, None, Rules(user="web", group="www"), Table()).program
    assert program is not None and (program.uid, program.gid) == (1000, 33)


def test_without_the_default_user_it_is_ourselves_unless_security_is_on() -> None:
    lax = ask(user=None, host=Without())
    assert lax.program is not None and lax.program.uid == 0
    assert lax.warnings[0] == "Script user 'keepalived_script' does not exist"
    strict = ask(user=None, host=Without(), security=True)
    assert strict.refusal is Refusal.USER


def test_unknown_user_or_group() -> None:
    assert ask(user="nobody-here").refusal is Refusal.USER
    assert ask(user="web", group="nogroup-here").refusal is Refusal.USER


def test_without_root_we_stay_who_we_are() -> None:
    program = ask(user=None, host=Without(euid=1000)).program
    assert program is not None and program.uid is None
    assert ask(user="root", host=Table(euid=1000)).refusal is Refusal.USER


def test_what_is_not_there() -> None:
    access = ask("/opt/none")
    assert access.refusal is Refusal.NOT_FOUND
    assert access.problem == "Script /opt/none cannot be accessed - No such file or directory"
    assert ask("/opt").refusal is Refusal.NOT_FOUND
    assert ask("relative/chk").refusal is Refusal.NOT_FOUND
    assert prepare((), None, None, Rules(), Table()).refusal is Refusal.NOT_FOUND


def test_bare_names_are_found_in_path_with_a_warning() -> None:
    access = ask("sh")
    assert access.program is not None and access.program.path == "/bin/sh"
    assert access.program.argv == ("sh", "a")
    assert len(access.warnings) == 1
    assert ask("no-such").refusal is Refusal.NOT_FOUND


def test_a_less_than_sign_asks_the_shell_to_open_a_file() -> None:
    access = prepare(("</run/ready",), "root", None, Rules(), Table())
    assert access.program is not None
    assert (access.program.path, access.program.argv) == ("/bin/sh", ("/bin/sh", "-c", "</run/ready"))
    spaced = prepare(("<", "/run/ready"), "root", None, Rules(), Table())
    assert spaced.program is not None and spaced.program.argv[2] == "< /run/ready"


def test_symbolic_links_are_resolved_beforehand_unless_they_are_wanted() -> None:
    links = {"/opt/link": "/tmp/evil", "/tmp/evil": "/tmp/evil"}
    host = Table({"/tmp/evil": (F | 0o755, 1000, 0), "/opt/link": (L | 0o777, 0, 0)}, links=links)
    access = ask("/opt/link", host=host)
    assert access.program is not None and access.program.path == "/tmp/evil"
    assert access.program.argv[0] == "/opt/link"
    assert access.insecure
    kept = ask("/opt/link", host=host, use_symlink_paths=True)
    assert kept.program is not None and kept.program.path == "/opt/link" and kept.insecure
    owned = Table({"/opt/link": (L | 0o777, 1000, 0)}, links={"/opt/link": "/opt/chk"})
    assert ask("/opt/link", host=owned, use_symlink_paths=True).insecure  # its owner can point it elsewhere
    assert not ask("/opt/link", host=owned).insecure


def test_on_this_machine(tmp_path: Path) -> None:
    script = tmp_path / "chk"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    access = prepare((str(script), "x"), None, None, Rules())
    assert access.refusal in (None, Refusal.NOT_EXECUTABLE)  # the latter where keepalived_script cannot enter /tmp/...
    mine = prepare((str(script),), "root", None, Rules()) if os.geteuid() == 0 else access
    assert mine.program is not None
    assert mine.program.path == os.path.realpath(script)
