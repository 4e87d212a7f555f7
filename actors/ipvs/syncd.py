"""lvs_sync_daemon: the kernel's connection sync follows its VRRP instance, or runs both ways from the start.

keepalived.conf(5), lvs_sync_daemon: with an instance a MASTER sends and everybody else receives; without one both roles
run. The sync id is the instance's VRID unless it is given.
"""

from __future__ import annotations

import errno
import logging

from holdfast.actors.ipvs.config import SyncDaemon
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged
from holdfast.kernel.base import KernelError
from holdfast.kernel.ipvs_types import DaemonSpec, IpvsTable

log = logging.getLogger(__name__)


def roles_for(daemon: SyncDaemon | None, state: VrrpState | None) -> tuple[str, ...]:
    """Which of the kernel's two daemons should run. state: of the instance; None: nothing heard of it yet."""
    if daemon is None:
        return ()
    if daemon.instance is None:
        return ("master", "backup")
    if state in (VrrpState.STOP, VrrpState.DELETED):
        return ()
    return ("master",) if state is VrrpState.MASTER else ("backup",)


def daemon_spec(daemon: SyncDaemon, role: str, vrid: int) -> DaemonSpec:
    """What the kernel is told. vrid: of the instance, 0 when there is none."""
    sync_id = daemon.sync_id if daemon.sync_id is not None else vrid
    return DaemonSpec(
        role,
        daemon.interface,
        sync_id,
        daemon.max_length,
        daemon.port,
        daemon.ttl,
        daemon.group or "",
    )


class SyncDaemons:
    """Keeps the kernel's sync daemons as the configuration and the instance want them."""

    def __init__(self, table: IpvsTable) -> None:
        self._table = table
        self._config: SyncDaemon | None = None
        self._state: VrrpState | None = None
        self._vrid = 0
        self._running: dict[str, DaemonSpec] = {}

    @property
    def roles(self) -> tuple[str, ...]:
        """What runs by our hand."""
        return tuple(sorted(self._running))

    @property
    def instance(self) -> str | None:
        """The VRRP instance it follows."""
        return self._config.instance if self._config is not None else None

    def configure(self, config: SyncDaemon | None, *, initial: bool) -> None:
        """Takes a new configuration. initial: daemons that a former life left behind are looked at first."""
        if config is not None and initial:
            self._adopt()
        if self._config is not None and config is not None and self._config.instance != config.instance:
            self._state, self._vrid = None, 0
        self._config = config
        self._apply()

    def instance_changed(self, event: VrrpStateChanged) -> None:
        """The instance we follow told its state."""
        self._state, self._vrid = event.state, event.vrid
        self._apply()

    def stop(self) -> None:
        """Both roles end."""
        self._config = None
        self._apply()

    def _adopt(self) -> None:
        """A daemon that runs as we would start it is kept: restarting it would lose what it is sending."""
        try:
            self._running = {daemon.role: daemon for daemon in self._table.daemons()}
        except KernelError as error:
            log.warning("sync daemons cannot be read: %s", error)

    def _apply(self) -> None:
        config = self._config
        waits_for_id = (
            config is not None and config.instance is not None and config.sync_id is None and self._state is None
        )
        if waits_for_id:
            # The sync id comes with the instance's first word, some milliseconds from now.
            return
        roles = roles_for(config, self._state)
        for role in sorted(self._running):
            if (
                role not in roles
                or config is None
                or not _same(self._running[role], daemon_spec(config, role, self._vrid))
            ):
                self._stop(role)
        for role in roles:
            if role not in self._running and config is not None:
                self._start(daemon_spec(config, role, self._vrid))

    def _there(self, role: str) -> DaemonSpec | None:
        """The kernel's daemon of this role, whoever started it."""
        try:
            return next((daemon for daemon in self._table.daemons() if daemon.role == role), None)
        except KernelError as error:
            log.warning("sync daemons cannot be read: %s", error)
            return None

    def _stop(self, role: str) -> None:
        daemon = self._running.pop(role)
        try:
            self._table.stop_daemon(role, daemon.sync_id)
            log.info("%s sync daemon on %s stopped", role, daemon.interface)
        except KernelError as error:
            if error.errno != errno.ESRCH:
                log.error("%s", error)

    def _start(self, daemon: DaemonSpec) -> None:
        try:
            self._table.start_daemon(daemon)
        except KernelError as error:
            if error.errno != errno.EEXIST:
                log.error("%s", error)
                return
            there = self._there(daemon.role)
            if there is None or not _same(there, daemon):
                other = "with other settings" if there is None else f"on {there.interface}, id {there.sync_id}"
                mine = f"on {daemon.interface}, id {daemon.sync_id}"
                log.error("%s sync daemon: somebody else's runs %s; none is started %s", daemon.role, other, mine)
                return
        self._running[daemon.role] = daemon
        log.info("%s sync daemon on %s started, id %d", daemon.role, daemon.interface, daemon.sync_id)


def _same(running: DaemonSpec, wanted: DaemonSpec) -> bool:
    """Whether the kernel's daemon is what we want; where we leave a choice to the kernel, its choice is right."""
    return (
        running.interface == wanted.interface
        and running.sync_id == wanted.sync_id
        and wanted.max_length in (0, running.max_length)
        and wanted.port in (0, running.port)
        and wanted.ttl in (0, running.ttl)
        and wanted.group in ("", running.group)
    )
