"""Lines of static_routes and virtual_routes, in the words of ip-route(8) (keepalived.conf(5), "Static routes")."""

from __future__ import annotations

import ipaddress
import re

from holdfast.actors.vrrp.addresses import c_number, parse_prefixed, scope
from holdfast.config.context import MissingWord, Words
from holdfast.config.kinds import address
from holdfast.config.text import integer
from holdfast.kernel.base import NextHop, RouteSpec

RTPROT_KEEPALIVED = 18
TYPES = (
    "unicast local broadcast anycast multicast throw unreachable prohibit blackhole nat".split()  # noqa: SIM905
)
PROTOCOLS = {"unspec": 0, "redirect": 1, "kernel": 2, "boot": 3, "static": 4, "ra": 9, "keepalived": 18}
TABLES = {"default": 253, "main": 254, "local": 255}
ANYWHERE = ("default", "any", "all", "default6")
_UINT32 = (1 << 32) - 1
_METRICS = {"mtu", "advmss", "rtt", "rttvar", "reordering", "cwnd", "ssthresh", "rto_min", "congctl"}
_PLAIN_METRICS = {"hoplimit": 255, "window": _UINT32, "initcwnd": _UINT32, "initrwnd": _UINT32, "quickack": 1}
_PLAIN_METRICS["fastopen_no_cookie"] = 1
_TIME = re.compile(r"(\d+)(s|ms)?\Z")
_ENCAP_WORDS = ("id", "dst", "src", "tos", "ttl", "hoplimit", "tc", "flags")


class _Drop(Exception):
    """The line gives no route; it has been said why."""


class _Reader:
    """Reads one line, word by word."""

    def __init__(self, words: Words, *, static: bool) -> None:
        self.words = words
        self.static = static
        self.at = 0
        self.family: int | None = None
        self.fields: dict[str, object] = {}
        self.metrics: list[tuple[str, str, bool]] = []
        self.hops: list[NextHop] = []

    def next(self) -> str:
        word = self.words.word(self.at)
        self.at += 1
        return word

    def peek(self) -> str:
        return self.words.items[self.at] if self.at < len(self.words) else ""

    def fail(self, text: str, hint: str = "") -> None:
        self.words.error(text, hint, index=self.at - 1)

    def ip(self, what: str, *, prefixed: bool = False) -> str:
        """An address at the next word, of the family of the others."""
        if self.peek() in ("inet", "inet6"):
            family = 4 if self.next() == "inet" else 6
            self.same_family(family, what)
        word = self.next()
        if prefixed:
            parsed = parse_prefixed(self.words, self.at - 1)
            if parsed is None:
                raise _Drop
            self.same_family(parsed[0].version, what)
            return str(ipaddress.ip_network(f"{parsed[0]}/{parsed[1]}", strict=False))
        ip = address(word.partition("/")[0])
        if ip is None:
            self.fail(f"'{word}' is no IP address for '{what}': route dropped")
            raise _Drop
        self.same_family(ip.version, what)
        return str(ip)

    def same_family(self, family: int, what: str) -> None:
        if self.family not in (None, family):
            self.fail(f"IPv4 and IPv6 are mixed at '{what}': route dropped")
            raise _Drop
        self.family = family

    def number(self, what: str, high: int) -> int | None:
        word = self.next()
        number = integer(word)
        if number is None or not 0 <= number <= high or "-" in word:
            self.fail(f"'{what}' cannot be '{word}': ignored", f"0..{high}")
            return None
        return number

    def named(self, what: str, table: str, builtin: dict[str, int], high: int) -> int | None:
        word = self.next()
        names = {**builtin, **self.words.context.host.names(table)}
        number = names.get(word, c_number(word, high))
        if number is None:
            self.fail(f"'{what}' cannot be '{word}': ignored", "a number or a name that iproute2 knows")
        return number

    def put(self, field: str, value: object) -> None:
        if value is not None:
            self.fields[field] = value

    def realms(self) -> str | None:
        word = self.next()
        names = self.words.context.host.names("rt_realms")
        parts = word.split("/")
        if len(parts) > 2 or any(part not in names and c_number(part, 65535) is None for part in parts):
            self.fail(f"'{word}' is no realm: ignored", "REALM or FROM/TO")
            return None
        return word

    def encap(self) -> tuple[str, ...]:
        kind = self.next()
        if kind in ("mpls", "ila"):
            return (kind, self.next())
        if kind not in ("ip", "ip6"):
            self.fail(f"'{kind}' is no encapsulation: route dropped", "mpls, ip, ip6 or ila")
            raise _Drop
        words = [kind]
        while self.peek() in _ENCAP_WORDS:
            words += [self.next(), self.next()]
        return tuple(words)

    def interface(self) -> str:
        name = self.next()
        self.words.context.has_interface(name, self.words.line, "of a route", self.at - 1)
        return name


