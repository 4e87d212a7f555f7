"""The shell of all mail: one after the other to one server, tried again a few times, never in anybody's way.

Source: keepalived.conf(5), notification_email and smtp_server: plain SMTP without TLS or authentication.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from holdfast.actors.notify.config import Mail
from holdfast.actors.notify.messages import MailState
from holdfast.actors.notify.notices import MailText
from holdfast.actors.runtime.actor import LoopActor
from holdfast.bus.base import Bus

log = logging.getLogger("holdfast.notify")

MAILS_WAITING_MAX = 100
RETRIES_AFTER_S = (2.0, 10.0, 60.0)
"""A mail server that restarts is back by then; what is older than that is better read from the journal."""

Deliver = Callable[[Mail, str, bytes], Awaitable[None]]
"""deliver(configuration, sender, message): raises when the server did not take it."""


class SendMail(msgspec.Struct, frozen=True):
    """A mail to be sent."""

    mail: MailText


class ConfigureMail(msgspec.Struct, frozen=True):
    """The mail configuration as it is now."""

    config: Mail


class _Delivered(msgspec.Struct, frozen=True):
    problem: str | None


class MailActor(LoopActor):
    """See the file's first lines. deliver: how; tests have their own."""

    critical = False

    def __init__(self, *, bus: Bus, loop: asyncio.AbstractEventLoop, deliver: Deliver | None = None) -> None:
        super().__init__()
        self._bus = bus
        self._loop = loop
        self._deliver = deliver or deliver_by_smtp
        self._config = Mail()
        self._waiting: deque[bytes] = deque()
        self._last_subject: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._sent = 0
        self._dropped = 0
        self._ok: bool | None = None

    def on_receive(self, message: object) -> object:
        """Takes `SendMail` and `ConfigureMail`."""
        match message:
            case ConfigureMail(config=config):
                self._config = config
            case SendMail(mail=mail):
                self._post(mail)
            case _Delivered(problem=problem):
                self._delivered(problem)
            case _:
                raise AssertionError(message)
        return None

    def on_stop(self) -> None:
        """What is not delivered by now stays undelivered."""
        if self._task is not None:
            self._task.cancel()
        self._bus.forget("notify/mail", "state")

    def _post(self, mail: MailText) -> None:
        if self._config.server is None or not self._config.recipients:
            return
        if self._last_subject.get(mail.topic) == mail.subject:
            return  # the same state is not mailed twice in a row
        self._last_subject[mail.topic] = mail.subject
        if len(self._waiting) >= MAILS_WAITING_MAX:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(compose(self._config, mail, time.time()))
        self._next()

    def _next(self) -> None:
        if self._task is None and self._waiting:
            self._task = self._loop.create_task(self._try(self._waiting.popleft()))

    async def _try(self, message: bytes) -> None:
        problem: str | None = None
        for pause_s in (0.0, *RETRIES_AFTER_S):
            await asyncio.sleep(pause_s)
            try:
                await self._deliver(self._config, sender_of(self._config), message)
            except Exception as error:  # whatever a library makes of a server's answers
                problem = f"{type(error).__name__}: {error}"
                log.debug("mail to %s: %s", self._config.server, problem)
            else:
                problem = None
                break
        self.actor_ref.tell(_Delivered(problem))

    def _delivered(self, problem: str | None) -> None:
        self._task = None
        if problem is None:
            self._sent += 1
        else:
            self._dropped += 1
            log.warning("a mail could not be delivered to %s: %s", self._config.server, problem)
        ok = problem is None
        if ok is not self._ok or not ok:
            self._ok = ok
            state = MailState(
                server=f"{self._config.server}:{self._config.port}",
                ok=ok,
                waiting=len(self._waiting),
                sent=self._sent,
                dropped=self._dropped,
                problem=problem,
            )
            self._bus.publish("notify/mail", "state", state)
        self._next()


def sender_of(config: Mail) -> str:
    """notification_email_from, or who and where we are."""
    if config.sender:
        return config.sender
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return f"{user}@{socket.gethostname()}"


def compose(config: Mail, mail: MailText, at: float) -> bytes:
    """The whole message. at: seconds since the epoch."""
    # Imported when the first mail is written: most hosts never send one.
    from email.message import EmailMessage  # noqa: PLC0415
    from email.policy import SMTP  # noqa: PLC0415
    from email.utils import formatdate  # noqa: PLC0415

    message = EmailMessage(policy=SMTP)
    message["Date"] = formatdate(at, localtime=True)
    message["From"] = sender_of(config)
    # A name from the configuration may hold anything; a header ends with its line.
    message["Subject"] = " ".join(mail.subject.split())
    message["X-Mailer"] = "Holdfast"
    message["To"] = ", ".join(config.recipients)
    message.set_content(mail.body + "\n")
    return message.as_bytes()


async def deliver_by_smtp(config: Mail, sender: str, message: bytes) -> None:
    """HELO, MAIL FROM, RCPT TO each, DATA, QUIT. Raises when the server does not take it."""
    import aiosmtplib  # noqa: PLC0415

    client = aiosmtplib.SMTP(
        hostname=config.server,
        port=config.port,
        local_hostname=config.helo_name or socket.gethostname(),
        timeout=max(1.0, config.connect_timeout_us / 1e6),
        use_tls=False,
        start_tls=False,
    )
    async with client:
        await client.sendmail(sender, list(config.recipients), message)
