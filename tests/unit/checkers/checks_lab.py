"""What the tests of checks share: a place to run one, and servers that behave well or badly."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from holdfast.actors.checkers.base import Outcome
from holdfast.actors.checkers.config import Check, Connection
from holdfast.actors.checkers.kinds import Surroundings, checker_of
from holdfast.actors.checkers.sockets import Poller
from holdfast.bus.fake import FakeBus
from holdfast.kernel.programs import ProgramRunner
from holdfast.kernel.timers import DeadlineHeap

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Lab:
    """A loop's worth of surroundings for checks."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    async def __aenter__(self) -> Lab:
        loop = asyncio.get_running_loop()
        self.timers = DeadlineHeap(loop)
        self.poller = Poller(loop, self.timers)
        self.bus = FakeBus()
        self.programs = ProgramRunner(loop)
        self.around = Surroundings(loop, self.poller, self.bus, self.run_dir, self.programs)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.programs.close()
        assert len(self.poller) == 0 or error is not None, "a probe left its socket behind"
        self.poller.close()
        self.timers.close()

    async def probe(self, spec: Check, step: int = 0, limit_s: float = 10.0) -> Outcome:
        """Runs a check once."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        checker = checker_of(spec)(spec, self.around)
        probe = checker.probe(step, future.set_result)
        probe.begin()
        try:
            return await asyncio.wait_for(future, limit_s)
        finally:
            probe.cancel()
            checker.close()
            assert len(self.timers) == 0, "a probe left a deadline behind"


def at(port: int, address: str = "127.0.0.1", timeout_s: float = 5.0, **words: Any) -> Connection:
    """A connection to a server of the test."""
    return Connection(address=address, port=port, timeout_us=round(timeout_s * 1e6), **words)


@contextlib.asynccontextmanager
async def tcp_server(
    serve: Serve, address: str = "127.0.0.1", context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server on a free port; connections that are still open are cut at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the check has seen enough
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(guarded, address, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answering(answer: bytes) -> Serve:
    """Reads a request, answers, closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    return serve


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes everything, says nothing."""
    while await reader.read(4096):
        pass


def slowly(answer: bytes, pause_s: float) -> Serve:
    """Answers a byte at a time."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for place in range(len(answer)):
            writer.write(answer[place : place + 1])
            await writer.drain()
            await asyncio.sleep(pause_s)

    return serve


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads a request and cuts the connection with RST."""
    await reader.read(1)
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def refused_port(kind: int = socket.SOCK_STREAM, address: str = "127.0.0.1") -> int:
    """A port on which nobody listens."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def full_port() -> Any:
    """A port whose queue of connections is full: it answers nothing any more."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


class UdpServer(asyncio.DatagramProtocol):
    """Answers each datagram with what `answer` makes of it; None: nothing."""

    def __init__(self, answer: Callable[[bytes], bytes | list[bytes] | None]) -> None:
        self.answer = answer
        self.received: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.received.append(data)
        answers = self.answer(data)
        if answers is None:
            return
        for each in [answers] if isinstance(answers, bytes) else answers:
            self.transport.sendto(each, address)  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def udp_server(
    answer: Callable[[bytes], bytes | list[bytes] | None], address: str = "127.0.0.1"
) -> AsyncIterator[tuple[int, UdpServer]]:
    """A UDP server on a free port."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: UdpServer(answer), (address, 0))
    try:
        yield transport.get_extra_info("sockname")[1], protocol
    finally:
        transport.close()


def make_certificate(folder: Path, name: str, *, days: int = 30, signer: Path | None = None) -> tuple[Path, Path]:
    """(certificate, key) as PEM files, self-signed or signed by the certificate of `signer` (its key beside it)."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", f"/CN={name}", "-days", str(days)]
    if signer is not None:
        command += ["-CA", str(signer), "-CAkey", str(signer.with_suffix(".key"))]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A TLS server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
