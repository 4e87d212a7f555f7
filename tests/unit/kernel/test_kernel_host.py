"""What needs a real kernel but no rights: files that change, counters, settings, the text of the firewall."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

import pytest

from holdfast.kernel import process, scheduling, sysctl
from holdfast.kernel.base import AddressSpec, KernelError
from holdfast.kernel.firewall import Nftables, element, table_text
from holdfast.kernel.inotify import Inotify
from holdfast.kernel.netlink import Netlink, name_of_netlink_port


class Turns:
    """Lets a test wait for the next call."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._event.set()

    async def wait(self) -> None:
        await asyncio.wait_for(self._event.wait(), 5)
        self._event.clear()


def test_a_file_that_is_written_replaced_and_removed(tmp_path: Path) -> None:
    async def work() -> None:
        notices, seen, other = Inotify(asyncio.get_running_loop()), Turns(), Turns()
        path = tmp_path / "state"
        end = notices.watch(str(path), seen)
        notices.watch(str(tmp_path / "other"), other)
        path.write_text("1")
        await seen.wait()
        (tmp_path / "new").write_text("2")
        os.replace(tmp_path / "new", path)
        await seen.wait()
        path.unlink()
        await seen.wait()
        assert other.count == 0
        end()
        before = seen.count
        path.write_text("3")
        (tmp_path / "other").write_text("3")
        await other.wait()
        assert seen.count == before
        end()  # harmless twice
        notices.close()
        notices.close()

    asyncio.run(work())


def test_a_directory_that_goes(tmp_path: Path) -> None:
    async def work() -> None:
        notices, seen = Inotify(asyncio.get_running_loop()), Turns()
        place = tmp_path / "run"
        with pytest.raises(KernelError) as caught:
            notices.watch(str(place / "state"), seen)
        assert "run" in caught.value.subject
        place.mkdir()
        notices.watch(str(place / "state"), seen)
        place.rmdir()
        await seen.wait()
        place.mkdir()
        again = Turns()
        notices.watch(str(place / "state"), again)
        (place / "state").write_text("1")
        await again.wait()
        notices.close()

    asyncio.run(work())


def test_two_followers_of_one_file(tmp_path: Path) -> None:
    async def work() -> None:
        notices, one, two = Inotify(asyncio.get_running_loop()), Turns(), Turns()
        path = tmp_path / "state"
        end = notices.watch(str(path), one)
        notices.watch(str(path), two)
        end()
        path.write_text("1")
        await two.wait()
        assert one.count == 0
        notices.close()

    asyncio.run(work())


def test_an_overflow_is_told_to_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        notices, one, two = Inotify(asyncio.get_running_loop()), Turns(), Turns()
        notices.watch(str(tmp_path / "a"), one)
        notices.watch(str(tmp_path / "b"), two)
        monkeypatch.setattr(os, "read", lambda *_: struct.pack("=iIII", -1, 0x4000, 0, 0))
        notices._readable()
        monkeypatch.undo()
        assert (one.count, two.count) == (1, 1)
        notices.close()

    asyncio.run(work())


def test_what_this_process_uses() -> None:
    pss, rss, used = process.pss_bytes(), process.rss_bytes(), process.cpu_ns()
    assert pss is not None and rss is not None and used is not None
    assert 1 << 20 < pss <= rss * 2
    assert used > 0
    assert process.pss_bytes(2**22 + 1) is None
    assert process.cpu_ns(2**22 + 1) is None


def test_evidence_names_only_what_matters() -> None:
    before = process.Readings(at=0, waited=0, pressure_cpu=0, throttled=0, steal=None, suspended=0)
    after = process.Readings(
        at=8_000_000_000, waited=7_900_000_000, pressure_cpu=1_000_000, throttled=7_900_000_000, steal=5, suspended=0
    )
    assert process.stall_evidence(before, after) == {"waited_s": 7.9, "throttled_s": 7.9, "span_s": 8.0}
    assert process.stall_evidence(after, after) == {}


def test_readings_are_of_this_machine() -> None:
    first, second = process.read(), process.read()
    assert second.at > first.at
    assert first.waited is None or (second.waited is not None and second.waited >= first.waited)
    process.remember()
    assert process.stall_evidence().get("suspended_s") is None


def test_settings_are_read_and_missing_ones_are_none() -> None:
    assert sysctl.get("kernel/ostype") == "Linux"
    assert sysctl.get("net/ipv4/conf/no-such-interface/arp_ignore") is None
    assert not sysctl.put("net/ipv4/conf/no-such-interface/arp_ignore", 1)
    assert sysctl.interface_setting(6, "eth0.5", "forwarding") == "net/ipv6/conf/eth0.5/forwarding"


def test_affinity_leaves_out_cpus_that_are_not_there() -> None:
    mine = os.sched_getaffinity(0)
    try:
        scheduling.set_affinity((min(mine), 4000))
        assert os.sched_getaffinity(0) == {min(mine)}
        errors = scheduling.apply(scheduling.Scheduling(cpus=(4000,)))
        assert len(errors) == 1 and "4000" in errors[0].subject
    finally:
        os.sched_setaffinity(0, mine)


def test_a_netlink_port_has_an_owner() -> None:
    netlink = Netlink()
    assert name_of_netlink_port(netlink.port).endswith(f"[{os.getpid()}]")
    netlink.close()
    assert name_of_netlink_port(0) == ""
    assert name_of_netlink_port(2**22 + 7) == ""


def test_elements_of_the_firewall() -> None:
    assert element(AddressSpec(address="10.0.0.1", prefix=32)) == ("vips4", "10.0.0.1")
    assert element(AddressSpec(address="fd00::1", prefix=128)) == ("vips6", "fd00::1")
    link_local = AddressSpec(address="fe80::1", prefix=64, dev="eth0")
    assert element(link_local) == ("link_vips6", 'fe80::1 . "eth0"')
    assert element(AddressSpec(address="fe80::1", prefix=64)) == ("vips6", "fe80::1")
    text = table_text("mine", -5, counters=True)
    assert "priority -5" in text and "table inet mine {" in text and "counter drop" in text


def test_without_nft_orders_fail_and_say_so() -> None:
    async def work() -> None:
        firewall = Nftables(program="no-such-nft")
        firewall.block([AddressSpec(address="10.0.0.1", prefix=32)])
        errors = await firewall.settle()
        assert errors and all("not installed" in error.text for error in errors)
        assert await firewall.settle() == []

    asyncio.run(work())
