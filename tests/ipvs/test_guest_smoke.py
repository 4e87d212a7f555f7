"""The guest itself: its kernel has IPVS, and the project's interpreter runs in it."""

from __future__ import annotations

import os
import subprocess

import pytest

pytestmark = pytest.mark.uml


def test_a_service_added_with_ipvsadm_is_in_the_table() -> None:
    subprocess.run(["ipvsadm", "-C"], check=True)
    subprocess.run(["ipvsadm", "-A", "-t", "10.9.0.1:80", "-s", "wrr"], check=True)
    subprocess.run(["ipvsadm", "-a", "-t", "10.9.0.1:80", "-r", "10.9.0.2:80", "-g", "-w", "3"], check=True)
    saved = subprocess.run(["ipvsadm", "-Sn"], check=True, capture_output=True, text=True).stdout
    subprocess.run(["ipvsadm", "-C"], check=True)
    assert saved.splitlines() == ["-A -t 10.9.0.1:80 -s wrr", "-a -t 10.9.0.1:80 -r 10.9.0.2:80 -g -w 3"]


def test_this_is_not_the_host() -> None:
    assert os.uname().nodename == "holdfast-guest"
