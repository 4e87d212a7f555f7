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
        umask=values.get("umask", 0o177),
    )


def accept(
    context: Context,
    script: Script | None,
    line: Line,
    what: str,
    *,
    needed: bool = False,
    needs_user: bool | None = None,
    needs_default_user: bool = True,
    process: str = "vrrp",
) -> Script | None:
    """The script if it can run, or None after a complaint; counts it for script security.

    process: who runs it: vrrp, checkers, both, or main (at start and stop).

    needed: a script that is not found or not safe is an error; otherwise keepalived only logs it. needs_user: the same
    for a user that does not exist (as needed unless given). needs_default_user: the same when nobody is named.
    """
    if script is None:
        return None
    ids = _identity(context, script, line, what, needed if needs_user is None else needs_user, needs_default_user)
    if ids is None:
        return None
    name = script.argv[0] if script.argv else ""
    if name.startswith("</"):
        # For the shell, which tries to open the file: keepalived looks at nothing here either.
        return script
    program = context.host.program(name, *ids)
    severity = Severity.ERROR if needed else Severity.NOTE
    if not program.exists:
        context.report(severity, line, f"{what}: '{name}' is not found: dropped", "the path of a program", 1)
        return None
    if not program.secure and ids[0] == 0 and options(context).security:
        text = f"{what}: '{name}' can be changed by others than root: dropped"
        context.report(severity, line, text, "owner root, not writable by others, nor its directories", 1)
        return None
    context.scripts_seen[process] = context.scripts_seen.get(process, False) or not program.secure
    if not program.executable:
        text = f"{what}: '{name}' is not executable for its user: dropped"
        context.report(Severity.NOTE, line, text, "chmod +x", 1)
        return None
    return script


def _identity(
    context: Context, script: Script, line: Line, what: str, needed: bool, needs_default: bool
) -> tuple[int, int] | None:
    """uid and gid that the script runs as."""
    host = context.host
    chosen = options(context)
    user, group = (script.user, script.group) if script.user else (chosen.user, chosen.group)
    if user is None:
        if (ids := host.user(DEFAULT_USER)) is not None:
            return ids
        if chosen.security:
            hint = f"script_user in global_defs, or a user {DEFAULT_USER}"
            severity = Severity.ERROR if needs_default else Severity.NOTE
            context.report(severity, line, f"no user to run {what} as: script dropped", hint)
            return None
        return host.own_ids()
    ids = host.user(user)
    gid = host.group(group) if group is not None else None
    if ids is None or (group is not None and gid is None):
        missing = f"user '{user}'" if ids is None else f"group '{group}'"
        severity = Severity.ERROR if needed else Severity.NOTE
        hint = "quotes around the command and its arguments"
        context.report(severity, line, f"{missing} of {what} does not exist: script dropped", hint)
        return None
    return ids[0], ids[1] if gid is None else gid


def finish(context: Context) -> None:
    """Scripts without script security are a security violation, which is the verdict then; they run nevertheless."""
    if options(context).security:
        return
    # Only the processes that run look at their scripts; a missing interface ends the one of VRRP before it does.
    vrrp = bool(context.named("vrrp_instance")) and not context.missing_interfaces
    running = {"main": True, "vrrp": vrrp, "checkers": context.has_services, "both": vrrp or context.has_services}
    insecure = [insecure for process, insecure in context.scripts_seen.items() if running[process]]
    if not insecure:
        return
    text = "scripts are run without script security"
    if any(insecure):
        text += ", and some of them can be changed by others than root"
    context.report(Severity.SECURITY, None, text, "enable_script_security in global_defs")


def with_user(script: Script, user: tuple[str, str | None] | None) -> Script:
    """The script with the user of a `user` keyword."""
    return script if user is None else msgspec.structs.replace(script, user=user[0], group=user[1])
