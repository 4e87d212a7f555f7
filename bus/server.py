"""The answering side of a cell: its ROUTER socket. Snapshots of what is retained, and commands."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec
import zmq

from holdfast.bus.base import Caller, Server
from holdfast.bus.codec import BadFrame, decode_command, encode, tag_of
from holdfast.bus.counters import Counters
from holdfast.bus.messages import Failed, Reply
from holdfast.bus.publisher import Publisher, bind
from holdfast.bus.sockets import LoopSocket, Tune
from holdfast.bus.store import RetainedStore
from holdfast.bus.wire import HARD_BYTES_MAX, SYNC, Answer, Request, decode_request, matches

log = logging.getLogger(__name__)

PART_BYTES_MAX = 256 * 1024
"""Snapshots travel in parts of about this size, so that one answer never holds a socket for long."""
QUEUE_ANSWERS_MAX = 1024
COMMANDS_MAX = 256
"""Commands being carried out at one time; more are refused with the code `busy`."""

Foreign = Callable[[Request, Caller], Awaitable[Answer] | None]


class Gate(Protocol):
    """Who may ask what, where the socket is open to others than this host's operators."""

    def caller(self, request: Request, frame: zmq.Frame) -> Caller | None:
        """Who asks, by his key; None: he is not listened to now, and that has been counted."""

    def refuses(self, request: Request, caller: Caller) -> str:
        """Why he may not ask this; empty when he may."""


