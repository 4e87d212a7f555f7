"""What tcp sockets are set to: keys, heartbeats, limits. Both ends of a connection are here:
the gateway's and a client's.

Plain tcp cannot get in: a CURVE socket ends a connection that does not begin with a CURVE greeting. ZeroMQ asks the
gateway's ZAP handler (actors/gateway/door.py) about each key; only keys of holdfast.toml pass.
"""

from __future__ import annotations

import zmq

from holdfast.bus.keys import KeyPair
from holdfast.bus.sockets import Tune

ZAP_DOMAIN = b"holdfast"
ZAP_ENDPOINT = "inproc://zeromq.zap.01"
HANDSHAKE_MS = 10_000
"""Who has not proved a key by then is cut off. Over a second of delay a handshake takes four."""
HEARTBEAT_MS = 1000
HEARTBEAT_LIMIT_MS = 3000
ANSWER_S = 5.0
"""How long a snapshot may take over the network before it is asked for again."""
UNSENT_MS = 5000
REQUEST_BYTES_MAX = 1024 * 1024
SUBSCRIPTION_BYTES_MAX = 2048
"""What a subscriber may send in one message: a topic prefix."""


def _both(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_LIMIT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 2 * HEARTBEAT_LIMIT_MS)
    # A connection whose data nobody acknowledges any more is given up, instead of after the kernel's 15 minutes.
    socket.setsockopt(zmq.TCP_MAXRT, UNSENT_MS)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, 1)


def server(pair: KeyPair) -> Tune:
    """For a socket that binds: it has the key `pair`."""

    def tune(socket: zmq.Socket[bytes]) -> None:
        _both(socket)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode("ascii"))
        socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        if socket.getsockopt(zmq.TYPE) == zmq.XPUB:
            socket.setsockopt(zmq.MAXMSGSIZE, SUBSCRIPTION_BYTES_MAX)

    return tune


def client(pair: KeyPair, server_key: str) -> Tune:
    """For a socket that connects: it has the key `pair` and talks to nobody but the owner of `server_key`."""

    def tune(socket: zmq.Socket[bytes]) -> None:
        _both(socket)
        socket.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode("ascii"))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public.encode("ascii"))
        socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode("ascii"))
        if socket.getsockopt(zmq.TYPE) == zmq.DEALER:
            # No question waits for a connection: what is asked while there is none has failed, and is asked anew.
            socket.setsockopt(zmq.IMMEDIATE, 1)

    return tune


def command_endpoint(event_endpoint: str) -> str:
    """Where commands go, by convention: the next port."""
    host, _, port = event_endpoint.rpartition(":")
    return f"{host}:{int(port) + 1}"
