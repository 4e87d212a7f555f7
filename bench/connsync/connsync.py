"""Connection sync beside the kernel's own daemons, in the guest that has IPVS:

    python tests/ipvs/guest.py -- python bench/connsync/connsync.py [CONNECTIONS]

For each of the two: so many connections are opened through the master; when does the backup have them, and how many
bytes did it take (IP packets with headers and encryption, counted by a packet socket)? Then the backup is restarted
with an empty table: how many of the connections does it have 5 s after it is ready?
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "ipvs"))

from directors import Director, Directors
from world import enter

KERNEL = "global_defs {\n  lvs_sync_daemon eth0 VI_1\n}\n"
SETTLE_S = 5.0
_ALL, _OUTGOING = 3, 4


class Wire(threading.Thread):
    """Counts what a director sends to the other one: sync messages of the kernel, or the gateway's connections."""

    def __init__(self, director: Director) -> None:
        super().__init__(daemon=True)
        self.namespace = director.name
        self.count = 0

    def run(self) -> None:
        """Until the interface is gone."""
        enter(self.namespace)
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL)) as sniffer:
            sniffer.bind(("eth0", _ALL))
            while True:
                try:
                    packet, address = sniffer.recvfrom(65535)
                except OSError:
                    return
                if address[2] != _OUTGOING or len(packet) < 24 or packet[0] >> 4 != 4:
                    continue
                start = (packet[0] & 15) * 4
                ports = {packet[start] << 8 | packet[start + 1], packet[start + 2] << 8 | packet[start + 3]}
                if ports & {8848, 7420, 7421}:
                    self.count += len(packet)


def lasting(director: Director) -> int:
    """Established connections in its table."""
    return len(director.connections())


def measure(name: str, pair: Directors, count: int) -> dict[str, object]:
    """One of the two."""
    first, second = pair.master, pair.backup
    if pair.connsync:
        pair.until(lambda: first.peer().get("phase") == "following", "the backup follows", 60)
    wire = Wire(first)
    wire.start()
    time.sleep(SETTLE_S)
    idle = wire.count
    time.sleep(SETTLE_S)
    idle_per_s = (wire.count - idle) / SETTLE_S
    before, began = wire.count, time.monotonic()
    pair.crowd.begin(count, pause_s=5.0)
    pair.until(lambda: lasting(first) >= count, "all connections", 120)
    opened_s = time.monotonic() - began
    # When it never gets them all, the figure below says how many it has.
    with contextlib.suppress(AssertionError):
        pair.until(lambda: lasting(second) >= count, "the backup has them", 30)
    all_s = time.monotonic() - began
    spent = wire.count - before - idle_per_s * all_s
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