def parse_route(words: Words, *, static: bool) -> RouteSpec | None:
    """One line; None after a complaint when nothing is left of it."""
    reader = _Reader(words, static=static)
    try:
        while reader.at < len(words):
            _word(reader)
    except _Drop:
        return None
    fields = reader.fields
    if "destination" not in fields:
        words.error("a route needs a destination: dropped", "ADDRESS/PREFIX or default", index=0)
        return None
    if reader.family == 6 or fields.get("family") == 6:
        fields["family"] = 6
    else:
        for name in ("preference", "expires_s", "from_"):
            if name in fields:
                words.error(f"'{name.split('_')[0]}' is only for IPv6: ignored", "", index=0)
                del fields[name]
        if fields.pop("family", None) == 6 and reader.family == 4:
            words.error("IPv4 addresses in an IPv6 route: dropped", "", index=0)
            return None
    _tracking(words, fields)
    return RouteSpec(metrics=tuple(reader.metrics), next_hops=tuple(reader.hops), **fields)  # type: ignore[arg-type]


def _tracking(words: Words, fields: dict[str, object]) -> None:
    """Only a route of our own protocol through a named interface can be tracked."""
    if fields.get("track") is False:
        return
    if fields.get("protocol", RTPROT_KEEPALIVED) != RTPROT_KEEPALIVED:
        hint = "no_track allows another protocol"
        words.error("a tracked route has protocol 18: another one is not used", hint, index=0)
        del fields["protocol"]
    if not fields.get("dev"):
        words.error(f"route {fields['destination']} names no interface and is not tracked", "dev, or no_track", index=0)
        fields["track"] = False


def _word(reader: _Reader) -> None:
    word = reader.next()
    if word in _METRICS or word in _PLAIN_METRICS:
        _metric(reader, word)
        return
    if word in TYPES:
        reader.put("type", word)
        return
    match word:
        case "to":
            _destination(reader, reader.next())
        case "inet" | "inet6":
            hint = "keepalived 2.2.7 loses the word behind it"
            reader.words.warning(f"'{word}' before a destination", hint, index=reader.at - 1)
            reader.put("family", 4 if word == "inet" else 6)
        case "via" | "gw":
            if word == "gw":
                reader.words.warning("'gw' is deprecated", "use via", index=reader.at - 1)
            reader.put("via", reader.ip(word))
        case "or":
            hint = "use nexthop"
            reader.words.warning("'or' is deprecated", hint, index=reader.at - 1)
            reader.hops.append(NextHop(via=reader.ip(word)))
        case "src":
            reader.put("source", reader.ip(word))
        case "from":
            reader.put("from_", reader.ip(word, prefixed=True))
        case "dev" | "oif":
            reader.put("dev", reader.interface())
        case "tos" | "dsfield":
            reader.put("tos", reader.named(word, "rt_dsfield", {}, 255))
        case "table":
            reader.put("table", reader.named(word, "rt_tables", TABLES, _UINT32))
        case "protocol":
            reader.put("protocol", reader.named(word, "rt_protos", PROTOCOLS, 255))
        case "scope":
            reader.next()
            number = scope(reader.words, reader.at - 1)
            if number is None:
                reader.fail(f"'{reader.words.items[reader.at - 1]}' is no scope: ignored")
            reader.put("scope", number)
        case "metric" | "priority" | "preference":
            reader.put("metric", reader.number(word, _UINT32))
        case "onlink":
            reader.put("onlink", True)
        case "nexthop":
            _next_hops(reader)
        case _:
            _rarer_word(reader, word)


