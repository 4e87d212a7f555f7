"""What the checkers room tells the world, and what it accepts.

A running check is identified by `check` (`tcp-10.0.0.2:80-1f3a9c02`): kind, target and a hash of its options, so the
same check has the same name after a reload, a crash, or on another cell. One may stand for several checks of the
configuration (identical ones run once): `targets` names each of them with its servers. Who combines checks into the
health of a server is the director (actors/ipvs); here nobody knows about pools and quorums.
"""

from __future__ import annotations

import enum

import msgspec

from holdfast.bus.messages import Command, Event, Evidence, Reason, Reply


class Target(msgspec.Struct, frozen=True, order=True):
    """One real server that a check speaks for, in keepalived's printed forms (`[10.0.0.1]:tcp:80`, `FWM 3`).

    check: the check's name in the configuration, as in `ipvs.config.CheckRef`. alpha: it counts as failed for this
    server until its first success.
    """

    check: str
    virtual_server: str
    real_server: str
    alpha: bool = False


class CheckResult(Event, frozen=True, kw_only=True, tag="check.result"):
    """One run of a check. Retained on `NODE/check/CHECK/result`; the newest one is the check's whole state.

    Sent for each run, but one that says the same as the last (still good, still down) at most every five seconds.

    ok: what this run saw. up: what the check says after its retries; that is what counts for the pool. None: no
    verdict yet (of several pages not all have been seen): the server is what it was before the first run.
    first: the first run since the check was made (no retries are used for it). changed: `up` differs from what it was
    before, or this is the first verdict. Both are false when a result is told again (new targets, after a crash).
    weight: absolute weight that the check asks for (MISC_CHECK with misc_dynamic), None: none asked.
    weight_add: what the check adds to the server's configured weight (FILE_CHECK).
    latency_us: from start to verdict. text: the reason in words, also for success. detail: numbers (status, errno...).
    attempt: failures in a row, 0 after a success. retry: failures that are forgiven after the first.
    since_wall_ns: when `up` last changed. next_s: seconds until the next run (0: it waits for events).
    """

    check: str
    kind: str
    targets: tuple[Target, ...]
    ok: bool
    up: bool | None
    first: bool = False
    changed: bool = False
    weight: int | None = None
    weight_add: int = 0
    latency_us: int = 0
    text: str = ""
    detail: Evidence = msgspec.field(default_factory=dict)
    attempt: int = 0
    retry: int = 0
    runs: int = 0
    since_wall_ns: int = 0
    next_s: float = 0.0


class CheckState(enum.StrEnum):
    """What a check says in a word. UNKNOWN: it has not run yet. SUSPENDED: it stands still, its verdict stays."""

    UNKNOWN = "UNKNOWN"
    UP = "UP"
    DOWN = "DOWN"
    SUSPENDED = "SUSPENDED"


class CheckStateChanged(Event, frozen=True, kw_only=True, tag="check.state"):
    """A check went up or down, or was suspended or resumed. Retained on `NODE/check/CHECK/state`.

    up: the verdict, None: it has not run yet; it stays while suspended. reason.kind: check-ok, check-failed,
    file-value, bfd-up, bfd-down; address-missing and started for ha_suspend, operator-release and operator-resume.
    """

    check: str
    kind: str
    targets: tuple[Target, ...]
    old: CheckState
    state: CheckState
    up: bool | None
    suspended: bool = False
    reason: Reason


class CheckOverdue(Event, frozen=True, kw_only=True, tag="check.overdue"):
    """A check has not run within twice its interval, or runs again. Retained on `NODE/check/CHECK/overdue`.

    overdue False: it ran again. silent_s: since its last run (or since it should have run first). limit_s: twice the
    interval. reason.kind: check-overdue, or check-ok when it is over.
    """

    check: str
    kind: str
    targets: tuple[Target, ...]
    overdue: bool
    silent_s: float
    limit_s: float
    reason: Reason


class CheckNotRun(Event, frozen=True, kw_only=True, tag="check.not-run"):
    """A check could not be carried out (no socket, address to bind to not here, no such device): that says nothing of
    the server and is not a failure. Not retained; `NODE/check/CHECK/not-run`."""

    check: str
    kind: str
    targets: tuple[Target, ...]
    text: str
    errno: int = 0


class RunCheck(Command, frozen=True, kw_only=True, tag="check.run"):
    """Run a check now. Subject `check/CHECK`."""

    check: str


class SuspendCheck(Command, frozen=True, kw_only=True, tag="check.suspend"):
    """Stop running the checks of a virtual server (`ha_suspend`, or an operator), or go on. Subject `checkers/CELL`.

    virtual_server: as printed, or a check's name.
    """

    virtual_server: str
    suspended: bool = True


class CheckDone(Reply, frozen=True, kw_only=True, tag="check.done"):
    """The command was carried out; message: what follows from it."""

    message: str
