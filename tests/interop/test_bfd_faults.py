"""BFD under attack and in need: a flood of mutated packets, a killed cell, busy processors. Two daemons."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bfd_peers import Link, Ours, World
from netns import can_make_namespaces, wait_until
from test_bfd_peers import cell_pid

from holdfast.actors.bfd.messages import BfdSession, BfdSessions, BfdShow
from holdfast.bus.base import BusError

pytestmark = [
    pytest.mark.netns,
    pytest.mark.long,
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0 or not can_make_namespaces(), reason="needs root and namespaces"),
]
FLOOD = Path(__file__).with_name("bfd_flood.py")


def pairs(count: int) -> list[tuple[str, str]]:
    """(ours, theirs)."""
    return [(f"10.78.{n // 250}.{n % 250 + 1}", f"10.79.{n // 250}.{n % 250 + 1}") for n in range(count)]


@contextmanager
def many(count: int, *, ms: int = 50, mult: int = 3) -> Iterator[tuple[World, Ours, Ours]]:
    """Two of our daemons with real-time priority and `count` sessions between them, all Up."""
    with World(Link(ms=ms, mult=mult)) as world:
        for namespace, mine, theirs, via in (
            (world.us, 0, "10.79.0.0/16", "10.77.0.2"),
            (world.peer, 1, "10.78.0.0/16", "10.77.0.1"),
        ):
            namespace.ip_batch([f"addr add {pair[mine]}/32 dev eth0" for pair in pairs(count)])
            namespace.ip(f"route add {theirs} via {via}")
        daemons = []
        for side, mine in (("us", 0), ("peer", 1)):
            blocks = [
                f"bfd_instance m{number} {{\n  neighbor_ip {pair[1 - mine]}\n  source_ip {pair[mine]}\n"
                f"  min_rx {ms}\n  min_tx {ms}\n  multiplier {mult}\n}}\n"
                for number, pair in enumerate(pairs(count))
            ]
            more = "global_defs {\n  bfd_rt_priority 20\n}\n" + "".join(blocks)
            daemons.append(Ours(world, side=side, more=more).start())
        for daemon in daemons:
            wait_until(lambda d=daemon: ups(d) == count, timeout_s=60, every_s=0.5, what="all sessions Up")
        yield world, *daemons  # type: ignore[misc]


def sessions(daemon: Ours) -> list[BfdSession]:
    """Those of `many`."""
    try:
        answer = daemon.request(BfdShow())
    except BusError:
        return []
    return [each for each in answer.sessions if each.session != "b0"] if isinstance(answer, BfdSessions) else []


def ups(daemon: Ours) -> int:
    return sum(each.state.value == "Up" for each in sessions(daemon))


def downs(daemon: Ours) -> int:
    return sum(each.downs for each in sessions(daemon))


def pause(seconds: float) -> None:
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, timeout_s=seconds + 5, every_s=0.1)


def test_a_flood_of_mutated_packets_takes_nobody_down() -> None:
    """500 sessions are Up; a stranger who knows every discriminator sends mutated copies as fast as the machine can."""
    with many(500) as (world, ours, theirs):
        pause(1.0)
        before = downs(ours), downs(theirs)
        numbers = [str(each.local_discriminator) for each in sessions(ours)]
        (world.folder / "numbers").write_text("\n".join(numbers))
        stranger = world.lab.namespace("stranger")
        world.lab.veth(world.us, "eth1", stranger, "eth0")
        world.us.ip("addr add 10.80.0.1/24 dev eth1")
        stranger.ip("addr add 10.80.0.66/24 dev eth0")
        stranger.ip("route add 10.78.0.0/16 via 10.80.0.1")
        command = [sys.executable, str(FLOOD), "10.80.0.66", "10.78.0.1", str(world.folder / "numbers"), "8"]
        flood = stranger.popen(command, stdout=subprocess.PIPE)
        output, _ = flood.communicate(timeout=60)
        assert int(output) > 100_000, "that was no flood"
        assert (downs(ours), downs(theirs)) == before
        assert ups(ours) == 500


def test_a_killed_cell_comes_back_and_peers_hardly_notice() -> None:
    """kill -9 with 100 sessions Up: its successor goes on; each peer sees at most one short Down, or none."""
    with many(100) as (_, ours, theirs):
        pause(1.0)
        before = {each.session: each.downs for each in sessions(theirs)}
        numbers = {each.session: each.local_discriminator for each in sessions(ours)}
        os.kill(cell_pid(ours), signal.SIGKILL)
        wait_until(lambda: ups(ours) == 100, timeout_s=20, every_s=0.2, what="its return")
        wait_until(lambda: ups(theirs) == 100, timeout_s=20, every_s=0.2, what="the peers' return")
        pause(1.0)
        after = {each.session: each.downs for each in sessions(theirs)}
        assert {each.session: each.local_discriminator for each in sessions(ours)} == numbers
        assert max(after[name] - before[name] for name in after) <= 1
        assert (ups(ours), ups(theirs)) == (100, 100)


def test_busy_processors_take_nobody_down() -> None:
    """A busy loop for each processor, 3 x 50 ms, real-time priority: no false Down."""
    with many(20) as (world, ours, theirs):
        pause(1.0)
        before = downs(ours), downs(theirs)
        code = "import time\nend = time.monotonic() + 10\nwhile time.monotonic() < end: pass"
        for _ in range(os.cpu_count() or 1):
            world.us.popen([sys.executable, "-c", code])
        pause(10)
        assert (downs(ours), downs(theirs)) == before
        assert (ups(ours), ups(theirs)) == (20, 20)
