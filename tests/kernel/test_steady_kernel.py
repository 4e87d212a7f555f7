"""An address moves only when it must: deaths of cells and of the daemon, hand-overs, stalls, on a real kernel.

The judge is the other router: it must not become MASTER, and the address must not leave the first one's interface.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns import Lab, NetNs, wait_until

pytestmark = pytest.mark.netns

HOLDFAST = str(Path(sys.executable).parent / "holdfast")
VIP = "10.0.0.9"


def config(priority: int, extra: str = "", advert_s: int = 1) -> str:
    return (
        f"global_defs {{\n  vrrp_rt_priority 30\n}}\nvrrp_instance V {{\n  interface eth0\n  version 3\n"
        f"  virtual_router_id 1\n  priority {priority}\n  advert_int {advert_s}\n"
        f"  virtual_ipaddress {{ {VIP}/24 }}\n{extra}}}\n"
    )


class Daemon:
    def __init__(self, namespace: NetNs, priority: int, advert_s: int) -> None:
        self.namespace = namespace
        self.folder = Path(tempfile.mkdtemp(prefix="hf"))
        self.conf = self.folder / "conf"
        self.conf.write_text(config(priority, "  state MASTER\n" if priority == 200 else "", advert_s))
        (self.folder / "toml").write_text('node = "n"\n[journal]\nenabled = false\n')
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        words = [HOLDFAST, "run", "-n", "-l", "-G", "-f", str(self.conf), "--settings", str(self.folder / "toml")]
        with (self.folder / "log").open("ab") as log:
            self.process = self.namespace.popen([*words, "--run-dir", str(self.folder / "r")], stdout=log, stderr=log)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [HOLDFAST, *words, "--run-dir", str(self.folder / "r")],
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )

    def children(self) -> list[int]:
        return [
            int(each) for each in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def cell(self, name: str) -> int:
        for child in self.children():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == name:
                    return child
        return 0


class Watch:
    """Hears of every removal of the first router's address."""

    def __init__(self, namespace: NetNs) -> None:
        self._monitor = namespace.popen(["ip", "-o", "monitor", "address"], stdout=subprocess.PIPE)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self.deleted: list[str] = []

    def _read(self) -> None:
        assert self._monitor.stdout is not None
        for line in self._monitor.stdout:
            text = line.decode()
            if VIP in text and text.startswith("Deleted"):
                self.deleted.append(text)


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Daemon, Daemon, Watch]]:
    with Lab() as lab:
        a, b = lab.namespace("a"), lab.namespace("b")
        lab.veth(a, "eth0", b, "eth0")
        a.ip("addr add 10.0.0.1/24 dev eth0")
        b.ip("addr add 10.0.0.2/24 dev eth0")
        advert_s = getattr(request, "param", 1)
        first = Daemon(a, 200, advert_s)
        wait_until(lambda: f"{VIP}/24" in a.addresses("eth0"), timeout_s=30, what="a MASTER")
        second = Daemon(b, 100, advert_s)
        wait_until(lambda: "Entering BACKUP" in second.log(), timeout_s=30)
        watch = Watch(a)
        time.sleep(1.1 * advert_s)  # an advert, so that the second has heard the first
        yield first, second, watch
        for daemon in (first, second):
            shutil.rmtree(daemon.folder, ignore_errors=True)


def undisturbed(pair: tuple[Daemon, Daemon, Watch], advert_s: int = 1) -> None:
    """Longer than any backup waits; then nothing must have moved."""
    first, second, watch = pair
    time.sleep(4.2 * advert_s)
    why = first.command("why", "V", "--json").stdout
    assert f"{VIP}/24" in first.namespace.addresses("eth0"), first.log() + why
    assert "Entering MASTER" not in second.log(), first.log()
    assert watch.deleted == []


def test_cells_that_are_killed_are_put_back_as_what_they_were(pair: tuple[Daemon, Daemon, Watch]) -> None:
    first = pair[0]
    for name in ("hf-protocol", "hf-notify"):
        pid = first.cell(name)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda name=name, pid=pid: first.cell(name) not in (0, pid), timeout_s=10)
    undisturbed(pair)


