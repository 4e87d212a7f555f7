"""The demo: two routers fail over in front of your eyes. Run by `make demo`, as root; ends within 60 s.

client -- lan -- r1, r2 -- dmz -- server. The client pings the virtual gateway every 10 ms and asks the server for a
page through it every 50 ms. What breaks is shown as events, as measured outages, and explained by `holdfast why`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from net import Net

HERE = Path(__file__).resolve().parent
HOLDFAST = str(Path(sys.executable).parent / "holdfast")
COLOURS = {"r1": "\033[36m", "r2": "\033[35m"} if sys.stdout.isatty() else {}
BOLD, DIM, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")
ADVERT_S = 0.3
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STATE = re.compile(r" vrrp/LAN (?:\w+ -> |is )(MASTER|BACKUP|FAULT)\b")

CONFIG = """\
global_defs {{
  router_id {node}
  enable_script_security
  script_user root
}}
vrrp_script chk_service {{
  script "{folder}/check.sh"
  interval 1
  fall 1
  rise 1
}}
vrrp_sync_group GATEWAY {{
  group {{
    LAN
    DMZ
  }}
  track_script {{
    chk_service
  }}
}}
vrrp_instance LAN {{
  interface lan0
  version 3
  virtual_router_id 1
  priority {priority}
  advert_int {advert}
  virtual_ipaddress {{
    10.77.1.254/24
  }}
}}
vrrp_instance DMZ {{
  interface dmz0
  version 3
  virtual_router_id 2
  priority {priority}
  advert_int {advert}
  virtual_ipaddress {{
    10.77.2.254/24
  }}
}}
"""


class Router:
    """One of the two routers: its folder, its daemon, its event stream."""

    def __init__(self, net: Net, node: str, priority: int, folder: Path) -> None:
        self.net = net
        self.node = node
        self.folder = folder / node
        self.folder.mkdir()
        self.run_dir = self.folder / "run"
        config = CONFIG.format(node=node, priority=priority, folder=self.folder, advert=ADVERT_S)
        (self.folder / "holdfast.conf").write_text(config)
        (self.folder / "holdfast.toml").write_text(f'node = "{node}"\n[journal]\npath = "{self.folder}/journal.db"\n')
        (self.folder / "check.sh").write_text(f"#!/bin/sh\ntest ! -e {self.folder}/broken\n")
        (self.folder / "check.sh").chmod(0o755)
        self.daemon: subprocess.Popen[str] | None = None
        self.tail: subprocess.Popen[str] | None = None
        self.state = ""  # of the gateway's instance LAN, as the event stream says

    def start(self) -> None:
        """Starts the daemon, and once the stream of its events."""
        self.daemon = self.net.start(
            self.node,
            *(HOLDFAST, "run", "-n", "-l", "-f", str(self.folder / "holdfast.conf")),
            *("--settings", str(self.folder / "holdfast.toml"), "--run-dir", str(self.run_dir)),
            log=self.folder / "log",
        )
        if self.tail is None:
            words = (HOLDFAST, "tail", "--run-dir", str(self.run_dir), "vrrp/", "cell/")
            self.tail = self.net.start(self.node, *words, pipe=True)
            threading.Thread(target=self._show, daemon=True).start()

    def _show(self) -> None:
        assert self.tail is not None and self.tail.stdout is not None
        for line in self.tail.stdout:
            told = STATE.search(line)
            if told is not None:
                self.state = told.group(1)
            sys.stdout.write(
                f"  {COLOURS.get(self.node, '')}{self.node}{PLAIN} | {line.rstrip()}\n"
            )  # one write a line
            sys.stdout.flush()

    def kill(self) -> None:
        """SIGKILL to all of the daemon's processes at once: a power cut for the software."""
        assert self.daemon is not None
        os.killpg(self.daemon.pid, signal.SIGKILL)
        self.daemon.wait()
        self.state = ""

    def kill_cell(self, cell: str) -> None:
        """SIGKILL to one cell."""
        words = [HOLDFAST, "status", "--json", "--run-dir", str(self.run_dir)]
        cells = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)["cells"]
        os.kill(next(int(each["pid"]) for each in cells if each["name"] == cell), signal.SIGKILL)

    def why(self) -> None:
        """The explanation of the newest transition."""
        words = [HOLDFAST, "why", "vrrp/LAN", "--limit", "1", "--run-dir", str(self.run_dir)]
        print(f"{BOLD}  {self.node}$ holdfast why LAN{PLAIN}", flush=True)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        print("\n".join(f"    {line}" for line in (done.stdout or done.stderr).splitlines()), flush=True)


class Traffic:
    """The client's answers, and the holes in them."""

    def __init__(self, net: Net) -> None:
        self.at: dict[str, list[float]] = {"ping": [], "http": []}
        words = (sys.executable, str(HERE / "traffic.py"), "10.77.1.254", "10.77.2.10", "80")
        self.process = net.start("client", *words, pipe=True)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer = json.loads(line)
            if answer["ok"]:
                self.at[answer["kind"]].append(answer["at"])

    def hole(self, kind: str, since: float) -> float:
        """The longest time without an answer since then, in seconds."""
        now = time.time()
        times = [t for t in self.at[kind] if t >= since - 0.2]
        return max((b - a for a, b in zip([since, *times], [*times, now], strict=True)), default=now - since)


