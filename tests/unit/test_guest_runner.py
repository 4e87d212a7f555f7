"""The runner of the guest kernel fails when the guest does not report."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def guest() -> ModuleType:
    spec = importlib.util.spec_from_file_location("guest", Path(__file__).parents[1] / "ipvs" / "guest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pretend_guest(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = folder / "linux.uml"
    tool.write_text(f"#!/bin/bash\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_guest_that_ends_without_a_report_is_a_failure(guest, tmp_path, monkeypatch) -> None:
    _pretend_guest(tmp_path, monkeypatch, "echo panic; exit 0")
    assert guest.run_in_guest(["true"], folder=tmp_path, timeout_s=5) == guest.NO_REPORT


def test_a_guest_that_hangs_is_ended_and_a_failure(guest, tmp_path, monkeypatch) -> None:
    _pretend_guest(tmp_path, monkeypatch, "exec sleep 60")
    assert guest.run_in_guest(["true"], folder=tmp_path, timeout_s=0.3) == guest.TIMED_OUT


def test_the_exit_code_is_the_commands(guest, tmp_path, monkeypatch) -> None:
    _pretend_guest(tmp_path, monkeypatch, f"echo 3 > {tmp_path}/exit_code; exit 0")
    assert guest.run_in_guest(["true"], folder=tmp_path, timeout_s=5) == 3


def test_success_without_any_test_is_a_failure(guest, tmp_path, monkeypatch) -> None:
    _pretend_guest(tmp_path, monkeypatch, 'init=${5#init=}; echo 0 > "${init%/*}/exit_code"')
    assert guest.main(["--timeout", "5"]) == guest.NO_REPORT


def test_tests_are_counted_from_the_report(guest, tmp_path) -> None:
    report = tmp_path / "junit.xml"
    assert guest.tests_that_ran(report) == 0
    report.write_text('<testsuites><testsuite tests="5" skipped="2"/></testsuites>')
    assert guest.tests_that_ran(report) == 3
    report.write_text("<broken")
    assert guest.tests_that_ran(report) == 0
