"""A tcp proxy for tests: delays, records, cuts short, plays back. Run as a program inside a namespace.

    tcp_proxy.py LISTEN TARGET --delay 0.5 --record FILE --cut-after BYTES

LISTEN, TARGET: HOST:PORT. delay: seconds each way. record: what clients sent, every connection one after the other.
cut-after: each connection ends after so many bytes from the client, in the middle of whatever it was.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path

CHUNK_BYTES = 65536


class Proxy:
    """Carries bytes between clients and the target."""

    def __init__(self, target: str, delay_s: float, record: Path | None, cut_after: int) -> None:
        self.host, _, self.port = target.rpartition(":")
        self.delay_s = delay_s
        self.record = record
        self.cut_after = cut_after

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            there_reader, there_writer = await asyncio.open_connection(self.host, int(self.port))
        except OSError:
            writer.close()
            return
        with contextlib.suppress(OSError, asyncio.CancelledError):
            ways = [
                asyncio.ensure_future(self._carry(reader, there_writer, self.cut_after, self.record)),
                asyncio.ensure_future(self._carry(there_reader, writer, 0, None)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
        for each in (writer, there_writer):
            each.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int, record: Path | None
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        sender = asyncio.ensure_future(self._send(queue, writer))
        count = 0
        try:
            while data := await reader.read(CHUNK_BYTES):
                if limit and count + len(data) >= limit:
                    data = data[: limit - count]
                count += len(data)
                if record is not None:
                    with record.open("ab") as file:
                        file.write(data)
                queue.put_nowait((loop.time() + self.delay_s, data))
                if limit and count >= limit:
                    await asyncio.sleep(0.2)
                    return
        finally:
            sender.cancel()

    async def _send(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            writer.write(data)
            await writer.drain()


async def main() -> None:
    """Serves until it is killed; says `ready` when it listens."""
    words = argparse.ArgumentParser()
    words.add_argument("listen")
    words.add_argument("target")
    words.add_argument("--delay", type=float, default=0.0)
    words.add_argument("--record", type=Path)
    words.add_argument("--cut-after", type=int, default=0)
    given = words.parse_args()
    host, _, port = given.listen.rpartition(":")
    proxy = Proxy(given.target, given.delay, given.record, given.cut_after)
    server = await asyncio.start_server(proxy.serve, host, int(port))
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
