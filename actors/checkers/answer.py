"""An HTTP exchange without a socket: the request's bytes, and the verdict on an answer that comes in pieces.

keepalived.conf(5), HTTP_GET: the answer ends when the server closes; there is no chunked decoding, the digest is over
the body as it comes, at most Content-Length bytes of it. Order: a header was seen, status code, digest, regex.
"""

from __future__ import annotations

import hashlib
import re

import httptools

from holdfast.actors.checkers.base import Outcome, failed, passed
from holdfast.actors.checkers.config import HttpCheck, HttpUrl
from holdfast.actors.checkers.pattern import Pattern

HEADER_BYTES_MAX = 4096
"""A header that does not end within the first 4096 bytes fails the server, as with keepalived."""

BODY_BYTES_MAX = 16 * 1024 * 1024
"""An answer without end is ended here; keepalived reads on for ever."""

_HEAD_END = b"\r\n\r\n"
_STATUS_LINE = re.compile(rb"HTTP/\d+(?:\.\d+)? +(\d{3})")


def request_of(check: HttpCheck, url: HttpUrl) -> bytes:
    """What is sent for one page: keepalived's request byte for byte."""
    connection = check.connection
    host = url.virtualhost or check.host
    if host is None:
        address = f"[{connection.address}]" if ":" in connection.address else connection.address
        host = f"{address}:{connection.port}"
    version = "1.1" if check.protocol == "1.1" else "1.0"
    close = "" if check.protocol == "1.0" else "Connection: close\r\n"
    lines = f"GET {url.path} HTTP/{version}\r\nUser-Agent: KeepAliveClient\r\n{close}Host: {host}\r\n\r\n"
    return lines.encode("utf-8", "surrogateescape")


def server_name_of(check: HttpCheck, url: HttpUrl) -> str | None:
    """The name for SNI, None: none is sent."""
    if not check.sni_enabled and not check.sni_fixed:
        return None
    if check.sni_fixed:
        return check.sni
    return url.virtualhost or check.sni


class Header:
    """The start of an answer: status and Content-Length. Made of the bytes up to the empty line."""

    __slots__ = ("length", "status")

    def __init__(self, head: bytes) -> None:
        self.status = 0
        self.length: int | None = None
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            self.status = parser.get_status_code()
        except httptools.HttpParserError:
            # keepalived only wants a number after the first blank: neither do we fail a server for its style.
            found = _STATUS_LINE.match(head)
            self.status = int(found[1]) if found else 0
        else:
            self.status = parser.get_status_code()

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools tells each header line."""
        if name.lower() == b"content-length" and value.isdigit():
            self.length = int(value)


class AnswerReader:
    """Takes an answer in pieces and judges it."""

    __slots__ = ("_body", "_head", "_header", "_md5", "_pattern", "_received", "_url")

    def __init__(self, url: HttpUrl, pattern: Pattern | None = None) -> None:
        """pattern: `url.regex`, compiled."""
        self._url = url
        self._pattern = pattern
        self._head = b""
        self._header: Header | None = None
        self._md5 = hashlib.md5(usedforsecurity=False) if url.digest is not None else None
        self._body: bytearray | None = bytearray() if pattern is not None else None
        self._received = 0

    @property
    def waiting_for(self) -> str:
        """What a server that falls silent now has not sent."""
        if self._header is not None:
            return f"stopped in the middle of its answer (after {self._received} bytes of the body)"
        return "did not finish its header" if self._head else "sent no answer"

    def feed(self, data: bytes) -> Outcome | None:
        """Takes the next piece. An outcome: no need to read on."""
        if self._header is None:
            self._head += data
            head, ending, data = self._head.partition(_HEAD_END)
            size = len(head) + len(ending)
            if size > HEADER_BYTES_MAX or (size == HEADER_BYTES_MAX and not ending):
                return failed(f"header longer than {HEADER_BYTES_MAX} bytes", header_bytes=size)
            if not ending:
                return None
            self._header = Header(head + ending)
            self._head = b""
        if data:
            self._take(data)
            if self._received > BODY_BYTES_MAX:
                return failed(f"answer longer than {BODY_BYTES_MAX} bytes, no end in sight", body_bytes=self._received)
        return None

    def _take(self, data: bytes) -> None:
        length = None if self._header is None else self._header.length
        if self._md5 is not None:
            room = len(data) if length is None else max(0, length - self._received)
            self._md5.update(data[:room])
        if self._body is not None:
            self._body += data
        self._received += len(data)

    @property
    def digest(self) -> str | None:
        """MD5 of the body so far in hex; None when no digest is wanted or no header was seen."""
        return None if self._md5 is None or self._header is None else self._md5.hexdigest()

    def end(self) -> Outcome:
        """The server has closed: the verdict."""
        header = self._header
        if header is None:
            seen = len(self._head)
            return failed("closed within its header" if seen else "closed without an answer", header_bytes=seen)
        url = self._url
        status = header.status
        numbers: dict[str, int | float | str | bool | None] = {"status": status, "body_bytes": self._received}
        if not any(low <= status <= high for low, high in url.status_codes):
            wanted = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in url.status_codes)
            return failed(f"{url.path}: status {status}, wanted {wanted}", **numbers)
        words = [f"{url.path}: status {status}"]
        if self._md5 is not None and url.digest is not None:
            digest = self._md5.hexdigest()
            if digest != url.digest.lower():
                return failed(f"{url.path}: digest {digest}, wanted {url.digest}", digest=digest, **numbers)
            words.append("digest matches")
        if self._pattern is not None and self._body is not None:
            found = self._pattern.search(bytes(self._body))
            if found.problem:
                return failed(f"{url.path}: regex not searchable: {found.problem}", **numbers)
            if (found.start >= 0) is self._pattern.no_match:
                what = f"matches at {found.start}, which it should not" if found.start >= 0 else "does not match"
                return failed(f"{url.path}: regex {what}", **numbers)
            words.append("regex does not match" if found.start < 0 else f"regex matches at {found.start}")
        if header.length is not None and header.length != self._received:
            words.append(f"body of {self._received} bytes though {header.length} were announced")
        return passed(", ".join(words), **numbers)
