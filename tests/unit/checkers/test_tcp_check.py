"""TCP_CHECK and the options that all checks with a socket have, against servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from pathlib import Path

import pytest
from checks_lab import Lab, at, full_port, refused_port, silent, tcp_server

from holdfast.actors.checkers.base import Verdict
from holdfast.actors.checkers.config import Connection, TcpCheck
from holdfast.actors.checkers.sockets import failure, socket_address


def tcp(connection: Connection) -> TcpCheck:
    return TcpCheck(name="t", connection=connection)


async def test_a_listening_port_is_good(tmp_path: Path):
    async with Lab(tmp_path) as lab, tcp_server(silent) as port:
        outcome = await lab.probe(tcp(at(port)))
    assert outcome.verdict is Verdict.OK
    assert outcome.text == f"127.0.0.1:{port} accepted the connection"


async def test_ipv6(tmp_path: Path):
    async with Lab(tmp_path) as lab, tcp_server(silent, "::1") as port:
        good = await lab.probe(tcp(at(port, "::1")))
        bad = await lab.probe(tcp(at(refused_port(address="::1"), "::1")))
    assert good.text == f"[::1]:{port} accepted the connection"
    assert bad.verdict is Verdict.FAILED


async def test_refused(tmp_path: Path):
    async with Lab(tmp_path) as lab:
        outcome = await lab.probe(tcp(at(refused_port())))
    assert outcome.verdict is Verdict.FAILED
    assert "refused the connection" in outcome.text
    assert outcome.detail["errno"] == errno.ECONNREFUSED


async def test_silent(tmp_path: Path):
    with full_port() as port:
        async with Lab(tmp_path) as lab:
            outcome = await lab.probe(tcp(at(port, timeout_s=0.1)))
    assert outcome.verdict is Verdict.FAILED
    assert outcome.text == f"127.0.0.1:{port} did not accept the connection within 0.1 s"


async def test_the_connection_is_closed_normally(tmp_path: Path):
    ends: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.put_nowait(await reader.read(100))  # a reset would raise

    async with Lab(tmp_path) as lab, tcp_server(serve) as port:
        await lab.probe(tcp(at(port)))
        assert await asyncio.wait_for(ends.get(), 5) == b""


async def test_bindto_bind_port_and_bind_if(tmp_path: Path):
    peers: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.put_nowait(writer.get_extra_info("peername"))
        await reader.read(1)

    source = refused_port()
    async with Lab(tmp_path) as lab, tcp_server(serve) as port:
        await lab.probe(tcp(at(port, bind_address="127.0.0.7")))
        assert (await peers.get())[0] == "127.0.0.7"
        await lab.probe(tcp(at(port, bind_address="127.0.0.7", bind_port=source)))
        assert await peers.get() == ("127.0.0.7", source)
        await lab.probe(tcp(at(port, bind_port=source)))
        assert await peers.get() == ("127.0.0.1", source)
        if os.geteuid() == 0:
            outcome = await lab.probe(tcp(at(port, bind_interface="lo", fwmark=7)))
            assert outcome.verdict is Verdict.OK


@pytest.mark.parametrize(
    "words",
    [
        {"bind_address": "192.0.2.99"},
        {"bind_interface": "nosuch0"},
        {"bind_address": "fe80::1%nosuch0"},
    ],
)
async def test_what_keeps_us_from_looking_is_no_failure(tmp_path: Path, words: dict[str, str]):
    async with Lab(tmp_path) as lab, tcp_server(silent) as port:
        outcome = await lab.probe(tcp(at(port, **words)))
    assert outcome.verdict is Verdict.NOT_RUN
    assert outcome.text


async def test_no_descriptor_left_is_no_failure(tmp_path: Path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with Lab(tmp_path) as lab, tcp_server(silent) as port:
        with contextlib.ExitStack() as stack:
            highest = stack.enter_context(socket.socket()).fileno()
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
            with contextlib.suppress(OSError):
                while True:
                    stack.enter_context(socket.socket())
            outcome = await lab.probe(tcp(at(port)))
    assert (outcome.verdict, outcome.errno) == (Verdict.NOT_RUN, errno.EMFILE)


async def test_cancelled_probe_says_nothing(tmp_path: Path):
    async with Lab(tmp_path) as lab:
        with full_port() as port:
            said: list[object] = []
            from holdfast.actors.checkers.tcp import TcpProbe

            probe = TcpProbe(lab.poller, at(port), said.append)
            probe.begin()
            assert len(lab.poller) == 1
            probe.cancel()
            probe.cancel()
            assert len(lab.poller) == 0
            assert len(lab.timers) == 0
            assert said == []


async def test_what_arrived_while_we_stood_still_counts(tmp_path: Path):
    """A cell that was stopped for longer than connect_timeout hears the answer before it believes the time-out."""
    import time

    async with Lab(tmp_path) as lab, tcp_server(silent) as port:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        from holdfast.actors.checkers.tcp import TcpProbe

        TcpProbe(lab.poller, at(port, timeout_s=0.05), future.set_result).begin()
        time.sleep(0.2)
        lab.timers.fire()
        outcome = await future
    assert outcome.verdict is Verdict.OK  # type: ignore[attr-defined]


async def test_a_thousand_silent_servers_do_not_delay_a_live_one(tmp_path: Path):
    from holdfast.actors.checkers.tcp import TcpProbe

    async with Lab(tmp_path) as lab, tcp_server(silent) as live:
        with full_port() as dead:
            probes = [TcpProbe(lab.poller, at(dead), lambda _: None) for _ in range(400)]
            for probe in probes:
                probe.begin()
            loop = asyncio.get_running_loop()
            started = loop.time()
            for _ in range(20):
                outcome = await lab_probe_with_others(lab, tcp(at(live)))
                assert outcome.verdict is Verdict.OK  # type: ignore[attr-defined]
            assert loop.time() - started < 2.0
            for probe in probes:
                probe.cancel()


async def lab_probe_with_others(lab: Lab, spec: TcpCheck) -> object:
    from holdfast.actors.checkers.tcp import TcpProbe

    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    TcpProbe(lab.poller, spec.connection, future.set_result).begin()
    return await asyncio.wait_for(future, 5)


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT])
def test_errors_of_the_way_to_the_server_count(number: int):
    outcome = failure(number, at(80))
    assert outcome.verdict is Verdict.FAILED
    assert outcome.text.startswith("127.0.0.1:80 ")


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EACCES, errno.EINVAL, errno.ENOBUFS])
def test_errors_of_ours_do_not_count(number: int):
    assert failure(number, at(80)).verdict is Verdict.NOT_RUN


def test_link_local_targets_need_their_interface():
    there = at(80, "fe80::1", bind_interface="lo")
    assert socket_address(there) == ("fe80::1", 80, 0, socket.if_nametoindex("lo"))
    with pytest.raises(OSError, match=r"nosuch0|No such|interface"):
        socket_address(at(80, "fe80::1", bind_interface="nosuch0"))
