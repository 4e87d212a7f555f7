"""The verdict on scripts: their users, and script security (keepalived.conf(5), "script_user").

Rooms ask for each script that is in use; at the end one complaint says whether security was switched on.
"""

from __future__ import annotations

import msgspec

from holdfast.config.context import Context
from holdfast.config.diagnostics import Severity
from holdfast.config.source import Line
from holdfast.config.values import Script, ScriptOptions

DEFAULT_USER = "keepalived_script"


def options(context: Context) -> ScriptOptions:
    """script_user, enable_script_security and what belongs to them."""
    values = context.globals
    user = values.get("script_user")
    return ScriptOptions(
        user=user[0] if user else None,
        group=user[1] if user else None,
        security=bool(values.get("enable_script_security")),
        use_symlink_paths=bool(values.get("use_symlink_paths")),
        set_supplementary_groups=bool(values.get("set_supplementary_groups")),
    )


def accept(context: Context, script: Script | None, line: Line, what: str) -> Script | None:
    """The script if it can run, or None after a complaint; counts it for script security."""
    if script is None:
        return None
    ids = _identity(context, script, line, what)
    if ids is None:
        return None
    context.scripts_seen += 1
    if script.argv and not context.host.program(script.argv[0].removeprefix("<"), *ids).secure:
        context.insecure_scripts = True
    return script


def _identity(context: Context, script: Script, line: Line, what: str) -> tuple[int, int] | None:
    """uid and gid that the script runs as."""
    host = context.host
    chosen = options(context)
    user, group = (script.user, script.group) if script.user else (chosen.user, chosen.group)
    if user is None:
        if (ids := host.user(DEFAULT_USER)) is not None:
            return ids
        if chosen.security:
            hint = f"script_user in global_defs, or a user {DEFAULT_USER}"
            context.error(line, f"no user to run {what} as: script dropped", hint)
            return None
        return host.own_ids()
    ids = host.user(user)
    gid = host.group(group) if group is not None else None
    if ids is None or (group is not None and gid is None):
        missing = f"user '{user}'" if ids is None else f"group '{group}'"
        context.error(line, f"{missing} of {what} does not exist: script dropped")
        return None
    return ids[0], ids[1] if gid is None else gid


def finish(context: Context) -> None:
    """Scripts without script security are a security violation, which is the verdict then; they run nevertheless."""
    if not context.scripts_seen or options(context).security:
        return
    text = "scripts are run without script security"
    if context.insecure_scripts:
        text += ", and some of them can be changed by others than root"
    context.report(Severity.SECURITY, None, text, "enable_script_security in global_defs")


def with_user(script: Script, user: tuple[str, str | None] | None) -> Script:
    """The script with the user of a `user` keyword."""
    return script if user is None else msgspec.structs.replace(script, user=user[0], group=user[1])
