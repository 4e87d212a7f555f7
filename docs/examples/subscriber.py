"""Follows a cluster through one gateway. Usage: subscriber.py tcp://HOST:PORT SERVER_KEY MY_KEY_FILE [PREFIX]"""

import json
import sys
import tomllib

import msgpack
import zmq

endpoint, server_key, key_file, prefix = (*sys.argv[1:], "")[:4]
host, _, port = endpoint.rpartition(":")
with open(key_file, "rb") as file:
    key = tomllib.load(file)
events, questions = (zmq.Context.instance().socket(kind) for kind in (zmq.SUB, zmq.DEALER))
for socket, where in ((events, endpoint), (questions, f"{host}:{int(port) + 1}")):
    socket.curve_serverkey = server_key.encode()
    socket.curve_publickey, socket.curve_secretkey = key["public"].encode(), key["secret"].encode()
    socket.connect(where)
questions.rcvtimeo = 10_000
for topic in (b"", b"\xffsync/subscriber"):  # the second is answered at once, when the first is in force
    events.subscribe(topic)
epoch, seq, numbers = None, 0, {}
while True:
    topic, data = events.recv_multipart()
    frame, control = msgpack.unpackb(data), topic[:1] == b"\xff"
    stream = frame if control else frame.get("via") or frame["id"]
    if stream["epoch"] != epoch:  # at the start, after a gap, when the gateway began anew: everything as it is now
        questions.send(msgpack.packb({"id": 1, "op": "snapshot", "prefixes": [f"*/{prefix}"]}))
        answers = [msgpack.unpackb(questions.recv())]
        while not answers[-1]["last"]:
            answers.append(msgpack.unpackb(questions.recv()))
        epoch, seq, numbers = answers[-1]["epoch"], answers[-1]["seq"], answers[-1]["counts"]
        found = [(name, msgpack.unpackb(packed)) for answer in answers for name, packed in answer["events"]]
    else:
        found = [] if control or stream["seq"] <= seq else [(topic.decode(), frame)]
    for name, event in ((name, event) for name, event in found if name.partition("/")[2].startswith(prefix)):
        missed = max(0, event["n"] - numbers.get(name, event["n"] - 1) - 1)
        numbers[name], epoch = max(numbers.get(name, 0), event["n"]), None if missed else epoch
        print(json.dumps({"topic": name, "type": event["type"], "body": event["body"], "missed": missed}), flush=True)
