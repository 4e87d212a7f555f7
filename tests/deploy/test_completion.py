"""Completion, asked as a shell asks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOLDFAST = Path(sys.executable).parent / "holdfast"


def script(shell: str) -> str:
    """What `holdfast completion SHELL` prints."""
    done = subprocess.run([HOLDFAST, "completion", shell], capture_output=True, text=True, check=True)
    return done.stdout


def in_bash(*words: str) -> list[str]:
    """What bash offers for the last of the words."""
    lines = [
        script("bash"),
        f"COMP_WORDS=({' '.join(words)})",
        f"COMP_CWORD={len(words) - 1}",
        "_holdfast_completion holdfast",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    ]
    environment = {**os.environ, "PATH": f"{HOLDFAST.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_offers_commands() -> None:
    assert in_bash("holdfast", "st") == ["status"]
    assert {"reload", "release", "resume", "replay"} <= set(in_bash("holdfast", "re"))
    assert all(each.startswith("re") for each in in_bash("holdfast", "re"))


def test_bash_offers_options_and_their_values() -> None:
    assert "--json" in in_bash("holdfast", "status", "--js")
    assert in_bash("holdfast", "completion", "z") == ["zsh"]
    assert "--use-file" in in_bash("holdfast", "run", "--use")
    assert in_bash("holdfast", "keys", "gen") == ["generate"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_for_their_shells(shell: str) -> None:
    text = script(shell)
    assert f"_HOLDFAST_COMPLETE={shell}_complete" in text
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n", "/dev/stdin"], input=text, text=True, check=True)


def test_an_unknown_shell_is_refused() -> None:
    assert subprocess.run([HOLDFAST, "completion", "dos"], capture_output=True, check=False).returncode == 2
