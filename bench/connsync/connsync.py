"""Connection sync beside the kernel's own daemons, in the guest that has IPVS:

    python tests/ipvs/guest.py -- python bench/connsync/connsync.py [CONNECTIONS]

For each of the two: so many connections are opened through the master; when does the backup have them, and how many
bytes did it take (IP packets with headers and encryption, counted by nftables)? Then the backup is restarted with an
empty table: how many of the connections does it have 10 s after it is ready?
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "ipvs"))

from directors import Director, Directors
from world import run

KERNEL = "global_defs {\n  lvs_sync_daemon eth0 VI_1\n}\n"
RULES = """\
table inet bench {
  counter sync { }
  chain out {
    type filter hook output priority 0
    udp dport 8848 oifname != "sync0" counter name sync
    tcp dport 7420-7421 counter name sync
    tcp sport 7420-7421 counter name sync
  }
}
"""
SETTLE_S = 10.0


def count_bytes(director: Director) -> int:
    """What the director has sent to the other one so far."""
    found = json.loads(director.inside("nft", "-j", "list", "counters"))
    return sum(each["counter"]["bytes"] for each in found["nftables"] if "counter" in each)


def lasting(director: Director) -> int:
    """Established connections in its table."""
    return len(director.connections())


def measure(name: str, pair: Directors, count: int) -> dict[str, object]:
    """One of the two."""
    first, second = pair.master, pair.backup
    if pair.connsync:
        pair.until(lambda: first.peer().get("phase") == "following", "the backup follows", 60)
    run("ip", "netns", "exec", first.name, "nft", "-f", "-", text=RULES)
    time.sleep(SETTLE_S)
    idle = count_bytes(first)
    time.sleep(SETTLE_S)
    idle_per_s = (count_bytes(first) - idle) / SETTLE_S
    before, began = count_bytes(first), time.monotonic()
    pair.crowd.begin(count, pause_s=5.0)
    pair.until(lambda: lasting(first) >= count, "all connections", 120)
    opened_s = time.monotonic() - began
    # When it never gets them all, the figure below says how many it has.
    with contextlib.suppress(AssertionError):
        pair.until(lambda: lasting(second) >= count, "the backup has them", 30)
    all_s = time.monotonic() - began
    spent = count_bytes(first) - before - idle_per_s * all_s
    has = lasting(second)
    second.die()
    second.boot()
    pair.until(lambda: "advert" in second.log() or "BACKUP" in second.log(), "the restarted backup", 60)
    time.sleep(SETTLE_S)
    return {
        "what": name,
        "connections": count,
        "opened_s": round(opened_s, 2),
        "backup_has_all_after_s": round(all_s, 2),
        "backup_has": has,
        "bytes_per_connection": round(spent / count, 1),
        "restarted_backup_has": lasting(second),
    }


def main() -> None:
    """Prints a line of JSON for each."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for name, connsync, extra in (("holdfast", True, ""), ("kernel", False, KERNEL)):
        with Directors(connsync=connsync, extra_config=extra) as pair:
            print(json.dumps(measure(name, pair, count)), flush=True)


if __name__ == "__main__":
    main()
