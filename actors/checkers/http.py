"""HTTP_GET and SSL_GET: one page a run, read to its end (answer.py judges it)."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import msgspec

from holdfast.actors.checkers.answer import AnswerReader, request_of, server_name_of
from holdfast.actors.checkers.base import Outcome, Schedule
from holdfast.actors.checkers.config import HttpCheck, HttpUrl, SslClient
from holdfast.actors.checkers.kinds import STEPS_OF_A_RUN, Checker, Surroundings, plain_schedule
from holdfast.actors.checkers.messages import Target
from holdfast.actors.checkers.pattern import Pattern, PatternError
from holdfast.actors.checkers.sockets import NotRunnable, Poller, Probe, endpoint
from holdfast.actors.checkers.stream import StreamProbe
from holdfast.actors.runtime.machine import US, Duration

_CONTEXT = "tls-context"


class HttpProbe(StreamProbe):
    """One page."""

    __slots__ = ("_request", "reader")

    def __init__(
        self,
        poller: Poller,
        check: HttpCheck,
        url: HttpUrl,
        request: bytes,
        pattern: Pattern | None,
        context: ssl.SSLContext | None,
        done: Callable[[Outcome], None],
    ) -> None:
        super().__init__(
            poller,
            check.connection,
            done,
            context=context,
            server_name=server_name_of(check, url) if context is not None else None,
            quiet_shutdown=not (check.tls_compliant or url.tls_compliant),
        )
        self._request = request
        self.reader = AnswerReader(url, pattern)

    def opened(self) -> None:
        self.send(self._request)

    def received(self, data: bytes) -> None:
        outcome = self.reader.feed(data)
        if outcome is not None:
            self.finish(outcome)

    def ended(self) -> None:
        self.finish(self.reader.end())

    def timed_out(self) -> None:
        self.what_is_missing = self.reader.waiting_for
        super().timed_out()

    def broken_off(self, error: OSError) -> None:
        """TLS that breaks off after the answer ends it, as an end of the stream does for keepalived."""
        if isinstance(error, ssl.SSLError):
            self.ended()
        else:
            super().broken_off(error)


class HttpChecker(Checker[HttpCheck]):
    """A web server and its pages."""

    spec_type = HttpCheck
    label = "HTTP_CHECK"
    not_identity = {"fast_recovery": False}  # noqa: RUF012 - a ClassVar of the base

    def __init__(self, spec: HttpCheck, around: Surroundings) -> None:
        super().__init__(spec, around)
        self._requests = [request_of(spec, url) for url in spec.urls]
        self._patterns: list[Pattern | None] = []
        self._problem: str | None = None
        for url in spec.urls:
            try:
                self._patterns.append(None if url.regex is None else Pattern(url.regex))
            except PatternError as error:
                self._problem = f"{url.path}: regex: {error}"
                self._patterns.append(None)
        if spec.tls:
            self.label = "SSL_CHECK"

    @classmethod
    def kind_of(cls, spec: HttpCheck) -> str:
        return "SSL_GET" if spec.tls else "HTTP_GET"

    @classmethod
    def target_of(cls, spec: HttpCheck) -> str:
        return endpoint(spec.connection)

    @classmethod
    def schedule_of(cls, spec: HttpCheck) -> Schedule:
        cap = Duration(STEPS_OF_A_RUN * spec.connection.timeout_us * US)
        return msgspec.structs.replace(
            plain_schedule(spec, cap),
            steps=len(spec.urls),
            fast_recovery=spec.fast_recovery,
            pages=True,
            alpha=spec.alpha,
        )

    def probe(self, step: int, done: Callable[[Outcome], None]) -> Probe:
        if self._problem is not None:
            return NotRunnable(self._problem, done)
        context: ssl.SSLContext | None = None
        if self.spec.tls:
            made = self._context()
            if isinstance(made, str):
                return NotRunnable(made, done)
            context = made
        return HttpProbe(
            self.around.poller,
            self.spec,
            self.spec.urls[step],
            self._requests[step],
            self._patterns[step],
            context,
            done,
        )

    def success_words(self, target: Target, outcome: Outcome) -> str:
        return f"Remote Web server {target.real_server} succeed on service."

    def failure_words(self, target: Target, outcome: Outcome, retries: int) -> str:
        # keepalived names the configured retries here, also for a first run that had none.
        return super().failure_words(target, outcome, self.spec.retry)

    def progress_words(self, target: Target, step: int) -> list[str]:
        url = self.spec.urls[step]
        where = f"success to {target.real_server} url({url.path})"
        words = [f"HTTP status code {where}"]
        if url.digest is not None:
            words.append(f"MD5 digest {where}")
        if url.regex is not None:
            words.append(f"Regex {'no match' if url.regex.no_match else 'match'} {where}")
        return words

    def _context(self) -> ssl.SSLContext | str:
        kept = self.around.kept
        if _CONTEXT not in kept:
            kept[_CONTEXT] = client_context(self.around.settings.ssl)
        made: ssl.SSLContext | str = kept[_CONTEXT]
        return made


def client_context(client: SslClient) -> ssl.SSLContext | str:
    """The TLS client of all SSL_GET checks; a text when the certificate in the SSL block cannot be loaded.

    As with keepalived any certificate is accepted and any version of TLS: what is asked is whether it serves.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    try:
        if client.ca is not None:
            context.load_verify_locations(client.ca)
        if client.certificate is not None:
            context.load_cert_chain(client.certificate, client.key, client.password or "")
    except (OSError, ValueError) as error:
        return f"SSL block: {client.certificate or client.ca}: {error}"
    return context
