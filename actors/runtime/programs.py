"""Other people's programs, for every room that runs some: one helper for the whole cell, one way to judge a script.

The work is done in kernel/programs.py and kernel/program_access.py; here they meet the configuration's types.
"""

from __future__ import annotations

import asyncio
from functools import partial
from weakref import WeakKeyDictionary

from holdfast.actors.runtime.context import CellContext
from holdfast.config.values import Script, ScriptOptions
from holdfast.kernel.program_access import Access, Host, Rules, prepare
from holdfast.kernel.programs import ProgramRunner

SETTLE_S = 1.0

_runners: WeakKeyDictionary[asyncio.AbstractEventLoop, ProgramRunner] = WeakKeyDictionary()


def programs_of(context: CellContext) -> ProgramRunner:
    """The runner of this cell, made when the first room asks and closed at the end of a clean stop.

    A room asks before it registers its own stop hook, so that its programs may still run in that hook.
    """
    runner = _runners.get(context.loop)
    if runner is None:
        runner = _runners[context.loop] = ProgramRunner(context.loop)
        context.on_stop(runner.close)
        context.on_hand_over(partial(_settled, runner))
    return runner


async def _settled(runner: ProgramRunner) -> None:
    """A program in progress is let finish before its cell is handed over, if it is quick."""
    await runner.settled(SETTLE_S)


def judge(script: Script, options: ScriptOptions, host: Host | None = None) -> Access:
    """Whether and as whom a configured script may run. Looks into user databases and file systems: not in the loop."""
    rules = Rules(
        user=options.user,
        group=options.group,
        security=options.security,
        use_symlink_paths=options.use_symlink_paths,
        set_supplementary_groups=options.set_supplementary_groups,
        umask=options.umask,
    )
    return prepare(script.argv, script.user, script.group, rules, host)
