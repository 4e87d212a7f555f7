"""The door of a node: the two tcp sockets that others connect to, and who is let in.

Through the event socket go this node's events and those of the other nodes, each under its own name: one stream with
numbers of its own (`via`), so that whoever follows it can follow it exactly. Behind the command socket a `Gate`
looks at each request's key before anybody else sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket as sockets
import time
from collections.abc import Callable, Sequence

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from holdfast.actors.gateway.access import AccessList, Budget
from holdfast.actors.gateway.messages import Refusal
from holdfast.actors.gateway.roles import may_command
from holdfast.bus.base import Caller
from holdfast.bus.codec import Forgotten, encode
from holdfast.bus.counters import Counters
from holdfast.bus.envelope import Envelope, Frame, pack
from holdfast.bus.keys import KeyPair, public_of_bytes
from holdfast.bus.messages import EventId
from holdfast.bus.publisher import Publisher
from holdfast.bus.server import CommandServer, Foreign
from holdfast.bus.sockets import LoopSocket, end_context, new_context
from holdfast.bus.store import RetainedStore
from holdfast.bus.tcp import REQUEST_BYTES_MAX, ZAP_ENDPOINT, command_endpoint, server
from holdfast.bus.wire import Hello, Request
from holdfast.kernel.timers import monotonic

log = logging.getLogger(__name__)

CELL = "gateway"
LINGER_MS = 100
WATCHED = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_FAILED = (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_MECHANISM_MISMATCH = 0x11000002  # ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
ADDRESSES_MAX = 4096

Refuse = Callable[[str, Refusal, str, str], None]
"""(address, why, peer, text)."""


class Stream:
    """What goes out through the event socket, and what is retained of it. Works before the socket is there."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.epoch = time.time_ns() // 1_000_000
        self.store = RetainedStore(node, CELL, self.epoch)
        self.publisher: Publisher | None = None
        self._seq = 0

    def publish(self, envelope: Envelope, frame: Frame | None = None) -> bytes | None:
        """Sends an event on, and returns how. frame: as it came, when it came from another node.

        None: it told that something is gone which was not there.
        """
        topic = envelope.topic
        if envelope.gone:
            return self.forget(topic)
        count = self.store.count(topic)
        via = self._next()
        envelope = msgspec.structs.replace(envelope, count=count)
        if frame is None:
            data = pack(envelope, retain=envelope.retain, via=via)
        else:
            data = encode(msgspec.structs.replace(frame, n=count, via=via))
        self._send(topic, data)
        if envelope.retain:
            self.store.put(envelope, data)
        return data

    def forget(self, topic: str) -> bytes | None:
        """Nothing is retained under `topic` any more; those who follow are told."""
        if not self.store.drop(topic):
            return None
        via = self._next()
        gone = Envelope(topic, via, time.time_ns(), time.monotonic_ns(), (), Forgotten(), self.store.count(topic))
        data = pack(gone, retain=False, via=via)
        self._send(topic, data)
        self.store.counts.pop(topic, None)
        return data

    def forget_node(self, beginning: str) -> None:
        """Everything under `NODE/` is forgotten."""
        for topic in [each for each in self.store.entries if each.startswith(beginning)]:
            self.forget(topic)

    def _next(self) -> EventId:
        self._seq += 1
        if self.publisher is not None:
            self.publisher.seq = self._seq
        return EventId(self.node, CELL, self.epoch, self._seq)

    def _send(self, topic: str, data: bytes) -> None:
        if self.publisher is not None:
            self.publisher.send(topic.encode("utf-8"), data)

    def attach(self, publisher: Publisher | None) -> None:
        """The socket is there (or gone)."""
        self.publisher = publisher
        if publisher is not None:
            publisher.seq = self._seq


