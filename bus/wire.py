"""The two messages of the command socket, and the control frames beside the events.

A client sends one msgpack map (`Request`) to a cell's ROUTER socket, with or without an empty part before it (DEALER
and REQ both work), and gets one or more maps (`Answer`) with the same `id`.

Control frames travel among the events; their topic begins with the byte FF, which no text has:

    FF "sync/" TOKEN   sent to who subscribes to exactly this: everything it subscribed to before is in force now
    FF "beat"          every 10 s, and soon after the queue of a subscriber was full
    FF "bye"           the publisher ends; `text`: "removed" when its things are gone with it, otherwise "stopped"
"""

from __future__ import annotations

import msgspec

from holdfast.bus.codec import BadFrame

CONTROL = b"\xff"
SYNC = b"\xffsync/"
BEAT = b"\xffbeat"
BYE = b"\xffbye"

REQUEST_BYTES_MAX = 1024 * 1024
"""A larger request is dropped and counted."""
HARD_BYTES_MAX = 64 * 1024 * 1024
"""ZeroMQ itself cuts off a peer that sends more in one message: memory is bounded whatever comes."""


def _nil() -> msgspec.Raw:
    return msgspec.Raw(b"\xc0")


class Hello(msgspec.Struct, frozen=True):
    """The body of a control frame: who publishes here, and how far it is.

    seq: of the newest event. full: how often a subscriber's queue was full, from when on it did not get everything.
    """

    node: str
    cell: str
    epoch: int
    seq: int
    full: int = 0
    text: str = ""
    v: int = 1


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants. op: `snapshot`, `totals`, `command`, `hello`, `ping`, `missed` (without an answer).

    id: chosen by the client, comes back. prefixes: `NODE/PREFIX`, `*/PREFIX` for every node. fence: a sync topic the
    client subscribed to; it is published at the same moment the snapshot is taken. node, cell: of the client, in its
    own words. to: the node the command is for, empty for the one that hears it. type and body: of the command.
    missed: how many events of this publisher the client did not get since its last report. role: what the client may
    do, when a gateway hands its command on; over the network what the client's key stands for counts alone.
    """

    id: int
    op: str
    v: int = 1
    prefixes: tuple[str, ...] = ()
    fence: bytes = b""
    node: str = ""
    cell: str = ""
    to: str = ""
    subject: str = ""
    type: str = ""
    body: msgspec.Raw = msgspec.field(default_factory=_nil)
    missed: int = 0
    role: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What comes back. op: `part` of a snapshot, `totals`, `reply`, `unserved`, `hello`, `pong`, `error`.

    epoch and seq: of the publisher at that moment. events: (topic, frame). counts: topics under which more events
    have been than the frame of its retained one says. last: no more parts. totals: for each prefix, events so far.
    wall_ns, mono_ns: the clocks at the moment of a `pong`.
    """

    id: int
    op: str
    node: str
    cell: str
    epoch: int
    seq: int
    v: int = 1
    events: tuple[tuple[str, bytes], ...] = ()
    counts: dict[str, int] = {}
    totals: tuple[int, ...] = ()
    last: bool = True
    type: str = ""
    body: msgspec.Raw = msgspec.field(default_factory=_nil)
    text: str = ""
    wall_ns: int = 0
    mono_ns: int = 0


_request = msgspec.msgpack.Decoder(Request)
_answer = msgspec.msgpack.Decoder(Answer)
_hello = msgspec.msgpack.Decoder(Hello)
_ERRORS = (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_request(data: bytes) -> Request:
    """The request in `data`. Raises BadFrame."""
    if len(data) > REQUEST_BYTES_MAX:
        raise BadFrame("oversized", f"a request of {len(data)} bytes")
    try:
        return _request.decode(data)
    except _ERRORS as error:
        raise BadFrame("request", str(error)) from None


def decode_answer(data: bytes) -> Answer:
    """The answer in `data`. Raises BadFrame."""
    try:
        return _answer.decode(data)
    except _ERRORS as error:
        raise BadFrame("answer", str(error)) from None


def decode_hello(data: bytes) -> Hello:
    """The body of a control frame. Raises BadFrame."""
    try:
        return _hello.decode(data)
    except _ERRORS as error:
        raise BadFrame("control", str(error)) from None


def matches(prefix: str, topic: str) -> bool:
    """Whether `topic` is under `prefix` (`NODE/PREFIX`, or `*/PREFIX` for every node)."""
    if prefix.startswith("*/"):
        return topic.partition("/")[2].startswith(prefix[2:])
    return topic.startswith(prefix)