def _rarer_word(reader: _Reader, word: str) -> None:
    match word:
        case "vrf":
            name = reader.next()
            reader.fail(f"VRF '{name}' is not found: ignored")
        case "realms":
            reader.put("realms", reader.realms())
        case "as":
            if reader.peek() == "to":
                reader.next()
            if reader.peek() == "via":
                reader.next()
                reader.next()
            reader.fail("'as to' is for MPLS only: ignored")
            reader.at = min(reader.at + 1, len(reader.words))
        case "encap":
            reader.put("encap", reader.encap())
        case "expires":
            reader.put("expires_s", reader.number(word, _UINT32))
        case "pref":
            value = reader.next()
            if value not in ("low", "medium", "high") and c_number(value, 3) is None:
                reader.fail(f"'pref' cannot be '{value}': ignored", "low, medium or high")
            else:
                reader.put("preference", value)
        case "features":
            value = reader.next()
            if value != "ecn":
                reader.fail(f"feature '{value}' is not known: ignored", "ecn")
            else:
                reader.put("features", ("ecn",))
        case "ttl-propagate":
            value = reader.next()
            if value not in ("enabled", "disabled"):
                reader.fail(f"'ttl-propagate' cannot be '{value}': ignored", "enabled or disabled")
            else:
                reader.put("ttl_propagate", value == "enabled")
        case "add" | "append" | "prepend":
            reader.put("mode", word)
        case "no_track":
            reader.put("track", False)
        case "track_group" if reader.static:
            name = reader.next()
            if name in reader.words.context.named("track_group"):
                reader.put("track_group", name)
            else:
                reader.fail(f"track_group '{name}' is not defined before: ignored")
        case _:
            _destination(reader, word)


def _destination(reader: _Reader, word: str) -> None:
    """What is no keyword is the destination."""
    if "destination" in reader.fields:
        reader.fail(f"unknown word '{word}' for a route: dropped")
        raise _Drop
    if word in ANYWHERE:
        reader.put("destination", "default")
        if word == "default6":
            reader.same_family(6, word)
        return
    reader.at -= 1
    try:
        reader.put("destination", reader.ip(word, prefixed=True))
    except MissingWord:
        raise _Drop from None


def _metric(reader: _Reader, word: str) -> None:
    locked = word in _METRICS and reader.peek() == "lock"
    if locked:
        reader.next()
    if word == "congctl":
        reader.metrics.append((word, reader.next(), locked))
        return
    if word in ("rtt", "rttvar", "rto_min"):
        value = reader.next()
        if _TIME.match(value) is None:
            reader.fail(f"'{word}' cannot be '{value}': ignored", "a number, with s or ms")
            return
        reader.metrics.append((word, value, locked))
        return
    number = reader.number(word, _PLAIN_METRICS.get(word, _UINT32))
    if number is not None:
        reader.metrics.append((word, str(number), locked))


def _next_hops(reader: _Reader) -> None:
    """`nexthop via A dev IF weight N ... nexthop ...` to the end of the line."""
    while True:
        fields: dict[str, object] = {}
        while (word := reader.peek()) and word != "nexthop":
            reader.next()
            match word:
                case "via":
                    fields["via"] = reader.ip(word)
                case "dev":
                    fields["dev"] = reader.interface()
                case "weight":
                    value = reader.next()
                    number = integer(value)
                    if number is None or not 1 <= number <= 256:
                        reader.fail(f"'weight' cannot be '{value}': 1 taken", "1..256")
                    else:
                        fields["weight"] = number
                case "onlink":
                    fields["onlink"] = True
                case "encap":
                    fields["encap"] = reader.encap()
                case "realms":
                    fields["realms"] = reader.realms()
                case "no_track":
                    reader.put("track", False)
                case _:
                    reader.fail(f"unknown word '{word}' behind nexthop: the rest is ignored")
                    reader.at = len(reader.words)
        reader.hops.append(NextHop(**fields))  # type: ignore[arg-type]
        if not reader.peek():
            return
        reader.next()
