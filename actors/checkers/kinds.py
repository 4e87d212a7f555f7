"""The kinds of checks: one file each, found by itself.

A newcomer adds a file with a subclass of `Checker` (and its Struct and keywords to config.py): every module of this
package is imported when the first check is looked up, and a subclass enters itself under its Struct.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import pkgutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from holdfast.actors.checkers.base import Outcome, Schedule
from holdfast.actors.checkers.config import Check, CheckersGlobals
from holdfast.actors.checkers.messages import Target
from holdfast.actors.checkers.sockets import Poller, Probe
from holdfast.actors.runtime.machine import US, Duration, S
from holdfast.bus.base import Bus, Subscription
from holdfast.bus.envelope import Envelope
from holdfast.kernel.programs import Programs

SpecT = TypeVar("SpecT", bound=Check)

STEPS_OF_A_RUN = 4
"""A run may take connect_timeout for each of connect, TLS handshake, first byte and the rest of the answer."""


class Turnstile:
    """Lets so many runs start in one turn of the loop; the others wait for the next turns, in order.

    Thousands of checks may be due at once (`warmup 0`). Sockets and time-outs have their turn in between.
    """

    STARTS_A_TURN = 50

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = self.STARTS_A_TURN
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False

    def enter(self, go: Callable[[], None]) -> None:
        """Calls `go`, now or on a later turn."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)
        if self._left and not self._waiting:
            self._left -= 1
            go()
        else:
            self._waiting.append(go)

    def _turn(self) -> None:
        self._left = self.STARTS_A_TURN
        while self._waiting and self._left:
            self._left -= 1
            self._waiting.popleft()()
        self._scheduled = bool(self._waiting)
        if self._scheduled:
            self._loop.call_soon(self._turn)


class Surroundings:
    """What a check finds in its cell."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poller: Poller,
        bus: Bus,
        run_dir: Path,
        programs: Programs | None = None,
    ) -> None:
        self.loop = loop
        self.programs = programs
        self.poller = poller
        self.bus = bus
        self.run_dir = run_dir
        self.turnstile = Turnstile(loop)
        self.settings = CheckersGlobals()
        self.kind = "check"
        """The first word of the checks' subjects."""
        self.kept: dict[str, Any] = {}
        """Things that all checks of a kind share (a TLS context), by a name of theirs."""


class Checker(Generic[SpecT]):
    """One check of one kind: knows how to look, not when. Lives as long as its check is configured unchanged."""

    spec_type: ClassVar[type[Check]]
    label: str = ""
    """In log lines: `TCP_CHECK`."""
    not_identity: ClassVar[dict[str, Any]] = {}
    """Fields beside the common ones that leave a check the same check when they change, with a neutral value."""
    follows_events: ClassVar[bool] = False
    """True: it has no runs of its own, `follow` tells it."""

    _registry: ClassVar[dict[type[Check], type[Checker[Any]]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "spec_type" in cls.__dict__:
            Checker._registry[cls.spec_type] = cls

    def __init__(self, spec: SpecT, around: Surroundings) -> None:
        self.spec = spec
        self.around = around

    @classmethod
    def kind_of(cls, spec: SpecT) -> str:
        """As in the configuration: `TCP_CHECK`, `SSL_GET`."""
        return str(spec.__struct_config__.tag)

    @classmethod
    def target_of(cls, spec: SpecT) -> str:
        """Whom it looks at, for its name: `10.0.0.2:80`."""
        raise NotImplementedError

    @classmethod
    def schedule_of(cls, spec: SpecT) -> Schedule:
        """When it runs. Network checks take this one."""
        timeout_us = spec.connection.timeout_us if hasattr(spec, "connection") else 0
        return plain_schedule(spec, Duration(timeout_us * US + S))

    def probe(self, step: int, done: Callable[[Outcome], None]) -> Probe:
        """A new run; the caller begins it. step: which page."""
        raise NotImplementedError

    def follow(self, told: Callable[[Outcome, Envelope], None]) -> Subscription:
        """Calls `told` at each event that says something new."""
        raise NotImplementedError

    def success_words(self, target: Target, outcome: Outcome) -> str:
        """keepalived's log line when it comes up."""
        return f"{self.label} on service {target.real_server} succeeded."

    def failure_words(self, target: Target, outcome: Outcome, retries: int) -> str:
        """keepalived's log line when it goes down. retries: failures that were forgiven before."""
        after = f" after {retries} retries" if retries else ""
        return f"{self.label} on service {target.real_server} failed{after}."

    def progress_words(self, target: Target, step: int) -> list[str]:
        """keepalived's log lines for a good run of a check that does not count as up (yet)."""
        return []

    def close(self) -> None:
        """The check is not wanted any more; what it kept open between runs goes."""


def plain_schedule(spec: Check, cap: Duration) -> Schedule:
    """The common options as they are. cap: the longest run."""
    return Schedule(
        retry=spec.retry,
        delay_loop=Duration(spec.delay_loop_us * US),
        delay_before_retry=Duration(spec.delay_before_retry_us * US),
        warmup=Duration(spec.warmup_us * US),
        cap=cap,
    )


_NO_KINDS = frozenset(
    {"actor", "build", "check_actor", "genhash", "hosting", "keywords", "remote", "shares", "sharing"}
)
"""Files of this package that a cell need not import for its kinds of checks."""

_loaded = False


def _load() -> None:
    """Imports every file of this package, each kind of check enters itself."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    here = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(here).__path__):
        if module.name not in _NO_KINDS:
            importlib.import_module(f"{here}.{module.name}")


def checker_of(spec: Check) -> type[Checker[Any]]:
    """The class that carries out this check."""
    _load()
    return Checker._registry[type(spec)]


def kinds() -> list[type[Checker[Any]]]:
    """All kinds there are."""
    _load()
    return list(Checker._registry.values())


_TIMING = {
    "retry": 0,
    "delay_before_retry_us": 0,
    "warmup_us": 0,
    "delay_loop_us": 0,
    "log_all_failures": False,
}


def identity_of(spec: Check) -> str:
    """Equal for checks that look at the same thing in the same way, whatever their timing: 8 hex digits.

    That is keepalived's rule for what keeps its state over a reload: retry, delay_loop and the like do not matter.
    """
    neutral = msgspec.structs.replace(spec, name="", alpha=False, **_TIMING, **checker_of(spec).not_identity)
    return _digest(msgspec.msgpack.encode(neutral))


def sameness_of(spec: Check) -> str:
    """Equal for checks that can run as one: the same identity and the same timing."""
    # alpha concerns the server, not the run, except where it decides on the retries of later pages.
    alpha = spec.alpha and checker_of(spec).schedule_of(spec).steps > 1
    return _digest(msgspec.msgpack.encode(msgspec.structs.replace(spec, name="", alpha=alpha)))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=4).hexdigest()
