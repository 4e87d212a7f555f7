"""The watch room of a cell: which trackers exist. It owns their actors, hands them their configuration and decides
nothing else. One per cell, made by `actor.start`."""

from __future__ import annotations

import asyncio
import logging

import msgspec
from pykka import ActorRef

from holdfast.actors.runtime.context import CellContext, Generation
from holdfast.actors.runtime.programs import judge
from holdfast.actors.watch.config import TrackScript, WatchRoom
from holdfast.actors.watch.file_actor import ConfigureFile, FileActor, FileNotices
from holdfast.actors.watch.link_actor import Delays, LinksActor
from holdfast.actors.watch.messages import FileValue, LinkState, ProcessQuorum, ScriptResult
from holdfast.actors.watch.process_actor import ConfigureProcesses, ProcessesActor, ProcessNotices
from holdfast.actors.watch.script_actor import Configure, Finish, ScriptActor
from holdfast.bus.messages import Event
from holdfast.config.values import ScriptOptions
from holdfast.kernel.faces import Kernel
from holdfast.kernel.program_access import Access
from holdfast.kernel.programs import Programs

log = logging.getLogger("holdfast.watch")


class Sources(msgspec.Struct, frozen=True):
    """Where a room gets its facts from; tests have their own."""

    kernel: Kernel
    programs: Programs
    files: FileNotices
    processes: ProcessNotices


class Room:
    """See the file's first lines."""

    def __init__(self, context: CellContext, sources: Sources) -> None:
        self._context = context
        self._sources = sources
        self._config = WatchRoom()
        self._scripts: dict[str, ActorRef[ScriptActor]] = {}
        self._files: dict[str, ActorRef[FileActor]] = {}
        self._judged_by: dict[str, int] = {}
        self._judgements = 0
        self._stopped = False
        self._told_security = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._restored: dict[str, Event] = {}
        for envelope in context.restored:
            if isinstance(envelope.event, (ScriptResult, FileValue, ProcessQuorum, LinkState)):
                self._restored[envelope.subject] = envelope.event
        kernel, restored = sources.kernel, self._restored.values()
        self._links = LinksActor.start(
            bus=context.bus,
            links=kernel.links,
            timers=kernel.timers,
            restored=[event for event in restored if isinstance(event, LinkState)],
        )
        self._processes = ProcessesActor.start(
            bus=context.bus,
            timers=kernel.timers,
            loop=context.loop,
            notices=sources.processes,
            restored=[event for event in restored if isinstance(event, ProcessQuorum)],
        )
        context.on_stop(self._stop)
        context.slices("watch", self._apply)

    def _apply(self, generation: Generation) -> None:
        data = generation.slices.get("room")
        config = msgspec.msgpack.decode(data, type=WatchRoom) if data is not None else WatchRoom()
        before, self._config = self._config, config
        self._links.tell(Delays(config.link_delays))
        self._apply_files(config, initial=generation.initial)
        if generation.initial or before.processes != config.processes:
            self._processes.tell(ConfigureProcesses(config.processes))
        self._drop_scripts(config)
        changed = [
            script
            for script in config.scripts
            if before.script_options != config.script_options or script not in before.scripts or generation.initial
        ]
        if changed:
            self._judgements += 1
            self._judged_by.update((script.name, self._judgements) for script in changed)
            # Users and files are looked up in a thread: directories of users may be on other hosts.
            task = self._context.loop.create_task(
                self._judge(changed, config.script_options, self._judgements, reloaded=not generation.initial)
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _apply_files(self, config: WatchRoom, *, initial: bool) -> None:
        wanted = {file.name: file for file in config.files}
        for name in set(self._files) - set(wanted):
            self._files.pop(name).stop(block=False)
        # init_file is for a daemon that starts: not for a reload, nor for a cell that came back.
        create = initial and not self._context.restored
        for name, file in wanted.items():
            if name not in self._files:
                restored = self._restored.pop(f"file/{name}", None)
                self._files[name] = FileActor.start(
                    name,
                    bus=self._context.bus,
                    timers=self._sources.kernel.timers,
                    notices=self._sources.files,
                    restored=restored if isinstance(restored, FileValue) else None,
                )
            self._files[name].tell(ConfigureFile(file, create))

    def _drop_scripts(self, config: WatchRoom) -> None:
        wanted = {script.name for script in config.scripts}
        for name in set(self._scripts) - wanted:
            self._scripts.pop(name).stop(block=False)
        self._judged_by = {name: number for name, number in self._judged_by.items() if name in wanted}

    async def _judge(self, scripts: list[TrackScript], options: ScriptOptions, number: int, *, reloaded: bool) -> None:
        def judge_all() -> list[Access]:
            return [judge(script.command, options) for script in scripts]

        accesses = await asyncio.to_thread(judge_all)
        if not options.security and not self._told_security:
            self._told_security = True
            insecure = " There are insecure scripts." if any(access.insecure for access in accesses) else ""
            log.warning("SECURITY VIOLATION - scripts are being executed but script_security not enabled.%s", insecure)
        for script, access in zip(scripts, accesses, strict=True):
            if self._stopped or self._judged_by.get(script.name) != number:
                continue  # a later reload has its own word on it
            for warning in access.warnings:
                log.warning("%s", warning)
            self._configure_script(script, access, reloaded=reloaded)

    def _configure_script(self, script: TrackScript, access: Access, *, reloaded: bool) -> None:
        name = script.name
        if name not in self._scripts:
            restored = self._restored.pop(f"script/{name}", None)
            self._scripts[name] = ScriptActor.start(
                name,
                bus=self._context.bus,
                timers=self._sources.kernel.timers,
                programs=self._sources.programs,
                restored=restored if isinstance(restored, ScriptResult) else None,
            )
        self._scripts[name].tell(Configure(script, access, reloaded))

    def _stop(self) -> None:
        """Scripts in progress are asked to end; the cell's program runner sees to it that they do."""
        self._stopped = True
        for script in self._scripts.values():
            script.tell(Finish())
