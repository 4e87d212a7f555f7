"""SMTP_CHECK: the dialogue without a socket, and against servers on loopback."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from checks_lab import Lab, Serve, at, full_port, refused_port, resetting, silent, slowly, tcp_server
from hypothesis import given
from hypothesis import strategies as st

from holdfast.actors.checkers.base import Outcome, Verdict
from holdfast.actors.checkers.config import SmtpCheck
from holdfast.actors.checkers.smtp import SmtpChecker, SmtpDialogue


def dialogue() -> SmtpDialogue:
    return SmtpDialogue("me.example.org", "10.0.0.2:25")


def test_the_conversation():
    talk = dialogue()
    assert talk.feed(b"220 mail.exa") == b""
    assert talk.feed(b"mple.org ESMTP\r\n") == b"HELO me.example.org\r\n"
    assert talk.feed(b"250 hello\r\n") == b"QUIT\r\n"
    outcome = talk.feed(b"221 bye\r\n")
    assert isinstance(outcome, Outcome)
    assert outcome.verdict is Verdict.OK


@pytest.mark.parametrize("last", [b"221 bye\r\n", b"500 what\r\n", b"\r\n", b"anything\n"])
def test_any_line_ends_it(last: bytes):
    talk = dialogue()
    talk.feed(b"220\r\n")
    talk.feed(b"250\r\n")
    outcome = talk.feed(last)
    assert isinstance(outcome, Outcome)
    assert outcome.verdict is Verdict.OK


@pytest.mark.parametrize(
    "banner",
    [
        b"220-first line\r\n220 second\r\n",
        b"554 go away\r\n",
        b"2200 x\r\n",
        b"22\r\n",
        b"SSH-2.0\r\n",
        b"\r\n",
        b"220\tx\r\n",
    ],
)
def test_bad_banners(banner: bytes):
    outcome = dialogue().feed(banner)
    assert isinstance(outcome, Outcome)
    assert outcome.verdict is Verdict.FAILED
    assert outcome.text.startswith("Bad greeting banner from server 10.0.0.2:25")


def test_bad_answer_to_helo():
    talk = dialogue()
    talk.feed(b"220 x\r\n")
    outcome = talk.feed(b"250-several\r\n")
    assert isinstance(outcome, Outcome)
    assert outcome.verdict is Verdict.FAILED


def test_a_line_without_end_is_ended():
    outcome = dialogue().feed(b"220 " + b"x" * 600)
    assert isinstance(outcome, Outcome)
    assert outcome.verdict is Verdict.FAILED
    assert "line longer than 512 bytes" in outcome.text


@given(st.lists(st.binary(max_size=80), max_size=10))
def test_any_bytes_come_to_an_end_or_wait(pieces: list[bytes]):
    talk = dialogue()
    for piece in pieces:
        answer = talk.feed(piece)
        if isinstance(answer, Outcome):
            return
        assert answer in (b"", b"HELO me.example.org\r\n", b"QUIT\r\n")
    assert talk.ended().verdict is Verdict.FAILED


def speaking(banner: bytes, helo: bytes, goodbye: bytes | None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(banner)
        assert await reader.readline() == b"HELO me.example.org\r\n"
        writer.write(helo)
        assert await reader.readline() == b"QUIT\r\n"
        if goodbye is not None:
            writer.write(goodbye)

    return serve


async def look(tmp_path: Path, serve: Serve, timeout_s: float = 5.0) -> Outcome:
    async with Lab(tmp_path) as lab, tcp_server(serve) as port:
        return await lab.probe(
            SmtpCheck(name="s", connection=at(port, timeout_s=timeout_s), helo_name="me.example.org")
        )


async def test_good(tmp_path: Path):
    outcome = await look(tmp_path, speaking(b"220 mail ESMTP\r\n", b"250 hi\r\n", b"221 bye\r\n"))
    assert outcome.verdict is Verdict.OK


async def test_all_lines_at_once(tmp_path: Path):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 a\r\n250 b\r\n221 c\r\n")
        await reader.read()

    assert (await look(tmp_path, serve)).verdict is Verdict.OK


async def test_slow_byte_by_byte(tmp_path: Path):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await slowly(b"220 slow server\r\n", 0.001)(reader, writer)
        await reader.readline()
        await slowly(b"250 ok\r\n", 0.001)(reader, writer)
        await reader.readline()
        await slowly(b"221 bye\r\n", 0.001)(reader, writer)

    assert (await look(tmp_path, serve)).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (silent, "sent no banner within 0.2 s"),
        (speaking(b"220-mail\r\n220 mail\r\n", b"", None), "Bad greeting banner"),
        (speaking(b"220 x\r\n", b"500 no\r\n", None), "Bad HELO response"),
        (speaking(b"220 x\r\n", b"250 x\r\n", None), "closed the connection: did not answer QUIT"),
    ],
)
async def test_bad(tmp_path: Path, serve: Serve, words: str):
    outcome = await look(tmp_path, serve, 0.2 if serve is silent else 5.0)
    assert outcome.verdict is Verdict.FAILED
    assert words in outcome.text


async def test_reset_refused_and_not_accepted(tmp_path: Path):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 x\r\n")
        await resetting(reader, writer)

    assert "reset the connection" in (await look(tmp_path, serve)).text
    async with Lab(tmp_path) as lab:
        outcome = await lab.probe(SmtpCheck(name="s", connection=at(refused_port())))
        assert "refused" in outcome.text
        with full_port() as port:
            outcome = await lab.probe(SmtpCheck(name="s", connection=at(port, timeout_s=0.1)))
        assert outcome.text.endswith("did not accept the connection within 0.1 s")


def test_its_failures_count_in_rounds():
    assert SmtpChecker.schedule_of(SmtpCheck(name="s", connection=at(25))).rounds is True
