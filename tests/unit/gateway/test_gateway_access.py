"""Who may come in, and what is said about those who may not."""

from __future__ import annotations

import pytest

from holdfast.actors.gateway.access import OTHERS, REQUESTS_BURST, TOLD_MAX, AccessList, Budget, RefusalLog, Told
from holdfast.actors.gateway.messages import Refusal
from holdfast.actors.gateway.roles import is_private, may_command
from holdfast.actors.runtime.machine import Instant, seconds
from holdfast.bus import keys
from holdfast.config.settings import PeerSettings


def at(value: float) -> Instant:
    return Instant(seconds(value))


def peer(name: str, key: str, role: str = "viewer") -> PeerSettings:
    return PeerSettings(name=name, key=key, role=role)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("role", "subject", "allowed"),
    [
        ("operator", "vrrp", True),
        ("operator", "supervisor", True),
        ("viewer", "vrrp", False),
        ("viewer", "connsync/x", False),
        ("replica", "connsync", True),
        ("replica", "connsync/vs1", True),
        ("replica", "connsyncher", False),
        ("replica", "vrrp", False),
        ("worker", "vrrp", False),
        ("worker", "supervisor", False),
        ("", "vrrp", False),
        ("emperor", "vrrp", False),
    ],
)
def test_what_a_role_may_command(role: str, subject: str, allowed: bool) -> None:
    assert may_command(role, subject) is allowed


@pytest.mark.parametrize("role", ["viewer", "operator", "replica", "worker"])
def test_every_role_may_read_the_journal(role: str) -> None:
    assert may_command(role, "journal", "journal.read")
    assert not may_command("", "journal", "journal.read")
    assert may_command(role, "vrrp", "journal.read") is (role == "operator")


def test_slices_of_the_configuration_stay_at_home() -> None:
    assert is_private("lb1/slice/protocol,vrrp,room/data")
    assert is_private("lb1/slice/protocol/generation")
    assert not is_private("lb1/vrrp/VI_1/state")
    assert not is_private("lb1/vrrp/slice/state")
    assert not is_private("slice/vrrp/x/state"), "a node may be called slice"


def test_a_key_names_its_owner() -> None:
    access = AccessList([peer("a", "ka"), peer("b", "kb", "operator")])
    found = access.by_key("kb")
    assert found is not None and (found.name, found.role) == ("b", "operator")
    assert access.by_key("kc") is None
    assert access.by_name("a") is not None


def test_who_may_do_less_after_a_reload() -> None:
    before = AccessList([peer("same", "1"), peer("gone", "2"), peer("key", "3"), peer("role", "4", "operator")])
    after = AccessList([peer("same", "1"), peer("key", "5"), peer("role", "4", "viewer"), peer("new", "6")])
    assert before.lost(after) == {"gone", "key", "role"}


def test_a_budget_fills_again() -> None:
    budget = Budget(at(0))
    assert all(budget.take(at(0)) for _ in range(int(REQUESTS_BURST)))
    assert not budget.take(at(0))
    assert budget.take(at(0.01)), "two more after ten milliseconds"
    assert budget.take(at(0.01))
    assert not budget.take(at(0.01))


def test_a_budget_does_not_grow_without_limit() -> None:
    budget = Budget(at(0))
    assert sum(budget.take(at(3600)) for _ in range(1000)) == int(REQUESTS_BURST)


def test_a_flood_from_one_address_is_told_at_once_and_then_once_a_minute() -> None:
    log = RefusalLog()
    first = log.add("10.0.0.9", Refusal.KEY, at(0), text="key x")
    assert first == Told("10.0.0.9", Refusal.KEY, 1, "", "key x")
    assert [log.add("10.0.0.9", Refusal.KEY, at(second / 100)) for second in range(1000)] == [None] * 1000
    assert log.due(at(59)) == []
    assert [told.count for told in log.due(at(60))] == [1000]
    assert log.due(at(61)) == []
    assert log.counts == {"unknown-key": 1001}


def test_another_reason_or_address_is_told_at_once() -> None:
    log = RefusalLog()
    assert log.add("10.0.0.9", Refusal.KEY, at(0)) is not None
    assert log.add("10.0.0.9", Refusal.PLAIN, at(0)) is not None
    assert log.add("10.0.0.8", Refusal.KEY, at(0)) is not None


def test_a_flood_from_many_addresses_stays_small() -> None:
    log = RefusalLog()
    told = [log.add(f"10.{n >> 8}.{n & 255}.1", Refusal.KEY, at(0)) for n in range(TOLD_MAX * 3)]
    assert sum(each is not None for each in told) == TOLD_MAX + 1
    assert told[TOLD_MAX] == Told(OTHERS, Refusal.KEY, 1, "", "")
    assert log.counts == {"unknown-key": TOLD_MAX * 3}
    log.due(at(120))
    log.due(at(240))
    assert log.add("192.0.2.1", Refusal.KEY, at(241)) == Told("192.0.2.1", Refusal.KEY, 1, "", "")


def test_a_key_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("keys") / "deep" / "node.key"
    pair = keys.generate("lb1")
    keys.write(pair, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.read(path) == pair
    with pytest.raises(keys.KeyProblem, match="there already"):
        keys.write(keys.generate("lb1"), path)
    assert keys.read(path) == pair
    path.chmod(0o640)
    with pytest.raises(keys.KeyProblem, match="chmod 600"):
        keys.read(path)


@pytest.mark.parametrize("text", ["", "name = 1", "x", 'name="a"\npublic="b"\nsecret="c"\n', "\x00\xff"])
def test_what_is_no_key_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("keys") / "k"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(keys.KeyProblem):
        keys.read(path)


def test_halves_that_do_not_belong_together(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("keys") / "k"
    one, other = keys.generate("a"), keys.generate("b")
    keys.write(keys.KeyPair("a", one.public, other.secret), path)
    with pytest.raises(keys.KeyProblem, match="belong together"):
        keys.read(path)


def test_fingerprints_differ_and_stay() -> None:
    one, other = keys.generate("a"), keys.generate("b")
    assert keys.fingerprint(one.public) == keys.fingerprint(one.public) != keys.fingerprint(other.public)
    assert keys.fingerprint(one.public).startswith("SHA256:")
    assert len(keys.fingerprint(one.public)) == len("SHA256:") + 43
