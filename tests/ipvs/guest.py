"""One boot of a guest kernel with IPVS, for everything that needs a real one.

    python tests/ipvs/guest.py                    # the whole set: pytest -m uml tests/ipvs
    python tests/ipvs/guest.py --guests 2         # the same, shared between guests that run side by side
    python tests/ipvs/guest.py -- COMMAND ...     # anything else, e.g. a benchmark or a shell script

Kernels of build machines often lack IPVS. Debian's `user-mode-linux` is a Linux kernel that runs as an ordinary
process with the host's file system as its root, so the project and its virtual environment are there at once. The
guest's own exit status says nothing about the tests: the guest leaves the command's exit code in a file, and this
runner fails when that file is missing, when the JUnit report is missing or empty, or when the guest does not end.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "ip_vs ip_vs_rr ip_vs_wrr ip_vs_lc ip_vs_wlc ip_vs_lblc ip_vs_lblcr ip_vs_sh ip_vs_mh ip_vs_dh ip_vs_fo ip_vs_ovf "
    "ip_vs_sed ip_vs_nq ip_vs_twos ip_vs_ftp ip_vs_pe_sip dummy veth bridge macvlan ipip ip6_tunnel sit fou ip_gre "
    "nf_conntrack nf_tables nft_ct nft_chain_nat iptable_mangle xt_mark ip6table_mangle ip_tables ip6_tables"
)
NO_REPORT = 70
TIMED_OUT = 124
NO_TESTS = 5
"""pytest's exit code when nothing was selected."""

_guests: list[subprocess.Popen[bytes]] = []
"""All that were started: they end with us."""

INIT = """#!/bin/bash
export PATH={path} HOME=/root LANG=C.UTF-8 TERM=dumb PYTHONDONTWRITEBYTECODE=1
export HOLDFAST_GUEST=1 HOLDFAST_GUEST_DIR={folder}
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /run
mkdir -p /dev/shm && mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
version=$(uname -r)
mount -t tmpfs modules /mnt
mkdir -p /mnt/lib/modules
cp -r /usr/lib/uml/modules/$version /mnt/lib/modules/
depmod -b /mnt
echo /sbin/modprobe > /proc/sys/kernel/modprobe 2>/dev/null
for module in {modules}; do modprobe -q -d /mnt $module 2>> {folder}/modules.log; done
ip link set lo up
hostname holdfast-guest
cd {root}
touch {folder}/booted
{command} > {folder}/output 2>&1 < /dev/null
echo $? > {folder}/exit_code.part
mv {folder}/exit_code.part {folder}/exit_code
sync
halt -f
"""


def run_in_guest(command: list[str], *, folder: Path, timeout_s: float, memory: str = "2G", follow: bool = True) -> int:
    """Boots the guest, runs `command` in it at the project's root, and returns the command's exit code.

    folder: a host folder that the guest may write to; afterwards it holds `output`, `exit_code` and whatever the
    command left in $HOLDFAST_GUEST_DIR. follow: output is copied to our standard output while it comes. Returns
    NO_REPORT when the guest ended without an exit code, TIMED_OUT when it had to be ended.
    """
    init = folder / "init"
    path = os.pathsep.join(
        [str(Path(sys.executable).parent), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    )
    init.write_text(
        INIT.format(
            path=path,
            folder=shlex.quote(str(folder)),
            root=shlex.quote(str(ROOT)),
            modules=MODULES,
            command=shlex.join(command),
        )
    )
    init.chmod(0o755)
    uml = shutil.which("linux.uml")
    if uml is None:
        print("guest: linux.uml is missing (Debian package user-mode-linux)", file=sys.stderr)
        return NO_REPORT
    memory_folder = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else str(folder)
    boot = [
        uml,
        f"mem={memory}",
        "rootfstype=hostfs",
        "root=/dev/root",
        "rw",
        f"init={init}",
        "quiet",
        "con=null",
        "con0=fd:0,fd:1",
    ]
    started = time.monotonic()
    with (folder / "console").open("wb") as console:
        guest = subprocess.Popen(
            boot,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "TMPDIR": memory_folder, "HOME": str(folder)},
        )
        _guests.append(guest)
        try:
            timed_out = _follow(guest, folder / "output", started + timeout_s, show=follow)
        finally:
            if guest.poll() is None:
                os.killpg(guest.pid, signal.SIGKILL)
                guest.wait()
    exit_file = folder / "exit_code"
    if exit_file.exists():
        return int(exit_file.read_text())
    print((folder / "console").read_text(errors="replace")[-4000:], file=sys.stderr)
    print(f"guest: no report after {time.monotonic() - started:.0f} s", file=sys.stderr)
    return TIMED_OUT if timed_out else NO_REPORT


