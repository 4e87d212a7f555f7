"""Many subscribers in one process: subscriber.py ENDPOINT SERVER_KEY KEY_FILE COUNT PREFIX.

Says `ready` when all subscriptions are in force; after a line on standard input prints one JSON line: events received
by all, of the first its latencies in microseconds (sender's to receiver's monotonic clock, the same host) and the mean
size of an event.
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
received = size = 0
latencies: list[int] = []
running = True
while running:
    for found, _ in poller.poll():
        if found == 0:
            running = False
            continue
        first = found is sockets[0]
        for _ in range(200):
            try:
                topic, data = found.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if topic[:1] == b"\xff":
                continue
            received += 1
            if first:  # the others get the same at the same time; decoding all of it would measure this program
                latencies.append((time.monotonic_ns() - msgpack.unpackb(data)["mono_ns"]) // 1000)
                size += len(topic) + len(data)
latencies.sort()


def at(share: float) -> int | None:
    """A percentile."""
    return latencies[min(len(latencies) - 1, int(len(latencies) * share))] if latencies else None


figures = {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": at(1.0)}
print(json.dumps({"received": received, "frame": size / max(1, len(latencies)), **figures}), flush=True)
