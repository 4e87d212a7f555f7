"""Connection sync between two whole directors, over CURVE, with the real kernel: what an operator is promised."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from directors import Directors

pytestmark = [pytest.mark.uml, pytest.mark.timeout(400)]

CONNECTIONS = 1000


@pytest.fixture
def pair() -> Iterator[Directors]:
    with Directors() as found:
        yield found


def _everything_goes_on(pair: Directors, since: list[int]) -> None:
    """Each connection has been answered again, and none has broken."""
    try:
        pair.until(
            lambda: (
                all(now >= before + 2 for now, before in zip(pair.crowd.rounds(), since, strict=True))
                or pair.crowd.errors()
            ),
            "data in every connection",
            60,
        )
    finally:
        broken = pair.crowd.errors()
        print(f"{len(broken)} of {len(since)} broke", broken[:3])
    assert broken == []


class Watch:
    """Says when what happened, for whoever reads the output."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def __call__(self, text: object) -> None:
        print(f"{time.monotonic() - self.started:7.1f} s  {text}", flush=True)


def test_a_thousand_connections_outlive_each_director_in_turn(pair: Directors) -> None:
    say = Watch()
    first, second = pair.master, pair.backup
    pair.until(lambda: first.peer().get("phase") == "following", "the backup follows")
    pair.crowd.begin(CONNECTIONS)
    pair.until(lambda: all(rounds >= 2 for rounds in pair.crowd.rounds()), "all talk", 120)
    pair.until(lambda: len(second.connections()) >= CONNECTIONS, "the backup has all connections")
    assert all(words[8] == "SYNC" for words in second.connections())

    say(f"{CONNECTIONS} connections on both: {first.peer()}")

    # The master dies with its host.
    first.die()
    since = pair.crowd.rounds()
    pair.until(second.is_master, "the backup takes over")
    _everything_goes_on(pair, since)

    say("all go on over the second")

    # It comes back with nothing, and gets everything.
    first.boot()
    pair.until(lambda: len(first.connections()) >= CONNECTIONS, "the newcomer has all connections", 60)
    pair.until(lambda: second.peer().get("phase") == "following", "the newcomer follows")
    assert second.peer()["lacking"] == 0
    assert not first.is_master()

    say(f"all are on the newcomer: {second.peer()}")

    # Then the other one dies.
    second.die()
    since = pair.crowd.rounds()
    pair.until(first.is_master, "it takes back")
    _everything_goes_on(pair, since)
    say("all go on over the first again")
