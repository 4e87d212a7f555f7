"""Network namespaces for tests: made with unique names, always cleaned up. Needs root and iproute2.

with Lab() as lab:
    a, b = lab.namespace("a"), lab.namespace("b")
    lab.veth(a, "eth0", b, "eth0")
    a.ip("addr add 10.0.0.1/24 dev eth0")
    with a.enter():                       # this thread is inside: sockets made here stay in `a`
        sock = socket.socket(...)
    daemon = a.popen([...])               # ended with the lab
    a.fork(function, 1, 2)                # in a child process; its result or its exception
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import pickle
import shlex
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_NUMBERS = itertools.count(1)
Result = TypeVar("Result")


def can_make_namespaces() -> bool:
    """Whether this process may: root with CAP_SYS_ADMIN and iproute2."""
    if os.geteuid() != 0:
        return False
    name = f"hfprobe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode != 0:
        return False
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return True


def _setns(fd: int) -> None:
    if _LIBC.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


class NetNs:
    """One namespace. name: as `ip netns` knows it (with our pid in it); label: the short one the test gave."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.name = f"hf{os.getpid()}-{next(_NUMBERS)}-{label}"
        self._processes: list[subprocess.Popen[bytes]] = []
        subprocess.run(["ip", "netns", "add", self.name], check=True, capture_output=True)
        self.ip("link set lo up")

    @property
    def path(self) -> Path:
        """The file that stands for the namespace."""
        return Path("/run/netns") / self.name

    def ip(self, command: str | Sequence[str], *, check: bool = True) -> str:
        """`ip -n NAME COMMAND`; its output."""
        words = shlex.split(command) if isinstance(command, str) else list(command)
        return self._output(["ip", "-n", self.name, *words], check)

    def ip_batch(self, lines: Sequence[str]) -> None:
        """Many `ip` commands in one process."""
        text = "".join(f"{line}\n" for line in lines)
        done = subprocess.run(
            ["ip", "-n", self.name, "-batch", "-"], input=text.encode(), capture_output=True, check=False
        )
        if done.returncode != 0:
            raise AssertionError(f"ip -batch in {self.label}: {done.stderr.decode()}")

    def run(self, command: str | Sequence[str], *, check: bool = True) -> str:
        """Runs a command inside; its output."""
        words = shlex.split(command) if isinstance(command, str) else list(command)
        return self._output(["ip", "netns", "exec", self.name, *words], check)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Starts a command inside in its own process group; `close` ends the group."""
        # `ip netns exec` replaces itself by the command, so the pid is the command's.
        process = subprocess.Popen(["ip", "netns", "exec", self.name, *command], start_new_session=True, **options)
        self._processes.append(process)
        return process

    def sysctl(self, name: str, value: str | int) -> None:
        """`sysctl("net.ipv4.ip_forward", 1)`."""
        with self.enter():
            Path("/proc/sys", *name.split(".")).write_text(str(value))

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """This thread is inside until the block ends. Sockets made inside stay inside."""
        home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """`function(*arguments)` in this thread, inside."""
        with self.enter():
            return function(*arguments)

    def fork(self, function: Callable[..., Result], *arguments: Any, timeout_s: float = 30.0) -> Result:
        """`function(*arguments)` in a forked child inside; its (pickled) result, or its exception here."""
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                with self.enter():
                    answer = (True, function(*arguments))
            except BaseException as error:
                answer = (False, f"{error!r}\n{traceback.format_exc()}")  # type: ignore[assignment]
            with os.fdopen(write_end, "wb") as pipe:
                pipe.write(pickle.dumps(answer))
            os._exit(0)
        os.close(write_end)
        killer = threading.Timer(timeout_s, os.kill, (pid, signal.SIGKILL))
        killer.start()
        try:
            with os.fdopen(read_end, "rb") as pipe:
                data = pipe.read()
        finally:
            os.waitpid(pid, 0)
            killer.cancel()
        if not data:
            raise AssertionError(f"the child in {self.label} died or ran out of {timeout_s} s")
        fine, value = pickle.loads(data)
        if not fine:
            raise AssertionError(f"the child in {self.label} failed: {value}")
        return value  # type: ignore[no-any-return]

    def addresses(self, interface: str) -> list[str]:
        """ADDR/LEN of every address on the interface, link-local ones too."""
        words = [line.split() for line in self.ip(f"-o addr show dev {interface}").splitlines()]
        return [line[line.index("inet") + 1 if "inet" in line else line.index("inet6") + 1] for line in words]

    def close(self) -> None:
        """Ends what was started inside and removes the namespace."""
        for process in self._processes:
            _end(process)
        self._processes.clear()
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, check=False)

    def _output(self, command: Sequence[str], check: bool) -> str:
        done = subprocess.run(command, capture_output=True, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{shlex.join(command)}: {done.stderr.decode() or done.stdout.decode()}")
        return done.stdout.decode()


class Lab:
    """A set of namespaces that vanishes with its `with` block, whatever happens in it."""

    def __init__(self) -> None:
        self._namespaces: list[NetNs] = []

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def namespace(self, label: str) -> NetNs:
        """A new one with `lo` up."""
        namespace = NetNs(label)
        self._namespaces.append(namespace)
        return namespace

    def veth(self, a: NetNs, a_interface: str, b: NetNs, b_interface: str, *, up: bool = True) -> None:
        """A cable between two namespaces (or within one)."""
        a.ip(f"link add {a_interface} type veth peer name {b_interface} netns {b.name}")
        if up:
            a.ip(f"link set {a_interface} up")
            b.ip(f"link set {b_interface} up")

    def switch(self, label: str, ports: Sequence[tuple[NetNs, str]]) -> NetNs:
        """A bridge in a namespace of its own, with a cable to each (namespace, interface).

        The far ends are p0, p1 ...
        """
        switch = self.namespace(label)
        switch.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0")
        switch.ip("link set br0 up")
        for number, (namespace, interface) in enumerate(ports):
            self.veth(switch, f"p{number}", namespace, interface)
            switch.ip(f"link set p{number} master br0")
        return switch

    def close(self) -> None:
        """Removes everything; harmless twice."""
        while self._namespaces:
            self._namespaces.pop().close()


def wait_until(condition: Callable[[], Any], *, timeout_s: float = 10.0, every_s: float = 0.01, what: str = "") -> Any:
    """Waits for a state of the outside world that gives no event;

    its (true) value, AssertionError after the timeout.
    """
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}")
        time.sleep(every_s)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3 if number == signal.SIGTERM else 10)
            if number == signal.SIGKILL:
                return
    process.wait(10)
