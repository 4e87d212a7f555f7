"""What is told to the machine of a virtual server, and what it orders.

The counterpart is `service.py`, which decides, and `actor.py`, which carries out.
"""

from __future__ import annotations

import msgspec

from holdfast.actors.ipvs.config import VirtualServer
from holdfast.actors.runtime.machine import Action, Fact
from holdfast.bus.messages import Event, EventId
from holdfast.kernel.ipvs_types import DestinationSpec


class Started(Fact, frozen=True):
    """The first fact. After it the kernel has what the machine wants, and the world knows it."""


class CheckReported(Fact, frozen=True, kw_only=True):
    """A check of a real server has run. check: its name in the configuration; runs_as: in the checkers room.

    up: what the check says after its retries; None: no verdict yet. ok: what this run saw. weight, weight_add: as in
    checkers.CheckResult.
    """

    server: str
    check: str
    runs_as: str
    up: bool | None
    ok: bool = True
    weight: int | None = None
    weight_add: int = 0
    text: str = ""
    latency_us: int = 0
    attempt: int = 0
    cause: EventId | None = None


class CheckForgotten(Fact, frozen=True, kw_only=True):
    """What ran for this check of the configuration is gone (new options): a new one starts without a verdict."""

    server: str
    check: str


class Reconfigured(Fact, frozen=True):
    """A reload changed this virtual server."""

    config: VirtualServer
    rs_init_notifies: bool = False


class Removed(Fact, frozen=True):
    """A reload removed this virtual server."""


class Stopped(Fact, frozen=True):
    """holdfast stops. keep: the table stays as it is (command line -I)."""

    keep: bool = False


class DrainAsked(Fact, frozen=True, kw_only=True):
    """An operator wants a server without connections, or back. As messages.Drain."""

    server: str
    undo: bool = False
    remove: bool = True
    timeout_s: float | None = None


class ConnectionsCounted(Fact, frozen=True, kw_only=True):
    """How many connections the kernel still has for a draining server, active and inactive ones."""

    server: str
    connections: int


class OrderRefused(Fact, frozen=True, kw_only=True):
    """The kernel did not take a destination. server: its name; empty: the sorry server, or the service itself."""

    server: str
    text: str
    errno: int


class Settle(Action, frozen=True):
    """Make the kernel's services for this virtual server what `wanted()` says, touching only what differs."""


class Put(Action, frozen=True):
    """The pool has this destination with this weight. server: empty for the sorry server."""

    server: str
    destination: DestinationSpec


class Drop(Action, frozen=True):
    """The pool does not have this destination."""

    server: str
    destination: DestinationSpec


class RemoveServices(Action, frozen=True):
    """The kernel's services for this virtual server go, with all their destinations."""


class Publish(Action, frozen=True):
    """Tell the world, on `subject/state`. server: not told when the kernel refused the order before it for that server.

    follows: what was published just before in the same step is a cause too.
    """

    subject: str
    event: Event
    server: str = ""
    cause: EventId | None = None
    follows: bool = False


class Forget(Action, frozen=True):
    """The subject is gone: nothing is retained for it any more."""

    subject: str


class Log(Action, frozen=True):
    """A line for people. level: info, warning or error."""

    text: str
    level: str = "info"


class CountConnections(Action, frozen=True):
    """Ask the kernel how many connections these servers have, and say so with ConnectionsCounted."""

    servers: tuple[tuple[str, DestinationSpec], ...]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What does not come from keepalived's configuration, or concerns all virtual servers.

    panic_threshold: share of a pool (0..1, 0 = off) beyond which servers that fail within panic_window_s of each other
    are kept. drain_timeout_s: how long a server that a reload removes may finish its connections, 0 = not at all.
    """

    node: str
    rs_init_notifies: bool = False
    panic_threshold: float = 0.0
    panic_window_s: float = 10.0
    drain_timeout_s: float = 0.0
    drain_command_timeout_s: float = 300.0


class FormerServer(msgspec.Struct, frozen=True, kw_only=True):
    """What a real server was before the director's process died."""

    up: bool
    effective_weight: int
    failed_checks: tuple[str, ...] = ()
    draining: bool = False
    in_pool: bool = True
    suspected: bool = False


class Former(msgspec.Struct, frozen=True, kw_only=True):
    """What a virtual server was before the director's process died."""

    quorum_up: bool
    sorry_active: bool
    panic: bool
    servers: dict[str, FormerServer]
