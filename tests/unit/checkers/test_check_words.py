"""Log lines, as keepalived 2.2.7 writes them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from checks_lab import Lab, at

from holdfast.actors.checkers.base import Outcome, Verdict, failed
from holdfast.actors.checkers.config import (
    Check,
    DnsCheck,
    HttpCheck,
    HttpUrl,
    PingCheck,
    Regex,
    SmtpCheck,
    TcpCheck,
    UdpCheck,
)
from holdfast.actors.checkers.kinds import checker_of
from holdfast.actors.checkers.messages import Target

TARGET = Target("t", "[10.1.0.1]:tcp:80", "[127.0.0.2]:tcp:9001")
HERE = at(9001, "127.0.0.2")
WEB = HttpCheck(name="", connection=HERE, urls=(HttpUrl(path="/"),), retry=2)


@pytest.mark.parametrize(
    ("check", "up", "first", "later"),
    [
        (
            TcpCheck(name="", connection=HERE),
            "TCP connection to [127.0.0.2]:tcp:9001 success.",
            "TCP_CHECK on service [127.0.0.2]:tcp:9001 failed.",
            "TCP_CHECK on service [127.0.0.2]:tcp:9001 failed after 2 retries.",
        ),
        (
            WEB,
            "Remote Web server [127.0.0.2]:tcp:9001 succeed on service.",
            "HTTP_CHECK on service [127.0.0.2]:tcp:9001 failed after 2 retries.",
            "HTTP_CHECK on service [127.0.0.2]:tcp:9001 failed after 2 retries.",
        ),
        (
            msgspec.structs.replace(WEB, tls=True, retry=0),
            "Remote Web server [127.0.0.2]:tcp:9001 succeed on service.",
            "SSL_CHECK on service [127.0.0.2]:tcp:9001 failed.",
            "SSL_CHECK on service [127.0.0.2]:tcp:9001 failed.",
        ),
        (
            SmtpCheck(name="", connection=HERE),
            "Remote SMTP server [127.0.0.2]:tcp:9001 succeed on service.",
            "SMTP_CHECK Could not connect to server [127.0.0.2]:9001",
            "SMTP_CHECK Could not connect to server [127.0.0.2]:9001",
        ),
        (
            UdpCheck(name="", connection=HERE),
            "UDP_CHECK on service [127.0.0.2]:tcp:9001 succeeded.",
            "UDP_CHECK on service [127.0.0.2]:tcp:9001 failed.",
            "UDP_CHECK on service [127.0.0.2]:tcp:9001 failed after 2 retries.",
        ),
        (
            DnsCheck(name="", connection=HERE),
            "DNS_CHECK on service [127.0.0.2]:tcp:9001 succeeded.",
            "DNS_CHECK on service [127.0.0.2]:tcp:9001 failed.",
            "DNS_CHECK on service [127.0.0.2]:tcp:9001 failed after 2 retries.",
        ),
        (
            PingCheck(name="", connection=HERE),
            "ICMP CHECK on service [127.0.0.2]:tcp:9001 succeeded.",
            "ICMP CHECK on service [127.0.0.2]:tcp:9001 failed.",
            "ICMP CHECK on service [127.0.0.2]:tcp:9001 failed after 2 retries.",
        ),
    ],
)
async def test_words(tmp_path: Path, check: Check, up: str, first: str, later: str):
    async with Lab(tmp_path) as lab:
        checker = checker_of(check)(check, lab.around)
        assert checker.success_words(TARGET, Outcome(Verdict.OK)) == up
        bad = failed("refused")
        assert checker.failure_words(TARGET, bad, 0) == first
        assert checker.failure_words(TARGET, bad, 2) == later


async def test_words_of_smtp(tmp_path: Path):
    async with Lab(tmp_path) as lab:
        check = SmtpCheck(name="", connection=HERE)
        checker = checker_of(check)(check, lab.around)
        bad = failed("whatever", stage="banner")
        words = "SMTP_CHECK Bad greeting banner from server [127.0.0.2]:9001"
        assert checker.failure_words(TARGET, bad, 0) == words


async def test_words_of_pages_that_pass_while_down(tmp_path: Path):
    async with Lab(tmp_path) as lab:
        urls = (HttpUrl(path="/a"), HttpUrl(path="/b", digest="0" * 32, regex=Regex(pattern="x")))
        check = msgspec.structs.replace(WEB, urls=urls)
        checker = checker_of(check)(check, lab.around)
    assert checker.progress_words(TARGET, 0) == ["HTTP status code success to [127.0.0.2]:tcp:9001 url(/a)"]
    assert checker.progress_words(TARGET, 1) == [
        "HTTP status code success to [127.0.0.2]:tcp:9001 url(/b)",
        "MD5 digest success to [127.0.0.2]:tcp:9001 url(/b)",
        "Regex match success to [127.0.0.2]:tcp:9001 url(/b)",
    ]
