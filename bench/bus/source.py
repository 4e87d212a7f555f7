"""A cell that publishes at a steady rate: source.py RUN_DIR NODE RATE SECONDS. Prints how many it published."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from holdfast.actors.vrrp.messages import VrrpPriorityChanged, VrrpState
from holdfast.bus.cellbus import CellBus
from holdfast.bus.messages import Reason, ReasonKind

TICK_S = 0.002


async def main() -> None:
    """Publishes what a priority change looks like, over a hundred instances."""
    run_dir, node, rate, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    bus = CellBus(asyncio.get_running_loop(), run_dir, node, "bench", keep=False)
    evidence = {"script": "chk_http", "exit_status": 1, "weight": -20, "in_a_row": 3}
    reason = Reason(kind=ReasonKind.SCRIPT_FAILED, node=node, subject="script/chk_http", evidence=evidence)
    print("ready", flush=True)
    sys.stdin.readline()
    sent, begun = 0, time.monotonic()
    while (now := time.monotonic()) - begun < seconds:
        while sent < (now - begun) * rate:
            name = f"VI_{sent % 100}"
            event = VrrpPriorityChanged(
                instance=name, state=VrrpState.BACKUP, base=100, effective=80, old=100, reason=reason
            )
            bus.publish(f"bench/{name}", "priority", event)
            sent += 1
        await asyncio.sleep(TICK_S)
    await asyncio.sleep(0.5)
    print(sent, flush=True)
    sys.stdin.readline()
    bus.close(removed=True)


asyncio.run(main())
