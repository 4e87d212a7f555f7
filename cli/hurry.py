"""The first moment of a daemon that was killed: it is ahead of ordinary processes until its cells run.

Its addresses wait for it until their leases run out, and loading the program is most of the time it needs. So this
comes before anything is imported; `actors.runtime.surroundings.Hurry` ends it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from holdfast.cli.common import DEFAULT_RUN_DIR

NICE_VARIABLE = "HOLDFAST_NICE"
"""The priority that the process has when it does not hurry."""
HURRIED_NICE = -20
_NO_HURRY = ("HOLDFAST_PROBE", "HOLDFAST_HAND_OVER")


def begin(words: Sequence[str]) -> None:
    """words: the command line of `holdfast run`. Only where a former life left something to go on from."""
    if any(name in os.environ for name in _NO_HURRY):
        return
    with contextlib.suppress(OSError):
        if any((run_dir_of(words) / "state").iterdir()):
            nice = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, 0, HURRIED_NICE)
            os.environ[NICE_VARIABLE] = str(nice)


def run_dir_of(words: Sequence[str]) -> Path:
    """The run directory that a command line names."""
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--run-dir":
            return Path(value if equals else (words[number + 1] if number + 1 < len(words) else DEFAULT_RUN_DIR))
    return Path(DEFAULT_RUN_DIR)
