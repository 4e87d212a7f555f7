"""The supervisor with toy rooms: real processes, real sockets, nothing of the network."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from toy_daemon import ToyCount, ToyDone, ToyOrder, ToyState

from holdfast.actors.runtime.messages import (
    CellRestarted,
    CellStateChanged,
    CellStatus,
    ConfigState,
    Reload,
    Reloaded,
    RestartCell,
)
from holdfast.bus.base import RequestTimeout
from holdfast.bus.client import Client, Follower
from holdfast.bus.messages import Failed, ReasonKind

SCRIPT = Path(__file__).parent / "toy_daemon.py"


class Daemon:
    """One toy daemon and a client of it."""

    def __init__(self, directory: Path, rooms: dict[str, Any], **config: Any) -> None:
        self.directory = directory
        self.run_dir = directory / "run"
        self.config = directory / "config.json"
        self.log = directory / "log"
        self.configure(rooms, **config)
        self.process: subprocess.Popen[bytes]
        self.client = Client(self.run_dir)
        self.start()

    def configure(self, rooms: dict[str, Any], **config: Any) -> None:
        new = self.config.with_suffix(".new")
        new.write_text(json.dumps({"rooms": rooms, **config}))
        new.replace(self.config)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(self.run_dir), str(self.config)], stdout=log, stderr=log
            )

    def running(self, *cells: str) -> dict[str, CellStateChanged]:
        """Waits until these cells run. Returns their states."""
        states: dict[str, CellStateChanged] = {}
        follower = self.client.follow("cell/")
        until = time.monotonic() + 15
        while not all(name in states and states[name].status is CellStatus.RUNNING for name in cells):
            event = follower.next(max(0.1, until - time.monotonic())).event
            if isinstance(event, CellStateChanged):
                states[event.cell] = event
        follower.close()
        return states

    def order(self, room: str, what: str) -> ToyDone:
        reply = self.client.request(f"toy/{room}", ToyOrder(what=what), timeout_s=5)
        assert isinstance(reply, ToyDone), reply
        return reply

    def reload(self) -> Reloaded:
        reply = self.client.request("supervisor", Reload(), timeout_s=15)
        assert isinstance(reply, Reloaded), reply
        return reply

    def toy(self, room: str) -> ToyState:
        found = [each.event for each in self.client.snapshot(f"toy/{room}/state").events]
        assert len(found) == 1
        assert isinstance(found[0], ToyState)
        return found[0]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    made: list[Daemon] = []

    def make(rooms: dict[str, Any], **config: Any) -> Daemon:
        made.append(Daemon(tmp_path, rooms, **config))
        return made[-1]

    yield make
    for each in made:
        each.close()


def status_is(follower: Follower, cell: str, *wanted: CellStatus) -> list[CellStateChanged]:
    """The states of a cell until the last of `wanted` came, in which all of them appear in order."""
    seen: list[CellStateChanged] = []
    for status in wanted:
        while True:
            event = follower.until(CellStateChanged, 15).event
            assert isinstance(event, CellStateChanged)
            if event.cell == cell:
                seen.append(event)
                if event.status is status:
                    break
    return seen


def test_a_killed_cell_is_put_back_with_what_it_retained(daemon: Callable[..., Daemon]) -> None:
    toy = daemon({"vrrp": {"room": "a"}, "notify": {"room": "b"}})
    toy.running("protocol", "notify")
    notify_pid = toy.order("notify", "count").pid
    old = toy.order("vrrp", "count")
    assert toy.order("vrrp", "count").value == 2
    states = toy.client.follow("cell/protocol/state")
    status_is(states, "protocol", CellStatus.RUNNING)
    toy_events = toy.client.follow("toy/vrrp/")
    assert {type(toy_events.next(5).event) for _ in range(2)} == {ToyState, ToyCount}
    os.kill(old.pid, signal.SIGKILL)
    dead, *_, running = status_is(states, "protocol", CellStatus.DEAD, CellStatus.RUNNING)
    assert (dead.signal, dead.reason.kind, dead.pid) == (signal.SIGKILL, ReasonKind.KILLED, old.pid)
    assert running.reason.kind is ReasonKind.RESTARTED
    assert running.pid not in (0, old.pid)
    assert running.restarts == 1
    state = toy_events.next(5).event
    assert isinstance(state, ToyState)
    assert state.restored == 2
    assert state.pid == running.pid
    # The count was neither told anew nor forgotten: it stands as it was, and goes on from there.
    assert toy.order("vrrp", "count").value == 3
    count = toy_events.next(5)
    assert isinstance(count.event, ToyCount)
    assert (count.event.count, count.count) == (3, 3)
    assert toy_events.missed == 0
    assert toy.order("notify", "count").pid == notify_pid


def test_what_the_successor_does_not_confirm_is_forgotten(daemon: Callable[..., Daemon]) -> None:
    toy = daemon({"vrrp": {"room": "a"}}, settings={"cells": {"settle_after_s": 0.5}})
    toy.running("protocol")
    follower = toy.client.follow("lease/")
    pid = toy.order("vrrp", "lease").pid
    assert isinstance(follower.next(5).event, ToyCount)
    os.kill(pid, signal.SIGKILL)
    assert follower.next(15).gone
    assert toy.client.snapshot("lease/").events == []


def test_the_whole_daemon_killed_goes_on_from_the_run_directory(daemon: Callable[..., Daemon]) -> None:
    toy = daemon({"vrrp": {"room": "a"}})
    toy.running("protocol")
    first = toy.order("vrrp", "count")
    follower = toy.client.follow("toy/vrrp/count")
    assert follower.next(5).count == 1
    toy.process.kill()
    toy.process.wait(10)
    toy.start()
    toy.running("protocol")
    second = toy.order("vrrp", "count")
    assert (second.value, second.pid != first.pid) == (2, True)
    assert follower.next(5).event == ToyCount(count=2)
    assert follower.missed == 0


def test_a_clean_stop_leaves_nothing_to_go_on_from(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    toy = daemon({"vrrp": {"room": "a"}, "notify": {"room": "b"}})
    toy.running("protocol", "notify")
    toy.order("vrrp", "count")
    assert (tmp_path / "pid").read_text() == f"{toy.process.pid}\n"
    began = time.monotonic()
    assert toy.stop() == 0
    # Two seconds and not a kill are what the supervisor allows itself; a busy machine may need more to end a process.
    assert "did not end in time" not in toy.log.read_text()
    assert time.monotonic() - began < 4.0
    assert not (tmp_path / "pid").exists()
    assert list((toy.run_dir / "bus").iterdir()) == []
    assert list((toy.run_dir / "state").iterdir()) == []
    # The cell that carries the others' last words ended last.
    assert int((tmp_path / "stopped-vrrp").read_text()) < int((tmp_path / "stopped-notify").read_text())
    toy.start()
    toy.running("protocol")
    assert toy.order("vrrp", "count").value == 1


def test_a_cell_that_does_not_end_is_killed_within_two_seconds(daemon: Callable[..., Daemon]) -> None:
    toy = daemon({"vrrp": {"room": "a"}, "notify": {"room": "b"}})
    toy.running("protocol", "notify")
    pids = [toy.order("notify", "slow-stop").pid, toy.order("vrrp", "freeze").pid]
    while Path(f"/proc/{pids[1]}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        pass
    began = time.monotonic()
    assert toy.stop() == 0
    assert time.monotonic() - began < 4.0
    assert "did not end in time: killed" in toy.log.read_text()
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("how", ["hang", "freeze"])
def test_a_cell_that_does_not_answer_is_killed_and_put_back(daemon: Callable[..., Daemon], how: str) -> None:
    toy = daemon({"vrrp": {"room": "a"}}, settings={"cells": {"hung_after_s": 0.5}})
    toy.running("protocol")
    states = toy.client.follow("cell/protocol/state")
    status_is(states, "protocol", CellStatus.RUNNING)
    pid = toy.order("vrrp", how).pid
    dead, *_, running = status_is(states, "protocol", CellStatus.DEAD, CellStatus.RUNNING)
    assert dead.reason.kind is ReasonKind.STALLED
    assert dead.signal == signal.SIGKILL
    assert running.pid != pid


def test_a_supervisor_that_stood_still_does_not_blame_its_cells(daemon: Callable[..., Daemon]) -> None:
    toy = daemon({"vrrp": {"room": "a"}}, settings={"cells": {"hung_after_s": 0.5}})
    before = toy.running("protocol")["protocol"]
    os.kill(toy.process.pid, signal.SIGSTOP)
    with pytest.raises(RequestTimeout):
        toy.client.follow("nothing/").next(1.5)
    os.kill(toy.process.pid, signal.SIGCONT)
    with pytest.raises(RequestTimeout):
        toy.client.follow("nothing/").next(0.5)
    assert toy.running("protocol")["protocol"].pid == before.pid


def test_a_broken_invariant_ends_the_cell_and_the_supervisor_restores_it(daemon: Callable[..., Daemon]) -> None:
    toy = daemon({"vrrp": {"room": "a"}})
    toy.running("protocol")
    states = toy.client.follow("cell/protocol/state")
    status_is(states, "protocol", CellStatus.RUNNING)
    toy.order("vrrp", "assert")
    dead, *_, running = status_is(states, "protocol", CellStatus.DEAD, CellStatus.RUNNING)
    assert dead.exit_code == 70
    assert running.restarts == 1


def test_a_cell_that_dies_at_birth_is_put_back_more_and_more_slowly(daemon: Callable[..., Daemon]) -> None:
    toy = daemon(
        {"vrrp": {"die": "now"}, "notify": {"room": "b"}},
        settings={"cells": {"backoff_first_s": 0.05, "backoff_last_s": 0.2}},
    )
    toy.running("notify")
    states = toy.client.follow("cell/protocol/state")
    times = []
    while len(times) < 6:
        envelope = states.until(CellStateChanged, 10)
        assert isinstance(envelope.event, CellStateChanged)
        if envelope.event.status is CellStatus.DEAD:
            assert envelope.event.exit_code == 9
            times.append(envelope.mono_ns / 1e9)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert max(gaps) < 1.5
    assert gaps[-1] > 0.19
    toy.configure({"vrrp": {"room": "good"}, "notify": {"room": "b"}})
    assert toy.reload().ok
    toy.running("protocol")


def test_a_reload_touches_only_what_changed(daemon: Callable[..., Daemon]) -> None:
    toy = daemon({"vrrp": {"room": "a", "other": "x"}, "notify": {"room": "b"}})
    toy.running("protocol", "notify")
    pid = toy.order("vrrp", "count").pid
    notify = toy.client.snapshot("toy/notify/state").events[0]
    toy.configure({"vrrp": {"room": "changed", "new": "y"}, "notify": {"room": "b"}})
    answer = toy.reload()
    assert (answer.ok, answer.number, answer.changed, answer.exit_code) == (True, 2, 3, 0)
    state = toy.toy("vrrp")
    assert state.pid == pid
    assert state.slices == {"room": "changed", "new": "y"}
    assert (state.changed, state.removed, state.initial) == (("new", "room"), ("other",), False)
    # The same event, not an equal one: the room was not called.
    assert toy.client.snapshot("toy/notify/state").events[0].id == notify.id
    # The same again changes nothing.
    assert toy.reload().changed == 0
    assert toy.toy("vrrp").number == 2
    current = toy.client.snapshot("config/current").events[0].event
    assert isinstance(current, ConfigState)
    assert (current.ok, current.number, current.reason.kind) == (True, 3, ReasonKind.RELOAD)


def test_a_refused_configuration_changes_nothing_and_says_why(daemon: Callable[..., Daemon]) -> None:
    toy = daemon({"vrrp": {"room": "a"}})
    toy.running("protocol")
    pid = toy.order("vrrp", "count").pid
    for bad, text in (
        ({"exit_code": 4, "diagnostics": "line 3: nonsense\nline 4: more"}, "line 4: more"),
        ({"crash": True}, "ended with status"),
        ({"settings": {"node": "another"}}, "name of the node"),
    ):
        toy.configure({"vrrp": {"room": "changed"}}, **bad)
        answer = toy.reload()
        assert not answer.ok
        assert answer.exit_code != 0
        assert any(text in line for line in answer.messages), answer.messages
        current = toy.client.snapshot("config/current").events[0].event
        assert isinstance(current, ConfigState)
        assert (current.ok, current.number) == (False, 1)
        assert current.messages == answer.messages
    toy.config.write_text("{ not json")
    assert any("Traceback" in line for line in toy.reload().messages)
    assert toy.toy("vrrp").slices == {"room": "a"}
    assert toy.order("vrrp", "count").pid == pid


def test_a_room_that_does_not_take_its_configuration_is_named(daemon: Callable[..., Daemon]) -> None:
    toy = daemon({"vrrp": {"room": "a"}})
    toy.running("protocol")
    toy.configure({"vrrp": {"room": "a", "bad": "1"}})
    answer = toy.reload()
    assert answer.ok
    assert any("cannot take this" in line for line in answer.messages), answer.messages
    toy.configure({"vrrp": {"room": "a"}})
    assert toy.reload().messages == ()


def test_cells_come_and_go_with_a_reload_by_signal(daemon: Callable[..., Daemon]) -> None:
    toy = daemon({"vrrp": {"room": "a"}, "ipvs": {"room": "i"}})
    toy.running("protocol", "director")
    pid = toy.toy("vrrp").pid
    director = toy.toy("ipvs").pid
    follower = toy.client.follow("")
    toy.configure({"vrrp": {"room": "a"}, "watch": {"room": "w"}, "notify": {"room": "n"}})
    toy.process.send_signal(signal.SIGHUP)
    seen_gone, seen_watch, seen_notify, seen_config = False, False, False, False
    until = time.monotonic() + 15
    while not (seen_gone and seen_watch and seen_notify and seen_config):
        envelope = follower.next(max(0.1, until - time.monotonic()))
        event = envelope.event
        seen_gone = seen_gone or (envelope.subject == "toy/ipvs" and envelope.gone)
        seen_watch = seen_watch or (isinstance(event, ToyState) and event.room == "watch" and event.pid == pid)
        seen_notify = seen_notify or (isinstance(event, ToyState) and event.room == "notify")
        seen_config = seen_config or (isinstance(event, ConfigState) and event.number == 2)
    assert not Path(f"/proc/{director}").exists()
    snapshot = toy.client.snapshot()
    assert snapshot.alive == ["notify", "protocol", "supervisor"]
    assert snapshot.silent == []
    assert snapshot.under("cell/director/state") == []


def test_the_cells_do_not_pause_while_a_configuration_is_read(daemon: Callable[..., Daemon]) -> None:
    toy = daemon({"vrrp": {"room": "a"}})
    toy.running("protocol")
    toy.configure({"vrrp": {"room": "b"}}, slow_s=1.0)
    toy.process.send_signal(signal.SIGHUP)
    began = time.monotonic()
    slowest = 0.0
    follower = toy.client.follow("config/current")
    answered = 0
    while time.monotonic() - began < 0.8:
        before = time.monotonic()
        # The supervisor itself too answers at once.
        assert isinstance(toy.client.request("supervisor", RestartCell(cell="none")), Failed)
        toy.order("vrrp", "count")
        slowest = max(slowest, time.monotonic() - before)
        answered += 1
    assert answered > 20
    assert slowest < 0.5
    states = [follower.until(ConfigState, 10).event for _ in range(2)]
    assert [each.number for each in states if isinstance(each, ConfigState)] == [1, 2]


def test_two_daemons_do_not_share_a_run_directory(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    toy = daemon({"vrrp": {"room": "a"}})
    toy.running("protocol")
    second = subprocess.run(
        [sys.executable, str(SCRIPT), str(toy.run_dir), str(toy.config)],
        capture_output=True,
        check=False,
        timeout=20,
        text=True,
    )
    assert second.returncode == 1
    assert f"another holdfast (pid {toy.process.pid}) runs with the run directory {toy.run_dir}" in second.stderr
    assert toy.order("vrrp", "count").value == 1


def test_a_daemon_does_not_start_with_a_bad_configuration(daemon: Callable[..., Daemon]) -> None:
    toy = daemon({}, exit_code=5, diagnostics="line 1: no")
    assert toy.process.wait(10) == 5
    assert "line 1: no" in toy.log.read_text()


def test_dump_and_statistics(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    toy = daemon({"vrrp": {"room": "a"}, "notify": {"room": "b"}})
    toy.running("protocol", "notify")
    toy.order("vrrp", "count")
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "data").symlink_to(victim)
    for number, name, texts in (
        (signal.SIGUSR1, "data", ("toy vrrp counts 1", "toy notify counts 0", "2 of 2 cells run")),
        (signal.SIGUSR2, "stats", ("statistics of toy vrrp", "statistics of toy notify")),
    ):
        toy.process.send_signal(number)
        file = tmp_path / name
        until = time.monotonic() + 10
        while (file.is_symlink() or not file.exists()) and time.monotonic() < until:
            toy.client.snapshot("none/")
        text = file.read_text()
        assert all(each in text for each in texts), text
    assert victim.read_text() == "untouched"


def test_a_cell_is_restarted_on_request(daemon: Callable[..., Daemon]) -> None:
    toy = daemon({"vrrp": {"room": "a"}})
    toy.running("protocol")
    pid = toy.order("vrrp", "count").pid
    states = toy.client.follow("cell/protocol/state")
    status_is(states, "protocol", CellStatus.RUNNING)
    reply = toy.client.request("supervisor", RestartCell(cell="protocol"))
    assert reply == CellRestarted(cell="protocol", pid=pid)
    status_is(states, "protocol", CellStatus.DEAD, CellStatus.RUNNING)
    assert toy.order("vrrp", "count").value == 2


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    path = tmp_path / "notify"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.settimeout(10)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    toy = Daemon(tmp_path, {"vrrp": {"room": "a"}})
    try:
        seen: list[str] = []

        def until(wanted: str) -> None:
            while not any(wanted in each for each in seen):
                seen.append(sock.recv(4096).decode())

        until("READY=1")
        assert f"MAINPID={toy.process.pid}" in "".join(seen)
        seen.clear()
        until("WATCHDOG=1")
        toy.process.send_signal(signal.SIGHUP)
        until("RELOADING=1")
        assert "MONOTONIC_USEC=" in "".join(seen)
        until("READY=1")
        toy.process.send_signal(signal.SIGTERM)
        until("STOPPING=1")
        assert toy.process.wait(10) == 0
    finally:
        toy.close()
        sock.close()
