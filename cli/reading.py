"""Reading the two configuration files for `run`, `check` and `plan`: keepalived's language and holdfast.toml."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from holdfast.actors.bfd.profiles import BfdSettingsError
from holdfast.actors.bfd.profiles import parse_settings as parse_bfd_settings
from holdfast.actors.ipvs.config import IpvsGlobals
from holdfast.actors.registry import TABLES
from holdfast.actors.runtime.loading import LoadedConfig
from holdfast.actors.vrrp.config import VrrpRoom
from holdfast.config import settings as holdfast_toml
from holdfast.config.diagnostics import Severity
from holdfast.config.loader import Loaded, load

ROOMS_OF = {"vrrp": ("vrrp", "watch", "notify", "bfd"), "check": ("ipvs", "checkers", "watch", "notify", "bfd")}
"""What -P and -C leave."""

LIKELY = {
    b"vrrp_": ("watch", "vrrp", "notify"),
    b"include": ("watch", "vrrp", "notify"),
    b"virtual_server": ("ipvs", "checkers"),
    b"notify": ("notify",),
}
"""A word of the file, and who most likely has something to do then."""

GLOBALS = "globals"
"""The slice that a room divided by virtual servers always has."""
EXIT_FATAL = 4
EXIT_MISSING = 6


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Where the configuration is and how it is read. only: `vrrp` or `check` (-P, -C)."""

    path: Path
    settings_path: Path | None = None
    config_id: str | None = None
    only: str | None = None
    without_bfd: bool = False
    strict_includes: bool = False
    keep_vrrp: bool = False
    keep_ipvs: bool = False

    def read(self) -> Loaded:
        """The keepalived.conf alone."""
        return load(self.path, TABLES, config_id=self.config_id, check_all=self.strict_includes)

    def likely_rooms(self) -> frozenset[str]:
        """A guess at the rooms that the file asks for, from some words in it: to import them while it is parsed."""
        try:
            text = self.path.read_bytes()
        except OSError:
            return frozenset()
        rooms = {room for word, some in LIKELY.items() if word in text for room in some}
        return frozenset(rooms if self.only is None else rooms & set(ROOMS_OF[self.only]))

    def load(self) -> LoadedConfig:
        """Both files, as the supervisor wants them. It runs in a process of its own.

        Like keepalived, the daemon starts with a file that has mistakes in it (each is said and left out); only what
        makes running impossible refuses it. A reload is stricter: any mistake refuses the new file whole.
        """
        try:
            settings = holdfast_toml.load(self.settings_path)
        except holdfast_toml.SettingsError as error:
            return LoadedConfig({}, "\n".join(error.messages), EXIT_MISSING, source=str(self.path))
        try:
            parse_bfd_settings(settings.bfd)
        except BfdSettingsError as error:
            return LoadedConfig({}, "\n".join(error.messages), EXIT_MISSING, source=str(self.path))
        loaded = self.read()
        lines = [str(each) for each in loaded.diagnostics]
        code = 0
        if not loaded.exists:
            code = EXIT_MISSING
        elif any(each.severity is Severity.FATAL for each in loaded.diagnostics):
            code = loaded.exit_code or EXIT_FATAL
        return LoadedConfig(
            self._wanted(loaded, settings),
            "\n".join(lines),
            code,
            settings=settings,
            source=str(self.path),
            has_errors=loaded.has_errors,
            process=loaded.process,
        )

    def _wanted(self, loaded: Loaded, settings: holdfast_toml.Settings) -> dict[str, dict[str, bytes]]:
        """The slices of the rooms that have something to do."""
        rooms = {room: dict(slices) for room, slices in loaded.rooms.items() if slices and not idle(loaded, room)}
        if self.only is not None:
            rooms = {room: slices for room, slices in rooms.items() if room in ROOMS_OF[self.only]}
        if self.without_bfd:
            rooms.pop("bfd", None)
        if "bfd" in rooms and settings.bfd:
            # So that a reload that changes only [bfd] of holdfast.toml reaches the room.
            rooms["bfd"]["settings"] = msgspec.msgpack.encode(settings.bfd)
        if self.keep_vrrp and "vrrp" in rooms:
            room = msgspec.msgpack.decode(rooms["vrrp"]["room"], type=VrrpRoom)
            kept = msgspec.structs.replace(room, dont_release=True)
            rooms["vrrp"] = {"room": msgspec.msgpack.encode(kept)}
        if self.keep_ipvs and "ipvs" in rooms:
            lasting = msgspec.msgpack.decode(rooms["ipvs"][GLOBALS], type=IpvsGlobals)
            rooms["ipvs"][GLOBALS] = msgspec.msgpack.encode(msgspec.structs.replace(lasting, dont_release=True))
        return rooms


def idle(loaded: Loaded, room: str) -> bool:
    """True when a room's slices say nothing that anyone would act on."""
    structs = loaded.structs.get(room, {})
    if GLOBALS in structs:
        return len(structs) == 1  # there is no virtual server
    checks = loaded.structs.get("checkers", {}).values()
    if room == "watch" and any(getattr(each, "ha_suspend", False) for each in checks):
        return False  # the checks wait for addresses, which this room tells
    return all(not _required(struct) and struct == type(struct)() for struct in structs.values())


def _required(struct: msgspec.Struct) -> bool:
    """A Struct that cannot be made without values is something to do by itself."""
    return any(field.required for field in msgspec.structs.fields(type(struct)))


def check_and_report(reading: Reading) -> int:
    """`-t`: silence and 0 when all is well, else what is wrong on standard error, and keepalived's code."""
    loaded = reading.read()
    for found in loaded.diagnostics:
        click.echo(str(found), err=True)
    return loaded.exit_code


def understood(value: object, indent: int = 1) -> Iterator[str]:
    """A configuration value as indented lines: fields that differ from their default; passwords are hidden."""
    pad = "  " * indent
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(type(value)):
            item = getattr(value, field.name)
            if not field.required and item == field.default:
                continue
            if isinstance(item, bytes):
                yield f"{pad}{field.name} = ********"
            elif isinstance(item, msgspec.Struct) or (isinstance(item, tuple) and item and _structs(item)):
                yield f"{pad}{field.name}"
                yield from understood(item, indent + 1)
            else:
                yield f"{pad}{field.name} = {item}"
    elif isinstance(value, tuple):
        for item in value:
            yield f"{pad}-"
            yield from understood(item, indent + 1)


def _structs(items: tuple[object, ...]) -> bool:
    return all(isinstance(item, msgspec.Struct) for item in items)
