"""Where log lines go: the console in keepalived's form, syslog, a file."""

from __future__ import annotations

import logging
import logging.handlers
import sys
import time
from pathlib import Path

DETAIL = 15
"""Between debug and info: what -D adds."""

SYSLOG_SOCKET = Path("/dev/log")


class ConsoleForm(logging.Formatter):
    """`Tue Nov 24 04:19:40 2026: message`, as keepalived prints it with -l."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows on its own lines."""
        text = f"{time.ctime(record.created)}: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def configure_logs(*, console: bool, detail: int, facility: str, file: Path | None, syslog: bool) -> None:
    """Sets the root logger up for the daemon and the cells it forks. detail: how often -D was given."""
    handlers: list[logging.Handler] = []
    if console:
        handlers.append(logging.StreamHandler(sys.stderr))
    if file is not None:
        handlers.append(logging.FileHandler(file))
    for handler in handlers:
        handler.setFormatter(ConsoleForm())
    if syslog and SYSLOG_SOCKET.exists():
        number = logging.handlers.SysLogHandler.facility_names.get(_facility(facility), 3)
        to_syslog = logging.handlers.SysLogHandler(str(SYSLOG_SOCKET), facility=number)
        to_syslog.setFormatter(logging.Formatter("holdfast[%(process)d]: %(message)s"))
        handlers.append(to_syslog)
    logging.addLevelName(DETAIL, "DETAIL")
    root = logging.getLogger()
    root.handlers = handlers or [logging.NullHandler()]
    root.setLevel((logging.INFO, DETAIL, logging.DEBUG)[min(detail, 2)])
    for noisy in ("asyncio", "pykka", "pyroute2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _facility(word: str) -> str:
    return f"local{word}" if word.isdigit() else word
