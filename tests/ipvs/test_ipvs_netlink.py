"""kernel/ipvs.py against a real IPVS; `ipvsadm -Sn` is the witness."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import time
from collections.abc import Iterator

import pytest

from holdfast.kernel.base import KernelError
from holdfast.kernel.ipvs import Ipvs
from holdfast.kernel.ipvs_types import (
    FLAG_ONE_PACKET,
    FLAG_PERSISTENT,
    FLAG_SCHEDULER_1,
    FLAG_SCHEDULER_2,
    DaemonSpec,
    DestinationOrder,
    DestinationSpec,
    Method,
    ServiceKey,
    ServiceOrder,
    ServiceSpec,
    Timeouts,
    TunnelType,
    Verb,
)

pytestmark = pytest.mark.uml

V4 = ServiceKey(4, 6, "10.9.0.1", 80)
V6 = ServiceKey(6, 17, "fd00::1", 53)
MARK = ServiceKey(4, fwmark=7)


def saved() -> list[str]:
    output = subprocess.run(["ipvsadm", "-Sn"], check=True, capture_output=True, text=True).stdout
    return sorted(line.strip() for line in output.splitlines())


@pytest.fixture
def ipvs() -> Iterator[Ipvs]:
    table = Ipvs()
    table.flush()
    yield table
    table.flush()
    table.close()


def test_services_of_every_kind_are_as_ordered(ipvs: Ipvs) -> None:
    orders = [
        ServiceOrder(Verb.ADD, ServiceSpec(V4, "wrr", FLAG_PERSISTENT, 300, "255.255.255.0")),
        ServiceOrder(Verb.ADD, ServiceSpec(V6, "rr", FLAG_ONE_PACKET)),
        ServiceOrder(Verb.ADD, ServiceSpec(MARK, "sh", FLAG_SCHEDULER_1 | FLAG_SCHEDULER_2)),
        ServiceOrder(Verb.ADD, ServiceSpec(ServiceKey(6, fwmark=8), "wlc", FLAG_PERSISTENT, 60, "64")),
        ServiceOrder(
            Verb.ADD, ServiceSpec(ServiceKey(4, 17, "10.9.0.9", 5060), "wlc", FLAG_PERSISTENT, 60, engine="sip")
        ),
        ServiceOrder(Verb.ADD, ServiceSpec(ServiceKey(4, 132, "10.9.0.3", 99), "mh")),
    ]
    assert ipvs.apply(orders) == []
    assert saved() == sorted(
        [
            "-A -t 10.9.0.1:80 -s wrr -p 300 -M 255.255.255.0",
            "-A -u [fd00::1]:53 -s rr -o",
            "-A -f 7 -s sh -b sh-fallback,sh-port",
            "-A -f 8 -6 -s wlc -p 60 -M 64",
            "-A -u 10.9.0.9:5060 -s wlc -p 60 --pe sip",
            "-A --sctp-service 10.9.0.3:99 -s mh",
        ]
    )
    records = asyncio.run(ipvs.services(statistics=True))
    assert sorted((record.spec for record in records), key=repr) == sorted(
        (order.service for order in orders), key=repr
    )
    assert (
        ipvs.apply([ServiceOrder(Verb.EDIT, ServiceSpec(V4, "rr")), ServiceOrder(Verb.DELETE, orders[1].service)]) == []
    )
    assert "-A -t 10.9.0.1:80 -s rr" in saved()
    assert not any("fd00::1" in line for line in saved())


def test_destinations_of_every_kind_are_as_ordered(ipvs: Ipvs) -> None:
    wanted = {
        V4: [
            DestinationSpec("10.9.1.1", 8080, Method.NAT, 3, 100, 50),
            DestinationSpec("10.9.1.2", 80, Method.DR, 0),
            DestinationSpec("10.9.1.3", 80, Method.TUN, 1),
            DestinationSpec(
                "10.9.1.4", 80, Method.TUN, 1, tunnel_type=TunnelType.GUE, tunnel_port=6080, tunnel_flags=1
            ),
            DestinationSpec("10.9.1.5", 80, Method.TUN, 1, tunnel_type=TunnelType.GRE, tunnel_flags=1),
            DestinationSpec("fd00::5", 80, Method.TUN, 1),
        ],
        V6: [DestinationSpec("fd00::2", 53, Method.DR, 2147483647)],
        MARK: [DestinationSpec("10.9.1.1", 0, Method.DR, 1)],
    }
    orders = [ServiceOrder(Verb.ADD, ServiceSpec(key, "rr")) for key in wanted]
    destinations = [DestinationOrder(Verb.ADD, key, spec) for key, specs in wanted.items() for spec in specs]
    assert ipvs.apply([*orders, *destinations]) == []
    for key, specs in wanted.items():
        records = asyncio.run(ipvs.destinations(key, statistics=True))
        assert sorted(record.spec for record in records) == sorted(specs)
    lines = saved()
    assert "-a -t 10.9.0.1:80 -r 10.9.1.1:8080 -m -w 3" in lines
    assert "-a -t 10.9.0.1:80 -r 10.9.1.4:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum" in lines
    assert "-a -u [fd00::1]:53 -r [fd00::2]:53 -g -w 2147483647" in lines
    edits = [
        DestinationOrder(Verb.EDIT, V4, DestinationSpec("10.9.1.2", 80, Method.DR, 9)),
        DestinationOrder(Verb.DELETE, V6, wanted[V6][0]),
    ]
    assert ipvs.apply(edits) == []
    assert "-a -t 10.9.0.1:80 -r 10.9.1.2:80 -g -w 9" in saved()
    assert asyncio.run(ipvs.destinations(V6)) == []


def test_a_refused_order_does_not_stop_the_others_and_names_its_subject(ipvs: Ipvs) -> None:
    orders = [
        ServiceOrder(Verb.ADD, ServiceSpec(V4, "rr")),
        ServiceOrder(Verb.ADD, ServiceSpec(V4, "rr")),
        DestinationOrder(Verb.ADD, V4, DestinationSpec("10.9.1.1", 80)),
        DestinationOrder(Verb.ADD, V4, DestinationSpec("10.9.1.2", 80, upper=1, lower=2)),
        DestinationOrder(Verb.ADD, V4, DestinationSpec("not an address", 80)),
        DestinationOrder(Verb.ADD, V4, DestinationSpec("fd00::2", 80, Method.DR)),
        DestinationOrder(Verb.EDIT, V4, DestinationSpec("10.9.1.7", 80)),
        DestinationOrder(Verb.DELETE, V4, DestinationSpec("10.9.1.8", 80)),
        DestinationOrder(Verb.ADD, V6, DestinationSpec("fd00::2", 53)),
        DestinationOrder(Verb.ADD, V4, DestinationSpec("10.9.1.3", 80)),
        ServiceOrder(Verb.ADD, ServiceSpec(V6, "nosuch")),
        DestinationOrder(Verb.ADD, V4, DestinationSpec("also not one", 80)),
    ]
    refused = ipvs.apply(orders)
    codes = {refusal.index: refusal.error.errno for refusal in refused}
    assert codes == {
        1: errno.EEXIST,
        3: errno.ERANGE,
        4: errno.EINVAL,
        5: errno.EINVAL,
        6: errno.ENOENT,
        7: errno.ENOENT,
        8: errno.ESRCH,
        10: errno.ENOENT,
        11: errno.EINVAL,
    }
    assert {str(refusal.error.subject) for refusal in refused if refusal.index == 3} == {
        "add destination [10.9.1.2]:80 of [10.9.0.1]:tcp:80"
    }
    assert [line for line in saved() if line.startswith("-a")] == [
        "-a -t 10.9.0.1:80 -r 10.9.1.1:80 -m -w 1",
        "-a -t 10.9.0.1:80 -r 10.9.1.3:80 -m -w 1",
    ]


def test_ten_thousand_destinations_and_the_loop_keeps_turning(ipvs: Ipvs) -> None:
    specs = [DestinationSpec(f"10.{i >> 14}.{i >> 7 & 127}.{i & 127}", 80, Method.DR) for i in range(10_000)]
    orders = [DestinationOrder(Verb.ADD, V4, spec) for spec in specs]
    assert ipvs.apply([ServiceOrder(Verb.ADD, ServiceSpec(V4, "wlc"))]) == []
    longest_s = 0.0
    started = time.monotonic()
    for first in range(0, len(orders), 128):
        turn = time.monotonic()
        assert ipvs.apply(orders[first : first + 128]) == []
        longest_s = max(longest_s, time.monotonic() - turn)
    added_s = time.monotonic() - started

    async def read() -> tuple[int, float, float]:
        gaps = [0.0]
        done = asyncio.Event()

        async def watch() -> None:
            last = time.monotonic()
            while not done.is_set():
                await asyncio.sleep(0)
                gaps.append(time.monotonic() - last)
                last = time.monotonic()

        watcher = asyncio.create_task(watch())
        begun = time.monotonic()
        count = len(await ipvs.destinations(V4))
        spent = time.monotonic() - begun
        done.set()
        await watcher
        return count, spent, max(gaps)

    count, dumped_s, gap_s = asyncio.run(read())
    print(
        f"10,000 added in {added_s:.3f} s, longest turn {longest_s * 1e3:.1f} ms; "
        f"dumped in {dumped_s:.3f} s, longest turn {gap_s * 1e3:.1f} ms"
    )
    assert count == 10_000
    assert added_s < 5
    assert longest_s < 0.5
    assert gap_s < 0.5


def test_a_dump_that_is_given_up_leaves_the_socket_usable(ipvs: Ipvs) -> None:
    specs = [DestinationSpec(f"10.0.{i >> 7}.{i & 127}", 80, Method.DR) for i in range(2_000)]
    assert ipvs.apply([ServiceOrder(Verb.ADD, ServiceSpec(V4, "wlc"))]) == []
    assert ipvs.apply([DestinationOrder(Verb.ADD, V4, spec) for spec in specs]) == []

    async def scenario() -> int:
        task = asyncio.create_task(ipvs.destinations(V4))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(await ipvs.destinations(V4))

    assert asyncio.run(scenario()) == 2_000


def test_timeouts_are_read_and_set(ipvs: Ipvs) -> None:
    before = ipvs.timeouts()
    ipvs.set_timeouts(Timeouts(tcp_s=1000, udp_s=33))
    assert ipvs.timeouts() == Timeouts(1000, before.tcp_fin_s, 33)
    ipvs.set_timeouts(before)
    assert ipvs.timeouts() == before


def test_sync_daemons_start_and_stop(ipvs: Ipvs) -> None:
    subprocess.run(["ip", "link", "add", "sync0", "type", "dummy"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", "10.77.0.1/24", "dev", "sync0"], check=True)
        subprocess.run(["ip", "link", "set", "sync0", "up"], check=True)
        master = DaemonSpec("master", "sync0", 7, 1000, 8850, 3, "224.0.0.91")
        ipvs.start_daemon(master)
        ipvs.start_daemon(DaemonSpec("backup", "sync0", 7))
        there = {daemon.role: daemon for daemon in ipvs.daemons()}
        assert there["master"] == master
        assert there["backup"].sync_id == 7
        with pytest.raises(KernelError) as refused:
            ipvs.start_daemon(master)
        assert refused.value.errno == errno.EEXIST
        ipvs.stop_daemon("master", 7)
        ipvs.stop_daemon("backup", 7)
        assert ipvs.daemons() == []
        with pytest.raises(KernelError) as missing:
            ipvs.stop_daemon("master", 7)
        assert missing.value.errno == errno.ESRCH
    finally:
        subprocess.run(["ip", "link", "del", "sync0"], check=True)


def test_another_namespace_has_a_table_of_its_own(ipvs: Ipvs) -> None:
    subprocess.run(["ip", "netns", "add", "ipvs-other"], check=True)
    try:
        other = Ipvs("ipvs-other")
        assert other.apply([ServiceOrder(Verb.ADD, ServiceSpec(V4, "rr"))]) == []
        assert saved() == []
        there = subprocess.run(
            ["ip", "netns", "exec", "ipvs-other", "ipvsadm", "-Sn"], check=True, capture_output=True, text=True
        )
        assert there.stdout.strip() == "-A -t 10.9.0.1:80 -s rr"
        other.close()
        with pytest.raises(KernelError):
            Ipvs("no-such-namespace")
    finally:
        subprocess.run(["ip", "netns", "del", "ipvs-other"], check=True)


def test_info(ipvs: Ipvs) -> None:
    info = ipvs.info()
    assert info.version == "1.2.1"
    assert info.connection_table_size >= 256
