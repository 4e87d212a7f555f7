"""`holdfast run`: the daemon, with keepalived's own option letters."""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

import click

from holdfast.cli.common import DEFAULT_RUN_DIR, fail
from holdfast.cli.reading import Reading, check_and_report, understood

DEFAULT_CONFIG = Path("/etc/keepalived/keepalived.conf")
OWN_CONFIG = Path("/etc/holdfast/holdfast.conf")
SIGNALS = {"STOP": 15, "RELOAD": 1, "DATA": 10, "STATS": 12, "STATS_CLEAR": 63, "JSON": 36}


def default_config() -> Path:
    """Ours when it is there, else keepalived's."""
    return OWN_CONFIG if OWN_CONFIG.exists() else DEFAULT_CONFIG


def short_host_name() -> str:
    """keepalived's configuration id when -i is not given."""
    return socket.gethostname().partition(".")[0]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-f", "--use-file", "config", type=click.Path(path_type=Path), help="Configuration file.")
@click.option(
    "--settings", type=click.Path(path_type=Path), help="holdfast.toml (default /etc/holdfast/holdfast.toml)."
)
@click.option("--run-dir", type=click.Path(path_type=Path), default=DEFAULT_RUN_DIR, show_default=True)
@click.option("-P", "--vrrp", "only_vrrp", is_flag=True, help="Only VRRP and BFD, no virtual servers.")
@click.option("-C", "--check", "only_check", is_flag=True, help="Only virtual servers and their checkers.")
@click.option("-B", "--no_bfd", "no_bfd", is_flag=True, help="No BFD.")
@click.option("-n", "--dont-fork", "foreground", is_flag=True, help="Stay in the foreground.")
@click.option("-l", "--log-console", is_flag=True, help="Log to the console.")
@click.option("-D", "--log-detail", count=True, help="More detail in the log.")
@click.option(
    "-S", "--log-facility", default="daemon", show_default=True, help="Syslog facility (0-7, local0, user ...)."
)
@click.option("-g", "--log-file", type=click.Path(path_type=Path), help="Also log to this file.")
@click.option("-G", "--no-syslog", is_flag=True, help="Do not log to syslog.")
@click.option("-d", "--dump-conf", is_flag=True, help="Log the configuration as it was understood.")
@click.option("-t", "--config-test", is_flag=True, help="Check the configuration and exit (holdfast check).")
@click.option("-i", "--config-id", help="Id for lines beginning with @ (default: the host's short name).")
@click.option("-e", "--all-config", is_flag=True, help="Every problem of an include is an error.")
@click.option("-s", "--namespace", help="Network namespace to run in.")
@click.option("-p", "--pid", "pid_file", type=click.Path(path_type=Path), help="Pid file.")
@click.option("-r", "--vrrp_pid", type=click.Path(path_type=Path), help="Accepted for compatibility; unused.")
@click.option("-c", "--checkers_pid", type=click.Path(path_type=Path), help="Accepted for compatibility; unused.")
@click.option("-b", "--bfd_pid", type=click.Path(path_type=Path), help="Accepted for compatibility; unused.")
@click.option("-u", "--umask", help="Numeric umask.")
@click.option("-X", "--release-vips", is_flag=True, help="Accepted for compatibility; addresses follow the state.")
@click.option("-V", "--dont-release-vrrp", is_flag=True, help="Keep addresses, routes and rules at the end.")
@click.option("-I", "--dont-release-ipvs", is_flag=True, help="Keep the IPVS table at the end.")
@click.option("-R", "--dont-respawn", is_flag=True, help="Accepted for compatibility; a cell that dies is put back.")
@click.option("-a", "--address-monitoring", is_flag=True, help="As `holdfast tail --all link/` (accepted).")
@click.option("-x", "--snmp", is_flag=True, help="Accepted for compatibility; there is no SNMP.")
@click.option("--ignore-sigint", is_flag=True, help="Do not stop on SIGINT.")
@click.option(
    "--record", type=click.Path(path_type=Path), help="Record the sessions of the VRRP machines in this folder."
)
@click.option("--signum", type=click.Choice(list(SIGNALS)), help="Print the number of a signal and exit.")
def run(
    config: Path | None,
    settings: Path | None,
    run_dir: Path,
    only_vrrp: bool,
    only_check: bool,
    no_bfd: bool,
    foreground: bool,
    log_console: bool,
    log_detail: int,
    log_facility: str,
    log_file: Path | None,
    no_syslog: bool,
    dump_conf: bool,
    config_test: bool,
    config_id: str | None,
    all_config: bool,
    namespace: str | None,
    pid_file: Path | None,
    umask: str | None,
    dont_release_vrrp: bool,
    dont_release_ipvs: bool,
    ignore_sigint: bool,
    record: Path | None,
    signum: str | None,
    **_compatible: object,
) -> None:
    """Run the daemon with a keepalived.conf.

    The option letters are keepalived's. Signals: HUP reload, TERM and INT stop, USR1 dump, USR2 statistics.
    """
    if signum is not None:
        click.echo(SIGNALS[signum])
        return
    reading = Reading(
        path=config or default_config(),
        settings_path=settings,
        config_id=config_id or short_host_name(),
        only=("vrrp" if only_vrrp else "check" if only_check else None),
        without_bfd=no_bfd,
        strict_includes=all_config,
        keep_vrrp=dont_release_vrrp,
        keep_ipvs=dont_release_ipvs,
    )
    if config_test:
        sys.exit(check_and_report(reading))
    if umask is not None:
        os.umask(int(umask, 0))
    if namespace is not None:
        _enter(namespace)
    if record is not None:
        os.environ["HOLDFAST_RECORD"] = str(record.resolve())
    from holdfast.actors.runtime import handover, process, supervisor  # noqa: PLC0415 - not needed for -t and --signum
    from holdfast.actors.runtime.options import Options  # noqa: PLC0415

    if handover.probing():
        sys.exit(supervisor.probe(Options(run_dir=run_dir.absolute(), load=reading.load)))
    command = handover.Command.of_this_process()
    taking_over = handover.taking_over()
    _configure_log(log_console, log_detail, log_facility, log_file, syslog=not no_syslog)
    if not foreground and not taking_over:
        process.daemonize()
    log = logging.getLogger("holdfast")
    log.info("Starting holdfast with %s", reading.path)
    if dump_conf:
        _dump(reading, log)
    options = Options(
        run_dir=run_dir.absolute(),
        command=command,
        own_run_dir=str(run_dir) != DEFAULT_RUN_DIR,
        load=reading.load,
        pid_file=pid_file if pid_file is not None else run_dir.absolute() / "holdfast.pid",
        ignore_sigint=ignore_sigint,
        likely_rooms=reading.likely_rooms,
    )
    sys.exit(supervisor.run(options))


