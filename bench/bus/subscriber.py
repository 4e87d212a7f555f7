"""Many subscribers in one process: subscriber.py ENDPOINT SERVER_KEY KEY_FILE COUNT PREFIX.

Says `ready` when all subscriptions are in force; after a line on standard input prints one JSON line: events received,
how many were missed, latencies in microseconds (sender's to receiver's monotonic clock, the same host), bytes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import msgpack
import zmq

from holdfast.bus import keys

endpoint, server_key, key_file, count, prefix = sys.argv[1:]
key = keys.read(Path(key_file))
context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
poller = zmq.Poller()
sockets = []
for _number in range(int(count)):
    socket = context.socket(zmq.SUB)
    socket.curve_serverkey = server_key.encode()
    socket.curve_publickey, socket.curve_secretkey = key.public.encode(), key.secret.encode()
    socket.setsockopt(zmq.RCVHWM, 4096)
    for topic in (prefix.encode(), b"\xffsync/bench"):
        socket.subscribe(topic)
    socket.connect(endpoint)
    sockets.append(socket)
for socket in sockets:
    while not socket.recv_multipart()[0].startswith(b"\xff"):
        pass
print("ready", flush=True)
poller.register(0, zmq.POLLIN)
for socket in sockets:
    poller.register(socket, zmq.POLLIN)
received = size = missed = 0
latencies: list[int] = []
last: dict[tuple[int, bytes], int] = {}
running = True
while running:
    for found, _ in poller.poll():
        if found == 0:
            running = False
            continue
        number = sockets.index(found) if len(sockets) > 1 else 0
        for _ in range(200):
            try:
                topic, data = found.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if topic.startswith(b"\xff"):
                continue
            now = time.monotonic_ns()
            frame = msgpack.unpackb(data)
            received += 1
            size += len(topic) + len(data)
            latencies.append((now - frame["mono_ns"]) // 1000)
            before = last.get((number, topic))
            if before is not None:
                missed += frame["n"] - before - 1
            last[number, topic] = frame["n"]
latencies.sort()


def at(share: float) -> int | None:
    """A percentile."""
    return latencies[min(len(latencies) - 1, int(len(latencies) * share))] if latencies else None


figures = {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": at(1.0)}
print(json.dumps({"received": received, "missed": missed, "bytes": size, **figures}), flush=True)
