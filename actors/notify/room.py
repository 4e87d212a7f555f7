"""The notify room of a cell: hears what others tell, and hands it to whom it concerns. It owns an actor for each
target's scripts, for each FIFO and for mail. One per cell, made by `actor.start`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Any

import msgspec
from pykka import ActorDeadError, ActorRef, Timeout

from holdfast.actors.notify.config import Fifo, NotifyRoom, NotifyScripts, NotifyTarget, Script
from holdfast.actors.notify.fifo_actor import FifoActor, WriteLine
from holdfast.actors.notify.mail_actor import ConfigureMail, MailActor, SendMail
from holdfast.actors.notify.messages import FifoState, NotifyDone, NotifyProgress
from holdfast.actors.notify.notices import Notice, notice_of, target_name
from holdfast.actors.notify.queue import Noticed
from holdfast.actors.notify.script_actor import AskIdle, Judge, Retire, ScriptsActor, TakeJudge
from holdfast.actors.runtime.actor import actor_ask, actor_stop
from holdfast.actors.runtime.context import CellContext, Generation
from holdfast.actors.runtime.machine import Duration, S
from holdfast.actors.vrrp.messages import VrrpGroupChanged, VrrpState, VrrpStateChanged
from holdfast.bus.envelope import Envelope
from holdfast.bus.messages import Event, EventId, ReasonKind
from holdfast.kernel.programs import Programs

log = logging.getLogger("holdfast.notify")

SCRIPT_LIMIT = Duration(60 * S)
"""How long a notify script may run before the ones after it are served. keepalived sets no limit and no order."""

STOPS_EXPECTED_S = 0.4
"""How long the room waits at a stop for the last words of the others: they are asked to stop before it."""

STOP_SCRIPTS_S = 1.1
"""The scripts of a stop have one second; their queues see to it, this is only for the case that one cannot."""

_PREFIXES = ("vrrp/", "vrrp-group/", "rs/", "vs/", "director/")
"""The last one has nothing to notify: that it was heard of (NotifyProgress) tells the director that it may speak."""


class Room:
    """See the file's first lines."""

    def __init__(self, context: CellContext, programs: Programs) -> None:
        self._context = context
        self._programs = programs
        self._bus = context.bus
        self._config = NotifyRoom()
        self._targets: dict[str, NotifyTarget] = {}
        self._retired: dict[str, NotifyTarget] = {}
        self._scripts: dict[str, ActorRef[ScriptsActor]] = {}
        self._fifos: dict[str, tuple[Fifo, ActorRef[FifoActor]]] = {}
        self._mail: ActorRef[MailActor] | None = None
        self._judge = Judge(context.loop, self._config.script_options)
        self._states: dict[str, VrrpStateChanged | VrrpGroupChanged] = {}
        self._told: dict[str, EventId] = {}
        self._words: dict[str, str] = {}
        self._since: dict[str, int] = {}
        self._saving = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._restored_progress = NotifyProgress()
        self._restored_done: dict[str, NotifyDone] = {}
        self._restored_fifos: dict[str, FifoState] = {}
        for envelope in context.restored:
            match envelope.event:
                case NotifyProgress():
                    self._restored_progress = envelope.event
                case NotifyDone():
                    self._restored_done[envelope.event.target] = envelope.event
                case FifoState():
                    self._restored_fifos[envelope.event.path] = envelope.event
        self._told.update(self._restored_progress.told)
        self._words.update(self._restored_progress.words)
        self._since.update(self._restored_progress.since)
        context.on_stop(self._stop)
        context.slices("notify", self._apply)
        # Only now: what is retained comes at once, and has to find who is to be told.
        for prefix in _PREFIXES:
            self._bus.subscribe(prefix, self._heard)

    # ------------------------------------------------------------ configuration

    def _apply(self, generation: Generation) -> None:
        data = generation.slices.get("room")
        config = msgspec.msgpack.decode(data, type=NotifyRoom) if data is not None else NotifyRoom()
        before, self._config = self._config, config
        targets = {target_name(target.kind, target.name): target for target in config.targets}
        for name, target in self._targets.items():
            if name not in targets:
                self._retired[name] = target  # its last event is still to come
        for name in targets:
            self._retired.pop(name, None)
        self._targets = targets
        if before.script_options != config.script_options:
            self._judge = Judge(self._context.loop, config.script_options)
            for scripts in self._scripts.values():
                scripts.tell(TakeJudge(self._judge))
        self._look_up(all_scripts(config))
        self._apply_fifos(config)
        self._apply_mail(config)
        if config.write_states_on_reload and not generation.initial:
            self._write_states()

    def _look_up(self, scripts: Iterable[Script]) -> None:
        """Beforehand, so that at the transition itself nothing is looked up, and what is wrong is said at the start."""
        judge, wanted = self._judge, [script for script in scripts if self._judge.known(script) is None]

        async def look_up() -> None:
            for script in wanted:
                await judge.ask(script)

        if wanted:
            task = self._context.loop.create_task(look_up())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _apply_fifos(self, config: NotifyRoom) -> None:
        wanted = {"all": config.fifo, "vrrp": config.vrrp_fifo, "lvs": config.lvs_fifo}
        for role, fifo in wanted.items():
            standing = self._fifos.get(role)
            if standing is not None and standing[0] == fifo:
                continue
            if standing is not None:
                del self._fifos[role]
                standing[1].stop(block=False)
            if fifo is not None:
                actor = FifoActor.start(
                    fifo,
                    options=config.script_options,
                    umask=config.umask,
                    bus=self._bus,
                    timers=self._context.timers,
                    loop=self._context.loop,
                    programs=self._programs,
                    restored=self._restored_fifos.pop(fifo.path, None),
                )
                self._fifos[role] = (fifo, actor)

    def _apply_mail(self, config: NotifyRoom) -> None:
        wanted = bool(config.mail.server and config.mail.recipients)
        if wanted and self._mail is None:
            self._mail = MailActor.start(bus=self._bus, loop=self._context.loop)
        if self._mail is not None:
            _tell(self._mail, ConfigureMail(config.mail))

    def _write_states(self) -> None:
        """fifo_write_vrrp_states_on_reload: the states once more, for readers that begin with a reload."""
        for event in self._states.values():
            notice = notice_of(event, self._config, self._targets)
            if notice is not None:
                self._write(notice)

    # ------------------------------------------------------------ events

    def _heard(self, envelope: Envelope) -> None:
        event = envelope.event
        if envelope.gone:
            self._gone(envelope)
            return
        progress = f"{envelope.subject.partition('/')[0]}@{envelope.id.cell}"
        told = self._restored_progress.told.get(progress)
        old_news = told is not None and (envelope.id.epoch, envelope.id.seq) <= (told.epoch, told.seq)
        repeated = not old_news and self._is_repetition(event)
        if isinstance(event, (VrrpStateChanged, VrrpGroupChanged)):
            self._states[envelope.subject] = event
        notice = notice_of(event, self._config, {**self._retired, **self._targets})
        if notice is not None and not repeated:
            if not old_news:
                self._tell(notice, envelope.id)
            elif self._was_done(notice, envelope):
                done = self._restored_done[notice.target]
                self._bus.publish(f"notify/{notice.target}", "done", done, causes=(done.event,))
            elif notice.calls:
                # Told by the former life of this cell, which died before the scripts had ended.
                log.info("%s: notify scripts for %s are run again, they were interrupted", notice.target, notice.word)
                self._queue(notice, envelope.id)
            if notice.word in ("STOP", "DELETED"):
                self._retired.pop(notice.target, None)
        self._told[progress] = envelope.id
        if notice is not None and notice.word and notice.vrrp:
            self._words[notice.target] = notice.word
            if isinstance(event, VrrpStateChanged):
                self._since[notice.target] = event.since_mono_ns
        self._save()

    def _is_repetition(self, event: Event) -> bool:
        """A state that is told anew without being entered anew: after a crash of its room, or a reload that changed
        something else (even the name). What a reload deletes is told even where nothing changes."""
        since: int | None
        match event:
            case VrrpStateChanged():
                target, since = target_name("INSTANCE", event.instance), event.since_mono_ns
            case VrrpGroupChanged():
                target, since = target_name("GROUP", event.group), None
            case _:
                return False
        word = self._words.get(target)
        if event.old == event.state:
            # Unless the transition itself was never heard here.
            return word in (None, event.state.value) and not event.reason.evidence.get("deleted")
        if word != event.state.value:
            return False
        return event.reason.kind is ReasonKind.RESTARTED or (since is not None and self._since.get(target) == since)

    def _was_done(self, notice: Notice, envelope: Envelope) -> bool:
        done = self._restored_done.get(notice.target)
        return done is not None and (envelope.id.epoch, envelope.id.seq) <= (done.event.epoch, done.event.seq)

    def _tell(self, notice: Notice, event: EventId) -> None:
        """In keepalived's order: scripts, then FIFO lines, then mail. None of them waits for another."""
        if notice.calls or notice.target in self._scripts:
            self._queue(notice, event)
        if notice.line:
            self._write(notice)
        if notice.mail is not None and self._mail is not None:
            _tell(self._mail, SendMail(notice.mail))

    def _queue(self, notice: Notice, event: EventId) -> None:
        scripts = self._scripts.get(notice.target)
        if scripts is None:
            scripts = self._scripts[notice.target] = ScriptsActor.start(
                notice.target,
                bus=self._bus,
                timers=self._context.timers,
                loop=self._context.loop,
                programs=self._programs,
                judge=self._judge,
                limit=SCRIPT_LIMIT,
            )
        scripts.tell(Noticed(notice, event))

    def _write(self, notice: Notice) -> None:
        for role in ("all", "vrrp" if notice.vrrp else "lvs"):
            fifo = self._fifos.get(role)
            if fifo is not None:
                _tell(fifo[1], WriteLine(notice.line))

    def _gone(self, envelope: Envelope) -> None:
        """What a reload removed: its last event came before, so what was kept for it can go."""
        if envelope.aspect == "state":
            self._states.pop(envelope.subject, None)
            kind, _, name = envelope.subject.partition("/")
            if kind in ("vrrp", "vrrp-group"):
                target = target_name("INSTANCE" if kind == "vrrp" else "GROUP", name)
                self._retired.pop(target, None)
                self._words.pop(target, None)
                self._since.pop(target, None)
                scripts = self._scripts.pop(target, None)
                if scripts is not None:
                    scripts.tell(Retire())
                self._save()

    def _save(self) -> None:
        """Once a turn of the loop, however much came in it."""
        if not self._saving:
            self._saving = True
            self._context.loop.call_soon(self._saved)

    def _saved(self) -> None:
        self._saving = False
        progress = NotifyProgress(told=dict(self._told), words=dict(self._words), since=dict(self._since))
        self._bus.publish(f"notify/{self._context.cell}", "progress", progress)

    # ------------------------------------------------------------ stop

    async def _stop(self) -> None:
        """Waits for the last words of the instances, then for their scripts, each for a moment."""
        loop = self._context.loop
        end = loop.time() + STOPS_EXPECTED_S
        while not self._all_stopped() and loop.time() < end:
            await asyncio.sleep(0.01)
        end = loop.time() + STOP_SCRIPTS_S
        busy = list(self._scripts.values())
        while busy and loop.time() < end:
            busy = [scripts for scripts in busy if not await actor_ask(scripts, AskIdle())]
            await asyncio.sleep(0.01 if busy else 0)
        for _, fifo in self._fifos.values():
            with contextlib.suppress(Timeout):
                await actor_stop(fifo)

    def _all_stopped(self) -> bool:
        final = (VrrpState.STOP, VrrpState.DELETED)
        return all(event.state in final for event in self._states.values())


def _tell(actor: ActorRef[Any], message: object) -> None:
    """A FIFO or a mail server that broke its actor takes nobody with it: the failure has been logged."""
    with contextlib.suppress(ActorDeadError):
        actor.tell(message)


def all_scripts(config: NotifyRoom) -> list[Script]:
    """Every script that is configured, each once. Those of FIFOs are looked up by their own actors."""
    found: dict[Script | None, None] = {}
    fields = [
        name
        for name in NotifyScripts.__struct_fields__
        if name not in ("notify_deleted", "priority_changes", "smtp_alert")
    ]
    for target in config.targets:
        for name in fields:
            found[getattr(target.scripts, name)] = None
    for service in config.services:
        found.update({service.quorum_up: None, service.quorum_down: None})
    for server in config.servers:
        found.update({server.notify_up: None, server.notify_down: None})
    return [script for script in found if script is not None]
