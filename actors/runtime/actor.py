"""LoopActor: a pykka actor that lives on an asyncio loop instead of in a thread of its own.

All actors of a cell share one `Mailroom`: whoever tells them something puts it there, and the loop hands the messages
out in the order in which they came, over all actors. That makes thousands of actors in a process ordinary and keeps
pykka's promises: one message at a time, `tell`, `ask`, `stop` and the hooks as pykka documents them.

What differs: inside the loop nobody may block. A blocking `ask`, `stop` or `Future.get` of an answer that is not
there raises `BlockingAsk` at once and sends nothing; `await actor_ask(...)` is the way there.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator
from time import monotonic
from typing import Any, ClassVar, TypeVar, cast

import pykka
from pykka._envelope import Envelope
from pykka._types import OptExcInfo
from pykka.messages import _ActorStop

log = logging.getLogger(__name__)

TURN_MESSAGES_MAX = 512
"""Messages handed out in one turn of the loop; then sockets and deadlines have their turn."""

TURN_S = 0.005
"""They have it earlier when the messages take so long; looked at after every LOOK_EVERY messages."""
LOOK_EVERY = 16

_Answer = TypeVar("_Answer")
_get_ident = threading.get_ident


class BlockingAsk(RuntimeError):
    """Somebody wanted to wait inside the loop that would have to answer him."""


class Mailroom:
    """Hands messages to the actors of one loop. `failed` is told of each actor that an exception has ended."""

    _by_thread: ClassVar[dict[int, Mailroom]] = {}
    _default: ClassVar[Mailroom | None] = None

    def __init__(
        self, loop: asyncio.AbstractEventLoop, failed: Callable[[LoopActor, BaseException], None] | None = None
    ):
        self.loop = loop
        self.failed = failed
        self.thread = 0
        self.actors: dict[str, LoopActor] = {}
        self._queue: deque[LoopActor] = deque()
        self._scheduled = False

    def open(self) -> None:
        """Called in the thread of the loop: actors started from now on, in any thread, live here."""
        self.thread = _get_ident()
        Mailroom._by_thread[self.thread] = self
        Mailroom._default = self

    def close(self) -> None:
        """No actor lives here any more; asks that are still open get ActorDeadError."""
        for actor in list(self.actors.values()):
            actor._end()
        self._queue.clear()
        if Mailroom._by_thread.get(self.thread) is self:
            del Mailroom._by_thread[self.thread]
        if Mailroom._default is self:
            Mailroom._default = None

    @classmethod
    def current(cls) -> Mailroom:
        """The mailroom of this thread, or the one opened last. Opens one for the running loop if there is none."""
        found = cls._by_thread.get(_get_ident())
        if found is not None and not found.loop.is_closed():
            return found
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            if cls._default is None or cls._default.loop.is_closed():
                raise RuntimeError("no loop runs here and no mailroom is open") from None
            return cls._default
        room = cls(loop)
        room.open()
        return room

    @classmethod
    def blocking_here(cls) -> bool:
        """True in a thread whose loop carries actors."""
        found = cls._by_thread.get(_get_ident())
        return found is not None and found.loop.is_running()

    def post(self, actor: LoopActor) -> None:
        """One more message waits for `actor`."""
        self._queue.append(actor)
        if self._scheduled:
            return
        self._scheduled = True
        try:
            if _get_ident() == self.thread:
                self.loop.call_soon(self._turn)
            else:
                self.loop.call_soon_threadsafe(self._turn)
        except RuntimeError:  # the loop is closed: nobody will ever answer
            self._scheduled = False
            actor._end()

    def _turn(self) -> None:
        queue = self._queue
        until = monotonic() + TURN_S
        for number in range(1, TURN_MESSAGES_MAX + 1):
            try:
                actor = queue.popleft()
            except IndexError:
                break
            actor._one()
            if not number % LOOK_EVERY and monotonic() > until:
                break
        # A thread may have put something between the last look and this line: it saw `_scheduled` and did not wake us.
        self._scheduled = False
        if queue and not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._turn)


class LoopFuture(pykka.ThreadingFuture[_Answer]):
    """The answer to an ask: `await` it inside the loop, `get` it in another thread."""

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: list[Callable[[], None]] = []

    def get(self, *, timeout: float | None = None) -> Any:
        """As pykka's; raises BlockingAsk inside a loop that carries actors when the answer is not there yet."""
        if self._result is None and self._get_hook is None and Mailroom.blocking_here():
            raise BlockingAsk("the answer is not there and this thread would have to make it: await it instead")
        return super().get(timeout=timeout)

    def set(self, value: Any | None = None) -> None:
        """As pykka's; wakes those who await it."""
        super().set(value)
        self._wake()

    def set_exception(self, exc_info: OptExcInfo | None = None) -> None:
        """As pykka's; wakes those who await it."""
        super().set_exception(exc_info if exc_info is not None else sys.exc_info())
        self._wake()

    def _wake(self) -> None:
        with self._condition:
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def when_done(self, callback: Callable[[], None]) -> None:
        """`callback()` once the answer is there, at once if it is; in the thread that answers."""
        with self._condition:
            if self._result is None:
                self._callbacks.append(callback)
                return
        callback()

    def __await__(self) -> Generator[Any, None, Any]:
        yield from self._waited(None)
        return self.get(timeout=0)

    def _waited(self, timeout_s: float | None) -> Generator[Any, None, bool]:
        """Waits for the answer inside a running loop. False: it did not come within timeout_s."""
        loop = asyncio.get_running_loop()
        thread = _get_ident()
        done: asyncio.Future[bool] = loop.create_future()

        def wake(answered: bool) -> None:
            if not done.done():
                done.set_result(answered)

        def answered() -> None:
            if _get_ident() == thread:
                wake(True)
            else:
                loop.call_soon_threadsafe(wake, True)

        if self._get_hook is not None:
            return True
        timer = None if timeout_s is None else loop.call_later(timeout_s, wake, False)
        self.when_done(answered)
        try:
            return (yield from done.__await__())
        finally:
            if timer is not None:
                timer.cancel()


