"""One event with its address, and its form on the wire.

A frame is two ZeroMQ parts: the topic, then one msgpack map (docs/bus.md):

    v        format version, 1
    id       {node, cell, epoch, seq}
    wall_ns  wall clock of the sender, for people
    mono_ns  monotonic clock of the sender, for arithmetic within its node
    type     the tag of the event's type
    causes   ids of the events that led to this one
    body     the event
    n        how many events this publisher has sent under this topic, this one included: a gap shows what was missed
    retain   whether it is the newest of its topic for whoever joins
    via      only from a relay (the gateway): the id it has in the relay's own stream

Unknown keys are ignored, so the map can grow.
"""

from __future__ import annotations

import msgspec

from holdfast.bus import topics
from holdfast.bus.codec import BadFrame, Forgotten, UnknownEvent, decode_event, encode, tag_of
from holdfast.bus.messages import Event, EventId

VERSION = 1
FRAME_BYTES_MAX = 64 * 1024 * 1024
"""A larger event is not sent and not accepted: the largest configuration slice measured is a tenth of it."""


class Envelope(msgspec.Struct, frozen=True):
    """What a handler gets. causes: what led to it. count: events under this topic so far (0: not from a bus).

    stale: read from what a dead cell left behind. retain: it is the newest of its topic for whoever joins.
    """

    topic: str
    id: EventId
    wall_ns: int
    mono_ns: int
    causes: tuple[EventId, ...]
    event: Event
    count: int = 0
    stale: bool = False
    retain: bool = True

    @property
    def subject(self) -> str:
        """`vrrp/VI_1`: the second and third word, unquoted."""
        return topics.split(self.topic)[1]

    @property
    def aspect(self) -> str:
        """`state`: the last word."""
        return self.topic.rpartition("/")[2]

    @property
    def gone(self) -> bool:
        """True when this tells that nothing is retained under the topic any more."""
        return isinstance(self.event, Forgotten)


class Frame(msgspec.Struct, frozen=True):
    """The map on the wire, its body still encoded. The defaults make a terse sender acceptable."""

    v: int
    id: EventId
    wall_ns: int
    mono_ns: int
    type: str
    body: msgspec.Raw
    causes: list[EventId] = []
    n: int = 0
    retain: bool = True
    via: EventId | None = None


_frame_decoder = msgspec.msgpack.Decoder(Frame)


def pack(envelope: Envelope, *, retain: bool = True, via: EventId | None = None) -> bytes:
    """The map of an envelope; the topic travels beside it."""
    event = envelope.event
    if isinstance(event, UnknownEvent):
        name, body = event.name, event.raw
    else:
        name, body = tag_of(event), encode(event)
    return encode(
        Frame(
            v=VERSION,
            id=envelope.id,
            wall_ns=envelope.wall_ns,
            mono_ns=envelope.mono_ns,
            type=name,
            body=msgspec.Raw(body),
            causes=list(envelope.causes),
            n=envelope.count,
            retain=retain,
            via=via,
        )
    )


def unpack_frame(data: bytes) -> Frame:
    """The map with its body still encoded. Raises BadFrame."""
    if len(data) > FRAME_BYTES_MAX:
        raise BadFrame("oversized", f"{len(data)} bytes")
    try:
        frame = _frame_decoder.decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame("frame", str(error)) from None
    if frame.v != VERSION:
        raise BadFrame("version", str(frame.v))
    return frame


def unpack_topic(data: bytes) -> str:
    """The topic part as text, its four words checked. Raises BadFrame."""
    if len(data) > topics.TOPIC_BYTES_MAX:
        raise BadFrame("topic", f"{len(data)} bytes")
    try:
        topic = data.decode("utf-8")
        topics.split(topic)
    except ValueError as error:
        raise BadFrame("topic", str(error)) from None
    return topic


def envelope_of(topic: str, frame: Frame, *, stale: bool = False) -> Envelope:
    """The envelope of a frame, its event decoded. Raises BadFrame when the body does not fit its type."""
    event = decode_event(frame.type, bytes(frame.body))
    return Envelope(
        topic, frame.id, frame.wall_ns, frame.mono_ns, tuple(frame.causes), event, frame.n, stale, frame.retain
    )


def unpack(topic: str, data: bytes) -> Envelope:
    """The envelope in `data`. Raises BadFrame."""
    return envelope_of(topic, unpack_frame(data))
