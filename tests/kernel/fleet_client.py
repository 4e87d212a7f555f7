"""A client of a fleet, with nats-py and msgpack alone.

    fleet_client.py SERVER CA CERTIFICATE KEY NAME ROLE ORDER [WORD...]

state: prints the newest event of each topic. follow N: N events as they come. history: everything in the stream.
command NODE SUBJECT TYPE [BODY]: sends a command. forge SUBJECT: publishes under it. listen SUBJECT...: follows them.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any

import msgpack
import nats
from nats.js import api


async def events(connection: Any, policy: api.DeliverPolicy, limit: int | None, quiet_s: float) -> None:
    streams = connection.jetstream()
    config = api.ConsumerConfig(ack_policy=api.AckPolicy.NONE, deliver_policy=policy)
    subscription = await streams.subscribe("holdfast.event.>", stream="HOLDFAST", config=config, manual_ack=True)
    print("ready", flush=True)
    while limit is None or limit > 0:
        try:
            message = await subscription.next_msg(timeout=quiet_s)
        except nats.errors.TimeoutError:
            return
        frame = msgpack.unpackb(message.data)
        print(json.dumps([message.subject, frame["type"], frame["id"], frame["body"]], default=str), flush=True)
        if limit is not None:
            limit -= 1
        elif not message.metadata.num_pending:
            return  # all that was there


async def main() -> None:
    server, ca, certificate, key, name, role, order, *words = sys.argv[1:]
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    problems: list[str] = []

    async def failed(error: Exception) -> None:
        problems.append(str(error))

    connection = await nats.connect(
        server, tls=context, inbox_prefix=f"_INBOX_{name}", error_cb=failed, max_reconnect_attempts=1, connect_timeout=3
    )
    try:
        if order == "state":
            await events(connection, api.DeliverPolicy.LAST_PER_SUBJECT, None, 1.5)
        elif order == "history":
            await events(connection, api.DeliverPolicy.ALL, None, 1.5)
        elif order == "follow":
            await events(connection, api.DeliverPolicy.NEW, int(words[0]), 60.0)
        elif order == "command":
            node, subject, kind = words[:3]
            body = json.loads(words[3]) if len(words) > 3 else {}
            request = {"id": 1, "op": "command", "subject": subject, "type": kind, "body": {"type": kind, **body}}
            try:
                place = f"holdfast.command.{role}.{node}.{name}"
                reply = await connection.request(place, msgpack.packb(request), timeout=5)
                answer = msgpack.unpackb(reply.data)
                print(json.dumps([answer.get("type"), answer.get("body"), answer.get("text")], default=str))
            except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
                print(json.dumps(["none", problems, ""]))
        elif order == "forge":
            await connection.publish(words[0], msgpack.packb({"v": 1}))
            await connection.flush()
            await asyncio.sleep(0.3)
            print(json.dumps(problems))
        elif order == "listen":
            for subject in words:
                await connection.subscribe(subject)
                await connection.flush()
            await asyncio.sleep(0.3)
            print(json.dumps(problems))
    finally:
        await connection.close()


asyncio.run(main())
