"""The checkers room's keywords (keepalived.conf(5)): the check blocks of a real_server, and SSL.

A check block fills a `Draft` in its real server's list `checks`; build.py makes Structs of them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from holdfast.actors.checkers import build
from holdfast.config.context import Context, Words
from holdfast.config.global_defs import RequiredWord, User
from holdfast.config.kinds import Block, Bool, Command, Custom, Flag, Integer, Time, Value, Word, host_address
from holdfast.config.table import Draft, Keyword, Kind, Room, Status
from holdfast.config.text import integer, split_plain
from holdfast.config.values import Script

_UINT32 = (1 << 32) - 1
_INT32 = (1 << 31) - 1
FOREVER = 18446744073709.551614
TIMEOUT = Time(0.000001, 4294.967295)
DELAY = Time(0, FOREVER)
LOOP = Time(0.000001, FOREVER)
LONGEST_INTERFACE = 15

QUERY_TYPES = ("A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA", "RRSIG", "DNSKEY")
_STATUS = re.compile(r"([0-9]{3})(?:-([0-9]{3}))?\Z")


class IpAddress(Value):
    """An IP address; a prefix length behind it is ignored, as keepalived does."""

    shape = "ADDRESS"

    def read(self, words: Words, index: int = 1) -> str | None:
        """The address as text, or None after a complaint."""
        word = words.word(index)
        ip = host_address(word)
        if ip is None:
            words.error(f"'{words.items[0]}' cannot be '{word}': ignored", "an IP address", index=index)
            return None
        return ip[0]


def _bind_address(words: Words, draft: Draft) -> None:
    bind = IpAddress().read(words)
    if bind is None:
        return
    target = draft.get("connect_ip") or (draft.parent.get("address") if draft.parent else None)
    if target is not None and (":" in target) != (":" in bind):
        words.error(f"bindto '{bind}' is not of the family of {target}: ignored", "the same family", index=1)
        return
    draft.put("bind_address", bind, words.line)


def _bind_interface(words: Words, draft: Draft) -> None:
    name = words.word()
    if len(name) > LONGEST_INTERFACE:
        words.error(f"interface name '{name}' is too long: ignored", f"at most {LONGEST_INTERFACE}", index=1)
        return
    draft.put("bind_interface", name, words.line)


def _fwmark_hint(words: Words, draft: Draft) -> None:
    number = Integer(0, _UINT32).read(words)
    if number is not None:
        draft.put("fwmark", number, words.line)


def _common() -> tuple[Keyword, ...]:
    """What all checks but BFD_CHECK and FILE_CHECK know."""
    return (
        Keyword("retry", Integer(0, _UINT32), "failures that are forgiven after the first"),
        Keyword("delay_before_retry", DELAY, "time before a failed check is repeated", field="delay_before_retry_us"),
        Keyword("warmup", DELAY, "the first check comes within it", field="warmup_us"),
        Keyword("delay_loop", LOOP, "time between checks", field="delay_loop_us"),
        Keyword("alpha", Bool(), "counts as failed until it succeeds"),
        Keyword("log_all_failures", Bool(), "reports every failure"),
    )


def _network(deprecated: str = "") -> tuple[Keyword, ...]:
    """What checks over the network know besides."""
    listed = (
        ("connect_ip", IpAddress(), "whom to check", "connect_ip"),
        ("connect_port", Integer(1, 65535), "which port", "connect_port"),
        ("bindto", Custom(_bind_address, "ADDRESS"), "source address", "bind_address"),
        ("bind_port", Integer(1, 65535), "source port", "bind_port"),
        ("bind_if", Custom(_bind_interface, "INTERFACE"), "through which interface", "bind_interface"),
        ("connect_timeout", TIMEOUT, "patience", "timeout_us"),
        ("fwmark", Custom(_fwmark_hint, "0..4294967295"), "mark of our packets", "fwmark"),
    )
    plain = tuple(Keyword(name, kind, doc, field=field) for name, kind, doc, field in listed)
    return (*plain, *_common())


# -- opening and closing of check blocks -------------------------------------------------------------------------------


def _open(kind: str) -> Callable[[Words, Draft], Draft]:
    def opener(words: Words, server: Draft) -> Draft:
        draft = Draft(words.line, kind, server)
        server.values.setdefault("checks", []).append(draft)
        return draft

    return opener


def _drop(draft: Draft) -> None:
    assert draft.parent is not None
    draft.parent.values["checks"].remove(draft)


def _close_network(draft: Draft, context: Context) -> None:
    """A link-local target needs an interface."""
    target = draft.get("connect_ip") or (draft.parent.get("address") if draft.parent else None)
    if target is None or draft.has("bind_interface") or ":" not in target:
        return
    if ipaddress.ip_address(target).is_link_local:
        context.error(draft.line, f"{draft.name} of link-local {target} needs an interface: dropped", "bind_if IF")
        _drop(draft)


def _close_http(draft: Draft, context: Context) -> None:
    if not draft.get("urls"):
        context.error(draft.line, f"{draft.name} has no url: dropped", "url { path /... }")
        _drop(draft)
        return
    _close_network(draft, context)


def _open_url(words: Words, check: Draft) -> Draft:
    return Draft(words.line, "url", check)


def _close_url(url: Draft, context: Context) -> None:
    if not url.has("path"):
        context.error(url.line, "a url without path: dropped", "path /...")
        return
    assert url.parent is not None
    url.parent.append("urls", url)


def _digest(words: Words, draft: Draft) -> None:
    word = words.word()
    hint = "32 hexadecimal digits"
    if draft.has("digest"):
        words.error(f"a second digest '{word}': ignored", "one digest for each url", index=1)
    elif len(word) != 32:
        words.error(f"digest '{word}' has {len(word)} digits: ignored", hint, index=1)
    elif re.fullmatch("[0-9a-fA-F]{32}", word) is None:
        words.error(f"digest '{word}' is not hexadecimal: ignored", hint, index=1)
    else:
        draft.put("digest", word.lower(), words.line)


def _status_codes(words: Words, draft: Draft) -> None:
    for index in range(1, len(words)):
        word = words.items[index]
        match = _STATUS.match(word)
        low = int(match.group(1)) if match else 0
        high = int(match.group(2) or low) if match else 0
        if not 100 <= low <= high <= 599:
            words.error(f"'{word}' is no status code: ignored", "100..599, or FROM-TO", index=index)
            continue
        draft.append("status_codes", (low, high))


def _regex_number(field: str) -> Custom:
    """Numbers around a regex: keepalived 2.2.7 does not complain of them, so neither does the verdict."""

    def read(words: Words, draft: Draft) -> None:
        numbers = [integer(word) for word in words.items[1:]]
        wanted = 2 if field == "regex_stack" else 1
        if len(numbers) < wanted or any(number is None or number < 0 for number in numbers[:wanted]):
            words.note(f"'{field}' cannot be '{' '.join(words.items[1:])}': ignored", "whole numbers", index=1)
            return
        draft.put(field, tuple(numbers[:wanted]) if wanted == 2 else numbers[0], words.line)

    return Custom(read, "START MAX" if field == "regex_stack" else "NUMBER")


def _regex(words: Words, draft: Draft) -> None:
    items = split_plain(words.line.text)
    if len(items) < 2:
        words.note("'regex' lacks its pattern: ignored", 'regex "PATTERN"', index=1)
        return
    draft.put("regex", items[1], words.line)


def _regex_options(words: Words, draft: Draft) -> None:
    for index in range(1, len(words)):
        if words.items[index] not in build.REGEX_OPTIONS:
            words.note(f"'{words.items[index]}' is no regex option: ignored", "", index=index)
            continue
        draft.append("regex_options", words.items[index])


def _protocol(words: Words, draft: Draft) -> None:
    word = words.word().upper()
    if word not in ("1.0", "1.0C", "1.1"):
        words.error(f"http_protocol cannot be '{words.items[1]}': ignored", "1.0, 1.0C or 1.1", index=1)
        return
    draft.put("protocol", word, words.line)


def _query_type(words: Words, draft: Draft) -> None:
    word = words.word().upper()
    if word not in QUERY_TYPES:
        words.error(f"'{words.items[1]}' is no type that DNS_CHECK asks for: ignored", " ".join(QUERY_TYPES), index=1)
        return
    draft.put("query_type", word, words.line)


def _query_name(words: Words, draft: Draft) -> None:
    word = words.word()
    labels = word.rstrip(".").split(".") if word != "." else []
    if any(not label for label in labels) or word.endswith(".."):
        words.error(f"name '{word}' has an empty label: ignored", "a host name", index=1)
        return
    if any(len(label.encode()) > 63 for label in labels) or len(word.encode()) > 253:
        words.note(f"name '{word}' has a label that is too long: ignored", "at most 63 characters each", index=1)
        return
    draft.put("query_name", word, words.line)


class MiscPath(Command):
    """The command of MISC_CHECK; its user stands in a keyword of its own."""

    shape = '"PROGRAM [ARGUMENTS]"'

    def read(self, words: Words, index: int = 1) -> Script | None:
        """The script, or None: a missing one is complained of at the end of the block."""
        script: Script | None = None
        if len(words) > 1:
            script = super().read(words, index)
        return script if script is not None and script.argv else None


def _user(words: Words, draft: Draft) -> None:
    user = User().read(words)
    draft.values["bad_user"] = user is None
    draft.put("user", user, words.line)


def _close_misc(draft: Draft, context: Context) -> None:
    if not draft.has("script"):
        context.error(draft.line, "MISC_CHECK has no script: dropped", 'misc_path "PROGRAM"')
        _drop(draft)
    elif draft.get("bad_user"):
        _drop(draft)


def _hex(words: Words, draft: Draft) -> None:
    text = "".join("".join(words.items[1:]).split())
    if not text:
        words.error("'payload' lacks its bytes: ignored", "hexadecimal digits", index=1)
        return
    if re.fullmatch("[0-9a-fA-F]+", text) is None:
        words.error(f"payload '{text}' is not hexadecimal: ignored", "hexadecimal digits", index=1)
        return
    draft.put("payload", bytes.fromhex(text + "0" * (len(text) % 2)), words.line)


def _require_reply(words: Words, draft: Draft) -> None:
    """`require_reply [HEX]`; x stands for any four bits."""
    draft.put("require_reply", True, words.line)
    text = "".join("".join(words.items[1:]).split())
    if not text:
        return
    if re.fullmatch("[0-9a-fA-FxX]+", text) is None:
        words.error(f"reply '{text}' is not hexadecimal: ignored", "hexadecimal digits, x for any", index=1)
        return
    text += "x" * (len(text) % 2)
    wild = re.compile("[xX]")
    draft.put("reply", bytes.fromhex(wild.sub("0", text)), words.line)
    draft.put("reply_mask", bytes.fromhex(wild.sub("0", re.sub("[0-9a-fA-F]", "f", text))), words.line)


def _close_udp(draft: Draft, context: Context) -> None:
    low, high = draft.get("min_reply_length", 0), draft.get("max_reply_length", 255)
    if low > high:
        line = draft.line_of("min_reply_length")
        context.error(line, f"min_reply_length {low} is above max_reply_length {high}: always fails", f"0..{high}", 1)
    _close_network(draft, context)


class FileWeight(Kind):
    """WEIGHT [reverse|noreverse] of a FILE_CHECK."""

    shape = f"-{_INT32}..{_INT32} [reverse|noreverse]"

    def take(self, words: Words, keyword: Keyword, draft: Draft) -> None:
        """Fills `weight` with (weight, reverse?)."""
        number = Integer(-_INT32, _INT32).read(words)
        word = words.items[2] if len(words) > 2 else "noreverse"
        if word not in ("reverse", "noreverse"):
            words.error(f"unknown word '{word}' behind the weight: ignored", "reverse or noreverse", index=2)
        if number is not None:
            draft.put("weight", (number, word == "reverse"), words.line)


def _track_file(words: Words, draft: Draft) -> None:
    name = words.word()
    if name not in words.context.named("track_file"):
        words.error(f"track_file '{name}' is not defined before: ignored", f"track_file {name} {{ ... }}", index=1)
        return
    draft.put("track_file", name, words.line)


def _close_file(draft: Draft, context: Context) -> None:
    if not draft.has("track_file"):
        context.error(draft.line, "FILE_CHECK has no track_file: dropped", "track_file NAME")
        _drop(draft)


def _bfd_name(words: Words, draft: Draft) -> None:
    name = words.word()
    session = words.context.named("bfd_instance").get(name)
    others = draft.parent.get("checks", []) if draft.parent else []
    if session is None or (session.get("vrrp") and not session.get("checker")):
        words.error(f"bfd_instance '{name}' is not defined for checkers: ignored", "defined before", index=1)
    elif any(other is not draft and other.get("instance") == name for other in others):
        words.error(f"bfd_instance '{name}' is followed already: ignored", "once for each real_server", index=1)
    else:
        draft.put("instance", name, words.line)


def _close_bfd(draft: Draft, context: Context) -> None:
    if not draft.has("instance"):
        context.error(draft.line, "BFD_CHECK has no bfd_instance: dropped", "name BFD_INSTANCE")
        _drop(draft)


def _open_host(words: Words, check: Draft) -> Draft:
    draft = Draft(words.line, "host", check.parent)
    check.append("hosts", draft)
    return draft


# -- tables ------------------------------------------------------------------------------------------------------------

_URL = (
    Keyword("path", Word("PATH"), "what is fetched"),
    Keyword("digest", Custom(_digest, "MD5"), "MD5 of the body"),
    Keyword("status_code", Custom(_status_codes, "CODE|FROM-TO ..."), "good status codes; 200-299 unless given"),
    Keyword("virtualhost", RequiredWord("NAME"), "the Host header"),
    Keyword("regex", Custom(_regex, '"PATTERN"'), "what the body must have"),
    Keyword("regex_no_match", Flag(), "what the body must not have"),
    Keyword("regex_options", Custom(_regex_options, "OPTION ..."), "PCRE2 options"),
    Keyword("regex_min_offset", _regex_number("regex_min_offset"), "where the match may start at the earliest"),
    Keyword("regex_max_offset", _regex_number("regex_max_offset"), "where it may start at the latest"),
    Keyword("regex_stack", _regex_number("regex_stack"), "memory of PCRE2's JIT", status=Status.NEVER),
)
_TLS_URL = (*_URL, Keyword("tls_compliant", Bool(), "takes leave as TLS wants", newer=True))


def _web(url: tuple[Keyword, ...]) -> tuple[Keyword, ...]:
    return (
        *_network(),
        Keyword("nb_get_retry", Integer(0, _UINT32), "as retry", field="retry", deprecated="retry", loud=True),
        Keyword("virtualhost", RequiredWord("NAME"), "the Host header"),
        Keyword("http_protocol", Custom(_protocol, "1.0|1.0C|1.1"), "HTTP version"),
        Keyword("enable_sni", Bool(), "sends the name in TLS"),
        Keyword("sni_name", Word("NAME"), "which name", newer=True),
        Keyword("fast_recovery", Bool(), "does not wait between urls"),
        Keyword("url", Block(url, _open_url, _close_url), "a page"),
    )


CHECKS = (
    Keyword("TCP_CHECK", Block(_network(), _open("TCP_CHECK"), _close_network), "connects"),
    Keyword("HTTP_GET", Block(_web(_URL), _open("HTTP_GET"), _close_http), "fetches pages"),
    Keyword(
        "SSL_GET",
        Block(
            (*_web(_TLS_URL), Keyword("tls_compliant", Bool(), "takes leave as TLS wants", newer=True)),
            _open("SSL_GET"),
            _close_http,
        ),
        "fetches pages over TLS",
    ),
    Keyword(
        "SMTP_CHECK",
        Block(
            (
                Keyword("helo_name", RequiredWord("NAME"), "our name in HELO"),
                *_network(),
                Keyword(
                    "host",
                    Block(_network(), _open_host),
                    "another target",
                    deprecated="an SMTP_CHECK for each host",
                ),
            ),
            _open("SMTP_CHECK"),
            _close_network,
        ),
        "speaks SMTP",
    ),
    Keyword(
        "DNS_CHECK",
        Block(
            (
                *_network(),
                Keyword("type", Custom(_query_type, "|".join(QUERY_TYPES)), "what is asked for"),
                Keyword("name", Custom(_query_name, "NAME"), "whose"),
            ),
            _open("DNS_CHECK"),
            _close_network,
        ),
        "asks over UDP",
    ),
    Keyword(
        "UDP_CHECK",
        Block(
            (
                *_network(),
                Keyword("payload", Custom(_hex, "HEX"), "what is sent"),
                Keyword("require_reply", Custom(_require_reply, "[HEX]"), "silence is failure"),
                Keyword("min_reply_length", Integer(0, 65535), "shortest good reply"),
                Keyword("max_reply_length", Integer(0, 65535), "longest good reply"),
            ),
            _open("UDP_CHECK"),
            _close_udp,
        ),
        "sends a datagram",
    ),
    Keyword("PING_CHECK", Block(_network(), _open("PING_CHECK"), _close_network), "sends an ICMP echo"),
    Keyword(
        "MISC_CHECK",
        Block(
            (
                *_common(),
                Keyword("misc_path", MiscPath(users=False), "the program", field="script"),
                Keyword("misc_timeout", Time(0, 4294, places=0), "how long it may run", field="timeout_us"),
                Keyword("misc_dynamic", Flag(), "its exit status gives the weight"),
                Keyword("user", Custom(_user, "USER [GROUP]"), "whom it runs as"),
            ),
            _open("MISC_CHECK"),
            _close_misc,
        ),
        "runs a program",
    ),
    Keyword(
        "FILE_CHECK",
        Block(
            (
                Keyword("track_file", Custom(_track_file, "NAME"), "the track_file to look at"),
                Keyword("weight", FileWeight(), "factor of its number"),
            ),
            _open("FILE_CHECK"),
            _close_file,
        ),
        "follows a number in a file",
    ),
    Keyword(
        "BFD_CHECK",
        Block(
            (
                Keyword("name", Custom(_bfd_name, "NAME"), "the bfd_instance to follow"),
                Keyword("alpha", Bool(), "counts as failed until it is Up"),
            ),
            _open("BFD_CHECK"),
            _close_bfd,
        ),
        "follows a BFD session",
    ),
)

_SSL = tuple(
    Keyword(name, RequiredWord(shape), doc)
    for name, shape, doc in (
        ("password", "WORD", "password of the key"),
        ("ca", "FILE", "certificates of authorities"),
        ("certificate", "FILE", "our certificate"),
        ("key", "FILE", "our key"),
    )
)


def _open_ssl(words: Words, parent: Draft) -> Draft:
    blocks = words.context.named("SSL")
    if "SSL" in blocks:
        words.error("a second SSL block replaces the first", "one SSL block", index=0)
    blocks["SSL"] = Draft(words.line, "SSL", parent)
    return blocks["SSL"]


CHECKERS = Room(
    "checkers",
    root=(Keyword("SSL", Block(_SSL, _open_ssl), "our certificate for SSL_GET"),),
    global_defs=(Keyword("checker_log_all_failures", Bool(), "reports every failure of every check"),),
    finish=build.finish,
)
