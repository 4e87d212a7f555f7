"""Many HTTP servers in one process, and who asked each of them when: probe_servers.py ADDRESS FIRST COUNT LOG FOLDER

One line a connection goes to LOG: monotonic seconds, port, address of who asked. Whose address is a file in FOLDER is
answered with an error, and so is everybody at a port that is a file there.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
BAD = b"HTTP/1.1 500 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"


async def main(address: str, first: int, count: int, log: Path, folder: Path) -> None:
    with log.open("w", buffering=1) as out:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer, port = writer.get_extra_info("peername")[0], writer.get_extra_info("sockname")[1]
            out.write(f"{time.monotonic():.3f} {port} {peer}\n")
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                bad = (folder / peer).exists() or (folder / str(port)).exists()
                writer.write(BAD if bad else GOOD)
                await writer.drain()
            writer.close()

        for port in range(first, first + count):
            await asyncio.start_server(serve, address, port)
        print("ready", flush=True)
        await asyncio.Event().wait()


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5])))
