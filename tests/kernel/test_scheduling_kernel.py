"""Scheduling keywords on a real kernel: what a cell is after its start, after a reload, and when it is put back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns import Lab, wait_until

pytestmark = pytest.mark.netns

HOLDFAST = str(Path(sys.executable).parent / "holdfast")
INSTANCE = """vrrp_instance V {
  interface eth0
  version 3
  virtual_router_id 1
  priority 100
  virtual_ipaddress { 10.0.0.9 }
}
"""
FIRST = """global_defs {
  vrrp_rt_priority 20
  vrrp_priority -5
  vrrp_no_swap
  vrrp_cpu_affinity 0
  vrrp_process_name steady
  startup_script "/bin/touch %(folder)s/began" root
  shutdown_script "/bin/touch %(folder)s/ended" root
  umask 0117
}
"""
SECOND = "global_defs {\n  vrrp_priority -7\n}\n"


def status(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:"))


class Daemon:
    def __init__(self, folder: Path, namespace: object) -> None:
        self.folder = folder
        self.conf = folder / "conf"
        (folder / "toml").write_text('node = "n"\n[journal]\nenabled = false\n')
        self.write(FIRST)
        words = [HOLDFAST, "run", "-n", "-l", "-G", "-f", str(self.conf), "--settings", str(folder / "toml")]
        words += ["--run-dir", str(folder / "r")]
        log = (folder / "log").open("wb")
        self.process: subprocess.Popen[bytes] = namespace.popen(words, stdout=log, stderr=log)  # type: ignore[attr-defined]

    def write(self, globals_: str) -> None:
        self.conf.write_text(globals_.replace("%(folder)s", str(self.folder)) + INSTANCE)

    def cell(self, name: str, *, other_than: int = 0) -> int:
        for child in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if int(child) != other_than and Path(f"/proc/{child}/comm").read_text().strip() == name:
                    return int(child) if self.ready(int(child)) else 0
        return 0

    def ready(self, pid: int) -> bool:
        return f"runs as pid {pid} " in (self.folder / "log").read_text()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Lab() as lab:
        namespace, other = lab.namespace("a"), lab.namespace("b")
        lab.veth(namespace, "eth0", other, "eth0")
        namespace.ip("addr add 10.0.0.1/24 dev eth0")
        folder = Path(tempfile.mkdtemp(prefix="hf"))
        yield Daemon(folder, namespace)


def test_a_cell_is_scheduled_as_configured_and_anew_after_a_reload(daemon: Daemon) -> None:
    pid = wait_until(lambda: daemon.cell("steady"), timeout_s=20)
    assert os.sched_getscheduler(pid) & 0xFF == os.SCHED_RR
    assert os.sched_getparam(pid).sched_priority == 20
    assert os.getpriority(os.PRIO_PROCESS, pid) == -5
    assert os.sched_getaffinity(pid) == {0}
    threads = [int(thread) for thread in os.listdir(f"/proc/{pid}/task")]
    assert len(threads) > 1, "ZeroMQ's threads hand on what this process says"
    wait_until(lambda: {os.sched_getparam(each).sched_priority for each in threads} == {20})
    assert status(pid, "VmLck") != "0 kB"
    assert status(pid, "Umask") == "0117"
    assert (daemon.folder / "began").exists()
    supervisor = daemon.process.pid
    assert os.sched_getparam(supervisor).sched_priority == 20
    assert os.sched_getaffinity(supervisor) == set(range(os.cpu_count() or 1))
    notify = wait_until(lambda: daemon.cell("hf-notify"), timeout_s=10)
    assert os.sched_getscheduler(notify) & 0xFF == os.SCHED_OTHER
    assert os.getpriority(os.PRIO_PROCESS, notify) == 0

    os.kill(pid, signal.SIGKILL)
    again = wait_until(lambda: daemon.cell("steady", other_than=pid), timeout_s=20)
    assert os.sched_getparam(again).sched_priority == 20

    daemon.write(SECOND)
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: os.sched_getscheduler(again) & 0xFF == os.SCHED_OTHER, timeout_s=20)
    wait_until(lambda: os.getpriority(os.PRIO_PROCESS, again) == -7, timeout_s=5)
    assert os.sched_getaffinity(again) == set(range(os.cpu_count() or 1))
    wait_until(lambda: status(again, "VmLck") == "0 kB", timeout_s=5)

    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(10) == 0
    assert not (daemon.folder / "ended").exists(), "the reload took the shutdown_script away"


def test_the_shutdown_script_runs_when_all_cells_have_ended(daemon: Daemon) -> None:
    wait_until(lambda: daemon.cell("steady"), timeout_s=20)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(10) == 0
    assert (daemon.folder / "ended").exists()


@pytest.mark.parametrize("may", [True, False])
def test_threads_of_the_bus_are_real_time_where_that_is_allowed(may: bool) -> None:
    """ZeroMQ aborts a process whose threads may not be what they are told to be."""
    code = f"""
import os, time
import zmq
from holdfast.bus.sockets import end_context, new_context
from holdfast.kernel.scheduling import set_realtime
set_realtime(20)
if not {may}:
    os.setgid(65534)
    os.setuid(65534)
context = new_context()
context.socket(zmq.PUB).bind("inproc://here")
def priorities():
    return sorted(os.sched_getparam(int(each)).sched_priority for each in os.listdir("/proc/self/task"))
end = time.monotonic() + 10
while len(priorities()) != 3 or ({may} and 0 in priorities()):
    assert time.monotonic() < end, priorities()
    time.sleep(0.05)
print(priorities())
end_context(context)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == ("[20, 20, 20]" if may else "[0, 0, 20]")
