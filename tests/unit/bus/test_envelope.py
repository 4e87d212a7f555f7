"""Bytes to messages and back; anything else is a BadFrame."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.bus.codec import BadFrame, UnknownEvent, decode_command, decode_reply, encode
from holdfast.bus.envelope import Envelope, pack, unpack, unpack_topic
from holdfast.bus.messages import Command, Event, EventId, Failed
from holdfast.bus.wire import decode_answer, decode_hello, decode_request

TOPIC = "n/test/x/state"
NAME = EventId("n", "c", 3, 7)


class Old(Event, frozen=True, kw_only=True, tag="test.envelope.old"):
    text: str
    number: int = 0


class Ask(Command, frozen=True, kw_only=True, tag="test.envelope.ask"):
    number: int


def envelope(event: Event) -> Envelope:
    return Envelope(TOPIC, NAME, 11, 12, (EventId("o", "d", 1, 2),), event, 5)


def test_what_is_packed_comes_out_again() -> None:
    sent = envelope(Old(text="ä", number=-1))
    assert unpack(TOPIC, pack(sent)) == sent
    assert (sent.subject, sent.aspect, sent.gone) == ("test/x", "state", False)


def test_the_wire_is_one_msgpack_map_with_the_documented_keys() -> None:
    raw = msgspec.msgpack.decode(pack(envelope(Old(text="x")), retain=False))
    assert raw == {
        "v": 1,
        "id": {"node": "n", "cell": "c", "epoch": 3, "seq": 7},
        "wall_ns": 11,
        "mono_ns": 12,
        "type": "test.envelope.old",
        "causes": [{"node": "o", "cell": "d", "epoch": 1, "seq": 2}],
        "body": {"type": "test.envelope.old", "text": "x", "number": 0},
        "n": 5,
        "retain": False,
        "via": None,
    }


def test_a_terse_sender_of_another_version_is_understood() -> None:
    raw = {
        "v": 1,
        "id": {"node": "n", "cell": "c", "epoch": 3, "seq": 7, "shard": 9},
        "wall_ns": 11,
        "mono_ns": 12,
        "type": "test.envelope.old",
        "body": {"text": "x", "colour": "red"},
        "trace": ["new"],
    }
    got = unpack(TOPIC, msgspec.msgpack.encode(raw))
    assert (got.event, got.causes, got.count) == (Old(text="x"), (), 0)


def test_an_unknown_type_is_handed_on_untouched() -> None:
    body = msgspec.msgpack.encode({"type": "from.the.future", "x": [1, b"\xff"]})
    raw = {"v": 1, "id": NAME, "wall_ns": 1, "mono_ns": 2, "type": "from.the.future", "body": msgspec.Raw(body)}
    got = unpack(TOPIC, msgspec.msgpack.encode(raw))
    assert got.event == UnknownEvent(name="from.the.future", raw=body)
    again = msgspec.msgpack.decode(pack(got))
    assert again["type"] == "from.the.future"
    assert again["body"] == {"type": "from.the.future", "x": [1, b"\xff"]}


def test_a_type_declared_later_is_found() -> None:
    raw = {"v": 1, "id": NAME, "wall_ns": 1, "mono_ns": 2, "type": "test.envelope.late", "body": {"x": 1}}
    data = msgspec.msgpack.encode(raw)
    assert isinstance(unpack(TOPIC, data).event, UnknownEvent)

    class Late(Event, frozen=True, kw_only=True, tag="test.envelope.late"):
        x: int

    assert unpack(TOPIC, data).event == Late(x=1)


def test_text_that_is_no_unicode_travels_with_replacements() -> None:
    assert unpack(TOPIC, pack(envelope(Old(text="bad\udcff")))).event == Old(text="bad?")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": 2}, "version"),
        ({"v": "1"}, "frame"),
        ({"id": {"node": "n"}}, "frame"),
        ({"body": {"text": 5}}, "body"),
        ({"body": 5}, "body"),
        ({"body": {"type": "other", "text": "x"}}, "body"),
        ({"n": -1.5}, "frame"),
        ({"causes": [1]}, "frame"),
    ],
)
def test_bad_frames_say_what_is_wrong(change: dict[str, object], reason: str) -> None:
    raw = msgspec.msgpack.decode(pack(envelope(Old(text="x"))))
    with pytest.raises(BadFrame) as caught:
        unpack(TOPIC, msgspec.msgpack.encode({**raw, **change}))
    assert caught.value.reason == reason


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_bad_frame(data: bytes) -> None:
    for decode in (
        lambda: unpack(TOPIC, data),
        lambda: unpack_topic(data),
        lambda: decode_request(data),
        lambda: decode_answer(data),
        lambda: decode_hello(data),
        lambda: decode_command("test.envelope.ask", data),
        lambda: decode_reply("failed", data),
    ):
        try:
            decode()
        except BadFrame:
            continue


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_a_message_or_a_bad_frame(position: int, value: int) -> None:
    data = bytearray(pack(envelope(Old(text="some text", number=123456))))
    data[position % len(data)] = value
    try:
        unpack(TOPIC, bytes(data))
    except BadFrame as error:
        assert str(error)


def test_commands_and_replies() -> None:
    assert decode_command("test.envelope.ask", encode(Ask(number=1))) == Ask(number=1)
    assert decode_command("nobody.knows", b"\x80") is None
    assert decode_reply("failed", encode(Failed(code="a", message="b"))) == Failed(code="a", message="b")
    with pytest.raises(BadFrame):
        decode_reply("nobody.knows", b"\x80")
    with pytest.raises(BadFrame):
        decode_request(b"\x80" * 2_000_000)
