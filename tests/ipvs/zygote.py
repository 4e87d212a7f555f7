"""Starts holdfast daemons quickly: a process that has imported everything forks one for each line it reads.

Importing takes seconds in a guest with one processor, and sixty scenarios start a daemon each. What runs is the command
line's own `run`. Counterpart: `twin.Zygote`.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import signal
import sys

from world import enter

from holdfast.cli.main import main
from holdfast.config.settings import ROOMS


def become(order: dict[str, object]) -> None:
    """In the child: another session, namespace, output; then the daemon."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    enter(str(order["namespace"]))
    log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.close(null)
    words = order["argv"]
    assert isinstance(words, list)
    sys.argv = ["holdfast", *words]
    main()


def serve() -> None:
    """Until standard input ends."""
    importlib.import_module("holdfast.cli.run")
    for room in ROOMS:
        package = importlib.util.find_spec(f"holdfast.actors.{room}")
        if package is not None and importlib.util.find_spec(f"holdfast.actors.{room}.actor") is not None:
            importlib.import_module(f"holdfast.actors.{room}.actor")
    gc.freeze()
    # Nobody waits for the daemons here.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become(json.loads(line))
            os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    serve()
