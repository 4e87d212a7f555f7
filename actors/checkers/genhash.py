"""The digest of a page, as HTTP_GET and SSL_GET would see it: `holdfast genhash`, keepalived's genhash(1)."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable

import msgspec

from holdfast.actors.checkers.answer import request_of
from holdfast.actors.checkers.base import Outcome, failed
from holdfast.actors.checkers.config import Connection, HttpCheck, HttpUrl, SslClient
from holdfast.actors.checkers.http import HttpProbe, client_context
from holdfast.actors.checkers.sockets import Poller
from holdfast.kernel.timers import DeadlineHeap

_ANY_STATUS = ((0, 999),)


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What came. digest: MD5 in hex; None: no header came, then problem says why. received: all bytes, header too."""

    digest: str | None
    problem: str = ""
    request: bytes = b""
    received: bytes = b""
    took_us: int = 0

    @property
    def header(self) -> bytes:
        """Up to and with the empty line."""
        head, ending, _ = self.received.partition(b"\r\n\r\n")
        return head + ending

    @property
    def body(self) -> bytes:
        """After the empty line."""
        return self.received.partition(b"\r\n\r\n")[2]


class _KeepingProbe(HttpProbe):
    """A probe that keeps what came, to be shown."""

    __slots__ = ("kept",)
    kept: bytes

    def received(self, data: bytes) -> None:
        self.kept += data
        super().received(data)


async def fetch(
    connection: Connection,
    path: str,
    *,
    tls: bool = False,
    virtualhost: str | None = None,
    sni: bool = False,
    protocol: str = "1.0",
    limit_s: float | None = None,
) -> Page:
    """Fetches a page once and digests its body, whatever the status code.

    sni: `virtualhost` is sent as the server's name. protocol: 1.0, 1.0C or 1.1. limit_s: for the whole; None: four
    times connect_timeout.
    """
    url = HttpUrl(path=path, digest="", status_codes=_ANY_STATUS, virtualhost=virtualhost)
    check = HttpCheck(name="genhash", connection=connection, tls=tls, urls=(url,), protocol=protocol, sni_enabled=sni)
    loop = asyncio.get_running_loop()
    timers = DeadlineHeap(loop)
    poller = Poller(loop, timers)
    done: asyncio.Future[Outcome] = loop.create_future()
    probe = _probe(poller, check, url, done.set_result)
    started = time.monotonic_ns()
    limit_s = 4 * connection.timeout_us / 1e6 if limit_s is None else limit_s
    try:
        probe.begin()
        outcome = await asyncio.wait_for(done, limit_s)
    except TimeoutError:
        outcome = failed(f"not done within {limit_s:g} s")
    finally:
        probe.cancel()
        poller.close()
        timers.close()
    took_us = (time.monotonic_ns() - started) // 1000
    # The check compares with a digest that no page has: what it found is what is wanted here.
    digest = probe.reader.digest if "digest" in outcome.detail else None
    return Page(
        digest=digest,
        problem="" if digest is not None else outcome.text,
        request=request_of(check, url),
        received=probe.kept,
        took_us=took_us,
    )


def _probe(poller: Poller, check: HttpCheck, url: HttpUrl, done: Callable[[Outcome], None]) -> _KeepingProbe:
    context: ssl.SSLContext | None = None
    if check.tls:
        made = client_context(SslClient())
        assert not isinstance(made, str)  # only files of the SSL block can fail
        context = made
    probe = _KeepingProbe(poller, check, url, request_of(check, url), None, context, done)
    probe.kept = b""
    return probe