@pytest.mark.parametrize("pair", [3], indirect=True)
def test_a_daemon_that_is_killed_whole_goes_on_while_its_leases_run(pair: tuple[Daemon, Daemon, Watch]) -> None:
    first = pair[0]
    for pid in (*first.children(), first.process.pid):
        os.kill(pid, signal.SIGKILL)
    first.process.wait(5)
    first.start()
    undisturbed(pair, 3)
    assert "Entering" not in first.log().rpartition("Starting holdfast")[2], "no transition at all"


def test_a_killed_daemon_that_nobody_starts_loses_its_address_before_the_other_takes_it(
    pair: tuple[Daemon, Daemon, Watch],
) -> None:
    first, second, _ = pair
    for pid in (*first.children(), first.process.pid):
        os.kill(pid, signal.SIGKILL)
    first.process.wait(5)
    owners = []
    end = time.monotonic() + 20
    while time.monotonic() < end and not (owners and owners[-1] == (False, True)):
        here, there = (f"{VIP}/24" in each.namespace.addresses("eth0") for each in (first, second))
        owners.append((here, there))
    assert owners[-1] == (False, True)
    assert (True, True) not in owners


def test_another_version_takes_over_without_a_failover(pair: tuple[Daemon, Daemon, Watch]) -> None:
    first = pair[0]
    before = {name: first.cell(name) for name in ("hf-protocol", "hf-notify")}
    for _ in range(2):
        done = first.command("restart")
        assert done.returncode == 0, done.stderr + first.log()
        after = {name: first.cell(name) for name in before}
        assert all(after[name] not in (0, before[name]) for name in before)
        before = after
    assert first.process.poll() is None, "the process id stays"
    undisturbed(pair)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(10) == 0


def test_a_version_that_does_not_get_ready_changes_nothing(pair: tuple[Daemon, Daemon, Watch]) -> None:
    first = pair[0]
    before = first.children()
    good = first.conf.read_text()
    first.conf.write_text(config(200, "  no_such_keyword 1\n"))
    done = first.command("restart")
    assert done.returncode == 1
    assert "no_such_keyword" in done.stderr
    assert "does not get ready" in done.stderr
    assert first.children() == before
    first.conf.write_text(good)
    undisturbed(pair)


def test_a_stop_that_comes_while_one_version_replaces_the_other_is_a_clean_stop(
    pair: tuple[Daemon, Daemon, Watch],
) -> None:
    first, second, _ = pair
    asking = threading.Thread(target=first.command, args=("restart",), daemon=True)
    asking.start()
    wait_until(lambda: "takes over" in first.log(), timeout_s=30)
    time.sleep(0.2)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(20) == 0
    assert f"{VIP}/24" not in first.namespace.addresses("eth0")
    wait_until(lambda: "Entering MASTER" in second.log(), timeout_s=5)


def test_an_address_that_somebody_deletes_is_back_without_a_transition(pair: tuple[Daemon, Daemon, Watch]) -> None:
    first, second, _ = pair
    for _ in range(5):
        first.namespace.ip(f"addr del {VIP}/24 dev eth0", check=False)
        wait_until(lambda: f"{VIP}/24" in first.namespace.addresses("eth0"), timeout_s=3)
    assert "Entering MASTER" not in second.log()
    assert "Entering BACKUP" not in first.log().rpartition("Entering MASTER")[2]


def test_a_frozen_master_is_no_second_owner(pair: tuple[Daemon, Daemon, Watch]) -> None:
    first, second, _ = pair
    pids = [first.process.pid, *first.children()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    both = 0
    end = time.monotonic() + 6
    while time.monotonic() < end:
        here, there = (f"{VIP}/24" in each.namespace.addresses("eth0") for each in (first, second))
        both += here and there
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert both == 0
    wait_until(lambda: "Entering BACKUP" in first.log().rpartition("Entering MASTER")[2], timeout_s=10)
