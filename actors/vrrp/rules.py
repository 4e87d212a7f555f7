"""Lines of static_rules and virtual_rules, in the words of ip-rule(8) (keepalived.conf(5), "Static rules")."""

from __future__ import annotations

import re
import socket

from holdfast.actors.vrrp.addresses import c_number, parse_prefixed
from holdfast.actors.vrrp.routes import TABLES
from holdfast.config.context import Words
from holdfast.config.text import integer
from holdfast.kernel.base import RuleSpec

FIRST_PREFERENCE = 16384
_UINT32 = (1 << 32) - 1
_RANGE = re.compile(r"(\d+)-(\d+)\Z")
_ACTIONS = ("blackhole", "prohibit", "unreachable", "nop")


class _Drop(Exception):
    """The line gives no rule; it has been said why."""


class _Reader:
    """Reads one line, word by word."""

    def __init__(self, words: Words, *, static: bool) -> None:
        self.words = words
        self.static = static
        self.at = 0
        self.fields: dict[str, object] = {}
        self.family: int | None = None
        self.actions = 0

    def next(self) -> str:
        word = self.words.word(self.at)
        self.at += 1
        return word

    def fail(self, text: str, hint: str = "") -> _Drop:
        self.words.error(f"{text}: rule dropped", hint, index=self.at - 1)
        return _Drop()

    def number(self, what: str, high: int) -> int:
        word = self.next()
        number = integer(word)
        if number is None or not 0 <= number <= high or "-" in word:
            raise self.fail(f"'{what}' cannot be '{word}'", f"0..{high}")
        return number

    def named(self, what: str, table: str, builtin: dict[str, int], high: int) -> int:
        word = self.next()
        names = {**builtin, **self.words.context.host.names(table)}
        number = names.get(word, c_number(word, high))
        if number is None:
            raise self.fail(f"'{what}' cannot be '{word}'", "a number or a name that iproute2 knows")
        return number

    def network(self, what: str) -> str | None:
        word = self.next()
        if word in ("default", "any", "all"):
            return None
        parsed = parse_prefixed(self.words, self.at - 1)
        if parsed is None:
            raise _Drop
        if self.family not in (None, parsed[0].version):
            raise self.fail(f"IPv4 and IPv6 are mixed at '{what}'")
        self.family = parsed[0].version
        return f"{parsed[0]}/{parsed[1]}"

    def range(self, what: str, high: int) -> tuple[int, int]:
        word = self.next()
        match = _RANGE.match(word)
        if match is None or int(match.group(1)) > high or int(match.group(2)) > high:
            raise self.fail(f"'{what}' cannot be '{word}'", "FIRST-LAST, also for a single one")
        return int(match.group(1)), int(match.group(2))

    def act(self, action: str) -> None:
        self.actions += 1
        self.fields["action"] = action


def parse_rule(words: Words, *, static: bool) -> RuleSpec | None:
    """One line; None after a complaint when nothing is left of it."""
    reader = _Reader(words, static=static)
    try:
        while reader.at < len(words):
            _word(reader, reader.next())
    except _Drop:
        return None
    fields = reader.fields
    if reader.actions > 1:
        words.error("a rule does only one thing: dropped", "one of table, goto, l3mdev, nop, blackhole, ...", index=0)
        return None
    if reader.actions == 0:
        words.error("a rule needs an action: dropped", "table, goto, l3mdev, nop, blackhole, ...", index=0)
        return None
    family = reader.family or 4
    preference = fields.get("preference")
    if fields["action"] == "goto":
        target = fields["goto"]
        assert isinstance(target, int)
        if not isinstance(preference, int):
            words.error("a rule with goto needs a preference: dropped", "preference N", index=0)
            return None
        if preference >= target:
            words.error(f"goto {target} leads back from preference {preference}: dropped", "forward only", index=0)
            return None
    if preference is None:
        used: dict[int, int] = words.context.root.values.setdefault("rule_preferences", {})
        fields["preference"] = used[family] = used.get(family, FIRST_PREFERENCE + 1) - 1
        words.error(f"the rule has no preference: {fields['preference']} taken", "preference N", index=0)
    return RuleSpec(family=family, **fields)  # type: ignore[arg-type]


