"""`holdfast genhash` beside keepalived's own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator

import pytest
from checks_lab import answering, at, refused_port, silent, slowly, tcp_server
from click.testing import CliRunner

from holdfast.actors.checkers.genhash import fetch
from holdfast.cli.genhash import genhash

KEEPALIVEDS = shutil.which("genhash", path="/usr/bin:/usr/sbin:/bin")

ANSWERS = {
    "/page": b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>page</html>\n",
    "/missing": b"HTTP/1.0 404 Not Found\r\n\r\nzzz",
    "/empty": b"HTTP/1.0 200 OK\r\n\r\n",
    "/long": b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabcdef",
    "/short": b"HTTP/1.0 200 OK\r\nContent-Length: 30\r\n\r\nabc",
    "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "/nothing": b"",
    "/garbage": b"garbage",
    "/lf": b"HTTP/1.1 200 OK\n\nabc",
    "/huge": b"HTTP/1.0 200 OK\r\nX: " + b"a" * 5000 + b"\r\n\r\nabc",
    "/binary": b"HTTP/1.0 200 OK\r\n\r\n" + bytes(range(256)) * 100,
}


@pytest.fixture
def site() -> Iterator[tuple[int, list[bytes]]]:
    """A server in a thread, for programs: (port, requests it got)."""
    requests: list[bytes] = []
    started: list[int] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        requests.append(request)
        writer.write(ANSWERS[request.split()[1].decode()])
        await writer.drain()

    async def run() -> None:
        async with tcp_server(serve) as port:
            started.append(port)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    ready.wait(10)
    yield started[0], requests
    stop.set()
    thread.join(10)


@pytest.mark.peer
@pytest.mark.parametrize("path", ANSWERS)
@pytest.mark.parametrize("words", [[], ["-V", "www.example.org"], ["-P", "1.0c"], ["-P", "1.1"]])
def test_the_same_request_and_digest_as_keepalived(site: tuple[int, list[bytes]], path: str, words: list[str]):
    port, requests = site
    arguments = ["-s", "127.0.0.1", "-p", str(port), "-u", path, "-t", "5", *words]
    assert KEEPALIVEDS is not None, "keepalived is not installed (make setup-test)"
    theirs = subprocess.run([KEEPALIVEDS, *arguments], capture_output=True, text=True, check=False, timeout=30)
    ours = CliRunner().invoke(genhash, arguments)
    assert requests[0] == requests[1]
    assert ours.stdout == theirs.stdout
    if theirs.stdout == "":
        assert "no data received from remote webserver" in theirs.stderr
        assert ours.exit_code == 1
        assert ours.stderr


async def test_over_tls(tls_server: ssl.SSLContext):
    async with tcp_server(answering(ANSWERS["/page"]), context=tls_server) as port:
        page = await fetch(at(port), "/page", tls=True, virtualhost="www.example.org", sni=True)
    assert page.digest == hashlib.md5(b"<html>page</html>\n").hexdigest()
    assert page.header.startswith(b"HTTP/1.0 200 OK")


async def test_nobody_there_and_nothing_said():
    refused = await fetch(at(refused_port()), "/")
    assert refused.digest is None
    assert "refused" in refused.problem
    async with tcp_server(silent) as port:
        page = await fetch(at(port, timeout_s=0.1), "/")
    assert "sent no answer within 0.1 s" in page.problem
    async with tcp_server(slowly(b"x" * 1000, 0.01)) as port:
        page = await fetch(at(port), "/", limit_s=0.1)
    assert page.problem == "not done within 0.1 s"


def test_command_line(site: tuple[int, list[bytes]]):
    port, _ = site
    arguments = ["-s", "127.0.0.1", "-p", str(port), "-u", "/page"]
    digest = hashlib.md5(b"<html>page</html>\n").hexdigest()
    assert CliRunner().invoke(genhash, arguments).output == f"{digest}\n"
    said = json.loads(CliRunner().invoke(genhash, [*arguments, "--json"]).output)
    assert (said["digest"], said["bytes"]) == (digest, 18)
    shown = CliRunner().invoke(genhash, [*arguments, "-v"]).output
    assert "GET /page HTTP/1.0" in shown
    assert shown.endswith(f"{digest}\n")
    failing = CliRunner().invoke(genhash, ["-s", "127.0.0.1", "-p", str(refused_port()), "-u", "/"])
    assert failing.exit_code == 1
    assert CliRunner().invoke(genhash, ["-p", "80"]).exit_code == 2
