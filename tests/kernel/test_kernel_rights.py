"""What needs root: the firewall, scheduling, capabilities, process events."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
from netns import Lab, NetNs

from holdfast.kernel import privileges, process
from holdfast.kernel.base import AddressSpec, KernelError
from holdfast.kernel.firewall import Nftables
from holdfast.kernel.procevents import ProcessEvents

pytestmark = pytest.mark.netns


def reachable(ns: NetNs, address: str) -> bool:
    """One ping; a longer wait when it should arrive is not needed on a veth."""
    return "1 received" in ns.run(f"ping -n -c 1 -W 1 {address}", check=False)


def test_no_accept_drops_all_but_neighbour_discovery() -> None:
    with Lab() as lab:
        a, b = lab.namespace("a"), lab.namespace("b")
        lab.veth(a, "eth0", b, "eth0")
        a.ip_batch(
            [
                "addr add 10.0.0.1/24 dev eth0",
                "addr add 10.0.0.9/32 dev eth0",
                "addr add fd00::1/64 dev eth0 nodad",
                "addr add fd00::9/128 dev eth0 nodad",
                "addr add fe80::9/64 dev eth0 nodad",
            ]
        )
        b.ip_batch(["addr add 10.0.0.2/24 dev eth0", "addr add fd00::2/64 dev eth0 nodad"])
        vips = [
            AddressSpec(address="10.0.0.9", prefix=32),
            AddressSpec(address="fd00::9", prefix=128),
            AddressSpec(address="fe80::9", prefix=64, dev="eth0"),
        ]

        async def work() -> None:
            firewall = Nftables()
            firewall.block(vips)
            firewall.block(vips[:1])  # a second instance wants it too
            assert await firewall.settle() == []
            assert await firewall.present()
            assert reachable(b, "10.0.0.1") and reachable(b, "fd00::1")
            assert not reachable(b, "10.0.0.9")
            assert not reachable(b, "fd00::9")
            b.ip("neigh flush dev eth0")
            assert not reachable(b, "fd00::9")
            assert "lladdr" in b.ip("neigh show fd00::9")  # it is found, and only then silent
            a.run("nft flush ruleset")
            assert not await firewall.present()
            firewall.restore()
            await firewall.settle()
            assert not reachable(b, "10.0.0.9")
            firewall.unblock(vips)
            assert await firewall.settle() == []
            assert not reachable(b, "10.0.0.9")
            firewall.unblock(vips[:1])
            assert await firewall.settle() == []
            assert reachable(b, "10.0.0.9") and reachable(b, "fd00::9")
            await firewall.close()
            assert "holdfast" not in a.run("nft list tables")

        with a.enter():
            asyncio.run(work())


def test_what_others_take_out_of_the_firewall_is_told_with_their_name() -> None:
    with Lab() as lab:
        a = lab.namespace("a")
        vip = AddressSpec(address="10.0.0.9", prefix=32)

        async def work() -> None:
            firewall = Nftables()
            told: asyncio.Queue[str | None] = asyncio.Queue()
            firewall.on_lost(told.put_nowait)
            firewall.block([vip])
            firewall.block([AddressSpec(address="10.0.0.10", prefix=32)])
            firewall.restore()
            firewall.unblock([AddressSpec(address="10.0.0.10", prefix=32)])
            assert await firewall.settle() == []
            a.run("nft add table inet theirs")
            a.run("nft delete table inet theirs")
            for damage in (
                "nft flush ruleset",
                "nft delete table inet holdfast",
                "nft flush chain inet holdfast in",
                "nft delete element inet holdfast vips4 { 10.0.0.9 }",
            ):
                a.run(damage)
                by = await asyncio.wait_for(told.get(), 10)
                assert by is not None and by.startswith("nft (pid ")
                firewall.restore()
                await firewall.settle()
                assert await firewall.present()
            assert told.empty()  # our own orders, and what is not in our table, are nobody's loss
            await firewall.close()

        with a.enter():
            asyncio.run(work())


def test_a_refused_firewall_says_why() -> None:
    with Lab() as lab:
        a = lab.namespace("a")

        async def work() -> None:
            firewall = Nftables(table="bad name")
            firewall.block([AddressSpec(address="10.0.0.9", prefix=32)])
            errors = await firewall.settle()
            assert errors and "bad name" in errors[0].subject and "syntax error" in errors[0].text

        with a.enter():
            asyncio.run(work())


def in_child(code: str) -> str:
    """Runs Python in a process of its own, since these settings cannot be taken back."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_scheduling_is_as_wanted() -> None:
    text = in_child("""
import os, resource
from holdfast.kernel import scheduling, process
wanted = scheduling.Scheduling(nice=-5, realtime_priority=500, realtime_limit_us=20000, lock_memory=True,
                               cpus=(min(os.sched_getaffinity(0)),))
errors = scheduling.apply(wanted)
print(errors)
print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0) & 0xff == os.SCHED_RR,
      os.sched_getparam(0).sched_priority, resource.getrlimit(15)[0], process.locked_bytes() > 1000000,
      len(os.sched_getaffinity(0)))
child = os.fork()
if child == 0:
    os._exit(0 if os.sched_getscheduler(0) == os.SCHED_OTHER else 1)
print(os.waitpid(child, 0)[1])
scheduling.set_realtime(0)
print(os.sched_getscheduler(0) == os.SCHED_OTHER)
""")
    assert text.splitlines() == ["[]", "-5 True 99 20000 True 1", "0", "True"]