class CommandServer:
    """Answers requests of any number of clients. foreign: takes commands for other nodes (the gateway).

    endpoints: one, or several. tune: keys and the like, set before binding. gate: with one, nobody is an operator
    by being able to connect, and all commands are `foreign`. request_bytes_max: whoever sends more is cut off.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoints: str | Sequence[str],
        store: RetainedStore,
        counters: Counters,
        *,
        tune: Tune | None = None,
        gate: Gate | None = None,
        request_bytes_max: int = HARD_BYTES_MAX,
    ) -> None:
        self._loop = loop
        self._store = store
        self._counters = counters
        self._gate = gate
        self.publisher: Publisher | None = None
        self.foreign: Foreign | None = None
        self.servers: dict[str, Server] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.SNDHWM, QUEUE_ANSWERS_MAX)
        socket.setsockopt(zmq.RCVHWM, QUEUE_ANSWERS_MAX)
        socket.setsockopt(zmq.MAXMSGSIZE, request_bytes_max)
        # An answer for which there is no room is an error then instead of vanishing; the client's deadline asks anew.
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if tune is not None:
            tune(socket)
        for endpoint in (endpoints,) if isinstance(endpoints, str) else endpoints:
            bind(socket, endpoint)
        self.socket = socket
        self._socket = LoopSocket(loop, socket, self._received)

    def serve(self, subject: str, handler: Server) -> None:
        """`handler` answers the commands for `subject`."""
        self.servers[subject] = handler

    def _received(self, parts: list[zmq.Frame]) -> None:
        # [identity, request] from a DEALER, [identity, empty, request] from a REQ: the answer goes back the same way.
        data = parts[-1].bytes
        try:
            if len(parts) not in (2, 3) or (len(parts) == 3 and len(parts[1].bytes)):
                raise BadFrame("parts", f"{len(parts)} parts")
            request = decode_request(data)
        except BadFrame as error:
            self._counters.count_bad(error, _sender(parts[-1]))
            return
        self._counters.requests += 1
        route = [part.bytes for part in parts[:-1]]
        caller = self._caller(request, parts[-1])
        if caller is None:
            return
        if self._gate is not None:
            refusal = self._gate.refuses(request, caller)
            if refusal:
                self._refuse(route, request, refusal)
                return
        match request.op:
            case "snapshot":
                self._snapshot(route, request)
            case "totals":
                self._totals(route, request)
            case "missed":
                self._counters.count_dropped(f"{caller.node}/{caller.cell}", request.missed)
            case "hello":
                self._send(route, self._answer(request, "hello"))
            case "command":
                self._command(route, request, caller, _sender(parts[-1]))
            case "ping":
                answer = self._answer(request, "pong", wall_ns=time.time_ns(), mono_ns=time.monotonic_ns())
                self._send(route, answer)
            case other:
                self._send(route, self._answer(request, "error", text=f"unknown op {other!r}"[:200]))

    def _caller(self, request: Request, frame: zmq.Frame) -> Caller | None:
        if self._gate is not None:
            return self._gate.caller(request, frame)
        role = request.role or "operator"
        return Caller(node=request.node or self._store.node, cell=request.cell or _sender(frame), role=role)

    def _refuse(self, route: list[bytes], request: Request, text: str) -> None:
        if request.op == "command":
            self._reply(route, request, Failed(code="forbidden", message=text))
        else:
            self._send(route, self._answer(request, "error", text=text))

    def _answer(self, request: Request, op: str, *, text: str = "", **fields: object) -> Answer:
        seq = self.publisher.seq if self.publisher is not None else 0
        store = self._store
        answer = Answer(id=request.id, op=op, node=store.node, cell=store.cell, epoch=store.epoch, seq=seq, text=text)
        return msgspec.structs.replace(answer, **fields) if fields else answer

    def _send(self, route: list[bytes], answer: Answer) -> bool:
        return self._socket.send([*route, encode(answer)])

    def _fence(self, request: Request) -> None:
        if self.publisher is not None and request.fence.startswith(SYNC) and len(request.fence) < 256:
            self.publisher.fence(request.fence)

    def _snapshot(self, route: list[bytes], request: Request) -> None:
        self._counters.snapshots += 1
        self._fence(request)
        part: list[tuple[str, bytes]] = []
        size = 0
        counts: dict[str, int] = {}
        entries = self._store.entries
        for topic, number in self._store.counts.items():
            if _any_matches(request.prefixes, topic):
                retained = entries.get(topic)
                if retained is None or retained.count != number:
                    counts[topic] = number
        for topic, frame in self._store.frames.items():
            if not _any_matches(request.prefixes, topic):
                continue
            part.append((topic, frame))
            size += len(frame)
            if size >= PART_BYTES_MAX:
                if not self._send(route, self._answer(request, "part", events=tuple(part), last=False)):
                    return
                part, size = [], 0
        self._send(route, self._answer(request, "part", events=tuple(part), counts=counts))

    def _totals(self, route: list[bytes], request: Request) -> None:
        self._fence(request)
        totals = [0] * len(request.prefixes)
        for topic, number in self._store.counts.items():
            for index, prefix in enumerate(request.prefixes):
                if matches(prefix, topic):
                    totals[index] += number
        self._send(route, self._answer(request, "totals", totals=tuple(totals)))

    def server_of(self, subject: str) -> Server | None:
        """Who takes commands for `subject` here."""
        return self.servers.get(subject) or self.servers.get(subject.partition("/")[0])

    def _command(self, route: list[bytes], request: Request, caller: Caller, sender: str) -> None:
        if self._gate is not None or (request.to and request.to != self._store.node):
            if len(self._tasks) >= COMMANDS_MAX:
                self._reply(route, request, Failed(code="busy", message=f"{COMMANDS_MAX} commands are under way"))
                return
            forwarded = self.foreign(request, caller) if self.foreign is not None else None
            if forwarded is None:
                self._send(route, self._answer(request, "unserved"))
            else:
                self._start(self._forward(route, request, forwarded))
            return
        server = self.server_of(request.subject)
        if server is None:
            self._send(route, self._answer(request, "unserved"))
            return
        try:
            command = decode_command(request.type, bytes(request.body))
        except BadFrame as error:
            self._counters.count_bad(error, sender)
            self._reply(route, request, Failed(code="bad-command", message=str(error)))
            return
        if command is None:
            self._send(route, self._answer(request, "unserved", text=f"unknown command {request.type}"[:200]))
            return
        if len(self._tasks) >= COMMANDS_MAX:
            self._reply(route, request, Failed(code="busy", message=f"{COMMANDS_MAX} commands are under way"))
            return
        try:
            result = server(command, caller)
        except Exception as error:
            self._counters.handler_errors += 1
            log.exception("command %s for %s failed", request.type, request.subject)
            result = Failed(code="error", message=repr(error))
        if isinstance(result, Reply):
            self._reply(route, request, result)
        else:
            self._start(self._await(route, request, result))

    def _start(self, work: Awaitable[None]) -> None:
        task = self._loop.create_task(_run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _await(self, route: list[bytes], request: Request, result: Awaitable[Reply]) -> None:
        try:
            reply = await result
        except Exception as error:
            self._counters.handler_errors += 1
            log.exception("command %s for %s failed", request.type, request.subject)
            reply = Failed(code="error", message=repr(error))
        self._reply(route, request, reply)

    async def _forward(self, route: list[bytes], request: Request, forwarded: Awaitable[Answer]) -> None:
        try:
            answer = await forwarded
        except Exception as error:
            self._reply(route, request, Failed(code="error", message=repr(error)))
            return
        self._send(route, msgspec.structs.replace(answer, id=request.id))

    def _reply(self, route: list[bytes], request: Request, reply: Reply) -> None:
        self._send(route, self._answer(request, "reply", type=tag_of(reply), body=msgspec.Raw(encode(reply))))

    def close(self, linger_ms: int) -> None:
        """Ends it; commands under way are given up."""
        for task in self._tasks:
            task.cancel()
        self._socket.close(linger_ms)


async def _run(work: Awaitable[None]) -> None:
    await work


def _any_matches(prefixes: tuple[str, ...], topic: str) -> bool:
    return any(matches(prefix, topic) for prefix in prefixes)


def _sender(frame: zmq.Frame) -> str:
    """Who sent it, as far as the socket knows: uid, gid and pid of a local peer, the address of another."""
    try:
        address = frame.get("Peer-Address")
    except (zmq.ZMQError, KeyError):
        return "an unknown peer"
    if isinstance(address, str) and address.count(":") >= 2 and address.startswith(":"):
        uid, gid, pid = ([*address.strip(":").split(":"), "?", "?"])[:3]
        return f"uid {uid} gid {gid} pid {pid}"
    return str(address) if address else "an unknown peer"
