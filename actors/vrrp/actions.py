"""What a virtual router orders: the actions a `VrrpMachine` returns.

The shell carries them out in the order of the list, which is part of the contract: at a takeover the advert leaves
first, then the addresses come, then they are announced, then it is published (keepalived's order).
Action lists are shared between steps: the shell must not change them.
"""

from __future__ import annotations

import enum

from holdfast.actors.runtime.machine import Action
from holdfast.actors.vrrp.facts import Holding
from holdfast.bus.messages import Event, EventId, Reason

__all__ = [
    "Announce",
    "AnnounceSource",
    "LetGo",
    "Log",
    "Publish",
    "Reconcile",
    "RefreshLease",
    "Restore",
    "SendAdvert",
    "TakeOver",
    "TellGroup",
    "Wish",
]


class SendAdvert(Action, frozen=True):
    """Send one advert with this priority to the multicast group or to each peer. 0: we resign."""

    priority: int


class TakeOver(Action, frozen=True):
    """Firewall (no_accept), virtual addresses, excluded ones, routes, rules: in this order, as one batch.

    valid_lft_s: the lease of the addresses in whole seconds; None: for ever.
    """

    valid_lft_s: int | None = None


class LetGo(Action, frozen=True):
    """Rules, routes, announcements still queued, addresses, excluded ones, firewall: gone, in this order.

    forced: at the start, whatever an earlier life left on the interface; what is not there is no error.
    """

    forced: bool = False


class Reconcile(Action, frozen=True):
    """Make the kernel hold exactly what is configured: remove what a reload took away, add and announce what is new or
    missing, leave the rest untouched."""

    valid_lft_s: int | None = None


class Restore(Action, frozen=True):
    """Put back what somebody removed (all of `subjects`), and announce it if it is an address."""

    kind: Holding
    subjects: tuple[str, ...]
    valid_lft_s: int | None = None


class RefreshLease(Action, frozen=True):
    """Extend the lifetime of all our addresses; comes right after a `SendAdvert` and only if that was sent: an advert
    that failed to leave must not keep the addresses here."""

    valid_lft_s: int


class Announce(Action, frozen=True):
    """Gratuitous ARP or unsolicited neighbour advertisements: `repeat` rounds of all addresses, then all excluded."""

    repeat: int


class AnnounceSource(Action, frozen=True):
    """One gratuitous ARP or neighbour advertisement for our own source address (unicast, after a fault)."""


class Publish(Action, frozen=True):
    """An event for the bus on `NODE/vrrp/INSTANCE/aspect`."""

    aspect: str
    event: Event
    causes: tuple[EventId, ...] = ()
    retain: bool = True


class Log(Action, frozen=True):
    """A line for the log in keepalived's words. detail: only with -D."""

    text: str
    detail: bool = False


class Wish(enum.StrEnum):
    """What a member tells its sync group."""

    READY = "ready"
    """I have started without a fault and wait for the group to begin."""
    MASTER = "master"
    """My timer ran out: I would be MASTER."""
    IS_MASTER = "is-master"
    """I was restored as MASTER and go on."""
    BACKUP = "backup"
    """I am no longer MASTER, or no longer want to be."""
    FAULT = "fault"
    """I have a fault of my own."""
    WELL = "well"
    """My own faults are over."""
    LOWER_PRIORITY_HEARD = "lower-priority-heard"
    """I answered an advert of lower priority: the others announce too."""


class TellGroup(Action, frozen=True):
    """Hand `MemberWish(instance, wish, reason)` to the `GroupMachine` at once, and what it answers to the members."""

    wish: Wish
    reason: Reason
    causes: tuple[EventId, ...] = ()
