"""Several nodes of a cluster in namespaces, with keys: for tests of what happens between hosts.

    vrrp network 10.90.1.0/24  lan0     bus network 10.90.2.0/24  bus0
    lb1 .1   lb2 .2   lb3 .3            a stranger or a client sits at .9 of both

Both networks are bridges in the switches' namespaces, so that either can be cut without the other.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from netns import Lab, NetNs, wait_until

from holdfast.bus import keys

HOLDFAST = str(Path(sys.executable).parent / "holdfast")
PORT = 7420
VIP = "10.90.1.254"

CONFIG = """\
global_defs {{
  router_id {name}
  enable_script_security
  script_user root
}}
vrrp_script chk {{
  script "{folder}/check.sh"
  interval 1
  fall 1
  rise 1
}}
vrrp_instance VI_1 {{
  interface lan0
  version 3
  virtual_router_id {vrid}
  priority {priority}
  advert_int {advert}
  virtual_ipaddress {{
    10.90.1.254/24
  }}
  track_script {{
    chk
  }}
}}
"""


class Node:
    """One host: its namespace, its files, its daemon."""

    def __init__(self, cluster: Cluster, number: int, space: NetNs) -> None:
        self.number = number
        self.name = f"lb{number}"
        self.space = space
        self.folder = cluster.folder / str(number)
        self.folder.mkdir()
        self.run_dir = self.folder / "r"
        self.key = keys.generate(self.name)
        keys.write(self.key, self.folder / "key")
        self.address = f"10.90.2.{number}"
        self.vrid = 51
        self.priority = 100 + 50 * (3 - number)
        self.advert_s = 1.0
        self.more_config = ""
        self.more_settings = ""
        self.gateway: list[str] = []
        """Lines for [gateway] instead of those of a mesh."""
        self.roles: dict[str, str] = {}
        """Other node -> its role here, when that is not operator."""
        self.process: subprocess.Popen[bytes] | None = None
        (self.folder / "check.sh").write_text(f"#!/bin/sh\ntest ! -e {self.folder}/broken\n")
        (self.folder / "check.sh").chmod(0o755)

    def write(self, cluster: Cluster) -> None:
        """Both configuration files."""
        text = CONFIG.format(
            name=self.name, vrid=self.vrid, priority=self.priority, folder=self.folder, advert=self.advert_s
        )
        (self.folder / "conf").write_text(text + self.more_config)
        lines = [
            f'node = "{self.name}"',
            "[gateway]",
            *(self.gateway or [f'listen = ["{self.address}:{PORT}"]', f'key_file = "{self.folder}/key"']),
            "[cells]",
            "hung_after_s = 30.0",  # a test that stops a process for seconds does not want it put back
        ]
        for other in cluster.nodes:
            if other is not self and not self.gateway:
                lines += _peer(
                    other.name, other.key.public, self.roles.get(other.name, "operator"), cluster.endpoint(self, other)
                )
        for name, (pair, role) in ({} if self.gateway else cluster.clients).items():
            lines += _peer(name, pair.public, role, "")
        (self.folder / "toml").write_text("\n".join(lines) + "\n" + self.more_settings)

    def start(self) -> None:
        """Starts the daemon; its log goes to a file."""
        with (self.folder / "log").open("ab") as log:
            self.process = self.space.popen(
                [
                    *(HOLDFAST, "run", "-n", "-l", "-G", "-f", str(self.folder / "conf")),
                    *("--settings", str(self.folder / "toml"), "--run-dir", str(self.run_dir)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        """A clean stop."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(10)

    def kill(self) -> None:
        """All of its processes at once."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def log(self) -> str:
        """What it has logged."""
        return (self.folder / "log").read_text()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`holdfast WORDS` on this node."""
        full = [HOLDFAST, *words, "--run-dir", str(self.run_dir)]
        return subprocess.run(full, capture_output=True, text=True, check=False, timeout=30)

    def status(self) -> dict[str, Any]:
        """`status --cluster --json`, {} while nothing answers."""
        try:
            found: dict[str, Any] = json.loads(self.command("status", "--cluster", "--json").stdout)
        except ValueError:
            return {}
        return found

    def cluster_view(self) -> dict[str, Any]:
        """The cluster's part of the status."""
        return dict(self.status().get("cluster") or {"nodes": [], "addresses": []})

    def states(self) -> dict[str, str]:
        """The other nodes: name -> reachable, unreachable."""
        return {each["name"]: each["state"] for each in self.cluster_view()["nodes"] if each["name"] != self.name}

    def owners(self, address: str = VIP) -> dict[str, Any]:
        """What this node says of an address; {} when nothing."""
        return next((each for each in self.cluster_view()["addresses"] if each["address"] == address), {})

    def pid_of(self, cell: str) -> int:
        """The process of a cell."""
        cells = json.loads(self.command("status", "cells", "--json").stdout)["cells"]
        return next(int(each["pid"]) for each in cells if each["name"] == cell)


