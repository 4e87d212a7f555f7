"""Keywords of the process itself: names, namespaces, scheduling, scripts at start and stop, reload, files.

They fill `values.ProcessOptions`, which the supervisor gets; no room owns them.
"""

from __future__ import annotations

import re

from holdfast.config import include, scripts
from holdfast.config.context import Context, MissingWord, Words
from holdfast.config.kinds import Block, Bool, Command, Custom, Flag, Integer, OptionalWord, Time, Value, Word
from holdfast.config.table import Draft, Keyword, Kind, Room, Status
from holdfast.config.text import integer
from holdfast.config.values import ProcessOptions, Scheduling

_UINT32 = (1 << 32) - 1
_UMASK_BITS = {
    f"I{right}{who}": bit >> shift
    for who, shift in (("USR", 0), ("GRP", 3), ("OTH", 6))
    for right, bit in (("R", 0o400), ("W", 0o200), ("X", 0o100))
}


class RequiredWord(Word):
    """A word whose absence keepalived reports and survives."""

    def read(self, words: Words, index: int = 1) -> object:
        """The word, or None after a complaint."""
        if len(words) <= index:
            words.error(f"'{words.items[0]}' lacks a word: ignored", f"{words.items[0]} {self.shape}", index=index)
            return None
        return super().read(words, index)


class User(Value):
    """USER [GROUP], both known to this host."""

    shape = "USER [GROUP]"

    def read(self, words: Words, index: int = 1) -> object:
        """(user, group or None), or None after a complaint."""
        if len(words) <= index:
            words.error(f"'{words.items[0]}' lacks a user: ignored", f"{words.items[0]} USER [GROUP]", index=index)
            return None
        user = words.items[index]
        group = words.items[index + 1] if len(words) > index + 1 else None
        host = words.context.host
        # `:group` and `:` (newer ones) add the supplementary groups.
        name = None if group is None else group.lstrip(":") or None
        if host.user(user) is None:
            words.error(f"user '{user}' does not exist: ignored", "", index=index)
            return None
        if name is not None and host.group(name) is None:
            words.error(f"group '{name}' does not exist: ignored", "", index=index + 1)
            return None
        return user, name


class RealTime(Integer):
    """A real-time priority; what is out of range is clipped, with a complaint."""

    def __init__(self) -> None:
        super().__init__(1, 99)

    def read(self, words: Words, index: int = 1) -> int | None:
        """1..99, or None."""
        number = integer(words.word(index))
        if number is not None and not 1 <= number <= 99:
            clipped = min(max(number, 1), 99)
            words.error(f"real-time priority {number}: {clipped} taken", "1..99", index=index)
            return clipped
        read: int | None = super().read(words, index)
        return read


class Processors(Value):
    """A list of CPU numbers that this host has."""

    shape = "CPU [CPU ...]"

    def read(self, words: Words, index: int = 1) -> tuple[int, ...] | None:
        """The numbers, or None after a complaint."""
        if len(words) <= index:
            words.error(f"'{words.items[0]}' lacks a CPU: ignored", f"{words.items[0]} {self.shape}", index=index)
            return None
        count = words.context.host.processors()
        chosen: list[int] = []
        for at in range(index, len(words)):
            number = integer(words.items[at])
            if number is None or not 0 <= number < count or "-" in words.items[at]:
                words.error(f"'{words.items[at]}' is no CPU of this host: ignored", f"0..{count - 1}", index=at)
                continue
            chosen.append(number)
        return tuple(chosen)


