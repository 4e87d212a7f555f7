"""The corpus of small configurations with keepalived's verdicts, and the host they are judged on.

Each file of tests/unit/config/corpus has many cases, `### VERDICT NAME` and the lines behind it. The verdict is the
exit code of Debian's `keepalived -t` 2.2.7, 5 where that one ends with 2 (a missing word); one with a `!` is an
accepted difference, which docs/compatibility.md explains. Short forms: %VI% opens a good vrrp_instance, %VS% a
virtual_server, %RS% a real_server in it; %DIR% is a directory with some files; %NUL% and %CR% are those characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from holdfast.config.host import Interface, Program

CORPUS = Path(__file__).parent / "unit" / "config" / "corpus"
SAMPLES = Path("/usr/share/doc/keepalived/samples")
INTERFACES = ("eth0", "eth1", "eth2", "eth3")
CONFIG_ID = "router"

_INSTANCE = "vrrp_instance VI_1 {\n interface eth0\n virtual_router_id 51\n virtual_ipaddress {\n  10.0.0.9/24\n }\n"
_SHORT = {
    "%VI%": _INSTANCE,
    "%VS%": "virtual_server 10.1.0.1 80 {\n lvs_sched rr\n lvs_method NAT\n protocol TCP\n",
    "%RS%": "real_server 10.1.0.2 80 {\n weight 1\n",
    "%NUL%": "\0",
    "%CR%": "\r",
}


class Case(msgspec.Struct, frozen=True):
    """One configuration of the corpus. accepted: keepalived says something else."""

    file: str
    name: str
    verdict: int
    accepted: bool
    text: str


def cases(directory: Path) -> Iterator[Case]:
    """All cases; directory: what %DIR% stands for."""
    for path in sorted(CORPUS.glob("*.txt")):
        parts = re.split(r"^### (\d)(!?) ?(.*)\n", path.read_text(), flags=re.M)[1:]
        for verdict, accepted, name, text in zip(*(parts[index::4] for index in range(4)), strict=True):
            for short, long in {**_SHORT, "%DIR%": str(directory)}.items():
                text = text.replace(short, long)  # noqa: PLW2901 - written out
            yield Case(path.stem, name, int(verdict), bool(accepted), text)


def make_directory(directory: Path) -> Path:
    """The files that cases include or name; returns the directory."""
    (directory / "inc" / "sub").mkdir(parents=True)
    files = {
        "foo": "1\n",
        "inc/p.conf": "priority 150\n",
        "inc/bad.conf": "foo\n",
        "inc/x.conf": "priority 150\n",
        "inc/rel.conf": "include p.conf\n",
        "inc/sub/a.conf": "include ../p.conf\n",
        "inc/def.conf": "$PP=77\n",
        "unsafe.sh": "#!/bin/sh\n",
    }
    for name, text in files.items():
        (directory / name).write_text(text)
    (directory / "inc/x.conf").chmod(0o755)
    (directory / "unsafe.sh").chmod(0o777)
    return directory


class CorpusHost:
    """A host with four interfaces, the users root and nobody, and Debian's programs."""

    def interface(self, name: str) -> Interface | None:
        """lo and eth0 to eth3."""
        if name == "lo":
            return Interface("lo", loopback=True, multicast=False, mtu=65536)
        return Interface(name) if name in INTERFACES else None

    def user(self, name: str) -> tuple[int, int] | None:
        """root and nobody."""
        return {"root": (0, 0), "nobody": (65534, 65534)}.get(name)

    def group(self, name: str) -> int | None:
        """root and nogroup."""
        return {"root": 0, "nogroup": 65534}.get(name)

    def own_ids(self) -> tuple[int, int]:
        """We are root."""
        return 0, 0

    def processors(self) -> int:
        """Two."""
        return 2

    def resolves(self, name: str) -> bool:
        """Addresses and localhost."""
        return name == "localhost" or name[:1].isdigit()

    def program(self, command: str, uid: int, gid: int) -> Program:
        """Debian's programs exist; what is called unsafe can be changed by anyone."""
        if command.endswith("unsafe.sh"):
            return Program(path=command, secure=False)
        known = command in ("true", "killall", "/bin/true", "/bin/sh")
        executable = known
        exists = known or command == "/etc/passwd"
        return Program(path=command, exists=exists, executable=executable)

    def names(self, table: str) -> dict[str, int]:
        """A few of iproute2's names."""
        return {"rt_dsfield": {"AF11": 0x28}, "rt_protos": {"static": 4}}.get(table, {})