class Door:
    """Both sockets, bound. Made on the cell's loop; `close` before another one binds the same ports.

    asked(name): a peer asked us something. Raises zmq.ZMQError when an address cannot be bound.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stream: Stream,
        counters: Counters,
        pair: KeyPair,
        listen: Sequence[str],
        access: AccessList,
        *,
        refuse: Refuse,
        foreign: Foreign,
        asked: Callable[[str], None],
    ) -> None:
        self.access = access
        self.events = tuple(f"tcp://{each}" for each in listen)
        self.commands = tuple(command_endpoint(each) for each in self.events)
        self.connections = 0
        self._stream = stream
        self._counters = counters
        self._refuse = refuse
        self._asked = asked
        self._budgets: dict[str, Budget] = {}
        self._context = new_context()
        self._watches: list[tuple[zmq.Socket[bytes], LoopSocket]] = []
        tune = server(pair)
        opened: list[Callable[[], None]] = []
        try:
            # The judge first: without one ZeroMQ would let everyone in who knows our public key.
            zap = self._context.socket(zmq.ROUTER)
            zap.bind(ZAP_ENDPOINT)
            self._zap = LoopSocket(loop, zap, self._judge)
            opened.append(self._zap.close)
            self._server = CommandServer(
                loop,
                self._context,
                self.commands,
                stream.store,
                counters,
                tune=tune,
                gate=self,
                request_bytes_max=REQUEST_BYTES_MAX,
            )
            opened.append(lambda: self._server.close(0))
            self._server.foreign = foreign
            hello = Hello(stream.node, CELL, stream.epoch, 0)
            self._publisher = Publisher(loop, self._context, self.events, hello, tune)
        except BaseException:
            for close in reversed(opened):
                close()
            self._context.destroy(linger=0)
            end_context(self._context)
            raise
        self._server.publisher = self._publisher
        for each in (self._publisher.socket, self._server.socket):
            monitor = _Watch(self)
            watching = LoopSocket(loop, each.get_monitor_socket(WATCHED), monitor.happened)
            self._watches.append((each, watching))
        stream.attach(self._publisher)

    # --- who may come in -----------------------------------------------------------------------------------------

    def _judge(self, parts: list[zmq.Frame]) -> None:
        """A ZAP request (rfc.zeromq.org/spec/27): may this key come in?"""
        words = [part.bytes for part in parts]
        if len(words) < 8 or words[2] != b"1.0":
            log.error("ZeroMQ asks in a way that is not understood: %d parts", len(words))
            return
        route, number, address, mechanism = words[:2], words[3], _shown(words[5].decode("ascii", "replace")), words[7]
        peer = None
        if mechanism == b"CURVE" and len(words) == 9 and len(words[8]) == 32:
            key = public_of_bytes(words[8])
            peer = self.access.by_key(key)
            if peer is None:
                self._refuse(address, Refusal.KEY, "", f"key {key}")
        else:
            self._refuse(address, Refusal.PLAIN, "", mechanism.decode("ascii", "replace"))
        if peer is None:
            answer = [b"1.0", number, b"400", b"not known here", b"", b""]
        else:
            answer = [b"1.0", number, b"200", b"OK", peer.name.encode("utf-8"), b""]
        self._zap.send([*route, *answer])

    def caller(self, request: Request, frame: zmq.Frame) -> Caller | None:
        """As Gate.caller: who asks is who his key says, whatever he says himself."""
        name = _property(frame, "User-Id")
        peer = self.access.by_name(name)
        if peer is None:
            self._refuse(_property(frame, "Peer-Address"), Refusal.KEY, name, "no longer known")
            return None
        now = monotonic()
        budget = self._budgets.get(name)
        if budget is None:
            budget = self._budgets[name] = Budget(now)
        if not budget.take(now):
            self._refuse(_property(frame, "Peer-Address"), Refusal.FLOOD, name, request.op)
            return None
        self._asked(name)
        return Caller(node=name, cell=request.cell[:64] or "client", role=peer.role)

    def refuses(self, request: Request, caller: Caller) -> str:
        """As Gate.refuses."""
        if request.op != "command" or may_command(caller.role, request.subject, request.type):
            return ""
        self._refuse("", Refusal.ROLE, caller.node, f"{request.type} for {request.subject}"[:200])
        return f"{caller.node} is a {caller.role} here: no commands for {request.subject}"

    # --- the end -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes both sockets: everyone who is connected has to come in anew."""
        self._stream.attach(None)
        for watched, watching in self._watches:
            watched.disable_monitor()
            watching.close()
        self._publisher.close(removed=False, linger_ms=LINGER_MS)
        self._server.close(LINGER_MS)
        self._zap.close()
        end_context(self._context)

    def connected(self, address: str, failed: int | None, by: int) -> None:
        """A connection came (by 1) or went (-1), or did not get through its handshake (failed: ZeroMQ's code)."""
        self.connections = max(0, self.connections + by)
        if failed is not None:
            refusal = Refusal.PLAIN if failed == _MECHANISM_MISMATCH else Refusal.HANDSHAKE
            self._refuse(address, refusal, "", f"{failed:#x}" if failed > 0xFFFF else os.strerror(failed))


class _Watch:
    """What happens to the connections of one socket, from its monitor.

    The monitor names the address of a connection at its beginning alone, by its descriptor; a failed handshake is
    followed by the end of the same connection.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._addresses: dict[int, str] = {}
        self._in: set[int] = set()
        self._failed: int | None = None
        self._passed = 0

    def happened(self, parts: list[zmq.Frame]) -> None:
        """One event of the monitor."""
        told = parse_monitor_message([part.bytes for part in parts])
        event, value = told["event"], told["value"]
        if event == zmq.EVENT_ACCEPTED:
            if len(self._addresses) < ADDRESSES_MAX:
                self._addresses[value] = _address_of(value)
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._passed += 1
            self._door.connected("", None, 1)
        elif event in _FAILED:
            self._failed = value
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._failed = None
            self._addresses = {fd: each for fd, each in self._addresses.items() if fd != value}
        elif event == zmq.EVENT_DISCONNECTED:
            address = self._addresses.pop(value, "")
            if self._failed is not None:
                self._door.connected(address, self._failed, 0)
                self._failed = None
            elif self._passed:
                self._passed -= 1
                self._door.connected(address, None, -1)


def _address_of(fd: int) -> str:
    """Who is at the other end of a connection that ZeroMQ has just accepted; it may be closed again already."""
    with contextlib.suppress(OSError):
        copy = os.dup(fd)
        with sockets.socket(fileno=copy) as connection:
            # The descriptor may be another one's by now: a local socket has a path, or nothing, for a name.
            name = connection.getpeername()
            return _shown(str(name[0])) if isinstance(name, tuple) and name else ""
    return ""


def _shown(address: str) -> str:
    """An IPv4 peer of a socket for both families looks like IPv4."""
    return address.removeprefix("::ffff:")


def _property(frame: zmq.Frame, name: str) -> str:
    """A property of the connection a message came over; empty when it has none."""
    try:
        value = frame.get(name)
    except (zmq.ZMQError, KeyError):
        return ""
    return value if isinstance(value, str) else bytes(value).decode("utf-8", "replace") if value else ""