class Umask(Value):
    """A file mode mask: a number in C's notation, or IRUSR|IWGRP|..."""

    shape = "NUMBER|IRUSR|IWUSR|..."

    def read(self, words: Words, index: int = 1) -> int | None:
        """The mask, or None after a complaint."""
        word = words.word(index)
        hint = "a number up to 0777, or IRUSR, IWGRP, ... joined by |"
        if word[:1].isdigit():
            value: int | None = None
            if re.fullmatch(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*", word):
                value = int(word, 8) if word[0] == "0" and word[1:].isdigit() else int(word, 0)
            if value is not None and value <= 0o777:
                return value
            words.error(f"umask cannot be '{word}': ignored", hint, index=index)
            return None
        mask = 0
        for name in re.split(r"\|", "".join(words.items[index:])):
            if name not in _UMASK_BITS:
                words.error(f"'{name}' is no umask bit: ignored", hint, index=index)
                return None
            mask |= _UMASK_BITS[name]
        return mask


class StartStopScript(Command):
    """A command whose absence keepalived reports and survives."""

    def read(self, words: Words, index: int = 1) -> object:
        """The script, or None after a complaint."""
        try:
            return super().read(words, index)
        except MissingWord:
            words.error(f"'{words.items[0]}' lacks a command: ignored", f"{words.items[0]} {self.shape}", index=index)
            return None


def _include_check(words: Words, draft: Draft) -> None:
    """`include_check [[+|-]TYPE ...]`."""
    source = words.context.source
    types = set(source.include_check)
    if len(words) == 1:
        source.set_include_check(include.ALL)
        return
    for index in range(1, len(words)):
        word = words.items[index]
        sign, name = (word[0], word[1:]) if word[0] in "+-" else ("", word)
        if name not in include.CHECK_TYPES:
            hint = ", ".join(include.CHECK_TYPES)
            words.error(f"'{name}' is no kind of include check: ignored", hint, index=index)
            continue
        if not sign and index == 1:
            types = {include.READ}
        (types.discard if sign == "-" else types.add)(name)
    source.set_include_check(frozenset(types))


def _random_seed(words: Words, draft: Draft) -> None:
    seed = Integer(0, _UINT32).read(words)
    if seed is not None:
        words.context.source.definitions.seed(seed)


def _global_defs(words: Words, parent: Draft) -> Draft:
    """All blocks of global_defs fill one draft."""
    draft = words.context.globals
    if not draft.line.number:
        draft.line = words.line
    return draft


def _scheduling(process: str, title: str) -> list[Keyword]:
    """The scheduling keywords of one process."""

    def keyword(name: str, kind: Kind, doc: str, **more: str) -> Keyword:
        return Keyword(f"{process}_{name}", kind, doc, field=more.pop("field", f"{process}_{name}"), **more)  # type: ignore[arg-type]

    return [
        keyword("priority", Integer(-20, 19), f"nice value of {title}"),
        keyword("rt_priority", RealTime(), f"real-time priority of {title} (SCHED_RR)"),
        keyword("rlimit_rttime", Integer(1, _UINT32, unit="us"), f"RLIMIT_RTTIME of {title}"),
        keyword(
            "rlimit_rtime",
            Integer(1, _UINT32, unit="us"),
            f"RLIMIT_RTTIME of {title}",
            field=f"{process}_rlimit_rttime",
            deprecated=f"{process}_rlimit_rttime",
        ),
        keyword("cpu_affinity", Processors(), f"the CPUs {title} may run on"),
        keyword("no_swap", Flag(), f"locks the memory of {title}"),
        keyword("process_name", Word("NAME", longest=15), f"name of {title} in process lists"),
    ]


_ACCEPTED = Status.ACCEPTED

GLOBAL_DEFS = (
    *_scheduling("vrrp", "the protocol cell"),
    *_scheduling("checker", "the checkers cells"),
    *_scheduling("bfd", "the bfd cell"),
    Keyword(
        "lvs_process_name",
        Word("NAME", longest=15),
        "name of the checkers cells in process lists",
        field="checker_process_name",
        deprecated="checker_process_name",
    ),
    Keyword("process_names", Flag(), "gives each process a name of its own in process lists"),
    Keyword("process_name", Word("NAME", longest=15), "name of the supervisor in process lists"),
    Keyword("router_id", RequiredWord("NAME"), "name of this router in mails; the host name unless given"),
    Keyword("startup_script", StartStopScript(), "run before anything is started"),
    Keyword("startup_script_timeout", Integer(1, 1000, unit="s"), "how long startup_script may run"),
    Keyword("shutdown_script", StartStopScript(), "run after everything was stopped"),
    Keyword("shutdown_script_timeout", Integer(1, 1000, unit="s"), "how long shutdown_script may run"),
    Keyword("max_auto_priority", OptionalWord("-1..99"), "raises priorities when the host is late"),
    Keyword(
        "min_auto_priority_delay",
        Integer(1, 10_000_000, unit="us"),
        "how late it must be for max_auto_priority",
    ),
    Keyword("script_user", User(), "whom scripts run as"),
    Keyword("enable_script_security", Flag(), "refuses scripts run as root that others can change"),
    Keyword("use_symlink_paths", Bool(), "runs scripts by their path as written", newer=True),
    Keyword(
        "set_supplementary_groups",
        Bool(),
        "gives scripts their user's supplementary groups",
        newer=True,
    ),
    Keyword("umask", Umask(), "mode mask of files that are made"),
    Keyword("random_seed", Custom(_random_seed, "NUMBER"), "seed of ${_RANDOM}"),
    Keyword("include_check", Custom(_include_check, "[[+|-]TYPE ...]"), "which problems of includes count"),
    Keyword("reload_check_config", OptionalWord("LOG"), "checks a configuration before it is loaded (always done)"),
    Keyword("reload_time_file", RequiredWord("FILE"), "a file that says when to reload", status=_ACCEPTED),
    Keyword("reload_repeat", Flag(), "reload_time_file is for every day", status=_ACCEPTED),
    Keyword("reload_file", OptionalWord("FILE"), "a file that exists while reloading", status=_ACCEPTED),
    Keyword("config_save_dir", Word("DIRECTORY"), "where configurations are kept", status=_ACCEPTED),
    Keyword("tmp_config_directory", RequiredWord("DIRECTORY"), "where copies are made", status=Status.NEVER),
    Keyword("data_use_instance", Bool(), "dump files have the instance's name", status=_ACCEPTED),
    Keyword("json_version", Integer(1, 2), "layout of the JSON dump", newer=True, status=_ACCEPTED),
    Keyword("iproute_usr_dir", Word("DIRECTORY"), "where iproute2's names are", newer=True, status=_ACCEPTED),
    Keyword("iproute_etc_dir", Word("DIRECTORY"), "where iproute2's names are", newer=True, status=_ACCEPTED),
    Keyword("state_dump_file", Word("PATH"), "where the state is dumped to", newer=True, status=_ACCEPTED),
    Keyword("stats_dump_file", Word("PATH"), "where statistics are dumped to", newer=True, status=_ACCEPTED),
    Keyword("json_dump_file", Word("PATH"), "where JSON is dumped to", newer=True, status=_ACCEPTED),
    Keyword("snmp_socket", RequiredWord("SOCKET"), "AgentX socket", status=_ACCEPTED),
    Keyword("enable_traps", Flag(), "SNMP traps", status=_ACCEPTED),
    Keyword("enable_dbus", Flag(), "the D-Bus service", status=_ACCEPTED),
    Keyword("dbus_service_name", RequiredWord("NAME"), "name of the D-Bus service", status=_ACCEPTED),
    Keyword("dbus_no_interface_name", Word("NAME"), "D-Bus path without interface", newer=True, status=_ACCEPTED),
)

ROOT = (
    Keyword("net_namespace", RequiredWord("NAME"), "the network namespace to run in"),
    Keyword("net_namespace_ipvs", OptionalWord("NAME"), "the network namespace of IPVS"),
    Keyword("namespace_with_ipsets", Flag(), "ipsets exist in namespaces", status=Status.NEVER),
    Keyword("instance", RequiredWord("NAME"), "name of this of several daemons"),
    Keyword("use_pid_dir", Flag(), "pid files in a directory of their own", status=_ACCEPTED),
    Keyword(
        "child_wait_time",
        Time(0, 4294, places=0),
        "how long a clean stop may take",
        field="child_wait_us",
        status=Status.NEVER,
    ),
)


def root(tables: tuple[Room, ...]) -> Room:
    """The room of the process itself, with the global_defs of all rooms."""
    keywords = [keyword for room in tables for keyword in room.global_defs]
    block = Block((*GLOBAL_DEFS, *keywords), _global_defs)
    doc = "settings of the whole daemon"
    return Room("process", root=(*ROOT, Keyword("global_defs", block, doc)), global_defs=GLOBAL_DEFS)


def process_options(context: Context) -> ProcessOptions:
    """What the supervisor gets."""
    values = context.globals
    top = context.root
    found = {
        name: value
        for name in ProcessOptions.__struct_fields__
        if (value := values.get(name, top.get(name))) is not None
        and name not in ("protocol", "checkers", "bfd", "scripts", "max_auto_priority")
    }
    for name in ("startup_script", "shutdown_script"):
        if name in found:
            found[name] = scripts.accept(
                context,
                found[name],
                values.line_of(name),
                name,
                needs_user=True,
                needs_default_user=False,
                process="main",
            )
    for option in ("startup_script_timeout", "shutdown_script_timeout", "min_auto_priority_delay"):
        if values.has(option):
            found[f"{option}_{'us' if option.startswith('min') else 's'}"] = values.get(option)
    return ProcessOptions(
        protocol=_schedule(values, "vrrp"),
        checkers=_schedule(values, "checker"),
        bfd=_schedule(values, "bfd"),
        scripts=scripts.options(context),
        max_auto_priority=_auto_priority(context),
        **found,
    )


def _auto_priority(context: Context) -> int:
    text = context.globals.get("max_auto_priority")
    if text is None:
        return 0
    number = 99 if text == "" else integer(text)
    if number is None or not -1 <= number <= 99:
        line = context.globals.line_of("max_auto_priority")
        context.error(line, f"'max_auto_priority' cannot be '{text}': ignored", "-1..99", 1)
        return 0
    return number


def _schedule(values: Draft, process: str) -> Scheduling:
    return Scheduling(
        nice=values.get(f"{process}_priority", 0),
        rt_priority=values.get(f"{process}_rt_priority"),
        rlimit_rttime_us=values.get(f"{process}_rlimit_rttime"),
        cpu_affinity=values.get(f"{process}_cpu_affinity", ()),
        no_swap=values.get(f"{process}_no_swap", False),
        process_name=values.get(f"{process}_process_name"),
    )
