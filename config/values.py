"""Typed values that keywords of several rooms fill: programs to run, how processes are scheduled.

Rooms keep their own Structs in their `config.py`; what more than one of them needs stands here.
"""

from __future__ import annotations

import msgspec


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """A program to run. argv: already split; user and group: names or None for the default (`script_user`); uid and gid
    are found at run time, on the host where it runs."""

    argv: tuple[str, ...]
    user: str | None = None
    group: str | None = None

    def __str__(self) -> str:
        return " ".join(self.argv)


class ScriptOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs scripts, and how much is demanded of them (keepalived.conf(5): script_user, enable_script_security).

    user, group: None when `script_user` is not given: then user keepalived_script if it exists, else our own.
    umask: what scripts have for files they make; keepalived's own, which its scripts inherit.
    """

    user: str | None = None
    group: str | None = None
    security: bool = False
    use_symlink_paths: bool = False
    set_supplementary_groups: bool = False
    umask: int = 0o177


class Scheduling(msgspec.Struct, frozen=True, kw_only=True):
    """How one process is scheduled: {vrrp,checker,bfd}_{priority,rt_priority,rlimit_rttime,cpu_affinity,no_swap}.

    nice: -20..19. rt_priority: 1..99 of SCHED_RR. rlimit_rttime_us: limit for a turn without a system call.
    """

    nice: int = 0
    rt_priority: int | None = None
    rlimit_rttime_us: int | None = None
    cpu_affinity: tuple[int, ...] = ()
    no_swap: bool = False
    process_name: str | None = None


class ProcessOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor needs from keepalived's configuration: names, scheduling, scripts at start and stop, reload.

    umask None: keepalived's default for files it makes. child_wait_us: how long a clean stop may take.
    """

    instance: str | None = None
    net_namespace: str | None = None
    net_namespace_ipvs: str | None = None
    router_id: str = ""
    process_name: str | None = None
    process_names: bool = False
    protocol: Scheduling = Scheduling()
    checkers: Scheduling = Scheduling()
    bfd: Scheduling = Scheduling()
    scripts: ScriptOptions = ScriptOptions()
    startup_script: Script | None = None
    startup_script_timeout_s: int = 10
    shutdown_script: Script | None = None
    shutdown_script_timeout_s: int = 10
    max_auto_priority: int = 0
    min_auto_priority_delay_us: int = 1_000_000
    umask: int | None = None
    child_wait_us: int = 5_000_000
    use_pid_dir: bool = False
    reload_check_config: str | None = None
    reload_time_file: str | None = None
    reload_repeat: bool = False
    reload_file: str | None = None
    json_version: int = 1
    data_use_instance: bool = False
    tmp_config_directory: str | None = None
    config_save_dir: str | None = None
    state_dump_file: str | None = None
    stats_dump_file: str | None = None
    json_dump_file: str | None = None
