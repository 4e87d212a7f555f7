"""What deploy/systemd says, checked: by systemd itself, and by a daemon that has exactly those rights."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from cluster import HOLDFAST, VIP, Cluster, Node, until

from holdfast.kernel.privileges import CAPABILITIES

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy/systemd/holdfast.service"
STRICT = ROOT / "deploy/systemd/strict.conf"
USER_ID = 64807
EXPOSURE_MOST = {"unit": 50, "strict": 39}
"""Tenths, as `systemd-analyze security` counts them: the unit had 4.5, with strict.conf 3.7."""

CONFIG = """\
global_defs {{
  router_id {name}
  enable_script_security
  script_user nobody
  vrrp_priority -5
  vrrp_rt_priority 20
  vrrp_no_swap
  vrrp_notify_fifo {folder}/fifo
  vrrp_garp_master_refresh 60
}}
vrrp_script chk {{
  script "/usr/bin/id"
  interval 1
  fall 1
  rise 1
}}
vrrp_track_process init {{
  process {process}
}}
vrrp_instance VI_1 {{
  interface lan0
  version 3
  virtual_router_id 51
  priority {priority}
  advert_int 0.3
  no_accept
  virtual_ipaddress {{
    10.90.1.254/24
  }}
  track_script {{
    chk
  }}
  track_process {{
    init
  }}
  notify "{folder}/notify.sh" root
}}
"""


def capabilities(*files: Path) -> set[str]:
    """Those of CapabilityBoundingSet= in a unit and its drop-ins, without `CAP_`, in small letters."""
    found: set[str] = set()
    for file in files:
        for words in re.findall(r"^CapabilityBoundingSet=(.*)$", file.read_text(), re.MULTILINE):
            names = {word.removeprefix("CAP_").lower() for word in words.removeprefix("~").split()}
            found = found - names if words.startswith("~") else found | names
    return found


@pytest.fixture
def unit_folder(tmp_path: Path) -> Path:
    """The unit under its name with a program that is there."""
    folder = tmp_path / "system"
    folder.mkdir()
    (folder / "holdfast.service").write_text(UNIT.read_text().replace("/usr/bin/holdfast", HOLDFAST))
    return folder


def test_systemd_understands_every_line(unit_folder: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit_folder / "holdfast.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "holdfast" in line]
    assert (done.returncode, ours) == (0, [])


def test_a_wrong_line_would_be_found(unit_folder: Path) -> None:
    with (unit_folder / "holdfast.service").open("a") as file:
        file.write("[Service]\nRestrtNamespaces=net\n")
    words = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit_folder / "holdfast.service")]
    assert "RestrtNamespaces" in subprocess.run(words, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("kind", ["unit", "strict"])
def test_exposure_stays_low(unit_folder: Path, kind: str) -> None:
    unit = unit_folder / "holdfast.service"
    if kind == "strict":
        with unit.open("a") as file:
            file.write(STRICT.read_text())
    limit = f"--threshold={EXPOSURE_MOST[kind]}"
    words = ["systemd-analyze", "security", "--offline=true", limit, str(unit)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_users_and_folders_are_understood(tmp_path: Path) -> None:
    """systemd-sysusers and systemd-tmpfiles carry them out in an empty tree."""
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group"):
        (tmp_path / "etc" / name).write_text("root:x:0:0::/root:/bin/sh\n" if name == "passwd" else "root:x:0:\n")
    for tool, file in (("systemd-sysusers", "holdfast.sysusers"), ("systemd-tmpfiles", "holdfast.tmpfiles")):
        words = [tool, f"--root={tmp_path}", str(ROOT / "deploy/systemd" / file)]
        if tool == "systemd-tmpfiles":
            words.insert(1, "--create")
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    entry = next(line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("holdfast:"))
    user, group = map(int, entry.split(":")[2:4])
    for folder in ("var/lib/holdfast", "etc/holdfast/keys"):
        status = (tmp_path / folder).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (user, group, 0o750)


def start_as_the_unit_would(node: Node) -> None:
    """With the unit's capabilities and group, in a tree that has the user holdfast."""
    shown = node.folder / "etc"
    shown.mkdir(exist_ok=True)
    for name, line in (
        ("passwd", f"holdfast:x:{USER_ID}:{USER_ID}::/:/bin/false"),
        ("group", f"holdfast:x:{USER_ID}:"),
    ):
        there = Path("/etc", name).read_text().splitlines()
        (shown / name).write_text("\n".join([*(each for each in there if "holdfast" not in each), line]) + "\n")
    kept = ",".join(f"+{name}" for name in sorted(capabilities(UNIT)))
    daemon = [
        *("setpriv", "--regid", str(USER_ID), "--clear-groups"),
        *(f"--bounding-set=-all,{kept}", "--inh-caps=-all"),
        *(HOLDFAST, "run", "-n", "-l", "-G", "-f", str(node.folder / "conf")),
        *("--settings", str(node.folder / "toml"), "--run-dir", str(node.run_dir)),
    ]
    binds = " && ".join(f"mount --bind {shown}/{name} /etc/{name}" for name in ("passwd", "group"))
    with (node.folder / "log").open("ab") as log:
        node.process = node.space.popen(
            ["unshare", "--mount", "sh", "-c", f'{binds} && exec "$@"', "sh", *daemon],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def fields(pid: int) -> dict[str, str]:
    """/proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def names_of(mask: str, *, strict: bool = True) -> set[str]:
    """The capabilities in a mask of /proc/PID/status. strict: it has none whose name is not known here."""
    value = int(mask, 16)
    known = {name for name, bit in CAPABILITIES.items() if value >> bit & 1}
    assert not strict or value == sum(1 << CAPABILITIES[name] for name in known)
    return known


def owns(node: Node) -> bool:
    """Whether the virtual address is on its interface."""
    return any(VIP in each for each in node.space.addresses("lan0"))


@pytest.mark.netns
def test_failover_with_the_rights_of_the_unit_alone() -> None:
    with Cluster(2) as cluster:
        cluster.folder.chmod(0o755)
        ours, other = cluster.nodes
        for node in cluster.nodes:
            node.write(cluster)
            process = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
            words = {"name": node.name, "folder": node.folder, "priority": node.priority, "process": process}
            (node.folder / "conf").write_text(CONFIG.format(**words))
            (node.folder / "notify.sh").write_text(f'#!/bin/sh\necho "$3 $(id -u)" >> {node.folder}/notified\n')
            (node.folder / "notify.sh").chmod(0o755)
        start_as_the_unit_would(ours)
        other.start()
        until(lambda: owns(ours) and not owns(other), seconds=30, what="the restricted one has the address")
        cluster.until_joined()

        gateway, protocol = ours.pid_of("gateway"), ours.pid_of("protocol")
        assert fields(gateway)["Uid"].split() == fields(gateway)["Gid"].split() == [str(USER_ID)] * 4
        for thread in Path(f"/proc/{gateway}/task").iterdir():
            told = fields(int(thread.name))
            assert [told[f"Cap{kind}"].strip("0") for kind in ("Eff", "Prm", "Inh", "Bnd", "Amb")] == [""] * 5
            assert told["NoNewPrivs"] == "1"
        assert ours.process is not None
        # Where the tests themselves lack one of them, so does the daemon.
        there = capabilities(UNIT) & names_of(fields(os.getpid())["CapPrm"], strict=False)
        assert names_of(fields(ours.process.pid)["CapPrm"]) == there
        assert names_of(fields(protocol)["CapPrm"]) < capabilities(UNIT)
        assert {"net_admin", "net_raw"} <= names_of(fields(protocol)["CapEff"])
        assert not {"setuid", "chown", "kill"} & names_of(fields(protocol)["CapEff"])
        assert (os.sched_getscheduler(protocol) & 0xFF, os.sched_getparam(protocol).sched_priority) == (os.SCHED_RR, 20)
        assert int(fields(protocol)["VmLck"].split()[0]) > 0
        assert "holdfast" in ours.space.run("nft list tables")
        until(lambda: "MASTER 0" in (ours.folder / "notified").read_text(), what="the notify script as root")
        journal = ours.run_dir / "journal/journal.sqlite"
        assert journal.stat().st_uid == USER_ID
        assert "became MASTER" in ours.command("why", "vrrp/VI_1", "--limit", "9").stdout

        # Its part of a dump comes too, although it can make no file in the run directory.
        dump = Path("/tmp/keepalived.stats")
        dump.unlink(missing_ok=True)
        ours.process.send_signal(signal.SIGUSR2)
        until(dump.exists, what="the dump")
        gateways = dump.read_text().partition("cell gateway")[2].partition("------< cell")[0]
        assert "journal: " in gateways and "no answer" not in gateways

        # The gateway is killed: its successor begins as root again and goes the same way.
        os.kill(gateway, signal.SIGKILL)
        until(lambda: ours.pid_of("gateway") != gateway and ours.states() == {other.name: "reachable"})
        assert fields(ours.pid_of("gateway"))["Uid"].split()[0] == str(USER_ID)

        # All of it is killed, as by the watchdog; Restart=always brings it back, and it goes on from the run directory.
        ours.kill()
        until(lambda: owns(other), what="the other one takes over")
        start_as_the_unit_would(ours)
        until(lambda: owns(ours) and not owns(other), seconds=30, what="it takes back what is its own")
        assert "was put back after its process had died" in ours.command("why", "vrrp/VI_1", "--limit", "9").stdout
        ours.stop()
        assert not owns(ours)
        words = ("not permitted", "denied", "keeps its rights", "stays root", "readonly", "Traceback")
        # Where this test runs as a guest of somebody else's first process, nobody is told of processes.
        lines = [line for line in ours.log().splitlines() if "does not tell of processes" not in line]
        assert [line for line in lines if any(word in line for word in words)] == []


@pytest.mark.netns
def test_a_gateway_whose_user_cannot_get_at_its_files_stays_root_with_access_to_files_alone() -> None:
    with Cluster(2) as cluster:
        # Nobody but root comes into this folder.
        cluster.folder.chmod(0o700)
        for node in cluster.nodes:
            node.write(cluster)
            start_as_the_unit_would(node)
        cluster.until_joined()
        node = cluster.nodes[0]
        told = fields(node.pid_of("gateway"))
        assert told["Uid"].split() == ["0"] * 4
        assert names_of(told["CapPrm"]) == names_of(told["CapBnd"]) == {"dac_override"}
        assert "stays root: user holdfast cannot open" in node.log()
