"""The client of the demo: a ping and an HTTP request stream, each answer a line of JSON on standard output.

Usage: traffic.py PING_ADDRESS HTTP_HOST HTTP_PORT. It ends when its standard input is closed. Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import sys
import time

PING_INTERVAL_S = 0.01
HTTP_INTERVAL_S = 0.05
HTTP_TIMEOUT_S = 0.5


def tell(kind: str, ok: bool) -> None:
    """One line: what answered (or did not), and when by the wall clock."""
    sys.stdout.write(json.dumps({"kind": kind, "ok": ok, "at": time.time()}) + "\n")
    sys.stdout.flush()


def checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


async def ping(address: str) -> None:
    """ICMP echo every 10 ms; each answer is told."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.setblocking(False)
    ident = os.getpid() & 0xFFFF

    def read() -> None:
        while True:
            try:
                data = sock.recv(256)
            except (BlockingIOError, OSError):
                return
            if data[20] == 0 and data[24:26] == ident.to_bytes(2):
                tell("ping", True)

    asyncio.get_running_loop().add_reader(sock, read)
    sequence = 0
    while True:
        sequence = sequence + 1 & 0xFFFF
        body = struct.pack("!BBHHH", 8, 0, 0, ident, sequence) + b"holdfast"
        body = body[:2] + checksum(body).to_bytes(2) + body[4:]
        with contextlib.suppress(OSError):  # no route or no neighbour: the missing answer tells it
            sock.sendto(body, (address, 0))
        await asyncio.sleep(PING_INTERVAL_S)


async def request(host: str, port: int) -> bool:
    """One HTTP GET; True when a 200 came back in time."""
    writer = None
    try:
        async with asyncio.timeout(HTTP_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            await writer.drain()
            return (await reader.readline()).startswith(b"HTTP/1.0 200")
    except (OSError, TimeoutError):
        return False
    finally:
        if writer is not None:
            writer.close()


async def http(host: str, port: int) -> None:
    """Requests started every 50 ms whether or not the ones before were answered."""
    pending: set[asyncio.Task[None]] = set()

    async def one() -> None:
        tell("http", await request(host, port))

    while True:
        task = asyncio.create_task(one())
        pending.add(task)
        task.add_done_callback(pending.discard)
        await asyncio.sleep(HTTP_INTERVAL_S)


async def main() -> None:
    """Both streams until standard input closes."""
    address, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    jobs = [asyncio.create_task(ping(address)), asyncio.create_task(http(host, port))]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for job in jobs:
        job.cancel()


if __name__ == "__main__":
    asyncio.run(main())
