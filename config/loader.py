"""Loads a configuration: the slices of every room, what is wrong with it, and keepalived's verdict.

Core only: the tables of the rooms come in as an argument (holdfast.actors.registry has them). What is asked of the host
goes through `Host`, so that a test needs no kernel.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Mapping

import msgspec

from holdfast.config import global_defs, scripts
from holdfast.config.context import Context
from holdfast.config.diagnostics import Diagnostic, Diagnostics, Severity, exit_code
from holdfast.config.host import Host, RealHost
from holdfast.config.parser import Parser
from holdfast.config.source import Source
from holdfast.config.table import Room, Row, Tables, rows
from holdfast.config.values import ProcessOptions

DEFAULT_PATHS = ("/etc/holdfast/holdfast.conf", "/etc/keepalived/keepalived.conf")


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration that was read.

    rooms: the slices for the cells, msgpack. structs: the same as values. exit_code: as `keepalived -t` (2.2.7) gives:
    0 good, 4 fatal, 5 a complaint, 6 script security or a missing include. files: all that were read.
    """

    rooms: dict[str, dict[str, bytes]]
    structs: dict[str, dict[str, msgspec.Struct]]
    diagnostics: tuple[Diagnostic, ...]
    exit_code: int
    process: ProcessOptions
    files: tuple[str, ...] = ()
    exists: bool = True

    @property
    def has_errors(self) -> bool:
        """Whether something written was ignored or changed: then a reload is refused."""
        return any(found.severity in (Severity.ERROR, Severity.FATAL) for found in self.diagnostics)


def default_config_id() -> str:
    """What `@ID` is compared with without -i: the host name up to its first dot."""
    return socket.gethostname().partition(".")[0]


def load(
    path: str | os.PathLike[str],
    tables: Tables,
    *,
    config_id: str | None = None,
    environment: Mapping[str, str] | None = None,
    host: Host | None = None,
    seed: int | None = None,
    check_all: bool = False,
) -> Loaded:
    """Reads the configuration at `path` (a glob); never raises for what is in it.

    config_id: for `@ID` lines. environment: for `${_ENV NAME}`, ours unless given. seed: of `${_RANDOM}`.
    check_all: every problem with an include counts (keepalived's --all-config).
    """
    collecting = gc.isenabled()
    gc.disable()  # Hundreds of thousands of lines make no cycles worth looking for.
    try:
        return _load(os.fspath(path), tables, config_id, environment, host, seed, check_all)
    finally:
        if collecting:
            gc.enable()


def _load(
    path: str,
    tables: Tables,
    config_id: str | None,
    environment: Mapping[str, str] | None,
    host: Host | None,
    seed: int | None,
    check_all: bool,
) -> Loaded:
    diagnostics = Diagnostics()
    source = Source(
        diagnostics,
        config_id=default_config_id() if config_id is None else config_id,
        environment=os.environ if environment is None else environment,
        seed=seed,
        check_all=check_all,
    )
    context = Context(source, diagnostics, RealHost() if host is None else host)
    all_rooms = complete(tables)
    exists = source.open_main(path)
    if not exists:
        diagnostics.add(None, Severity.NOTE, f"there is no configuration file '{path}'")
    Parser(context, all_rooms).run()
    context.report_missing_interfaces()
    encoder = msgspec.msgpack.Encoder()
    encoded: dict[str, dict[str, bytes]] = {}
    for room in all_rooms:
        if room.finish is not None:
            slices = dict(room.finish(context))
            context.structs[room.name] = slices
            encoded[room.name] = {name: encoder.encode(value) for name, value in slices.items()}
    process = global_defs.process_options(context)
    scripts.finish(context)
    listed = diagnostics.listed()
    return Loaded(
        rooms=encoded,
        structs=context.structs,
        diagnostics=listed,
        exit_code=exit_code(listed),
        process=process,
        files=tuple(source.files),
        exists=exists,
    )


def complete(tables: Tables) -> tuple[Room, ...]:
    """The rooms' tables and that of the process itself, which holds the global_defs of all."""
    return (global_defs.root(tables), *tables)


def keyword_rows(tables: Tables) -> list[Row]:
    """Every keyword as data, for documentation, completion and tests."""
    return rows(complete(tables))
