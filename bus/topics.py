"""Names of things on the bus: subjects, topics, prefixes.

A subject is what people write: `vrrp/VI_1`, `address/10.0.0.1@eth0`. Its first word is the kind, all the rest is the
name, which may hold any characters. A topic is what travels: `node/kind/name/aspect`, four words, in which the name is
quoted so that `/` keeps its meaning. A prefix is the beginning of a topic without its node.
"""

from __future__ import annotations

TOPIC_BYTES_MAX = 1024
"""A longer topic on the wire is a bad frame."""

_EMPTY = "%"
_PLAIN = frozenset(chr(code) for code in range(0x21, 0x7F)) - {"%", "/"}


class BadTopic(ValueError):
    """A node, kind or aspect that cannot stand in a topic, or a topic that does not have four words."""


def quote(name: str) -> str:
    """`name` as one word of a topic: `/`, `%`, blanks and control characters become %XX of their UTF-8 bytes.

    Letters beyond ASCII stay as they are (subscribers compare bytes, people read them). The empty name is `%`.
    """
    if not name:
        return _EMPTY
    if _PLAIN.issuperset(name):
        return name
    return "".join(_quoted(character) for character in name)


def _quoted(character: str) -> str:
    if character in _PLAIN or (character > "\x7f" and character.isprintable()):
        return character
    escape = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", escape))


def unquote(word: str) -> str:
    """The name that `quote` made `word` of. Raises BadTopic for a `%` that no two hexadecimal digits follow."""
    if word == _EMPTY:
        return ""
    if "%" not in word:
        return word
    out = bytearray()
    parts = word.split("%")
    out += parts[0].encode("utf-8", "surrogateescape")
    for part in parts[1:]:
        try:
            out.append(int(part[:2], 16) if len(part) >= 2 and part[:2].isalnum() else int("", 16))
        except ValueError:
            raise BadTopic(f"{word!r}: % is not followed by two hexadecimal digits") from None
        out += part[2:].encode("utf-8", "surrogateescape")
    return out.decode("utf-8", "surrogateescape")


def topic_of(node: str, subject: str, aspect: str) -> str:
    """The topic of an aspect of a subject, for example `lb1/vrrp/VI_1/state`."""
    return f"{quote(node)}/{subject_words(subject)}/{word(aspect)}"


def subject_words(subject: str) -> str:
    """`kind/name` with the name quoted; where a prefix for one subject is wanted, add a `/`.

    A subject without a name (`supervisor`) has the empty name.
    """
    kind, _, name = subject.partition("/")
    return f"{word(kind)}/{quote(name)}"


def word(text: str) -> str:
    """`text`, a kind or an aspect: our own vocabulary, so anything that would need quoting is a mistake."""
    if not text or not _PLAIN.issuperset(text):
        raise BadTopic(f"{text!r} cannot be a word of a topic")
    return text


def split(topic: str) -> tuple[str, str, str]:
    """(node, subject, aspect) of a topic, names unquoted. Raises BadTopic."""
    words = topic.split("/")
    if len(words) != 4 or not all(words):
        raise BadTopic(f"{topic!r} is not node/kind/name/aspect")
    node, kind, name, aspect = words
    plain = unquote(name)
    return unquote(node), f"{kind}/{plain}" if plain else kind, aspect
