"""What the parts of connection sync cost without a kernel: `python bench/connsync/pure.py [CONNECTIONS]`, JSON."""

from __future__ import annotations

import json
import random
import sys
import time

from holdfast.actors.connsync import payload
from holdfast.actors.connsync.syncproto import join, raw_entry, split
from holdfast.actors.connsync.table import Scope, Services, parse, snapshot_of


def main() -> None:
    """Reads a made-up table, makes entries of it, packs, unpacks and splits them."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    chance = random.Random(1)
    text = b"".join(
        b"TCP %08X %04X 0A020064 0050 0A0300%02X 0050 ESTABLISHED LOCAL      894\n"
        % (0xAC100000 + chance.randrange(1 << 20), chance.randrange(1024, 65536), chance.randrange(1, 50))
        for _ in range(count)
    )
    figures: dict[str, float] = {"connections": count}
    began = time.perf_counter()
    snapshot = snapshot_of(parse(text), Scope())
    figures["read_and_digest_s"] = time.perf_counter() - began
    services = Services()
    began = time.perf_counter()
    raws = [services.raw(line) for line in snapshot.lines.values()]
    figures["entries_s"] = time.perf_counter() - began
    entries = [raw for raw in raws if raw is not None]
    began = time.perf_counter()
    packed = [payload.pack(entries[at : at + 2048]) for at in range(0, len(entries), 2048)]
    figures["pack_s"] = time.perf_counter() - began
    figures["bytes_per_connection"] = sum(len(data) for _, data in packed) / len(entries)
    began = time.perf_counter()
    back = [each.raw for encoding, data in packed for each in payload.unpack(encoding, data)]
    messages = list(join(back, 81, 9300))
    figures["unpack_and_join_s"] = time.perf_counter() - began
    small = list(join(entries, 81, 80))
    began = time.perf_counter()
    for message in small:
        for entry in split(message):
            raw_entry(entry.raw)
    figures["kernel_messages_per_s"] = len(small) / (time.perf_counter() - began)
    figures["messages"] = len(messages)
    print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
