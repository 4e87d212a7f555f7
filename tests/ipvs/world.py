"""The real servers of a test: one process in the servers' namespace that opens and closes services on command.

Reads one JSON object a line from standard input and answers each with one line when it is done. Run as a program; the
counterpart is `twin.World`.

    {"do": "up", "address": A, "port": N}                     accepts TCP connections, answers lines with our address
    {"do": "http", "address": A, "port": N, "status": S, "body": B}
    {"do": "udp", "address": A, "port": N}                    answers each datagram with itself
    {"do": "down", "address": A, "port": N}                   closed: a connection attempt is refused
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from typing import Any


class Echo(asyncio.DatagramProtocol):
    """Sends every datagram back."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


class Servers:
    """What is open just now."""

    def __init__(self) -> None:
        self.open: dict[tuple[str, int, str], Any] = {}
        self.pages: dict[tuple[str, int], tuple[int, bytes]] = {}
        self.connections: dict[tuple[str, int], set[asyncio.StreamWriter]] = {}

    async def carry_out(self, order: dict[str, Any]) -> None:
        address, port = order.get("address", ""), int(order.get("port", 0))
        match order["do"]:
            case "up":
                await self._listen(address, port)
            case "http":
                self.pages[address, port] = (int(order["status"]), str(order.get("body", "")).encode())
                await self._listen(address, port)
            case "udp":
                kind = socket.AF_INET6 if ":" in address else socket.AF_INET
                loop = asyncio.get_running_loop()
                transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=(address, port), family=kind)
                self.open[address, port, "udp"] = transport
            case "down":
                await self._close(address, port)

    async def _listen(self, address: str, port: int) -> None:
        if (address, port, "tcp") in self.open:
            return

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            held = self.connections.setdefault((address, port), set())
            held.add(writer)
            try:
                await self._talk(reader, writer, address, port)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                held.discard(writer)
                writer.close()

        self.open[address, port, "tcp"] = await asyncio.start_server(talk, address, port, backlog=512)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, port: int) -> None:
        while line := await reader.readline():
            page = self.pages.get((address, port))
            if page is None:
                writer.write(f"{address} {port} ".encode() + line)
                await writer.drain()
                continue
            while (await reader.readline()).strip():
                pass
            status, body = page
            head = f"HTTP/1.0 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            return

    async def _close(self, address: str, port: int) -> None:
        self.pages.pop((address, port), None)
        for kind in ("tcp", "udp"):
            found = self.open.pop((address, port, kind), None)
            if found is not None:
                found.close()
        for writer in list(self.connections.get((address, port), ())):
            with contextlib.suppress(OSError):
                writer.transport.abort()


async def main() -> None:
    """Until standard input ends."""
    servers = Servers()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        try:
            await servers.carry_out(json.loads(line))
            answer = "done"
        except Exception as problem:
            answer = f"failed: {problem!r}"
        print(answer, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