def _follow(guest: subprocess.Popen[bytes], output: Path, deadline: float, *, show: bool) -> bool:
    """Copies the growing output file to ours until the guest has ended. True: it did not end in time."""
    position = 0
    while True:
        ended = guest.poll() is not None
        if show and output.exists():
            with output.open("rb") as stream:
                stream.seek(position)
                new = stream.read()
            position += len(new)
            sys.stdout.buffer.write(new)
            sys.stdout.flush()
        if ended:
            return False
        if (output.parent / "exit_code").exists():
            # The command has reported; a kernel that hangs in its halt does not matter.
            deadline = min(deadline, time.monotonic() + 10)
        if time.monotonic() > deadline:
            return True
        time.sleep(0.1)


def _end(number: int, _frame: object) -> None:
    """A signal ends the guests, and what waits for them."""
    for guest in _guests:
        if guest.poll() is None:
            os.killpg(guest.pid, signal.SIGKILL)
    sys.exit(128 + number)


def tests_that_ran(report: Path) -> int:
    """How many tests the JUnit report holds; 0 when it is missing or broken."""
    try:
        root = ElementTree.parse(report).getroot()
    except (OSError, ElementTree.ParseError):
        return 0
    return sum(int(suite.get("tests", "0")) - int(suite.get("skipped", "0")) for suite in root.iter("testsuite"))


def _run_set(options: argparse.Namespace, folder: Path) -> int:
    """The set of tests, shared between the guests. Each guest's output comes as a whole when there are several."""
    shares = [folder / str(number) for number in range(1, options.guests + 1)]
    for share in shares:
        share.mkdir()

    def run(share: Path) -> int:
        report = share / "junit.xml"
        pytest = [sys.executable, "-m", "pytest", "-m", "uml", *shlex.split(options.tests), "-p", "no:cacheprovider"]
        mine = f"HOLDFAST_GUEST_SHARE={share.name}/{len(shares)}"
        return run_in_guest(
            ["env", mine, *pytest, f"--junit-xml={report}", *shlex.split(options.pytest)],
            folder=share,
            timeout_s=options.timeout,
            memory=options.memory,
            follow=len(shares) == 1,
        )

    with ThreadPoolExecutor(len(shares)) as pool:
        codes = list(pool.map(run, shares))
    for share in shares if len(shares) > 1 else []:
        print(f"--- guest {share.name} of {len(shares)}, exit code {codes[int(share.name) - 1]}")
        if (share / "output").exists():
            sys.stdout.write((share / "output").read_text(errors="replace"))
    # A share for which nothing was left (a few tests, many guests) has not failed.
    counts = [tests_that_ran(share / "junit.xml") for share in shares]
    codes = [0 if code == NO_TESTS and not count else code for code, count in zip(codes, counts, strict=True)]
    if options.junit:
        _merge([share / "junit.xml" for share in shares], options.junit)
    code = max(codes)
    if code == 0 and sum(counts) == 0:
        print("guest: no test ran", file=sys.stderr)
        return NO_REPORT
    print(f"guest: {sum(counts)} tests ran, exit code {code}")
    return code


def _merge(reports: list[Path], into: Path) -> None:
    """One JUnit report out of those that are there."""
    whole = ElementTree.Element("testsuites")
    for report in reports:
        try:
            whole.extend(ElementTree.parse(report).getroot().iter("testsuite"))
        except (OSError, ElementTree.ParseError):
            continue
    ElementTree.ElementTree(whole).write(into)


def main(arguments: list[str]) -> int:
    """Runs the set of IPVS tests, or the given command, in one guest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout", type=float, default=1200, help="seconds until the guest is ended")
    parser.add_argument("--memory", default="2G")
    parser.add_argument("--junit", type=Path, help="where the JUnit report is copied to")
    parser.add_argument("--guests", type=int, default=1, help="so many guests share the set")
    parser.add_argument("--tests", default="tests/ipvs", help="which tests instead of the whole set")
    parser.add_argument("--pytest", default="", help="more words for pytest, e.g. '-k nat'")
    parser.add_argument("command", nargs="*")
    options = parser.parse_args(arguments)
    # Whoever ends us ends the guest too.
    signal.signal(signal.SIGTERM, _end)
    folder = Path(tempfile.mkdtemp(prefix="holdfast-guest-"))
    try:
        if options.command:
            return run_in_guest(options.command, folder=folder, timeout_s=options.timeout, memory=options.memory)
        return _run_set(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