def wait_until(what: str, test: object, limit_s: float = 25.0) -> None:
    """Looks until `test()` is true; ends the demo with a message when it is not in time."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if test():  # type: ignore[operator]
            return
        time.sleep(0.05)
    raise SystemExit(f"demo: {what} did not happen within {limit_s:.0f} s")


def scene(title: str) -> None:
    """A heading."""
    print(f"\n{BOLD}== {title}{PLAIN}", flush=True)


def outage(traffic: Traffic, since: float) -> None:
    """What the client noticed."""
    time.sleep(0.4)
    ping, http = traffic.hole("ping", since), traffic.hole("http", since)
    print(f"{BOLD}  the client had no answer for {ping:.2f} s (ping), {http:.2f} s (HTTP){PLAIN}", flush=True)


def play(net: Net, folder: Path) -> None:
    """The whole story."""
    server = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=80, bind='10.77.2.10')"
    net.start("server", sys.executable, "-c", server)
    r1, r2 = Router(net, "r1", 200, folder), Router(net, "r2", 100, folder)

    scene("two routers start; r1 has the higher priority")
    r1.start()
    r2.start()
    wait_until("r1 MASTER and r2 BACKUP", lambda: r1.state == "MASTER" and r2.state == "BACKUP")
    traffic = Traffic(net)
    wait_until("the client's first answers", lambda: traffic.at["ping"] and traffic.at["http"])

    scene("the process that speaks VRRP on r1 is killed: its supervisor puts it back, nothing moves")
    since = time.time()
    r1.kill_cell("protocol")
    r1.state = ""
    wait_until("the cell's return", lambda: r1.state == "MASTER")
    time.sleep(0.8)
    outage(traffic, since)

    scene("all of r1's processes are killed at once")
    since = time.time()
    r1.kill()
    wait_until("r2 MASTER", lambda: r2.state == "MASTER")
    outage(traffic, since)
    r2.why()

    scene("r1 comes back and takes over again")
    since = time.time()
    r1.start()
    wait_until("r1 MASTER", lambda: r1.state == "MASTER" and r2.state == "BACKUP")
    outage(traffic, since)
    r1.why()

    scene("r1 loses its link to the clients")
    since = time.time()
    net.pull("r1", "lan0", up=False)
    wait_until("r2 MASTER", lambda: r2.state == "MASTER")
    outage(traffic, since)
    r1.why()
    net.pull("r1", "lan0", up=True)
    wait_until("r1 MASTER", lambda: r1.state == "MASTER" and r2.state == "BACKUP")

    scene("the health script of r1 fails")
    since = time.time()
    (r1.folder / "broken").touch()
    wait_until("r2 MASTER", lambda: r2.state == "MASTER")
    outage(traffic, since)
    r1.why()
    r2.why()


class Interrupted(SystemExit):
    """A signal ends the demo; the code is the shell's for it."""


def interrupt(number: int, frame: object) -> None:
    """The first signal ends the play, further ones do not end the cleaning up."""
    del frame
    for each in ENDINGS:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(128 + number)


def main() -> None:
    """Builds the network, plays, cleans up."""
    if os.geteuid() != 0:
        raise SystemExit("demo: needs root (it makes network namespaces); nothing outside of them is touched")
    folder = Path(tempfile.gettempdir(), f"holdfast-demo-{os.getpid()}")
    started = time.monotonic()
    try:
        for each in ENDINGS:
            signal.signal(each, interrupt)
        for old in folder.parent.glob("holdfast-demo-*"):
            if not Path("/proc", old.name.rpartition("-")[2]).exists():
                shutil.rmtree(old, ignore_errors=True)  # of one that was killed
        folder.mkdir(mode=0o755)
        with Net() as net:
            play(net, folder)
        print(f"\n{DIM}demo: ended after {time.monotonic() - started:.0f} s, nothing left behind{PLAIN}", flush=True)
    except Interrupted as ending:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print("\ndemo: interrupted, cleaned up", flush=True)
        code = ending.code
    except SystemExit as ending:
        tell_logs(folder)
        sys.stderr.write(f"{ending}\n")
        code = 1
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EPIPE):
            raise
        code = 1  # nobody reads any more
    else:
        code = 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    # Without a last flush to a terminal that is gone, and without waiting for the threads that read from the dead.
    os._exit(int(str(code)))


def tell_logs(folder: Path) -> None:
    """The end of both logs: something did not happen."""
    for log in folder.glob("r?/log"):
        sys.stderr.write(f"--- {log.parent.name}\n{log.read_text()[-2000:]}\n")


if __name__ == "__main__":
    main()
