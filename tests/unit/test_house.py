"""The rules of the house that no tool knows: the list of packages, pure files, names of imports."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("actors", "bus", "cli", "config", "kernel")
IMPURE = {
    "asyncio",
    "logging",
    "os",
    "pykka",
    "pyroute2",
    "random",
    "select",
    "socket",
    "subprocess",
    "threading",
    "time",
    "zmq",
}
PURE = (
    "actors/bfd/machine.py",
    "actors/bfd/packet.py",
    "actors/checkers/assignment.py",
    "actors/checkers/base.py",
    "actors/ipvs/facts.py",
    "actors/ipvs/marks.py",
    "actors/ipvs/plan.py",
    "actors/ipvs/pool.py",
    "actors/ipvs/quorum.py",
    "actors/ipvs/restore.py",
    "actors/ipvs/server.py",
    "actors/ipvs/service.py",
    "actors/ipvs/views.py",
    "actors/notify/notices.py",
    "actors/notify/queue.py",
    "actors/runtime/machine.py",
    "actors/vrrp/group.py",
    "actors/vrrp/machine.py",
    "actors/vrrp/packet.py",
    "actors/vrrp/priority.py",
    "actors/vrrp/validation.py",
    "actors/watch/file.py",
    "actors/watch/link.py",
    "actors/watch/script.py",
)


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those for type checkers only left out."""
    tree = ast.parse(path.read_text())
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(id(child) for child in ast.walk(node))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def test_every_package_is_in_the_wheel() -> None:
    """A wheel silently lacks what is not listed."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {
        "holdfast." + ".".join(path.parent.relative_to(ROOT).parts) for path in sources() if path.name == "__init__.py"
    }
    assert sorted(listed) == listed, "the list is sorted"
    assert set(listed) == there


def test_folders_with_code_are_packages() -> None:
    for path in sources():
        assert (path.parent / "__init__.py").exists(), f"{path.parent} lacks __init__.py"


def test_imports_are_absolute_and_by_the_installed_name() -> None:
    """`import bus` works from the repository's root and gives a second copy of the module."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in sources()
        for line, module in imports(path)
        if module.split(".")[0] in PACKAGES or module.startswith(".")
    ]
    assert not wrong


@pytest.mark.parametrize("name", PURE)
def test_pure_files_touch_no_clock_and_no_socket(name: str) -> None:
    wrong = [f"{name}:{line}: {module}" for line, module in imports(ROOT / name) if module.split(".")[0] in IMPURE]
    assert not wrong


def test_no_file_names_the_place_it_was_built_at() -> None:
    """Paths of one machine have no business in the product."""
    for path in [*sources(), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        text = path.read_text()
        for word in ("/work/", "../shared", "harness"):
            assert word not in text, f"{path.relative_to(ROOT)} speaks of {word}"
