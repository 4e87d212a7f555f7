"""The namespaces that the other tests stand on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from netns import Lab, wait_until

pytestmark = pytest.mark.netns


def namespaces() -> set[str]:
    words = subprocess.run(["ip", "netns", "list"], capture_output=True, check=True).stdout.decode().splitlines()
    return {line.split()[0] for line in words if line.startswith(f"hf{os.getpid()}-")}


def test_a_lab_is_gone_after_its_block() -> None:
    with Lab() as lab:
        a, b = lab.namespace("a"), lab.namespace("b")
        lab.veth(a, "eth0", b, "eth1")
        a.ip("addr add 10.0.0.1/24 dev eth0")
        process = b.popen([sys.executable, "-c", "import time; time.sleep(60)"])
        assert {a.name, b.name} <= namespaces()
        assert "10.0.0.1/24" in a.addresses("eth0")
    assert process.returncode is not None
    assert namespaces() == set()


def test_a_lab_is_gone_after_a_failure() -> None:
    with pytest.raises(ZeroDivisionError), Lab() as lab:
        lab.namespace("a")
        _ = 1 // 0
    assert namespaces() == set()


def test_entering_and_forking() -> None:
    with Lab() as lab:
        a = lab.namespace("a")
        b = lab.namespace("b")
        lab.switch("sw", [(a, "eth0"), (b, "eth0")])
        a.ip("addr add 10.0.0.1/24 dev eth0")
        with a.enter():
            inside = [name for _, name in socket.if_nameindex()]
            assert {"lo", "eth0"} <= set(inside)
        assert a.fork(lambda: sorted(name for _, name in socket.if_nameindex())) == sorted(inside)
        with pytest.raises(AssertionError, match="ZeroDivisionError"):
            a.fork(lambda: 1 // 0)
        wait_until(lambda: "LOWER_UP" in a.ip("link show eth0"), what="carrier")
