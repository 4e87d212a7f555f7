"""Messages to msgpack and back, by the tag of their type.

Rooms declare messages in their `messages.py`; a type is known here as soon as its module is imported. A type that is
not known comes out as `UnknownEvent` with its bytes untouched, so that a gateway or a journal of an older version
hands it on as it came.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from holdfast.bus.messages import Command, Event, Reply

_Message = TypeVar("_Message", bound=msgspec.Struct)

_encoder = msgspec.msgpack.Encoder()


class BadFrame(Exception):
    """Bytes that are no message of this bus. reason: a stable word, for counters."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class UnknownEvent(Event, frozen=True, kw_only=True, tag="bus.unknown"):
    """An event of a type that this program does not know. name: its `type`; raw: its body as it came."""

    name: str
    raw: bytes


class Forgotten(Event, frozen=True, kw_only=True, tag="bus.forgotten"):
    """The thing this topic spoke of is gone: nothing is retained any more. Handlers get it like any event."""


class Registry:
    """Tag -> type, for one base class. Looks for new subclasses when it meets a tag it does not know."""

    def __init__(self, base: type[msgspec.Struct]) -> None:
        self.base = base
        self._decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {}
        self._types: dict[str, type[msgspec.Struct]] = {}
        self._unknown: set[str] = set()
        self._known_classes = 0

    def types(self) -> dict[str, type[msgspec.Struct]]:
        """Every declared type by its tag."""
        self._rescan()
        return dict(self._types)

    def decoder(self, tag: str) -> msgspec.msgpack.Decoder[Any] | None:
        """The decoder for `tag`, None when no module declares it."""
        found = self._decoders.get(tag)
        if found is None and self._rescan():
            found = self._decoders.get(tag)
        return found

    def _rescan(self) -> bool:
        """Finds types declared since the last look; False when nothing new is there (it costs a walk, not a parse)."""
        classes: list[type[msgspec.Struct]] = []
        waiting = list(self.base.__subclasses__())
        while waiting:
            cls = waiting.pop()
            classes.append(cls)
            waiting.extend(cls.__subclasses__())
        if len(classes) == self._known_classes:
            return False
        self._known_classes = len(classes)
        for cls in classes:
            tag = cls.__struct_config__.tag
            if isinstance(tag, str) and self._types.get(tag) is not cls:
                self._types[tag] = cls
                self._decoders[tag] = msgspec.msgpack.Decoder(cls)
        return True


EVENTS = Registry(Event)
COMMANDS = Registry(Command)
REPLIES = Registry(Reply)


def tag_of(message: msgspec.Struct) -> str:
    """The tag a message type was declared with."""
    tag = type(message).__struct_config__.tag
    assert isinstance(tag, str), f"{type(message).__name__} is declared without tag="
    return tag


def encode(message: msgspec.Struct) -> bytes:
    """The message as one msgpack map.

    Text that is no Unicode (names from a file in another encoding come with lone surrogates) travels with
    replacement characters: it is shown to people, and no message may fail for it.
    """
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError:
        return _encoder.encode(_shown(msgspec.to_builtins(message, builtin_types=(bytes,))))


def encode_any(value: Any) -> bytes:
    """Any plain value as msgpack."""
    return _encoder.encode(value)


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_shown(key): _shown(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shown(each) for each in value]
    return value


def decode_event(tag: str, body: bytes | memoryview) -> Event:
    """The event of type `tag`; UnknownEvent when the type is not known. Raises BadFrame when the body does not fit."""
    decoder = EVENTS.decoder(tag)
    if decoder is None:
        return UnknownEvent(name=tag, raw=bytes(body))
    try:
        event = decoder.decode(body)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame("body", f"{tag}: {error}") from None
    assert isinstance(event, Event)
    return event


def decode_command(tag: str, body: bytes | memoryview) -> Command | None:
    """The command of type `tag`, None when the type is not known. Raises BadFrame when the body does not fit."""
    decoder = COMMANDS.decoder(tag)
    if decoder is None:
        return None
    try:
        command = decoder.decode(body)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame("body", f"{tag}: {error}") from None
    assert isinstance(command, Command)
    return command


def decode_reply(tag: str, body: bytes | memoryview) -> Reply:
    """The reply of type `tag`. Raises BadFrame when the type is not known or the body does not fit."""
    decoder = REPLIES.decoder(tag)
    if decoder is None:
        raise BadFrame("unknown-reply", tag)
    try:
        reply = decoder.decode(body)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame("body", f"{tag}: {error}") from None
    assert isinstance(reply, Reply)
    return reply