def _dump(reading: Reading, log: logging.Logger) -> None:
    """-d: the configuration as it was understood, without what has its default and without passwords."""
    for room, slices in reading.read().structs.items():
        for name, struct in slices.items():
            log.info("------< %s %s >------", room, name)
            for line in understood(struct):
                log.info("%s", line)


def _configure_log(console: bool, detail: int, facility: str, file: Path | None, *, syslog: bool) -> None:
    """Where lines go, for this process and the cells it forks. detail: how often -D was given."""
    from holdfast.actors.runtime import log  # noqa: PLC0415

    target: log.Target = "both" if console and syslog else "console" if console else "syslog" if syslog else "none"
    name = log.FACILITIES.get(int(facility), facility) if facility.isdigit() else facility
    log.configure(target, debug=detail > 1, facility=name)
    root = logging.getLogger()
    if detail == 1:
        root.setLevel(log.DETAIL)
    if file is not None:
        handler = logging.FileHandler(file)
        handler.setFormatter(log.ConsoleFormatter())
        root.addHandler(handler)


def _enter(namespace: str) -> None:
    from holdfast.kernel.base import KernelError  # noqa: PLC0415
    from holdfast.kernel.privileges import enter_network_namespace  # noqa: PLC0415

    try:
        enter_network_namespace(namespace)
    except KernelError as error:
        fail(f"network namespace {namespace}: {error}")
