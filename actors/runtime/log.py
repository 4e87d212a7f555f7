"""The daemon's log in keepalived's line forms.

On the console a line is `Tue Nov 24 21:00:00 2026: text`, as `keepalived -l` prints it; in syslog the daemon's name
and facility stand before the text. Rooms log with the standard library (structlog brings a hundred modules along, which
were a tenth of the daemon's start). The words of the lines that keepalived's users search for belong to the rooms.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import time
from pathlib import Path
from typing import Literal

Target = Literal["console", "syslog", "both", "none"]

DETAIL = 15
"""Between debug and info: keepalived's -D."""

FACILITIES = {0: "local0", 1: "local1", 2: "local2", 3: "local3", 4: "local4", 5: "local5", 6: "local6", 7: "local7"}
DEFAULT_FACILITY = "daemon"
_DEV_LOG = "/dev/log"


class ConsoleFormatter(logging.Formatter):
    """`ctime: text`; a traceback follows on lines of the same form, so that every line can be told apart."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, one or more whole lines."""
        stamp = time.ctime(record.created)
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return "\n".join(f"{stamp}: {line}" for line in text.splitlines() or [""])


class SyslogFormatter(logging.Formatter):
    """`name[pid]: text`; syslog gets one line, whatever the text."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        """One record, one line; the pid is that of the cell that logs."""
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return f"{self._name}[{os.getpid()}]: {' | '.join(text.splitlines())}"


class Syslog(logging.handlers.SysLogHandler):
    """The system's log; when nobody listens there the line is lost, and nothing else happens."""

    append_nul = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Syslog is being restarted, or full: the daemon has better things to do."""


def configure(
    target: Target = "syslog", *, debug: bool = False, facility: str = DEFAULT_FACILITY, name: str = "holdfast"
) -> None:
    """Sets up logging for this process and all that it forks. debug: the rooms' `>> event`, `<< action` lines too.

    Without /dev/log (a container) the lines go to the console.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("pykka").setLevel(logging.INFO if debug else logging.WARNING)
    if target in ("syslog", "both"):
        if Path(_DEV_LOG).exists():
            syslog = Syslog(_DEV_LOG, facility=facility)
            syslog.setFormatter(SyslogFormatter(name))
            root.addHandler(syslog)
        else:
            target = "console"
    if target in ("console", "both"):
        console = logging.StreamHandler(sys.stderr)
        console.setFormatter(ConsoleFormatter())
        root.addHandler(console)
    if target == "none":
        root.addHandler(logging.NullHandler())
    # Errors inside logging itself must not write tracebacks to a terminal that may be gone.
    logging.raiseExceptions = debug


class Sampled:
    """Lets a line through once in a while and says how many were held back: for what comes at packet rate.

    `if sampled.allows(now): log.warning("...%s", sampled.suffix)`. now: monotonic nanoseconds, from the caller.
    """

    __slots__ = ("_every_ns", "_held", "_next_ns", "suffix")

    def __init__(self, every_s: float = 60.0) -> None:
        self._every_ns = round(every_s * 1e9)
        self._next_ns = -(2**63)
        self._held = 0
        self.suffix = ""

    def allows(self, now: int) -> bool:
        """True at most once in the interval; `suffix` then tells what was held back since the last."""
        if now < self._next_ns:
            self._held += 1
            return False
        self._next_ns = now + self._every_ns
        self.suffix = f" ({self._held} more since the last line)" if self._held else ""
        self._held = 0
        return True
