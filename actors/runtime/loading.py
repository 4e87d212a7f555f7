"""Reading the configuration in a process of its own.

However large the file and whatever is wrong with the reader, the supervisor goes on meanwhile: the reader is forked,
and its result comes back through a pipe. A reader that dies or hangs is a refused configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import msgspec

from holdfast.bus.codec import encode
from holdfast.config.settings import Settings
from holdfast.config.values import ProcessOptions

LOAD_TIMEOUT_S = 120.0
EXIT_CRASHED = 1


class LoadedConfig(msgspec.Struct):
    """What the reader found. slices: room -> name -> msgpack. diagnostics: lines for people. exit_code: 0 is good."""

    slices: dict[str, dict[str, bytes]]
    diagnostics: str
    exit_code: int
    settings: Settings = msgspec.field(default_factory=Settings)
    source: str = ""
    has_errors: bool = False
    """Something in it is left out because it is wrong: good enough to start with, not to reload."""
    process: ProcessOptions = msgspec.field(default_factory=ProcessOptions)


Loader = Callable[[], LoadedConfig]


def refused(text: str, exit_code: int = EXIT_CRASHED) -> LoadedConfig:
    """No configuration, and why."""
    return LoadedConfig({}, text, exit_code)


async def load_apart(load: Loader, timeout_s: float = LOAD_TIMEOUT_S, *, hurried: bool = False) -> LoadedConfig:
    """`load()` in a forked process. Never raises for what happens there: it is refused then, with the reason.

    hurried: the process keeps the priority of this one.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(load, reading, writing, hurried)
    os.close(writing)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**31)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb"))
    try:
        data = await asyncio.wait_for(reader.read(), timeout_s)
    except TimeoutError:
        return refused(f"the configuration was not read within {timeout_s:g} s")
    finally:
        transport.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        status = _reap(pid)
    if not data:
        return refused(f"the reader of the configuration ended with status {status}")
    try:
        return msgspec.msgpack.decode(data, type=LoadedConfig)
    except msgspec.DecodeError as error:
        return refused(f"the reader of the configuration said nothing sensible: {error}")


def _reap(pid: int) -> int:
    """It is dead or about to be: this waits for microseconds."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return 0


def _child(load: Loader, reading: int, writing: int, hurried: bool) -> NoReturn:
    code = 0
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.close(reading)
        if not hurried and os.getpriority(os.PRIO_PROCESS, 0) < 0:
            # The daemon's urgency is for its protocols, not for reading files.
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        try:
            result = load()
        except Exception:
            result = refused(f"the reader of the configuration failed:\n{traceback.format_exc()}")
        data = memoryview(encode(result))
        while data:
            data = data[os.write(writing, data) :]
    except BaseException:
        traceback.print_exc()
        code = EXIT_CRASHED
    finally:
        os._exit(code)