def _word(reader: _Reader, word: str) -> None:
    fields = reader.fields
    match word:
        case "not":
            fields["invert"] = True
        case "from":
            fields["from_"] = reader.network(word)
        case "to":
            fields["to"] = reader.network(word)
        case "inet" | "inet6":
            hint = "keepalived 2.2.7 loses the word behind it"
            reader.words.warning(f"'{word}' in a rule", hint, index=reader.at - 1)
            reader.family = 4 if word == "inet" else 6
        case "table" | "lookup":
            fields["table"] = reader.named(word, "rt_tables", TABLES, _UINT32)
            if fields["table"] == 0:
                raise reader.fail("table 0 is none", "1..4294967295")
            reader.act("table")
        case "preference" | "order" | "priority":
            fields["preference"] = reader.number(word, _UINT32)
        case "tos" | "dsfield":
            fields["tos"] = reader.named(word, "rt_dsfield", {}, 255)
        case "fwmark":
            _fwmark(reader)
        case "iif" | "dev" | "oif":
            name = reader.next()
            reader.words.context.has_interface(name, reader.words.line, "of a rule", reader.at - 1)
            fields["oif" if word == "oif" else "iif"] = name
        case "no_track":
            fields["track"] = False
        case "goto":
            fields["goto"] = reader.number(word, _UINT32)
            reader.act("goto")
        case "l3mdev":
            fields["l3mdev"] = True
            reader.act("table")
        case "type":
            action = reader.next()
            if action not in _ACTIONS:
                raise reader.fail(f"'{action}' is no action", ", ".join(_ACTIONS))
            reader.act(action)
        case _ if word in _ACTIONS:
            reader.act(word)
        case _:
            _rarer_word(reader, word)


def _fwmark(reader: _Reader) -> None:
    word = reader.next()
    mark, slash, mask = word.partition("/")
    number = c_number(mark, _UINT32)
    if number is None or (slash and c_number(mask, _UINT32) is None):
        raise reader.fail(f"'fwmark' cannot be '{word}'", "MARK or MARK/MASK")
    reader.fields["fwmark"] = number
    if slash:
        reader.fields["fwmask"] = c_number(mask, _UINT32)


def _rarer_word(reader: _Reader, word: str) -> None:
    fields = reader.fields
    match word:
        case "realms":
            fields["realms"] = reader.next()
        case "suppress_prefixlength" | "sup_pl":
            fields["suppress_prefix_length"] = reader.number(word, 128)
        case "suppress_ifgroup" | "sup_group":
            fields["suppress_group"] = reader.named(word, "group", {"default": 0}, _UINT32)
        case "tunnel-id":
            fields["tunnel_id"] = reader.number(word, (1 << 64) - 1)
        case "uidrange":
            fields["uid_range"] = reader.range(word, _UINT32)
        case "protocol":
            fields["protocol"] = reader.number(word, 255)
        case "ipproto":
            name = reader.next()
            number = c_number(name, 255)
            if number is None:
                try:
                    number = socket.getprotobyname(name)
                except (OSError, ValueError):
                    raise reader.fail(f"'ipproto' cannot be '{name}'", "tcp, udp, ... or a number") from None
            fields["ip_protocol"] = number
        case "sport":
            fields["source_ports"] = reader.range(word, 65535)
        case "dport":
            fields["destination_ports"] = reader.range(word, 65535)
        case "track_group" if reader.static:
            name = reader.next()
            if name in reader.words.context.named("track_group"):
                fields["track_group"] = name
            else:
                reader.words.error(f"track_group '{name}' is not defined before: ignored", "", index=reader.at - 1)
        case _:
            raise reader.fail(f"unknown word '{word}' for a rule")
