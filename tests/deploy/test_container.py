"""The container's files, as far as they can be judged without a container engine, which no test may rely on."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/container"
UNIT = ROOT / "deploy/systemd/holdfast.service"
HOLDFAST = Path(sys.executable).parent / "holdfast"
INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "VOLUME", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Containerfile, continued lines joined, comments left out."""
    lines = [line for line in (FOLDER / "Containerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return found


def test_every_instruction_is_one() -> None:
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    assert instructions()[0][0] == "FROM"


def test_what_is_copied_is_there_and_all_that_is_packaged_is_copied() -> None:
    stages = {rest.split()[-1] for name, rest in instructions() if name == "FROM" and " AS " in rest}
    copied = set()
    for name, rest in instructions():
        if name != "COPY":
            continue
        words = shlex.split(rest)
        if words[0].startswith("--from="):
            assert words[0].removeprefix("--from=") in stages
            continue
        for each in words[:-1]:
            assert (ROOT / each).exists(), each
            copied.add(each)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["setuptools"]["package-dir"].values()) <= copied
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= copied


def test_shell_lines_are_understood() -> None:
    for name, rest in instructions():
        text = rest.partition(" CMD ")[2] if name == "HEALTHCHECK" else rest if name == "RUN" else ""
        subprocess.run(["sh", "-n", "-c", text], check=True)


def test_the_options_of_the_command_exist() -> None:
    command = next(rest for name, rest in instructions() if name == "CMD")
    words = yaml.safe_load(command)
    shown = subprocess.run([HOLDFAST, words[0], "--help"], capture_output=True, text=True, check=True).stdout
    for option in words[1:]:
        assert option in shown


def test_two_nodes_with_the_capabilities_of_the_unit() -> None:
    services = compose()["services"]
    assert sorted(services) == ["lb1", "lb2"]
    of_unit = {
        word.removeprefix("CAP_")
        for words in re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
        for word in words.split()
    }
    for each in services.values():
        assert each["cap_drop"] == ["ALL"] and set(each["cap_add"]) == of_unit
        context = (FOLDER / each["build"]["context"]).resolve()
        assert context == ROOT and (context / each["build"]["dockerfile"]).exists()
        assert set(each["networks"]) <= set(compose()["networks"])


def test_volumes_are_declared_and_configurations_are_right() -> None:
    found = compose()
    for name, service in found["services"].items():
        for volume in service["volumes"]:
            source, target = volume.split(":")[:2]
            assert target.startswith("/")
            if source.startswith("./"):
                done = subprocess.run([HOLDFAST, "check", "-f", FOLDER / source], capture_output=True, check=False)
                assert (done.returncode, done.stderr) == (0, b""), name
            else:
                assert source in found["volumes"]


def test_the_nodes_name_each_other() -> None:
    addresses = {name: each["networks"]["front"]["ipv4_address"] for name, each in compose()["services"].items()}
    for name, other in (("lb1", "lb2"), ("lb2", "lb1")):
        text = (FOLDER / f"{name}.conf").read_text()
        assert addresses[other] in text and addresses[name] not in text
