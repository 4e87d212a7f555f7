"""The delays of interface_up_down_delays as a pure machine: a link has to be up, or down, for a while to count.

Its counterpart is the shell in `actor.py`, fed by kernel/links.py. Source: keepalived.conf(5),
interface_up_down_delays, which debounces IFF_UP and IFF_RUNNING.
"""

from __future__ import annotations

import msgspec

from holdfast.actors.runtime.machine import US, Duration, Instant, S, later
from holdfast.actors.watch.config import LinkDelay
from holdfast.actors.watch.messages import LinkState
from holdfast.bus.messages import Evidence, Reason, ReasonKind


class LinkSeen(msgspec.Struct, frozen=True):
    """What the kernel says of an interface. raw_up: IFF_UP and IFF_RUNNING."""

    exists: bool
    raw_up: bool
    ifindex: int = 0
    mtu: int = 0
    mac: str = ""


GONE = LinkSeen(exists=False, raw_up=False)


class LinkMachine:
    """Turns what the kernel says into what others are told.

    The first sight counts at once, and so does a link that vanishes: there is nothing left to wait for. A change that
    is taken back before its delay ends was none.
    """

    __slots__ = ("_delay", "_interface", "_node", "_raw_since", "_seen", "_up", "deadline", "last")

    def __init__(
        self, interface: str, *, node: str, delay: LinkDelay | None = None, before: LinkState | None = None
    ) -> None:
        self._interface = interface
        self._node = node
        self._delay = delay or LinkDelay(interface=interface)
        self._seen: LinkSeen | None = None
        self._up: bool | None = before.up if before is not None else None
        self._raw_since = Instant(0)
        self.deadline: Instant | None = None
        self.last = before

    def set_delay(self, delay: LinkDelay | None) -> None:
        """A reload changed the delays; a delay that is running keeps its end."""
        self._delay = delay or LinkDelay(interface=self._interface)

    def seen(self, link: LinkSeen, now: Instant) -> LinkState | None:
        """The kernel told of the link. Returns what is to be published, or None."""
        previous = self._seen
        if previous is None or previous.raw_up != link.raw_up:
            self._raw_since = now
        self._seen = link
        if self._up is None or not link.exists or link.raw_up == self._up:
            self.deadline = None
            self._up = link.raw_up
        elif self.deadline is None:
            wait_us = self._delay.up_us if link.raw_up else self._delay.down_us
            if wait_us == 0:
                self._up = link.raw_up
            else:
                self.deadline = later(now, Duration(wait_us * US))
        return self._say(now)

    def due(self, now: Instant) -> LinkState | None:
        """The deadline may have passed. Returns what is to be published, or None."""
        if self.deadline is None or now < self.deadline:
            return None
        assert self._seen is not None
        self.deadline = None
        self._up = self._seen.raw_up
        return self._say(now)

    def _say(self, now: Instant) -> LinkState | None:
        link, last = self._seen, self.last
        assert link is not None and self._up is not None
        now_is = (link.exists, self._up, link.raw_up, link.ifindex, link.mtu, link.mac)
        if last is not None and now_is == (
            last.exists,
            last.up,
            last.raw_up,
            last.ifindex,
            last.mtu,
            last.mac,
        ):
            return None
        if not link.exists:
            kind = ReasonKind.LINK_MISSING
        else:
            kind = ReasonKind.LINK_UP if self._up else ReasonKind.LINK_DOWN
        evidence: Evidence = {"raw_up": link.raw_up}
        if link.raw_up != self._up or now != self._raw_since:
            evidence["for_s"] = round((now - self._raw_since) / S, 6)
        self.last = LinkState(
            interface=self._interface,
            exists=link.exists,
            up=self._up,
            raw_up=link.raw_up,
            ifindex=link.ifindex,
            mtu=link.mtu,
            mac=link.mac,
            since_mono_ns=last.since_mono_ns if last is not None and last.up == self._up else now,
            reason=Reason(kind=kind, node=self._node, subject=f"link/{self._interface}", evidence=evidence),
        )
        return self.last
