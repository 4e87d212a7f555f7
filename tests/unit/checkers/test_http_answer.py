"""The judge of HTTP answers without a socket: pieces of any size, any bytes; PCRE2 options."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.actors.checkers.answer import AnswerReader
from holdfast.actors.checkers.base import Outcome, Verdict
from holdfast.actors.checkers.config import HttpUrl, Regex
from holdfast.actors.checkers.pattern import Pattern, PatternError
from holdfast.actors.checkers.pcre2 import OPTIONS

BODY = b"one two three\r\n\r\nfour\n\nfive"
ANSWER = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
URL = HttpUrl(path="/", digest=hashlib.md5(BODY).hexdigest(), regex=Regex(pattern="three\\s+four"))


def read(url: HttpUrl, *pieces: bytes) -> Outcome:
    reader = AnswerReader(url, None if url.regex is None else Pattern(url.regex))
    for piece in pieces:
        outcome = reader.feed(piece)
        if outcome is not None:
            return outcome
    return reader.end()


@given(st.lists(st.integers(0, len(ANSWER)), max_size=12))
def test_pieces_make_no_difference(cuts: list[int]):
    places = [0, *sorted(cuts), len(ANSWER)]
    pieces = [ANSWER[low:high] for low, high in itertools.pairwise(places)]
    outcome = read(URL, *pieces)
    assert outcome.verdict is Verdict.OK, outcome.text
    assert outcome.text == "/: status 200, digest matches, regex matches at 8"


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_any_bytes_give_a_verdict(pieces: list[bytes]):
    assert read(URL, *pieces).verdict in (Verdict.OK, Verdict.FAILED)


@given(st.binary(max_size=100), st.binary(max_size=300))
def test_any_header_gives_a_verdict(status: bytes, rest: bytes):
    outcome = read(HttpUrl(path="/"), b"HTTP/1.1 " + status + b"\r\n" + rest + b"\r\n\r\n")
    assert outcome.verdict in (Verdict.OK, Verdict.FAILED)


@pytest.mark.parametrize(
    ("low", "high", "status", "good"),
    [
        (200, 299, 200, True),
        (200, 299, 299, True),
        (200, 299, 300, False),
        (100, 599, 599, True),
        (404, 404, 404, True),
    ],
)
def test_status_ranges_include_both_ends(low: int, high: int, status: int, good: bool):
    url = HttpUrl(path="/", status_codes=((low, high),))
    outcome = read(url, b"HTTP/1.0 %d X\r\n\r\n" % status)
    assert (outcome.verdict is Verdict.OK) is good


MATCHES = [
    # options, pattern, body, where
    ((), "b+", b"abbb", 1),
    ((), "B+", b"abbb", -1),
    (("caseless",), "B+", b"abbb", 1),
    ((), "a.b", b"a\nb", -1),
    (("dotall",), "a.b", b"a\nb", 0),
    ((), "^b$", b"a\nb\n", -1),
    (("multiline",), "^b$", b"a\nb\n", 2),
    ((), "b$", b"ab\n", 1),
    (("dollar_endonly",), "b$", b"ab\n", -1),
    (("extended",), "a b # comment", b"ab", 0),
    (("firstline",), "b", b"a\nb", -1),
    (("firstline",), "a", b"xa\nb", 1),
    ((), "(?<n>a)(?<m>b)\\k<n>", b"aba", 0),
    (("dupnames",), "(?<n>a)|(?<n>b)", b"b", 0),
    (("match_unset_backref",), "(a)?b\\1c", b"bc", 0),
    ((), "(a)?b\\1c", b"bc", -1),
    (("allow_empty_class",), "[]|z", b"z", 0),
    (("no_auto_capture",), "(a)(b)", b"ab", 0),
    (("ungreedy",), "^a+?$", b"aaa", 0),
    (("utf",), "^.$", "é".encode(), 0),
    ((), "^.$", "é".encode(), -1),
    (("utf", "caseless"), "É", "é".encode(), 0),
    (("utf", "ucp"), "^\\w$", "é".encode(), 0),
    (("utf",), "^\\w$", "é".encode(), -1),
    (("alt_bsux",), "\\x41", b"A", 0),
    (("multiline", "alt_circumflex"), "^\\z", b"a\n", 2),
    (("multiline",), "^\\z", b"a\n", -1),
    (("alt_verbnames",), "a(*MARK:\\x{41})b", b"ab", 0),
    (("no_auto_possess", "no_dotstar_anchor", "no_start_optimize", "auto_callout", "use_offset_limit"), "a", b"ba", 1),
    (("never_utf", "never_ucp", "never_backslash_c"), "a", b"ba", 1),
    ((), "(?i)AB", b"ab", 0),
    ((), "\\Qa.b\\E", b"a.b", 0),
    ((), "(?<=x)y", b"xy", 1),
    ((), "a++b", b"aab", 0),
    ((), "(\\((?:[^()]|(?1))*\\))$", b"x(a(b)c)", 1),
    ((), "\\h\\R", b" \r\n", 0),
    ((), "[[:alpha:]]+\\d{2,}", b"ab12", 0),
    ((), "", b"", 0),
]


@pytest.mark.parametrize(("options", "pattern", "body", "where"), MATCHES)
def test_options_mean_what_pcre2_says(options: tuple[str, ...], pattern: str, body: bytes, where: int):
    assert Pattern(Regex(pattern=pattern, options=options)).search(body).start == where


def test_every_option_is_tried_above():
    tried = {option for options, *_ in MATCHES for option in options}
    assert tried == set(OPTIONS)


@pytest.mark.parametrize(
    ("pattern", "options"),
    [("(", ()), ("[]", ()), ("(?<n>a)(?<n>b)", ()), ("(*UTF)a", ("never_utf",)), ("a", ("no_such_option",))],
)
def test_what_pcre2_refuses(pattern: str, options: tuple[str, ...]):
    with pytest.raises(PatternError):
        Pattern(Regex(pattern=pattern, options=options))


@pytest.mark.parametrize(
    ("low", "high", "where"),
    [(0, 0, 2), (2, 0, 2), (3, 0, 7), (8, 0, -1), (99, 0, -1), (0, 2, 2), (0, 1, -1), (3, 6, -1), (3, 7, 7)],
)
def test_offsets_limit_where_a_match_starts(low: int, high: int, where: int):
    found = Pattern(Regex(pattern="ab", min_offset=low, max_offset=high)).search(b"..ab...ab")
    assert found.start == where


def test_a_pattern_that_explodes_is_given_up():
    found = Pattern(Regex(pattern="(a+)+$")).search(b"a" * 60 + b"b")
    assert found.start == -1
    assert "limit" in found.problem


def test_an_answer_that_is_not_utf8_is_not_searched():
    found = Pattern(Regex(pattern=".", options=("utf",))).search(b"\xff")
    assert "UTF-8" in found.problem
