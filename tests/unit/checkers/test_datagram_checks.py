"""UDP_CHECK, DNS_CHECK and PING_CHECK against servers on loopback."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest
from checks_lab import Lab, at, refused_port, udp_server
from hypothesis import given
from hypothesis import strategies as st

from holdfast.actors.checkers.base import Outcome, Verdict
from holdfast.actors.checkers.config import DnsCheck, PingCheck, UdpCheck
from holdfast.actors.checkers.dns import judge_answer, question_of
from holdfast.actors.checkers.ping import PingRange, echo_request, is_reply
from holdfast.actors.checkers.udp import DEFAULT_PAYLOAD, judge_reply

UDP = socket.SOCK_DGRAM


# UDP_CHECK


async def test_silence_is_success_unless_an_answer_is_required(tmp_path: Path):
    async with Lab(tmp_path) as lab, udp_server(lambda _: None) as (port, server):
        quiet = await lab.probe(UdpCheck(name="u", connection=at(port, timeout_s=0.1)))
        assert quiet.verdict is Verdict.OK
        assert server.received == [DEFAULT_PAYLOAD]
        required = await lab.probe(UdpCheck(name="u", connection=at(port, timeout_s=0.1), require_reply=True))
        assert required.verdict is Verdict.FAILED
        assert required.text.endswith("did not answer within 0.1 s")


async def test_port_unreachable_is_failure(tmp_path: Path):
    async with Lab(tmp_path) as lab:
        outcome = await lab.probe(UdpCheck(name="u", connection=at(refused_port(UDP))))
    assert outcome.verdict is Verdict.FAILED
    assert "refused" in outcome.text


async def test_payload_and_any_answer(tmp_path: Path):
    async with Lab(tmp_path) as lab, udp_server(lambda data: data[::-1]) as (port, server):
        check = UdpCheck(name="u", connection=at(port), payload=b"\x01\x02", require_reply=True)
        outcome = await lab.probe(check)
    assert outcome.verdict is Verdict.OK
    assert server.received == [b"\x01\x02"]


def test_default_payload():
    assert DEFAULT_PAYLOAD == b"keepalived check - keepalived ch"


@pytest.mark.parametrize(
    ("answer", "words", "good"),
    [
        (b"\x12\x34", {"reply": b"\x12\x34", "reply_mask": b"\xff\xff"}, True),
        (b"\x12\x35", {"reply": b"\x12\x34", "reply_mask": b"\xff\xff"}, False),
        (b"\x12\x3f", {"reply": b"\x12\x30", "reply_mask": b"\xff\xf0"}, True),  # 12 3x
        (b"\x12", {"reply": b"\x12\x34", "reply_mask": b"\xff\xff"}, True),  # compared as far as both go
        (b"\x12\x34\x56", {"reply": b"\x12\x34", "reply_mask": b"\xff\xff"}, True),
        (b"\x12", {"reply": b"\x12", "reply_mask": b"\xff", "min_reply_length": 2}, False),
        (b"\x12" * 9, {"reply": b"\x12", "reply_mask": b"\xff", "max_reply_length": 8}, False),
        (b"\x12" * 9, {"max_reply_length": 8}, True),  # limits count with a pattern only
        (b"", {"reply": b"\x12", "reply_mask": b"\xff"}, True),
    ],
)
def test_patterns(answer: bytes, words: dict[str, object], good: bool):
    check = UdpCheck(name="u", connection=at(7), require_reply=True, **words)  # type: ignore[arg-type]
    assert (judge_reply(check, answer).verdict is Verdict.OK) is good


# DNS_CHECK


def replying(rcode: int = dns.rcode.NOERROR, *, wrong_id: bool = False, question: bool = False) -> object:
    def answer(data: bytes) -> bytes:
        message = dns.message.make_response(dns.message.from_wire(data))
        message.set_rcode(dns.rcode.Rcode(rcode))
        if wrong_id:
            message.id ^= 0x5555
        if question:
            message.flags &= ~dns.flags.QR
        return bytes(message.to_wire())

    return answer


async def ask(tmp_path: Path, answer: object, **words: object) -> tuple[Outcome, list[bytes]]:
    async with Lab(tmp_path) as lab, udp_server(answer) as (port, server):  # type: ignore[arg-type]
        check = DnsCheck(name="d", connection=at(port, timeout_s=0.2), **words)  # type: ignore[arg-type]
        return await lab.probe(check), server.received


async def test_noerror_without_an_answer_is_good(tmp_path: Path):
    outcome, (question,) = await ask(tmp_path, replying())
    assert outcome.verdict is Verdict.OK
    message = dns.message.from_wire(question)
    assert message.question[0].to_text() == ". IN SOA"
    assert message.flags == dns.flags.RD
    assert message.edns == -1


@pytest.mark.parametrize("kind", ["A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA", "RRSIG", "DNSKEY"])
async def test_types_and_names(tmp_path: Path, kind: str):
    outcome, (question,) = await ask(tmp_path, replying(), query_type=kind, query_name="www.example.org")
    assert outcome.verdict is Verdict.OK
    assert dns.message.from_wire(question).question[0].to_text() == f"www.example.org. IN {kind}"


@pytest.mark.parametrize("rcode", [dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL, dns.rcode.REFUSED])
async def test_error_codes_fail(tmp_path: Path, rcode: dns.rcode.Rcode):
    outcome, _ = await ask(tmp_path, replying(rcode))
    assert outcome.verdict is Verdict.FAILED
    assert outcome.text.endswith(f"answered {rcode.name}")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (replying(wrong_id=True), "did not answer within 0.2 s"),
        (replying(question=True), "sent a question instead of an answer"),
        (lambda data: data[:5], "answer of 5 bytes is no DNS message"),
        (lambda data: data[:2] + b"\x80\x00\x00\x09" + data[6:12], "is no DNS message"),
        (lambda _: None, "did not answer within 0.2 s"),
        (lambda _: [b"\xff" * 40] * 100, "more than 64 datagrams that do not fit"),
    ],
)
async def test_bad_answers(tmp_path: Path, answer: object, words: str):
    outcome, _ = await ask(tmp_path, answer)
    assert outcome.verdict is Verdict.FAILED
    assert words in outcome.text


async def test_a_late_answer_to_another_question_is_passed_over(tmp_path: Path):
    good = replying()
    wrong = replying(wrong_id=True)
    outcome, _ = await ask(tmp_path, lambda data: [wrong(data), good(data)])  # type: ignore[operator]
    assert outcome.verdict is Verdict.OK


async def test_dns_refused(tmp_path: Path):
    async with Lab(tmp_path) as lab:
        outcome = await lab.probe(DnsCheck(name="d", connection=at(refused_port(UDP))))
    assert outcome.verdict is Verdict.FAILED


async def test_ids_are_not_guessable(tmp_path: Path):
    ids = set()
    for _ in range(6):
        _, (question,) = await ask(tmp_path, replying())
        ids.add(question[:2])
    assert len(ids) > 1


async def test_a_name_that_is_none_is_no_failure(tmp_path: Path):
    outcome, received = await ask(tmp_path, replying(), query_name="a..b")
    assert outcome.verdict is Verdict.NOT_RUN
    assert received == []


@given(st.binary(max_size=120))
def test_any_bytes_are_judged(answer: bytes):
    outcome = judge_answer(answer, 0x1234, "x")
    assert outcome is None or outcome.verdict in (Verdict.OK, Verdict.FAILED)


def test_question_bytes():
    assert question_of(DnsCheck(name="d", connection=at(53))) == bytes.fromhex("000001000001000000000000 0000060001")


# PING_CHECK


def may_ping() -> bool:
    low, high = (int(word) for word in Path("/proc/sys/net/ipv4/ping_group_range").read_text().split())
    return low <= os.getegid() <= high


async def test_echo_answered(tmp_path: Path):
    before = Path("/proc/sys/net/ipv4/ping_group_range").read_text()
    async with Lab(tmp_path) as lab:
        good = await lab.probe(PingCheck(name="p", connection=at(0)))
        good6 = await lab.probe(PingCheck(name="p", connection=at(0, "::1")))
        wanted = Verdict.OK if may_ping() else Verdict.NOT_RUN
        assert (good.verdict, good6.verdict) == (wanted, wanted)
        PingRange(tmp_path).restore()
    assert Path("/proc/sys/net/ipv4/ping_group_range").read_text() == before


async def test_no_way_to_ping_there(tmp_path: Path):
    async with Lab(tmp_path) as lab:
        outcome = await lab.probe(PingCheck(name="p", connection=at(0, "240.0.0.1", timeout_s=0.1)))
        assert outcome.verdict is (Verdict.FAILED if may_ping() else Verdict.NOT_RUN)
        PingRange(tmp_path).restore()


@given(st.integers(0, 65535), st.sampled_from([socket.AF_INET, socket.AF_INET6]))
def test_echo_bytes(sequence: int, family: int):
    request = echo_request(family, sequence)
    assert len(request) == 8 + 128
    assert not is_reply(family, sequence, request)
    reply = bytes([0 if family == socket.AF_INET else 129]) + request[1:]
    assert is_reply(family, sequence, reply)
    assert not is_reply(family, sequence ^ 1, reply)


@given(st.binary(max_size=40))
def test_any_packet_is_a_reply_or_none(packet: bytes):
    assert is_reply(socket.AF_INET, 1, packet) in (True, False)


def test_ping_range_is_widened_and_put_back(tmp_path: Path):
    sysctl = tmp_path / "ping_group_range_sysctl"
    sysctl.write_text("1\t0\n")
    PingRange(tmp_path, sysctl).widen()
    assert sysctl.read_text() == f"{os.getegid()} {os.getegid()}"
    # After a crash the successor knows what was there.
    successor = PingRange(tmp_path, sysctl)
    successor.widen()
    successor.restore()
    assert sysctl.read_text() == "1\t0\n"
    successor.restore()


def test_a_range_that_has_us_is_left_alone(tmp_path: Path):
    sysctl = tmp_path / "ping_group_range_sysctl"
    sysctl.write_text("0 2147483647")
    keeper = PingRange(tmp_path, sysctl)
    keeper.widen()
    keeper.restore()
    assert sysctl.read_text() == "0 2147483647"
