"""When things are due in the engine: detection times that are looked at lazily, and sending in groups.

`DetectionWheel`: no packet ever moves a timer. A session waits in the slot of the wheel in which its detection time
would end; when the slot comes up, whoever was heard meanwhile moves on to a later slot, and only what really ends
within the slot is given an exact place.

`Pacer`: sessions that send equally often share groups. A group draws its jitter for each of its turns and leaves with
one system call, so a packet costs no Python at all. Every packet still comes 75 to 100 % of the interval after the
one before (RFC 5880 section 6.8.7), and different groups drift apart.

Neither knows a clock or a socket; engine.py brings both.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from holdfast.actors.bfd.facts import jittered
from holdfast.actors.bfd.lane import LEAD_MOST, Lane
from holdfast.kernel.udp_batch import SendGroup

_SLOT_BITS = 23
"""Slots of 2**23 ns, 8.4 ms: coarse enough for few wake-ups, fine enough to keep the exact part small."""

_LOOK_AHEAD = 25_000_000
_LOOK_EVERY = 12_000_000
"""How far `look_ahead` looks, and how often at most, in nanoseconds."""

GROUP_SIZE = 128
"""Packets that leave together. More save little and come to the peer as a burst."""


class DetectionWheel:
    """The lanes whose detection time runs. A lane is in the slot of the instant LEAD_MOST before its end."""

    def __init__(self, faltering: Callable[[Lane, int], None] | None = None) -> None:
        """faltering: called with a lane, and the instant of its end, once when that is no more than `lead` away."""
        self._faltering = faltering
        self._slots: dict[int, list[Lane]] = {}
        self._order: list[int] = []
        self._near: list[tuple[int, int, Lane, int]] = []
        """When to look, a number that tells equals apart, the lane, its end."""
        self._swept = 0
        self._look_at = 0
        self._count = 0

    def watch(self, lane: Lane) -> None:
        """Call it whenever the end of a lane's detection time may have come nearer, begun or ceased to run.

        That it went further away, as it does with every packet, needs no call.
        """
        at = lane.due_at()
        if at == 0:
            lane.placed_at = 0
        elif lane.placed_at == 0 or at < lane.placed_at:
            self._place(lane, at)

    def _place(self, lane: Lane, at: int) -> None:
        lane.placed_at = at
        slot = (at - LEAD_MOST) >> _SLOT_BITS
        if slot < self._swept:
            self._look(lane, at - lane.lead if self._faltering is not None else at, at)
            return
        found = self._slots.get(slot)
        if found is None:
            self._slots[slot] = [lane]
            heapq.heappush(self._order, slot)
        else:
            found.append(lane)

    def _look(self, lane: Lane, when: int, at: int) -> None:
        self._count += 1
        heapq.heappush(self._near, (when, self._count, lane, at))

    def next_at(self) -> int:
        """When `due` is wanted next; 0: never."""
        at = self._near[0][0] if self._near else 0
        if self._order:
            slot_at = self._order[0] << _SLOT_BITS
            if not at or slot_at < at:
                # An instant of 0 would mean never.
                return max(slot_at, 1)
        return at

    def look_ahead(self, now: int) -> None:
        """When the process is awake anyway: moves on whoever was heard, out of the slots that come up next.

        Every wake-up finds cold caches and costs more than what it does; this saves most of the wheel's own.
        """
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY
        slots = self._slots
        limit = (now + _LOOK_AHEAD) >> _SLOT_BITS
        for slot in [each for each in slots if each <= limit]:
            staying = []
            for lane in slots[slot]:
                if (lane.placed_at - LEAD_MOST) >> _SLOT_BITS != slot or not lane.placed_at:
                    continue
                if (lane.due_at() - LEAD_MOST) >> _SLOT_BITS == slot:
                    staying.append(lane)
                else:
                    self._settle(lane)
            if staying:
                slots[slot] = staying
            else:
                del slots[slot]
                self._order.remove(slot)
        heapq.heapify(self._order)

    def due(self, now: int) -> list[Lane]:
        """The lanes whose detection time has ended. They are no longer in the wheel: `watch` them again."""
        order = self._order
        while order and order[0] << _SLOT_BITS <= now:
            slot = heapq.heappop(order)
            self._swept = slot + 1
            for lane in self._slots.pop(slot):
                # What was placed anew since is in another slot, too: this is its old entry.
                if (lane.placed_at - LEAD_MOST) >> _SLOT_BITS == slot and lane.placed_at:
                    self._settle(lane)
        near = self._near
        ended: list[Lane] = []
        while near and near[0][0] <= now:
            when, _, lane, at = heapq.heappop(near)
            if lane.placed_at != at:
                continue
            due_at = lane.due_at()
            if due_at == 0:
                lane.placed_at = 0
            elif due_at == at and when < at and now < at and self._faltering is not None:
                self._look(lane, at, at)
                self._faltering(lane, at)
            elif due_at > now:
                self._place(lane, due_at)
            else:
                lane.placed_at = 0
                ended.append(lane)
        return ended

    def _settle(self, lane: Lane) -> None:
        at = lane.due_at()
        if at == 0:
            lane.placed_at = 0
        else:
            self._place(lane, at)


class Group:
    """Lanes that send together. rounds: how often they have."""

    __slots__ = ("at", "detect_mult_is_one", "interval_us", "lanes", "rounds", "sealing", "send_group")

    def __init__(self, interval_us: int, detect_mult_is_one: bool) -> None:
        self.interval_us = interval_us
        self.detect_mult_is_one = detect_mult_is_one
        self.lanes: list[Lane] = []
        self.sealing: set[Lane] = set()
        self.send_group = SendGroup(GROUP_SIZE)
        self.at = 0
        self.rounds = 0


class Pacer:
    """The groups of one address family."""

    def __init__(self, send: Callable[[SendGroup], list[tuple[int, int]]], chance: random.Random) -> None:
        """send: hands a group to the kernel, returns (index, errno) of what it refused."""
        self._send = send
        self._chance = chance
        self._open: dict[tuple[int, bool], list[Group]] = {}
        self._due: list[tuple[int, int, Group]] = []
        self._count = 0

    def join(self, lane: Lane, interval_us: int, now: int) -> Group:
        """The lane sends its row every `interval_us` from now on, first at the next turn of its group."""
        key = (interval_us, lane.machine.config.detect_mult == 1)
        groups = self._open.setdefault(key, [])
        for group in reversed(groups):
            if len(group.lanes) < GROUP_SIZE:
                break
        else:
            group = Group(*key)
            groups.append(group)
            self._schedule(group, now)
        lane.group = group
        lane.index = len(group.lanes)
        lane.joined_round = group.rounds
        group.lanes.append(lane)
        group.send_group.put(lane.index, lane.row)
        group.send_group.count = len(group.lanes)
        if lane.seals_each:
            group.sealing.add(lane)
        return group

    def leave(self, lane: Lane) -> None:
        """The lane sends nothing periodic any more. Its place is taken by the last of the group."""
        group = lane.group
        if group is None:
            return
        lane.sent += group.rounds - lane.joined_round
        lane.group = None
        last = group.lanes.pop()
        if last is not lane:
            group.lanes[lane.index] = last
            last.index = lane.index
            group.send_group.put(last.index, last.row)
        group.send_group.count = len(group.lanes)
        group.sealing.discard(lane)
        if not group.lanes:
            self._open[group.interval_us, group.detect_mult_is_one].remove(group)

    def next_at(self) -> int:
        """When `fire` is wanted next; 0: never."""
        due = self._due
        while due and not due[0][2].lanes:
            heapq.heappop(due)
        return due[0][0] if due else 0

    def fire(self, now: int) -> None:
        """Sends every group that is due."""
        due = self._due
        while due and due[0][0] <= now:
            group = heapq.heappop(due)[2]
            if not group.lanes:
                continue
            for lane in group.sealing:
                lane.reseal()
            group.rounds += 1
            for index, number in self._send(group.send_group):
                lane = group.lanes[index]
                lane.send_errors += 1
                lane.last_send_errno = number
            self._schedule(group, now)

    def _schedule(self, group: Group, now: int) -> None:
        # From the real time of sending: a turn that came late must not be followed by one that is too soon.
        mult = 1 if group.detect_mult_is_one else 2
        group.at = now + jittered(group.interval_us, mult, self._chance.random())
        self._count += 1
        heapq.heappush(self._due, (group.at, self._count, group))