def test_capabilities_that_are_kept_and_lost() -> None:
    text = in_child("""
import socket
from holdfast.kernel import privileges
assert privileges.has_capability("net_raw") and privileges.has_capability("net_admin")
privileges.keep_capabilities({"net_raw"})
privileges.no_new_privileges()
print(privileges.has_capability("net_raw"), privileges.has_capability("net_admin"))
socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
try:
    open("/proc/sys/net/ipv4/conf/lo/arp_ignore", "w").write("0")
    print("written")
except PermissionError:
    print("refused")
import subprocess
print(subprocess.run(["grep", "CapBnd", "/proc/self/status"], capture_output=True).stdout.split()[1].decode())
""")
    lines = text.splitlines()
    assert lines[0] == "True False"
    assert int(lines[2], 16) == 1 << privileges.CAPABILITIES["net_raw"]


def test_a_cell_that_watches_but_announces_nothing_needs_no_raw_sockets() -> None:
    text = in_child("""
import asyncio
from holdfast.kernel import privileges
from holdfast.kernel.base import KernelError
from holdfast.kernel.linux import LinuxKernel
privileges.keep_capabilities({"net_admin"})

async def work():
    kernel = LinuxKernel(asyncio.get_running_loop())
    try:
        kernel.announcer
    except KernelError as error:
        print(error.errno)
    kernel.close()

asyncio.run(work())
""")
    assert text.split() == ["1"]


def test_a_child_ends_with_its_parent() -> None:
    read_end, write_end = os.pipe()
    parent = os.fork()
    if parent == 0:
        me = os.getpid()
        child = os.fork()
        if child == 0:
            privileges.die_with_parent(signal.SIGKILL, parent=me)
            os.write(write_end, f"{os.getpid()}\n".encode())
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
        os._exit(0)
    os.close(write_end)
    child = int(os.read(read_end, 16))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    # The pipe ends when the last holder of its writing end, the child, is gone.
    assert os.read(read_end, 1) == b""
    os.close(read_end)
    assert not os.path.exists(f"/proc/{child}") or process.rss_bytes(child) is None


def test_entering_a_namespace_by_name() -> None:
    with Lab() as lab:
        ns = lab.namespace("a")
        ns.ip("link add d0 type veth peer name d1")
        seen: list[list[str]] = []

        def inside() -> None:
            privileges.enter_network_namespace(ns.name)
            seen.append(sorted(name for _, name in __import__("socket").if_nameindex()))

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        assert seen == [["d0", "d1", "lo"]]
        with pytest.raises(KernelError) as caught:
            privileges.enter_network_namespace("no-such-namespace")
        assert "no-such-namespace" in str(caught.value)


def test_process_events() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        events = ProcessEvents(loop)
        seen: list[tuple[str, int]] = []
        ended = asyncio.Event()
        pids: set[int] = set()

        def gone(pid: int) -> None:
            seen.append(("end", pid))
            if pid in pids:
                ended.set()

        try:
            end = events.follow(
                forked=lambda parent, child: seen.append(("fork", child)),
                changed=lambda pid: seen.append(("change", pid)),
                ended=gone,
                lost=lambda: seen.append(("lost", 0)),
            )
        except KernelError as error:
            # Without the connector (another namespace, no right) the consumer counts by itself: it has to be told.
            assert error.subject == "process events"
            return
        # A thread is no process.
        thread = threading.Thread(target=lambda: None)
        thread.start()
        identifier = thread.native_id
        thread.join()
        child = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
        pids.add(child.pid)
        assert child.stdin is not None
        child.stdin.close()
        await child.wait()
        await asyncio.wait_for(ended.wait(), 5)
        mine = [what for what, pid in seen if pid == child.pid]
        assert mine == ["fork", "change", "end"]
        assert identifier not in {pid for _, pid in seen}
        end()
        end()
        events.close()

    asyncio.run(work())


def test_process_events_after_an_overrun() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        events = ProcessEvents(loop, receive_buffer_bytes=2304)
        lost = asyncio.Event()
        try:
            events.follow(forked=lambda *_: None, changed=lambda _: None, ended=lambda _: None, lost=lost.set)
        except KernelError as error:
            assert error.subject == "process events"
            return
        for _ in range(60):  # the loop does not read meanwhile
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        await asyncio.wait_for(lost.wait(), 5)
        assert events.overruns >= 1
        events.close()

    asyncio.run(work())


def test_a_stall_leaves_evidence() -> None:
    """A stopped process waits for nothing; two busy ones on one CPU do."""
    before = process.read()
    cpu = min(os.sched_getaffinity(0))
    mine = os.sched_getaffinity(0)
    rival = subprocess.Popen(["taskset", "-c", str(cpu), sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(0, {cpu})
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            pass
    finally:
        os.sched_setaffinity(0, mine)
        rival.kill()
        rival.wait()
    evidence = process.stall_evidence(before, process.read())
    assert evidence.get("waited_s", 0) > 0.05
    assert evidence["span_s"] >= 0.4


def test_the_realtime_limit_is_within_the_hard_one() -> None:
    soft, hard = resource.getrlimit(15)
    assert hard == resource.RLIM_INFINITY or soft <= hard
    assert (
        in_child("""
import resource
from holdfast.kernel import scheduling
resource.setrlimit(15, (500000, 500000))
scheduling.limit_realtime(900000)
print(resource.getrlimit(15))
""")
        == "(500000, 500000)"
    )
