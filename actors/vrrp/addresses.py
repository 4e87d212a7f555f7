"""Lines of static_ipaddress, virtual_ipaddress and virtual_ipaddress_excluded (keepalived.conf(5), "Static addresses").

Words stand in any order behind the address; what is not known is reported and left out.
"""

from __future__ import annotations

import ipaddress

from holdfast.config.context import Words
from holdfast.config.kinds import address
from holdfast.config.text import integer
from holdfast.kernel.base import AddressSpec

LONGEST_LABEL = 15
SCOPES = {"global": 0, "universe": 0, "nowhere": 255, "host": 254, "link": 253, "site": 200}

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_prefixed(words: Words, index: int) -> tuple[IpAddress, int] | None:
    """ADDRESS[/PREFIX] at a word: the address and its prefix length (all bits unless given), or None after a complaint.

    A prefix length that is none is reported, and all bits are taken.
    """
    word = words.word(index)
    text, slash, prefix = word.partition("/")
    parsed = address(text)
    if parsed is None:
        words.error(f"'{word}' is no IP address: skipped", "ADDRESS or ADDRESS/PREFIX", index=index)
        return None
    bits = parsed.max_prefixlen
    if not slash:
        return parsed, bits
    number = integer(prefix) if prefix else bits
    if number is None or not 0 <= number <= bits:
        words.error(f"'{word}' has no valid prefix length: {bits} taken", f"0..{bits}", index=index)
        return parsed, bits
    return parsed, number


def scope(words: Words, index: int) -> int | None:
    """A scope by name or number, or None."""
    word = words.word(index)
    names = {**words.context.host.names("rt_scopes"), **SCOPES}
    if word in names:
        return names[word]
    return c_number(word, 255)


def c_number(word: str, high: int) -> int | None:
    """A number in C's notation (0x10 is sixteen, 010 eight) from 0 to high, or None."""
    try:
        number = int(word, 0) if not (word.startswith("0") and word.isdigit()) else int(word, 8)
    except ValueError:
        return None
    return number if 0 <= number <= high and "_" not in word else None


def parse_address(words: Words, *, static: bool, family: int | None) -> AddressSpec | None:
    """One line; None after a complaint when nothing is left of it. family: of the instance, None: any.

    Names of interfaces that do not exist are reported here; which one is the default is the owner's business.
    """
    parsed = parse_prefixed(words, 0)
    if parsed is None:
        return None
    ip, prefix = parsed
    if family is not None and ip.version != family:
        words.error(f"'{ip}' is not of the instance's family: ignored", f"IPv{family} addresses only", index=0)
        return None
    fields: dict[str, object] = {"address": str(ip), "prefix": prefix}
    index = 1
    while index < len(words):
        step = _option(words, index, ip, fields, static=static)
        if step == 0:
            return None
        index += step
    broadcast = fields.get("broadcast")
    if broadcast in ("+", "-"):
        if prefix > 30:
            words.error(f"prefix length {prefix} leaves no broadcast address: 'brd' ignored", "/30 or shorter", index=0)
            del fields["broadcast"]
        else:
            network = ipaddress.IPv4Interface(f"{ip}/{prefix}").network
            fields["broadcast"] = str(network.broadcast_address if broadcast == "+" else network.network_address)
    if ip.version == 6 and "preferred_lft_s" not in fields and prefix == 128:
        # A /128 is deprecated from the start, so that it is never chosen as a source (keepalived.conf(5)).
        fields["preferred_lft_s"] = 0
    fields = {name: value for name, value in fields.items() if not (name == "preferred_lft_s" and value == "forever")}
    return AddressSpec(**fields)  # type: ignore[arg-type]


_FLAGS: dict[str, tuple[str, object]] = {
    "home": ("home", True),
    "-nodad": ("nodad", False),
    "mngtmpaddr": ("mngtmpaddr", True),
    "noprefixroute": ("noprefixroute", True),
    "autojoin": ("autojoin", True),
    "no_track": ("track", False),
}


def _option(words: Words, index: int, ip: IpAddress, fields: dict[str, object], *, static: bool) -> int:
    """One option; returns the number of words it took, or 0 when the address is to be dropped."""
    word = words.items[index]
    if word in _FLAGS:
        name, value = _FLAGS[word]
        fields[name] = value
        return 1
    if word in ("use_vmac",) and not static:
        fields["use_vmac"] = True
        return 1
    takes_value = ("dev", "scope", "brd", "broadcast", "label", "peer", "preferred_lft")
    if word not in takes_value and not (word == "track_group" and static):
        words.error(f"unknown word '{word}' for an address: ignored", "", index=index)
        return 1
    if index + 1 >= len(words):
        words.error(f"'{word}' of '{ip}' lacks a word: address dropped", "", index=index)
        return 0
    value = words.items[index + 1]
    match word:
        case "dev":
            words.context.has_interface(value, words.line, f"for address {ip}", index + 1)
            fields["dev"] = value
        case "scope":
            _scope(words, index + 1, ip, fields)
        case "brd" | "broadcast":
            return _broadcast(words, index + 1, ip, fields)
        case "label":
            return _label(words, index + 1, ip, fields)
        case "peer":
            peer = parse_prefixed(words, index + 1)
            if "/" in value:
                words.warning("a peer with prefix length", "keepalived 2.2.7 takes none", index=index + 1)
            if peer is not None and peer[0].version != ip.version:
                words.error(f"peer '{value}' is not of the family of '{ip}': ignored", "", index=index + 1)
            elif peer is not None:
                fields["peer"] = str(peer[0])
                fields["prefix"] = peer[1]
        case "preferred_lft":
            number = integer(value)
            if value == "forever":
                fields["preferred_lft_s"] = value
            elif number is None or not 0 <= number < 1 << 32:
                words.error(f"preferred_lft cannot be '{value}': ignored", "seconds or forever", index=index + 1)
            else:
                fields["preferred_lft_s"] = number
        case "track_group":
            if value in words.context.named("track_group"):
                fields["track_group"] = value
            else:
                words.error(f"track_group '{value}' is not defined before: ignored", "", index=index + 1)
    return 2


def _scope(words: Words, index: int, ip: IpAddress, fields: dict[str, object]) -> None:
    if ip.version == 6:
        words.error(f"an IPv6 address has no scope of its own: ignored for '{ip}'", "", index=index)
        return
    number = scope(words, index)
    if number is None:
        hint = "global, link, host, site, nowhere, or a number"
        words.error(f"'{words.items[index]}' is no scope: ignored", hint, index=index)
        return
    fields["scope"] = number


def _broadcast(words: Words, index: int, ip: IpAddress, fields: dict[str, object]) -> int:
    word = words.items[index]
    if ip.version == 6:
        words.error(f"IPv6 has no broadcast: '{ip}' dropped", "", index=index)
        return 0
    if word in ("+", "-"):
        fields["broadcast"] = word
    elif isinstance(parsed := address(word), ipaddress.IPv4Address):
        fields["broadcast"] = str(parsed)
    else:
        words.error(f"'{word}' is no broadcast address: ignored", "an IPv4 address, + or -", index=index)
    return 2


def _label(words: Words, index: int, ip: IpAddress, fields: dict[str, object]) -> int:
    word = words.items[index]
    if ip.version == 6:
        words.error(f"an IPv6 address has no label: ignored for '{ip}'", "", index=index)
    elif len(word) > LONGEST_LABEL:
        hint = f"at most {LONGEST_LABEL} characters"
        words.error(f"label '{word}' is too long: address dropped", hint, index=index)
        return 0
    else:
        fields["label"] = word
    return 2
