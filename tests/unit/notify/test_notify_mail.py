"""Mail: what is sent, how often it is tried, what is given up; with a server of a few lines on loopback."""

from __future__ import annotations

import asyncio
import email
import email.policy

import pytest

from holdfast.actors.notify import mail_actor
from holdfast.actors.notify.config import Mail
from holdfast.actors.notify.mail_actor import ConfigureMail, MailActor, SendMail, compose, deliver_by_smtp
from holdfast.actors.notify.messages import MailState
from holdfast.actors.notify.notices import MailText
from holdfast.actors.runtime.actor import Mailroom
from holdfast.bus.fake import FakeBus

CONFIG = Mail(recipients=("ops@example.org", "night@example.org"), sender="lb@example.org", server="127.0.0.1")
TEXT = MailText("instance:VI_1", "[lb-1] VRRP Instance VI_1 - Entering MASTER state", "=> now owning <=")


class Server:
    """Speaks just enough SMTP. commands: what it heard; message: the last mail. refuse: answers 451 to MAIL."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.message = b""
        self.refuse = False

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def answer(text: str) -> None:
            writer.write(text.encode() + b"\r\n")

        answer("220 test")
        while line := await reader.readline():
            command = line.decode().strip()
            self.commands.append(command)
            match command.partition(" ")[0].upper():
                case "EHLO":
                    answer("502 not here")
                case "MAIL" if self.refuse:
                    answer("451 later")
                case "DATA":
                    answer("354 go on")
                    body = b""
                    while (part := await reader.readline()) != b".\r\n":
                        body += part
                    self.message = body
                    answer("250 taken")
                case "QUIT":
                    answer("221 bye")
                    break
                case _:
                    answer("250 fine")
        await writer.drain()
        writer.close()


async def test_the_dialogue_and_the_message() -> None:
    server = Server()
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        config = Mail(
            **{**{name: getattr(CONFIG, name) for name in Mail.__struct_fields__}, "port": port, "helo_name": "lb"}
        )
        await deliver_by_smtp(config, "lb@example.org", compose(config, TEXT, 0.0))
    heard = [command for command in server.commands if not command.startswith("EHLO")]
    assert heard == [
        "HELO lb",
        "MAIL FROM:<lb@example.org>",
        "RCPT TO:<ops@example.org>",
        "RCPT TO:<night@example.org>",
        "DATA",
        "QUIT",
    ]
    message = email.message_from_bytes(server.message, policy=email.policy.default)
    assert message["Subject"] == TEXT.subject
    assert (message["From"], message["To"]) == ("lb@example.org", "ops@example.org, night@example.org")
    assert message.get_content().splitlines() == ["=> now owning <="]
    assert message["Date"] is not None


def test_a_name_cannot_add_headers() -> None:
    text = MailText("t", "[lb] VRRP Instance a\r\nBcc: x@example.org - Stopping", "b")
    message = email.message_from_bytes(compose(CONFIG, text, 0.0), policy=email.policy.default)
    assert message["Bcc"] is None and "Bcc: x@example.org" in message["Subject"]


class Post:
    """Takes or refuses what is to be delivered."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.tries = 0
        self.refusals = 0

    async def deliver(self, _config: Mail, _sender: str, message: bytes) -> None:
        self.tries += 1
        if self.refusals:
            self.refusals -= 1
            raise ConnectionRefusedError("nobody")
        self.taken.append(message)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry comes at once."""
    monkeypatch.setattr(mail_actor, "RETRIES_AFTER_S", (0.0, 0.0, 0.0))


async def test_tries_again_a_few_times_and_says_what_is_given_up() -> None:
    Mailroom(asyncio.get_running_loop()).open()
    bus, post = FakeBus(), Post()
    actor = MailActor.start(bus=bus, loop=asyncio.get_running_loop(), deliver=post.deliver)
    actor.tell(ConfigureMail(CONFIG))
    post.refusals = 3
    actor.tell(SendMail(TEXT))
    await settle()
    assert (post.tries, len(post.taken)) == (4, 1)
    assert isinstance(state := bus.retained_event("notify/mail", "state"), MailState) and state.ok and state.sent == 1
    actor.tell(SendMail(TEXT))  # the same state is not mailed twice in a row
    await settle()
    assert post.tries == 4
    post.refusals = 4
    actor.tell(SendMail(MailText(TEXT.topic, "[lb-1] other", "x")))
    await settle()
    state = bus.retained_event("notify/mail", "state")
    assert isinstance(state, MailState) and not state.ok and state.dropped == 1
    assert state.problem == "ConnectionRefusedError: nobody"
    Mailroom.current().close()


async def test_a_hundred_mails_may_wait() -> None:
    Mailroom(asyncio.get_running_loop()).open()
    bus = FakeBus()
    gate = asyncio.Event()
    taken: list[bytes] = []

    async def deliver(_config: Mail, _sender: str, message: bytes) -> None:
        await gate.wait()
        taken.append(message)

    actor = MailActor.start(bus=bus, loop=asyncio.get_running_loop(), deliver=deliver)
    actor.tell(ConfigureMail(CONFIG))
    for number in range(500):
        actor.tell(SendMail(MailText("t", f"mail {number}", "x")))
    await settle()
    gate.set()
    for _ in range(200):
        await settle()
    assert len(taken) == 101  # the one under way and the newest hundred
    assert b"mail 499" in taken[-1] and b"mail 400" in taken[1]
    Mailroom.current().close()