class Cluster:
    """`with Cluster(3) as cluster:`; everything is gone at the end. clients: name -> role, each with a key."""

    def __init__(self, count: int, clients: dict[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hf"))
        self.clients = {name: (keys.generate(name), role) for name, role in (clients or {}).items()}
        self.lab = Lab()
        self.nodes: list[Node] = []
        self.reroute: dict[tuple[str, str], str] = {}
        """(from, to) -> another endpoint, for a proxy between two nodes."""
        try:
            self._build(count)
        except BaseException:
            self.close()
            raise

    def _build(self, count: int) -> None:
        spaces = [self.lab.namespace(f"n{number}") for number in range(1, count + 1)]
        self.outside = self.lab.namespace("x")
        hosts = [*spaces, self.outside]
        self.lan = self.lab.switch("lan", [(host, "lan0") for host in hosts])
        self.bus = self.lab.switch("bus", [(host, "bus0") for host in hosts])
        for number, space in enumerate(hosts, 1):
            last = 9 if space is self.outside else number
            space.ip(f"addr add 10.90.1.{last}/24 dev lan0")
            space.ip(f"addr add 10.90.2.{last}/24 dev bus0")
        self.nodes = [Node(self, number, space) for number, space in enumerate(spaces, 1)]

    def endpoint(self, here: Node, there: Node) -> str:
        """Where `here` calls `there`."""
        return self.reroute.get((here.name, there.name), f"tcp://{there.address}:{PORT}")

    def start(self) -> None:
        """Writes the files and starts every node."""
        for node in self.nodes:
            node.write(self)
            node.start()

    def until_joined(self, seconds: float = 30) -> None:
        """Until every node reaches every other."""
        for node in self.nodes:
            wait_until(
                lambda node=node: list(node.states().values()) == ["reachable"] * (len(self.nodes) - 1),
                timeout_s=seconds,
                every_s=0.2,
                what=f"{node.name} reaches the others",
            )

    def cut(self, network: NetNs, node: Node, *, up: bool = False) -> None:
        """Takes a node's cable out of a network (or puts it in again)."""
        network.ip(f"link set p{node.number - 1} {'up' if up else 'down'}")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for node in self.nodes:
                if (node.folder / "log").exists():
                    sys.stderr.write(f"--- {node.name}\n{node.log()[-4000:]}\n")
        self.close()

    def close(self) -> None:
        """Everything is gone after this."""
        self.lab.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def until(condition: Callable[[], Any], seconds: float = 15, what: str = "") -> Any:
    """As netns.wait_until, at a pace that suits commands."""
    return wait_until(condition, timeout_s=seconds, every_s=0.2, what=what)


def monotonic_ms() -> float:
    """For spans."""
    return time.monotonic() * 1000


def _peer(name: str, key: str, role: str, endpoint: str) -> Sequence[str]:
    lines = ["[[peers]]", f'name = "{name}"', f'key = "{key}"', f'role = "{role}"']
    return [*lines, f'endpoint = "{endpoint}"'] if endpoint else lines
