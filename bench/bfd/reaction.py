"""From a dead neighbour to a VRRP advert: what the way from the BFD process to the VRRP process adds.

    python bench/bfd/reaction.py [--rounds 10] [--timer 50x3] [--programs keepalived,holdfast]

A VRRP instance tracks a BFD session with weight 0. The neighbour (BIRD) is frozen; the MASTER goes to FAULT and says so
with an advert of priority 0. Figures in milliseconds: the first BFD Down packet after the detection time, the advert
after the detection time, and the difference of the two.
"""

from __future__ import annotations

import argparse
import signal
import socket
import struct
import threading
import time
from pathlib import Path

from routers import Cable, Lab, NetNs, Program, bench_folder, finish, missing, summary, table, wait_until

NS = 1_000_000_000
VRRP = (
    "vrrp_instance V {\n  interface eth0\n  version 3\n  virtual_router_id 9\n  priority 200\n  advert_int 0.3\n"
    "  virtual_ipaddress {\n    10.9.0.9/24\n  }\n  track_bfd {\n    b0\n  }\n}\n"
)


class Wire:
    """BFD packets both ways and our adverts, with the kernel's stamps: (at, kind, value)."""

    def __init__(self, namespace: NetNs) -> None:
        with namespace.enter():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.setsockopt(socket.SOL_SOCKET, 35, 1)
        self.socket.bind(("eth0", 3))
        self.socket.settimeout(0.1)
        self.seen: list[tuple[int, str, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.is_set():
            try:
                data, control, _, address = self.socket.recvmsg(128, 64)
            except TimeoutError:
                continue
            if data[12:14] != b"\x08\x00":
                continue
            seconds, nanoseconds = struct.unpack("qq", control[0][2][:16])
            at, sent, payload = seconds * NS + nanoseconds, address[2] == 4, data[14 + (data[14] & 15) * 4 :]
            if data[23] == 112 and sent:
                self.seen.append((at, "advert", payload[2]))
            elif data[23] == 17 and payload[2:4] == b"\x0e\xc8":
                self.seen.append((at, "sent" if sent else "heard", payload[9] >> 6))

    def first(self, kind: str, value: int, after: int) -> int:
        """The stamp of the first such packet, 0 if none came."""
        return next((at for at, what, found in list(self.seen) if (what, found) == (kind, value) and at > after), 0)

    def close(self) -> None:
        self._ended.set()
        self._thread.join(2)
        self.socket.close()


def rounds(cable: Cable, wire: Wire, count: int, limit_ns: int) -> list[tuple[float, float]]:
    """(BFD lateness, advert lateness) of each round."""
    found = []
    for _ in range(count):
        begun = time.time_ns()
        wait_until(lambda b=begun: wire.first("advert", 200, b), timeout_s=20, what="a MASTER")
        time.sleep(0.5)
        cable.second.signal(signal.SIGSTOP)
        frozen = time.time_ns()
        wait_until(lambda f=frozen: wire.first("advert", 0, f), timeout_s=5, what="an advert of priority 0")
        last = max(at for at, what, _ in list(wire.seen) if what == "heard")
        down, advert = wire.first("sent", 1, frozen), wire.first("advert", 0, frozen)
        if down:
            # keepalived sometimes says Down only a second later, with its next periodic packet.
            found.append(((down - last - limit_ns) / 1e6, (advert - last - limit_ns) / 1e6))
        cable.second.signal(signal.SIGCONT)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--timer", default="50x3")
    parser.add_argument("--programs", default="keepalived,holdfast")
    parser.add_argument("--realtime", action="store_true", help="every program with SCHED_FIFO 20")
    parser.add_argument("--json")
    options = parser.parse_args()
    ms, mult = float(options.timer.split("x")[0]), int(options.timer.split("x")[1])
    rows, figures = [], {}
    for name in options.programs.split(","):
        if missing() & {name, "bird"}:
            continue
        with Lab() as lab, bench_folder() as folder:
            cable = Cable(lab, name, 1, ms, mult, Path(folder))
            cable.first.more = VRRP
            cable.second = Program("bird", cable.b, [(b, a) for a, b in cable.first.sessions], ms, mult, Path(folder))
            cable.first.realtime = cable.second.realtime = options.realtime
            wire = Wire(cable.a)
            cable.second.start()
            cable.first.start()
            found = rounds(cable, wire, options.rounds, int(ms * mult * 1e6))
            wire.close()
            cable.stop()
        down, advert = [each[0] for each in found], [each[1] for each in found]
        added = [each[1] - each[0] for each in found]
        rows.append([name, summary(down), summary(advert), summary(added)])
        figures[name] = found
        print(*rows[-1], flush=True)
    print(table(["program", "BFD Down late, ms", "advert late, ms", "advert after Down, ms"], rows))
    finish("bfd-reaction", figures, options.json)


if __name__ == "__main__":
    main()
