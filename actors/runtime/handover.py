"""`holdfast restart`: another version takes over the daemon without a failover.

    1. A probe: the new version is started beside the daemon, reads the configuration, imports all it needs, and ends.
       If it cannot, nothing has happened, and its last lines say why.
    2. The supervisor executes the new version in its own place. Process id, run directory lock and cells stay: the
       cells are its children before and after, and go on with their work while the new code is loaded.
    3. Cell by cell: the old one ends right after it has sent its adverts, without a word to anyone, and leaves its
       state; the new one goes on from it at once, as after a crash, and its next advert is on time.

If the supervisor dies in between, it is as if the whole daemon had been killed: its cells end with it, and whoever
starts it again goes on from their state as long as the leases of the addresses run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

import msgspec

from holdfast.bus.codec import encode

log = logging.getLogger(__name__)

PROBE_VARIABLE = "HOLDFAST_PROBE"
STATE_VARIABLE = "HOLDFAST_HAND_OVER"
PROBE_TIMEOUT_S = 60.0
_SHOWN_LINES = 12
HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that wait while one program replaces the other."""


class Adopted(msgspec.Struct, frozen=True):
    """A cell that the old version leaves to the new one. fd: our end of its orders."""

    name: str
    pid: int
    fd: int
    restarts: int


class HandOver(msgspec.Struct, frozen=True):
    """What the old version leaves. number: of the configuration in force."""

    lock_fd: int
    number: int
    cells: tuple[Adopted, ...]


class Command(msgspec.Struct, frozen=True):
    """How this daemon was started, so that it can be started again."""

    words: tuple[str, ...]
    folder: str

    @classmethod
    def of_this_process(cls) -> Command:
        """As the operating system knows it: the interpreter with its options, the program, its arguments."""
        return cls((sys.executable, *sys.orig_argv[1:]), os.getcwd())


def left() -> HandOver | None:
    """What an old version in this process left for us, None when this is an ordinary start. Signals flow again when
    `go_on` is called."""
    text = os.environ.pop(STATE_VARIABLE, "")
    if not text:
        return None
    found = msgspec.msgpack.decode(bytes.fromhex(text), type=HandOver)
    for descriptor in (found.lock_fd, *(cell.fd for cell in found.cells)):
        os.set_inheritable(descriptor, False)
    return found


def taking_over() -> bool:
    """Whether this process was another version of itself before: it is in the background already, if it should be."""
    return STATE_VARIABLE in os.environ


def go_on() -> None:
    """The new version has its signal handlers: what has waited arrives."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def probing() -> bool:
    """Whether this process is only to see if it could run."""
    return bool(os.environ.get(PROBE_VARIABLE))


async def probe(command: Command) -> str:
    """Starts the new version beside us to see whether it gets ready. Returns what is wrong, or nothing."""
    environment = {**os.environ, PROBE_VARIABLE: "1"}
    try:
        process = subprocess.Popen(
            command.words,
            cwd=command.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        return f"{command.words[0]}: {error.strerror}"
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    assert process.stdout is not None
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
    try:
        output = await asyncio.wait_for(reader.read(), PROBE_TIMEOUT_S)
    except TimeoutError:
        return f"the new version was not ready within {PROBE_TIMEOUT_S:g} s"
    finally:
        transport.close()
        if process.poll() is None:
            # It has closed its output or taken too long: either way its end is near.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.kill()
        code = process.wait()
    if code == 0:
        return ""
    lines = output.decode(errors="replace").strip().splitlines()[-_SHOWN_LINES:]
    return "\n".join([f"the new version does not get ready (exit code {code})", *lines])


def become(command: Command, state: HandOver, environment: Mapping[str, str]) -> None:
    """Executes the new version in this process. Returns only by OSError, and then all is as before."""
    kept: Sequence[int] = (state.lock_fd, *(cell.fd for cell in state.cells))
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    folder = os.getcwd()
    try:
        for descriptor in kept:
            os.set_inheritable(descriptor, True)
        os.chdir(command.folder)
        variables = {**os.environ, **environment, STATE_VARIABLE: encode(state).hex()}
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(command.words[0], command.words, variables)
    except OSError:
        os.chdir(folder)
        for descriptor in kept:
            os.set_inheritable(descriptor, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        raise
