"""The watch room's keywords (keepalived.conf(5): vrrp_script, track_file, vrrp_track_process)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from holdfast.actors.vrrp.config import LinkDelay
from holdfast.actors.watch.config import TrackFile, TrackProcess, TrackScript, WatchRoom
from holdfast.config import scripts
from holdfast.config.context import Context, MissingWord, Words
from holdfast.config.global_defs import User
from holdfast.config.kinds import Block, Bool, Choice, Command, Custom, Flag, Integer, Time, named_block
from holdfast.config.table import Draft, Keyword, Kind, Room, Status
from holdfast.config.text import UnterminatedQuote, integer, split_shell_like
from holdfast.config.values import Script

_UINT32 = (1 << 32) - 1
_INT32 = (1 << 31) - 1


class WeightAndDirection(Kind):
    """WEIGHT [reverse], for the thing itself. once: the first one counts."""

    def __init__(self, limit: int, *, once: bool = False) -> None:
        self.limit = limit
        self.once = once
        self.shape = f"-{limit}..{limit} [reverse]"

    def take(self, words: Words, keyword: Keyword, draft: Draft) -> None:
        """Fills `weight` with (weight, reverse?)."""
        if self.once and draft.has("weight"):
            words.error(f"the weight of '{draft.name}' is given twice: ignored", "one weight", index=0)
            return
        number = Integer(-self.limit, self.limit).read(words)
        reverse = len(words) > 2 and words.items[2] == "reverse"
        if len(words) > 2 and not reverse:
            words.error(f"unknown word '{words.items[2]}' behind the weight: ignored", "reverse", index=2)
        if number is not None:
            draft.put("weight", (number, reverse), words.line)


class ScriptCommand(Command):
    """The command of a vrrp_script; a missing one is complained of at the end of the block."""

    def read(self, words: Words, index: int = 1) -> Script | None:
        """The script, or None."""
        try:
            items = split_shell_like(words.line.text)
            argv = split_shell_like(items[1]) if len(items) > 1 else []
            if len(items) > 2:
                # Without quotes the whole rest of the line is the command.
                argv = items[1:]
        except UnterminatedQuote as error:
            words.error(f"unterminated {error.quote} in '{words.line.text}': ignored", f"close it with {error.quote}")
            return None
        return Script(argv=tuple(argv)) if argv else None


class LooseCount(Integer):
    """A count that becomes 1 when it is none, with a complaint."""

    def __init__(self) -> None:
        super().__init__(1, _INT32, otherwise=1)


def _close_script(draft: Draft, context: Context) -> None:
    if not draft.has("command"):
        context.error(draft.line, f"vrrp_script '{draft.name}' has no script: dropped", 'script "PROGRAM"')
        _forget(context, "vrrp_script", draft)
        return
    script: Script = scripts.with_user(draft.get("command"), draft.get("user"))
    if draft.get("bad_user"):
        _forget(context, "vrrp_script", draft)
        return
    draft.values["command"] = script


def _forget(context: Context, kind: str, draft: Draft) -> None:
    if context.named(kind).get(draft.name) is draft:
        del context.named(kind)[draft.name]


def _user(words: Words, draft: Draft) -> None:
    user = User().read(words)
    if user is None:
        draft.values["bad_user"] = True
    else:
        draft.put("user", user, words.line)


_SCRIPT = (
    Keyword("script", ScriptCommand(), "the program that checks; exit status 0 is good", field="command"),
    Keyword("interval", Time(0, 4294, places=0, zero=1), "time between two starts", field="interval_us"),
    Keyword("timeout", Time(0, 4294, places=0, zero=1), "how long it may run", field="timeout_us"),
    Keyword("weight", WeightAndDirection(253), "what it adds to the priority; 0: FAULT while it fails"),
    Keyword("rise", LooseCount(), "successes in a row until it counts as good"),
    Keyword("fall", LooseCount(), "failures in a row until it counts as bad"),
    Keyword("user", Custom(_user, "USER [GROUP]"), "whom it runs as"),
    Keyword("init_fail", Flag(), "counts as bad at the start"),
)


def _init_file(words: Words, draft: Draft) -> None:
    """`init_file [VALUE] [overwrite]`."""
    draft.values.setdefault("init_value", 0)
    for index in range(1, len(words)):
        word = words.items[index]
        number = integer(word)
        if word == "overwrite":
            draft.values["init_overwrite"] = True
        elif number is None:
            words.error(f"unknown word '{word}' for init_file: ignored", "[VALUE] [overwrite]", index=index)
        elif not -(1 << 31) <= number <= _INT32:
            words.error(f"init_file cannot be '{word}': ignored", "a 32-bit number", index=index)
        else:
            draft.values["init_value"] = number


def _path(words: Words, draft: Draft) -> None:
    """The file; the whole word, quoted when it has blanks. The first one counts."""
    if draft.has("path"):
        words.error(f"the file of '{draft.name}' is given twice: ignored", "one file", index=0)
        return
    draft.put("path", words.word(), words.line)


def _open_file(words: Words, parent: Draft) -> Draft | None:
    """track_file and vrrp_track_file have their names in common; a later one of the same name is another."""
    if len(words) != 2:
        words.error(f"'{words.items[0]}' must have one name: block skipped", f"{words.items[0]} NAME {{")
        return None
    draft = Draft(words.line, words.items[1], parent)
    files = words.context.named("track_file")
    if draft.name in files:
        draft.values["duplicate"] = True
    else:
        files[draft.name] = draft
    return draft


def _close_file(draft: Draft, context: Context) -> None:
    if not draft.has("path"):
        context.error(draft.line, f"track_file '{draft.name}' has no file: dropped", "file PATH")
        _forget(context, "track_file", draft)


_FILE = (
    Keyword("file", Custom(_path, "PATH"), "the file that has the number"),
    Keyword("weight", WeightAndDirection(254, once=True), "factor of the number; 0: FAULT unless it is 0"),
    Keyword("init_file", Custom(_init_file, "[VALUE] [overwrite]"), "creates it at the start"),
)


def _process(words: Words, draft: Draft) -> None:
    """`process PATH [ARGUMENTS]`; in quotes or not. The first one counts."""
    if draft.has("path"):
        words.error(f"the process of '{draft.name}' is given twice: ignored", "one process", index=0)
        return
    try:
        items = split_shell_like(words.line.text)[1:]
        if len(items) == 1:
            items = split_shell_like(items[0])
    except UnterminatedQuote as error:
        words.error(f"unterminated {error.quote} in '{words.line.text}': ignored", f"close it with {error.quote}")
        return
    if not items:
        raise MissingWord
    draft.put("path", items[0], words.line)
    if len(items) > 1:
        draft.put("parameters", tuple(items[1:]), words.line)


def _delay(words: Words, draft: Draft) -> None:
    number = Time(0.000001, 3600).read(words)
    if number is not None:
        for field in (
            ("fork_delay_us", "terminate_delay_us") if words.items[0] == "delay" else (f"{words.items[0]}_us",)
        ):
            draft.put(field, number, words.line)


def _close_process(draft: Draft, context: Context) -> None:
    if not draft.has("path"):
        context.error(draft.line, f"vrrp_track_process '{draft.name}' has no process: dropped", "process PATH")
        _forget(context, "vrrp_track_process", draft)
    elif draft.has("quorum") and draft.get("quorum_max") is not None and draft.get("quorum") > draft.get("quorum_max"):
        hint = "quorum <= quorum_max"
        context.error(draft.line_of("quorum_max"), "quorum_max is less than quorum: ignored", hint, 1)
        del draft.values["quorum_max"]


_PROCESS = (
    Keyword("process", Custom(_process, "PATH [ARGUMENTS]"), "the process that must run"),
    Keyword("param_match", Choice(("initial", "partial")), "how its arguments are compared"),
    Keyword("weight", WeightAndDirection(254, once=True), "what it adds to the priority; 0: FAULT without it"),
    Keyword("quorum", Integer(1, 65535), "how many must run"),
    Keyword("quorum_max", Integer(0, 65535), "how many may run"),
    Keyword("delay", Custom(_delay, "0.000001..3600 s"), "how long a change must last"),
    Keyword("terminate_delay", Custom(_delay, "0.000001..3600 s"), "the same when there are fewer"),
    Keyword("fork_delay", Custom(_delay, "0.000001..3600 s"), "the same when there are more"),
    Keyword("full_command", Flag(), "compares the whole command line"),
)

ROOT = (
    Keyword(
        "vrrp_script",
        Block(_SCRIPT, named_block("vrrp_script", unique=False), _close_script, "NAME"),
        "a script that instances follow",
    ),
    Keyword("track_file", Block(_FILE, _open_file, _close_file, "NAME"), "a file with a number to follow"),
    Keyword(
        "vrrp_track_file",
        Block(_FILE, _open_file, _close_file, "NAME"),
        "a file with a number to follow",
        deprecated="track_file",
    ),
    Keyword(
        "vrrp_track_process",
        Block(_PROCESS, named_block("vrrp_track_process", unique=False), _close_process, "NAME"),
        "a process to follow",
    ),
)

GLOBAL_DEFS = (
    Keyword(
        "process_monitor_rcv_bufs",
        Integer(0, _UINT32, unit="bytes"),
        "buffer of the process connector",
        status=Status.ACCEPTED,
    ),
    Keyword("process_monitor_rcv_bufs_force", Bool(), "above the kernel's limit", status=Status.ACCEPTED),
)


def _tracked(context: Context, keyword: str) -> set[str]:
    """Names that some instance or group has in its track block."""
    blocks = (*context.named("vrrp_instance").values(), *context.named("vrrp_sync_group").values())
    return {name for draft in blocks for name in draft.get(keyword, ())}


def _script(context: Context, draft: Draft) -> TrackScript | None:
    line = draft.line_of("command")
    command = scripts.accept(context, draft.get("command"), line, f"vrrp_script {draft.name}", needed=True)
    if command is None:
        return None
    weight, reverse = draft.get("weight", (0, False))
    interval = draft.get("interval_us", 1_000_000)
    return TrackScript(
        name=draft.name,
        command=command,
        interval_us=interval,
        timeout_us=draft.get("timeout_us", interval),
        rise=draft.get("rise", 1),
        fall=draft.get("fall", 1),
        weight=weight,
        reverse=reverse,
        init_fail=bool(draft.get("init_fail")),
    )


def _file(draft: Draft) -> TrackFile:
    weight, reverse = draft.get("weight", (1, False))
    return TrackFile(
        name=draft.name,
        path=draft.get("path"),
        weight=weight,
        reverse=reverse,
        init_value=draft.get("init_value"),
        init_overwrite=bool(draft.get("init_overwrite")),
    )


def _track_process(draft: Draft) -> TrackProcess:
    weight, reverse = draft.get("weight", (0, False))
    fields = {
        name: draft.get(name)
        for name in ("param_match", "full_command", "quorum", "quorum_max", "fork_delay_us", "terminate_delay_us")
        if draft.has(name)
    }
    return TrackProcess(
        name=draft.name,
        path=draft.get("path"),
        parameters=draft.get("parameters"),
        weight=weight,
        reverse=reverse,
        **fields,
    )


def finish(context: Context) -> Mapping[str, msgspec.Struct]:
    """The slices of the watch room."""
    tracked = _tracked(context, "track_script")
    # Without an instance nothing runs that could look at scripts.
    drafts = context.named("vrrp_script").values() if context.named("vrrp_instance") else ()
    found = [script for draft in drafts if (script := _script(context, draft)) is not None and draft.name in tracked]
    room = WatchRoom(
        scripts=tuple(found),
        files=tuple(_file(draft) for draft in context.named("track_file").values()),
        processes=tuple(_track_process(draft) for draft in context.named("vrrp_track_process").values()),
        link_delays=tuple(
            LinkDelay(interface=name, down_us=down, up_us=up) for name, down, up in context.root.get("link_delays", ())
        ),
        script_options=scripts.options(context),
        process_monitor_rcv_bytes=context.globals.get("process_monitor_rcv_bufs"),
    )
    return {"room": room}


WATCH = Room("watch", root=ROOT, global_defs=GLOBAL_DEFS, finish=finish)
