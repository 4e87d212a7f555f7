"""The Debian package, built, unpacked and tried with the system's Python."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(400), pytest.mark.long]

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deb")
    environment = {**os.environ, "PYTHON": PYTHON, "PIP": f"{sys.executable} -m pip --python {PYTHON}"}
    words = [str(ROOT / "deploy/debian/build.sh"), str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(out.glob("holdfast_*.deb"))


def field(package: Path, name: str) -> str:
    """A field of its control file."""
    return subprocess.run(["dpkg-deb", "-f", package, name], capture_output=True, text=True, check=True).stdout.strip()


def test_it_says_what_it_is_and_needs(package: Path) -> None:
    assert (field(package, "Package"), field(package, "Version")) == ("holdfast", VERSION)
    # Parts of what is bundled are compiled for one Python.
    assert "python3 (>= 3." in field(package, "Depends") and "python3 (<< 3." in field(package, "Depends")


def test_it_works_when_unpacked(package: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "-R", package, tmp_path], check=True)
    for name in ("postinst", "prerm", "postrm"):
        subprocess.run(["sh", "-n", tmp_path / "DEBIAN" / name], check=True)
    for name in ("lib/systemd/system/holdfast.service", "usr/lib/sysusers.d/holdfast.conf"):
        assert (tmp_path / name).is_file()
    # Where it is unpacked, instead of where it will be installed.
    program = tmp_path / "usr/bin/holdfast"
    program.write_text(program.read_text().replace("/usr/lib/holdfast", str(tmp_path / "usr/lib/holdfast")))
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stdout.split()[-1:]) == (0, [VERSION]), done.stderr
    config = tmp_path / "conf"
    config.write_text("global_defs {\n  router_id lb1\n}\n")
    done = subprocess.run([program, "check", "-f", config], capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
