"""The Ansible role: understood by ansible-playbook, and carried out for two nodes that then find each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns import Lab, NetNs, wait_until

from holdfast.config import settings

pytestmark = [pytest.mark.netns, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = ROOT / "deploy/ansible"
HOLDFAST = Path(sys.executable).parent / "holdfast"
VENV = ROOT / ".build/ansible"


@pytest.fixture(scope="module")
def playbook() -> Path:
    """ansible-playbook in an environment of its own, kept for the next time: the project does not need it."""
    program = VENV / "bin/ansible-playbook"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        words = [str(VENV / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "ansible-core>=2.16,<2.20"]
        subprocess.run(words, check=True)
    return program


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, since sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="hf") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def run(program: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """ansible-playbook with its own files in `folder` alone."""
    environment = {
        **os.environ,
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_LOCALHOST_WARNING": "False",
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    full = [str(program), *words]
    return subprocess.run(
        full, capture_output=True, text=True, check=False, cwd=ANSIBLE, env=environment, stdin=subprocess.DEVNULL
    )


def test_the_example_is_understood(playbook: Path, folder: Path) -> None:
    done = run(playbook, folder, "--syntax-check", "-i", "inventory.example.yml", "site.yml")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def inventory(folder: Path) -> Path:
    """Two nodes that are both here, each below a folder of its own."""
    hosts = {
        f"lb{number}": {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "holdfast_root": str(folder / f"lb{number}"),
            "holdfast_address": f"10.91.1.{number}",
            "holdfast_priority": 300 - 100 * number,
        }
        for number in (1, 2)
    }
    common = {
        "holdfast_program": str(HOLDFAST),
        "holdfast_config_template": str(ANSIBLE / "keepalived.conf.example.j2"),
        "holdfast_interface": "eth0",
        "holdfast_virtual_addresses": ["10.91.1.254/24"],
        "holdfast_clients": [{"name": "watcher", "key": "0123456789" * 4}],
    }
    path = folder / "inventory.json"
    path.write_text(json.dumps({"holdfast": {"vars": common, "hosts": hosts}}))
    return path


def start(space: NetNs, root: Path) -> Path:
    """The daemon with the files that the role has written. Returns its run directory."""
    run_dir = root / "r"
    with (root / "log").open("wb") as log:
        space.popen(
            [
                *(str(HOLDFAST), "run", "-n", "-l", "-G", "-f", str(root / "etc/holdfast/holdfast.conf")),
                *("--settings", str(root / "etc/holdfast/holdfast.toml"), "--run-dir", str(run_dir)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    return run_dir


def reached(run_dir: Path) -> list[str]:
    """Which nodes the node of this run directory reaches."""
    words = [str(HOLDFAST), "status", "--cluster", "--json", "--run-dir", str(run_dir)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        nodes = json.loads(done.stdout)["cluster"]["nodes"]
    except (ValueError, KeyError, TypeError):
        return []
    return [each["name"] for each in nodes if each["state"] == "reachable"]


def test_two_nodes_are_set_up_and_find_each_other(playbook: Path, folder: Path) -> None:
    hosts = inventory(folder)
    done = run(playbook, folder, "-i", str(hosts), "site.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    roots = [folder / "lb1", folder / "lb2"]
    found = [settings.load(root / "etc/holdfast/holdfast.toml") for root in roots]
    assert [each.node for each in found] == ["lb1", "lb2"]
    assert [[peer.name for peer in each.peers] for each in found] == [["lb2", "watcher"], ["lb1", "watcher"]]
    for root in roots:
        key = root / "etc/holdfast/keys/node.key"
        assert key.stat().st_mode & 0o777 == 0o600
        assert (root / "etc/holdfast/keys").stat().st_mode & 0o777 == 0o750
    # A second time nothing changes, the keys above all.
    before = [(root / "etc/holdfast/keys/node.key").read_text() for root in roots]
    done = run(playbook, folder, "-i", str(hosts), "site.yml")
    assert done.returncode == 0 and done.stdout.count("changed=0") == 2, done.stdout
    assert [(root / "etc/holdfast/keys/node.key").read_text() for root in roots] == before
    with Lab() as lab:
        spaces = [lab.namespace("lb1"), lab.namespace("lb2")]
        lab.veth(spaces[0], "eth0", spaces[1], "eth0")
        for number, space in enumerate(spaces, 1):
            space.ip(f"addr add 10.91.1.{number}/24 dev eth0")
        run_dirs = [start(space, root) for space, root in zip(spaces, roots, strict=True)]
        wait_until(lambda: "lb2" in reached(run_dirs[0]), timeout_s=40, every_s=0.3, what="lb1 reaches lb2")
        wait_until(lambda: "lb1" in reached(run_dirs[1]), timeout_s=40, every_s=0.3, what="lb2 reaches lb1")
        wait_until(
            lambda: any("10.91.1.254" in each for each in spaces[0].addresses("eth0")),
            timeout_s=40,
            what="lb1 has the address",
        )


def test_a_configuration_with_a_mistake_is_not_put_in_place(playbook: Path, folder: Path) -> None:
    hosts = inventory(folder)
    broken = folder / "broken.j2"
    broken.write_text("vrrp_instance VI_1 {\n  interfaze eth0\n}\n")
    done = run(playbook, folder, "-i", str(hosts), "site.yml", "-e", f"holdfast_config_template={broken}")
    assert done.returncode == 2 and "failed to validate" in done.stdout
    assert not (folder / "lb1/etc/holdfast/holdfast.conf").exists()