class _Inbox:
    """The queue of one actor; putting something in tells the mailroom."""

    __slots__ = ("actor", "messages")

    def __init__(self) -> None:
        self.messages: deque[Envelope[Any]] = deque()
        self.actor: LoopActor | None = None

    def put(self, envelope: Envelope[Any], /) -> None:
        self.messages.append(envelope)
        actor = self.actor
        if actor is not None:
            actor.mailroom.post(actor)

    def get(self) -> Envelope[Any]:
        return self.messages.popleft()

    def empty(self) -> bool:
        return not self.messages


class LoopActorRef(pykka.ActorRef["LoopActor"]):
    """pykka's reference, which refuses to block inside the loop."""

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """As pykka's. Raises BlockingAsk, and sends nothing, for a blocking ask inside a cell's loop."""
        if block and Mailroom.blocking_here():
            raise BlockingAsk(f"a blocking ask of {self} inside the loop of its cell")
        return super().ask(message, block=block, timeout=timeout)

    def stop(self, *, block: bool = True, timeout: float | None = None) -> Any:
        """As pykka's. Raises BlockingAsk, and stops nothing, when it would block inside a cell's loop."""
        if block and Mailroom.blocking_here():
            raise BlockingAsk(f"a blocking stop of {self} inside the loop of its cell")
        if block:
            return super().stop(block=True, timeout=timeout)
        return super().stop(block=False, timeout=timeout)


class LoopActor(pykka.Actor):
    """A pykka actor on the loop of its cell.

    critical: an exception that ends it ends the cell too, so that the supervisor puts both back; False for an actor
    whose owner looks after it (`on_failure`).
    """

    critical: ClassVar[bool] = True

    @staticmethod
    def _create_actor_inbox() -> _Inbox:
        return _Inbox()

    @staticmethod
    def _create_future() -> pykka.Future[Any]:
        return LoopFuture()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._actor_ref = LoopActorRef(self)
        self._ready = False

    def _start_actor_loop(self) -> None:
        self.mailroom = Mailroom.current()
        self.mailroom.actors[self.actor_urn] = self
        inbox = cast(_Inbox, self.actor_inbox)
        inbox.actor = self
        # on_start runs in the loop, before the first message: as pykka's runs in the actor's own thread.
        self.mailroom.post(self)
        for _ in range(len(inbox.messages)):
            self.mailroom.post(self)

    def _one(self) -> None:
        """Runs on_start once, then handles one message a call."""
        stopped = self.actor_stopped
        if stopped.is_set():
            return
        if not self._ready:
            self._ready = True
            self._actor_loop_setup()
        elif self.actor_inbox.empty():
            return
        else:
            self._handle(self.actor_inbox.get())
        if stopped.is_set():
            self._end()

    def _handle(self, envelope: Envelope[Any]) -> None:
        reply_to = envelope.reply_to
        try:
            response = self._handle_receive(envelope.message)
            if reply_to is not None:
                reply_to.set(response)
        except Exception as error:
            if reply_to is not None:
                log.info("exception returned from %s to caller: %r", self, error)
                reply_to.set_exception()
                return
            self._handle_failure(*sys.exc_info())
            try:
                self.on_failure(*sys.exc_info())
            except Exception:
                self._handle_failure(*sys.exc_info())
            if self.mailroom.failed is not None:
                self.mailroom.failed(self, error)
        except BaseException as error:
            log.debug("%r in %s: stopping all actors", error, self)
            self._stop()
            pykka.ActorRegistry.stop_all(block=False)

    def _end(self) -> None:
        """The actor is gone: what still waits in its inbox is answered with ActorDeadError."""
        if not self.actor_stopped.is_set():
            pykka.ActorRegistry.unregister(self.actor_ref)
            self.actor_stopped.set()
        self.mailroom.actors.pop(self.actor_urn, None)
        self._actor_loop_teardown()


async def actor_ask(ref: pykka.ActorRef[Any], message: Any, timeout_s: float | None = 2.0) -> Any:
    """Asks an actor from inside a loop. Returns its answer or raises what it raised.

    timeout_s: None waits for ever. Raises pykka.Timeout after it, pykka.ActorDeadError when the actor is gone.
    """
    future = ref.ask(message, block=False)
    if not isinstance(future, LoopFuture):
        raise TypeError(f"{ref} does not live on a loop")
    if await _Waiting(future, timeout_s):
        return future.get(timeout=0)
    raise pykka.Timeout(f"{timeout_s} seconds")


class _Waiting:
    """Awaitable: whether the answer came in time."""

    def __init__(self, future: LoopFuture[Any], timeout_s: float | None) -> None:
        self._future = future
        self._timeout_s = timeout_s

    def __await__(self) -> Generator[Any, None, bool]:
        return self._future._waited(self._timeout_s)


async def actor_stop(ref: pykka.ActorRef[Any], timeout_s: float | None = 2.0) -> bool:
    """Stops an actor from inside a loop and waits for it. False: it was dead before. Raises pykka.Timeout."""
    try:
        await actor_ask(ref, _ActorStop(), timeout_s)
    except pykka.ActorDeadError:
        return False
    return True
