"""What is built is whole, and works where nothing of this checkout is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(400), pytest.mark.long]

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("actors", "bus", "cli", "config", "kernel")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

IMPORT_ALL = """\
import importlib, pkgutil, sys
import holdfast
count = 0
for found in pkgutil.walk_packages(holdfast.__path__, "holdfast."):
    module = importlib.import_module(found.name)
    assert module.__file__.startswith(sys.prefix), module.__file__
    count += 1
print(count)
"""


def modules() -> set[str]:
    """`holdfast/actors/...py` for each file of ours."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {f"holdfast/{path.relative_to(ROOT)}" for path in paths}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sdist, and the wheel made of it: what the sdist lacks, the wheel lacks too."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel; what the wheel needs is borrowed from this one."""
    place = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    words = [sys.executable, "-m", "pip", "--python", str(place / "bin/python"), "install", "--quiet"]
    subprocess.run([*words, "--no-deps", "--no-index", "--no-compile", str(wheel)], check=True)
    # A path in a .pth file is searched last, and the .pth files in it (our own editable install) are not read.
    there = next((place / "lib").glob("python*/site-packages"))
    (there / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return place


def run(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the environment, from a folder without sources."""
    full = [str(place / "bin" / words[0]), *words[1:]]
    return subprocess.run(full, capture_output=True, text=True, check=False, cwd=place, env={"PATH": "/usr/bin:/bin"})


def test_the_wheel_has_every_module_and_the_marks_of_typing(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert modules() - names == set()
    assert {name for name in names if name.endswith(".py")} == modules()
    assert {f"holdfast/{package}/py.typed" for package in PACKAGES} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_source_archive_has_what_a_build_needs(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names
    assert {name.removeprefix("holdfast/") for name in modules()} <= names


def test_every_module_can_be_imported(place: Path) -> None:
    done = run(place, "python", "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    packages = sum(name.endswith("__init__.py") for name in modules())
    assert int(done.stdout) == len(modules()) and packages > 5


def test_the_command_works(place: Path) -> None:
    assert run(place, "holdfast", "--version").stdout.split()[-1] == VERSION
    good, bad = place / "good.conf", place / "bad.conf"
    good.write_text("global_defs {\n  router_id lb1\n}\n")
    bad.write_text("global_defs {\n  ruoter_id lb1\n}\n")
    done = run(place, "holdfast", "check", "-f", str(good))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run(place, "holdfast", "check", "-f", str(bad))
    assert done.returncode == 5 and "bad.conf:2:3" in done.stdout + done.stderr
