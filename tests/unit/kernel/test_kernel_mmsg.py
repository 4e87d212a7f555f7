"""sendmmsg and recvmmsg over a pair of local datagram sockets."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from holdfast.kernel.base import KernelError
from holdfast.kernel.mmsg import MessageRing, control_message, control_messages

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    yield a, b
    a.close()
    b.close()


def test_what_is_sent_arrives_in_order(pair: Pair) -> None:
    a, b = pair
    out, into = MessageRing(8, 100), MessageRing(16, 100)
    sent = [bytes((number,)) * (number * 12 + 1) for number in range(8)]
    for slot, data in enumerate(sent):
        out.load(slot, data)
    assert out.send(a.fileno(), 0, 8) == []
    count = into.receive(b.fileno())
    assert [bytes(into.payload(slot)) for slot in range(count)] == sent
    assert into.lengths(count) == [len(data) for data in sent]
    assert into.receive(b.fileno()) == 0
    assert into.lengths(0) == []


def test_a_part_of_a_ring(pair: Pair) -> None:
    a, b = pair
    ring = MessageRing(4, 8)
    for slot in range(4):
        ring.load(slot, bytes((slot,)))
    assert ring.send(a.fileno(), 1, 2) == []
    assert ring.send(a.fileno(), 1, 0) == []
    into = MessageRing(4, 8)
    assert [bytes(into.payload(slot)) for slot in range(into.receive(b.fileno()))] == [b"\x01", b"\x02"]


def test_a_ring_is_as_good_as_new_after_each_receive(pair: Pair) -> None:
    """The kernel writes lengths into the headers: they are put back before the next call."""
    a, b = pair
    into = MessageRing(2, 64, name_bytes=28, control_bytes=64)
    for data in (b"short", b"x" * 60, b"again"):
        a.send(data)
        assert into.receive(b.fileno()) == 1
        assert bytes(into.payload(0)) == data
        assert len(into.control(0)) == 0
    a.send(b"y" * 65)
    into.receive(b.fileno())
    assert into.truncated(0)


def test_one_that_is_refused_does_not_hold_up_the_others() -> None:
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    port = receiver.getsockname()[1]
    good = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton("127.0.0.1") + bytes(8)
    bad = struct.pack("=H", 99) + good[2:]
    ring = MessageRing(5, 8, name_bytes=16)
    for slot, name in enumerate((bad, good, bad, bad, good)):
        ring.load(slot, bytes((slot,)), name)
    failed = ring.send(sender.fileno(), 0, 5)
    assert [slot for slot, _ in failed] == [0, 2, 3]
    assert {number for _, number in failed} <= {errno.EAFNOSUPPORT, errno.EINVAL}
    into = MessageRing(8, 8, name_bytes=16)
    count = into.receive(receiver.fileno())
    assert [into.payload(slot)[0] for slot in range(count)] == [1, 4]
    assert bytes(into.name(0)[4:8]) == socket.inet_aton("127.0.0.1")
    receiver.close()
    sender.close()


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(KernelError) as caught:
        MessageRing(1, 8).load(0, bytes(9))
    assert caught.value.errno == errno.EMSGSIZE
    with pytest.raises(KernelError):
        MessageRing(1, 8).receive(-1)


def test_ancillary_data_there_and_back() -> None:
    data = control_message(41, 50, b"abcde") + control_message(41, 52, struct.pack("=i", 255))
    found = control_messages(memoryview(data))
    assert bytes(found[41, 50]) == b"abcde"
    assert bytes(found[41, 52]) == struct.pack("=i", 255)
    assert control_messages(memoryview(data[:20])) == {}
    assert control_messages(memoryview(b"")) == {}
