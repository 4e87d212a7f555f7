"""HTTP_GET and SSL_GET against servers on loopback, good ones and each kind of bad one."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from checks_lab import (
    Lab,
    Serve,
    answering,
    at,
    full_port,
    make_certificate,
    refused_port,
    resetting,
    server_context,
    silent,
    slowly,
    tcp_server,
)

from holdfast.actors.checkers import answer, http
from holdfast.actors.checkers.base import Outcome, Verdict
from holdfast.actors.checkers.config import Connection, HttpCheck, HttpUrl, Regex, SslClient

PAGE = b"<html>all is well</html>\n"
GOOD = b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n" + PAGE
DIGEST = hashlib.md5(PAGE).hexdigest()
PLAIN = HttpUrl(path="/")

Tls = Callable[[], ssl.SSLContext]


def get(connection: Connection, *urls: HttpUrl, **words: object) -> HttpCheck:
    return HttpCheck(name="h", connection=connection, urls=urls or (PLAIN,), **words)  # type: ignore[arg-type]


async def look(tmp_path: Path, serve: Serve, url: HttpUrl = PLAIN, timeout_s: float = 5.0, **words: object) -> Outcome:
    async with Lab(tmp_path) as lab, tcp_server(serve) as port:
        return await lab.probe(get(at(port, timeout_s=timeout_s), url, **words))


@pytest.mark.parametrize(
    "url",
    [
        PLAIN,
        HttpUrl(path="/", digest=DIGEST),
        HttpUrl(path="/", digest=DIGEST.upper()),
        HttpUrl(path="/", status_codes=((200, 200),)),
        HttpUrl(path="/", status_codes=((100, 150), (200, 204))),
        HttpUrl(path="/", regex=Regex(pattern="all is w.ll")),
        HttpUrl(path="/", regex=Regex(pattern="on fire", no_match=True)),
        HttpUrl(path="/", digest=DIGEST, regex=Regex(pattern="WELL", options=("caseless",))),
    ],
)
async def test_good(tmp_path: Path, url: HttpUrl):
    outcome = await look(tmp_path, answering(GOOD), url)
    assert outcome.verdict is Verdict.OK, outcome.text
    assert outcome.detail == {"status": 200, "body_bytes": len(PAGE)}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (HttpUrl(path="/p", status_codes=((301, 302), (404, 404))), "/p: status 200, wanted 301-302, 404"),
        (HttpUrl(path="/p", digest="0" * 32), f"/p: digest {DIGEST}, wanted {'0' * 32}"),
        (HttpUrl(path="/p", regex=Regex(pattern="on fire")), "/p: regex does not match"),
        (
            HttpUrl(path="/p", regex=Regex(pattern="well", no_match=True)),
            "/p: regex matches at 13, which it should not",
        ),
    ],
)
async def test_wrong_status_digest_or_text(tmp_path: Path, url: HttpUrl, words: str):
    outcome = await look(tmp_path, answering(GOOD), url)
    assert outcome.verdict is Verdict.FAILED
    assert outcome.text == words


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"HTTP/1.0 500 Oh\r\n\r\n", "/: status 500, wanted 200-299"),
        (b"HTTP/1.0 302 Found\r\nLocation: /x\r\n\r\n", "/: status 302, wanted 200-299"),
        (b"", "closed without an answer"),
        (b"HTTP/1.0 200 OK\r\nServ", "closed within its header"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "/: status 0, wanted 200-299"),
        (b"HTTP/1.0 200 OK\r\nX: " + b"a" * 70000 + b"\r\n\r\n", "header longer than 4096 bytes"),
        (b"HTTP/1.0 200 OK\r\nX: " + b"a" * 4073 + b"\r\n\r\n", "header longer than 4096 bytes"),
        (b"HTTP/1.0 200 OK\r\nX: " + b"a" * 9000, "header longer than 4096 bytes"),
        (b"HTTP/1.0 200 OK\nServer: lines without CR\n\nbody", "closed within its header"),
    ],
)
async def test_wrong_answers(tmp_path: Path, said: bytes, words: str):
    outcome = await look(tmp_path, answering(said))
    assert outcome.verdict is Verdict.FAILED
    assert outcome.text == words


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.0 200\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nbad header without colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nX: " + b"a" * 4072 + b"\r\n\r\n",
    ],
)
async def test_sloppy_but_serving(tmp_path: Path, said: bytes):
    assert (await look(tmp_path, answering(said))).verdict is Verdict.OK


async def test_a_body_of_another_length_is_only_mentioned(tmp_path: Path):
    outcome = await look(tmp_path, answering(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort"))
    assert outcome.text == "/: status 200, body of 5 bytes though 99 were announced"


async def test_digest_stops_at_content_length_and_does_not_unchunk(tmp_path: Path):
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef"
    url = HttpUrl(path="/", digest=hashlib.md5(b"abc").hexdigest())
    assert (await look(tmp_path, answering(long), url)).verdict is Verdict.OK
    raw = b"3\r\nabc\r\n0\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + raw
    url = HttpUrl(path="/", digest=hashlib.md5(raw).hexdigest())
    assert (await look(tmp_path, answering(chunked), url)).verdict is Verdict.OK


async def test_refused(tmp_path: Path):
    async with Lab(tmp_path) as lab:
        outcome = await lab.probe(get(at(refused_port())))
    assert outcome.verdict is Verdict.FAILED
    assert "refused the connection" in outcome.text


async def test_silent_before_and_after_the_connection(tmp_path: Path):
    async with Lab(tmp_path) as lab:
        with full_port() as port:
            outcome = await lab.probe(get(at(port, timeout_s=0.1)))
    assert outcome.text.endswith("did not accept the connection within 0.1 s")
    outcome = await look(tmp_path, silent, timeout_s=0.1)
    assert outcome.verdict is Verdict.FAILED
    assert outcome.text.endswith("sent no answer within 0.1 s")


async def test_silent_in_the_middle(tmp_path: Path):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GOOD[:60])
        await reader.read()

    outcome = await look(tmp_path, serve, timeout_s=0.1)
    assert outcome.verdict is Verdict.FAILED
    assert "stopped in the middle of its answer" in outcome.text


async def test_a_server_that_keeps_the_connection_open_fails_as_with_keepalived(tmp_path: Path):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.read()

    assert (await look(tmp_path, serve, timeout_s=0.1, protocol="1.1")).verdict is Verdict.FAILED


async def test_reset(tmp_path: Path):
    outcome = await look(tmp_path, resetting)
    assert outcome.verdict is Verdict.FAILED
    assert "reset the connection" in outcome.text


async def test_slow_byte_by_byte_is_good_when_it_comes_to_an_end(tmp_path: Path):
    outcome = await look(tmp_path, slowly(GOOD, 0.001), timeout_s=0.5)
    assert outcome.verdict is Verdict.OK


async def test_slow_without_end_is_ended_by_the_limit_of_the_whole_run(tmp_path: Path):
    check = get(at(80, timeout_s=0.25))
    from holdfast.actors.checkers.http import HttpChecker

    assert HttpChecker.schedule_of(check).cap == 1_000_000_000  # four steps of connect_timeout


async def test_endless_body_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(answer, "BODY_BYTES_MAX", 1_000_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GOOD)
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    outcome = await look(tmp_path, serve)
    assert outcome.verdict is Verdict.FAILED
    assert outcome.text == "answer longer than 1000000 bytes, no end in sight"


async def test_a_large_answer_is_read_in_several_turns(tmp_path: Path):
    body = bytes(range(256)) * 16384
    url = HttpUrl(path="/", digest=hashlib.md5(body).hexdigest())
    outcome = await look(tmp_path, answering(b"HTTP/1.0 200 OK\r\n\r\n" + body), url)
    assert outcome.verdict is Verdict.OK
    assert outcome.detail["body_bytes"] == len(body)


async def requests_of(tmp_path: Path, check: Callable[[int], HttpCheck], address: str = "127.0.0.1") -> bytes:
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.put_nowait(await reader.readuntil(b"\r\n\r\n"))
        writer.write(GOOD)

    async with Lab(tmp_path) as lab, tcp_server(serve, address) as port:
        await lab.probe(check(port))
        return (await seen.get()).replace(str(port).encode(), b"PORT")


async def test_request_bytes(tmp_path: Path):
    plain = await requests_of(tmp_path, lambda port: get(at(port), HttpUrl(path="/a?b")))
    assert plain == b"GET /a?b HTTP/1.0\r\nUser-Agent: KeepAliveClient\r\nHost: 127.0.0.1:PORT\r\n\r\n"
    closing = await requests_of(tmp_path, lambda port: get(at(port), protocol="1.0C"))
    assert closing == (
        b"GET / HTTP/1.0\r\nUser-Agent: KeepAliveClient\r\nConnection: close\r\nHost: 127.0.0.1:PORT\r\n\r\n"
    )
    newer = await requests_of(tmp_path, lambda port: get(at(port, "::1"), protocol="1.1"), "::1")
    assert newer == b"GET / HTTP/1.1\r\nUser-Agent: KeepAliveClient\r\nConnection: close\r\nHost: [::1]:PORT\r\n\r\n"
    named = await requests_of(tmp_path, lambda port: get(at(port), host="www.example.org"))
    assert named.endswith(b"Host: www.example.org\r\n\r\n")
    both = HttpUrl(path="/", virtualhost="page.example.org")
    named = await requests_of(tmp_path, lambda port: get(at(port), both, host="www.example.org"))
    assert named.endswith(b"Host: page.example.org\r\n\r\n")


async def test_each_step_has_its_page(tmp_path: Path):
    urls = (HttpUrl(path="/one"), HttpUrl(path="/two", status_codes=((404, 404),)))
    async with Lab(tmp_path) as lab, tcp_server(answering(GOOD)) as port:
        first = await lab.probe(get(at(port), *urls), step=0)
        second = await lab.probe(get(at(port), *urls), step=1)
    assert first.verdict is Verdict.OK
    assert second.text == "/two: status 200, wanted 404"


async def test_a_regex_that_is_none_is_no_failure(tmp_path: Path):
    outcome = await look(tmp_path, answering(GOOD), HttpUrl(path="/", regex=Regex(pattern="(")))
    assert outcome.verdict is Verdict.NOT_RUN
    assert "regex" in outcome.text


# TLS


async def look_tls(tmp_path: Path, serve: Serve, context: ssl.SSLContext, **words: object) -> Outcome:
    async with Lab(tmp_path) as lab, tcp_server(serve, context=context) as port:
        return await lab.probe(get(at(port), tls=True, **words))


async def test_tls_with_a_certificate_that_nobody_signed(tmp_path: Path, tls_server: ssl.SSLContext):
    assert (await look_tls(tmp_path, answering(GOOD), tls_server)).verdict is Verdict.OK
    compliant = await look_tls(tmp_path, answering(GOOD), tls_server, tls_compliant=True)
    assert compliant.verdict is Verdict.OK


async def test_tls_with_a_chain_that_does_not_hold(tmp_path: Path):
    ca, _ = make_certificate(tmp_path, "some-ca")
    leaf, key = make_certificate(tmp_path, "leaf", signer=ca)
    other, _ = make_certificate(tmp_path, "other-ca")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(leaf.read_bytes() + other.read_bytes())
    # As with keepalived: what is asked is whether it serves, not who it is.
    assert (await look_tls(tmp_path, answering(GOOD), server_context(chain, key))).verdict is Verdict.OK


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
async def test_tls_old_version(tmp_path: Path, tls_server: ssl.SSLContext):
    del tls_server
    context = server_context(*make_certificate(tmp_path, "old"))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    assert (await look_tls(tmp_path, answering(GOOD), context)).verdict is Verdict.OK


async def test_sni(tmp_path: Path):
    context = server_context(*make_certificate(tmp_path, "sni"))
    names: list[str | None] = []
    context.sni_callback = lambda _sock, name, _context: names.append(name)  # type: ignore[assignment,misc]
    virtual = HttpUrl(path="/", virtualhost="page.example.org")
    async with Lab(tmp_path) as lab, tcp_server(answering(GOOD), context=context) as port:
        for check in (
            get(at(port), tls=True),
            get(at(port), tls=True, sni_enabled=True, sni="service.example.org"),
            get(at(port), virtual, tls=True, sni_enabled=True, sni="service.example.org"),
            get(at(port), virtual, tls=True, sni_enabled=True, sni_fixed=True, sni="fixed.example.org"),
            get(at(port), tls=True, sni_enabled=True, sni=".not-a-name"),
        ):
            assert (await lab.probe(check)).verdict is Verdict.OK
    assert names == [None, "service.example.org", "page.example.org", "fixed.example.org", None]


async def test_plain_server_is_no_tls_server(tmp_path: Path):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    async with Lab(tmp_path) as lab, tcp_server(serve) as port:
        outcome = await lab.probe(get(at(port), tls=True))
    assert outcome.verdict is Verdict.FAILED
    assert "TLS failed" in outcome.text


async def test_tls_truncated_in_the_handshake(tmp_path: Path):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"\x16\x03\x03\x00\x7a\x02\x00")

    async with Lab(tmp_path) as lab, tcp_server(serve) as port:
        outcome = await lab.probe(get(at(port), tls=True))
    assert outcome.verdict is Verdict.FAILED
    assert "TLS failed" in outcome.text or "reset" in outcome.text


async def test_tls_silent_in_the_handshake(tmp_path: Path):
    async with Lab(tmp_path) as lab, tcp_server(silent) as port:
        outcome = await lab.probe(get(at(port, timeout_s=0.1), tls=True))
    assert outcome.verdict is Verdict.FAILED
    assert "did not finish the TLS handshake within 0.1 s" in outcome.text


@pytest.mark.parametrize(
    ("sent", "verdict", "words"),
    [
        (GOOD, Verdict.OK, "/: status 200"),  # the answer was there: as with keepalived that ends it
        (GOOD[:20], Verdict.FAILED, "closed within its header"),
        (b"", Verdict.FAILED, "closed without an answer"),
    ],
)
async def test_tls_truncated_after_the_handshake(
    tmp_path: Path, tls_server: ssl.SSLContext, sent: bytes, verdict: Verdict, words: str
):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await writer.drain()
        # No close_notify: only the bytes below TLS end.
        writer.get_extra_info("socket").shutdown(1)
        await reader.read()

    outcome = await look_tls(tmp_path, serve, tls_server)
    assert (outcome.verdict, outcome.text) == (verdict, words)


async def test_client_certificate_of_the_ssl_block(tmp_path: Path):
    ca, _ = make_certificate(tmp_path, "client-ca")
    client, key = make_certificate(tmp_path, "client", signer=ca)
    context = server_context(*make_certificate(tmp_path, "server"))
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    async with Lab(tmp_path) as lab, tcp_server(answering(GOOD), context=context) as port:
        assert (await lab.probe(get(at(port), tls=True))).verdict is Verdict.FAILED
        lab.around.kept.clear()
        lab.around.settings = type(lab.around.settings)(ssl=SslClient(certificate=str(client), key=str(key)))
        assert (await lab.probe(get(at(port), tls=True))).verdict is Verdict.OK


async def test_client_certificate_that_is_not_there(tmp_path: Path):
    made = http.client_context(SslClient(certificate=str(tmp_path / "none.pem")))
    assert isinstance(made, str)
    assert "none.pem" in made
