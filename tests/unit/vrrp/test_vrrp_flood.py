"""Wrong packets at full rate: counted by kind, no transition, no growth, adverts on time."""

from __future__ import annotations

import random
import sys

import pytest
from vrrp_words import instance, master, tell

from holdfast.actors.runtime.machine import Deadline, Instant, S
from holdfast.actors.vrrp.config import GarpTiming
from holdfast.actors.vrrp.facts import AdvertRejected
from holdfast.actors.vrrp.packet import AdvertTemplate, PacketError, Reject
from holdfast.actors.vrrp.validation import Expectation, split_ipv4

PACKETS = 30_000
EVERY_NS = 200_000
SAMPLES = {
    "v3": {"version": 3},
    "v2 PASS": {"version": 2, "auth_type": "pass", "auth_pass": b"secret"},
}


def mutated(sample: bytes, rng: random.Random) -> bytes:
    """A packet with a few other bytes, cut, padded, or nothing but noise."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(80))
    data = bytearray(sample)
    for _ in range(rng.randrange(1, 5)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    if kind == 1:
        return bytes(data[: rng.randrange(len(data))])
    if kind == 2:
        return bytes(data) + rng.randbytes(rng.randrange(1, 40))
    return bytes(data)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_flood_of_wrong_packets_moves_nothing(name: str, request: pytest.FixtureRequest) -> None:
    fields = {**SAMPLES[name], "advert_interval_us": 1_000_000}
    rng = random.Random(request.config.getoption("--seed") or 5)
    sample = bytes(AdvertTemplate(instance(**{**fields, "priority": 50}), "192.0.2.1").patch(50)[0])
    expectation = Expectation(instance(**fields))
    m = master(garp=GarpTiming(master_delay_us=0, lower_prio_repeat=0), **fields)
    machine = m.machine
    start = m.now
    sent: list[Instant] = []
    refused = 0
    counted = 0
    sizes: list[int] = []
    for number in range(PACKETS):
        now = Instant(start + number * EVERY_NS)
        while machine.deadline is not None and machine.deadline <= now:
            at = machine.deadline
            assert next(tell(action) for action in machine.step(Deadline(), at)) == "advert 100"
            sent.append(at)
        try:
            verdict = expectation.validate(split_ipv4(mutated(sample, rng)), machine.priority)
        except PacketError as error:
            refused += 1
            machine.step(AdvertRejected(error.reject, f"192.0.2.{number % 256}"), now)
        else:
            # A mutation of what nobody looks at (TOS, flags, id): an advert of priority 50, answered as such.
            counted += 1
            assert verdict.advert.priority == 50
        if number % 1000 == 0:
            sizes.append(sum(sys.getsizeof(getattr(machine, slot)) for slot in ("_told", "_tracking", "statistics")))
    assert machine.state == "MASTER"
    assert sent == [start + n * S for n in range(1, 6)]
    kinds = {kind: getattr(machine.statistics, kind.value) for kind in Reject}
    assert sum(kinds.values()) == refused
    assert refused + counted == PACKETS
    assert counted < PACKETS // 10
    for kind in (Reject.LENGTH, Reject.TTL, Reject.VERSION, Reject.CHECKSUM):
        assert kinds[kind] > 10, kinds
    assert sizes[-1] <= sizes[1]
