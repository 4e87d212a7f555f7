"""What systemd is told (sd_notify(3)): readiness, reloads, status, the watchdog. Without systemd nothing happens."""

from __future__ import annotations

import os
import time

import sdnotify

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class Systemd:
    """Every method is silent when NOTIFY_SOCKET is not set."""

    def __init__(self) -> None:
        self.environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        """What systemd gave us, for another version that goes on in our place."""
        self._notifier = sdnotify.SystemdNotifier()
        self.enabled = bool(os.environ.get("NOTIFY_SOCKET"))
        # What the cells execute must not speak for the daemon.
        os.environ.pop("NOTIFY_SOCKET", None)
        self.watchdog_s = self._watchdog()

    @staticmethod
    def _watchdog() -> float:
        """Seconds between two signs of life, half of what systemd asks for; 0 when it asks for none."""
        owner = os.environ.pop("WATCHDOG_PID", "")
        try:
            limit_us = int(os.environ.pop("WATCHDOG_USEC", "0"))
        except ValueError:
            return 0.0
        if owner and owner != str(os.getpid()):
            return 0.0
        return limit_us / 2_000_000

    def _say(self, *lines: str) -> None:
        if self.enabled:
            self._notifier.notify("\n".join(lines))

    def ready(self, status: str) -> None:
        """Started, or done with a reload."""
        self._say("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins (Type=notify-reload wants the clock with it)."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reading the configuration")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._say(f"STATUS={text}")

    def alive(self) -> None:
        """The watchdog's sign of life."""
        self._say("WATCHDOG=1")

    def stopping(self) -> None:
        """The clean stop begins."""
        self._say("STOPPING=1", "STATUS=stopping")
